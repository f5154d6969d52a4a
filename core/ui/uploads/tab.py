"""The tab Your photos: send, watch, search, correct, take away, forget."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.ui.parts.events import PAGE_EVENT, SEARCH_EVENT
from core.ui.parts.query.picture_query import picture_query
from core.ui.parts.query.search_box import RESULTS_BRIDGE, search_box
from core.ui.uploads.desk import UploadDesk
from core.ui.uploads.handlers import UploadHandlers, no_photos
from core.ui.uploads.views import captions_table, drop_zone, introduction, nothing_view

DESCRIBE_EVENT: dict[str, Any] = {
    "concurrency_id": "describe",
    "concurrency_limit": 1,
    "show_progress": "full",
}
"""One run at a time, whoever waits; the queue tells each visitor their place."""

TABLE_BRIDGE = """
element.addEventListener('change', (event) => {
  const field = event.target.closest('[data-caption]');
  if (!field) return;
  field.nextElementSibling.replaceChildren();
  trigger('correct', {id: field.dataset.caption, caption: field.value});
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-remove]');
  if (!button) return;
  const name = button.closest('tr').querySelector('.tl-file-name').textContent;
  window.twolens.confirm(`Remove ${name}?`, 'Remove').then(
    (yes) => yes && trigger('remove', {id: button.dataset.remove})
  );
});
"""

STATE_BRIDGE = """
const tell = (first) => window.dispatchEvent(
  new CustomEvent('twolens:upload', {detail: {first, resume: (data) => trigger('resume', data)}})
);
watch('value', () => tell(false));
setTimeout(() => tell(true));
"""
"""Tells the page's script what there is now, and lets it find the upload again after a reload."""


def upload_tab(page: gr.Blocks, desk: UploadDesk) -> None:
    """Build the tab inside the current ``gr.Tab`` and connect its events.

    Args:
        page: The whole page, whose closing ends the upload.
        desk: What does the work.
    """
    gr.HTML(introduction(desk.uploads), apply_default_css=False, elem_classes=["tl-bare"])
    gr.HTML(drop_zone(), apply_default_css=False, elem_classes=["tl-bare"], elem_id="upload-drop")
    # Sends what the zone was given; seen while it does.
    sender = gr.File(
        file_count="multiple", show_label=False, elem_id="upload-files", elem_classes=["tl-sender"]
    )
    with gr.Row(elem_classes=["tl-upload-buttons"]):
        describe = gr.Button(
            "Describe and index", elem_id="upload-describe", elem_classes=["tl-button", "first"]
        )
        stop = gr.Button("Stop", elem_id="upload-stop", elem_classes=["tl-button"])
        forget = gr.Button(
            "Forget everything", elem_id="upload-forget", elem_classes=["tl-button", "bad"]
        )
    state = gr.HTML(
        nothing_view(kind="start"),
        apply_default_css=False,
        js_on_load=STATE_BRIDGE,
        elem_id="upload-state",
        elem_classes=["tl-bare"],
    )
    left_queue = gr.Textbox(visible="hidden")
    box = search_box("upload", k_label="Pictures per lens")
    ask = picture_query("upload")
    more = gr.Textbox(visible="hidden")
    results = gr.HTML(
        no_photos(),
        elem_classes=["tl-bare", "tl-results"],
        elem_id="upload-results",
        js_on_load=RESULTS_BRIDGE,
        apply_default_css=False,
    )
    with gr.Accordion("Captions and downloads", open=False, elem_id="upload-captions"):
        saved = gr.HTML(
            "", apply_default_css=False, elem_id="upload-saved", elem_classes=["tl-bare"]
        )
        table = gr.HTML(
            captions_table(None),
            apply_default_css=False,
            js_on_load=TABLE_BRIDGE,
            elem_id="upload-table",
            elem_classes=["tl-bare"],
        )
        downloads = gr.HTML(
            "", apply_default_css=False, elem_id="upload-downloads", elem_classes=["tl-bare"]
        )

    on = UploadHandlers(desk)
    page_event = {**PAGE_EVENT, "show_progress": "minimal"}
    each_one = {**PAGE_EVENT, "trigger_mode": "multiple"}  # the second of two quick ones counts too
    sender.upload(on.on_files, sender, [sender, state], preprocess=False, **each_one)
    state.resume(on.on_resume, None, [state, results, table, downloads], **PAGE_EVENT)
    run = describe.click(
        on.on_describe,
        None,
        [state, results, table, downloads],
        show_progress_on=[state],
        api_visibility="private",
        **DESCRIBE_EVENT,
    )
    stop.click(on.on_stop, None, [state, left_queue], **PAGE_EVENT)
    # Only for a run that has not begun: one that has ends by itself and keeps its last batch.
    left_queue.change(None, cancels=[run])
    forget.click(
        on.on_forget,
        None,
        [state, results, table, downloads, saved, box.query],
        **page_event,
    )
    gr.on(
        box.asked,
        on.on_search,
        [box.query, box.k, more],
        results,
        **SEARCH_EVENT,
    )
    results.pick(on.on_pick, [box.k, more], [box.query, results], **SEARCH_EVENT)
    results.more(on.on_more, box.k, [more, results], **SEARCH_EVENT)
    results.similar(on.on_similar, box.k, results, **SEARCH_EVENT)
    results.turn(on.on_page, [box.k, more], results, **SEARCH_EVENT)
    ask.change(on.on_picture, [ask, box.k], [ask, results], preprocess=False, **SEARCH_EVENT)
    table.correct(on.on_correct, None, saved, **each_one)
    table.remove(on.on_remove, None, [saved, state, results, table, downloads], **each_one)
    page.unload(on.on_unload)
