"""Tuning a checkpoint by the command: adapters, 8 bits, prompts, a kill, and bad input."""

from __future__ import annotations

import contextlib
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from core.errors import ModelError, ModelNotFoundError, SourceError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.captioner.lora import ADAPTER_WEIGHTS
from core.models.captioner.settings import DECODING_FILE
from core.models.choose import captioner_spec, with_captioner
from core.models.locate import revision_of
from precompute.finetune.captions.batches import tokenise_captions
from precompute.finetune.captions.command import run
from precompute.finetune.captions.files import CaptionerFiles
from precompute.finetune.captions.recipe import (
    DETAIL_PROMPT,
    Instruction,
    default_instructions,
)
from precompute.finetune.shared.loop import CHECKPOINT
from precompute.sources.pairs import load_pairs
from tests.precompute.finetune.captions.test_recipe import recipe_file
from tests.precompute.finetune.captions.tiny_captioner import GREEDY, training_of

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
    changes = {"epochs": epochs, "batch_size": 4, "average_decay": 0.9}
    training, features = training_of(pairs, folder.parent / f"{folder.name} run", **changes)
    walls = [[f"the {colour} boat", f"a {colour} boat"] for colour in COLOURS * 2]
    training.learn(features, tokenise_captions(training.objective.processor.tokenizer, walls, 20))
    folder.mkdir()
    with training.outcome():
        CaptionerFiles(folder, GREEDY).write(training.objective)
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
    tune(photos, out, base, epochs=12, lora_rank=4, learning_rate=2e-2, recipe="adapter")
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
    options = {"epochs": 2, "lora_rank": 4, "learning_rate": 2e-2, "recipe": "adapter"}
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
        recipe=recipe_file(
            tmp_path,
            lora={"rank": 4, "alpha": 4},
            learning_rate=2e-2,
            precision="int8",
            trains=["qformer", "projection"],
            gradient_checkpointing=True,
        ),
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
    captions = [[1] * length for length in (5, 9, 2, 7, 4)]
    assert Instruction("", "shortest").chosen(captions) == [2, 4]
    assert Instruction("", "longest").chosen(captions) == [1, 3]
    assert Instruction("").chosen(captions) == [0, 1, 2, 3, 4]

    prompts = [{"text": "Write a caption"}, {"text": "describe", "learns": "longest"}]
    recipe = recipe_file(tmp_path, instructions=prompts)
    report = tune(photos, tmp_path / "out", base, recipe=recipe)
    assert list(report["validation"]["mean_words"]) == ["Write a caption", "describe"]
    decoding = json.loads((tmp_path / "out" / DECODING_FILE).read_text())["decoding"]
    assert (decoding["prompt"], decoding["retry_prompt"]) == ("Write a caption", "describe")


def test_measuring_alone_trains_nothing(photos, base, adapter, tmp_path):
    report = tune(photos, tmp_path / "out", adapter, epochs=0)
    found = report["history"][0]["untuned"]
    stored = json.loads((adapter / "metrics.json").read_text())["validation"]
    assert found["cider"] == pytest.approx(stored["cider"], abs=1e-3)
    assert not list((tmp_path / "out").glob("*.safetensors"))


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
        "no captions": ({"data": str(silent)}, "has no captions"),
        "another model": ({"model": str(other)}, "of blip, not of instructblip"),
        "no model": ({"model": "no/such/model"}, "neither a folder nor"),
        "an adapter": ({"model": str(adapter)}, "is an adapter"),
        "no recipe": ({"recipe": "fastest"}, "neither a file nor one of the recipes"),
        "int8 weights": (
            {"recipe": recipe_file(tmp_path, precision="int8")},
            "in int8 cannot be trained",
        ),
        "nothing": ({"recipe": recipe_file(other, trains=[])}, "trains nothing"),
        "nothing to measure": ({"epochs": 0, "validation": None}, "needs --validation"),
    }


@pytest.mark.parametrize(
    "which",
    [
        "empty folder",
        "no captions",
        "another model",
        "no model",
        "an adapter",
        "no recipe",
        "int8 weights",
        "nothing",
        "nothing to measure",
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
    assert progress_of(out)["history"][-1]["epoch"] == 1
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["images"], report["references"]) == (12, 24)
    assert len(said_by(out)) == 6


def command(photos: Path, base: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "precompute", "finetune", "captions"),
        *("--data", str(photos), "--validation", str(photos), "--model", str(base)),
        *("--out", str(out), "--epochs", "4", "--batch-size", "2", "--lora-rank", "2"),
        *("--recipe", "adapter", "--learning-rate", "2e-4", "--device", "cpu"),
    ]


def progress_of(out: Path) -> dict:
    with safe_open(out / "checkpoint" / CHECKPOINT, framework="pt") as file:
        return json.loads(file.metadata()["progress"])


def test_a_killed_run_goes_on_and_ends_in_the_same_adapter(photos, base, tmp_path):
    out = tmp_path / "killed"
    often = "from precompute.finetune.shared import loop; loop.SAVE_EVERY_S = -1.0; "
    arguments = command(photos, base, out)[3:]
    first = subprocess.Popen(
        [sys.executable, "-c", often + "from precompute.__main__ import app; app()", *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    options = {"epochs": 4, "batch_size": 2, "lora_rank": 2, "recipe": "adapter"}
    options["learning_rate"] = 2e-4
    straight = tune(photos, tmp_path / "straight", base, **options)
    end = time.monotonic() + 240
    while time.monotonic() < end and first.poll() is None:
        # The file may be replaced by one of another size while it is read.
        with contextlib.suppress(OSError, RuntimeError, SafetensorError):
            if progress_of(out)["step"] >= 2:
                break
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert progress_of(out)["epoch"] < 4
    assert tune(photos, out, base, **options) == straight
    one, other = (load_file(folder / ADAPTER_WEIGHTS) for folder in (tmp_path / "straight", out))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor, other[name], atol=1e-6, rtol=1e-5)
