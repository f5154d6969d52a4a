"""What every measurement gives: figures, each beside its target and its floor, and the machine.

A floor is the time of the least that must be done: the bare forward pass of the encoders, or one
numpy matrix product. What lies between a figure and its floor is ours.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.errors import SourceError
from core.files import write_atomically
from precompute.packages import versions_of

_VERSIONS = (
    *("torch", "transformers", "open_clip_torch", "faiss-cpu"),
    *("gradio", "numpy", "pillow"),
)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value.

    Attributes:
        name: What was measured.
        value: The measurement.
        unit: Of value, target and floor.
        n: Measurements behind the value.
        target: What is asked for on 2 cores with the ``mini`` profile; None where nothing is.
        more_is_better: Whether the target is a least and not a most.
        floor: The least that it could be (the most, where more is better); None if not known.
        floor_name: What was timed as the floor.
    """

    name: str
    value: float
    unit: str
    n: int
    target: float | None = None
    more_is_better: bool = False
    floor: float | None = None
    floor_name: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target


def result(figures: Sequence[Figure], profile: str, **about: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return figures and what they were measured on as plain values, ready for JSON.

    Args:
        figures: In the order of the table.
        profile: Whose models ran.
        about: What else there is to say, by name.
    """
    return {
        "machine": _machine(),
        "versions": versions_of(_VERSIONS),
        "profile": profile,
        **about,
        "figures": [{**asdict(figure), "met": figure.met} for figure in figures],
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write the result; the file is whole or absent.

    Raises:
        SourceError: The file cannot be written.
    """
    try:
        write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
    except OSError as error:
        raise SourceError(f"{path} cannot be written ({error.strerror}).") from error


def table(result: dict[str, Any]) -> str:
    """Return the figures as a table for the terminal."""
    head = ("figure", "value", "target", "met", "floor", "n")
    rows = [head]
    for figure in result["figures"]:
        unit, better = figure["unit"], ">=" if figure["more_is_better"] else "<="
        target = "" if figure["target"] is None else f"{better} {figure['target']:g} {unit}"
        floor = ""
        if figure["floor"] is not None:
            floor = f"{figure['floor']:.3g} {unit} ({figure['floor_name']})"
        met = {None: "", True: "yes", False: "NO"}[figure["met"]]
        value = f"{figure['value']:.3g}" if figure["value"] < 1000 else f"{figure['value']:.0f}"
        rows.append((figure["name"], f"{value} {unit}", target, met, floor, str(figure["n"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
