"""The command ``hubs``: captions of photos in, the bank that tells which pictures are hubs out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.quiet import quiet_libraries
from precompute import terminal

if TYPE_CHECKING:
    import numpy as np

    from core.models.profiles import Models

_SHARES = (0.0, 0.25, 0.5, 0.75)
_WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)


def run(
    texts: Annotated[
        list[Path],
        typer.Option(
            help='Lines of {"captions": [...]}, what people said of one photo; give it again for '
            "photos of another kind."
        ),
    ],
    galleries: Annotated[
        list[Path] | None,
        typer.Argument(help="Galleries with references, of photos that nothing was trained on."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Captions of each --texts, evenly spread.")] = (
        1000
    ),
    profile: terminal.ProfileOption = None,
    clip: Annotated[
        str | None, typer.Option(help="CLIP model, if it is not the profile's; TWOLENS_CLIP.")
    ] = None,
    device: terminal.DeviceOption = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
) -> None:
    """Keep captions as a CLIP model embeds them, so that fusion can discount hubs.

    A hub is a picture that is near to every text. With galleries it also prints MRR and R@5 of the
    joined lenses by the share that is taken off and by the weight of the captions, and the least of
    both whose MRR is within one standard error of the best.
    """
    import numpy as np

    from core.config import get_settings
    from core.models.choose import with_clip
    from core.models.clip.hubs import BANK_FILE
    from core.models.profiles import PROFILES, Models

    quiet_libraries(downloads=False)
    named = PROFILES[profile.value if profile else get_settings().profile]
    models = Models(with_clip(named, clip or get_settings().clip), device=device)
    said = [text for path in texts for text in spread_captions(path, limit)]
    bank = models.clip.encode_text(said).astype(np.float16)
    if galleries:
        typer.echo(table(*measure(galleries, models, bank.astype(np.float32))))
    if not dry_run:
        write_bank(BANK_FILE, models, bank)
        typer.echo(f"{len(bank):,} texts written into {BANK_FILE.parent.name}/{BANK_FILE.name}.")


def spread_captions(path: Path, limit: int) -> list[str]:
    """Return captions of evenly spread photos, of each photo one: the first, second, ... in turn.

    Args:
        path: See :func:`precompute.mini.words.read_texts`.
        limit: Most captions.

    Raises:
        SourceError: The file cannot be read.
    """
    import numpy as np

    from precompute.mini.words import read_texts

    photos = read_texts([path])
    chosen = np.linspace(0, len(photos) - 1, min(limit, len(photos))).astype(int)
    return [photos[row][place % len(photos[row])] for place, row in enumerate(chosen.tolist())]


def measure(
    galleries: list[Path], models: Models, bank: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return 1 / rank of each query's picture, and which queries are about the same one.

    Args:
        galleries: With references.
        models: What embeds the queries.
        bank: float32 (texts, dim), unit norm.

    Returns:
        Float (shares, weights, queries), and int (queries,).
    """
    import numpy as np

    from core.gallery.reader import Gallery
    from core.models.clip.hubs import hubness
    from core.records import Fusion
    from precompute.evaluate.fusion.fusions import reciprocal_ranks
    from precompute.evaluate.qrels import from_references
    from precompute.evaluate.queries import AskedQueries

    tried = [Fusion("corrected", weight) for weight in _WEIGHTS]
    found: list[list[np.ndarray]] = [[] for _ in _SHARES]
    about: list[np.ndarray] = []
    for folder in galleries:
        gallery = Gallery.open(folder, models.profile)
        given = gallery.manifest.caption_origin != "generated"
        queries = from_references(gallery.records, captions_given=given)
        asked = AskedQueries.embed(gallery, queries, models)
        lenses = asked.scorer("captions"), asked.scorer("clip")
        hubs = hubness(gallery.embeddings("clip"), bank)
        about.append(asked.clusters + sum(len(part) for part in about))
        for row, share in enumerate(_SHARES):
            owed = np.float32(share) * hubs
            found[row].append(reciprocal_ranks(tried, *lenses, asked.relevant, len(gallery), owed))
    return np.stack([np.concatenate(parts, axis=1) for parts in found]), np.concatenate(about)


def choose(inverse: np.ndarray, about: np.ndarray) -> tuple[float, float]:
    """Return the least share, and with it the least weight, that is as good as the best.

    As good is an MRR that is below by less than the standard error of that difference, over
    pictures.

    Args:
        inverse: Float (shares, weights, queries), as :func:`measure` returns it.
        about: int (queries,), likewise.
    """
    import numpy as np

    pictures, at = np.unique(about, return_inverse=True)
    one_hot = np.eye(len(pictures))[at]
    by_picture = inverse @ one_hot / one_hot.sum(axis=0)
    best = by_picture.reshape(-1, len(pictures))[by_picture.mean(axis=2).argmax()]
    behind = best - by_picture
    error = behind.std(axis=2, ddof=1) / np.sqrt(len(pictures))
    share, weight = np.argwhere(behind.mean(axis=2) <= error)[0].tolist()
    return _SHARES[share], _WEIGHTS[weight]


def table(found: np.ndarray, about: np.ndarray) -> str:
    """Return MRR and R@5 of every share and weight as lines; takes what :func:`choose` does."""
    lines = [
        "MRR / R@5 in percent, by the share taken off and the weight of the captions",
        "     " + "".join(f"{weight:>13g}" for weight in _WEIGHTS),
    ]
    for share, inverse in zip(_SHARES, found, strict=True):
        mrr, among = 100 * inverse.mean(axis=1), 100 * (inverse >= 1 / 5).mean(axis=1)
        cells = "".join(f"{one:>7.1f} /{two:>5.1f}" for one, two in zip(mrr, among, strict=True))
        lines.append(f"{share:<5g}{cells}")
    share, weight = choose(found, about)
    lines.append(f"As good as the best, the least: share {share:g}, caption weight {weight:g}.")
    return "\n".join(lines)


def write_bank(path: Path, models: Models, bank: np.ndarray) -> None:
    """Put a bank into a file in the place of the former one of the same model; others stay.

    Args:
        path: :data:`core.models.clip.hubs.BANK_FILE`.
        models: Whose CLIP model embedded the texts.
        bank: float16 (texts, dim).
    """
    from safetensors.numpy import load_file, save

    from core.files import write_atomically
    from core.models.locate import revision_of

    banks = load_file(path) if path.is_file() else {}
    write_atomically(path, save({**banks, revision_of(models.profile.clip): bank}))
