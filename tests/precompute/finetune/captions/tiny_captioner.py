"""A tiny InstructBLIP and plain coloured pictures, to train it on in a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import BlipImageProcessor, InstructBlipVisionConfig, InstructBlipVisionModel

from core.models.captioner.settings import Decoding
from precompute.finetune.captions.batches import tokenise_captions
from precompute.finetune.captions.files import CaptionerFiles
from precompute.finetune.captions.job import Job
from precompute.finetune.captions.objective import CaptionObjective
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction
from precompute.finetune.captions.start import Prepared, accelerator_on, mark_trained
from precompute.mini.captioner_model import new_model, new_tokenizer
from precompute.sources.pairs import Pairs, load_pairs

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
SIZES: tuple[dict[str, float], dict[str, float]] = (
    {
        **{"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "num_hidden_layers": 1,
    },
    {
        **{"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2},
        **{"num_layers": 1, "num_decoder_layers": 1},
    },
)
GREEDY = Decoding(num_beams=1, min_new_tokens=3, max_new_tokens=10, repetition_penalty=1.0)


def coloured_pairs(folder: Path) -> Pairs:
    """Eighteen plain pictures whose captions tell their colour."""
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(18):
            colour = COLOURS[number % 6]
            name = f"{number:02}.png"
            Image.new("RGB", (30 + number, 40), colour).save(folder / name)
            captions = [f"A {colour} wall is painted {colour} .", f"The whole wall is {colour}"]
            file.write(json.dumps({"file_name": name, "captions": captions}) + "\n")
    return load_pairs(str(folder))


def tiny_model(pairs: Pairs):
    torch.manual_seed(1)
    tokenizer = new_tokenizer(
        (text for captions in pairs.captions for text in captions), min_count=2
    )
    config = InstructBlipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        initializer_range=0.2,
    )
    image_processor = BlipImageProcessor(size={"height": 28, "width": 28})
    return new_model(tokenizer, InstructBlipVisionModel(config), image_processor, *SIZES)


PROMPTS = (
    Instruction(GREEDY.prompt),
    Instruction(GREEDY.retry_prompt, "shortest"),
    Instruction("Describe the image in detail.", "longest"),
)


def recipe_of(**changes) -> CaptionRecipe:
    values = {
        "epochs": 3,
        "batch_size": 6,
        "learning_rate": 5e-3,
        "word_dropout": 0.1,
        "max_tokens": 20,
        "instructions": PROMPTS,
    }
    return CaptionRecipe(**{**values, **changes}).completed(large=False, gpu=False)


def objective_of(pairs: Pairs, **changes) -> CaptionObjective:
    model, processor = tiny_model(pairs)
    recipe = recipe_of(**changes)
    mark_trained(model, recipe)
    return CaptionObjective(model, processor, recipe)


def training_of(pairs: Pairs, folder: Path, **changes) -> tuple[Job, np.ndarray]:
    """Return a training whose checkpoint is in the folder, and the images' features."""
    job = Job(prepared_in(pairs, folder, **changes), pairs, None)
    return job, job.split(pairs).features


def tokens_of(objective: CaptionObjective, pairs: Pairs) -> list[list[list[int]]]:
    return tokenise_captions(objective.processor.tokenizer, pairs.captions, 20)


def prepared_in(pairs: Pairs, out: Path, **changes) -> Prepared:
    out.mkdir(parents=True, exist_ok=True)
    accelerator, _ = accelerator_on("cpu")
    files = CaptionerFiles(out, GREEDY)
    return Prepared(objective_of(pairs, **changes), files, accelerator)
