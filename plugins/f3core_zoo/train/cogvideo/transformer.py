"""Trains the stage-1 `CogVideoTransformer`: first on first frames, then on whole clips through the temporal channel."""

from __future__ import annotations

import time

import f3core_cogvideo.channels as channels
import torch
import torch.nn.functional as F
from diffusers import VQModel
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.model import CogVideoTransformer
from torch import Tensor

from ..common import Workplace, restore, warm_then_decay
from . import data, text, vq

SIZES = {"layers": 8, "hidden": 128, "heads": 4}
CAPTION_DROPOUT = 0.12
EMA_DECAY = 0.998
LEARNING_RATE = 2e-3
# Pictures alone need neither the other frames nor the temporal channel: a fifth of the work.
PICTURE_BATCH, CLIP_BATCH = 64, 32
PICTURE_STEPS = 1000
STEPS = 2500
# What a clip shows is decided in its first frame, which is a fifth of its tokens.
FIRST_WEIGHT = 0.4
SAVE_SECONDS = 150.0
_CHECKPOINT = "transformer.pt"
_attend = channels.attend


def build(codes: int) -> CogVideoTransformer:
    """A transformer with fresh weights over `codes` picture tokens and the words."""
    layout = (text.LENGTH, text.LENGTH + vq.GRID**2, text.LENGTH + vq.FRAMES * vq.GRID**2)
    return CogVideoTransformer(
        CogVideoConfig(
            **SIZES,
            vocab=codes + text.words(),
            image_vocab=codes,
            layout=layout,
            positions=512 + vq.GRID**2,
            additional=(vq.FRAMES - 1) * vq.GRID**2,
        )
    )


def train(work: Workplace, steps: int = STEPS, pictures: int = PICTURE_STEPS, seed: int = 0) -> None:
    """Train for `steps` steps in all, the first `pictures` of them on first frames; resumes from the checkpoint."""
    data.prepare(work)
    tokens, scenes = data.load(work)
    torch.manual_seed(seed)
    codes = VQModel.load_config(vq.MODEL_DIR / "vq")["num_vq_embeddings"]
    model = build(codes)
    ids, mask = text.tokenize(text.build_tokenizer(codes))

    channels.attend = _attention_in_float32

    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizers = _optimizers(model)
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        restore(parameters, state["parameters"])
        restore(average, state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    print(f"cogvideo {sum(p.numel() for p in parameters)} parameters, from step {first}", flush=True)

    began = saved_at = time.perf_counter()
    window, counted = torch.zeros(2), 0
    for step in range(first, steps):
        if step == pictures:
            start_temporal(model)
            restore(average, parameters)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * _rate(step, steps, pictures)
        # Seeded by the step, so that a resumed run sees what an unbroken one would have seen.
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        count = PICTURE_BATCH if step < pictures else CLIP_BATCH
        pick = torch.randint(len(tokens), (count,), generator=generator)
        dropped = torch.rand(count, generator=generator) < CAPTION_DROPOUT
        caption = torch.where(dropped, len(ids) - 1, scenes[pick])
        losses = _losses(model, tokens[pick].long(), ids[caption], mask[caption], temporal=step >= pictures)
        loss = losses[0] if step < pictures else FIRST_WEIGHT * losses[0] + (1 - FIRST_WEIGHT) * losses[1]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        since = step - pictures if step >= pictures else step
        decay = min(EMA_DECAY, (since + 1) / (since + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        window += losses.detach()
        counted += 1
        now = time.perf_counter()
        if (step + 1) % 50 == 0:
            frame, later = (window / counted).tolist()
            print(f"cogvideo {step + 1}/{steps} frame 1 {frame:.4f} later {later:.4f}, {now - began:.0f} s", flush=True)
            window, counted = torch.zeros(2), 0
        if now - saved_at > SAVE_SECONDS or step + 1 in (pictures, steps):
            saved_at = now
            saved = {
                "step": step + 1,
                "parameters": [p.detach() for p in parameters],
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            work.save(_CHECKPOINT, saved)


def averaged(work: Workplace, codes: int) -> tuple[CogVideoTransformer, int]:
    """The model with the averaged weights of the last checkpoint, and the step they are from."""
    state = work.load(_CHECKPOINT)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {work.root}: run `python -m f3core_zoo.train.cogvideo train` first")
    model = build(codes)
    restore(model.parameters(), state["average"])
    if state["step"] <= PICTURE_STEPS:
        start_temporal(model)
    return model.eval(), int(state["step"])


@torch.no_grad()
def start_temporal(model: CogVideoTransformer) -> None:
    """Begin the temporal channel as a copy of the base one, and later frames' positions as those of the first."""
    for layer in model.transformer.layers:
        layer.attention_plus.query_key_value.load_state_dict(layer.attention.query_key_value.state_dict())
        layer.attention_plus.dense.load_state_dict(layer.attention.dense.state_dict())
    frame = model.transformer.position_embeddings.weight[-(vq.GRID**2) :]
    model.transformer.extra_position_embeddings.weight.lerp_(frame.repeat(vq.FRAMES - 1, 1), 0.8)


def _losses(model: CogVideoTransformer, tokens: Tensor, ids: Tensor, mask: Tensor, temporal: bool) -> Tensor:
    """Cross entropy of the first frame's tokens, seen alone, and of all later ones (0 when not `temporal`)."""
    size = vq.GRID**2
    sequence = torch.cat([ids, tokens], dim=1)
    positions = model.usual_positions(len(ids), sequence.shape[1])
    text_mask = mask[:, None, None].bool()
    end = text.LENGTH + size
    with torch.autocast("cpu", torch.bfloat16):
        alone = model(sequence[:, :end], positions[:, :end], text_mask, temporal=False)
        whole = model(sequence, positions, text_mask) if temporal else None
    first = F.cross_entropy(alone[:, text.LENGTH - 1 : -1].flatten(0, 1).float(), tokens[:, :size].flatten())
    if whole is None:
        return torch.stack([first, torch.zeros(())])
    later = F.cross_entropy(whole[:, end - 1 : -1].flatten(0, 1).float(), tokens[:, size:].flatten())
    return torch.stack([first, later])


def _rate(step: int, steps: int, pictures: int) -> float:
    """Learning-rate factor: the usual curve over all steps, and a short warm-up of the temporal channel."""
    factor = warm_then_decay(step, steps, 100)
    return factor * min(1.0, (step - pictures + 1) / 50) if step >= pictures else factor


def _optimizers(model: CogVideoTransformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    matrices = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _attention_in_float32(query: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor | None) -> Tensor:
    """Attention outside autocast: its bfloat16 backward is several times slower on a CPU."""
    with torch.autocast("cpu", enabled=False):
        return _attend(query.float(), [key.float() for key in keys], [value.float() for value in values], mask)
