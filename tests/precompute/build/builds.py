"""Builds of small folders, for the tests of builds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from core.models.profiles import Models, Profile
from precompute.build import pipeline
from precompute.build.pipeline import BuildOptions, BuildResult
from precompute.sources.types import SourceOptions
from tests.precompute.conftest import noise_photo

MODELS: dict[Profile, Models] = {}


def build(options: BuildOptions, say=lambda _: None) -> BuildResult | None:
    """Build with models that stay in memory from test to test."""
    models = MODELS.setdefault(options.profile, Models(options.profile, device="cpu"))
    return pipeline.build(options, models=models, say=say)


def options(source: Path, out: Path, profile, **changes) -> BuildOptions:
    names = SourceOptions.__dataclass_fields__
    of_source = {name: changes.pop(name) for name in list(changes) if name in names}
    return BuildOptions(
        source=SourceOptions(str(source), **of_source),
        out=out,
        profile=profile,
        progress=False,
        **{"batch_size": 3, "shard_size": 5, **changes},
    )


def rows(gallery: Path) -> list[dict]:
    """Return the records of a gallery, their pictures as bytes."""
    found = []
    for path in sorted(gallery.glob("data-*.arrow")):
        with path.open("rb") as file:
            found += pa.ipc.open_stream(file).read_all().to_pylist()
    return found


def photos(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i:03d}.png").write_bytes(noise_photo(i))
    return folder


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def same_gallery(one: Path, other: Path) -> None:
    """Assert that all files are the same but the manifest and the report, which name times."""
    times = ("manifest.json", "build_report.json")
    contents = [
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name not in times
        }
        for folder in (one, other)
    ]
    assert set(contents[0]) == set(contents[1])
    assert [name for name, content in contents[0].items() if content != contents[1][name]] == []
