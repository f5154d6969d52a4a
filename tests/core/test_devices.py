from __future__ import annotations

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
