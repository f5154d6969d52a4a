"""GPUs rented by the batch: for how long, and one sentence for each way to lose one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.config import Settings
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.spec import ModelSpec
from core.records import LENSES
from core.uploads.zero_gpu import RentedCaptioner
from tests.core.uploads.test_upload_captioner import noise
from tests.tiny_models import save_tiny_instructblip
from tests.zero_gpu import Turn, zero_gpu

ROOT = Path(__file__).resolve().parents[3]

RENT = """
import json, sys
import spaces, torch
from types import SimpleNamespace
from gradio.context import LocalContext
from core.errors import TwoLensError
from core.models.captioner.instructblip import InstructBlipCaptioner
from core.models.spec import ModelSpec
from core.records import LENSES
from core.uploads.zero_gpu import RentedCaptioner
from tests.core.uploads.test_upload_captioner import noise
spec = ModelSpec("tiny", f"path:{sys.argv[1]}", licence="none")
rented = RentedCaptioner(InstructBlipCaptioner(spec, device="cuda", precision="bf16"), spaces.GPU)
headers = type("Headers", (dict,), {})({"x-ip-token": "a.e30.c"})
LocalContext.request.set(SimpleNamespace(headers=headers))
said = []
for _ in range(int(sys.argv[2])):
    try:
        said.append([caption.text for caption in rented.caption(noise(2))])
    except TwoLensError as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said))
"""


def tiny(folder: Path) -> InstructBlipCaptioner:
    spec = ModelSpec("tiny", f"path:{save_tiny_instructblip(folder)}", licence="none")
    return InstructBlipCaptioner(spec, device="cpu", precision="bf16")


def test_each_batch_is_one_rental_and_the_weights_are_there_before_the_first(tmp_path):
    captioner, rentals, loads = tiny(tmp_path), [], []
    load = captioner.load
    captioner.load = lambda: loads.append(1) or load()

    def rent(*, duration):
        def wrap(task):
            def rented(*arguments):
                rentals.append(duration(*arguments))
                return task(*arguments)

            assert loads
            return rented

        return wrap

    rented = RentedCaptioner(captioner, rent)
    first = rented.rented_seconds(2)
    assert rented.rented_seconds(0) < first < rented.rented_seconds(32)
    assert rented.rented_seconds(10_000) == 120
    expected = [caption.text for caption in captioner.caption(noise(2))]
    assert [caption.text for caption in rented.caption(noise(2))] == expected
    assert rentals == [first]
    second = rented.rented_seconds(2, 3)
    assert second != 15 + 6 * 1.0, "what the first took counts, not the guess"
    several = rented.caption_several(noise(2), 3)
    assert [captions[0].text for captions in several] == expected
    assert rentals == [first, second]


def test_the_time_asked_for_follows_the_slowest_of_late(tmp_path, monkeypatch):
    clock = iter([0.0, 8.0, 10.0, 12.0, 20.0, 84.0])
    rented = RentedCaptioner(tiny(tmp_path), lambda duration: lambda task: task)
    monkeypatch.setattr("core.uploads.zero_gpu.time.perf_counter", lambda: next(clock))
    for seconds_an_image in (1.0, 0.625, 8.0):
        rented.caption(noise(8))
        assert rented.rented_seconds(8) == min(120, 15 + 1.5 * 8 * seconds_an_image)


def test_without_zero_gpu_the_real_decorator_leaves_the_task_alone(tmp_path):
    spaces = pytest.importorskip("spaces", reason="the package spaces is not installed")
    captioner = tiny(tmp_path)
    rented = RentedCaptioner(captioner, spaces.GPU)
    expected = [caption.text for caption in captioner.caption(noise(1))]
    assert [caption.text for caption in rented.caption(noise(1))] == expected


def test_the_real_package_loses_a_gpu_in_one_sentence(tmp_path):
    pytest.importorskip("spaces", reason="the package spaces is not installed")
    save_tiny_instructblip(tmp_path / "tiny")
    with zero_gpu() as machine:
        machine.turns = [Turn(left_s=3), Turn(left_s=None), Turn(), Turn(kills=True)]
        done = subprocess.run(
            [sys.executable, "-c", RENT, str(tmp_path / "tiny"), str(len(machine.turns))],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)} | machine.environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stderr
    lost = "The GPU was lost before these photos were done."
    kept = "What is described stays, and the other photos wait"
    said = json.loads(done.stdout.splitlines()[-1])
    for sentence, reason, again in zip(
        said,
        ("you a day is used up.", "No GPU is free at the moment.", lost, lost),
        ("try again in 1:23:00, or sign in", "in a minute.", "press the", "press the"),
        strict=True,
    ):
        assert sentence.startswith("UploadError: ") and f"{reason} {kept}" in sentence
        assert again in sentence
    assert machine.asked[0]["durationSeconds"] == "17"
    assert machine.asked[0]["token"] == "a.e30.c", "the visitor pays, not an anonymous one"


def test_queries_leave_cuda_alone_where_gpus_are_rented(monkeypatch):
    import torch

    from app import open_models

    def touched(*_: object) -> None:
        raise AssertionError("a process that has touched CUDA cannot rent a GPU any more")

    for name in ("_lazy_init", "is_available", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    models = open_models(Settings(SPACES_ZERO_GPU=True))
    spec = {"captions": models.profile.sentence, "clip": models.profile.clip}
    for lens in LENSES:
        assert models.embed_query(lens, "a red bus").shape == (spec[lens].dim,)
