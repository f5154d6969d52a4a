"""Models of the classes that a build uses, small and with random weights: all but their time."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from core.models.captioner.settings import DECODING_FILE, Decoding
from core.models.clip.towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME
from core.models.profiles import PROFILES, Profile
from core.models.spec import ModelSpec

_PX = 32
_WIDTH = 32
_CLIP = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": _PX, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_WORDS = "a the dog cat boat street field snow red blue green runs stands plays on in near two"
_QUICK = Decoding(num_beams=1, min_new_tokens=2, max_new_tokens=6)


def small_profile(folder: Path) -> Profile:
    """Write an InstructBLIP and a CLIP into a new folder; return a profile of them and MiniLM.

    Embeddings are as long as those of ``mini``.
    """
    folder.mkdir()
    _write_captioner(folder / "captioner")
    _write_clip(folder / "clip")
    return small_profile_in(folder)


def small_profile_in(folder: Path) -> Profile:
    """Return the profile that was written into a folder."""
    return replace(
        PROFILES["mini"],
        captioner=ModelSpec("small captioner", f"path:{folder / 'captioner'}", "none"),
        clip=ModelSpec("small CLIP", f"path:{folder / 'clip'}", "none", dim=512),
    )


def _write_captioner(folder: Path) -> None:
    import torch
    from transformers import BlipImageProcessor, InstructBlipVisionConfig, InstructBlipVisionModel

    from precompute.mini.captioner_model import LANGUAGE, QFORMER, new_model, new_tokenizer

    torch.manual_seed(0)
    tower = InstructBlipVisionModel(
        InstructBlipVisionConfig(
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=_PX,
            patch_size=8,
        )
    )
    qformer = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 2}
    language = {"d_model": _WIDTH, "d_kv": _WIDTH // 2, "d_ff": 2 * _WIDTH, "num_heads": 2}
    model, processor = new_model(
        new_tokenizer([_WORDS], min_count=1),
        tower,
        BlipImageProcessor(size={"height": _PX, "width": _PX}),
        {**QFORMER, **qformer},
        {**LANGUAGE, **language},
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    content = json.dumps({"decoding": asdict(_QUICK)})
    (folder / DECODING_FILE).write_text(content, encoding="utf-8")


def _write_clip(folder: Path) -> None:
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = {name: part.contiguous() for name, part in CLIP(**_CLIP).state_dict().items()}
    folder.mkdir()
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    config = json.dumps({"model_cfg": _CLIP, "preprocess_cfg": preprocess})
    (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
    save_file(state, folder / LOCAL_WEIGHTS_NAME)
