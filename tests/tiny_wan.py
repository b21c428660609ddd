"""A real `WanPipeline` of tiny random components, built locally; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

CALL = {"num_frames": 5, "height": 16, "width": 32, "guidance_scale": 3.0, "max_sequence_length": 8}
"""Generation arguments under which it sees 3 latent frames of 4 × 8 tokens."""
WORDS = ("a", "red", "green", "cat", "dog", "runs", "sleeps", "left", "right")


def transformer(layers: int = 2, **changes: object) -> WanTransformer3DModel:
    """The denoiser alone, seeded: two heads of 16, four latent channels, text of 8."""
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": layers,
        "rope_max_seq_len": 64,
    }
    return WanTransformer3DModel(**(config | changes)).eval()


def vae() -> AutoencoderKLWan:
    """The codec alone, unseeded: two frames of pixels, and two by two, a latent."""
    return AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    ).eval()


def pipeline(layers: int = 2) -> WanPipeline:
    """The whole pipeline, seeded, in float32."""
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=32
    )
    denoiser = transformer(layers)
    torch.manual_seed(1)
    text = UMT5EncoderModel(
        UMT5Config(vocab_size=len(vocabulary), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    ).eval()
    made = WanPipeline(tokenizer, text, vae(), FlowMatchEulerDiscreteScheduler(shift=3.0), transformer=denoiser)
    made.set_progress_bar_config(disable=True)
    return made


def folder(path: Path, layers: int = 2) -> Path:
    """The pipeline, saved."""
    pipeline(layers).save_pretrained(path)
    return path
