"""Queries in other languages, or of no words, are told; English ones almost never."""

from __future__ import annotations

import pytest

from core.search.query_language.foreign import is_foreign, reading_note
from precompute.calibrate.match import OTHER_LANGUAGES, as_typed
from precompute.sources.pairs import load_pairs

FOREIGN = (
    *("un perro corre en la playa", "dos niños jugando en la calle", "una taza de café"),
    *("coche rojo", "una mujer con sombrero", "gatos durmiendo en el sofá", "puesta de sol"),
    *("ein Hund rennt am Strand", "eine rote Straßenbahn", "zwei Kinder spielen im Schnee"),
    *("Mann mit Hut", "roter Bus", "Sonnenuntergang am Meer", "Kinder auf der Schaukel"),
    *("un chat sur un canapé", "des gens qui mangent", "une voiture garée dans la rue"),
    *("un chien dans la neige", "coucher de soleil", "bus rouge", "enfants à la plage"),
    *("犬が走っている", "赤いバス", "海辺の子供たち", "كلب على الشاطئ", "حافلة حمراء"),
    *("طفلان يلعبان في الثلج", "समुद्र तट पर कुत्ता", "लाल बस", "दो बच्चे खेल रहे हैं"),
    *("собака бежит по снегу", "кот на диване", "海滩上的两个孩子", "一辆红色公共汽车"),
    *("해변의 개", "빨간 버스", "um homem andando de bicicleta", "crianças na praia"),
    *("un cane sulla spiaggia", "due bambini giocano nella neve", "kobieta czyta książkę"),
    *("een hond op het strand", "två barn leker i snön", "kırmızı otobüs"),
    *("σκύλος στην παραλία", "כלב על החוף"),
)


def test_most_queries_in_other_languages_are_told():
    asked = {*FOREIGN, *OTHER_LANGUAGES}
    missed = [query for query in asked if not is_foreign(query)]
    assert len(missed) / len(asked) <= 0.1, missed


@pytest.mark.parametrize(
    "query",
    ["", "🐕", "a café in Paris", "jalapeño pizza", "Las Vegas at night", "dachshund", "NYC"],
)
def test_names_and_borrowed_words_are_english(query):
    assert not is_foreign(query)


def test_what_the_models_cannot_read_is_told_in_a_sentence():
    for query in ("🐕", "🚀 🚀", "?!", "❤️"):
        assert "read words only" in reading_note(query), query
    for query in ("赤いバス", "ein Hund rennt am Strand"):
        assert "English only" in reading_note(query), query
    for query in ("", "a dog 🐕", "7", "NYC"):
        assert reading_note(query) == "", query


def test_captions_and_what_visitors_type_of_them_almost_never_are(shared_data):
    pairs = load_pairs(str(shared_data / "coco_cc"), None)
    captions = [caption for own in pairs.captions for caption in own]
    asked = [*captions, *map(as_typed, captions)]
    told = [query for query in asked if is_foreign(query)]
    assert len(asked) > 1000
    assert len(told) / len(asked) < 0.005, told
