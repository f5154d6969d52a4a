"""A small InstructBLIP built around a given image tower, for training from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass(frozen=True, slots=True)
class SmallSizes:
    """Sizes of everything behind the image tower: what fits into 100 MB beside it in 8 bits.

    Attributes:
        queries: Query tokens of the Q-Former, that is image tokens that the language model reads.
        qformer_width: Its width; all its layers have cross-attention to the image.
        qformer_feed_forward: Inner width of its feed-forward layers.
        qformer_heads: Its attention heads.
        qformer_layers: Its layers.
        qformer_dropout: In it; the language model has none, which costs an eighth of the time.
        width: Of the language model.
        feed_forward: Inner width of its feed-forward layers.
        heads: Its attention heads.
        layers: Of its encoder and of its decoder, for the library sizes its cache by both.
    """

    queries: int = 4
    qformer_width: int = 512
    qformer_feed_forward: int = 1024
    qformer_heads: int = 8
    qformer_layers: int = 1
    qformer_dropout: float = 0.1
    width: int = 256
    feed_forward: int = 1536
    heads: int = 4
    layers: int = 2


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
    sizes: SmallSizes,
) -> tuple[InstructBlipForConditionalGeneration, InstructBlipProcessor]:
    """Put a fresh Q-Former and T5, from torch's seed, behind a pretrained image tower.

    Args:
        tokenizer: Of the language model.
        tower: The image tower, which becomes part of the model.
        image_processor: What it was trained with.
        sizes: Of what is fresh.
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
    processor = InstructBlipProcessor(
        image_processor, tokenizer, prompts, num_query_tokens=sizes.queries
    )
    # BERT's 0.02 suits its width of 768: at this one the image would hardly reach the queries.
    scale = sizes.qformer_width**-0.5
    qformer = InstructBlipQFormerConfig(
        vocab_size=len(prompts),
        hidden_size=sizes.qformer_width,
        num_hidden_layers=sizes.qformer_layers,
        num_attention_heads=sizes.qformer_heads,
        intermediate_size=sizes.qformer_feed_forward,
        hidden_dropout_prob=sizes.qformer_dropout,
        attention_probs_dropout_prob=sizes.qformer_dropout,
        max_position_embeddings=64,
        cross_attention_frequency=1,
        initializer_range=scale,
    )
    language = T5Config(
        vocab_size=len(tokenizer),
        d_model=sizes.width,
        d_kv=sizes.width // sizes.heads,
        d_ff=sizes.feed_forward,
        num_layers=sizes.layers,
        num_decoder_layers=sizes.layers,
        num_heads=sizes.heads,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    # Where the tower was read from is nothing to who gets the model.
    vision = {k: v for k, v in tower.config.to_dict().items() if k != "_name_or_path"}
    config = InstructBlipConfig(
        vision_config=vision,
        qformer_config=qformer.to_dict(),
        text_config=language.to_dict(),
        num_query_tokens=sizes.queries,
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
