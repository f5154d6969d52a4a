from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ModelError
from core.models.devices import resolve_device


def test_auto_takes_cuda_where_there_is_one():
    import torch

    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cpu_is_cpu():
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "CPU"])
def test_an_unknown_name_is_refused_with_the_accepted_ones(name):
    with pytest.raises(ModelError, match="auto, cpu, cuda and cuda:N"):
        resolve_device(name)


def test_a_device_that_is_not_there_is_refused_before_any_model_loads():
    with pytest.raises(ModelError, match=r"no device 'cuda:99'"):
        resolve_device("cuda:99")


ROOT = Path(__file__).resolve().parents[3]
COUNT_FAULTS = """
import resource, sys, torch
from core.models.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def batches(count):
    for _ in range(count):
        several = [torch.ones(800, 3072) for _ in range(3)]
        del several
batches(5)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batches(20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_kept_memory_is_not_fetched_from_the_system_again():
    # Left to itself glibc decides as it goes; from the start it gives all large blocks back.
    eager = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}

    def faults(how: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, how]
        env = {**os.environ, **eager}
        return int(subprocess.check_output(command, text=True, env=env, cwd=ROOT))

    assert faults("give back") > 100_000
    assert faults("keep") < 10_000
