"""The caption side of the model: a word-level tokenizer and a tiny `UMT5EncoderModel`, as `WanPipeline` uses them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ..captions import COLOURS, DIGITS, DIRECTIONS, PROMPTS

WIDTH = 64
MAX_LENGTH = 16
_SPECIAL = ("<pad>", "</s>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, `</s>` at the end; the empty prompt is `</s>` alone."""
    words = [*_SPECIAL, "a", "moving", *COLOURS, *DIGITS, *DIRECTIONS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", words.index("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_encoder(vocab_size: int) -> UMT5EncoderModel:
    """A two-layer encoder, width 64, with fresh weights."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocab_size,
            d_model=WIDTH,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and masks [121, 16] of the 120 captions in order, then of the empty prompt."""
    batch = tokenizer([*PROMPTS, ""], padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def embed(encoder: UMT5EncoderModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Embeddings [B, 16, 64]; padding positions are zero, as the pipeline makes them (cross-attention has no mask)."""
    hidden = encoder(ids, mask).last_hidden_state
    return torch.where(mask[..., None] > 0, hidden, 0.0)
