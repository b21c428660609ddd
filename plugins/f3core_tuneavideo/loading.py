"""Pipelines from folders and hub ids: our own, checkpoints of the published code base, and plain Stable Diffusion."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from f3core_diffusers.base import DTYPE
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from f3core.errors import ModelError
from f3core_tuneavideo.pipeline import TuneAVideoPipeline
from f3core_tuneavideo.unet import TuneAVideoUNet
from f3core_tuneavideo.weights import inflate, unet_from_config


def load_pipeline(source: str, *, dtype: torch.dtype = torch.float32) -> TuneAVideoPipeline:
    """The pipeline of a folder or hub id, on the CPU.

    A checkpoint of the published code base keeps its U-Net, a Stable Diffusion 1.x or 2.x one is inflated; both are
    sampled by DDIM, whatever scheduler they name. Raises `ModelError` for weights that do not fit, ValueError for
    another architecture, and diffusers' OSError for what is not there.
    """
    source = str(source)
    index = DiffusionPipeline.load_config(source)
    if _ours(index):
        return TuneAVideoPipeline.from_pretrained(source, **{DTYPE: dtype})
    scheduler = dict(DDIMScheduler.load_config(source, subfolder="scheduler"))
    return TuneAVideoPipeline(
        vae=AutoencoderKL.from_pretrained(source, subfolder="vae", **{DTYPE: dtype}),
        text_encoder=CLIPTextModel.from_pretrained(source, subfolder="text_encoder", **{DTYPE: dtype}),
        tokenizer=CLIPTokenizer.from_pretrained(source, subfolder="tokenizer"),
        unet=_unet(source, dtype),
        scheduler=DDIMScheduler.from_config({"clip_sample": False, **scheduler}),
    )


def load_skeleton(source: str) -> nn.Module:
    """The U-Net of a folder or hub id on the meta device, pruned if it was saved so."""
    index = DiffusionPipeline.load_config(str(source))
    config = TuneAVideoUNet.load_config(str(source), subfolder="unet")
    with torch.device("meta"):
        if _ours(index):
            import f3core_tuneavideo

            return getattr(f3core_tuneavideo, index["unet"][1]).from_config(config)
        return unet_from_config(config)


def _ours(index: dict[str, Any]) -> bool:
    library = (index.get("unet") or [None])[0]
    return library is not None and library.split(".")[0] == __package__


def _unet(source: str, dtype: torch.dtype) -> TuneAVideoUNet:
    config = TuneAVideoUNet.load_config(source, subfolder="unet")
    if config.get("_class_name") == "UNet2DConditionModel":
        return inflate(UNet2DConditionModel.from_pretrained(source, subfolder="unet", **{DTYPE: dtype}))
    with torch.device("meta"):
        unet_from_config(config)  # refuses another architecture before weights are read
    unet, info = TuneAVideoUNet.from_pretrained(source, subfolder="unet", output_loading_info=True, **{DTYPE: dtype})
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise ModelError(f"{source}: {problem.replace('_', ' ')} in the U-Net, first: {sorted(info[problem])[0]}")
    return unet
