"""The commands of ``mini``: training the shipped captioner again, and teaching it words.

An interrupted run resumes with the same command. The weights are written in 8 bits.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from precompute import terminal
from precompute.finetune.captions.recipe import CaptionRecipe
from precompute.finetune.shared.recipes import read_recipe

if TYPE_CHECKING:
    from core.models.captioner.settings import Decoding

FIRST = CaptionRecipe(
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    feature_dropout=0.1,
    word_dropout=0.1,
    max_tokens=20,
    trains=("language",),
)
"""From nothing: the Q-Former learns, then the T5."""

SECOND = replace(FIRST, epochs=3, feature_dropout=0.0, dropout=0.15, start_share=0.3)
"""Continues with the T5 of the first, with dropout; it finds a little less and reads better."""

WORDS = CaptionRecipe(
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

RECIPES = {"first": FIRST, "second": SECOND, "words": WORDS}

_MIN_COUNT = 4
"""Words used less often are left out of the vocabulary."""


def captioner(
    data: terminal.DataOption,
    out: terminal.OutOption,
    tower: Annotated[
        str, typer.Option(help="First stage: InstructBLIP checkpoint whose image tower is taken.")
    ] = "asset:mini-instructblip",
    first: Annotated[
        Path | None, typer.Option(help="Second stage: the folder of the first one.")
    ] = None,
    validation: terminal.ValidationOption = None,
    epochs: terminal.EpochsOption = None,
    batch_size: terminal.BatchSizeOption = None,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Train the small captioner: first stage behind an image tower, second stage with --first.

    An interrupted run resumes with the same command. The weights are written in 8 bits.
    """
    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    recipe = read_recipe("second" if first else "first", RECIPES, "first", options)

    from precompute.finetune.captions.job import Job
    from precompute.finetune.captions.start import find_model, prepare
    from precompute.mini.captioner_model import SMALL_DECODING, new_model, new_tokenizer
    from precompute.mini.pretraining import PretrainingRecipe, embeddings_to_read
    from precompute.sources.pairs import load_pairs

    spec = find_model(str(first) if first else tower)
    pairs = load_pairs(data).readable()
    measured = load_pairs(validation).readable() if validation else None

    def grown(read: Any, processor: Any, _: Decoding) -> tuple[Any, Any, Decoding]:  # noqa: ANN401
        tokenizer = new_tokenizer((t for own in pairs.captions for t in own), min_count=_MIN_COUNT)
        fresh = new_model(tokenizer, read.vision_model, processor.image_processor)
        return (*fresh, SMALL_DECODING)

    change = None if first else grown
    prepared = prepare(spec, recipe, out, device, eight_bit=True, change=change)
    pretraining = PretrainingRecipe()
    about = {"pretraining": asdict(pretraining)}
    job = Job(prepared, pairs, measured, identity=about, say=typer.echo)
    job.run(*embeddings_to_read(job, pairs, pretraining, first))


def words(
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
    ] = _MIN_COUNT,
    epochs: terminal.EpochsOption = None,
    batch_size: terminal.BatchSizeOption = None,
    seed: terminal.SeedOption = None,
    device: terminal.DeviceOption = "auto",
) -> None:
    """Teach a small captioner's language model from captions whose photos are not there.

    Its vocabulary grows by the words of the texts. An interrupted run resumes with the same
    command. Run rerank and threshold afterwards.
    """
    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    recipe = read_recipe("words", RECIPES, "words", options)

    from precompute.finetune.captions.job import Job, Split
    from precompute.finetune.captions.start import find_model, prepare
    from precompute.mini.words import TextsAsTokens, add_words, digest_of, read_texts
    from precompute.sources.pairs import load_pairs

    spec = find_model(model)
    said = read_texts(texts)
    pairs = load_pairs(data).readable()
    measured = load_pairs(validation).readable() if validation else None

    def grown(read: Any, processor: Any, decoding: Decoding) -> tuple[Any, Any, Decoding]:  # noqa: ANN401
        more = add_words(read, processor, (text for own in said for text in own), min_count)
        count = len(processor.tokenizer)
        typer.echo(f"{sum(map(len, said)):,} texts; {more:,} words more, {count:,} in all.")
        return read, processor, decoding

    prepared = prepare(spec, recipe, out, device, eight_bit=True, change=grown)
    identity, images = {"texts": digest_of(said)}, len(pairs) + len(said)
    job = Job(prepared, pairs, measured, images=images, identity=identity, say=typer.echo)
    tokens = TextsAsTokens.fitted(job.objective, job.split(pairs), said)
    job.run(Split.unseen([*pairs.captions, *said]), tokens)
