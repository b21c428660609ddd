"""Trains the `WanTransformer3DModel` and its text encoder together, by flow matching on precomputed latents.

Each rank is one process with one thread: at this size, two halves of a batch keep two cores busier than two threads do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import diffusers.models.transformers.transformer_wan as transformer_wan
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from .. import digits
from . import text, vae
from .common import MODEL_DIR, Workplace, restore, warm_then_decay

CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "in_channels": 8,
    "out_channels": 8,
    "text_dim": text.WIDTH,
    "freq_dim": 64,
    "ffn_dim": 256,
    "num_layers": 8,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}
CLIPS = 12_288
CLIPS_SEED = 100
CAPTION_DROPOUT = 0.12
EMA_DECAY = 0.998
NOISE_SHIFT = 2.0
SAVE_EVERY = 200
_LATENTS, _CHECKPOINT = "latents.pt", "denoiser.pt"


class Denoiser(nn.Module):
    """What is trained: transformer and text encoder, from token ids to the predicted flow."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer3DModel(**CONFIG)
        self.encoder = text.build_encoder(len(text.build_tokenizer()))
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Flow [B, 8, 11, 8, 8] at noise levels `sigma` [B] in (0, 1), for tokens [B, 16]."""
        embeds = text.embed(self.encoder, ids, mask)
        return self.transformer(noisy, sigma * 1000.0, embeds, return_dict=False)[0]


def prepare_latents(work: Workplace) -> None:
    """Render and encode the training clips once: normalised latents in half precision, and caption indices."""
    if work.path(_LATENTS).exists():
        return
    codec = AutoencoderKLWan.from_pretrained(MODEL_DIR / "vae").float().eval()
    mean, std = (torch.tensor(codec.config[key]).view(1, -1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
    latents, captions = [], []
    for part in range(CLIPS // 512):
        clips, scenes = digits.sample(512, CLIPS_SEED + part)
        latents.append(((vae.encode(codec, clips) - mean) / std).half())
        captions += [digits.SCENES.index(scene) for scene in scenes]
    work.save(_LATENTS, {"latents": torch.cat(latents), "captions": torch.tensor(captions)})


def train(work: Workplace, steps: int = 3600, seed: int = 0, ranks: int = 2, batch: int = 16) -> None:
    """Train for `steps` steps in all, `ranks` processes of `batch` clips each; resumes from the last checkpoint."""
    prepare_latents(work)
    meeting = work.path("meeting")
    meeting.unlink(missing_ok=True)
    torch.multiprocessing.start_processes(
        _train_rank, args=(ranks, str(meeting), work, steps, seed, batch), nprocs=ranks, start_method="spawn"
    )


def _train_rank(rank: int, ranks: int, meeting: str, work: Workplace, steps: int, seed: int, batch: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    torch.manual_seed(seed)
    model = Denoiser()
    # compile() freezes the switch below into the graph, so it comes first.
    transformer_wan.dispatch_attention_fn = _attention_in_float32
    model.transformer.compile()
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizers = _optimizers(model)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        restore(parameters, state["parameters"])
        restore(average, state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    data = work.load(_LATENTS)
    assert data is not None
    ids, mask = text.tokenize(text.build_tokenizer())

    began, window = time.perf_counter(), 0.0
    for step in range(first, steps):
        factor = warm_then_decay(step, steps, 100)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        # Seeded by the step, so that a resumed run sees what an unbroken one would have seen.
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * ranks + rank)
        loss = _loss(model, data["latents"], data["captions"], ids, mask, batch, generator)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _share_gradients(parameters, ranks)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        window += loss.item()
        if rank == 0 and (step + 1) % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"denoiser {step + 1}/{steps} loss {window / 50:.4f}, {seconds:.0f} s", flush=True)
            window = 0.0
        if rank == 0 and ((step + 1) % SAVE_EVERY == 0 or step + 1 == steps):
            saved = {
                "step": step + 1,
                "parameters": [p.detach() for p in parameters],
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            work.save(_CHECKPOINT, saved)
    dist.destroy_process_group()


def _loss(
    model: Denoiser,
    latents: Tensor,
    captions: Tensor,
    ids: Tensor,
    mask: Tensor,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Flow-matching loss on a random batch: x_s = (1 - s) x_0 + s noise, target noise - x_0."""
    pick = torch.randint(len(latents), (batch,), generator=generator)
    clean = latents[pick].float()
    caption = captions[pick]
    dropped = torch.rand(batch, generator=generator) < CAPTION_DROPOUT
    caption = torch.where(dropped, len(ids) - 1, caption)
    level = torch.sigmoid(torch.randn(batch, generator=generator))
    # Most of what a caption decides is decided at high noise: shift the levels that way.
    level = NOISE_SHIFT * level / (1 + (NOISE_SHIFT - 1) * level)
    noise = torch.randn(clean.shape, generator=generator)
    sigma = level.view(-1, 1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        flow = model((1 - sigma) * clean + sigma * noise, level, ids[caption], mask[caption])
    return F.mse_loss(flow.float(), noise - clean)


def _optimizers(model: Denoiser) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = [p for p in model.transformer.blocks.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _share_gradients(parameters: Iterable[nn.Parameter], ranks: int) -> None:
    """Average gradients over ranks, in one message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= ranks
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _attention_in_float32(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
    """Attention [B, S, heads, d] outside autocast: its bfloat16 backward is several times slower on a CPU."""
    with torch.autocast("cpu", enabled=False):
        heads_first = (x.float().transpose(1, 2) for x in (query, key, value))
        return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)


def export(work: Workplace, folder: Path = MODEL_DIR) -> int:
    """Write the averaged weights of the last checkpoint to `folder`; returns the step they are from."""
    state = work.load(_CHECKPOINT)
    if state is None:
        raise FileNotFoundError(f"no checkpoint in {work.root}: run `python -m f3core_zoo.train denoiser` first")
    model = Denoiser()
    restore(model.parameters(), state["average"])
    text.build_tokenizer().save_pretrained(folder / "tokenizer")
    # The text encoder stays in single precision: loaders keep its stored type, and half precision is slow on a CPU.
    model.encoder.save_pretrained(folder / "text_encoder")
    model.transformer.half().save_pretrained(folder / "transformer")
    return int(state["step"])
