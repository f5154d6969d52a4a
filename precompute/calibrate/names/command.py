"""The command ``mini names``: teach a captioner's namer the things that labelled photos show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

    from precompute.calibrate.names.classes import Table

_BATCH = 16
_MEASURED = 5
"""One photo of so many is measured on before all are learnt from."""


def run(
    model: Annotated[str, typer.Argument(help="Folder of a captioner, or asset:NAME.")],
    labelled: Annotated[
        list[str], typer.Option(help="Imagefolder whose table has a column label; repeatable.")
    ],
    named: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of photos called COLLECTION_LABEL_NUMBER.jpg; repeatable."),
    ] = None,
    captioned: Annotated[
        str | None, typer.Option(help="Imagefolder with captions: people, and dogs.")
    ] = None,
    captioned_limit: Annotated[int, typer.Option(min=2, help="Photos of that, spread.")] = 750,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Teach a captioner's namer what labelled photos show, and write it beside the captioner.

    Its network and its thousand classes of ImageNet stay as they are. How right it is is measured
    on a fifth of the photos, learning from the others; then it learns from all.
    """
    import numpy as np
    from tqdm import tqdm

    from core.files import write_atomically
    from core.models.captioner.naming import NAMER_FILE, read_namer
    from core.models.choose import captioner_spec
    from core.models.devices import resolve_device
    from core.quiet import quiet_libraries
    from precompute.calibrate.names.classes import measure, read_table, train_namer
    from precompute.calibrate.threshold import writable_folder
    from precompute.sources.pairs import load_pairs

    quiet_libraries(downloads=False)
    spec = captioner_spec(model)
    folder = writable_folder(spec)
    namer = read_namer(spec, resolve_device(device))
    if namer is None:
        raise typer.BadParameter(f"{spec.name} has no {NAMER_FILE} to start from.")
    table = read_table()
    photos: list[tuple[Callable[[], Image], int | None]] = []
    for source in labelled:
        pairs = load_pairs(source, caption_column="label").readable()
        places = [table.place_of(labels[0]) for labels in pairs.captions]
        photos += [(partial(pairs.image, row), place) for row, place in enumerate(places)]
    photos += _named(named or (), table)
    if captioned:
        pairs = load_pairs(captioned).spread(captioned_limit).readable()
        places = [table.place_of_captions(captions) for captions in pairs.captions]
        photos += [(partial(pairs.image, row), place) for row, place in enumerate(places)]
    known = [(image, place) for image, place in photos if place is not None]
    if len(known) < _MEASURED:
        raise typer.BadParameter("Too few photos have a label that is known.")
    batches = tqdm(range(0, len(known), _BATCH), desc="looking", unit="batch")
    features = np.concatenate(
        [namer.features([image() for image, _ in known[at : at + _BATCH]]) for at in batches]
    )
    aims = np.array([place for _, place in known])
    measured = np.arange(len(aims)) % _MEASURED == 0
    trial = train_namer(namer, table, features[~measured], aims[~measured])
    typer.echo(measure(trial, features[measured], aims[measured]))
    result = train_namer(namer, table, features, aims)
    write_atomically(folder / NAMER_FILE, result.to_bytes())
    typer.echo(f"Written into {folder.name}: {len(table.names)} things. Run threshold again.")


def _named(
    folders: Sequence[Path], table: Table
) -> Iterator[tuple[Callable[[], Image], int | None]]:
    """Yield photos whose label is in the file's name."""
    from core.config import get_settings
    from core.images.decode import DecodeLimits, decode
    from precompute.calibrate.names.classes import label_in

    limits = DecodeLimits.of(get_settings())

    def image(path: Path) -> Image:
        return decode(path, path.name, limits).image

    for path in sorted(path for folder in folders for path in folder.glob("*.jpg")):
        yield partial(image, path), table.place_of(label_in(path.name))
