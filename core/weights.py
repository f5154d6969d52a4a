"""Where a model's files are, and what pins them."""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from core.errors import ModelNotFoundError
from core.files import sha256_of
from core.models import ModelSpec

ASSETS = Path(__file__).resolve().parent.parent / "assets"


def local_folder(spec: ModelSpec) -> Path | None:
    """Return the folder that holds a model's files, or None if they live on the Hub.

    Raises:
        ModelNotFoundError: The package is not installed, or the folder does not exist.
    """
    kind, _, rest = spec.source.partition(":")
    if kind == "hub":
        return None
    if kind == "asset":
        folder = ASSETS / rest
    elif kind == "path":
        folder = Path(rest)
    else:
        module, _, inner = rest.partition("/")
        found = importlib.util.find_spec(module)
        if found is None or not found.submodule_search_locations:
            raise ModelNotFoundError(spec.name, "Install the packages of requirements.txt.")
        folder = Path(found.submodule_search_locations[0]) / inner
    if not folder.is_dir():
        raise ModelNotFoundError(spec.name, f"Its folder {rest} does not exist.")
    return folder


@lru_cache(maxsize=32)
def revision_of(spec: ModelSpec) -> str:
    """Return what pins a model's weights: a Hub commit, or a digest of its local safetensors.

    The digest covers the names and contents of the folder's ``*.safetensors`` and ``*.json``, so
    a retrained checkpoint never passes for the one that built a gallery.
    """
    folder = local_folder(spec)
    if folder is None:
        return spec.revision or "main"
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:16]
