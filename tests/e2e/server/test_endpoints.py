"""The named endpoints and the routes, as a program sees them over HTTP."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

import core
from core.search.agreement import rank_biased_overlap
from tests.core.planted import brute_force
from tests.planted_app import WordsEncoder, image_id

REPOSITORY = Path(core.__file__).resolve().parents[1]
NAMES = [
    *("/compare", "/search_captions", "/search_clip", "/search_words", "/similar"),
    *("/galleries", "/why", "/try_caption"),
]


@pytest.fixture(scope="module")
def client(address) -> Client:
    return Client(address, verbose=False)


@pytest.fixture(scope="module")
def ranked(shelf):
    """The first k (id, score) of a lens for a query, by numpy."""
    gallery = shelf.entry().gallery
    encoder = WordsEncoder(shelf.profile.sentence)
    ids = [record.id for record in gallery.records]

    def rank(lens, query, k):
        (embedding,) = encoder.encode_text([query])
        return brute_force(gallery.embeddings(lens), ids, embedding, k)

    return rank


def test_only_the_named_endpoints_are_public_and_all_are_described(client, address):
    assert sorted(client.view_api(return_format="dict")["named_endpoints"]) == sorted(NAMES)
    described = httpx.get(f"{address}/gradio_api/info").json()["named_endpoints"]
    for name in NAMES:
        assert len(described[name]["description"]) > 20, name


def test_another_caption_moves_the_picture_in_both_rankings(client, shelf):
    gallery = shelf.entry().gallery
    encoder = WordsEncoder(shelf.profile.sentence)
    query, caption = "dog beach", "a dog on the beach"
    (asked,) = encoder.encode_text([query])
    scores = gallery.embeddings("captions") @ asked
    row = int(scores.argmin())
    found = client.predict(query, gallery.records[row].id, caption, api_name="/try_caption")
    before, after = found["captions"]["before"], found["captions"]["after"]
    assert before["score"] == pytest.approx(scores[row], abs=1e-4)
    assert before["rank"] == 1 + (scores > scores[row]).sum()
    scores[row] = encoder.encode_text([caption])[0] @ asked
    assert after["score"] == pytest.approx(scores[row], abs=1e-4)
    assert after["rank"] == 1 + (scores > scores[row]).sum() < before["rank"]
    assert found["pictures"] == len(gallery)
    again = client.predict(query, gallery.records[row].id, caption, api_name="/try_caption")
    assert again == found  # nothing was stored


def test_compare_is_what_the_readme_says(client, ranked):
    answer = client.predict("dog beach", 4, api_name="/compare")
    assert set(answer) == {
        "query",
        "captions",
        "clip",
        "fused",
        "total",
        "fusion",
        "agreement",
        "matches_well",
        "timings_ms",
        "failures",
    }
    assert answer["query"] == "dog beach"
    for lens in ("captions", "clip"):
        expected = ranked(lens, "dog beach", 4)
        assert [hit["id"] for hit in answer[lens]] == [found for found, _ in expected]
        scores = [hit["score"] for hit in answer[lens]]
        np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-5)
        assert [hit["rank"] for hit in answer[lens]] == [1, 2, 3, 4]
        assert set(answer[lens][0]) == {
            "rank",
            "id",
            "file_name",
            "image",
            "license",
            "source",
            "score",
            "caption",
            "confidence",
            "unsure",
            "more_captions",
        }
        assert set(answer["timings_ms"][lens]) == {"encode", "search"}
    captions, clip = ([hit["id"] for hit in answer[lens]] for lens in ("captions", "clip"))
    common = len(set(captions) & set(clip))
    assert answer["agreement"] == pytest.approx(
        {
            "overlap": common / 4,
            "jaccard": common / (8 - common),
            "rbo": rank_biased_overlap(captions, clip),
            "shared": common,
            "by_chance": 4 * 4 / 12,
        }
    )
    for hit in answer["fused"]:
        expected = sum(1 / (60 + hit[f"{lens}_rank"]) for lens in ("captions", "clip"))
        assert hit["score"] == pytest.approx(expected)
    assert answer["failures"] == {}
    assert answer["fusion"] == "reciprocal rank fusion, k = 60"


def test_a_later_page_goes_on_where_the_first_one_ends(client, ranked):
    for name, lens in (("/search_captions", "captions"), ("/search_clip", "clip")):
        answer = client.predict("dog beach", 5, start=5, api_name=name)
        expected = ranked(lens, "dog beach", 10)[5:]
        assert [hit["id"] for hit in answer["hits"]] == [found for found, _ in expected]
        assert [hit["rank"] for hit in answer["hits"]] == [6, 7, 8, 9, 10]
        assert answer["total"] == 12
    whole = client.predict("dog beach", 12, api_name="/compare")["fused"]
    page = client.predict("dog beach", 5, start=10, api_name="/compare")
    assert page["fused"] == whole[10:]
    assert page["matches_well"] == {"captions": None, "clip": None}


def test_filters_alone_list_what_passes_them_page_by_page(client):
    wide = [image_id(row) for row in (0, *range(2, 5), *range(6, 12))]
    listed = []
    for start in range(0, 12, 4):
        answer = client.predict("shape:landscape", 4, start=start, api_name="/search_clip")
        assert answer["total"] == len(wide)
        assert {hit["score"] for hit in answer["hits"]} <= {None}
        listed += [(hit["rank"], hit["id"]) for hit in answer["hits"]]
    assert listed == list(enumerate(wide, 1))
    both = client.predict("", 3, filters="-shape:portrait", api_name="/compare")
    assert [hit["id"] for hit in both["fused"]] == wide[:3]
    assert (both["captions"], both["clip"], both["agreement"]) == ([], [], None)
    words = client.predict("shape:portrait", 5, api_name="/search_words")
    assert [hit["id"] for hit in words["hits"]] == [image_id(1), image_id(5)]


def test_the_lenses_are_joined_as_asked(client):
    asked = {"query": "dog beach", "k": 4, "api_name": "/compare"}
    answer = client.predict(**asked, fusion="zscore", caption_weight=0)
    assert answer["fusion"] == "z-score sum, caption weight 0"
    assert [hit["id"] for hit in answer["fused"]] == [hit["id"] for hit in answer["clip"]]
    with pytest.raises(AppError, match="caption weight must be between 0 and 1"):
        client.predict(**asked, fusion="zscore", caption_weight=7)


def test_a_picture_s_address_leads_to_it(client, address):
    hit = client.predict("dog frisbee snow", 1, api_name="/compare")["clip"][0]
    answer = httpx.get(hit["image"])
    assert answer.headers["content-type"] == "image/webp"
    assert hit["license"] == "CC BY 2.0"


def test_defaults_are_five_pictures_of_the_first_gallery(client):
    answer = client.predict("dog", api_name="/compare")
    assert len(answer["captions"]) == len(answer["clip"]) == len(answer["fused"]) == 5


@pytest.mark.parametrize(
    ("name", "lens"), [("/search_captions", "captions"), ("/search_clip", "clip")]
)
@pytest.mark.parametrize("index", ["flat", "ivf"])
def test_a_lens_s_own_endpoint(client, ranked, name, lens, index):
    answer = client.predict("boat sea", 3, index, api_name=name)
    assert (answer["lens"], answer["index"], answer["query"]) == (lens, index, "boat sea")
    if index == "flat":
        assert [hit["id"] for hit in answer["hits"]] == [i for i, _ in ranked(lens, "boat sea", 3)]


def test_similar_leaves_the_picture_out(client, shelf):
    answer = client.predict(image_id(0), "clip", 11, api_name="/similar")
    gallery = shelf.entry().gallery
    ids = [record.id for record in gallery.records]
    ranking = brute_force(
        gallery.embeddings("clip"), ids, gallery.embedding("clip", image_id(0)), 12
    )
    assert [hit["id"] for hit in answer["hits"]] == [i for i, _ in ranking if i != image_id(0)]
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, 12))


def test_galleries_are_listed_and_can_be_named(client):
    listed = client.predict(api_name="/galleries")
    assert [(entry["name"], entry["images"]) for entry in listed] == [("planted", 12), ("three", 3)]
    answer = client.predict("dog", 5, "three", api_name="/compare")
    assert len(answer["captions"]) == 3


def test_one_lens_failing_is_told_beside_the_other_s_answer(client):
    answer = client.predict("unplugged dog", 2, api_name="/compare")
    assert len(answer["captions"]) == 2
    assert answer["clip"] == []
    assert answer["agreement"] is None
    assert "<packages>" in answer["failures"]["clip"]


@pytest.mark.parametrize(
    ("arguments", "name", "sentence"),
    [
        (("", 5), "/compare", "the query is empty"),
        (("   \n ", 5), "/compare", "the query is empty"),
        (("x" * 10_000, 5), "/compare", "10,000 characters; at most 1,000"),
        (("dog", 0), "/compare", r"\(k\) must be between 1 and 50; got 0"),
        (("dog", 51), "/compare", r"\(k\) must be between 1 and 50; got 51"),
        (("dog", 2.5), "/compare", r"\(k\) must be a whole number"),
        (("dog", 5, "flat", "", "", -1), "/search_clip", "start must be between 0 and 10000"),
        (("like:nothing", 5), "/compare", "like: takes a picture's id"),
        ((f"dog like:{'f' * 16}", 5), "/search_clip", f"No picture has the id '{'f' * 16}'"),
        (("dog", 5, "nowhere"), "/compare", "There is no gallery called 'nowhere'"),
        (("f" * 16, "clip", 5), "/similar", "No picture has the id"),
        (("../../etc/passwd", "clip", 5), "/similar", "No picture has the id"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(client, arguments, name, sentence):
    with pytest.raises(AppError, match=sentence):
        client.predict(*arguments, api_name=name)


@pytest.mark.parametrize(
    "query", ["🐕", "犬が海で走る", "Ünïcödé", "a\x00b", "' OR 1=1 --", "%s {0}"]
)
def test_any_language_gets_an_answer(client, query):
    assert len(client.predict(query, 5, api_name="/compare")["captions"]) == 5


def test_a_bug_shows_an_id_and_no_more(client, caplog):
    with pytest.raises(AppError, match="request id [0-9a-f]{8}") as caught:
        client.predict("kaboom", 5, api_name="/search_clip")
    assert "secret" not in str(caught.value)
    assert "a bug with a secret in its message" in caplog.text


def test_gradio_s_file_route_reads_nothing_of_ours(address, shelf):
    gallery = shelf.entry().gallery.folder.resolve()
    wanted = [
        gallery / "manifest.json",
        gallery / "data-00000-of-00001.arrow",
        gallery / "clip.npy",
        REPOSITORY / "app.py",
        REPOSITORY / "core" / "config.py",
        Path("/etc/passwd"),
    ]
    for path in wanted:
        assert path.is_file()
        for written in (str(path), f"{gallery}/../{gallery.name}/{path.name}", path.name):
            answer = httpx.get(f"{address}/gradio_api/file={written}")
            assert answer.status_code in (403, 404), written


def test_the_thumbnail_route_is_served_beside_the_page(address):
    answer = httpx.get(f"{address}/thumbnails/planted/{image_id(0)}.webp")
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    assert httpx.get(f"{address}/thumbnails/planted/%2e%2e%2fmanifest.webp").status_code == 404


def test_the_endpoints_are_tools_for_agents(address):
    pytest.importorskip("mcp")
    tools = httpx.get(f"{address}/gradio_api/mcp/schema").json()
    names = {tool["name"].rsplit("_api_", 1)[-1] for tool in tools}
    for name in NAMES:
        assert any(tool.endswith(name.strip("/")) for tool in names), (name, names)
    assert len(tools) == len(NAMES)
    (compare,) = (tool for tool in tools if tool["name"].endswith("compare"))
    assert compare["description"].startswith("Find pictures by words through both lenses")
    assert "Returns: query, captions and clip (lists of rank" in compare["description"]
    assert not any(",," in tool["description"] for tool in tools)


def test_an_agent_finds_pictures(address, shelf):
    mcp = pytest.importorskip("mcp")
    from mcp.client.streamable_http import streamablehttp_client

    async def ask() -> tuple[list[str], dict]:
        url = f"{address}/gradio_api/mcp/"
        async with (
            streamablehttp_client(url) as (read, write, _),
            mcp.ClientSession(read, write) as session,
        ):
            started = await session.initialize()
            assert started.serverInfo.name == "TwoLens"
            names = [tool.name for tool in (await session.list_tools()).tools]
            found = await session.call_tool("compare", {"query": "dog beach", "k": 2})
            refused = await session.call_tool("compare", {"query": "dog", "k": 0})
            assert refused.isError and refused.content[0].text == (
                "The number of pictures (k) must be between 1 and 50; got 0."
            )
            listed = await session.call_tool("galleries", {})
            assert [each["name"] for each in listed.structuredContent["result"]] == [
                *("planted", "three")
            ]
            assert found.structuredContent == json.loads(found.content[0].text)
            return names, found.structuredContent

    # In a thread of its own: the browser tests of the same run keep a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        names, found = pool.submit(lambda: asyncio.run(ask())).result()
    assert sorted(f"/{name}" for name in names) == sorted(NAMES)
    assert [hit["rank"] for hit in found["captions"]] == [1, 2]
    assert httpx.get(found["clip"][0]["image"]).headers["content-type"] == "image/webp"


@pytest.mark.parametrize("way", ["call", "call/v2", "run"])
def test_plain_http_finds_pictures(address, way):
    body = {"query": "dog", "k": 2} if way == "call/v2" else {"data": ["dog", 2, ""]}
    reply = httpx.post(f"{address}/gradio_api/{way}/compare", json=body).json()
    if way == "run":
        (found,) = reply["data"]
    else:
        stream = httpx.get(f"{address}/gradio_api/{way}/compare/{reply['event_id']}").text
        (found,) = json.loads(stream.partition("data: ")[2])
    assert len(found["captions"]) == 2
    assert httpx.get(found["captions"][0]["image"]).headers["content-type"] == "image/webp"


def test_behind_a_proxy_pictures_have_the_address_that_the_caller_knows(address):
    proxied = {"X-Forwarded-Host": "pictures.example", "X-Forwarded-Proto": "https"}
    url = f"{address}/gradio_api/run/compare"
    (found,) = httpx.post(url, json={"data": ["dog"]}, headers=proxied).json()["data"]
    for part in ("captions", "clip", "fused"):
        for hit in found[part]:
            assert hit["image"].startswith("https://pictures.example/thumbnails/planted/")


@pytest.mark.parametrize(
    ("name", "values", "status", "sentence"),
    [
        ("compare", ["dog", 0], 400, "The number of pictures (k) must be between 1 and 50; got 0."),
        ("compare", ["dog", 10**9], 400, "must be between 1 and 50; got 1000000000"),
        ("search_clip", ["dog", "five"], 400, "(k) must be a whole number"),
        ("search_captions", ["  ", 5], 400, "the query is empty"),
        ("compare", ["dog", 5, "nowhere"], 400, "There is no gallery called 'nowhere'"),
        ("compare", [{"a": 1}], 400, "The query must be a text"),
        ("similar", ["f" * 16], 404, "No picture has the id"),
        ("search_clip", ["kaboom", 5], 500, "request id"),
    ],
)
def test_what_a_caller_sent_amiss_has_a_status_of_4xx(address, name, values, status, sentence):
    reply = httpx.post(f"{address}/gradio_api/run/{name}", json={"data": values})
    assert reply.status_code == status, reply.text
    assert sentence in reply.json()["error"]


def test_a_stream_tells_what_a_caller_sent_amiss(address):
    sent = httpx.post(f"{address}/gradio_api/call/compare", json={"data": ["dog", 0]}).json()
    stream = httpx.get(f"{address}/gradio_api/call/compare/{sent['event_id']}").text
    assert stream.startswith("event: error")
    assert "must be between 1 and 50; got 0" in stream


def test_plain_http_may_leave_out_the_last_parameters(address):
    reply = httpx.post(f"{address}/gradio_api/run/compare", json={"data": ["dog"]}).json()
    assert len(reply["data"][0]["captions"]) == 5


@pytest.mark.parametrize("way", ["run", "call"])
def test_too_few_or_too_many_values_are_refused_before_the_queue(address, way):
    for name, values, sentence in (
        ("compare", [], "compare takes 1 to 8 values; got 0."),
        ("similar", ["f" * 16, "clip", 5, "", 1], "similar takes 1 to 4 values; got 5."),
        ("galleries", [1], "galleries takes 0 values; got 1."),
    ):
        reply = httpx.post(f"{address}/gradio_api/{way}/{name}", json={"data": values})
        assert (reply.status_code, reply.json()["error"]) == (400, sentence)
