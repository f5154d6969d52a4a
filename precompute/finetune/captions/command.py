"""Command line of the captioner's training; what it runs is imported when it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from core.errors import SourceError
from core.models.spec import Precision
from precompute.finetune.captions.recipe import (
    DEFAULT_RECIPE,
    PARTS,
    TUNING_RECIPE,
    CaptionRecipe,
    Instruction,
    LookingRecipe,
    Part,
    RewardRecipe,
    Wanted,
)

_SMALL = "asset:mini-instructblip"


def run(
    data: Annotated[str, typer.Option(help="Imagefolder or dataset id to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and checkpoint.")],
    validation: Annotated[
        str | None, typer.Option(help="Imagefolder or dataset id to measure on.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data.")] = None,
    validation_split: Annotated[str | None, typer.Option(help="Split of --validation.")] = None,
    data_revision: Annotated[
        str | None, typer.Option(help="Commit of a Hub dataset; the newest if not given.")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Found by itself if unique.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Found by its usual names.")] = None,
    containing: Annotated[
        list[str] | None,
        typer.Option(
            help="Only images with one of these words (separated by commas; repeatable) in a "
            "caption, in training and in validation."
        ),
    ] = None,
    not_containing: Annotated[
        list[str] | None, typer.Option(help="Only images with none of these words in a caption.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Train on the first such images only.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="InstructBLIP checkpoint to start from: folder, asset:NAME, or Hub id, "
            "OWNER/NAME[@REVISION].",
            show_default=_SMALL,
        ),
    ] = None,
    init_vision: Annotated[
        Path | None,
        typer.Option(help="Start anew behind this image tower, of finetune distil."),
    ] = None,
    min_count: Annotated[
        int, typer.Option(min=1, help="Words used less often are left out, with --init-vision.")
    ] = 4,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train an adapter of this rank beside the language model, not its weights.",
            show_default="16 for models over 500 million parameters, else none",
        ),
    ] = None,
    lora_alpha: Annotated[
        int | None, typer.Option(min=1, show_default="twice the rank", help="Scale of the adapter.")
    ] = None,
    lora_dropout: Annotated[float, typer.Option(min=0, max=0.9)] = 0.05,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="Parts whose own weights are trained: language, qformer, projection; repeatable.",
            show_default="all; none beside an adapter",
        ),
    ] = None,
    trained_layers: Annotated[
        int, typer.Option(min=0, help="Last blocks of the image tower to train as well.")
    ] = 0,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of weights that are not trained: fp32, bf16 or int8.",
            show_default="int8 under an adapter on a GPU, else fp32",
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third more time.")
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="An instruction to teach; repeatable, the first one is the main one. With "
            "'shortest:' or 'longest:' in front it learns from such captions only.",
            show_default="the checkpoint's two, and 'longest: Describe the image in detail.'",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="0 only measures.",
            show_default=f"{TUNING_RECIPE.epochs}; {DEFAULT_RECIPE.epochs} with --init-vision",
        ),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End after so many epochs without a better CIDEr.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = DEFAULT_RECIPE.batch_size,
    accumulation: Annotated[
        int, typer.Option(min=1, help="Batches between two steps of the optimiser.")
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            show_default=f"{TUNING_RECIPE.learning_rate}; {DEFAULT_RECIPE.learning_rate} with "
            "--init-vision",
        ),
    ] = None,
    label_smoothing: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_RECIPE.label_smoothing,
    meanings: Annotated[
        Path | None,
        typer.Option(
            help="Go on with a captioner of --init-vision as it learnt to speak: the "
            "checkpoint/looking.safetensors of its folder."
        ),
    ] = None,
    foretold_share: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LEAST MOST",
            help="How much of what a fresh captioner reads to write a caption was foretold of the "
            "image, the rest being what the caption itself says: the less, the more literally it "
            "takes what it reads. With --init-vision or --meanings.",
        ),
    ] = (LookingRecipe().least, LookingRecipe().most),
    dropout: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.9,
            help="Share of the language model's inner values that is dropped.",
            show_default="the checkpoint's own",
        ),
    ] = None,
    start_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.95,
            help="Keep this share of the weights that the training started from: it learns less of "
            "the new, and forgets less of the old.",
        ),
    ] = DEFAULT_RECIPE.start_share,
    feature_dropout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the image features that is dropped.")
    ] = DEFAULT_RECIPE.feature_dropout,
    word_dropout: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, show_default=f"0; {DEFAULT_RECIPE.word_dropout} with --init-vision"
        ),
    ] = None,
    reward_cider: Annotated[
        float,
        typer.Option(
            min=0,
            help="Learn from captions of the model's own instead, by this much for each point of "
            "CIDEr-D.",
        ),
    ] = 0.0,
    reward_retrieval: Annotated[
        float,
        typer.Option(
            min=0, help="Likewise for how surely a caption picks its own image out of all."
        ),
    ] = 0.0,
    samples: Annotated[
        int, typer.Option(min=2, help="Captions of its own for each image, with a reward.")
    ] = RewardRecipe().samples,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Longer captions are cut.",
            show_default=f"{TUNING_RECIPE.max_tokens}; {DEFAULT_RECIPE.max_tokens} with "
            "--init-vision",
        ),
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            min=1, help="Views of each image to learn from: as it is, mirrored, then crops."
        ),
    ] = DEFAULT_RECIPE.views,
    probe: Annotated[
        int, typer.Option(min=1, help="Validation images captioned after each epoch.")
    ] = 300,
    save_every: Annotated[
        int, typer.Option(min=1, help="Batches after which progress is kept.")
    ] = 500,
    eight_bit: Annotated[
        bool,
        typer.Option("--eight-bit", help="Write all matrices in 8 bits: half the size."),
    ] = False,
    features: Annotated[
        Path | None,
        typer.Option(help="Folder of the frozen blocks' output, to share between runs."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULT_RECIPE.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Fine-tune an InstructBLIP captioner on images with captions.

    Killed at any moment, the same command goes on where progress was last kept. On several GPUs:
    accelerate launch -m precompute finetune captions ...
    """
    if init_vision is not None and model is not None:
        raise SourceError("--init-vision starts anew and --model does not: give one of them.")
    if init_vision is not None and start_share:
        raise SourceError("--init-vision starts from nothing, of which --start-share keeps none.")
    if (init_vision or meanings) and (train or lora_rank):
        raise SourceError("--init-vision and --meanings say what is trained: leave --train out.")
    if epochs == 0 and validation is None:
        raise SourceError("--epochs 0 only measures, and needs --validation to measure on.")
    given: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "word_dropout": word_dropout,
        "max_tokens": max_tokens,
    }
    started = _first_recipe(
        fresh=init_vision is not None, goes_on=meanings is not None, share=foretold_share
    )
    reward = None
    if reward_cider or reward_retrieval:
        reward = RewardRecipe(reward_cider, reward_retrieval, samples)
        if started.looking is not None:
            raise SourceError(
                "A reward needs a captioner that can speak: train one with --init-vision first, "
                "then give its folder to --model."
            )
    recipe = replace(
        started,
        **{name: value for name, value in given.items() if value is not None},
        batch_size=batch_size,
        accumulation=accumulation,
        label_smoothing=label_smoothing,
        dropout=dropout,
        start_share=start_share,
        feature_dropout=feature_dropout,
        views=views,
        reward=reward,
        instructions=tuple(Instruction.parse(text) for text in prompt or ()),
        seed=seed,
    )
    wanted = Wanted(_parts(train), lora_rank, lora_alpha, lora_dropout, _precision(precision))
    about, without = _words(containing), _words(not_containing)

    from precompute.finetune.captions import job as caption_job
    from precompute.finetune.captions import start as caption_start
    from precompute.finetune.shared.data import load_pairs

    spec = caption_start.find_model(model or _SMALL) if init_vision is None else None
    columns: dict[str, Any] = {"image_column": image_column, "caption_column": caption_column}
    whole = load_pairs(data, split, **columns, revision=data_revision)
    pairs = whole.about(about, without).first(limit).readable()
    measured = None
    if validation:
        measured = load_pairs(validation, validation_split, **columns).about(about, without)
        measured = measured.readable()
        caption_job.check_metrics()
    start = caption_start.Start(spec, device, trained_layers, gradient_checkpointing)
    if init_vision is not None:
        start.build_small(whole, init_vision, min_count, seed)
    course = caption_job.Course(patience, probe, save_every, features, meanings, typer.echo)
    prepared = start.prepare(recipe, wanted, out, eight_bit=eight_bit)
    report = caption_job.train(prepared, pairs, measured, course)
    if start.accelerator.is_main_process:
        typer.echo(json.dumps(report))


