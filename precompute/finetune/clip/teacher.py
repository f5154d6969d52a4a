"""A teacher's image embeddings: read from a file, or computed once by another open_clip model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional

from core.errors import SourceError
from core.models.clip.encoder import ClipEncoder
from core.models.spec import ModelSpec
from core.models.weights import revision_of
from precompute.finetune.shared.features import digest, embedded_views
from precompute.finetune.shared.images import Images

_TENSOR = "embeddings"
_NAMES = "file_names"


def read_teacher(path: Path, images: Images) -> torch.Tensor:
    """Read embeddings and put them into the order of the images.

    Args:
        path: ``.safetensors`` with a tensor ``embeddings`` (n, dim) and, in its metadata under
            ``file_names``, a JSON list of n names; or ``.npy`` (n, dim) with that list in a
            ``.json`` of the same name beside it.
        images: Found by the name that their source gives them, or by its last part.

    Returns:
        float16 (1, images, dim), unit norm.

    Raises:
        SourceError: The file cannot be read, or lacks an image.
    """
    try:
        rows, names = (_read_safetensors if path.suffix == ".safetensors" else _read_npy)(path)
    except Exception as error:  # on a damaged file, numpy and safetensors raise many things
        raise SourceError(
            f"{path.name} cannot be read as a teacher's embeddings with their file names."
        ) from error
    if rows.ndim != 2 or len(rows) != len(names) or not bool(rows.isfinite().all()):
        raise SourceError(
            f"{path.name} holds embeddings of shape {tuple(rows.shape)} for {len(names)} file "
            "names; needed are finite numbers, one row a name."
        )
    place = {name: row for row, name in enumerate(names)}
    wanted = [images.file_name(row) for row in range(len(images))]
    found = [place.get(name, place.get(Path(name).name)) for name in wanted]
    missing = [name for name, row in zip(wanted, found, strict=True) if row is None]
    if missing:
        raise SourceError(
            f"{path.name} has no embedding of {len(missing)} of {len(wanted)} images; the first is "
            f"{missing[0]}."
        )
    order = torch.tensor([row for row in found if row is not None])
    return functional.normalize(rows[order].float(), dim=-1).half()[None]


def embed_teacher(
    spec: ModelSpec,
    images: Images,
    *,
    views: int,
    seed: int,
    cache: Path,
    device: str,
    show: bool = True,
) -> torch.Tensor:
    """Embed the views of all images with an open_clip model, once; see :func:`embedded_views`.

    Returns:
        float16 (views, images, dim), unit norm.

    Raises:
        ModelNotFoundError: The model cannot be loaded.
    """
    encoder = ClipEncoder(spec, device=device)
    key = digest([revision_of(spec), images.fingerprint, len(images), seed], {})
    return embedded_views(
        lambda batch: torch.from_numpy(encoder.encode_image(batch)),
        images,
        views=views,
        seed=seed,
        cache=cache,
        key=f"teacher-{key}",
        show=show,
    )


def _read_safetensors(path: Path) -> tuple[torch.Tensor, Sequence[str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(_TENSOR), json.loads(file.metadata()[_NAMES])


def _read_npy(path: Path) -> tuple[torch.Tensor, Sequence[str]]:
    import numpy as np

    names = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return torch.from_numpy(np.load(path, allow_pickle=False)), names
