"""Tiny text encoders and their tokenizers, built locally, that the pipelines of several families share."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = ("a", "red", "green", "cat", "dog", "runs", "sleeps", "left", "right")
SPECIAL = ("<pad>", "</s>", "<unk>")


def tokenizer(length: int = 32, kind: type = PreTrainedTokenizerFast, special: tuple[str, ...] = SPECIAL) -> object:
    """A tokenizer of ten words; the first three of ``special`` are padding, end and unknown."""
    vocabulary = {word: i for i, word in enumerate((*special, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=special[2]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return kind(
        tokenizer_object=words,
        pad_token=special[0],
        eos_token=special[1],
        unk_token=special[2],
        model_max_length=length,
    )


def t5(width: int = 8) -> T5EncoderModel:
    """A T5 encoder whose embeddings have ``width`` channels."""
    size = len(SPECIAL) + len(WORDS)
    return T5EncoderModel(T5Config(vocab_size=size, d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()
