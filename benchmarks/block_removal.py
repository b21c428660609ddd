"""Seconds of a denoiser's forward before and after whole blocks go, beside what its MACs predict.

    python benchmarks/block_removal.py zoo:digits-wan --blocks blocks.1,blocks.3,blocks.5 --repeats 40
    python benchmarks/block_removal.py "Stable Video Diffusion" --frames 4 --height 32 --width 32

The model is a registered source, or one of `f3core plan --published` with random weights (time does not depend on
them); frames, height and width are latent ones. Without --blocks VDMini's rule says what goes. Runs are interleaved
(before, after, before, ...), ``repeats`` forwards each.
"""

from __future__ import annotations

from typing import Any

from blocks import compared, options, published, report, seconds, with_weights
from f3core_vdmini.methods import ruled_out
from torch import nn

from f3core.adapter import Adapter
from f3core.engine import load
from f3core.flops import count
from f3core.job import resolve
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.registry import installed
from f3core.scoring import inputs_of
from f3core.skipping import check_blocks
from f3core.spec import parse_spec
from f3core.surgery import parameter_count, take_out_


def opened(asked: Any) -> tuple[Adapter, nn.Module, dict[str, Any], str]:
    """Adapter, denoiser, keyword arguments of a forward of one row, and the denoiser's name."""
    if asked.model not in installed().names("source"):
        adapter, model = published(asked.model)
        ((component, denoiser),) = model.sketch().denoisers.items()
        denoiser = with_weights(denoiser).eval()
        sizes = {"frames": asked.frames, "height": asked.height, "width": asked.width}
        return adapter, denoiser, adapter.example_inputs(denoiser, **sizes), component
    text = f"""
version: 1
model: {{source: "{asked.model}"}}
calibrate: {{prompts: "zoo:digits"}}
output: unused
"""
    job = resolve(parse_spec(text), installed(), check_output=False)
    loaded = load(job)
    ((component, denoiser),) = loaded.denoisers.items()
    (inputs,) = inputs_of(job, loaded)[component].values()
    return loaded.adapter, denoiser, inputs, component


def main() -> None:
    parser = options(__doc__, frames=4, height=32, width=32)
    parser.add_argument("--blocks", help="paths of the blocks that go, with commas")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    asked = parser.parse_args()
    adapter, plain, inputs, component = opened(asked)
    blocks = adapter.blocks(plain, component)
    named = set(asked.blocks.split(",")) if asked.blocks else {block.path for block in ruled_out(blocks)}
    check_blocks(blocks, named)
    student = share_copy(plain)
    take_out_(student, adapter, [block for block in blocks if block.path in named])
    macs = [count(meta_copy(m), on_meta(inputs)).total for m in (plain, student)]

    def timed(model: nn.Module) -> float:
        return sum(seconds(model, inputs) for _ in range(asked.repeats)) / asked.repeats

    timed(plain), timed(student)  # warm-up
    runs = [(timed(plain), timed(student)) for _ in range(asked.pairs)]
    found = compared(
        macs,
        runs,
        model=asked.model,
        gone=sorted(named),
        parameters=[parameter_count(m) for m in (plain, student)],
    )
    report(found, asked.json)


if __name__ == "__main__":
    main()
