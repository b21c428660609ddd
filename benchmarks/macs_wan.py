"""MACs of Wan 2.1 by attention kind, counted on the meta device, beside ``torch.utils.flop_counter`` ÷ 2.

    PYTHONPATH=.:plugins python benchmarks/macs_wan.py [--frames 21 --height 60 --width 104]

One denoiser forward of one row; frames, height and width are those of the latents (21 × 60 × 104 is 81 frames of 480p).
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from f3core import flops
from f3core.sites import FORWARD, KINDS

# As published in the models' config.json files; what is not listed is the class's default.
CONFIGS: dict[str, dict[str, Any]] = {
    "Wan2.1 1.3B": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "Wan2.1 14B": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}


def peak_rss() -> float:
    """Peak resident memory of this process so far, GiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(config: dict[str, Any]) -> WanTransformer3DModel:
    """The model without weights."""
    with torch.device("meta"):
        return WanTransformer3DModel(
            attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096, freq_dim=256, **config
        ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=21)
    parser.add_argument("--height", type=int, default=60)
    parser.add_argument("--width", type=int, default=104)
    parser.add_argument("--costs", action="store_true", help="also time flops.costs: every removal at every site")
    size = parser.parse_args()
    table = Table(title=f"TMACs of one forward, latents {size.frames} × {size.height} × {size.width}, text 512")
    columns = ("model", "parameters", *map(str, KINDS), "attention", "matmul", "conv", "total", "flop_counter ÷ 2")
    for column in (*columns, "seconds", "peak RSS, GiB"):
        table.add_column(column, justify="left" if column == "model" else "right")
    adapter = WanAdapter()
    for name, config in CONFIGS.items():
        model = build(config)
        inputs = adapter.example_inputs(model, frames=size.frames, height=size.height, width=size.width)
        start = time.perf_counter()
        counted = flops.count(model, inputs, adapter)
        seconds = time.perf_counter() - start
        rss = peak_rss()
        with torch.no_grad(), FlopCounterMode(display=False) as reference:
            model(**inputs)
        by_torch = reference.get_total_flops() // 2
        parts = [counted.kinds[kind] for kind in KINDS]
        parts += [counted.operators[operator] for operator in ("attention", "matmul", "conv")]
        table.add_row(
            name,
            f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} B",
            *(f"{macs / 1e12:.3f}" for macs in (*parts, counted.total)),
            "equal" if by_torch == counted.total else f"{by_torch / 1e12:.3f}",
            f"{seconds:.2f}",
            f"{rss:.2f}",
        )
        if size.costs:
            start = time.perf_counter()
            flops.costs(adapter, {"transformer": model}, {"transformer": {FORWARD: inputs}})
            Console().print(f"{name}: flops.costs took {time.perf_counter() - start:.1f} s")
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
