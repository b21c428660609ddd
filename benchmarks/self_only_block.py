"""Seconds of one real-size Wan 2.1 1.3B block before and after `self_only`, beside what its MACs predict.

    python benchmarks/self_only_block.py [--frames 21 --height 60 --width 104 --pairs 2 --json out.json]

Random weights: time does not depend on them. Runs are interleaved (before, after, before, after, ...).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from diffusers import WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter

from f3core.environment import machine, now
from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_

WAN_1_3B = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "ffn_dim": 8960,
    "text_dim": 4096,
    "freq_dim": 256,
    "num_layers": 1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=21, help="latent frames")
    parser.add_argument("--height", type=int, default=60, help="latent rows")
    parser.add_argument("--width", type=int, default=104, help="latent columns")
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--json")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    adapter = WanAdapter()
    model = WanTransformer3DModel(**WAN_1_3B).eval().to(device)
    pruned = share_copy(model)
    restrict_all_(pruned, adapter, "transformer", AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    inputs = adapter.example_inputs(model, frames=options.frames, height=options.height, width=options.width)
    macs = [count(meta_copy(m), on_meta(inputs)).total for m in (model, pruned)]

    def seconds(denoiser: torch.nn.Module) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            denoiser(**inputs)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(pruned)  # warm-up
    runs = [(seconds(model), seconds(pruned)) for _ in range(options.pairs)]
    measured = statistics.median(before / after for before, after in runs)
    found = {
        "date": now(),
        "machine": machine().model_dump(),
        "tokens": [options.frames, options.height * options.width // 4],
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


if __name__ == "__main__":
    main()
