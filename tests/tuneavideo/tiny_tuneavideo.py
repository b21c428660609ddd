"""A tiny random Tune-A-Video, built locally; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from f3core_tuneavideo import TuneAVideoUNet
from torch import nn

CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}


def unet(**changes: Any) -> TuneAVideoUNet:
    """The denoiser alone, seeded; four transformer blocks at two resolutions, none of its weights zero."""
    torch.manual_seed(0)
    model = TuneAVideoUNet(**(CONFIG | changes)).eval()
    for name, module in model.named_modules():
        if name.endswith("attn_temp.to_out.0"):
            nn.init.normal_(module.weight, std=0.3)
    return model
