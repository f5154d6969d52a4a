"""The row that starts a search: the words, how many pictures, and the button."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

PLACEHOLDER = "a dog catching a frisbee in the snow"

RESULTS_BRIDGE = """
// It sends 'pick', 'similar', 'turn', 'more' and 'rerank'.
element.twolensTrigger = (name, data) => trigger(name, data);
watch('value', () => window.dispatchEvent(new CustomEvent('twolens:shown', {detail: element})));
window.dispatchEvent(new CustomEvent('twolens:ready', {detail: element}));
"""
"""Lets the page's own script send the events of a results area and learn of new results."""


@dataclass(frozen=True, slots=True)
class SearchBox:
    """The components of one search row."""

    query: gr.Textbox
    k: gr.Number
    button: gr.Button

    @property
    def asked(self) -> list[Any]:
        """What starts a search: Enter in either field, and the button."""
        return [self.query.submit, self.k.submit, self.button.click]


def words_field(elem_id: str, label: str, placeholder: str) -> gr.Textbox:
    """Build the field of one line that takes a visitor's words, inside the current row.

    Args:
        elem_id: Id of the element.
        label: What it is for, for screen readers.
        placeholder: Shown while it is empty.
    """
    return gr.Textbox(
        label=label,
        show_label=False,
        container=False,
        placeholder=placeholder,
        lines=1,
        max_lines=1,
        scale=8,
        min_width=160,
        elem_id=elem_id,
        elem_classes=["tl-query"],
    )


def search_box(name: str, *, k_label: str = "Pictures") -> SearchBox:
    """Build a search row inside the current block.

    Args:
        name: Makes the ids of the elements unique: ``NAME-query``, ``NAME-k``, ``NAME-search``.
        k_label: What the number of pictures is called.
    """
    with gr.Row(elem_classes=["tl-search"], equal_height=True):
        query = words_field(
            f"{name}-query", "Describe the picture you are looking for", PLACEHOLDER
        )
        clear = gr.Button(
            "Clear",
            scale=0,
            min_width=44,
            elem_id=f"{name}-clear",
            elem_classes=["tl-clear"],
        )
        # No limits of its own: gradio would answer with a server error, not a sentence.
        k = gr.Number(
            5,
            label=k_label,
            step=1,
            precision=0,
            scale=0,
            min_width=132,
            elem_id=f"{name}-k",
            elem_classes=["tl-k"],
        )
        button = gr.Button(
            "Search",
            variant="primary",
            scale=0,
            min_width=112,
            elem_id=f"{name}-search",
            elem_classes=["tl-go"],
        )
    # The page's script puts the cursor back into the field.
    clear.click(None, None, query, js="() => ''", api_visibility="private")
    return SearchBox(query, k, button)