def _first_recipe(*, fresh: bool, goes_on: bool, share: tuple[float, float]) -> CaptionRecipe:
    """Return the recipe that the options change."""
    least, most = share
    if not 0 <= least <= most <= 1:
        raise SourceError(
            f"--foretold-share {least:g} {most:g}: give two shares, 0 <= least <= most <= 1."
        )
    if not (fresh or goes_on):
        return TUNING_RECIPE
    if fresh and goes_on:
        raise SourceError("--meanings goes on with a captioner: give --model, not --init-vision.")
    looking = LookingRecipe(least=least, most=most)
    return replace(
        DEFAULT_RECIPE if fresh else TUNING_RECIPE, looking=looking, trains=("language",)
    )


def _parts(train: list[str] | None) -> tuple[Part, ...] | None:
    unknown = sorted(set(train or ()) - set(PARTS))
    if unknown:
        raise SourceError(f"--train knows {', '.join(PARTS)}, not {', '.join(unknown)}.")
    return tuple(part for part in PARTS if part in train) if train else None


def _precision(name: str | None) -> Precision | None:
    for known in get_args(Precision):
        if name == known:
            return known
    if name is not None:
        raise SourceError(f"--precision is one of {', '.join(get_args(Precision))}, not {name}.")
    return None


def _words(values: list[str] | None) -> list[str]:
    words = [word for value in values or () for word in value.split(",")]
    return [word.strip().lower() for word in words if word.strip()]
