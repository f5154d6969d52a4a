"""Published figures of the standard benchmarks, to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """A published text-to-image figure, in percent.

    Attributes:
        model: As its authors or measurers call it.
        benchmark: Name in :data:`precompute.sources.presets.PRESETS`.
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

BENCHMARKS = tuple(dict.fromkeys(each.benchmark for each in PUBLISHED))
"""Names of the presets that figures are published of, all five captions of a picture as queries."""
