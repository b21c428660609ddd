"""Seconds and MACs of one real-size block under token reduction and under `self_only`, each beside the unpruned block.

    python benchmarks/token_reduction_block.py "Wan 2.1 1.3B" [--frames 8 --height 64 --width 64 --json out.json]

As `self_only_block.py`, whose options these are, with every installed method that reduces the keys of TA; the share
``--ratio`` of them goes. In each round all run in turn. Random weights: what is merged is arbitrary, how much is not.
"""

from __future__ import annotations

import statistics
from typing import Any

from blocks import one_block, options, published, report, seconds

from f3core.environment import machine, now
from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.reducing import Reduction
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_

TA = AttentionKind.TEMPORAL


def main() -> None:
    parser = options(__doc__, frames=8, height=64, width=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.5)
    asked = parser.parse_args()
    adapter, model = published(asked.model)
    ((component, denoiser),) = model.sketch().denoisers.items()
    plain = one_block(denoiser)
    variants: dict[str, Any] = {"unpruned": plain, "self_only": share_copy(plain)}
    restrict_all_(variants["self_only"], adapter, component, TA, Removal.SELF_ONLY)
    known = installed()
    for name in known.names("method"):
        method = known.make("method", name)
        if method.removals.get(TA) is Removal.REDUCE:
            variants[name] = share_copy(plain)
            reduction = Reduction(method, 1 - asked.ratio)
            restrict_all_(variants[name], adapter, component, TA, Removal.REDUCE, reduction)
    inputs = adapter.example_inputs(plain, frames=asked.frames, height=asked.height, width=asked.width)
    layout = adapter.layout_of(plain, inputs)
    runs: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(asked.rounds + 1):
        for name, variant in variants.items():
            took = seconds(variant, inputs)
            if turn:  # the first is a warm-up
                runs[name].append(took)
    macs = {name: count(meta_copy(variant), on_meta(inputs)).total for name, variant in variants.items()}
    found = {
        "date": now(),
        "machine": machine().model_dump(),
        "model": asked.model,
        "tokens": [layout.frames, layout.tokens, layout.text],
        "ratio": asked.ratio,
        "macs": macs,
        "seconds": runs,
        "speedup": {
            name: statistics.median(before / after for before, after in zip(runs["unpruned"], took, strict=True))
            for name, took in runs.items()
        },
        "predicted": {name: macs["unpruned"] / one for name, one in macs.items()},
    }
    report(found, asked.json)


if __name__ == "__main__":
    main()
