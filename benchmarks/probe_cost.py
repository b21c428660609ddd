"""What watching costs: seconds and peak memory of a forward plain, with the exact probe, and with a 1/8 query sample.

    python benchmarks/probe_cost.py mini --batch 8        # the trained mini, zoo:digits-wan, as its spec scores it
    python benchmarks/probe_cost.py block [--rounds 3]    # one Wan 2.1 1.3B block at 5 × 1560 tokens

Modes take turns within every round; ratios are medians over rounds. Attention's own share of the time is measured in
the same rounds: each attention call of a forward is timed where it happens, over the seconds of a plain forward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from blocks import WAN_1_3B
from diffusers import WanPipeline, WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter
from torch.overrides import TorchFunctionMode

from f3core.environment import machine, now
from f3core.footprint import peak_memory
from f3core.probe import Probe
from f3core.registry import installed


class _Clocked(TorchFunctionMode):
    """Adds up what attention calls take where they happen: run again, with warm caches, they would seem cheaper."""

    seconds = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seconds += time.perf_counter() - start
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("mini", "block"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--batch", type=int, default=1, help="prompts in a forward")
    parser.add_argument("--json")
    options = parser.parse_args()

    adapter = WanAdapter()
    if options.what == "mini":
        folder = installed().entry("source", "zoo:digits-wan").folder
        model = WanPipeline.from_pretrained(folder).transformer.eval()
        inputs = adapter.example_inputs(model, frames=11, height=8, width=8, text=16, batch=options.batch)
        rounds, repeats = options.rounds or 5, 40  # as many forwards as one calibrated generation makes
    else:
        model = WanTransformer3DModel(**WAN_1_3B).eval()
        inputs = adapter.example_inputs(model, frames=5, height=60, width=104, batch=options.batch)
        rounds, repeats = options.rounds or 3, 1
    sites = dict(enumerate(adapter.sites(model, "transformer")))

    def plain() -> None:
        with torch.no_grad():
            for _ in range(repeats):
                model(**inputs)

    def probed(stride: int) -> Callable[[], None]:
        def run() -> None:
            probe = Probe(adapter, model, sites, stride=stride, prompts=options.batch)
            with probe.watching():
                plain()

        return run

    def share() -> float:
        clocked = _Clocked()
        with clocked:
            plain()
        return clocked.seconds

    modes = {"plain": plain, "exact": probed(1), "sample": probed(8)}
    for run in modes.values():
        run()
    rows = []
    for _ in range(rounds):
        row = {}
        for name, run in modes.items():
            start = time.perf_counter()
            run()
            row[name] = time.perf_counter() - start
        row["attention"] = share()
        rows.append(row)
    attention = statistics.median(row["attention"] / row["plain"] for row in rows)
    memory = {name: peak_memory(run)[1].added for name, run in modes.items()}
    found = {
        "date": now(),
        "machine": machine().model_dump(),
        "what": options.what,
        "batch": options.batch,
        "rounds": rounds,
        "attention_share": attention,
        "exact": statistics.median(row["exact"] / row["plain"] for row in rows),
        "exact_bar": 1 + 1.1 * attention,
        "sample": statistics.median(row["sample"] / row["plain"] for row in rows),
        "sample_bar": 1.10,
        "peak_memory_added": memory,
        "peak_memory_extra": {name: memory[name] / memory["plain"] - 1 for name in ("exact", "sample")},
    }
    print(json.dumps(found, indent=2))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
