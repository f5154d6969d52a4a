"""The command ``rerank``: fit the probe by which a captioner chooses among its own captions."""

from __future__ import annotations

from typing import Annotated

import typer

from core.quiet import quiet_libraries
from precompute import terminal


def run(
    model: Annotated[str, typer.Argument(help="Folder of the captioner, or asset:NAME.")],
    data: Annotated[
        str, typer.Option(help="Imagefolder or dataset id: photos with captions to train on.")
    ],
    validation: Annotated[
        str | None, typer.Option(help="Held-out photos with captions, to measure retrieval on.")
    ] = None,
    split: terminal.SplitOption = None,
    validation_split: Annotated[str | None, typer.Option(help="Split of --validation.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Train on so many photos.")] = None,
    candidates: Annotated[
        int, typer.Option(min=2, max=64, help="Candidate captions of each photo.")
    ] = 32,
    weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight of the probe against likelihood; more retrieves better and reads worse.",
        ),
    ] = 3.0,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Fit the linear probe that reranks a captioner's candidates, and write it beside the model.

    Beam search prefers common captions. The probe predicts the sentence embedding of a photo's
    captions from the image tower's class token, and prefers candidates near it.
    """
    from core.models.captioner.instructblip import InstructBlipCaptioner
    from core.models.captioner.loading import decoding_of
    from core.models.captioner.rerank import write_probe
    from core.models.choose import captioner_spec
    from core.models.profiles import PROFILES
    from core.models.sentence.encoder import MiniLmEncoder
    from precompute.calibrate.rerank import class_tokens, fit_probe, write_choice
    from precompute.calibrate.threshold import writable_folder
    from precompute.evaluate.metrics.retrieval_metrics import owners_of, recall
    from precompute.sources.pairs import load_pairs

    quiet_libraries(downloads=False)
    spec = captioner_spec(model)
    folder = writable_folder(spec)
    photos = load_pairs(data, split, limit=limit).readable()
    others = load_pairs(validation, validation_split).readable() if validation else None
    # What is wrong with the captioner is reported before minutes of work.
    decoding = decoding_of(spec)
    captioner = InstructBlipCaptioner(spec, device=device)
    captioner.load()
    sentence = MiniLmEncoder(PROFILES["mini"].sentence, device=device)
    embeddings = sentence.encode_text([text for own in photos.captions for text in own])
    probe = fit_probe(class_tokens(captioner, photos), embeddings, [*map(len, photos.captions)])
    if others is not None:
        predicted = probe(class_tokens(captioner, others))
        queries = sentence.encode_text([text for own in others.captions for text in own])
        found = recall(others.name, predicted, queries, owners_of(others))
        typer.echo(f"What the probe predicts, searched by captions: {found}")
    write_choice(folder, decoding, candidates, weight)
    write_probe(folder, probe, sentence.spec)
    typer.echo(
        f"Written into {folder.name}: it chooses among {candidates} captions. "
        "Run the command threshold again."
    )
