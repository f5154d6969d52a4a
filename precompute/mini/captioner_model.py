"""A small InstructBLIP built around a given image tower, for training from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from core.models.captioner.settings import Decoding
from precompute.evaluate.metrics.caption_metrics import normalise_caption
from precompute.finetune.captions.recipe import DETAIL_PROMPT

if TYPE_CHECKING:
    from transformers import (
        BlipImageProcessor,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipVisionModel,
        PreTrainedTokenizerFast,
    )

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>", "<image>")
"""In this order, so that their ids are 0 to 3; 0 also starts a caption, as in T5."""

SMALL_DECODING = Decoding(
    num_beams=3, min_new_tokens=5, max_new_tokens=24, repetition_penalty=1.0, no_repeat_ngram_size=3
)
"""How a small model is decoded: a penalty on "a" would bend sentences this short."""


QUERIES = 4
"""Query tokens of the Q-Former, that is image tokens that the language model reads."""

QFORMER: Mapping[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_hidden_layers": 1,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
LANGUAGE: Mapping[str, Any] = {
    "d_model": 256,
    "d_kv": 64,
    "d_ff": 1536,
    "num_heads": 4,
    "num_layers": 2,
    "num_decoder_layers": 2,
}
"""Sizes by transformers' names: with the image tower they fit into 100 MB in 8 bits. The library
sizes T5's cache by the layers of encoder and decoder both, so these are as many."""


def new_tokenizer(captions: Iterable[str], *, min_count: int) -> PreTrainedTokenizerFast:
    """Make a lower-case word-level tokenizer of the words that ``captions`` use often enough.

    Args:
        captions: Training captions.
        min_count: Rarer words become ``<unk>``, which is never trained nor generated.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    counts = Counter(word for text in captions for word in normalise_caption(text).split())
    prompts = f"{SMALL_DECODING.prompt} {SMALL_DECODING.retry_prompt}"
    words = {word for word, count in counts.items() if count >= min_count}
    words |= set(normalise_caption(prompts).split())
    ordered = [*SPECIAL_TOKENS, *sorted(words, key=lambda word: (-counts[word], word))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(ordered)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def new_model(
    tokenizer: PreTrainedTokenizerFast,
    tower: InstructBlipVisionModel,
    image_processor: BlipImageProcessor,
    qformer: Mapping[str, Any] = QFORMER,
    language: Mapping[str, Any] = LANGUAGE,
) -> tuple[InstructBlipForConditionalGeneration, InstructBlipProcessor]:
    """Put a fresh Q-Former and T5, from torch's seed, behind a pretrained image tower.

    Args:
        tokenizer: Of the language model.
        tower: The image tower, which becomes part of the model.
        image_processor: What it was trained with.
        qformer: Sizes of the Q-Former; all its layers have cross-attention to the image.
        language: Sizes of T5.
    """
    import torch
    from transformers import (
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
        InstructBlipQFormerConfig,
        T5Config,
    )

    # What the Q-Former reads are prompts: the words of captions would be a tenth of all weights
    # behind the tower.
    prompts = new_tokenizer([DETAIL_PROMPT], min_count=1)
    # The processor adds <image> as a special token, which is in the vocabulary already.
    processor = InstructBlipProcessor(image_processor, tokenizer, prompts, num_query_tokens=QUERIES)
    # BERT's 0.02 suits its width of 768: at this one the image would hardly reach the queries.
    scale = qformer["hidden_size"] ** -0.5
    reader = InstructBlipQFormerConfig(
        vocab_size=len(prompts),
        max_position_embeddings=64,
        cross_attention_frequency=1,
        initializer_range=scale,
        **qformer,
    )
    # Without dropout, which costs an eighth of the time.
    writer = T5Config(
        vocab_size=len(tokenizer),
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        **language,
    )
    # Where the tower was read from is nothing to who gets the model.
    vision = {k: v for k, v in tower.config.to_dict().items() if k != "_name_or_path"}
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=reader.to_dict(),
        text_config=writer.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        initializer_range=scale,
    )
    model = InstructBlipForConditionalGeneration(config)
    model.vision_model.load_state_dict(tower.state_dict())
    # Zeros, the class's own start, would leave all queries the same forever.
    torch.nn.init.normal_(model.query_tokens)
    model.generation_config.suppress_tokens = [
        SPECIAL_TOKENS.index(token) for token in ("<pad>", "<unk>", "<image>")
    ]
    return model, processor
