"""Full-weights training of a small InstructBLIP captioner.

The first blocks of the image tower stay frozen and their output is kept on disk, so an epoch runs
only what is trained; every image is encoded once for all its captions. What is written is the
moving average of the weights that captioned the validation images best.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from core.decoding import DECODING_FILE, Decoding, read_decoding
from core.encoders import MiniLmEncoder
from core.errors import SourceError
from core.files import write_atomically
from core.profiles import PROFILES
from core.weights import ASSETS
from precompute.finetune.caption_model import SMALL_DECODING, SmallSizes
from precompute.finetune.caption_recipe import DEFAULT_RECIPE, CaptionRecipe
from precompute.finetune.data import Pairs, load_pairs

if TYPE_CHECKING:
    import numpy as np

    from precompute.finetune.caption_training import CaptionTraining, Split

_MOST_TOKENS = 20
"""Longer captions are cut: one in fifty has more words, and padding costs time."""

_VALIDATED_EACH_EPOCH = 300
"""Images, decoded greedily; the last epoch is measured on all, as the captioner decodes."""


def run(
    data: Annotated[str, typer.Option(help="Imagefolder or dataset id to train on.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its metrics and checkpoint.")],
    validation: Annotated[
        str | None, typer.Option(help="Imagefolder or dataset id to measure on.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of --data.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Found by itself if unique.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Found by its usual names.")] = None,
    limit: Annotated[int | None, typer.Option(help="Train on the first images only.")] = None,
    start_from: Annotated[
        Path, typer.Option(help="InstructBLIP checkpoint to go on from.")
    ] = ASSETS / "mini-instructblip",
    init_vision: Annotated[
        Path | None,
        typer.Option(help="Start anew behind this ViT (ONNX) instead of from --start-from."),
    ] = None,
    vision_layers: Annotated[
        int, typer.Option(min=1, help="Blocks to take from --init-vision.")
    ] = 10,
    image_size: Annotated[int, typer.Option(min=28, help="Pixels a side, with --init-vision.")] = (
        224
    ),
    min_count: Annotated[
        int, typer.Option(min=1, help="Words used less often are left out, with --init-vision.")
    ] = 4,
    trained_layers: Annotated[
        int, typer.Option(min=0, help="Last blocks of the image tower to train as well.")
    ] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = DEFAULT_RECIPE.epochs,
    batch_size: Annotated[int, typer.Option(min=1)] = DEFAULT_RECIPE.batch_size,
    learning_rate: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.learning_rate,
    label_smoothing: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_RECIPE.label_smoothing,
    grounding: Annotated[float, typer.Option(min=0)] = DEFAULT_RECIPE.grounding,
    word_dropout: Annotated[float, typer.Option(min=0, max=1)] = DEFAULT_RECIPE.word_dropout,
    seed: Annotated[int, typer.Option(min=0)] = DEFAULT_RECIPE.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Train a small InstructBLIP captioner on images with captions.

    Killed at any moment, the same command goes on from its last finished epoch.
    """
    import torch

    from core.devices import resolve_device

    pairs = load_pairs(data, split, image_column, caption_column, limit)
    measured = (
        load_pairs(validation, image_column=image_column, caption_column=caption_column)
        if validation
        else None
    )
    torch.manual_seed(seed)
    if init_vision:
        model, processor = _from_vision(pairs, init_vision, vision_layers, image_size, min_count)
        decoding = SMALL_DECODING
    else:
        model, processor = _from_checkpoint(start_from)
        decoding = read_decoding(start_from)
    recipe = CaptionRecipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        label_smoothing=label_smoothing,
        grounding=grounding,
        word_dropout=word_dropout,
        frozen_layers=max(0, len(model.vision_model.encoder.layers) - trained_layers),
        seed=seed,
    )
    model.to(resolve_device(device))
    report = train(model, processor, pairs, measured, out, recipe, decoding)
    typer.echo(json.dumps({"epochs": epochs, **report}))


