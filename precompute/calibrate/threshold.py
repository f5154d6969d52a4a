"""Choosing when a captioner's captions are called unsure, and measuring what that catches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from core.errors import ImageError, ModelError, SourceError
from core.files import write_atomically
from core.images.decode import DecodeLimits, decode
from core.models.captioner.settings import DECODING_FILE
from core.models.captioner.unsure import HUBNESS_WEIGHT, SEEN_WEIGHT, UnsureRule, sureness
from core.models.clip.hubs import text_bank
from core.models.locate import local_folder, revision_of
from core.records import Caption
from precompute.calibrate.out_of_distribution import made_pictures, sample_files

if TYPE_CHECKING:
    from core.models.profiles import Models
    from core.models.spec import ModelSpec
    from precompute.sources.pairs import Pairs

_BATCH = 8
_USUAL = 200
"""Captions that a fit is measured against, at most: with four, drawings and colours pass."""


@dataclass(frozen=True, slots=True)
class UnsureChoice:
    """A rule, and what it does to the pictures that it was measured on.

    Attributes:
        rule: For ``twolens.json``.
        like: Photos like those that the captioner was trained on.
        out_of_distribution: Pictures of other kinds.
        called: Share of the captions of ``like`` that are called unsure.
        caught: Share of those of ``out_of_distribution``.
        caught_by_kind: The same for each kind of them.
        auc_fit: Area under the ROC curve of the fit, which tells the two apart.
        auc_confidence: The same of the mean token probability.
        closeness_unsure: Of the captions of ``like`` that are called unsure, the mean similarity
            to the nearest reference (cosine of sentence embeddings); None without any.
        closeness_others: Likewise of the others.
    """

    rule: UnsureRule
    like: int
    out_of_distribution: int
    called: float
    caught: float
    caught_by_kind: dict[str, float]
    auc_fit: float
    auc_confidence: float
    closeness_unsure: float | None
    closeness_others: float | None


def choose_rule(
    models: Models, photos: Pairs, others: Sequence[tuple[str, Image.Image]], share: float
) -> UnsureChoice:
    """Caption all pictures and choose the fit under which a share of the photos' captions lies.

    The other pictures do not enter the choice: the share of them that is caught is measured.

    Args:
        models: The captioner; the CLIP model and the sentence encoder that judge it.
        photos: Like those that the captioner was trained on, with reference captions.
        others: Out-of-distribution pictures: kind and RGB picture.
        share: Of the photos' captions to call unsure, in (0, 1).
    """
    from sklearn.metrics import roc_auc_score

    images = [*(photos.image(row) for row in range(len(photos))), *(one for _, one in others)]
    captions: list[Caption] = []
    parts = []
    for start in tqdm(range(0, len(images), _BATCH), desc="captions", unit="batch"):
        batch = images[start : start + _BATCH]
        captions += models.captioner.caption(batch)
        parts.append(models.clip.encode_image(batch))
    texts = [caption.text for caption in captions]
    usual = tuple(dict.fromkeys(texts[: len(photos)]))[:_USUAL]
    clip = models.profile.clip
    weight = HUBNESS_WEIGHT if text_bank(clip) is not None else 0.0
    draft = UnsureRule(0.0, usual, revision_of(clip), weight, SEEN_WEIGHT)
    fit = sureness(captions, np.concatenate(parts), models.clip, draft)
    own, rest = fit[: len(photos)], fit[len(photos) :]
    below = round(float(np.quantile(own, share)), 4)
    called, caught = own < below, rest < below
    kinds = np.array([kind for kind, _ in others])
    is_like = np.arange(len(fit)) < len(photos)
    close = _closeness(texts[: len(photos)], photos, models)
    return UnsureChoice(
        rule=replace(draft, below=below),
        like=len(own),
        out_of_distribution=len(rest),
        called=float(called.mean()),
        caught=float(caught.mean()),
        caught_by_kind={
            kind: float(caught[kinds == kind].mean()) for kind in dict.fromkeys(kinds.tolist())
        },
        auc_fit=float(roc_auc_score(is_like, fit)),
        auc_confidence=float(roc_auc_score(is_like, [one.confidence or 0.0 for one in captions])),
        closeness_unsure=float(close[called].mean()) if called.any() else None,
        closeness_others=float(close[~called].mean()) if not called.all() else None,
    )


def out_of_distribution_pictures(
    folder: Path | None, limits: DecodeLimits
) -> list[tuple[str, Image.Image]]:
    """Return made pictures and scikit-image's samples, or those of a folder in their place.

    Raises:
        SourceError: The folder holds no picture that can be read.
    """
    if folder is None:
        return [*made_pictures(), *_decoded(sample_files(), "sample", limits)]
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = _decoded(paths, folder.name, limits)
    if not found:
        raise SourceError(f"{folder} holds no picture that can be read.")
    return found


def writable_folder(captioner: ModelSpec) -> Path:
    """Return the folder that a captioner's rule is written into.

    Raises:
        ModelError: It is on the Hub.
    """
    folder = local_folder(captioner)
    if folder is None:
        raise ModelError(
            f"{captioner.name} is on the Hub; download it into a folder and name that, so that "
            "the rule can be written beside it."
        )
    return folder


def write_rule(folder: Path, choice: UnsureChoice, clip: str, photos: str) -> None:
    """Put a rule, and what was measured, into ``twolens.json``; the rest of it stays.

    Args:
        folder: Of the captioner.
        choice: What was chosen.
        clip: Name of the CLIP model.
        photos: Name of the photos.

    Raises:
        ModelError: The file is there and cannot be read.
    """
    rule = {
        "below": choice.rule.below,
        "usual": list(choice.rule.usual),
        "clip": clip,
        "clip_revision": choice.rule.clip_revision,
        "hubness_weight": choice.rule.hubness_weight,
        "seen_weight": choice.rule.seen_weight,
        "chosen_on": f"{photos}, {choice.like} photos",
        "called_unsure": round(choice.called, 3),
        "out_of_distribution_caught": round(choice.caught, 3),
        "out_of_distribution": choice.out_of_distribution,
        "auc": round(choice.auc_fit, 3),
    }
    write_settings(folder, unsure=rule)


def write_settings(folder: Path, **sections: dict[str, Any]) -> None:
    """Replace values of some sections of a captioner's ``twolens.json``; the rest of it stays.

    Args:
        folder: Of the captioner.
        sections: For each the values to set.

    Raises:
        ModelError: The file is there and cannot be read.
    """
    path = folder / DECODING_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        content.setdefault("decoding", {})
        for name, values in sections.items():
            content[name] = {**content.get(name, {}), **values}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read.") from error
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def summary(choice: UnsureChoice) -> str:
    """Return what was measured, as lines for a terminal."""
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in choice.caught_by_kind.items())
    lines = [
        f"Unsure is a caption whose fit is below {choice.rule.below:.3f}.",
        f"{choice.like} photos: {choice.called:.1%} of the captions are called unsure.",
        f"{choice.out_of_distribution} out-of-distribution pictures: "
        f"{choice.caught:.1%} ({kinds}).",
        f"ROC AUC: fit {choice.auc_fit:.3f}, mean token probability {choice.auc_confidence:.3f}.",
    ]
    if choice.closeness_unsure is not None and choice.closeness_others is not None:
        lines.append(
            f"Similarity to the nearest human caption: {choice.closeness_unsure:.2f} where unsure, "
            f"{choice.closeness_others:.2f} elsewhere."
        )
    return "\n".join(lines)


def _closeness(texts: Sequence[str], photos: Pairs, models: Models) -> np.ndarray:
    """Return each caption's similarity to the nearest of its picture's references."""
    counts = [len(references) for references in photos.captions]
    references = models.sentence.encode_text([one for texts in photos.captions for one in texts])
    own = models.sentence.encode_text(texts).repeat(counts, axis=0)
    starts = np.cumsum([0, *counts[:-1]])
    return np.maximum.reduceat((references * own).sum(axis=1), starts)


def _decoded(
    paths: Sequence[Path], kind: str, limits: DecodeLimits
) -> list[tuple[str, Image.Image]]:
    found = []
    for path in paths:
        try:
            found.append((kind, decode(path, path.name, limits).image))
        except ImageError:
            continue
    return found
