"""A caption as text: cleaned, cut into words, and what is doubtful about it."""

from __future__ import annotations

from core.text import words_of

_REPEATED_WORDS = 5
"""As many words twice in one caption are a loop; four ("a man in a") can be honest."""

_LEADING_JUNK = " \t\r\n-–—_.,;:!?*#|/\\)]}>\"'`’”"
_TRAILING_JUNK = " \t\r\n-–—_,;:*#|/\\([{<\"'`‘“"


def clean_caption(text: str) -> str:
    """Collapse whitespace and drop punctuation that leads, or dangles at the end."""
    return " ".join(text.split()).lstrip(_LEADING_JUNK).rstrip(_TRAILING_JUNK)


def caption_flags(text: str, prompt: str) -> tuple[str, ...]:
    """Return the doubts about a cleaned caption: ``empty``, ``prompt_echo``, ``repetition``."""
    words = words_of(text)
    if not words:
        return ("empty",)
    flags = []
    asked = words_of(prompt)
    if asked and words[: len(asked)] == asked:
        flags.append("prompt_echo")
    if _repeats(words):
        flags.append("repetition")
    return tuple(flags)


def _repeats(words: tuple[str, ...]) -> bool:
    """Tell whether an n-gram follows itself at once, or a longer one comes back later."""
    for size in range(1, len(words) // 2 + 1):
        for start in range(len(words) - 2 * size + 1):
            if words[start : start + size] == words[start + size : start + 2 * size]:
                return True
    grams = [
        words[start : start + _REPEATED_WORDS] for start in range(len(words) - _REPEATED_WORDS + 1)
    ]
    return len(set(grams)) < len(grams)
