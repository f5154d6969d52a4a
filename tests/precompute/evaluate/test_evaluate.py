"""An evaluation from gallery to figures, on planted embeddings and through the command line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from core.errors import SourceError
from core.gallery.figures.metrics_file import read_metrics
from core.gallery.manifest import SourceRef
from core.gallery.reader import Gallery
from core.gallery.writer import write_gallery
from core.models.clip import hubs
from core.models.locate import revision_of
from core.models.profiles import PROFILES, Models
from core.records import LENSES, SAMPLE_NAME, Fusion
from precompute.__main__ import app
from precompute.evaluate.command import table, typed_words
from precompute.evaluate.gallery_metrics import Plan, evaluate
from precompute.evaluate.report import markdown
from tests.core.planted import (
    CREATED_AT,
    PlantedCopies,
    PlantedEncoder,
    profile,
    records,
    unit_rows,
)

IMAGES, EACH = 40, 3


class Planted:
    """40 pictures with three references each; the lenses see the truth through different noise."""

    def __init__(self, folder, noise=(1.5, 1.0), seed=0, **manifest):
        self.folder = folder / f"gallery {seed}"
        self.profile = profile(folder / "models", 24, 32)
        generator = np.random.default_rng(seed)
        self.records = [
            replace(
                record,
                caption=f"a dog number {row} runs",
                references=tuple(f"query {i} of picture {row} {seed}" for i in range(EACH)),
            )
            for row, record in enumerate(records(IMAGES))
        ]
        texts = [text for record in self.records for text in record.references]
        self.queries, self.images = {}, {}
        for lens, dim, much in (("captions", 24, noise[0]), ("clip", 32, noise[1])):
            truth = unit_rows(IMAGES, dim, seed=7)
            for found, rows in ((self.images, truth), (self.queries, np.repeat(truth, EACH, 0))):
                seen = rows + much * generator.normal(size=rows.shape) / np.sqrt(dim)
                seen /= np.linalg.norm(seen, axis=1, keepdims=True)
                found[lens] = seen.astype(np.float32)
        captions = {
            record.caption: row
            for record, row in zip(self.records, self.images["clip"], strict=True)
        }
        self.models = Models(
            self.profile,
            sentence=PlantedEncoder(
                self.profile.sentence, dict(zip(texts, self.queries["captions"], strict=True))
            ),
            clip=PlantedEncoder(
                self.profile.clip, dict(zip(texts, self.queries["clip"], strict=True)) | captions
            ),
        )
        self.folder.mkdir()
        self.write(**manifest)

    def write(self, **changes):
        write_gallery(
            self.folder,
            name="planted",
            records=changes.pop("records", self.records),
            caption_embeddings=self.images["captions"],
            clip_embeddings=self.images["clip"],
            copies=PlantedCopies(self.records),
            profile=self.profile,
            source=changes.pop(
                "source", SourceRef(kind="imagefolder", id="photos", split="validation")
            ),
            created_at=CREATED_AT,
            **changes,
        )

    def plan(self, **changes) -> Plan:
        few = {"resamples": 200, "flips": 500, "synthetic_vectors": 0}
        return Plan(self.folder, **few | changes)


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path)


def scores_of(planted: Planted, lens: str) -> np.ndarray:
    return planted.queries[lens].astype(np.float64) @ planted.images[lens].T.astype(np.float64)


def ranks(planted: Planted, lens: str) -> np.ndarray:
    scores = scores_of(planted, lens)
    own = scores[np.arange(IMAGES * EACH), np.repeat(np.arange(IMAGES), EACH)]
    return 1 + (scores > own[:, None] + 1e-9).sum(axis=1)


def without_times(metrics) -> dict:
    content = metrics.model_dump(by_alias=True)
    del content["seconds"]
    for curve in content["index"].values():
        for point in curve["points"]:
            del point["p50_ms"], point["p95_ms"]
    return content


def test_figures_are_those_of_a_second_computation(planted):
    found = evaluate(planted.plan(), planted.models)
    assert (found.images, found.queries, found.several_relevant) == (IMAGES, IMAGES * EACH, False)
    for lens in ("captions", "clip"):
        expected, figures = ranks(planted, lens), found.lenses[lens]
        for k in (1, 5, 10):
            assert figures.value(f"R@{k}") == pytest.approx((expected <= k).mean(), abs=1e-6)
        assert figures.mrr == pytest.approx((1 / expected).mean(), abs=1e-6)
        assert figures.median_rank == np.median(expected)
        ndcg = np.where(expected <= 10, 1 / np.log2(1 + expected), 0).mean()
        assert figures.ndcg_at_10 == pytest.approx(ndcg, abs=1e-6)
        assert figures.mean_ap is None
        for metric, (low, high) in figures.ci95.items():
            assert low <= figures.value(metric) <= high
    assert found.lenses["clip"].mrr > found.lenses["captions"].mrr
    assert found.lenses["bm25"].mrr > 0.7  # captions and queries share the picture's number
    both = [np.argsort(np.argsort(-scores_of(planted, lens), axis=1), axis=1) for lens in LENSES]
    plain = sum(1 / (61 + places) for places in both)
    own = plain[np.arange(IMAGES * EACH), np.repeat(np.arange(IMAGES), EACH)]
    earlier = np.arange(IMAGES) < np.repeat(np.arange(IMAGES), EACH)[:, None]
    tied = np.isclose(plain, own[:, None], rtol=0, atol=1e-12)
    placed = 1 + ((plain > own[:, None]) & ~tied).sum(axis=1) + (tied & earlier).sum(axis=1)
    assert found.lenses["rrf_60"].mrr == pytest.approx((1 / placed).mean(), abs=1e-3)
    assert found.lenses["random"].r_at_10 == pytest.approx(10 / IMAGES, abs=0.13)
    assert found.provenance.split == "validation"
    assert set(found.provenance.models) == {"sentence", "clip", "captioner"}
    test = next(t for t in found.tests if (t.first, t.metric) == ("captions", "MRR"))
    gap = found.lenses["captions"].mrr - found.lenses["clip"].mrr
    assert test.difference == pytest.approx(gap, abs=2e-6)
    assert found.captions is not None and found.captions.clip_score == pytest.approx(2.5)
    assert [example.winner for example in found.solved_by_one].count("clip") >= 1


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(planted):
    one = without_times(evaluate(planted.plan(), planted.models))
    assert one == without_times(evaluate(planted.plan(), planted.models))
    other = without_times(evaluate(planted.plan(seed=1), planted.models))
    assert one["lenses"]["random"] != other["lenses"]["random"]
    assert one["lenses"]["clip"]["R@5"] == other["lenses"]["clip"]["R@5"]


def test_a_gallery_of_one_picture_has_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.IMAGES", 1)
    planted = Planted(tmp_path)
    found = evaluate(planted.plan(), planted.models)
    assert (found.images, found.lenses["clip"].mrr) == (1, 1.0)
    assert {test.p_value for test in found.tests} == {1.0}


def test_lenses_that_err_differently_are_better_together_and_the_verdict_says_so(tmp_path):
    planted, other = Planted(tmp_path, (1.3, 1.3)), Planted(tmp_path, (1.3, 1.3), seed=1)
    texts = planted.models.sentence.texts | other.models.sentence.texts
    clip = planted.models.clip.texts | other.models.clip.texts
    models = Models(
        planted.profile,
        sentence=PlantedEncoder(planted.profile.sentence, texts),
        clip=PlantedEncoder(planted.profile.clip, clip),
    )
    for plan in (planted.plan(), planted.plan(tune_on=other.folder)):
        found = evaluate(plan, models)
        lenses = found.lenses
        assert lenses["fused"].mrr > max(lenses["captions"].mrr, lenses["clip"].mrr)
        assert found.fusion.beats_both == all(
            test.difference > 0 and test.p_value < 0.05
            for test in found.tests
            if test.first == "fused"
        )
        assert ("beats both" in found.fusion.verdict) == found.fusion.beats_both
        assert 0 < max(found.fusion.tuning_mrr.values()) < 1
    assert found.fusion.tuned_on == f"planted: {IMAGES} images, {IMAGES * EACH} queries"


def test_what_compare_shows_is_what_is_measured_as_fused(tmp_path, monkeypatch):
    planted = Planted(tmp_path)
    bank = unit_rows(30, 32, seed=3)
    save_file({revision_of(planted.profile.clip): bank}, tmp_path / "hubs.safetensors")
    monkeypatch.setattr(hubs, "BANK_FILE", tmp_path / "hubs.safetensors")
    planted.profile = replace(planted.profile, fusion=Fusion("corrected", 0.2))
    models = Models(
        planted.profile, sentence=planted.models.sentence, clip=planted.models.clip
    )  # fmt: skip
    found = evaluate(planted.plan(), models)
    own = np.repeat(np.arange(IMAGES), EACH)
    owed = 0.5 * np.sort(planted.images["clip"] @ bank.T, axis=1)[:, -10:].mean(axis=1)
    corrected = scores_of(planted, "clip") - owed
    clip, captions = scores_of(planted, "clip"), scores_of(planted, "captions")
    joined = 0.8 * (corrected - clip.mean(axis=1, keepdims=True)) / clip.std(axis=1, keepdims=True)
    centred = captions - captions.mean(axis=1, keepdims=True)
    joined += 0.2 * centred / captions.std(axis=1, keepdims=True)
    for name, scores in (("clip_corrected", corrected), ("fused", joined)):
        placed = 1 + (scores > scores[np.arange(len(own)), own][:, None] + 1e-9).sum(axis=1)
        assert found.lenses[name].mrr == pytest.approx((1 / placed).mean(), abs=2e-3)
    assert found.lenses["clip"].mrr == pytest.approx((1 / ranks(planted, "clip")).mean(), abs=1e-6)
    assert found.fusion.method == "corrected z-score sum, caption weight 0.2"
    assert "the one that Compare shows" in found.fusion.tuned_on
    assert ("fused", "clip_corrected") in {(test.first, test.second) for test in found.tests}
    elsewhere = evaluate(planted.plan(tune_on=planted.folder), models)
    assert elsewhere.fusion.tuned_on.startswith("planted: 40 images")
    assert elsewhere.lenses["fused"].mrr == pytest.approx(
        max(elsewhere.fusion.tuning_mrr.values()), abs=1e-4
    )


def test_a_lens_that_knows_nothing_cannot_help_and_the_verdict_says_so(tmp_path):
    planted = Planted(tmp_path, (50.0, 0.35))
    found = evaluate(planted.plan(), planted.models)
    assert not found.fusion.beats_both
    assert "Fusion does not beat the CLIP lens in" in found.fusion.verdict
    assert found.lenses["fused"].mrr == pytest.approx(found.lenses["clip"].mrr, abs=0.05)


def test_qrels_with_several_relevant_pictures_have_a_mean_average_precision(planted, tmp_path):
    ids = [record.id for record in planted.records]
    (tmp_path / "qrels").write_text(f"a 0 {ids[0]} 1\na 0 {ids[1]} 1\nb 0 {ids[3]} 1\n")
    (tmp_path / "queries").write_text(
        f"a\t{planted.records[0].references[0]}\nb\t{planted.records[3].references[1]}\n"
    )
    found = evaluate(
        planted.plan(qrels=tmp_path / "qrels", queries=tmp_path / "queries"), planted.models
    )
    assert found.several_relevant and found.queries == 2
    placed = np.argsort(-(planted.queries["clip"][[0, 10]] @ planted.images["clip"].T), axis=1)
    places = sorted(int(np.flatnonzero(placed[0] == image)[0]) + 1 for image in (0, 1))
    first = (1 / places[0] + 2 / places[1]) / 2
    second = 1 / (int(np.flatnonzero(placed[1] == 3)[0]) + 1)
    assert found.lenses["clip"].mean_ap == pytest.approx((first + second) / 2, abs=1e-6)
    assert "mAP" in found.lenses["clip"].ci95
    assert any("incomplete" in note for note in found.notes)


def test_given_captions_are_not_judged_as_a_captioner_s(planted):
    planted.write(caption_origin="column:captions")
    found = evaluate(planted.plan(), planted.models)
    assert found.captions is None
    assert found.provenance.caption_origin == "column:captions"


def test_without_the_package_for_cider_all_else_is_measured(planted, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    found = evaluate(planted.plan(), planted.models)
    assert found.captions is not None and found.captions.cider is None
    assert "CIDEr not worked out" in table(found)
    assert "| - |" in markdown(found)


def test_the_default_gallery_says_who_wrote_its_queries(planted):
    planted.write(source=SourceRef(kind="imagefolder", id=SAMPLE_NAME))
    found = evaluate(planted.plan(), planted.models)
    assert "TwoLens team wrote" in found.provenance.query_origin
    assert "The team that made TwoLens" in found.notes[0]


@pytest.fixture
def command(planted, monkeypatch, tmp_path):
    """The command line, its mini profile being the planted models."""
    named = replace(planted.profile, name="mini")
    monkeypatch.setitem(PROFILES, "mini", named)
    monkeypatch.setattr(
        "precompute.evaluate.gallery_metrics.Models", lambda *_, **__: planted.models
    )
    planted.profile = named
    planted.write()

    def run(*words: str):
        return CliRunner().invoke(app, ["evaluate", *map(str, words), "--index-size", "0"])

    return run


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (["/home/me/secret/beach"], ["beach"]),
        (["galleries/beach/", "--report", "../private/report"], ["beach", "--report", "report"]),
        (["beach", "--json=kept/by/me/f.json", "--seed=3"], ["beach", "--json=f.json", "--seed=3"]),
        (["."], [Path.cwd().name]),
    ],
)
def test_the_command_that_is_kept_names_no_folder_of_the_operators(monkeypatch, typed, shown):
    monkeypatch.setattr("sys.argv", ["precompute", "evaluate", *typed])
    assert typed_words(Path("unused")) == shown


def test_figures_that_cannot_be_written_into_the_gallery_are_not_lost(command, planted, tmp_path):
    """A folder of that name, which not even the superuser can replace by a file."""
    (planted.folder / "metrics.json").mkdir()
    targets = ("--json", tmp_path / "f.json", "--report", tmp_path / "report")
    done = command(planted.folder, *targets)
    assert done.exit_code == 2
    assert "random" in done.output and "fused is" in done.output
    assert "could not be written into" in done.output and "Is a directory" in done.output
    assert json.loads((tmp_path / "f.json").read_text())["lenses"]
    assert (tmp_path / "report" / "report.md").is_file()
    assert not list(planted.folder.glob(".metrics*"))


def test_the_command_writes_figures_report_charts_and_pictures(command, planted, tmp_path):
    done = command(planted.folder, "--json", tmp_path / "f.json", "--report", tmp_path / "report")
    assert done.exit_code == 0, done.output
    assert "random" in done.output and "fused is" in done.output
    metrics = read_metrics(Gallery.open(planted.folder, planted.profile))
    assert (tmp_path / "f.json").read_text() == metrics.to_json()
    content = json.loads((tmp_path / "f.json").read_text())
    assert {"captions", "clip", "fused", "bm25", "random"} <= set(content["lenses"])
    Gallery.open(planted.folder, planted.profile)
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"{100 * metrics.lenses['clip'].r_at_5:.1f}" in report
    assert "CLIP ViT-B/32 LAION-2B" in report and "BLIP-2" in report
    names = {path.name for path in (tmp_path / "report").iterdir()}
    drawn = {"recall-r-at-1.svg", "recall-mrr.svg", "scores-clip.svg", "index-captions.svg"}
    assert {*drawn, "report.md"} <= names
    assert set(re.findall(r"!\[[^]]+\]\((.+?)\)", report)) == {n for n in names if "svg" in n}
    for name in drawn:
        ElementTree.parse(tmp_path / "report" / name)
    for example in metrics.solved_by_one[:1]:
        assert f"{example.image_id}.webp" in names
    again = command(planted.folder, "--report", tmp_path / "report")
    assert again.exit_code == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def no_references(planted):
    planted.write(records=[replace(record, references=()) for record in planted.records])


@pytest.mark.parametrize(
    ("spoil", "words", "sentence"),
    [
        (no_references, (), "no reference captions"),
        (None, ("--qrels", "qrels", "--queries", "queries"), "'z.jpg', which the gallery lacks"),
        (None, ("--qrels", "qrels"), "--qrels and --queries go together"),
        (None, ("--judgements", "."), "neither ExpertAnnotations.txt nor"),
        (None, ("--json", "absent/f.json"), "should hold absent/f.json does not exist"),
        (None, ("--report", "qrels"), "names a folder, and qrels is a file"),
        (None, ("--json", "."), "names a file"),
        (None, ("--profile", "huge"), "no profile 'huge'"),
        (None, ("--tune-on", "absent"), "There is no gallery folder absent"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    command, planted, monkeypatch, tmp_path, spoil, words, sentence
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qrels").write_text("a 0 z.jpg 1\n")
    (tmp_path / "queries").write_text("a\ta dog\n")
    if spoil:
        spoil(planted)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = command(planted.folder, *words)
    assert done.exit_code == 2, done.output
    assert re.search(sentence, done.output), done.output
    assert len(done.output.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_profile_that_is_not_known_here(planted):
    with pytest.raises(SourceError, match="built with the profile 'planted'"):
        evaluate(planted.plan())
