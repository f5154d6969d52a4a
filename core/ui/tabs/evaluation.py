"""The tab "Which is better?": what an evaluation of the gallery found, and what it does not say."""

from __future__ import annotations

import gradio as gr

from core.gallery.figures.metrics_charts import ENOUGH, LENS_NAMES, percent, share
from core.gallery.figures.metrics_file import (
    IndexCurve,
    LensFigures,
    MetricName,
    Metrics,
    SolvedByOne,
    read_metrics,
)
from core.records import Lens
from core.ui.galleries.shelf import Shelf, ShelvedGallery
from core.ui.parts.events import PAGE_EVENT, sentence_for
from core.ui.parts.markup import LENS_WORDS, escape, explained, milliseconds, ordinal
from core.ui.parts.results.cards import Standing, card
from core.ui.tabs.evaluation_charts import group_table, index_figures, recall_figures, score_figures

_IN_A_SENTENCE: dict[Lens, str] = {"captions": "caption lens", "clip": "CLIP lens"}
_CASES_EACH = 6
_NOTICEABLE_MS = 5.0
_ENOUGH_RECALL = 0.95
_TABLE_METRICS: tuple[MetricName, ...] = ("R@1", "R@5", "R@10", "MRR", "mAP", "nDCG@10")

_R_HELP = (
    "R@5: in how many of 100 queries the right picture is among the first five. R@1 and R@10 "
    "likewise, for the first and the first ten."
)
_MRR_HELP = "Mean of 1 / rank of the right picture: 100 if it always comes first, 50 if second."
_IVF_HELP = (
    "An index that sorts the pictures into clusters beforehand, and looks only into those that are "
    "nearest to the query."
)
_P_HELP = (
    "How often a difference this large would come about by luck if both were equally good. "
    "Under 0.05 is usually taken to mean that it is no luck."
)
_WHISKER_HELP = (
    "The pictures measured are a sample. Ranges worked out in this way hold the figure for all "
    "pictures of the kind in about 95 of 100 samples."
)


def evaluation_tab(shelf: Shelf, gallery: gr.Textbox, tab: gr.Tab) -> None:
    """Build the tab inside the current ``gr.Tab``; it is drawn anew whenever it is opened.

    Args:
        shelf: The galleries.
        gallery: The component whose value is the name of the gallery to show.
        tab: The tab itself.
    """
    view = gr.HTML("", apply_default_css=False, elem_classes=["tl-bare", "tl-about", "tl-measured"])

    def on_open(name: str | None) -> str:
        try:
            return evaluation_view(shelf, name)
        except Exception as error:
            return f"<section><p>{escape(sentence_for(error, 'evaluation'))}</p></section>"

    gr.on([tab.select, gallery.change], on_open, gallery, view, **PAGE_EVENT)


def evaluation_view(shelf: Shelf, gallery: str | None) -> str:
    """Return what the tab shows of a gallery."""
    if not shelf.entries:
        return "<section><h2>Which is better?</h2><p>No gallery is loaded.</p></section>"
    entry = shelf.entry(gallery)
    found = read_metrics(entry.gallery)
    if not isinstance(found, Metrics):
        being_measured = shelf.awaited is not None and not shelf.awaited.trouble
        return _without_figures(entry, found, being_measured=being_measured)
    return "".join(
        (
            _verdict(found),
            _figures(found),
            _differences(found),
            _cases(entry, found),
            _scores(found),
            _index(found),
            _captions(found),
            _meaning(found),
        )
    )


def _without_figures(entry: ShelvedGallery, sentence: str, *, being_measured: bool) -> str:
    folder = f"galleries/{entry.gallery.folder.name}"
    if being_measured:
        return (
            '<section><h2>Which is better?</h2><div class="tl-notice"><p>This gallery is being '
            "measured at this moment. Open this tab again in half a minute.</p></div></section>"
        )
    if entry.gallery.has_references:
        why = (
            "Its source has captions that people wrote, so both lenses can be measured. One "
            "command does it; then open this tab again:"
        )
        command = f"python -m precompute evaluate {folder}"
    else:
        why = (
            "To measure a search, somebody has to have written down what it should find, and "
            "nobody did for these pictures. A source with a caption for each picture, by a "
            "person, can be measured:"
        )
        command = (
            "python -m precompute build PHOTOS --caption-column captions --out galleries/mine\n"
            "python -m precompute evaluate galleries/mine"
        )
    return (
        '<section><h2>Which is better?</h2><div class="tl-notice"><p><strong>'
        f"{escape(sentence)}</strong> {why}</p><pre>{escape(command)}</pre></div></section>"
    )


