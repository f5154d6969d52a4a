"""Tuning a checkpoint by the command: adapters, 8 bits, prompts, a kill, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.errors import ModelError, ModelNotFoundError, SourceError
from core.models.captioner.adapters import ADAPTER_WEIGHTS
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.settings import DECODING_FILE
from core.models.choose_captioner import captioner_spec, with_captioner
from core.models.weights import revision_of
from precompute.finetune.captions.batches import cached_features, tokenise_captions
from precompute.finetune.captions.command import run
from precompute.finetune.captions.files import CaptionerFiles
from precompute.finetune.captions.objective import CaptionObjective
from precompute.finetune.captions.recipe import (
    DETAIL_PROMPT,
    PARTS,
    TUNING_RECIPE,
    Instruction,
    Wanted,
    default_instructions,
)
from precompute.finetune.captions.start import mark_trained
from precompute.finetune.captions.training import CaptionTraining
from precompute.finetune.shared.data import load_pairs
from tests.precompute.finetune.captions.tiny_captioner import GREEDY, recipe_of, tiny_model

ROOT = Path(__file__).resolve().parents[4]
COLOURS = ("red", "green", "blue", "white", "black", "brown")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twelve plain pictures of water, each with a short and a long caption."""
    folder = tmp_path_factory.mktemp("photos")
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(12):
            colour = COLOURS[number % 6]
            Image.new("RGB", (30, 30 + number), colour).save(folder / f"{number}.png")
            captions = [f"the {colour} water", f"a {colour} boat on the {colour} water near sand"]
            row = {"file_name": f"{number}.png", "captions": captions}
            file.write(json.dumps(row) + "\n")
    return folder


@pytest.fixture(scope="module")
def base(photos, tmp_path_factory) -> Path:
    return save_base(photos, tmp_path_factory.mktemp("models") / "base")


def save_base(photos: Path, folder: Path, epochs: int = 12) -> Path:
    """Write a captioner that says boat to everything, and its colour."""
    pairs = load_pairs(str(photos))
    model, processor = tiny_model(pairs)
    recipe = recipe_of(epochs=epochs, batch_size=4, average_decay=0.9)
    mark_trained(model, recipe)
    training = CaptionTraining(CaptionObjective(model, processor, recipe))
    features = cached_features(
        model, processor, pairs, frozen_layers=1, folder=folder.parent / "features"
    )
    walls = [[f"the {colour} boat", f"a {colour} boat"] for colour in COLOURS * 2]
    tokens = tokenise_captions(processor.tokenizer, walls, 20)
    for _ in range(epochs):
        training.run_epoch(features, tokens)
    folder.mkdir()
    CaptionerFiles(folder, GREEDY).write(training)
    return folder


def tune(photos: Path, out: Path, model: Path, **options) -> dict:
    """Run the command as a function and return its report file."""
    values = {"epochs": 1, "batch_size": 4, "device": "cpu", "validation": str(photos)}
    run(data=str(photos), out=out, model=str(model), **{**values, **options})
    return json.loads((out / "metrics.json").read_text())


def said_by(folder: Path, **options) -> list[str]:
    captioner = InstructBlipCaptioner(captioner_spec(str(folder)), device="cpu", **options)
    pictures = [Image.new("RGB", (40, 40), colour) for colour in COLOURS]
    return [caption.text for caption in captioner.caption(pictures)]


