"""Text from outside, made fit to search, to store and to show, in a time linear in its length."""

from __future__ import annotations

import re
import unicodedata

_LONGEST_RUN = 30
"""Combining marks on one letter, as in the Stream-Safe Text Format of Unicode (UAX #15)."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def composed(text: str) -> str:
    """Return the NFC form of a text, of whose combining marks at most 30 follow each other.

    Marks are sorted to be composed, in a time that grows with the square of how many there are in
    a row; no script needs as many as are kept.
    """
    if text.isascii():
        return text
    kept, run = [], 0
    for character in text:
        decomposed = unicodedata.normalize("NFD", character)
        bare = decomposed.rstrip("".join(filter(unicodedata.combining, decomposed)))
        run = len(decomposed) - len(bare) + (0 if bare else run)
        if bare or run <= _LONGEST_RUN:
            kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


def one_line(text: str) -> str:
    """Return a text as one line that every tokenizer and encoding takes, composed (Unicode NFC).

    Control characters and lone surrogates become spaces, and runs of whitespace one space, so that
    the same letters typed on two keyboards are the same text. Joiners inside emoji stay.
    """
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    spaced = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return composed(" ".join(spaced.split()))


def whole_characters(text: str) -> str:
    """Return a text, such as a file's name, of which every half of a character is U+FFFD.

    Python keeps bytes of a file's name that are no text as such halves, which UTF-8 cannot write.
    Two halves side by side become the character that they are.
    """
    if text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case: equal for texts that read the same."""
    return tuple(_WORD.findall(text.lower()))


def has_content(text: str) -> bool:
    """Tell whether there is anything to see in a text."""
    return any(unicodedata.category(c) not in ("Cf", "Zs") for c in text)