def _verdict(metrics: Metrics) -> str:
    captions, clip = metrics.lenses["captions"], metrics.lenses["clip"]
    test = next(
        (t for t in metrics.tests if (t.first, t.second, t.metric) == ("captions", "clip", "R@5")),
        None,
    )
    evidence = ""
    if test is not None:
        shown = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
        evidence = f" ({explained(shown, _P_HELP)})"
    sure = test is not None and test.p_value < 0.05 and captions.r_at_5 != clip.r_at_5
    better: Lens = "captions" if captions.r_at_5 > clip.r_at_5 else "clip"
    other: Lens = "clip" if better == "captions" else "captions"
    queries = "queries" if captions.queries < ENOUGH else "queries in 100"
    if sure:
        headline = f"The {_IN_A_SENTENCE[better]}, on these pictures"
        sentence = (
            f"The right picture is among the first five for {_found(metrics.lenses[better])} "
            f"{queries}, against {_found(metrics.lenses[other])} with the "
            f"{_IN_A_SENTENCE[other]}{evidence}."
        )
    else:
        headline = "Neither, on these pictures"
        sentence = (
            f"The right picture is among the first five for {_found(captions)} {queries} "
            f"with the caption lens and {_found(clip)} with CLIP; a difference this small may be "
            f"luck{evidence}."
        )
    both = metrics.lenses["fused"]
    together = (
        f"Both together find it for {_found(both)}."
        if metrics.fusion.beats_both
        else f"Both together find it for {_found(both)}: no clear gain."
    )
    split = f", split {escape(metrics.provenance.split)}" if metrics.provenance.split else ""
    return (
        f'<section class="tl-m-verdict"><p class="tl-m-question">Which is better?</p>'
        f"<h2>{headline}</h2><p>{sentence} {together}</p>"
        f'<p class="tl-note">{metrics.images:,} pictures of {escape(metrics.provenance.source)}'
        f"{split}; {metrics.queries:,} queries, {escape(metrics.provenance.query_origin)}."
        "</p></section>"
    )


def _found(figures: LensFigures) -> str:
    """Return how many of 100 queries are solved, or of how many there are if they are few."""
    if figures.queries < ENOUGH:
        return share(figures.r_at_5, figures.queries)
    return f"{100 * figures.r_at_5:.0f}"


def _figures(metrics: Metrics) -> str:
    names = [
        name
        for name in _TABLE_METRICS
        if name != "mAP" or metrics.lenses["clip"].mean_ap is not None
    ]
    rows = []
    for lens, figures in metrics.lenses.items():
        cells = "".join(_cell(figures, name) for name in names)
        rows.append(
            f'<tr><th scope="row">{LENS_NAMES[lens]}</th>{cells}'
            f"<td>{figures.median_rank:g}</td></tr>"
        )
    head = "".join(f'<th scope="col">{name}, %</th>' for name in names)
    tests = "".join(
        f"<tr><th scope='row'>{LENS_NAMES[test.first]} minus {LENS_NAMES[test.second]}</th>"
        f"<td>{test.metric}</td><td>{100 * test.difference:+.1f}</td><td>{test.p_value:.4f}</td>"
        "</tr>"
        for test in metrics.tests
    )
    return (
        "<section><h2>How often the right picture is found</h2>"
        f"<p>{explained('R@1, R@5, R@10', _R_HELP)} "
        f"and {explained('MRR', _MRR_HELP)} in percent; the thin line is the "
        f"{explained('95 % interval', _WHISKER_HELP)}.</p>{recall_figures(metrics)}"
        f"<details><summary>All figures</summary>"
        f'<div class="tl-table"><table><thead><tr><th></th>{head}<th scope="col">median rank</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<p>Best of both is {escape(metrics.fusion.method)}, chosen on "
        f"{escape(metrics.fusion.tuned_on)}. {escape(metrics.fusion.verdict)}</p>"
        '<div class="tl-table"><table><thead><tr><th></th><th scope="col">metric</th>'
        '<th scope="col">difference</th><th scope="col">p</th></tr></thead>'
        f"<tbody>{tests}</tbody></table></div></details></section>"
    )


