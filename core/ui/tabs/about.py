"""The About tab: which models answer, which gallery, and what the numbers mean."""

from __future__ import annotations

import json

import gradio as gr

from core.errors import GalleryError, ModelError
from core.gallery.manifest import ModelRef
from core.models.match_threshold import match_threshold
from core.models.profiles import Profile
from core.models.spec import ModelSpec
from core.records import LENSES, CaptionPooling, Lens
from core.ui.galleries.shelf import Shelf
from core.ui.parts.markup import LENS_WORDS, escape, fusion_words

_MATCH = "nothing here matches well"
_UNMEASURED = (
    "For the {} it is never said here: no threshold was measured, and a guess would "
    "mislead. python -m precompute match measures one."
)

_NUMBERS = (
    (
        "score",
        "How close your words are to a caption, or to a picture: the cosine of the angle between "
        "two embeddings, 1 at most. Each lens, and each model, has its own scale: what is good "
        "in one may be poor in another. The bar under a picture is drawn on the lens's own.",
    ),
    (
        "by chance",
        "What two lenses that chose blindly would have in common on average: if each shows 5 of "
        "15 pictures, 5 x 5 / 15 = 1.7.",
    ),
    ("overlap", "Of the pictures one lens shows, the share that the other one shows too."),
    ("Jaccard", "Pictures that both lenses show over pictures that either shows."),
    (
        "RBO",
        "Rank-biased overlap: agreement in which the first places count most. 1 is the same "
        "order, 0 no picture in common.",
    ),
    (
        "encode, search",
        "Milliseconds to turn your words into an embedding, and to find the nearest ones. Words "
        "that were asked before are remembered and need no encoding.",
    ),
    (
        "flat, IVF",
        "A flat index compares with everything. IVF looks only into the nprobe clusters nearest "
        "to your words: faster on large galleries, at the price of a missed picture now and then.",
    ),
    (
        _MATCH,
        "Said of a lens whose best score is lower than that of 19 in 20 queries whose picture was "
        "there, measured on photos that the small models had not seen. Words that the models do "
        "not know are mostly caught; that one certain picture is missing is not.",
    ),
    (
        "sure, fairly sure",
        "How probable the captioner found its own words, on average: sure from 50 % on. The share "
        "is in a picture's large view. It says little on whether they are true.",
    ),
    (
        "unsure",
        "A caption that hardly fits its picture, as the CLIP lens sees it: no better than what the "
        "captioner says of anything. In the small captioner a classifier that sees what the "
        "caption mentions makes up for some of that. The threshold was chosen on photos.",
    ),
)


_POOLING: dict[CaptionPooling, str] = {
    "mean": "their mean",
    "best": "the one nearest to your words",
}


def about_tab(shelf: Shelf) -> gr.HTML:
    """Build the tab inside the current ``gr.Tab``; return the part that follows the gallery."""
    gr.HTML(
        lenses_explained(shelf.profile) + _models(shelf.profile),
        apply_default_css=False,
        elem_classes=["tl-bare", "tl-about"],
    )
    described = gr.HTML(
        gallery_description(shelf, None),
        apply_default_css=False,
        elem_classes=["tl-bare", "tl-about"],
    )
    gr.HTML(
        numbers_explained(shelf.profile),
        apply_default_css=False,
        elem_classes=["tl-bare", "tl-about"],
    )
    return described


def gallery_description(shelf: Shelf, gallery: str | None) -> str:
    """Return what the page says of a gallery, with its manifest."""
    if not shelf.entries:
        return "<section><h2>The gallery</h2><p>No gallery is loaded.</p></section>"
    try:
        entry = shelf.entry(gallery)
    except GalleryError as error:
        return f"<section><h2>The gallery</h2><p>{escape(str(error))}</p></section>"
    manifest = entry.gallery.manifest
    counts = manifest.counts
    generated = manifest.caption_origin == "generated"
    captions = (
        f"Its captions were written by {escape(_named(manifest.captioner))}."
        if generated and manifest.captioner
        else "Its captions came with the pictures; they were not generated."
    )
    if manifest.captions_per_image > 1:
        captions += (
            f" A picture has up to {manifest.captions_per_image} of them and is ranked by "
            f"{_POOLING[manifest.caption_pooling]}."
        )
    if manifest.text_reader is not None:
        captions += f" The text in its pictures was read by {escape(_named(manifest.text_reader))}."
    if entry.other_captioner(shelf.profile.captioner) is not None:
        captions += f" Photos added here are described by {escape(shelf.profile.captioner.name)}."
    left_out = ""
    if counts.duplicates or counts.skipped:
        left_out = (
            f" {counts.duplicates:,} files were left out because another has the same bytes, and "
            f"{counts.skipped:,} because they cannot be used."
        )
    document = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return (
        f"<section><h2>The gallery: {escape(entry.name)}</h2>"
        f"<p>{counts.images:,} pictures, built {escape(str(manifest.created_at)[:10])} with the "
        f"{escape(str(manifest.profile))} models. {captions}{left_out}</p>"
        f"<details><summary>Manifest</summary><pre>{escape(document)}</pre></details>"
        f"</section>"
    )


