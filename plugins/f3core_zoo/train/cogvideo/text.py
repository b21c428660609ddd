"""The caption side of the model: a word-level tokenizer whose ids follow those of the picture codes."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...captions import COLOURS, DIGITS, DIRECTIONS, PROMPTS

LENGTH = 8
_WORDS = ("<pad>", "<frames>", "<unk>", "a", "moving", *COLOURS, *DIGITS, *DIRECTIONS)


def words() -> int:
    """How many ids the tokenizer has."""
    return len(_WORDS)


def build_tokenizer(codes: int) -> PreTrainedTokenizerFast:
    """One token per word, ids from `codes` on, then `<frames>`, padded on the left.

    So the last text token is always `<frames>`: what it predicts is the first token of the first frame. The empty
    prompt is `<frames>` alone.
    """
    ids = {word: codes + i for i, word in enumerate(_WORDS)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="$A <frames>", special_tokens=[("<frames>", ids["<frames>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<frames>",
        unk_token="<unk>",
        padding_side="left",
        truncation_side="left",
        model_max_length=LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: tuple[str, ...] = (*PROMPTS, "")) -> tuple[Tensor, Tensor]:
    """Ids and masks [N, 8]; by default of the 120 captions in order, then of the empty prompt."""
    batch = tokenizer(list(prompts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask
