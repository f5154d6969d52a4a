"""Why one of a visitor's own photos was found: for the holder of its upload's secret alone."""

from __future__ import annotations

import gradio as gr
import pytest

from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.endpoints import UploadEndpoints
from core.uploads.registry import Uploads
from tests.core.ui.tabs.test_text_and_rerank import Explained
from tests.tiny_uploads import colour_uploads, describe, photos, send


@pytest.fixture
def uploads(tmp_path):
    made = colour_uploads(tmp_path)
    yield made
    made.close()


def explained(uploads: Uploads) -> None:
    """Give the planted models what an explanation asks for beside embeddings."""
    for model in (uploads.models.sentence, uploads.models.clip):
        model.encode_tokens = lambda texts, model=model: Explained.encode_tokens(model, texts)
        model.explain = lambda *asked, model=model: Explained.explain(model, *asked)


def test_the_holder_of_the_secret_is_told_why_and_nobody_else(uploads):
    explained(uploads)
    session, other = uploads.start("a"), uploads.start("b")
    send(uploads, session, photos(3))
    describe(uploads, session)
    on = UploadEndpoints(UploadDesk(uploads, inbox=None))
    record = session.snapshot.records[1]
    found = on.on_why(record.caption, record.id, session.view_token)
    assert found["captions"]["score"] == pytest.approx(1, abs=1e-4)  # its caption is the query
    assert [each["text"] for each in found["captions"]["captions"]] == [record.caption]
    assert found["clip"]["score"] == pytest.approx(1, abs=1e-4)
    assert found["failures"] == {"clip": "No patches here."} and found["text"] is None
    for token in (other.view_token, session.id, session.keep_token, "", "x"):
        with pytest.raises(gr.Error, match="No photo is searchable|There is no upload"):
            on.on_why(record.caption, record.id, token)
    uploads.forget(session.id)
    with pytest.raises(gr.Error, match="There is no upload"):
        on.on_why(record.caption, record.id, session.view_token)
