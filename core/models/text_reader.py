"""Text in pictures, read by RapidOCR: an optional package, imported in this file alone.

Its models (PP-OCRv6 small, Apache-2.0) lie inside its wheel, so that nothing is fetched. What it
is given was decoded by :mod:`core.images` under its limits; it never sees a file of anybody's.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from core.errors import MissingDependencyError, ModelError
from core.text import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

READER_NAME = "RapidOCR, PP-OCRv6 small"
READER_PACKAGE = "rapidocr"
READER_LICENCE = "Apache-2.0"
LEAST_CONFIDENCE = 0.6
"""Of a line, by the reader: those under it are left out. docs/evaluate.md: how it was chosen."""
LEAST_CHARACTERS = 2
"""Letters and digits of a line. Single ones are mostly things that look like a letter."""
MAX_CHARACTERS = 2_000
"""Of a picture's text: a photographed page is found by its first half."""

_INSTALL = "-r requirements-ocr.txt"
_FILES = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text in a picture.

    Attributes:
        text: What is read there.
        confidence: How sure the reader is of it, from 0 to 1.
    """

    text: str
    confidence: float


@dataclass(frozen=True, slots=True)
class TextInPicture:
    """The text in a picture.

    Attributes:
        text: Its lines, from top to bottom, joined by spaces; "" where none was read.
        confidence: Mean over the lines, each weighted by its length; None where none was read.
    """

    text: str = ""
    confidence: float | None = None


class ReadsText(Protocol):
    """Reads the text in a picture.

    Attributes:
        name: What the manifest calls it.
        revision: What pins it.
    """

    name: str
    revision: str

    def read(self, image: Image) -> TextInPicture:
        """Return the text in an RGB picture, upright."""
        ...


class TextReader:
    """Reads text with RapidOCR on the CPU; cheap to make, and loaded when it is first used.

    Safe to use from many threads, one of which reads at a time.

    Raises:
        MissingDependencyError: RapidOCR or onnxruntime is not installed.
    """

    name = READER_NAME

    def __init__(self) -> None:
        """Find the packages; load nothing."""
        for package in (READER_PACKAGE, "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependencyError(package, "Reading the text in pictures", _INSTALL)
        self.revision = version(READER_PACKAGE)
        self._lock = threading.Lock()
        self._engine: Any = None

    def lines(self, image: Image) -> list[Line]:
        """Return every line in an RGB picture, from top to bottom, however unsure."""
        pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]  # its models want blue first
        with self._lock:
            found = self._loaded()(np.ascontiguousarray(pixels))
        if getattr(found, "txts", None) is None:
            return []
        return [
            Line(one_line(text), round(float(score), 3))
            for text, score in zip(found.txts, found.scores, strict=True)
        ]

    def read(self, image: Image) -> TextInPicture:
        """Return the text in an RGB picture, the lines that are unsure left out."""
        return joined(self.lines(image))

    def _loaded(self) -> Any:  # noqa: ANN401 - RapidOCR's own
        if self._engine is None:
            import rapidocr

            folder = Path(str(rapidocr.__file__)).parent / "models"
            missing = [name for name in _FILES.values() if not (folder / name).is_file()]
            if missing:
                raise ModelError(
                    f"The package {READER_PACKAGE} lacks its model {missing[0]}. Install it again "
                    f"with: pip install --force-reinstall {_INSTALL}"
                )
            threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            engine = "EngineConfig.onnxruntime"
            self._engine = rapidocr.RapidOCR(
                params={
                    "Global.log_level": "critical",
                    "Global.text_score": 0.0,
                    # Photos are upright here; turning lines round helps scans alone.
                    "Global.use_cls": False,
                    f"{engine}.intra_op_num_threads": threads,
                    f"{engine}.inter_op_num_threads": 1,
                    # By their paths: what is named otherwise may be fetched.
                    **{f"{part}.model_path": str(folder / file) for part, file in _FILES.items()},
                }
            )
        return self._engine


def joined(lines: list[Line], least: float = LEAST_CONFIDENCE) -> TextInPicture:
    """Return the lines that are sure enough as one text.

    Args:
        lines: Of one picture, from top to bottom.
        least: The least confidence.
    """
    kept = [
        line
        for line in lines
        if line.confidence >= least
        and sum(character.isalnum() for character in line.text) >= LEAST_CHARACTERS
    ]
    if not kept:
        return TextInPicture()
    lengths = [len(line.text) for line in kept]
    mean = float(np.average([line.confidence for line in kept], weights=lengths))
    return TextInPicture(" ".join(line.text for line in kept)[:MAX_CHARACTERS], round(mean, 3))
