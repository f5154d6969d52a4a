"""Tiny random InstructBLIP checkpoints, made through the real configuration classes."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedTokenizerFast,
    T5Config,
)

SPECIALS = ["<pad>", "</s>", "<unk>", "<image>"]
WORDS = [
    "a",
    "an",
    "the",
    "man",
    "woman",
    "child",
    "dog",
    "cat",
    "bird",
    "horse",
    "boat",
    "wave",
    "field",
    "street",
    "snow",
    "grass",
    "water",
    "red",
    "blue",
    "green",
    "black",
    "white",
    "brown",
    "runs",
    "jumps",
    "stands",
    "plays",
    "rides",
    "sits",
    "with",
    "on",
    "in",
    "near",
    "through",
    "over",
    "under",
    "two",
    "three",
    "short",
    "image",
    "caption",
    "write",
    "description",
    "for",
    "ball",
    "board",
    "bike",
    "tree",
    "sky",
    "sand",
    "rock",
]
QUERY_TOKENS = 4
IMAGE_SIZE = 28


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer made in memory, its end token appended as T5's."""
    vocabulary = {word: number for number, word in enumerate(SPECIALS + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def save_tiny_instructblip(folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint whose captions differ from image to image, and return its folder.

    The wide initialisation makes random weights react to the image; the special tokens are
    suppressed so that every caption has words.
    """
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    size = len(tokenizer)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=14,
            initializer_range=1.0,
        ).to_dict(),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=1.0,
        ).to_dict(),
        text_config=T5Config(
            vocab_size=size,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            initializer_factor=5.0,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        ).to_dict(),
        num_query_tokens=QUERY_TOKENS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=1.0,
    )
    model = InstructBlipForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.query_tokens)
    model.generation_config.suppress_tokens = [0, 2, 3]
    model.save_pretrained(folder)
    InstructBlipProcessor(
        BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer,
        tokenizer,
        num_query_tokens=QUERY_TOKENS,
    ).save_pretrained(folder)
    return folder


def save_tiny_blip(folder: Path, *, seed: int = 0) -> Path:
    """Write a BLIP checkpoint whose captions differ from image to image, and return its folder."""
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizer(str(folder / "vocab.txt"), bos_token="[DEC]")
    config = BlipConfig(
        text_config=BlipTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            encoder_hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            initializer_range=1.0,
            bos_token_id=vocabulary.index("[DEC]"),
            eos_token_id=vocabulary.index("[SEP]"),
            pad_token_id=0,
            sep_token_id=vocabulary.index("[SEP]"),
        ).to_dict(),
        vision_config=BlipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE_SIZE,
            patch_size=14,
            initializer_range=1.0,
        ).to_dict(),
        projection_dim=16,
    )
    BlipForConditionalGeneration(config).eval().save_pretrained(folder)
    BlipProcessor(
        BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}), tokenizer
    ).save_pretrained(folder)
    return folder