@pytest.fixture(scope="module")
def adapter(photos, base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "adapter"
    tune(photos, out, base, epochs=12, lora_rank=4, learning_rate=2e-2, train=["projection"])
    return out


def test_an_adapter_learns_leaves_its_base_alone_and_captions_when_loaded(base, adapter):
    history = json.loads((adapter / "metrics.json").read_text())["history"]
    untuned, tuned = history[0]["untuned"], max(entry["cider"] for entry in history[1:])
    assert tuned > untuned["cider"] + 0.2
    assert history[-1]["loss"] < history[1]["loss"]
    assert sorted(path.name for path in adapter.glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    assert not list(adapter.glob("*.bin"))
    report = json.loads((adapter / "metrics.json").read_text())["validation"]
    assert report["cider"] == pytest.approx(tuned, abs=0.2)

    said = said_by(adapter)
    assert said != said_by(base)
    assert all("water" in text for text in said)


def test_a_share_of_the_start_scales_what_an_adapter_adds(photos, base, tmp_path):
    """``W + BA`` with a share of ``W`` kept is ``W + (1 - share) BA``."""
    options = {"epochs": 2, "lora_rank": 4, "learning_rate": 2e-2, "train": ["projection"]}
    weights = {}
    for share in (0.0, 0.5):
        out = tmp_path / f"{share}"
        report = tune(photos, out, base, start_share=share, validation=None, **options)
        assert report["recipe"]["start_share"] == share
        weights[share] = load_file(out / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    for name, tensor in weights[0.5].items():
        whole = weights[0.0][name]
        if "lora_A" in name:
            expected = whole
        elif "lora_B" in name:
            expected = 0.5 * whole
        else:
            own = before[name.removeprefix("base_model.model.")].float()
            expected = 0.5 * whole + 0.5 * own
        torch.testing.assert_close(tensor, expected, atol=2e-3, rtol=1e-3)
        assert whole.abs().max() > 0.01


def test_an_adapter_beside_a_base_in_8_bits_says_what_the_merged_one_says(adapter):
    pytest.importorskip("bitsandbytes")
    same = sum(
        one == other
        for one, other in zip(said_by(adapter), said_by(adapter, precision="int8"), strict=True)
    )
    assert same >= 4


def test_an_adapter_is_trained_on_a_base_in_8_bits(photos, base, tmp_path):
    pytest.importorskip("bitsandbytes")
    report = tune(
        photos,
        tmp_path / "out",
        base,
        epochs=3,
        limit=6,
        lora_rank=4,
        lora_alpha=4,
        learning_rate=2e-2,
        precision="int8",
        train=["qformer", "projection"],
        gradient_checkpointing=True,
    )
    assert report["recipe"]["precision"] == "int8"
    assert report["history"][-1]["loss"] < report["history"][1]["loss"] - 0.3
    stored = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {"qformer", "language_projection"} <= {name.split(".")[2] for name in stored}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 4)
    assert said_by(tmp_path / "out", precision="int8")


def test_the_manifest_names_the_adapter_its_base_and_both_revisions(adapter, base, tiny):
    from core.gallery.manifest import ModelRef

    spec = with_captioner(tiny, str(adapter)).captioner
    found = ModelRef.of(spec)
    assert found.base is not None
    assert (found.name, found.base.name) == ("adapter", "base")
    assert found.revision == f"{found.revision.partition('+')[0]}+{found.base.revision}"
    assert found.base.revision == revision_of(captioner_spec(str(base)))
    assert str(base.parent) not in found.model_dump_json()


def test_an_adapter_of_another_base_is_refused_in_one_sentence(photos, adapter, base, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    other = save_base(photos, tmp_path / "other", epochs=1)

    def moved_to(name: str, base: str, *, told: bool) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for path in adapter.glob("adapter_model*"):
            (folder / path.name).write_bytes(path.read_bytes())
        changed = config | {"base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(changed))
        if told:
            (folder / DECODING_FILE).write_bytes((adapter / DECODING_FILE).read_bytes())
        return folder

    with pytest.raises(ModelError, match="was trained on other at"):
        said_by(moved_to("retrained", str(other), told=True))
    with pytest.raises(ModelNotFoundError, match="gone.*needs it"):
        said_by(moved_to("orphan", str(tmp_path / "gone"), told=False))
    with pytest.raises(ModelError, match="adapter of an adapter"):
        said_by(moved_to("second", str(adapter), told=False))
    for name, change in (("wider", {"r": 8}), ("elsewhere", {"target_modules": ["k"]})):
        folder = moved_to(name, str(base), told=True)
        (folder / "adapter_config.json").write_text(
            json.dumps(config | change | {"base_model_name_or_path": str(base)})
        )
        with pytest.raises(ModelError, match=f"{name} does not fit base"):
            said_by(folder)


def test_a_pickled_adapter_is_not_read(adapter, tmp_path):
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    torch.save({}, tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="no adapter_model.safetensors"):
        captioner_spec(str(tmp_path))


def test_the_prompts_that_are_taught(photos, base, tmp_path):
    usual = default_instructions("A short image caption.", "In short.")
    assert [(each.text, each.learns) for each in usual] == [
        ("A short image caption.", "all"),
        ("In short.", "shortest"),
        (DETAIL_PROMPT, "longest"),
    ]
    assert Instruction.parse(" Longest:  tell  all") == Instruction("tell all", "longest")
    assert Instruction.parse("what: this?") == Instruction("what: this?")
    with pytest.raises(SourceError, match="--prompt is empty"):
        Instruction.parse("shortest: ")
    captions = [[1] * length for length in (5, 9, 2, 7, 4)]
    assert Instruction("", "shortest").chosen(captions) == [2, 4]
    assert Instruction("", "longest").chosen(captions) == [1, 3]
    assert Instruction("").chosen(captions) == [0, 1, 2, 3, 4]

    report = tune(photos, tmp_path / "out", base, prompt=["Write a caption", "longest: describe"])
    assert list(report["validation"]["mean_words"]) == ["Write a caption", "describe"]
    decoding = json.loads((tmp_path / "out" / DECODING_FILE).read_text())["decoding"]
    assert (decoding["prompt"], decoding["retry_prompt"]) == ("Write a caption", "describe")


def test_large_models_get_an_adapter_unless_all_weights_are_asked_for():
    small = Wanted().applied(TUNING_RECIPE, large=False, gpu=True)
    assert (small.lora, small.trains, small.precision) == (None, PARTS, "fp32")
    large = Wanted().applied(TUNING_RECIPE, large=True, gpu=True)
    assert (large.lora.rank, large.lora.alpha, large.trains) == (16, 32, ())
    assert large.precision == "int8"
    whole = Wanted(trains=("language",)).applied(TUNING_RECIPE, large=True, gpu=True)
    assert (whole.lora, whole.precision) == (None, "fp32")
    with pytest.raises(SourceError, match="exclude each other"):
        Wanted(trains=("language",), lora_rank=4).applied(TUNING_RECIPE, large=False, gpu=False)


def test_measuring_alone_trains_nothing(photos, base, adapter, tmp_path):
    report = tune(photos, tmp_path / "out", adapter, epochs=0)
    found = report["history"][0]["untuned"]
    stored = json.loads((adapter / "metrics.json").read_text())["validation"]
    assert found["cider"] == pytest.approx(stored["cider"], abs=1e-3)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_words_choose_the_images_of_both_splits(photos, base, tmp_path):
    report = tune(photos, tmp_path / "out", base, containing=["red,blue"], limit=3)
    assert report["data"]["images"] == 3
    assert report["validation"]["images"] == 4


def bad_inputs(photos: Path, base: Path, adapter: Path, tmp_path: Path) -> dict[str, tuple]:
    empty = tmp_path / "empty"
    empty.mkdir()
    silent = tmp_path / "silent"
    silent.mkdir()
    Image.new("RGB", (9, 9)).save(silent / "a.png")
    other = tmp_path / "not instructblip"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "blip"}')
    return {
        "empty folder": ({"data": str(empty)}, "cannot be read|holds no"),
        "no captions": ({"data": str(silent)}, "no column of captions"),
        "no such words": ({"containing": ["giraffe"]}, "No image"),
        "another model": ({"model": str(other)}, "of blip, not of instructblip"),
        "no model": ({"model": "no/such/model"}, "neither a folder nor"),
        "an adapter": ({"model": str(adapter)}, "is an adapter"),
        "unknown part": ({"train": ["vision"]}, "--train knows"),
        "unknown precision": ({"precision": "fp16"}, "--precision is one of"),
        "blocks": ({"lora_rank": 2, "trained_layers": 1}, "--trained-layers needs all weights"),
        "int8 weights": ({"precision": "int8"}, "in int8 cannot be trained"),
        "nothing to measure": ({"epochs": 0, "validation": None}, "needs --validation"),
        "no start": (
            {"model": None, "init_vision": other, "start_share": 0.3},
            "starts from nothing, of which",
        ),
    }


@pytest.mark.parametrize(
    "which",
    [
        "empty folder",
        "no captions",
        "no such words",
        "another model",
        "no model",
        "an adapter",
        "unknown part",
        "unknown precision",
        "blocks",
        "int8 weights",
        "nothing to measure",
        "no start",
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(photos, base, adapter, tmp_path, which):
    options, sentence = bad_inputs(photos, base, adapter, tmp_path)[which]
    values = {"data": str(photos), "model": str(base), "device": "cpu", "epochs": 1}
    values |= {"validation": str(photos), **options}
    with pytest.raises((SourceError, ModelError), match=sentence) as raised:
        run(out=tmp_path / "out", **values)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_two_processes_share_the_work(photos, base, tmp_path):
    out = tmp_path / "shared"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [sys.executable, *launcher, *command(photos, base, out)[2:], "--epochs", "1"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    assert (state["run"]["processes"], state["step"]) == (2, 3)
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["images"], report["references"]) == (12, 24)
    assert len(said_by(out)) == 6


def command(photos: Path, base: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "precompute", "finetune", "captions"),
        *("--data", str(photos), "--validation", str(photos), "--model", str(base)),
        *("--out", str(out), "--epochs", "4", "--batch-size", "2", "--save-every", "2"),
        *("--lora-rank", "2", "--train", "projection", "--device", "cpu"),
    ]


def test_a_killed_run_goes_on_and_ends_in_the_same_adapter(photos, base, tmp_path):
    out = tmp_path / "killed"
    state = out / "checkpoint" / "state.json"
    first = subprocess.Popen(
        command(photos, base, out),
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    options = {"epochs": 4, "batch_size": 2, "save_every": 2, "lora_rank": 2}
    options["train"] = ["projection"]
    straight = tune(photos, tmp_path / "straight", base, **options)
    end = time.monotonic() + 240
    while time.monotonic() < end and first.poll() is None:
        if state.is_file() and json.loads(state.read_text())["step"] >= 4:
            break
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert json.loads(state.read_text())["step"] < 24
    assert tune(photos, out, base, **options) == straight
    one, other = (load_file(folder / ADAPTER_WEIGHTS) for folder in (tmp_path / "straight", out))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, other[name], atol=1e-6, rtol=1e-5)
