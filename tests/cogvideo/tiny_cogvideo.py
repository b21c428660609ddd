"""Tiny CogVideo models with random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import VQModel
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.pipeline import CogVideoPipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast


def config(**changes: Any) -> CogVideoConfig:
    """Three layers, 5 text tokens, 5 frames of 3 x 3 tokens, whatever ``changes`` says otherwise."""
    text, tokens, frames = (changes.pop(k, d) for k, d in (("text", 5), ("tokens", 9), ("frames", 5)))
    sizes = {
        "layers": 3,
        "vocab": 30,
        "image_vocab": 20,
        "hidden": 32,
        "heads": 4,
        "layout": (text, text + tokens, text + frames * tokens),
        "positions": 512 + tokens,
        "additional": max(1, frames - 1) * tokens,
    }
    return CogVideoConfig(**{**sizes, **changes})


def transformer(std: float = 0.3, **changes: Any) -> CogVideoTransformer:
    """With weights so large that everything shows in the logits."""
    model = CogVideoTransformer(config(**changes))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("layernorm.weight" in name), std=std)
    return model.eval()


def sequence(model: CogVideoTransformer, batch: int = 2, frames: int | None = None) -> dict[str, torch.Tensor]:
    """Arguments of a forward over whole frames; the second row's text begins with two tokens of padding."""
    sizes = model.config
    length = sizes.text + (sizes.frames if frames is None else frames) * sizes.tokens
    mask = torch.ones(batch, 1, 1, sizes.text)
    mask[1:2, ..., : min(2, sizes.text - 1)] = 0
    return {
        "input_ids": torch.randint(sizes.image_vocab, (batch, length)),
        "position_ids": model.usual_positions(batch, length),
        "text_mask": mask,
    }


WORDS = ("<pad>", "<frames>", "<unk>", "a", "red", "green", "cat", "dog", "runs", "sleeps", "left", "right")
CODES = 18


def tokenizer(text: int = 5) -> PreTrainedTokenizerFast:
    """Words, ids from `CODES` on, then ``<frames>``, padded on the left."""
    ids = {word: CODES + i for i, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing("$A <frames>", special_tokens=[("<frames>", ids["<frames>"])])
    sides = {"padding_side": "left", "truncation_side": "left", "model_max_length": text}
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", **sides)


def pipeline(stage_2: bool = False, layers: int = 2) -> CogVideoPipeline:
    """Frames of 3 x 3 tokens and 6 x 6 pixels, seeded: 3 of them, or 5 with a stage 2."""
    torch.manual_seed(0)
    sizes = {"layers": layers, "image_vocab": CODES, "frames": 3, "std": 0.15}
    vq = VQModel(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=CODES,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=6,
    ).eval()
    nn.init.normal_(vq.quantize.embedding.weight)
    second = transformer(stage=2, window=1, **sizes) if stage_2 else None
    return CogVideoPipeline(transformer(**sizes), vq, tokenizer(), second)