def train(
    model: Any,  # noqa: ANN401 - InstructBlipForConditionalGeneration, imported lazily
    processor: Any,  # noqa: ANN401
    pairs: Pairs,
    measured: Pairs | None,
    out: Path,
    recipe: CaptionRecipe,
    decoding: Decoding,
) -> dict[str, Any]:
    """Train, write the best checkpoint into ``out``, and measure it.

    Args:
        model: On the device to train on.
        processor: Its processor.
        pairs: Images with captions to train on.
        measured: Where to measure after each epoch; None keeps the last epoch.
        out: Gets the checkpoint and ``metrics.json``, and while training ``checkpoint/`` and
            ``features/``.
        recipe: How to train.
        decoding: How to caption, written beside the model.

    Returns:
        BLEU-4 with the number of images and references, and how many captions are distinct; an
        empty mapping without ``measured``.

    Raises:
        SourceError: ``out`` holds the checkpoint of another run.
    """
    from precompute.finetune.caption_batches import cached_features, tokenise_captions
    from precompute.finetune.caption_training import CaptionTraining, Split

    def prepared(source: Pairs, meanings: np.ndarray | None = None) -> Split:
        features = cached_features(
            model, processor, source, frozen_layers=recipe.frozen_layers, folder=out / "features"
        )
        return Split(features, source.captions, meanings)

    out.mkdir(parents=True, exist_ok=True)
    learned_from = prepared(pairs, caption_meanings(pairs) if recipe.grounding else None)
    probe = prepared(measured) if measured else None
    tokens = tokenise_captions(processor.tokenizer, pairs.captions, _MOST_TOKENS)
    prompts = (decoding.prompt, decoding.retry_prompt)
    training = CaptionTraining(model, processor, recipe, prompts, decoding)
    history = training.resume(out / "checkpoint", pairs.fingerprint)
    while True:
        # An epoch is dear: it is saved before it is measured, and measured after a kill between.
        if history and "bleu4_greedy" not in history[-1]:
            history[-1]["bleu4_greedy"] = _keep_if_best(training, probe, out)
            typer.echo(json.dumps(history[-1]))
            training.save(out / "checkpoint", pairs.fingerprint, history)
        if training.epoch >= recipe.epochs:
            break
        loss = training.run_epoch(learned_from, tokens)
        history.append({"epoch": training.epoch, "loss": round(loss, 4)})
        training.save(out / "checkpoint", pairs.fingerprint, history)
    report = _measure(out, probe, training) if probe else {}
    content = {
        "recipe": asdict(recipe),
        "data": {"name": pairs.name, "images": len(pairs)},
        "validation": {"name": measured.name, **report} if measured else None,
        "history": history,
    }
    write_atomically(out / "metrics.json", (json.dumps(content, indent=2) + "\n").encode())
    return report


def _keep_if_best(training: CaptionTraining, probe: Split | None, out: Path) -> float | None:
    """Return greedy BLEU-4 on some validation images; write the model if none was better."""
    score = None
    if probe is not None:
        score, _ = training.validate(probe.first(_VALIDATED_EACH_EPOCH), num_beams=1)
    if score is None or score >= training.best:
        training.best = -1.0 if score is None else score
        write_captioner(training, out)
    return score


def _measure(out: Path, probe: Split, training: CaptionTraining) -> dict[str, Any]:
    """Measure what was written, not what is in memory: the best epoch, in half precision."""
    from safetensors.torch import load_file

    weights = {
        name: tensor
        for path in sorted(out.glob("model*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    for name, average in training.average.items():
        if name in weights:
            average.copy_(weights[name].float())
    score, captions = training.validate(probe)
    return {
        "bleu4": round(score, 2),
        "images": len(captions),
        "references": sum(map(len, probe.captions)),
        "distinct_captions": len(set(captions)),
        "num_beams": training.decoding.num_beams,
    }


def caption_meanings(pairs: Pairs) -> np.ndarray:
    """Return the mean sentence embedding of each image's captions, centred, float32 (n, 384)."""
    import numpy as np

    encoder = MiniLmEncoder(PROFILES["mini"].sentence)
    texts = [text for captions in pairs.captions for text in captions]
    # By length, so that little padding is encoded.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows = np.empty((len(texts), 384), dtype=np.float32)
    for start in tqdm(range(0, len(order), 256), desc="meanings of captions", unit="batch"):
        some = order[start : start + 256]
        rows[some] = encoder.encode_text([texts[i] for i in some])
    return centred_means(rows, [len(captions) for captions in pairs.captions])


def centred_means(rows: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Average consecutive rows in groups of ``counts``, then centre and normalise the averages."""
    import numpy as np

    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    means = np.add.reduceat(rows, starts, axis=0) / np.asarray(counts)[:, None]
    means = means - means.mean(axis=0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return (means / np.maximum(lengths, 1e-6)).astype(np.float32)


def write_captioner(training: CaptionTraining, out: Path) -> None:
    """Write the averaged weights in half precision, the processor and the decoding."""
    import torch

    training.swap_average()
    try:
        # Tied tensors must stay one, or each copy is written.
        state = training.model.state_dict()
        kept = {tensor.data_ptr(): tensor for tensor in state.values()}
        halved = {key: tensor.to("cpu", torch.float16) for key, tensor in kept.items()}
        halves = {name: halved[tensor.data_ptr()] for name, tensor in state.items()}
        for old in out.glob("model*.safetensors*"):
            old.unlink()
        training.model.save_pretrained(out, state_dict=halves, max_shard_size="40MB")
    finally:
        training.swap_average()
    training.processor.save_pretrained(out)
    decoding = json.dumps({"decoding": asdict(training.decoding)}, indent=2) + "\n"
    write_atomically(out / DECODING_FILE, decoding.encode())


def _from_vision(
    pairs: Pairs, vision: Path, layers: int, image_size: int, min_count: int
) -> tuple[Any, Any]:
    from precompute.finetune.caption_model import new_model, new_tokenizer
    from precompute.finetune.vision_init import load_vision_tower

    config, state = load_vision_tower(vision, layers=layers, image_size=image_size)
    texts = (text for captions in pairs.captions for text in captions)
    return new_model(new_tokenizer(texts, min_count=min_count), config, state, SmallSizes())


def _from_checkpoint(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

    if not (folder / "config.json").is_file():
        raise SourceError(f"{folder} holds no InstructBLIP checkpoint to start from.")
    model = InstructBlipForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    return model, InstructBlipProcessor.from_pretrained(folder, local_files_only=True)
