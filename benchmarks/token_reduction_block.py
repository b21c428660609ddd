"""Seconds and MACs of one real-size block under token reduction and under `self_only`, each beside the unpruned block.

    python benchmarks/token_reduction_block.py "Wan 2.1 1.3B" [--frames 8 --height 64 --width 64 --json out.json]

As `self_only_block.py`, whose options these are, with every installed method that reduces the keys of TA; the share
``--ratio`` of them goes. In each round all run in turn. Random weights: what is merged is arbitrary, how much is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from self_only_block import one_block, published

from f3core.environment import machine, now
from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.reducing import Reduction
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_

TA = AttentionKind.TEMPORAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help='as f3core plan --published names it, such as "CogVideoX 2B"')
    parser.add_argument("--frames", type=int, default=8, help="latent frames")
    parser.add_argument("--height", type=int, default=64, help="latent rows")
    parser.add_argument("--width", type=int, default=64, help="latent columns")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--json")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    adapter, model = published(options.model)
    ((component, denoiser),) = model.sketch().denoisers.items()
    plain = one_block(denoiser, device)
    known = installed()
    methods = {name: known.make("method", name) for name in known.names("method")}
    variants: dict[str, Any] = {"unpruned": plain, "self_only": share_copy(plain)}
    restrict_all_(variants["self_only"], adapter, component, TA, Removal.SELF_ONLY)
    for name, method in methods.items():
        if method.removals.get(TA) is Removal.REDUCE:
            variants[name] = share_copy(plain)
            reduction = Reduction(method, 1 - options.ratio)
            restrict_all_(variants[name], adapter, component, TA, Removal.REDUCE, reduction)
    inputs = adapter.example_inputs(plain, frames=options.frames, height=options.height, width=options.width)
    layout = adapter.layout_of(plain, inputs)

    def seconds(denoiser: Any) -> float:
        start = time.perf_counter()
        with torch.no_grad():
            denoiser(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    runs: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(options.rounds + 1):
        for name, variant in variants.items():
            took = seconds(variant)
            if turn:  # the first is a warm-up
                runs[name].append(took)
    macs = {name: count(meta_copy(variant), on_meta(inputs)).total for name, variant in variants.items()}
    speedups = {
        name: statistics.median(before / after for before, after in zip(runs["unpruned"], took, strict=True))
        for name, took in runs.items()
    }
    found = {
        "date": now(),
        "machine": machine().model_dump(),
        "model": options.model,
        "tokens": [layout.frames, layout.tokens, layout.text],
        "ratio": options.ratio,
        "macs": macs,
        "seconds": runs,
        "speedup": speedups,
        "predicted": {name: macs["unpruned"] / one for name, one in macs.items()},
    }
    print(json.dumps(found, indent=2))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
