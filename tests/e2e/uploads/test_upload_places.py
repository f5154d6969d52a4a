"""Visitors who take places without photos, push others' sessions out, or come in crowds."""

from __future__ import annotations

import gradio as gr
import pytest
from gradio.context import LocalContext

from tests.e2e.upload_visitor import Refused, Visitor
from tests.planted_app import launched, planted_shelf
from tests.tiny_uploads import colour_uploads, files_below, photos, picture_bytes


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The app with two places for uploads: its address, the uploads, and gradio's page."""
    folder = tmp_path_factory.mktemp("places")
    uploads = colour_uploads(folder, max_uploads=2, max_image_bytes=5_000)
    with launched(planted_shelf(folder), uploads) as page:
        yield page.local_url.rstrip("/"), uploads, page


def test_whoever_sends_no_photo_takes_no_place(served):
    address, uploads, _ = served
    for number in range(4):
        with pytest.raises(Refused, match="No file was sent"):
            Visitor(address).run("upload_add", [])
        inbox = uploads.inbox / f"guessed-{number}"
        with pytest.raises(Refused, match=r"a.png did not arrive.* 1 more could not be kept"):
            Visitor(address).add_paths([str(inbox)] * 2, ["a.png", "b.png"])
        with pytest.raises(Refused, match=r"large.png is larger than the limit of 0.0 MB\.$"):
            Visitor(address).add({"large.png": b"x" * 6_000})
    assert len(uploads) == 0
    assert files_below(uploads.folder) == []
    ann = Visitor(address)
    assert ann.add(photos(1))["waiting"] == ["photo 0.png"]
    assert ann.run("upload_forget") == {"forgotten": True}


def test_a_file_for_which_there_is_no_place_is_deleted(served):
    address, uploads, _ = served
    visitors = [Visitor(address), Visitor(address)]
    for visitor in visitors:
        visitor.add(photos(1))
    with pytest.raises(Refused, match="2 uploads are open"):
        Visitor(address).add(photos(3))
    assert len(files_below(uploads.folder)) == 2
    assert [visitor.run("upload_forget") for visitor in visitors] == [{"forgotten": True}] * 2


def test_forget_finds_an_upload_whose_session_others_have_pushed_out(served):
    address, uploads, page = served
    page.app.state_holder.capacity = 20
    ann = Visitor(address)
    ann.add(photos(2))
    ann.describe()
    for _ in range(60):
        Visitor(address).run("compare", "a dog", 1, "planted")
    assert [p["file_name"] for p in ann.run("upload_stop")["pictures"]] == list(photos(2))
    assert ann.run("upload_forget") == {"forgotten": True}
    assert files_below(uploads.folder) == []
    assert ann.run("upload_forget") == {"forgotten": False}


def test_an_answer_holds_few_notices_however_many_there_were(served):
    address, _, _ = served
    ann = Visitor(address)
    ann.add(photos(1))
    for _ in range(3):
        facts = ann.add({f"{number}.png": b"x" * 6_000 for number in range(100)})
    assert len(facts["notices"]) == 20
    assert facts["notices_in_all"] == 300
    assert facts["notices"][-1]["file_name"] == "99.png"
    assert len(ann.run("upload_stop")["notices"]) == 20
    ann.run("upload_forget")


def test_a_rented_gpu_is_the_visitors_and_a_refusal_reaches_them(served):
    """ZeroGPU finds the visitor in gradio's context, and raises errors of gradio's."""
    address, uploads, _ = served
    ann = Visitor(address)
    ann.http.headers["X-IP-Token"] = "of ann"
    ann.add(photos(2))
    says_colours = uploads.captioner.caption
    tokens = []

    def rented(images):
        request = LocalContext.request.get(None)
        tokens.append(request.headers.get("x-ip-token") if request else None)
        raise gr.Error("You have exceeded your GPU quota.")

    uploads.captioner.caption = rented
    try:
        with pytest.raises(Refused, match="You have exceeded your GPU quota"):
            ann.describe()
    finally:
        uploads.captioner.caption = says_colours
    assert tokens == ["of ann"]
    assert len(ann.describe()["pictures"]) == 2
    ann.run("upload_forget")


def test_a_caller_without_a_session_is_told_to_have_one(served):
    address, uploads, _ = served
    caller = Visitor(address)
    caller.tab = None
    with pytest.raises(Refused, match="send the same session_hash"):
        caller.add({"a.png": picture_bytes((8, 8, 8))})
    assert len(uploads) == 0
