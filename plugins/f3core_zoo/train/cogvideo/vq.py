"""Trains the tiny `diffusers.VQModel` that turns a 16x16 frame into 4x4 tokens."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import VQModel
from torch import Tensor

from ... import digits, judge
from ..common import PACKAGE, Workplace, forget_path, psnr, warm_then_decay

MODEL_DIR = PACKAGE / "digits_cogvideo"
CODES = 512
FRAMES = 5
GRID = 4
CONFIG = {
    "block_out_channels": (24, 32, 48),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 16,
    "vq_embed_dim": 8,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": digits.SIZE,
    "scaling_factor": 1.0,
}
BATCH = 10  # clips of five frames
# A plain autoencoder first: its outputs, clustered, are where the codes begin.
# A plain autoencoder first: its outputs, clustered, are where the codes begin.
WARM_STEPS = 250
CODE_DECAY = 0.99
COMMITMENT = 0.25
# A code that fewer frames than this share of an even spread use is moved to where an encoder output lies.
DEAD = 0.03
RESEED_EVERY, RESEED_UNTIL = 20, 0.7
_CHECKPOINT = "vq.pt"


class Codes:
    """The codebook as k-means online: each code is the running mean of the outputs that chose it."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.count = torch.ones(len(table))
        self.total = table.clone()

    def start(self, outputs: Tensor, generator: torch.Generator, rounds: int = 15) -> None:
        """Cluster encoder outputs [N, D]."""
        self.table.copy_(outputs[torch.randperm(len(outputs), generator=generator)[: len(self.table)]])
        for _ in range(rounds):
            choice = torch.cdist(outputs, self.table).argmin(1)
            count = torch.bincount(choice, minlength=len(self.table)).float()
            total = torch.zeros_like(self.table).index_add_(0, choice, outputs)
            spare = outputs[torch.randint(len(outputs), (len(self.table),), generator=generator)]
            self.table.copy_(torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], spare))
        share = BATCH * FRAMES * GRID**2 / len(outputs)
        self.count = count.clamp_min(1) * share
        self.total = self.table * self.count[:, None]

    def quantize(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes of encoder outputs [B, D, 4, 4], straight through, and which they are [B * 16]."""
        flat = outputs.detach().permute(0, 2, 3, 1).reshape(-1, self.table.shape[1])
        choice = torch.cdist(flat, self.table).argmin(1)
        near = self.table[choice].view(len(outputs), GRID, GRID, -1).permute(0, 3, 1, 2)
        return near, choice

    def update(self, outputs: Tensor, choice: Tensor, generator: torch.Generator, reseed: bool) -> None:
        """Move the codes towards the outputs that chose them, and dead ones to random outputs."""
        flat = outputs.detach().permute(0, 2, 3, 1).reshape(-1, self.table.shape[1])
        self.count.lerp_(torch.bincount(choice, minlength=len(self.table)).float(), 1 - CODE_DECAY)
        self.total.lerp_(torch.zeros_like(self.total).index_add_(0, choice, flat), 1 - CODE_DECAY)
        even = len(flat) / len(self.table)
        if reseed and (dead := self.count < DEAD * even).any():
            pick = torch.randint(len(flat), (int(dead.sum()),), generator=generator)
            self.count[dead] = 0.3 * even
            self.total[dead] = flat[pick] * 0.3 * even
        self.table.copy_(self.total / self.count.clamp_min(1e-6)[:, None])


def train(work: Workplace, steps: int = 3000, seed: int = 0, learning_rate: float = 2e-3, codes: int = CODES) -> None:
    """Train, or go on training, for `steps` steps in all and save to the model folder."""
    torch.manual_seed(seed)
    model = VQModel(**CONFIG, num_vq_embeddings=codes)
    book = Codes(model.quantize.embedding.requires_grad_(False).weight.data)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        book.count, book.total, first = state["count"], state["total"], state["step"]
    print(f"vq {sum(p.numel() for p in model.parameters())} parameters")

    began = time.perf_counter()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm_then_decay(step, steps, 30)
        # The data and every draw depend on the step alone, so that a resumed run repeats itself.
        generator = torch.Generator().manual_seed(seed * 7_000_003 + step)
        clips, _ = digits.sample(BATCH, seed * 1_000_003 + step, frames=FRAMES)
        target = to_model(clips)
        if step == WARM_STEPS:
            with torch.no_grad():
                book.start(_outputs(model, digits.sample(400, seed + 50_000, frames=FRAMES)[0]), generator)
        outputs = model.encode(target).latents
        commitment = torch.zeros(())
        if step < WARM_STEPS:
            latents = outputs
        else:
            near, choice = book.quantize(outputs)
            commitment = F.mse_loss(outputs, near)
            latents = outputs + (near - outputs).detach()
        rebuilt = model.decode(latents, force_not_quantize=True).sample
        error = F.mse_loss(rebuilt, target)
        loss = error + 0.2 * F.l1_loss(rebuilt, target) + COMMITMENT * commitment
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= WARM_STEPS:
            with torch.no_grad():
                book.update(outputs, choice, generator, step % RESEED_EVERY == 0 and step < RESEED_UNTIL * steps)
        if (step + 1) % 100 == 0:
            seconds = time.perf_counter() - began
            used = len(choice.unique()) if step >= WARM_STEPS else 0
            quality = psnr(error.item())
            print(f"vq {step + 1}/{steps} psnr {quality:.1f} dB, {used} codes in a batch, {seconds:.0f} s", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            work.save(_CHECKPOINT, {**state, "count": book.count, "total": book.total})
        if (step + 1) % 1000 == 0:
            measure(model)
    save(model, MODEL_DIR / "vq")
    measure(model.half().float())


def to_model(clips: Tensor) -> Tensor:
    """Clips [B, F, 3, H, W] in [0, 1] as the tokenizer takes their frames: [B * F, 3, H, W] in [-1, 1]."""
    return clips.flatten(0, 1) * 2 - 1


@torch.no_grad()
def encode(model: VQModel, clips: Tensor, batch: int = 128) -> Tensor:
    """Tokens [B, F * 16] of clips [B, F, 3, 16, 16] in [0, 1], row by row."""
    parts = [_outputs(model, part) for part in clips.split(batch)]
    tokens = [torch.cdist(part, model.quantize.embedding.weight).argmin(1) for part in parts]
    return torch.cat(tokens).view(len(clips), -1)


@torch.no_grad()
def decode(model: VQModel, tokens: Tensor, batch: int = 128) -> Tensor:
    """Clips [B, F, 3, 16, 16] in [0, 1] of tokens [B, F * 16]."""
    clips = []
    for part in tokens.split(batch):
        near = model.quantize.embedding(part.reshape(-1, GRID, GRID)).permute(0, 3, 1, 2)
        frames = model.decode(near, force_not_quantize=True).sample
        clips.append(((frames + 1) / 2).clamp(0, 1).view(len(part), -1, *frames.shape[1:]))
    return torch.cat(clips)


@torch.no_grad()
def measure(model: VQModel, count: int = 240) -> judge.TextAccuracy:
    """Rebuild held-out clips and ask the judge what they show."""
    model.eval()
    prompts = digits.prompts(count, 0)
    clips = digits.render(prompts, seed=4, split="held_out", frames=FRAMES)
    tokens = encode(model, clips)
    rebuilt = decode(model, tokens)
    accuracy = judge.text_accuracy(rebuilt, prompts)
    share = torch.bincount(tokens.flatten(), minlength=model.config.num_vq_embeddings).double() / tokens.numel()
    used, perplexity = int((share > 0).sum()), torch.special.entr(share).sum().exp().item()
    quality = psnr(4 * F.mse_loss(rebuilt, clips).item())
    print(f"vq held-out psnr {quality:.2f} dB, {used} codes used, perplexity {perplexity:.0f}: {accuracy}", flush=True)
    model.train()
    return accuracy


def save(model: VQModel, folder: Path) -> None:
    """Write the tokenizer in half precision, without saying where it was loaded from."""
    model.half().save_pretrained(folder)
    forget_path(folder / "config.json")


def _outputs(model: VQModel, clips: Tensor) -> Tensor:
    """Encoder outputs [B * F * 16, D]."""
    return model.encode(to_model(clips)).latents.permute(0, 2, 3, 1).flatten(0, 2)
