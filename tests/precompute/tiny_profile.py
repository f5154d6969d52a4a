"""A profile of tiny models, and nothing else of a build changed."""

from __future__ import annotations

import json
from pathlib import Path

from core.models.captioner.settings import DECODING_FILE
from core.models.profiles import PROFILES, Profile
from core.models.spec import ModelSpec
from tests.tiny_clip import TINY_DIM, build_tiny_clip


def make_tiny_profile(folder: Path) -> Profile:
    """Write tiny checkpoints into a folder and return the profile that uses them."""
    from tests.tiny_models import save_tiny_instructblip

    save_tiny_instructblip(folder / "captioner")
    quick = {"num_beams": 1, "min_new_tokens": 2, "max_new_tokens": 6}
    (folder / "captioner" / DECODING_FILE).write_text(json.dumps({"decoding": quick}))
    build_tiny_clip(folder / "clip")
    return tiny_profile(folder)


def tiny_profile(folder: Path) -> Profile:
    """Return the profile of checkpoints that were written before."""
    return Profile(
        name="mini",
        captioner=ModelSpec("tiny-captioner", f"path:{folder / 'captioner'}", licence="none"),
        sentence=PROFILES["mini"].sentence,
        clip=ModelSpec("tiny-clip", f"path:{folder / 'clip'}", licence="none", dim=TINY_DIM),
    )
