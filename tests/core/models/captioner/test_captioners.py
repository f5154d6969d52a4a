"""InstructBLIP through its real classes: tiny random weights, and the checkpoint in assets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import ModelError, ModelNotFoundError
from core.models.captioner.caption_text import caption_flags
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import DECODING_FILE, Decoding
from core.models.profiles import PROFILES
from core.models.spec import ModelSpec
from tests.tiny_models import QUERY_TOKENS, WORDS, save_tiny_instructblip

QUICK = Decoding(num_beams=2, min_new_tokens=3, max_new_tokens=8, repetition_penalty=1.0)
CHECKPOINT_FLAGS = {"empty", "repetition", "prompt_echo", "retried"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny_instructblip(tmp_path_factory.mktemp("tiny-instructblip"))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    noise = [
        Image.fromarray(random.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(4)
    ]
    return [*noise, *(Image.new("RGB", (50, 50), name) for name in ("red", "white", "navy"))]


def captioner_of(folder: Path, **options) -> InstructBlipCaptioner:
    options.setdefault("decoding", QUICK)
    spec = ModelSpec("tiny", f"path:{folder}", licence="none", precision="int8")
    return InstructBlipCaptioner(spec, device="cpu", **options)


@pytest.mark.parametrize("beams", [1, 3])
def test_the_confidence_is_the_mean_probability_that_the_model_gives_its_tokens(
    tmp_path, images, beams
):
    """By one forward pass over each finished caption alone: no beams, no penalties, no filling."""
    import torch

    folder = save_tiny_instructblip(tmp_path / "ends")
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    # Six words, none of them twice: captions end, some early and some late.
    config["suppress_tokens"] = [*range(config["eos_token_id"]), *range(2, len(WORDS) - 2)]
    path.write_text(json.dumps(config))
    search = {
        "num_beams": beams,
        "min_new_tokens": 2,
        "max_new_tokens": 12,
        "repetition_penalty": 1.7,
        "no_repeat_ngram_size": 1,
    }
    captioner = captioner_of(folder, decoding=Decoding(**search, length_penalty=-2.0))
    captions = captioner.caption(images)
    loaded = captioner.load()
    lengths = set()
    for image, caption in zip(images, captions, strict=True):
        assert caption.flags == ()
        inputs = loaded.processor(image, text=Decoding().prompt, return_tensors="pt")
        with torch.inference_mode():
            tokens = loaded.model.generate(
                **inputs,
                **search,
                length_penalty=-2.0,
                do_sample=False,
                suppress_tokens=loaded.suppressed,
            )
            logits = loaded.model(**inputs, decoder_input_ids=tokens).logits[0, :-1]
        said = tokens[0, 1:]
        chances = logits.softmax(dim=-1)[torch.arange(len(said)), said]
        assert caption.confidence == pytest.approx(chances.mean().item(), rel=1e-4)
        lengths.add(len(said))
    assert len(lengths) > 1, "no caption of the batch was filled up"


def test_different_images_get_different_captions_of_known_words(checkpoint, images):
    captions = captioner_of(checkpoint).caption(images)
    assert len(captions) == len(images)
    assert len({caption.text for caption in captions}) >= 4
    for caption in captions:
        assert set(caption.text.split()) <= set(WORDS)
        assert set(caption.flags) <= CHECKPOINT_FLAGS
        assert 0.0 < caption.confidence <= 1.0


def test_order_and_batching_do_not_change_a_caption(checkpoint, images):
    captioner = captioner_of(checkpoint)
    # Some processors round float32 otherwise in another batch, and random weights magnify that.
    captioner.load().model.double()
    together = [caption.text for caption in captioner.caption(images)]
    single = [captioner.caption([image])[0].text for image in images]
    backwards = [caption.text for caption in captioner.caption(images[::-1])]
    assert together == single == backwards[::-1]


def test_more_images_than_a_batch_holds(checkpoint, images):
    captioner = captioner_of(checkpoint, decoding=Decoding(num_beams=1, max_new_tokens=8))
    many = [images[i % 2] for i in range(35)]
    texts = [caption.text for caption in captioner.caption(many)]
    assert texts[0] != texts[1]
    assert texts == [texts[i % 2] for i in range(35)]


def test_no_images_no_captions(checkpoint):
    assert captioner_of(checkpoint).caption([]) == []


def test_a_cpu_runs_an_int8_spec_in_fp32(checkpoint, images):
    import torch

    captioner = captioner_of(checkpoint)
    captioner.caption(images[:1])
    kinds = {parameter.dtype for parameter in captioner.load().model.parameters()}
    assert kinds == {torch.float32}


def test_bf16(checkpoint, images):
    import torch

    captioner = captioner_of(checkpoint, precision="bf16")
    captions = captioner.caption(images)
    assert len({caption.text for caption in captions}) >= 3
    assert captioner.load().model.language_projection.weight.dtype == torch.bfloat16


def test_int8_runs_on_a_cpu_and_spares_the_modules_that_are_named(checkpoint, images):
    import torch
    from bitsandbytes.nn import Linear8bitLt

    captioner = captioner_of(checkpoint, precision="int8")
    captions = captioner.caption(images)
    assert len({caption.text for caption in captions}) >= 3
    model = captioner.load().model
    quantised = {n for n, module in model.named_modules() if isinstance(module, Linear8bitLt)}
    assert any(name.startswith("vision_model.") for name in quantised)
    assert any(name.startswith("language_model.decoder.") for name in quantised)
    assert not any(name.startswith(("qformer.", "language_projection")) for name in quantised)
    assert "language_model.lm_head" not in quantised
    assert model.vision_model.encoder.layers[0].mlp.fc1.weight.dtype == torch.int8


def test_flagged_captions_are_decoded_once_more(checkpoint, images):
    """A random model loops; the retry forbids a bigram twice, so loops are rarer after it."""
    decoding = Decoding(num_beams=1, min_new_tokens=8, max_new_tokens=8, repetition_penalty=1.0)
    captioner = captioner_of(checkpoint, decoding=decoding)
    captions = captioner.caption(images)
    retried = [caption for caption in captions if "retried" in caption.flags]
    assert retried
    for caption in captions:
        doubts = tuple(flag for flag in caption.flags if flag != "retried")
        assert caption_flags(caption.text, decoding.prompt) == doubts
    assert any(caption.flags == ("retried",) for caption in retried), "no retry removed a doubt"


def test_nothing_said_is_flagged_empty(tmp_path, images):
    """Only the end token is allowed."""
    folder = save_tiny_instructblip(tmp_path / "mute")
    path = folder / "generation_config.json"
    config = json.loads(path.read_text())
    config["suppress_tokens"] = [i for i in range(len(WORDS) + 4) if i != config["eos_token_id"]]
    path.write_text(json.dumps(config))
    decoding = Decoding(num_beams=1, min_new_tokens=0, max_new_tokens=4)
    (caption,) = captioner_of(folder, decoding=decoding).caption(images[:1])
    assert caption.text == ""
    assert caption.flags == ("empty", "retried")


def test_the_checkpoint_says_how_it_is_decoded(tmp_path, images):
    folder = save_tiny_instructblip(tmp_path / "brief")
    values = {"num_beams": 1, "min_new_tokens": 1, "max_new_tokens": 2}
    (folder / DECODING_FILE).write_text(json.dumps({"decoding": values}))
    captions = captioner_of(folder, decoding=None).caption(images)
    assert max(len(caption.text.split()) for caption in captions) <= 2


def test_threads_load_once_and_agree(checkpoint, images):
    captioner = captioner_of(checkpoint)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: captioner.load(), range(4)))
        texts = list(pool.map(lambda _: captioner.caption(images[:2])[0].text, range(4)))
    assert all(model is models[0] for model in models)
    assert len(set(texts)) == 1


def test_a_constructor_reads_nothing():
    InstructBlipCaptioner(ModelSpec("gone", "path:/does/not/exist", licence="none"))


def test_a_missing_folder_is_one_sentence():
    captioner = captioner_of(Path("no-such-folder"))
    with pytest.raises(ModelNotFoundError, match="tiny could not be found.*no-such-folder"):
        captioner.load()


def test_a_folder_without_weights(tmp_path):
    folder = save_tiny_instructblip(tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="no complete"):
        captioner_of(folder).load()


def test_truncated_weights(tmp_path):
    folder = save_tiny_instructblip(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="tiny are damaged"):
        captioner_of(folder).load()


def test_missing_weights_are_not_replaced_by_random_ones(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_instructblip(tmp_path / "holed")
    weights = load_file(folder / "model.safetensors")
    del weights["query_tokens"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 of its weights, query_tokens"):
        captioner_of(folder).load()


@pytest.mark.parametrize(
    ("file", "key", "value", "sentence"),
    [
        ("processor_config.json", "num_query_tokens", 7, f"7 image tokens.*has {QUERY_TOKENS}"),
        ("config.json", "image_token_index", 9, "image token 9.*writes 3"),
        ("config.json", "image_token_index", None, "image token None"),
    ],
)
def test_a_processor_of_another_model(tmp_path, file: str, key: str, value, sentence: str):
    folder = save_tiny_instructblip(tmp_path / "mixed")
    config = json.loads((folder / file).read_text())
    assert config[key] != value
    (folder / file).write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=sentence):
        captioner_of(folder).load()


@pytest.fixture(scope="module")
def mini() -> InstructBlipCaptioner:
    return InstructBlipCaptioner(PROFILES["mini"].captioner, device="cpu")


def test_the_shipped_checkpoint_describes_each_photo_in_its_own_words(mini, shared_data):
    paths = sorted((shared_data / "coco_cc").glob("*.jpg"))[::10]
    captions = mini.caption([Image.open(path).convert("RGB") for path in paths])
    assert not any("empty" in caption.flags for caption in captions)
    assert all(len(caption.text.split()) >= 4 for caption in captions)
    assert len({caption.text for caption in captions}) >= 0.7 * len(captions)


def test_the_shipped_checkpoint_reaches_its_floor(mini, shared_data):
    """On 25 of the validation images; the figure of all 1,000 is in the model card."""
    pytest.importorskip("sacrebleu")
    from precompute.evaluate.metrics.caption_metrics import bleu4

    folder = shared_data / "flickr8k" / "validation"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").open()][:1000:40]
    photos = [Image.open(folder / row["file_name"]).convert("RGB") for row in rows]
    captions = [caption.text for caption in mini.caption(photos)]
    assert bleu4(captions, [row["captions"] for row in rows]) >= 18.0  # 21.7 when shipped
