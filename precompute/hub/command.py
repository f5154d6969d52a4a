"""The commands ``publish model | gallery | space``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.quiet import quiet_libraries
from precompute.terminal import ProfileOption, commands, say

if TYPE_CHECKING:
    from core.config import ProfileName

app = commands("Put models, galleries and the app onto the Hub.")

Repository = Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")]
Private = Annotated[
    bool, typer.Option("--private", help="For you alone to see, if the repository is new.")
]
Message = Annotated[str | None, typer.Option(help="Of the commit.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check, and list what would be published.")]


@app.command()
def model(
    folder: Annotated[
        Path, typer.Argument(help="Of a captioner, an adapter or an open_clip model.")
    ],
    repository: Repository,
    public: Annotated[
        bool, typer.Option("--public", help="For everybody to see, if the repository is new.")
    ] = False,
    message: Message = None,
    dry_run: DryRun = False,
) -> None:
    """Put a model onto the Hugging Face Hub, and print its id with the commit.

    By that id others load a captioner with --captioner, and a CLIP model with --clip.
    """
    from precompute.hub.model import publication, publish
    from precompute.hub.upload import CARD

    quiet_libraries(downloads=False)
    what = publication(folder)
    amount = _amount(list(what.files.values()))
    if CARD not in what.files:
        typer.echo(f"{folder} has no {CARD}: nobody will know its data and licence.", err=True)
    if dry_run:
        _show_files(what.files)
        typer.echo(f"{amount}, would be published as {repository}.")
        return
    pinned = f"{repository}@{publish(what, repository, private=not public, message=message)}"
    typer.echo(f"{amount}, published as {pinned}.")
    typer.echo(f"Use it: python app.py {what.option} {pinned}")


@app.command()
def gallery(
    folder: Annotated[Path, typer.Argument(help="Of a gallery.")],
    repository: Repository,
    private: Private = False,
    message: Message = None,
    dry_run: DryRun = False,
) -> None:
    """Put a gallery onto the Hugging Face Hub as a dataset, and print what serves it.

    The dataset has the records and thumbnails as parquet files for the Hub's viewer, embeddings,
    indexes, manifest and figures as they are, and a card.
    """
    from tempfile import TemporaryDirectory

    from core.gallery.hub_copy import HUB_PREFIX
    from core.gallery.layout import MANIFEST_FILE
    from precompute.hub.gallery import stage_gallery
    from precompute.hub.upload import Destination, upload_tree

    quiet_libraries(downloads=False)
    with TemporaryDirectory(prefix="twolens-publish-") as temporary:
        staged = Path(temporary)
        stage_gallery(folder, staged, repository)
        files = {p.relative_to(staged).as_posix(): p for p in staged.rglob("*") if p.is_file()}
        amount = _amount(list(files.values()))
        if dry_run:
            _show_files(files)
            typer.echo(f"{amount}, would be published as the dataset {repository}.")
            return
        to = Destination(repository, "dataset", MANIFEST_FILE, "gallery", private)
        commit = upload_tree(staged, to, message or f"Publish {folder.name} by TwoLens")
    typer.echo(f"{amount}, published as the dataset {repository} at {commit}.")
    typer.echo(f"Serve it: python app.py --gallery {HUB_PREFIX}{repository}@{commit}")


@app.command()
def space(
    repository: Repository,
    galleries: Annotated[
        list[str] | None,
        typer.Option(
            "--gallery",
            help="hf:OWNER/NAME[@REVISION], pinned to the commit it has now; may be given more "
            "than once (default: the gallery of photos inside packages).",
            show_default=False,
        ),
    ] = None,
    hardware: Annotated[
        str, typer.Option(help="zero, cpu, or a GPU by the Hub's name, such as l4x1.")
    ] = "zero",
    profile: ProfileOption = None,
    private: Private = False,
    message: Message = None,
    wait_s: Annotated[
        float, typer.Option(min=0, help="Longest wait for the build; 0 to not wait.")
    ] = 1800,
    dry_run: DryRun = False,
) -> None:
    """Put the app onto the Hugging Face Hub as a Space, wait until it answers, and say where."""
    from tempfile import TemporaryDirectory

    from precompute.hub.space_files import MARKER, Space, hardware_named, stage_space
    from precompute.hub.space_settings import configure, pinned_galleries, preloaded
    from precompute.hub.space_start import QUERY, wait_for
    from precompute.hub.upload import Destination, upload_tree

    quiet_libraries(downloads=False)
    chosen: ProfileName = profile.value if profile else "mini"
    wanted = Space(chosen, hardware_named(hardware), pinned_galleries(galleries or [], chosen, say))
    wanted = replace(wanted, preloaded=preloaded(wanted, say))
    with TemporaryDirectory(prefix="twolens-publish-") as temporary:
        staged = Path(temporary)
        stage_space(wanted, staged)
        files = {p.relative_to(staged).as_posix(): p for p in staged.rglob("*") if p.is_file()}
        amount = _amount(list(files.values()))
        if dry_run:
            _show_files(files)
            for key, value in wanted.variables.items():
                typer.echo(f"{key}={value}")
            typer.echo(f"{amount}, would be published as the Space {repository} on {hardware}.")
            return
        to = Destination(
            *(repository, "space", MARKER, "TwoLens", private),
            sdk="gradio",
            hardware=wanted.hardware,
            variables=wanted.variables,
        )
        commit = upload_tree(
            staged, to, message or "Publish TwoLens", before=configure(wanted, say)
        )
    typer.echo(f"{amount}, published as the Space {repository} at {commit}.")
    if wait_s:
        answer = wait_for(repository, commit, wait_s, say)
        typer.echo(
            f"It answers at {answer.address}: for {QUERY!r}, in {answer.query_ms:.0f} ms, captions "
            f"find {answer.captions} and CLIP finds {answer.clip}."
        )


def _amount(files: list[Path]) -> str:
    return f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def _show_files(files: Mapping[str, Path]) -> None:
    for name, path in sorted(files.items()):
        typer.echo(f"{path.stat().st_size:>13,}  {name}")
