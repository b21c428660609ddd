"""The caption side of the model: a word-level tokenizer and a tiny `CLIPTextModel`, as Stable Diffusion uses them."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ...captions import COLOURS, DIGITS, DIRECTIONS, PROMPTS

WIDTH = 64
MAX_LENGTH = 16
# `CLIPTextModel` treats an end token of id 2 as a mistake of old configs, so `</s>` is not the third.
_SPECIAL = ("<pad>", "<s>", "<unk>", "</s>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word between `<s>` and `</s>`; the empty prompt is these two alone."""
    words = [*_SPECIAL, "a", "moving", *COLOURS, *DIGITS, *DIRECTIONS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(word, words.index(word)) for word in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """A two-layer encoder, width 64, with fresh weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            max_position_embeddings=MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def tokenize(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Token ids [121, 16] of the 120 captions in order, then of the empty prompt."""
    return tokenizer(
        [*PROMPTS, ""], padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
