"""Tiny checkpoints for image-text matching, made through the real classes with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    BlipTextConfig,
    BlipVisionConfig,
)

from tests.tiny_models import IMAGE_SIZE, QUERY_TOKENS, WORDS

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 1.0,
}


def save_tiny_matcher(folder: Path, kind: Literal["blip", "blip-2"], *, seed: int = 0) -> Path:
    """Write a checkpoint whose scores differ from picture to picture, and return its folder."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    size = len(vocabulary)
    images = BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    vision = {**SMALL, "image_size": IMAGE_SIZE, "patch_size": 14}
    text = {**SMALL, "vocab_size": size, "encoder_hidden_size": 32, "pad_token_id": 0}
    model: torch.nn.Module
    if kind == "blip":
        model = BlipForImageTextRetrieval(
            BlipConfig(
                text_config=BlipTextConfig(
                    **text, max_position_embeddings=64, bos_token_id=2, sep_token_id=3
                ).to_dict(),
                vision_config=BlipVisionConfig(**vision).to_dict(),
                image_text_hidden_size=16,
            )
        )
        processor = BlipProcessor(images, tokenizer)
    else:
        model = Blip2ForImageTextRetrieval(
            Blip2Config(
                vision_config=Blip2VisionConfig(**vision).to_dict(),
                qformer_config=Blip2QFormerConfig(
                    **text,
                    max_position_embeddings=64,
                    cross_attention_frequency=1,
                    use_qformer_text_input=True,
                ).to_dict(),
                num_query_tokens=QUERY_TOKENS,
                image_text_hidden_size=16,
            )
        )
        torch.nn.init.normal_(model.query_tokens)
        processor = Blip2Processor(images, tokenizer, num_query_tokens=QUERY_TOKENS)
    # A head that was drawn as widely as the rest, so that pictures differ by more than rounding.
    torch.nn.init.normal_(model.itm_head.weight)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
