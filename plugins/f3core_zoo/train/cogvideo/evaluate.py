"""Puts the trained parts together as a `CogVideoPipeline` folder, generates with it as a user would, asks the judge."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from f3core_cogvideo.pipeline import CogVideoPipeline
from PIL import Image
from torch import Tensor

from ... import digits
from ...judge import frechet_video, text_accuracy
from ..common import Workplace, name_tokenizer_for_all
from . import text, transformer, vq

CALL: dict[str, Any] = {"guidance_scale": 2.0, "first_guidance_scale": 2.0, "temperature": 1.0, "top_k": 40}
BATCH = 60
GENERATION_SEED = 1_000


def assemble(work: Workplace) -> int:
    """Write the last checkpoint as a complete model folder; returns the training step it is from."""
    codec = VQModel.from_pretrained(vq.MODEL_DIR / "vq").half()
    codes = codec.config.num_vq_embeddings
    model, step = transformer.averaged(work, codes)
    CogVideoPipeline(model.half(), codec, text.build_tokenizer(codes)).save_pretrained(vq.MODEL_DIR)
    vq.save(codec, vq.MODEL_DIR / "vq")
    name_tokenizer_for_all(vq.MODEL_DIR / "tokenizer" / "tokenizer_config.json")
    (vq.MODEL_DIR / "f3core.json").write_text(json.dumps({"call": CALL}, indent=2) + "\n")
    return step


def generate(pipeline: CogVideoPipeline, prompts: list[str], seed: int = GENERATION_SEED, **call: Any) -> Tensor:
    """Clips [B, 5, 3, 16, 16] in [0, 1]. Clip i depends on its prompt, `seed` and i alone; `call` overrides `CALL`."""
    clips = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        clips.append(pipeline(part, seeds=[seed + start + i for i in range(len(part))], **{**CALL, **call}))
    return torch.cat(clips)


def evaluate(
    work: Workplace,
    count: int = 240,
    guidance: Iterable[float] = (CALL["guidance_scale"],),
    temperature: Iterable[float] = (CALL["temperature"],),
    top_k: Iterable[int] = (CALL["top_k"],),
    rebuild: bool = True,
) -> None:
    """Print accuracy, Frechet distance and time of `count` clips for each choice of how tokens are drawn.

    The judge looks at clips held to the 21 frames it knows; of the first choice a sheet goes to the work folder.
    """
    if rebuild:
        print(f"weights of step {assemble(work)}")
    pipeline = CogVideoPipeline.from_pretrained(vq.MODEL_DIR)
    prompts = digits.prompts(count, seed=0)
    for number, (scale, heat, k) in enumerate(product(guidance, temperature, top_k)):
        began = time.perf_counter()
        scales = {"guidance_scale": scale, "first_guidance_scale": scale}
        clips = generate(pipeline, prompts, **scales, temperature=heat, top_k=k)
        seconds = (time.perf_counter() - began) / count
        print(f"guidance {scale} temperature {heat} top-k {k}: {_figures(clips, prompts)}, {seconds:.3f} s a clip")
        if number == 0:
            sheet(clips, work.path("clips.png"))
    real = digits.render(prompts, seed=4, split="held_out", frames=vq.FRAMES)
    print(f"real held-out clips: {_figures(real, prompts)}")
    codec = VQModel.from_pretrained(vq.MODEL_DIR / "vq").float().eval()
    print(f"the same through the tokenizer: {_figures(vq.decode(codec, vq.encode(codec, real)), prompts)}", flush=True)


def _figures(clips: Tensor, prompts: list[str]) -> str:
    figures = {name: round(value, 3) for name, value in asdict(text_accuracy(clips, prompts)).items()}
    return f"{figures} frechet {frechet_video(clips, prompts):.3f}"


def sheet(clips: Tensor, path: Path, columns: int = 4, rows: int = 15, scale: int = 3) -> None:
    """Save the first clips as a picture, the frames of each side by side."""
    shown = clips[: rows * columns]
    strips = (
        torch.nn.functional.pad(shown, (1, 1, 1, 1), value=0.3).permute(0, 3, 1, 4, 2).flatten(2, 3)
    )  # [B, H, W, 3]
    strips = torch.nn.functional.pad(strips, (0, 0, 0, 4, 0, 0), value=0.6)
    shape = (-1, columns, *strips.shape[1:])
    picture = strips[: len(strips) // columns * columns].view(shape).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    pixels = (picture * 255).round().byte().repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    Image.fromarray(pixels.numpy()).save(path)