def _cell(figures: LensFigures, name: MetricName) -> str:
    value, (low, high) = figures.value(name), figures.ci95[name]
    if figures.queries >= ENOUGH:
        return f"<td>{percent(value)}<br><small>{percent(low)} to {percent(high)}</small></td>"
    # Of few queries whole percents say all that there is, and counts say it better.
    shown = share(value, figures.queries) if name.startswith("R@") else f"{100 * (value or 0):.0f}"
    return f"<td>{shown}<br><small>{100 * low:.0f} to {100 * high:.0f} %</small></td>"


def _differences(metrics: Metrics) -> str:
    if not metrics.groups:
        return ""
    return (
        "<section><h2>Where they differ</h2><p>R@5 by the length of the query and by what it "
        "speaks of, found by plain word lists. "
        '<span class="tl-m-legend captions">● Caption lens</span> '
        '<span class="tl-m-legend clip">◆ CLIP lens</span> '
        '<span class="tl-m-legend fused">○ both</span></p>'
        f"{group_table(metrics.groups)}</section>"
    )


def _cases(entry: ShelvedGallery, metrics: Metrics) -> str:
    parts = []
    for lens in ("captions", "clip"):
        title = f"Only the {_IN_A_SENTENCE[lens]} finds it"
        found = [each for each in metrics.solved_by_one if each.winner == lens][:_CASES_EACH]
        cases = "".join(_case(entry, each) for each in found)
        body = f'<ol class="tl-m-cases">{cases}</ol>' if cases else "<p>No query of this kind.</p>"
        parts.append(
            f'<div class="tl-lens {lens}"><header class="tl-lens-head"><h3>'
            f"{LENS_WORDS[lens].mark}{title}</h3></header>{body}</div>"
        )
    return (
        '<section class="tl-m-wide"><h2>Queries that only one of them solves</h2><p>The right '
        "picture, and beside it what the other lens puts first instead.</p>"
        f'<div class="tl-m-both">{"".join(parts)}</div></section>'
    )


def _case(entry: ShelvedGallery, case: SolvedByOne) -> str:
    loser: Lens = "clip" if case.winner == "captions" else "captions"
    ranks = {"captions": case.captions_rank, "clip": case.clip_rank}
    standing = Standing(query=case.query)
    right, wrong = (
        card(entry, image_id, standing, caption=True, nearest=_place(entry, image_id, caption))
        for image_id, caption in (
            (case.image_id, case.caption),
            (case.shown_instead, case.shown_caption),
        )
    )
    return (
        f'<li class="tl-m-case"><p class="tl-m-query">{escape(case.query)}</p>'
        f'<div class="tl-m-pair"><ul class="tl-m-right">{right}</ul><ul>{wrong}</ul></div>'
        f'<p class="tl-m-ranks"><strong>{LENS_WORDS[case.winner].title}: '
        f"{ordinal(ranks[case.winner])}</strong> {LENS_WORDS[loser].title}: "
        f"{ordinal(ranks[loser])}</p></li>"
    )


def _place(entry: ShelvedGallery, image_id: str, caption: str) -> int:
    texts = [each.text for each in entry.gallery.record(image_id).captions]
    return texts.index(caption) if caption in texts else 0


def _scores(metrics: Metrics) -> str:
    return (
        "<section><h2>How sure a score is</h2><p>The further the two shapes lie apart, the more a "
        "score says. The scales of the two lenses do not compare.</p>"
        f"{score_figures(metrics)}</section>"
    )


