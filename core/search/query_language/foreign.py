"""Whether the models can read a query: English words are all that they know.

Of another language it says so only when it is sure: most letters are of another script, or the
words are function words of another language, or accented, and none is a common word of English.
"""

from __future__ import annotations

import re
import unicodedata

_LETTERS = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENGLISH = _word_set(
    "the a an and or of with without on in at to from by for near next under over behind "
    "between is are was were be being has have it its this that these those there their "
    "his her my your our some someone somebody something anything people person man men "
    "woman women child children kid kids boy girl dog dogs cat cats car cars red blue "
    "green yellow white black brown big small old young two three four many into onto up "
    "down out off while who what where not no"
)
"""Words that settle that a query is English."""

_OTHERS: dict[str, frozenset[str]] = {
    "Spanish": _word_set(
        "el la los las un una unos unas y del con sin sobre entre por para que en de su "
        "sus al es está niño niña niños mujer hombre perro gato calle playa rojo roja "
        "azul blanco"
    ),
    "Portuguese": _word_set(
        "o os um uma uns umas e do da dos das no na nos nas com sem em de por para que ao "
        "é está homem mulher cachorro gato criança rua praia vermelho vermelha preto "
        "branco"
    ),
    "French": _word_set(
        "le la les un une des du de et avec sans sur dans sous chez pour par qui que en "
        "au aux est sont homme femme chien chat enfant enfants rue plage rouge bleu bleue "
        "noire"
    ),
    "German": _word_set(
        "der die das den dem des ein eine einen einem einer und mit ohne auf im am an in "
        "bei von zum zur über unter neben zwischen für ist sind mann frau hund katze kind "
        "kinder rote roter rotes blau blaue grün grüne schwarze weiß meer"
    ),
    "Italian": _word_set(
        "il lo la gli le un uno una e del della dei degli delle con senza su nel nella "
        "sulla sul di da per che è sono uomo donna cane gatto bambino bambini strada "
        "spiaggia rosso rossa"
    ),
    "Dutch": _word_set(
        "de het een en van met zonder op in bij onder naast voor aan zijn is man vrouw "
        "hond kat kind kinderen straat strand"
    ),
    "Polish": _word_set(
        "i w na z ze do pod nad przy bez dla jest są się kobieta mężczyzna pies kot "
        "dziecko dzieci czyta ulica"
    ),
    "Turkish": _word_set(
        "bir ve ile için bu üzerinde altında yanında adam kadın köpek kedi çocuk çocuklar "
        "sokakta kırmızı mavi siyah"
    ),
    "Swedish": _word_set(
        "en ett och på med utan i av för till under över är som man kvinna hund katt barn"
    ),
    "Indonesian": _word_set(
        "di dan yang dengan tanpa pada untuk seorang sebuah dua orang anjing kucing anak"
    ),
    "Vietnamese": _word_set("một những và trên với không của cho là đang người con chó mèo"),
}
_AMBIGUOUS = _word_set(
    "a i an am as at be by do die den des du en es in is la le los las man no on or pies "
    "con per me te van ze se son sur for from het hat was war a o e y z w bin pan rue "
    "cane bei due gold chat sans barn bad bir anda plus under over kind rouge meer para "
    "un"
)
"""Words of other languages that are names, or words of English, too: they settle nothing alone."""
_SUPPORTING = frozenset().union(*_OTHERS.values())
_SETTLING = _SUPPORTING - _AMBIGUOUS

_COMMON_ACCENTS = _word_set("café cafés fiancée fiancé résumé naïve jalapeño piñata crêpe crêpes")

_FOREIGN = "The models know English only; this looks like another language, so little may fit."
_NO_WORDS = "The models read words only; there are none here, so what is found means nothing."


def reading_note(query: str) -> str:
    """Return one sentence if the models cannot read a query, or "".

    Args:
        query: Its words, normalised.
    """
    if query and not any(character.isalnum() for character in query):
        return _NO_WORDS
    return _FOREIGN if is_foreign(query) else ""


def is_foreign(query: str) -> bool:
    """Tell whether a query is surely not English.

    Args:
        query: Its words, normalised.
    """
    words = [word.lower() for word in _LETTERS.findall(query)]
    if not words:
        return False
    letters = "".join(words)
    if not letters.isascii():
        latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
        if 2 * latin < len(letters):
            return True
    if any(word in _ENGLISH and word not in _SUPPORTING for word in words):
        return False
    settling = any(word in _SETTLING for word in words)
    supporting = any(word in _SUPPORTING for word in words)
    accented = any(not word.isascii() and word not in _COMMON_ACCENTS for word in words)
    return settling or (accented and supporting)
