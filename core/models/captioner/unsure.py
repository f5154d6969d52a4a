"""When a caption is called unsure: the CLIP lens finds that it hardly fits its picture.

A captioner is as sure of itself on a picture that it has no words for as on any other, so its own
probabilities say little about that. The CLIP lens looks at the same picture, through the same image
tower in the small models, but learnt to compare and not to write: the fit of a caption is how much
nearer it lies to the picture, in CLIP's space, than what this captioner writes of other pictures.
A picture that is near to nothing that people say of photos, as a page or a drawing, fits worse: its
hubness (:mod:`core.models.clip.hubs`) counts too. So does a second opinion, where the captioner has
a namer (:mod:`core.models.captioner.naming`): how likely a classifier, a network of its own, finds
the things that the caption mentions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from core.errors import ModelError
from core.models.captioner.settings import DECODING_FILE
from core.models.clip.hubs import hubness, text_bank
from core.models.locate import files_of, revision_of
from core.records import UNSURE, Caption, SeenCaption

if TYPE_CHECKING:
    from core.models.spec import ModelSpec, TextEncoder


@dataclass(frozen=True, slots=True)
class UnsureRule:
    """What ``twolens.json`` of a captioner holds under ``unsure``, chosen on data.

    Attributes:
        below: A caption whose fit is less is unsure.
        usual: The captions that the fit is measured against.
        clip_revision: Of the CLIP model that it was chosen with; another one measures otherwise.
        hubness_weight: What the picture's hubness counts in the fit; 0 where the CLIP model had no
            bank of texts.
        seen_weight: What it counts that a classifier sees what the caption mentions.
    """

    below: float
    usual: tuple[str, ...]
    clip_revision: str
    hubness_weight: float = 0.0
    seen_weight: float = 0.0


HUBNESS_WEIGHT = 2.0
"""Of new rules: with 1 fewer pictures unlike photos are caught, with 3 more right captions are
flagged."""

SEEN_WEIGHT = 0.3
"""Of new rules: with more, a pie chart passes in which the classifier sees a clock."""


_usual_embeddings: WeakKeyDictionary[TextEncoder, tuple[tuple[str, ...], np.ndarray]] = (
    WeakKeyDictionary()
)
"""Of each CLIP model that is in use, the mean embedding of the texts asked about last."""


def read_unsure_rule(captioner: ModelSpec, clip: ModelSpec) -> UnsureRule | None:
    """Return a captioner's rule; None if it has none, or one for another CLIP model.

    Raises:
        ModelNotFoundError: The captioner is not on this machine, nor reachable.
        ModelError: The rule cannot be read.
    """
    path = files_of(captioner, DECODING_FILE) / DECODING_FILE
    if not path.is_file():
        return None
    about = path.stat()
    rule = _parsed(path, captioner.name, (about.st_mtime_ns, about.st_size, about.st_ino))
    if not rule or not rule.usual or rule.clip_revision != revision_of(clip):
        return None
    return None if rule.hubness_weight and text_bank(clip) is None else rule


@lru_cache(maxsize=32)
def _parsed(path: Path, name: str, version: tuple[int, ...]) -> UnsureRule | None:
    """Return the rule in a file; another version of the file is read anew."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")).get("unsure")
        if values is None:
            return None
        return UnsureRule(
            float(values["below"]),
            tuple(str(text) for text in values["usual"]),
            str(values["clip_revision"]),
            float(values.get("hubness_weight", 0.0)),
            float(values.get("seen_weight", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{DECODING_FILE} of {name} has no rule for unsure.") from error


def fits(
    clip: TextEncoder,
    texts: Sequence[str],
    images: np.ndarray,
    usual: Sequence[str],
    hubness_weight: float = 0.0,
) -> np.ndarray:
    """Return how much better each text fits its picture than the usual captions do on average.

    Args:
        clip: Embeds texts in the space of the pictures.
        texts: n captions.
        images: Embeddings of their pictures: float32 (n, dim), rows of unit norm.
        usual: The captions to compare with, at least one.
        hubness_weight: What the pictures' hubness counts beside that; needs a bank.

    Returns:
        float32 (n,), in [-2, 2] without hubness.
    """
    own = clip.encode_text(texts)
    found: np.ndarray = ((own - _mean_embedding(clip, tuple(usual))) * images).sum(axis=1)
    bank = text_bank(clip.spec) if hubness_weight else None
    return found if bank is None else found + np.float32(hubness_weight) * hubness(images, bank)


def sureness(
    captions: Sequence[Caption], images: np.ndarray, clip: TextEncoder, rule: UnsureRule
) -> np.ndarray:
    """Return what a rule's threshold is compared with, float32 (n,): fit, hubness and what is seen.

    Args:
        captions: n captions.
        images: Embeddings of their pictures: float32 (n, dim), rows of unit norm.
        clip: The model that embedded them.
        rule: The captioner's.
    """
    texts = [caption.text for caption in captions]
    seen = [each.seen if isinstance(each, SeenCaption) else 0.0 for each in captions]
    found = fits(clip, texts, images, rule.usual, rule.hubness_weight)
    total: np.ndarray = found + np.float32(rule.seen_weight) * np.array(seen, np.float32)
    return total


def _mean_embedding(clip: TextEncoder, texts: tuple[str, ...]) -> np.ndarray:
    """Return the mean embedding, float32 (dim,), of texts that every batch is compared with."""
    known = _usual_embeddings.get(clip)
    if known is None or known[0] != texts:
        known = (texts, clip.encode_text(texts).mean(axis=0))
        _usual_embeddings[clip] = known
    return known[1]


def with_doubts(
    captions: Sequence[Caption], images: np.ndarray, clip: TextEncoder, rule: UnsureRule
) -> list[Caption]:
    """Flag the captions that hardly fit their pictures as :data:`core.records.UNSURE`.

    Args:
        captions: n captions.
        images: Embeddings of their pictures: float32 (n, dim), rows of unit norm.
        clip: The model that embedded them.
        rule: The captioner's.
    """
    found = sureness(captions, images, clip, rule)
    return [
        replace(caption, flags=(*caption.flags, UNSURE)) if sure < rule.below else caption
        for caption, sure in zip((each.plain() for each in captions), found, strict=True)
    ]
