"""The command ``map``: lay out the pictures of a finished gallery in two dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    gallery: Annotated[Path, typer.Argument(help="Folder of the gallery.")],
) -> None:
    """Give a gallery the maps that the app's tab "Map" shows, and say how far they can be trusted.

    A gallery that is built now has them; this is for older ones. An app that serves the gallery
    shows them after its next start.
    """
    import time

    from core.map.layout import agreement, components, trustworthiness
    from core.map.stored import add_map, embeddings_of
    from core.records import LENSES

    started = time.perf_counter()
    layout = add_map(gallery)
    seconds = time.perf_counter() - started
    embeddings = embeddings_of(gallery)
    typer.echo(f"{gallery}: {len(embeddings['clip']):,} pictures, {seconds:.1f} s")
    typer.echo(f"  {layout.method}")
    for lens in LENSES:
        rows = embeddings[lens]
        kept = trustworthiness(rows, layout.coordinates[lens])
        plain = trustworthiness(rows, components(rows, 2))
        typer.echo(f"  {lens:<8} trustworthiness {kept:.3f} (two components alone {plain:.3f})")
    alike = agreement(layout.coordinates["captions"], layout.coordinates["clip"])
    typer.echo(f"  the maps agree on the places of pictures to {alike:.2f} (1 is the same map)")
