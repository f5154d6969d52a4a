"""The commands ``bench app | build | load | index | scale`` and those of single parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.quiet import quiet_libraries
from precompute.build.index_command import IndexChoice, IndexOption
from precompute.terminal import JsonOption, ProfileChoice, ProfileOption, commands, say

if TYPE_CHECKING:
    from core.config import ProfileName, Settings

app = commands("Measure speed and memory, each figure beside its target and its lower bound.")

_Photos = Annotated[
    str | None,
    typer.Argument(help="Folder of photos; by default those in installed packages."),
]
_Captioned = Annotated[
    str | None,
    typer.Argument(help="Photos with captions to build the gallery from; by default random."),
]
_GalleryOption = Annotated[
    Path | None, typer.Option(help="Gallery to search; by default one is built.")
]
_Images = Annotated[int, typer.Option(min=40, help="Size of the gallery that is built.")]
_Queries = Annotated[int, typer.Option(min=10, help="Number of distinct queries.")]


@app.command("app")
def app_command(
    source: _Captioned = None,
    gallery: _GalleryOption = None,
    images: _Images = 1000,
    queries: _Queries = 200,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the running app: start, searches through HTTP, memory."""
    from precompute.bench.app import app as measure
    from precompute.bench.shared.material import Searched

    settings, name = _chosen(profile)
    _tell(measure(Searched(gallery, source, name, images), queries, settings, say), json_file)


@app.command("build")
def build_command(
    source: _Photos = None,
    images: Annotated[int, typer.Option(min=1, help="Use at most this many photos.")] = 48,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure a build, and its models alone."""
    from precompute.bench.build import build_speed

    settings, name = _chosen(profile)
    _tell(build_speed(source, images, name, settings, say), json_file)


@app.command("build-memory")
def build_memory_command(
    sizes: Annotated[
        list[int] | None,
        typer.Argument(min=100, help="Numbers of pictures.", show_default="1000 10000"),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the memory of builds as their source grows, with small models of random weights."""
    from precompute.bench.build_memory import build_memory

    quiet_libraries(downloads=False)
    _tell(build_memory(sorted({*(sizes or (1000, 10_000))}), say), json_file)


@app.command("executors")
def executors_command(
    source: _Photos = None,
    images: Annotated[int, typer.Option(min=32, help="Use at most this many photos.")] = 64,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure builds by one process, by two ranks and by Ray, and compare their bytes."""
    from precompute.bench.executors import executors

    _, name = _chosen(profile)
    _tell(executors(source, images, name, say), json_file)


@app.command("load")
def load_command(
    source: _Captioned = None,
    gallery: _GalleryOption = None,
    images: _Images = 1000,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure searches while photos of other visitors are captioned."""
    from precompute.bench.load import load
    from precompute.bench.shared.material import Searched

    _, name = _chosen(profile)
    _tell(load(Searched(gallery, source, name, images), say), json_file)


@app.command("index")
def index_command(
    gallery: Annotated[Path, typer.Argument(help="Gallery whose embeddings are multiplied.")],
    pictures: Annotated[int, typer.Option(min=1000, help="Number of pictures.")] = 100_000,
    index: IndexOption = IndexChoice.auto,
    queries: _Queries = 200,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure an index of a size larger than the gallery: training, memory, recall, searches."""
    from precompute.bench.index import index as measure

    _, name = _chosen(profile)
    _tell(measure(gallery, index, pictures, queries, name, say), json_file)


@app.command("scale")
def scale_command(
    gallery: Annotated[Path, typer.Argument(help="Gallery that is multiplied.")],
    pictures: Annotated[int, typer.Option(min=2, help="Pictures of the large one.")] = 100_000,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep the large gallery here; one that is there is not made again."),
    ] = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Make a large gallery of a small one; measure opening it and starting the app over it."""
    from precompute.bench.scale import scale

    _, name = _chosen(profile)
    _tell(scale(gallery, pictures, out, name, say), json_file)


@app.command("evaluation")
def evaluation_command(
    images: _Images = 1000,
    queries: _Queries = 200,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Measure the command "evaluate" on a made-up gallery: time and memory."""
    from precompute.bench.evaluate import evaluation

    _, name = _chosen(profile)
    _tell(evaluation(images, queries, name, say), json_file)


@app.command("image-tower")
def image_tower_command(
    source: _Photos = None, profile: ProfileOption = None, json_file: JsonOption = None
) -> None:
    """Measure the CLIP model's image tower on the CPU, as it runs there and in float32."""
    from precompute.bench.models.image_tower import image_tower

    settings, name = _chosen(profile)
    _tell(image_tower(source, name, settings, say), json_file)


@app.command("explanations")
def explanations_command(
    source: Annotated[str, typer.Argument(help="Photos with captions.")],
    photos: Annotated[int, typer.Option(min=2, help="Photos, spread over the source.")] = 100,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Check by deletion and insertion where CLIP is said to look, against chance."""
    from precompute.bench.models.explanations import explanations

    settings, name = _chosen(profile)
    _tell(explanations(source, photos, name, say, settings.device), json_file)


@app.command("read-text")
def read_text_command(
    source: Annotated[Path, typer.Argument(help="Folder of photos with text in them.")],
    qrels: Annotated[Path, typer.Option(help="TREC labels of queries about that text.")],
    queries: Annotated[Path, typer.Option(help="Their texts: QUERY<tab>TEXT.")],
    json_file: JsonOption = None,
) -> None:
    """Measure the reader of text in pictures: seconds, and what its sure and unsure lines find."""
    from precompute.bench.models.read_text import read_text

    settings, _ = _chosen(None)
    _tell(read_text(source, qrels, queries, settings, say), json_file)


def _chosen(profile: ProfileChoice | None) -> tuple[Settings, ProfileName]:
    from core.config import get_settings

    settings = get_settings()
    name = profile.value if profile else settings.profile
    quiet_libraries(downloads=name == "full")
    return settings, name


def _tell(result: dict[str, Any], json_file: Path | None) -> None:
    from precompute.bench.shared.figures import table, write_json

    typer.echo(table(result))
    if json_file is not None:
        write_json(json_file, result)
