"""What benchmarks of one real-size block share: the block, sizes on the command line, seconds of a forward, JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch import nn

from f3core.adapter import Adapter, Published
from f3core.environment import machine, now
from f3core.registry import installed

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAN_1_3B = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "text_dim": 4096,
    "freq_dim": 256,
    "num_layers": 1,
}
"""Config of `WanTransformer3DModel`: Wan 2.1 1.3B with one block."""


def options(doc: str, *, frames: int, height: int, width: int) -> argparse.ArgumentParser:
    """A parser of the model, its sizes (with these defaults) and the file to write."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("model", help='as f3core plan --published names it, such as "CogVideoX 2B"')
    parser.add_argument("--frames", type=int, default=frames, help="latent frames")
    parser.add_argument("--height", type=int, default=height, help="latent rows")
    parser.add_argument("--width", type=int, default=width, help="latent columns")
    parser.add_argument("--json")
    return parser


def published(name: str) -> tuple[Adapter, Published]:
    """A published model by its name. Raises SystemExit naming all when there is none."""
    known = installed()
    models = {}
    for adapter_name in known.names("adapter"):
        adapter: Adapter = known.make("adapter", adapter_name)
        models |= {model.name: (adapter, model) for model in adapter.published()}
    if name not in models:
        raise SystemExit(f"no published model {name!r}; there are: {', '.join(models)}")
    return models[name]


def one_block(denoiser: nn.Module) -> nn.Module:
    """The denoiser with the first block of every list alone, with random weights."""
    for name, child in denoiser.named_children():
        if isinstance(child, nn.ModuleList):
            setattr(denoiser, name, child[:1])
    return with_weights(denoiser)


def with_weights(denoiser: nn.Module) -> nn.Module:
    """A denoiser that was built on meta, with random weights."""
    denoiser = denoiser.to_empty(device=DEVICE)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
    return denoiser


def seconds(denoiser: Any, inputs: dict[str, Any]) -> float:
    """Of one forward, on the clock."""
    start = time.perf_counter()
    with torch.no_grad():
        denoiser(**inputs)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compared(macs: list[int], runs: list[tuple[float, float]], **told: Any) -> dict[str, Any]:
    """What a benchmark says of interleaved runs (seconds before, after) beside ``macs`` before and after."""
    measured, predicted = statistics.median(before / after for before, after in runs), macs[0] / macs[1]
    figures = {"predicted": predicted, "measured": measured, "measured_over_predicted": measured / predicted}
    return {"date": now(), "machine": machine().model_dump(), **told, "macs": macs, "seconds": runs, **figures}


def report(found: dict[str, Any], path: str | None) -> None:
    """Print what was found, and write it where a file is given."""
    text = json.dumps(found, indent=2)
    print(text)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
