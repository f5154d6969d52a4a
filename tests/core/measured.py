"""Figures of an evaluation that a test has chosen."""

from __future__ import annotations

from pathlib import Path

from core.files import sha256_of
from core.gallery.figures.metrics_file import Metrics
from tests.core.planted import image_ids

BASE = {
    "captions": 0.2,
    "clip": 0.3,
    "fused": 0.35,
    "fused_rrf": 0.33,
    "fused_sum": 0.35,
    "rrf_60": 0.3,
}
BASE |= {"bm25": 0.1, "random": 0.01}


def _lens(base: float) -> dict:
    values = {"R@1": base, "R@5": 2 * base, "R@10": 2 * base + 0.1, "MRR": base + 0.05}
    values |= {"nDCG@10": base + 0.1}
    intervals = {name: (value - 0.05, value + 0.05) for name, value in values.items()}
    values |= {"images": 60, "queries": 300}
    return values | {"median_rank": 4, "ci95": intervals | {"median_rank": (3, 5)}}


def _curve(vectors: int, nlist: int) -> dict:
    flat = {"kind": "flat", "recall": 1, "p50_ms": vectors / 1e4, "p95_ms": vectors / 5e3}
    points = [flat | {"bytes_per_vector": 1536}]
    for step, nprobe in enumerate((1, 2, nlist)):
        recall = 0.5 + 0.25 * step
        ivf = {"kind": "ivf", "nprobe": nprobe, "recall": recall, "p50_ms": 0.05 + step / 100}
        points.append(ivf | {"p95_ms": 0.1 + step / 50, "bytes_per_vector": 1580})
    return {"vectors": vectors, "dim": 8, "nlist": nlist, "queries": 100, "points": points}


def planted_metrics(folder: Path, hostile: str = "", **changes: object) -> Metrics:
    """Figures for the planted gallery of 60 pictures; ``hostile`` goes into every free text."""
    ids = image_ids(60)
    example = {
        "query": f"a dog {hostile}",
        "caption": f"a brown dog {hostile}",
        "shown_caption": f"a cat {hostile}",
        "captions_rank": 1,
        "clip_rank": 40,
    }
    histogram = {"edges": (0.0, 0.2, 0.4, 0.6), "right": (0.1, 0.3, 0.6), "wrong": (0.5, 0.4, 0.1)}
    group = {"queries": 40, "r_at_5": {"captions": 0.4, "clip": 0.6, "fused": 0.7}}
    group |= {"only_captions": 0.1, "only_clip": 0.3, "overlap_at_10": 0.35}
    content = {
        "gallery": "planted",
        "images": 60,
        "queries": 300,
        "several_relevant": False,
        "lenses": {lens: _lens(base) for lens, base in BASE.items()},
        "tests": [
            {
                "first": "captions",
                "second": "clip",
                "metric": "R@5",
                "difference": -0.2,
                "p_value": 0.0004,
            }
        ],
        "fusion": {
            "method": "z-score sum, caption weight 0.35",
            "rrf": "reciprocal rank fusion, k = 20",
            "weighted_sum": "z-score sum, caption weight 0.35",
            "tuned_on": "another gallery",
            "tuning_mrr": {"z-score sum, caption weight 0.35": 0.41},
            "beats_both": True,
            "verdict": "Fusion beats both lenses.",
        },
        "captions": {
            "images": 60,
            "bleu_4": 15.5,
            "cider": 0.61,
            "clip_score": 0.71,
            "clip_model": "mini-clip (abc)",
            "flagged": 0.02,
            "distinct": 0.8,
        },
        "index": {
            "captions": _curve(60, 4),
            "clip": _curve(60, 4),
            "synthetic": _curve(20_000, 500),
        },
        "groups": [
            {"group": "length", "name": "1 to 6 words"} | group,
            {"group": "content", "name": "a colour"} | group,
        ],
        "kinds": [
            {"kind": "negation", "test": "two_pictures", "queries": 17, "chance": 8.5}
            | {"right": {"captions": 6, "clip": 9}},
            {"kind": "rare", "test": "first_five", "queries": 16, "chance": 1.05}
            | {"right": {"captions": 3, "clip": 8}},
            {"kind": "style", "test": "first_five", "queries": 4, "chance": 0.26}
            | {"right": {"captions": 1, "clip": 4}},
        ],
        "solved_by_one": [
            {"winner": "captions", "image_id": ids[0], "shown_instead": ids[1]} | example,
            {"winner": "clip", "image_id": ids[2], "shown_instead": ids[3]} | example,
        ],
        "scores": {"captions": histogram, "clip": histogram},
        "notes": ["R@k counts a query as found if any relevant picture is among the first k."],
        "seconds": {"rank": 1.5},
        "provenance": {
            "manifest_sha256": sha256_of(folder / "manifest.json"),
            "source": f"photos {hostile}",
            "split": "validation",
            "caption_origin": "generated",
            "query_origin": "reference captions",
            "models": {"clip": {"name": "mini-clip", "revision": "abc", "precision": "fp32"}},
            "seed": 0,
            "resamples": 2000,
            "flips": 10_000,
            "machine": "x86_64, 2 cores",
            "program": "numpy 2",
            "command": f"python -m precompute evaluate planted {hostile}".strip(),
        },
    }
    return Metrics.model_validate(content | changes)
