"""Queries and relevance from references, TREC files and Flickr8k's judgements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import SourceError
from precompute.evaluate.qrels import from_flickr8k_judgements, from_references, from_trec
from tests.core.planted import records


def named(*names: str, **changes):
    return [
        replace(record, file_name=name, **changes)
        for record, name in zip(records(len(names)), names, strict=True)
    ]


def test_every_reference_asks_for_its_own_picture():
    pictures = records(4)  # the odd ones have two references each
    found = from_references(pictures, captions_given=False)
    assert [(query.text, dict(query.relevant), query.cluster) for query in found.queries] == [
        ("first reference 1", {1: 1}, 1),
        ("second", {1: 1}, 1),
        ("first reference 3", {3: 1}, 3),
        ("second", {3: 1}, 3),
    ]
    assert len({query.id for query in found.queries}) == 4
    assert not found.several_relevant


def test_references_kept_as_lines_of_one_text_are_several_queries():
    found = from_references(
        named("a.jpg", references=("one dog \n\n two dogs\n",)), captions_given=False
    )
    assert [query.text for query in found.queries] == ["one dog", "two dogs"]


def test_an_indexed_caption_is_not_asked_for():
    pictures = named("a.jpg", "b.jpg", references=("A dog. ", "a cat"), caption="A dog.")
    assert len(from_references(pictures, captions_given=False).queries) == 4
    given = from_references(pictures, captions_given=True)
    assert [query.text for query in given.queries] == ["a cat", "a cat"]
    assert any("2 queries that are such a caption" in note for note in given.notes)


@pytest.mark.parametrize("references", [(), ("", "  \n ")])
def test_no_references_says_how_to_get_some(references):
    with pytest.raises(SourceError, match="no reference captions.*--caption-column"):
        from_references(named("a.jpg", references=references), captions_given=False)


def test_queries_are_cleaned_as_those_of_visitors_are(tmp_path):
    pictures = named("a.jpg", references=("so cute \ud83d", "\u200b"))
    (query,) = from_references(pictures, captions_given=False).queries
    assert query.text == "so cute"
    (tmp_path / "queries").write_text("\ufeff1\ta\u2028red\x00 dog\r\n", encoding="utf-8")
    (tmp_path / "qrels").write_text("\ufeff1 0 a.jpg 1\r\n", encoding="utf-8")
    (query,) = from_trec(tmp_path / "qrels", tmp_path / "queries", pictures).queries
    assert (query.id, query.text) == ("1", "a red dog")


def test_a_picture_is_found_in_qrels_in_either_unicode_form(tmp_path):
    (tmp_path / "queries").write_text("1\ta cup\n", encoding="utf-8")
    (tmp_path / "qrels").write_text("1 0 caf\xe9.jpg 1\n", encoding="utf-8")
    pictures = named("cafe\u0301.jpg")
    (query,) = from_trec(tmp_path / "qrels", tmp_path / "queries", pictures).queries
    assert dict(query.relevant) == {0: 1}


def test_references_that_are_not_text():
    with pytest.raises(SourceError, match=r"references of a\.jpg are not text but int"):
        from_references(named("a.jpg", references=(7,)), captions_given=False)


@pytest.fixture
def trec(tmp_path):
    def write(qrels: str, queries: str):
        (tmp_path / "qrels.txt").write_text(qrels)
        (tmp_path / "queries.tsv").write_text(queries)
        return from_trec(
            tmp_path / "qrels.txt", tmp_path / "queries.tsv", named("in/a.jpg", "b.jpg", "c.jpg")
        )

    return write


def test_trec_files_name_pictures_by_id_or_file_name(trec):
    second = records(3)[1].id
    found = trec(
        f"q1 0 a.jpg 2\nq1 0 {second} 1\nq1 0 c.jpg 0\n\nq2 0 c.jpg 1\nq3 0 c.jpg 0\n",
        "q1\ta dog\nq2\ta cat\nq3\tnothing\n",
    )
    assert [(q.id, q.text, dict(q.relevant)) for q in found.queries] == [
        ("q1", "a dog", {0: 2, 1: 1}),
        ("q2", "a cat", {2: 1}),
    ]
    assert found.several_relevant
    assert len({query.cluster for query in found.queries}) == 2
    assert any("incomplete" in note for note in found.notes)
    assert any("1 queries without a relevant picture" in note for note in found.notes)


@pytest.mark.parametrize(
    ("qrels", "queries", "sentence"),
    [
        ("q1 0 z.jpg 1", "q1\tdog", r"qrels\.txt names the picture 'z\.jpg', which the gallery"),
        ("q9 0 a.jpg 1", "q1\tdog", r"names the query 'q9', which queries\.tsv lacks"),
        ("q1 0 a.jpg 1\nq1 0 in/a.jpg 1", "q1\tdog", "judges the picture 'in/a.jpg' twice"),
        ("q1 0 a.jpg 1", "q1\tdog\nq1\tcat", "query id 'q1' comes twice"),
        ("q1 a.jpg 1", "q1\tdog", r"Line 1 of qrels\.txt is not"),
        ("q1 0 a.jpg yes", "q1\tdog", r"Line 1 of qrels\.txt is not"),
        ("q1 0 a.jpg 1", "q1 dog", r"Line 1 of queries\.tsv is not"),
        ("q1 0 a.jpg 0", "q1\tdog", "No picture of the gallery is relevant"),
    ],
)
def test_bad_trec_files_are_one_sentence(trec, qrels, queries, sentence):
    with pytest.raises(SourceError, match=sentence):
        trec(qrels, queries)


def test_a_file_name_that_two_pictures_share_is_refused(tmp_path):
    (tmp_path / "qrels.txt").write_text("q1 0 a.jpg 1\n")
    (tmp_path / "queries.tsv").write_text("q1\tdog\n")
    with pytest.raises(SourceError, match="of which the gallery has several"):
        from_trec(tmp_path / "qrels.txt", tmp_path / "queries.tsv", named("one/a.jpg", "two/a.jpg"))


EXPERTS = """\
b.jpg\ta.jpg#0\t3\t3\t3
c.jpg\ta.jpg#0\t4\t3\t1
a.jpg\tb.jpg#1\t1\t1\t2
"""
CROWD = """\
b.jpg\ta.jpg#0\t0.0\t0\t3
c.jpg\tb.jpg#1\t0.5\t2\t2
a.jpg\tb.jpg#1\t0.6666666667\t2\t1
"""
TOKENS = "a.jpg#0\ta dog\na.jpg#1\tanother dog\nb.jpg#1\ta cat .\n"


@pytest.fixture
def flickr(tmp_path):
    (tmp_path / "ExpertAnnotations.txt").write_text(EXPERTS)
    (tmp_path / "CrowdFlowerAnnotations.txt").write_text(CROWD)
    (tmp_path / "Flickr8k.token.txt").write_text(TOKENS)
    return tmp_path


def test_experts_crowd_and_the_own_picture_make_a_picture_relevant(flickr):
    found = from_flickr8k_judgements(flickr, named("a.jpg", "b.jpg", "c.jpg"))
    # a.jpg#0: its own, and b by the experts' mean of 3; c has 2.67, and 0 of the crowd for b
    # b.jpg#1: its own, and a by two thirds of the crowd; half of it is not enough for c
    assert {query.text: dict(query.relevant) for query in found.queries} == {
        "a dog": {0: 1, 1: 1},
        "a cat .": {0: 1, 1: 1},
    }
    assert [query.cluster for query in found.queries] == [0, 1]
    assert any("pool is incomplete" in note for note in found.notes)


def test_without_the_token_file_captions_are_counted_in_the_references(flickr):
    (flickr / "Flickr8k.token.txt").unlink()
    pictures = named("a.jpg", "b.jpg", "c.jpg", references=("zeroth", "first"))
    found = from_flickr8k_judgements(flickr, pictures)
    assert [query.text for query in found.queries] == ["zeroth", "first"]
    with pytest.raises(SourceError, match=r"'b\.jpg#1' is judged, but Flickr8k\.token\.txt"):
        from_flickr8k_judgements(flickr, named("a.jpg", "b.jpg", "c.jpg", references=("only",)))


def test_either_file_of_judgements_is_enough(flickr):
    (flickr / "CrowdFlowerAnnotations.txt").unlink()
    found = from_flickr8k_judgements(flickr, named("a.jpg", "b.jpg", "c.jpg"))
    assert {query.text: dict(query.relevant) for query in found.queries} == {
        "a dog": {0: 1, 1: 1},
        "a cat .": {1: 1},
    }
    (flickr / "ExpertAnnotations.txt").unlink()
    with pytest.raises(SourceError, match="neither ExpertAnnotations.txt nor CrowdFlower"):
        from_flickr8k_judgements(flickr, named("a.jpg"))


@pytest.mark.parametrize(
    ("experts", "sentence"),
    [
        ("b.jpg\ta.jpg#0\t3\t3\n", "Line 1 of ExpertAnnotations.txt is not a judgement"),
        ("b.jpg\ta.jpg#0\t3\t3\t5\n", "Line 1 of ExpertAnnotations.txt is not a judgement"),
        ("b.jpg\n", "Line 1 of ExpertAnnotations.txt is not a judgement"),
        ("z.jpg\ta.jpg#0\t3\t3\t3\n", r"names the picture 'z\.jpg'"),
        ("b.jpg\tz.jpg#0\t3\t3\t3\n", r"names the picture 'z\.jpg'"),
    ],
)
def test_bad_judgements_are_one_sentence(flickr, experts, sentence):
    (flickr / "ExpertAnnotations.txt").write_text(experts)
    with pytest.raises(SourceError, match=sentence):
        from_flickr8k_judgements(flickr, named("a.jpg", "b.jpg", "c.jpg"))
