"""Puts the trained parts together as a Tune-A-Video folder, generates with it as a user would, and asks the judge."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from diffusers import AutoencoderKL
from f3core_tuneavideo import TuneAVideoPipeline, load_pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from ... import digits
from ...judge import frechet_video, text_accuracy
from ..common import Workplace, forget_path, name_tokenizer_for_all
from . import diffusion, text, video
from .vae import FRAMES, MODEL_DIR

CALL: dict[str, Any] = {
    "video_length": FRAMES,
    "height": digits.SIZE,
    "width": digits.SIZE,
    "guidance_scale": 3.0,
}
STEPS = 25
BATCH = 16
GENERATION_SEED = 1_000


def assemble(work: Workplace) -> int:
    """Write the last checkpoint as a complete model folder; returns the training step it is from."""
    model, step = video.load(work)
    pipeline = TuneAVideoPipeline(
        vae=AutoencoderKL.from_pretrained(MODEL_DIR / "vae").half(),
        # The text encoder stays in single precision: loaders keep its stored type, and half is slow on a CPU.
        text_encoder=model.encoder,
        tokenizer=text.build_tokenizer(),
        unet=model.unet.to(memory_format=torch.contiguous_format).half(),
        scheduler=diffusion.scheduler(),
    )
    pipeline.save_pretrained(MODEL_DIR)
    for config in MODEL_DIR.glob("*/config.json"):
        forget_path(config)
    name_tokenizer_for_all(MODEL_DIR / "model_index.json", MODEL_DIR / "tokenizer" / "tokenizer_config.json")
    _name_text_weights_for_all()
    (MODEL_DIR / "f3core.json").write_text(json.dumps({"call": CALL}, indent=2) + "\n")  # steps are a spec's to say
    return step


def _name_text_weights_for_all() -> None:
    """Name the text encoder's weights as transformers 4 and every published checkpoint do; version 5 reads both."""
    path = MODEL_DIR / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def generate(pipeline: TuneAVideoPipeline, prompts: list[str], seed: int = GENERATION_SEED, **call: Any) -> Tensor:
    """Clips [B, 8, 3, 16, 16] in [0, 1]. Noise of clip i depends on `seed` and i alone; `call` overrides `CALL`."""
    pipeline.set_progress_bar_config(disable=True)
    defaults = {"num_inference_steps": STEPS, **CALL}
    clips = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        clips.append(pipeline(part, generator=generators, output_type="pt", **{**defaults, **call}).frames)
    return torch.cat(clips)


def evaluate(
    work: Workplace,
    count: int = 240,
    guidance: Iterable[float] = (CALL["guidance_scale"],),
    steps: Iterable[int] = (STEPS,),
    rebuild: bool = True,
) -> None:
    """Print accuracy, Frechet distance and time of `count` generated clips, for each guidance scale and step count."""
    if rebuild:
        print(f"weights of step {assemble(work)}")
    pipeline = load_pipeline(str(MODEL_DIR))
    prompts = digits.prompts(count, seed=0)
    for number in steps:
        for scale in guidance:
            began = time.perf_counter()
            clips = generate(pipeline, prompts, guidance_scale=scale, num_inference_steps=number)
            seconds = (time.perf_counter() - began) / count
            print(f"{number} steps, guidance {scale}: {_figures(clips, prompts)}, {seconds:.3f} s a clip", flush=True)
    real = digits.render(prompts, seed=4, split="held_out", frames=FRAMES)
    print(f"real held-out clips: {_figures(real, prompts)}")


def _figures(clips: Tensor, prompts: list[str]) -> str:
    shares = {name: round(value, 3) for name, value in asdict(text_accuracy(clips, prompts)).items()}
    return f"{shares} frechet {frechet_video(clips, prompts):.3f}"
