from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from core.devices import resolve_device
from core.errors import ModelError


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


COUNT_FAULTS = """
import resource, sys, torch
from core.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def pass_of_a_tower():
    for _ in range(10):
        hidden = torch.ones(800, 3072)
        torch.relu_(hidden.mul(2.0).add(1.0))
pass_of_a_tower()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pass_of_a_tower()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_kept_memory_is_not_fetched_from_the_system_again():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") * 20 < faults("give back")