def _named(captioner: ModelRef) -> str:
    return f"{captioner.name} on {captioner.base.name}" if captioner.base else captioner.name


def lenses_explained(profile: Profile) -> str:
    """Return how the two lenses work, and what they have in common."""
    cards = "".join(
        f'<div class="tl-how {lens}"><h3>{words.mark}{words.title} <small>{words.verb}</small></h3>'
        f"<p>{escape(words.how)}</p></div>"
        for lens, words in LENS_WORDS.items()
    )
    return (
        "<section><h2>Two ways to find a picture by words</h2>"
        f'<div class="tl-hows">{cards}</div>'
        "<p>The caption lens is right when its caption says what you ask for, and blind to all it "
        "leaves out. CLIP sees the whole picture, and is weak on counting, on who does what to "
        f"whom, and on small things.</p>{_shared(profile)}</section>"
    )


def _shared(profile: Profile) -> str:
    """Say what the two lenses have in common, so that their agreement is not overrated."""
    shared = profile.clip.base is not None and profile.clip.base.name == profile.captioner.name
    towers = (
        f" They are not independent: {escape(profile.captioner.name)} and "
        f"{escape(profile.clip.name)} see pictures through one image tower, and both lenses read "
        f"your words with {escape(profile.sentence.name)}. They can be wrong together."
        if shared
        else ""
    )
    return (
        "<p>Where they agree is no proof: beside the number stands what chance alone would give."
        f"{towers} {escape(profile.sentence.name)} was trained on the captions of Flickr30k and "
        "COCO among other texts, so figures on those two sets flatter the caption lens.</p>"
    )


def _models(profile: Profile) -> str:
    rows = "".join(
        _model_row(role, spec)
        for role, spec in (
            ("Captions (InstructBLIP)", profile.captioner),
            ("Words, for the caption lens", profile.sentence),
            ("Words and pictures (CLIP)", profile.clip),
        )
    )
    switch = (
        "<p>These are the small models: they come with the app, need no download and run on a "
        "laptop. The full ones (InstructBLIP flan-t5-xl and CLIP ViT-B/32) are better. To switch, "
        "build a gallery with them, on a machine with a GPU, and start the app on it:</p>"
        "<pre>python -m precompute build PHOTOS --out galleries/mine --profile full\n"
        "python app.py --profile full --gallery galleries/mine</pre>"
        if profile.name == "mini"
        else "<p>These are the full models. <code>--profile mini</code> answers with small ones "
        "that come with the app.</p>"
    )
    return (
        '<section id="models"><h2>The models that answer</h2><div class="tl-table"><table><thead>'
        '<tr><th scope="col">What for</th><th scope="col">Model</th><th scope="col">Licence</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>{switch}</section>"
    )


def _model_row(role: str, spec: ModelSpec) -> str:
    note = f"<br><small>{escape(spec.note)}</small>" if spec.note else ""
    return (
        f'<tr><th scope="row">{escape(role)}</th><td>{escape(spec.name)}</td>'
        f"<td>{escape(spec.licence)}{note}</td></tr>"
    )


def _has_threshold(profile: Profile, lens: Lens) -> bool:
    try:
        model = profile.sentence if lens == "captions" else profile.clip
        return match_threshold(lens, model) is not None
    except ModelError:
        return False


def numbers_explained(profile: Profile) -> str:
    """Return what each number on the page means."""
    unmeasured = [LENS_WORDS[lens].title for lens in LENSES if not _has_threshold(profile, lens)]
    numbers = [
        (term, f"{text} {_UNMEASURED.format(' and the '.join(unmeasured))}")
        if term == _MATCH and unmeasured
        else (term, text)
        for term, text in _NUMBERS
    ]
    fusion = profile.served_fusion
    best = f"{fusion}. {fusion_words(fusion).long} The slider moves the weight."
    terms = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>"
        for term, text in (*numbers, ("best of both", best[:1].upper() + best[1:]))
    )
    return (
        f"<section><h2>What the numbers mean</h2><dl>{terms}</dl></section>"
        "<section><h2>What this browser remembers</h2><p>Your last searches are offered again "
        "while you type; they are kept in this browser and nowhere else. <button "
        'type="button" class="tl-chip" data-forget-recent>Forget them</button></p></section>'
    )
