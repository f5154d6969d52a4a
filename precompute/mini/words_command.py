"""The command ``mini words``: teach a small captioner's T5 words from texts without photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from precompute import terminal
from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.recipes import read_recipe

RECIPE = CaptionRecipe(
    epochs=1,
    batch_size=64,
    learning_rate=5e-4,
    word_dropout=0.1,
    dropout=0.1,
    max_tokens=20,
    trains=("language",),
    start_share=0.5,
)
"""One pass; what is kept is the mean of the weights before and after."""


def run(
    data: terminal.DataOption,
    texts: Annotated[
        list[Path],
        typer.Option(help="JSON lines, each with a list `captions` of one photo; repeatable."),
    ],
    out: terminal.OutOption,
    model: Annotated[
        str, typer.Option(help="Captioner with a word-level tokenizer: a folder, or asset:NAME.")
    ] = "asset:mini-instructblip",
    validation: terminal.ValidationOption = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Words that the texts use less often are not added.")
    ] = 4,
    epochs: terminal.EpochsOption = None,
    batch_size: terminal.BatchSizeOption = None,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Teach a small captioner's language model from captions whose photos are not there.

    Its vocabulary grows by the words of the texts. An interrupted run resumes with the same
    command. The weights are written in 8 bits. Run rerank and threshold afterwards.
    """
    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    recipe = read_recipe(None, {"words": RECIPE}, "words", options)

    from core.models.captioner.loading import decoding_of, read_instructblip
    from precompute.finetune.captions.job import Job
    from precompute.finetune.captions.start import accelerator_on, assemble, find_model
    from precompute.mini.words import add_words, digest_of, photos_and_texts, read_texts
    from precompute.sources.pairs import load_pairs

    spec = find_model(model)
    said = read_texts(texts)
    pairs = load_pairs(data).readable()
    measured = load_pairs(validation).readable() if validation else None
    accelerator, where = accelerator_on(device)
    read, processor = read_instructblip(spec, "cpu", "fp32")
    count = add_words(read, processor, (text for own in said for text in own), min_count)
    words = len(processor.tokenizer)
    typer.echo(f"{sum(map(len, said)):,} texts; {count:,} words more, {words:,} in all.")
    prepared = assemble(
        read.to(where),
        processor,
        decoding_of(spec),
        recipe.completed(large=False, gpu=where.startswith("cuda")),
        out,
        accelerator,
        eight_bit=True,
    )
    job = Job(
        prepared,
        pairs,
        measured,
        images=len(pairs) + len(said),
        identity={"texts": digest_of(said)},
        say=typer.echo,
    )
    job.run(*photos_and_texts(job, pairs, said))
