"""How a training shows itself: figures for TensorBoard, and memory for the progress bar."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class RunLog:
    """Writes figures that ``tensorboard --logdir`` shows; silent where it is not installed.

    Args:
        folder: Gets the event files.
        step: Where the run starts or goes on; what an earlier, killed run wrote from there on is
            hidden.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        """Open the log."""
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures by their names, e.g. ``train/loss``, at a step."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()


def memory_gb(device: torch.device) -> float:
    """Return the most memory in use so far, in 1e9 bytes: of a GPU, or of this process."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
