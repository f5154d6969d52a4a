"""A terminal that shows what we say, and not what libraries say."""

from __future__ import annotations

import logging
import os


def quiet_libraries(*, downloads: bool) -> None:
    """Keep other libraries' advice off the terminal, and their bars if nothing is downloaded."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not downloads:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("bitsandbytes", "bm25s"):
        logging.getLogger(name).setLevel(logging.ERROR)
