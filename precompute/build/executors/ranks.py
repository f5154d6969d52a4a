"""Shards made by the ranks of ``accelerate launch`` or ``torchrun``, each by its own numbers.

They meet twice: when the first rank has made the workspace ready, and when all shards are there.
A rank that dies ends the others, as launchers do; the same command goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_PATIENCE = timedelta(days=30)
"""A rank waits for the slowest, and no shorter than a build may take."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the ranks.

    Attributes:
        number: Of this one, from 0.
        count: Of all.
        device: Where its models run.
    """

    number: int
    count: int
    device: str
    _state: Any

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Meet the other ranks; alone where nobody launched several.

        Args:
            device: As asked: a rank takes the GPU of its own number of those.
        """
        from accelerate import PartialState

        from core.models.devices import resolve_device

        kind = resolve_device(device)
        state = PartialState(cpu=kind == "cpu", timeout=_PATIENCE)
        if kind == "cuda":
            kind = f"cuda:{state.local_process_index}"
        return cls(state.process_index, state.num_processes, kind, state)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self._state.wait_for_everyone()

    def leave(self) -> None:
        """End the connection to the others."""
        if self.count > 1:
            self._state.destroy_process_group()


def is_first_rank() -> bool:
    """Tell whether this process speaks for all ranks, or is none."""
    from accelerate import PartialState

    return PartialState().is_main_process