def _index(metrics: Metrics) -> str:
    if not metrics.index:
        return ""
    largest = max(metrics.index.values(), key=lambda curve: curve.vectors)
    own = metrics.index.get("clip") or largest
    sentences = _index_verdict(own)
    if largest.vectors > own.vectors:
        sentences += f" {_index_verdict(largest)}"
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}, {curve.vectors:,}</th>'
        f"<td>{'flat' if point.kind == 'flat' else f'IVF, nprobe {point.nprobe}'}</td>"
        f"<td>{point.recall:.1%}</td><td>{point.p50_ms:.3g}</td><td>{point.p95_ms:.3g}</td>"
        f"<td>{point.bytes_per_vector:,.0f}</td></tr>"
        for name, curve in metrics.index.items()
        for point in curve.points
    )
    return (
        "<section><h2>Is a faster index worth it?</h2>"
        f"<p>{explained('IVF', _IVF_HELP)} looks at a part of the pictures only. {sentences}</p>"
        f"<details><summary>All figures</summary>{index_figures(metrics)}"
        '<div class="tl-table"><table><thead><tr><th scope="col">vectors</th><th scope="col">index'
        '</th><th scope="col">of flat\'s ten</th><th scope="col">median, ms</th>'
        '<th scope="col">95th percentile, ms</th><th scope="col">bytes a vector</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details></section>"
    )


def _index_verdict(curve: IndexCurve) -> str:
    flat, *ivf = curve.points
    compared = f"comparing with all {curve.vectors:,} takes {milliseconds(flat.p50_ms)}"
    good = [point for point in ivf if point.recall >= _ENOUGH_RECALL]
    if not good:
        return f"No: {compared}, and no setting of IVF finds 95 % of the same pictures."
    best = min(good, key=lambda point: point.p50_ms)
    found = f"IVF finds {best.recall:.0%} of the same in {milliseconds(best.p50_ms)}"
    if best.p50_ms >= flat.p50_ms:
        return f"No: {compared}; {found}."
    if flat.p50_ms < _NOTICEABLE_MS:
        return f"Hardly: {compared}, too little to notice; {found}."
    return f"Yes: {compared}; {found}."


def _captions(metrics: Metrics) -> str:
    quality = metrics.captions
    if quality is None:
        return ""
    cider = (
        ""
        if quality.cider is None
        else (
            f"<dt>CIDEr {quality.cider:.2f}</dt><dd>Likewise, rare words counting more; people are "
            "at about 0.9 to 1 with each other.</dd>"
        )
    )
    return (
        "<section><h2>The captions themselves</h2><p>Compared with what people wrote about the "
        f"same {quality.images:,} pictures.</p><dl>"
        f"<dt>BLEU-4 {quality.bleu_4:.1f}</dt><dd>Of 100: word sequences shared with people.</dd>"
        f"{cider}<dt>CLIPScore {quality.clip_score:.2f}</dt><dd>How well captions fit their "
        f"pictures, as {escape(quality.clip_model)} sees it; it does not compare with another "
        "CLIP's.</dd>"
        f"<dt>{share(quality.flagged, quality.images)} malformed</dt><dd>Empty captions, and those "
        "that repeat themselves or echo the instruction.</dd>"
        f"<dt>{share(quality.distinct, quality.images)} distinct</dt><dd>Where two pictures share "
        "a caption, the caption lens cannot tell them apart.</dd></dl></section>"
    )


def _meaning(metrics: Metrics) -> str:
    models = "; ".join(
        f"{escape(model.name)} ({escape(model.revision)}, {escape(model.precision)})"
        for model in metrics.provenance.models.values()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in metrics.notes)
    return (
        "<section><h2>What the numbers say, and what not</h2><p>They say how often a sentence "
        "that somebody wrote about a picture finds that picture among all the others. They do not "
        "say how well a lens serves queries of another kind, such as two words or a mood, nor how "
        "it does on other pictures, nor whether the pictures above the right one are bad: another "
        f"may fit the words just as well.</p><ul>{notes}</ul>"
        f"<p>Models: {models}. Seed {metrics.provenance.seed}. "
        f"{escape(metrics.provenance.machine)}.</p>"
        f"<pre>{escape(metrics.provenance.command)}</pre></section>"
    )
