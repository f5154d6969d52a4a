"""Encoders of queries have a thread and a share of the cores each, and run side by side."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.models.encoder_thread import EncoderThread
from core.models.profiles import PROFILES, Models
from core.records import LENSES


def test_a_thread_takes_its_share_of_the_cores_and_leaves_the_others_theirs():
    import torch

    before = torch.get_num_threads()
    threads = [EncoderThread(f"test-{n}", share=1_000) for n in range(3)]
    assert [one.submit(torch.get_num_threads).result() for one in threads] == [1, 1, 1]
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before
    assert [one.submit(torch.get_num_threads).result() for one in threads] == [1, 1, 1]


class Meeting:
    """An encoder that answers once another encodes at the same time."""

    def __init__(self, spec, barrier: threading.Barrier) -> None:
        self.spec = spec
        self._barrier = barrier

    def encode_text(self, texts):
        self._barrier.wait(timeout=60)
        return np.eye(len(texts), self.spec.dim, dtype=np.float32)


def test_both_lenses_encode_at_the_same_time():
    profile, barrier = PROFILES["mini"], threading.Barrier(2)
    models = Models(
        profile,
        sentence=Meeting(profile.sentence, barrier),
        clip=Meeting(profile.clip, barrier),
    )
    coming = [models.begin_query(lens, "a dog") for lens in LENSES]
    assert [len(one.result().embedding) for one in coming] == [384, 512]
    assert all(models.encode_query(lens, "a dog").cached for lens in LENSES)
