"""Seconds of one real-size block before and after `self_only`, beside what its MACs predict.

    python benchmarks/self_only_block.py "Wan 2.1 1.3B" [--frames 21 --height 60 --width 104 --pairs 2 --json out.json]

The model is one of `f3core plan --published`, of which every list of blocks keeps its first one; frames, height and
width are latent ones. Random weights: time does not depend on them. Runs are interleaved (before, after, before, ...).
"""

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
from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_


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


def one_block(denoiser: nn.Module, device: torch.device) -> nn.Module:
    """The denoiser with the first block of every list alone, with random weights."""
    for name, child in denoiser.named_children():
        if isinstance(child, nn.ModuleList):
            setattr(denoiser, name, child[:1])
    denoiser = denoiser.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*denoiser.parameters(), *denoiser.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
    return denoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help='as f3core plan --published names it, such as "CogVideoX 2B"')
    parser.add_argument("--frames", type=int, default=21, help="latent frames")
    parser.add_argument("--height", type=int, default=60, help="latent rows")
    parser.add_argument("--width", type=int, default=104, help="latent columns")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapter, model = published(options.model)
    ((component, denoiser),) = model.sketch().denoisers.items()
    plain = one_block(denoiser, device)
    pruned = share_copy(plain)
    restrict_all_(pruned, adapter, component, AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    inputs = adapter.example_inputs(plain, frames=options.frames, height=options.height, width=options.width)
    layout = adapter.layout_of(plain, inputs)
    macs = [count(meta_copy(m), on_meta(inputs)).total for m in (plain, pruned)]

    def seconds(denoiser: Any) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            denoiser(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(pruned)  # warm-up
    runs = [(seconds(plain), seconds(pruned)) for _ in range(options.pairs)]
    measured = statistics.median(before / after for before, after in runs)
    found = {
        "date": now(),
        "machine": machine().model_dump(),
        "model": options.model,
        "tokens": [layout.frames, layout.tokens, layout.text],
        "macs": macs,
        "seconds": runs,
        "predicted": macs[0] / macs[1],
        "measured": measured,
        "measured_over_predicted": measured / (macs[0] / macs[1]),
    }
    print(json.dumps(found, indent=2))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
