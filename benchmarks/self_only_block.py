"""Seconds of one real-size block before and after `self_only`, beside what its MACs predict.

    python benchmarks/self_only_block.py "Wan 2.1 1.3B" [--frames 21 --height 60 --width 104 --pairs 2 --json out.json]

The model is one of `f3core plan --published`, of which every list of blocks keeps its first one; frames, height and
width are latent ones. Random weights: time does not depend on them. Runs are interleaved (before, after, before, ...).
"""

from __future__ import annotations

from blocks import compared, one_block, options, published, report, seconds

from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_


def main() -> None:
    parser = options(__doc__, frames=21, height=60, width=104)
    parser.add_argument("--pairs", type=int, default=2)
    asked = parser.parse_args()
    adapter, model = published(asked.model)
    ((component, denoiser),) = model.sketch().denoisers.items()
    plain = one_block(denoiser)
    pruned = share_copy(plain)
    restrict_all_(pruned, adapter, component, AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    inputs = adapter.example_inputs(plain, frames=asked.frames, height=asked.height, width=asked.width)
    layout = adapter.layout_of(plain, inputs)
    macs = [count(meta_copy(m), on_meta(inputs)).total for m in (plain, pruned)]
    seconds(pruned, inputs)  # warm-up
    runs = [(seconds(plain, inputs), seconds(pruned, inputs)) for _ in range(asked.pairs)]
    found = compared(
        macs,
        runs,
        model=asked.model,
        tokens=[layout.frames, layout.tokens, layout.text],
    )
    report(found, asked.json)


if __name__ == "__main__":
    main()
