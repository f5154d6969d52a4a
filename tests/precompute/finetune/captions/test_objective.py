"""The loss and the captions are the model's own, whichever kind of language model it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
)

from core.models.captioner.settings import Decoding
from precompute.finetune.captions.batches import encoded_images, epoch_batches, tokenise_captions
from precompute.finetune.captions.objective import CaptionObjective
from precompute.finetune.captions.recipe import CaptionRecipe, Instruction
from precompute.sources.pairs import Pairs, load_pairs
from tests.tiny_models import save_tiny_instructblip

PROMPT = Instruction("a short image caption")
SAID = [
    "a dog runs",
    "the brown dog jumps in the water near the tree",
    "a red boat",
    "two on a bike",
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Pairs:
    folder = tmp_path_factory.mktemp("four")
    with (folder / "metadata.jsonl").open("w") as file:
        for number, colour in enumerate(("red", "lime", "blue", "gray")):
            Image.new("RGB", (30, 30), colour).save(folder / f"{number}.png")
            captions = [SAID[number], SAID[-1 - number]]
            file.write(json.dumps({"file_name": f"{number}.png", "captions": captions}) + "\n")
    return load_pairs(str(folder))


@pytest.fixture(scope="module", params=["encoder-decoder", "decoder only"])
def instructblip(request, tmp_path_factory):
    """A T5 as in flan-t5-xl, and a Llama as in vicuna-7b."""
    folder = save_tiny_instructblip(tmp_path_factory.mktemp("tiny") / "t5")
    processor = InstructBlipProcessor.from_pretrained(folder)
    model = InstructBlipForConditionalGeneration.from_pretrained(folder)
    if request.param == "decoder only":
        llama = LlamaConfig(
            vocab_size=model.config.text_config.vocab_size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
        )
        config = InstructBlipConfig(
            vision_config=model.config.vision_config.to_dict(),
            qformer_config=model.config.qformer_config.to_dict(),
            text_config=llama.to_dict(),
            num_query_tokens=model.config.num_query_tokens,
            image_token_index=model.config.image_token_index,
            initializer_range=1.0,
        )
        torch.manual_seed(2)
        model = InstructBlipForConditionalGeneration(config)
        torch.nn.init.normal_(model.query_tokens)
        assert model.config.use_decoder_only_language_model
    return model.eval(), processor


def objective_of(instructblip) -> CaptionObjective:
    recipe = CaptionRecipe(
        batch_size=4,
        label_smoothing=0.0,
        word_dropout=0.0,
        instructions=(PROMPT,),
    )
    return CaptionObjective(*instructblip, recipe).eval()


def test_the_loss_is_that_of_the_models_own_forward(instructblip, pairs, tmp_path):
    model, processor = instructblip
    objective = objective_of(instructblip)
    features = encoded_images(model, processor, pairs, tmp_path)
    tokens = tokenise_captions(processor.tokenizer, pairs.captions, 8)
    batch = next(epoch_batches(features, tokens, objective.recipe, unknown=2, seed=0))
    images = [pairs.image(int(batch.rows[owner])) for owner in batch.image_of_caption]
    inputs = processor(images=images, text=[PROMPT.text] * len(images), return_tensors="pt")
    labels = batch.labels
    if model.config.use_decoder_only_language_model:
        words = labels.masked_fill(labels == -100, 0)
        unseen = torch.full_like(inputs["input_ids"], -100)
        labels = torch.cat([unseen, labels], dim=1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], words], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        torch.testing.assert_close(
            objective(batch), model(**inputs, labels=labels).loss, atol=5e-3, rtol=2e-3
        )


def test_captions_from_features_are_those_of_the_models_own_generate(
    instructblip, pairs, tmp_path: Path
):
    model, processor = instructblip
    features = encoded_images(model, processor, pairs, tmp_path)
    objective = objective_of(instructblip)
    objective.recipe = CaptionRecipe(instructions=(PROMPT,))
    decoding = Decoding(num_beams=1, min_new_tokens=3, max_new_tokens=6)
    ours = objective.captions(features, PROMPT, decoding)
    images = [pairs.image(row) for row in range(4)]
    inputs = processor(images=images, text=[PROMPT.text] * 4, return_tensors="pt")
    tokens = model.generate(
        **inputs,
        do_sample=False,
        min_new_tokens=3,
        max_new_tokens=6,
        repetition_penalty=1.5,
        suppress_tokens=model.generation_config.suppress_tokens,  # not taken up by itself
    )
    theirs = processor.batch_decode(tokens, skip_special_tokens=True)
    if model.config.use_decoder_only_language_model:
        theirs = [text.removeprefix(PROMPT.text).strip() for text in theirs]
    assert len(set(ours)) > 1
    assert ours == theirs
