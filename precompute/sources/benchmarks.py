"""Standard benchmarks, and published figures to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A text-to-image retrieval benchmark: which pictures, which captions, from where.

    Attributes:
        name: What ``build`` and the report call it.
        title: What the literature calls it.
        dataset: Hugging Face dataset id.
        revision: Commit of the dataset, so that the figures stay comparable.
        split: Split of the dataset.
        image_column: Column of the pictures.
        caption_column: Column of the five captions.
        caption_lines: Whether that is one text with a caption a line, not a list.
        images: Pictures in the split.
        queries: All five captions of each.
    """

    name: str
    title: str
    dataset: str
    revision: str
    split: str
    image_column: str
    caption_column: str
    images: int
    queries: int
    caption_lines: bool = False


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="flickr8k",
            title="Flickr8k test (1K)",
            dataset="clip-benchmark/wds_flickr8k",
            revision="29a4c1415476776da0825c11b5175d5c3bdae68e",
            split="test",
            image_column="jpg",
            caption_column="txt",
            images=1000,
            queries=5000,
            caption_lines=True,
        ),
        Benchmark(
            name="flickr30k",
            title="Flickr30k test (1K Karpathy)",
            dataset="royokong/flickr30k_test",
            revision="e5d418e5d73970abdca4f9d97914e1b4cce76478",
            split="test",
            image_column="image",
            caption_column="text",
            images=1000,
            queries=5000,
        ),
        Benchmark(
            name="coco",
            title="COCO test (5K Karpathy)",
            dataset="royokong/coco_test",
            revision="da692c8d9fb7b7b24424984f02499244c80221cf",
            split="test",
            image_column="image",
            caption_column="text",
            images=5000,
            queries=25010,
        ),
    )
}


def benchmark_of(dataset: str, split: str | None) -> Benchmark | None:
    """Return the benchmark that a dataset id and split are, or None."""
    for candidate in BENCHMARKS.values():
        if (candidate.dataset, candidate.split) == (dataset, split):
            return candidate
    return None


@dataclass(frozen=True, slots=True)
class Published:
    """A published text-to-image figure, in percent.

    Attributes:
        model: As its authors or measurers call it.
        benchmark: Name in :data:`BENCHMARKS`.
        recall: R@1, R@5, R@10; None where not published.
        source: Where the figure was read.
    """

    model: str
    benchmark: str
    recall: tuple[float | None, float | None, float | None]
    source: str


_OPEN_CLIP = "open_clip, docs/openclip_retrieval_results.csv (zero-shot)"
_LAVIS = "LAVIS, BLIP retrieval fine-tuned (Li et al. 2022)"
_BLIP2 = "Li et al. 2023, BLIP-2, table 5 (fine-tuned on COCO; Flickr30k zero-shot)"

PUBLISHED: tuple[Published, ...] = (
    Published("CLIP ViT-B/32 OpenAI", "flickr8k", (None, 80.5, None), _OPEN_CLIP),
    Published("CLIP ViT-B/32 LAION-2B", "flickr8k", (None, 86.3, None), _OPEN_CLIP),
    Published("CLIP ViT-L/14 OpenAI", "flickr8k", (None, 86.3, None), _OPEN_CLIP),
    Published("CLIP ViT-B/32 OpenAI", "flickr30k", (58.8, 83.6, 90.0), _OPEN_CLIP),
    Published("CLIP ViT-B/32 LAION-2B", "flickr30k", (66.8, 88.4, 93.1), _OPEN_CLIP),
    Published("CLIP ViT-L/14 OpenAI", "flickr30k", (65.0, 87.2, 92.0), _OPEN_CLIP),
    Published("BLIP", "flickr30k", (87.5, 97.6, 98.9), _LAVIS),
    Published("BLIP-2 ViT-g", "flickr30k", (89.7, 98.1, 98.9), _BLIP2),
    Published("CLIP ViT-B/32 OpenAI", "coco", (30.4, 55.9, 66.9), _OPEN_CLIP),
    Published("CLIP ViT-B/32 LAION-2B", "coco", (39.3, 65.4, 75.6), _OPEN_CLIP),
    Published("CLIP ViT-L/14 OpenAI", "coco", (36.5, 61.1, 71.1), _OPEN_CLIP),
    Published("BLIP", "coco", (64.5, 86.0, 91.7), _LAVIS),
    Published("BLIP-2 ViT-g", "coco", (68.3, 87.7, 92.6), _BLIP2),
)
