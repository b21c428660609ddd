"""Puts the trained parts together as a `WanPipeline` folder, generates with it as a user would, and asks the judge."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from .. import digits
from ..judge import frechet_video, text_accuracy
from . import denoiser, text
from .common import MODEL_DIR, Workplace, forget_path, name_tokenizer_for_all

SHIFT = 3.0
CALL: dict[str, Any] = {
    "num_frames": digits.FRAMES,
    "height": digits.SIZE,
    "width": digits.SIZE,
    "num_inference_steps": 20,
    "guidance_scale": 3.0,
    "max_sequence_length": text.MAX_LENGTH,
}
BATCH = 16
GENERATION_SEED = 1_000


def assemble(work: Workplace) -> int:
    """Write the last checkpoint as a complete model folder; returns the training step it is from."""
    step = denoiser.export(work)
    pipeline = WanPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(MODEL_DIR / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(MODEL_DIR / "text_encoder"),
        vae=AutoencoderKLWan.from_pretrained(MODEL_DIR / "vae").half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        transformer=WanTransformer3DModel.from_pretrained(MODEL_DIR / "transformer").half(),
    )
    pipeline.save_pretrained(MODEL_DIR)
    for config in MODEL_DIR.glob("*/config.json"):
        forget_path(config)
    name_tokenizer_for_all(MODEL_DIR / "model_index.json", MODEL_DIR / "tokenizer" / "tokenizer_config.json")
    defaults = {key: value for key, value in CALL.items() if key != "num_inference_steps"}  # steps are a spec's to say
    (MODEL_DIR / "f3core.json").write_text(json.dumps({"call": defaults}, indent=2) + "\n")
    return step


def generate(pipeline: WanPipeline, prompts: list[str], seed: int = GENERATION_SEED, **call: Any) -> Tensor:
    """Clips [B, 21, 3, 16, 16] in [0, 1]. Noise of clip i depends on `seed` and i alone; `call` overrides `CALL`."""
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        clips.append(pipeline(part, generator=generators, output_type="pt", **{**CALL, **call}).frames)
    return torch.cat(clips)


def evaluate(
    work: Workplace, count: int = 240, guidance: Iterable[float] = (CALL["guidance_scale"],), rebuild: bool = True
) -> None:
    """Print accuracy, Frechet distance and time of `count` generated clips for each guidance scale."""
    if rebuild:
        print(f"weights of step {assemble(work)}")
    pipeline = WanPipeline.from_pretrained(MODEL_DIR)
    prompts = digits.prompts(count, seed=0)
    for scale in guidance:
        began = time.perf_counter()
        clips = generate(pipeline, prompts, guidance_scale=scale)
        seconds = (time.perf_counter() - began) / count
        figures = {name: round(value, 3) for name, value in asdict(text_accuracy(clips, prompts)).items()}
        distance = frechet_video(clips, prompts)
        print(f"guidance {scale}: {figures} frechet {distance:.3f}, {seconds:.3f} s a clip", flush=True)
    real = digits.render(prompts, seed=4, split="held_out")
    figures = {name: round(value, 3) for name, value in asdict(text_accuracy(real, prompts)).items()}
    print(f"real held-out clips: {figures} frechet {frechet_video(real, prompts):.3f}")
