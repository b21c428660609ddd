"""Small models of any shape, pruned in any way, for hypothesis."""

from __future__ import annotations

from dataclasses import replace

import tiny_cogvideo
import torch
from f3core_cogvideo.model import CogVideoTransformer
from hypothesis import strategies as st

from f3core.attention import Bypass


@st.composite
def models(draw: st.DrawFn, *, stage: int | None = None, pruned: bool = True) -> CogVideoTransformer:
    """Any stage, window, layout, number of layers, heads, text tokens, frames; some channels restricted or replaced."""
    side = draw(st.integers(1, 4))
    torch.manual_seed(draw(st.integers(0, 5)))
    heads = draw(st.sampled_from((1, 2, 3)))
    model = tiny_cogvideo.transformer(
        stage=stage or draw(st.sampled_from((1, 2))),
        window=draw(st.sampled_from((-1, *(w for w in range(1, side + 1) if side % w == 0)))),
        layers=draw(st.integers(1, 3)),
        heads=heads,
        hidden=4 * heads,
        text=draw(st.integers(1, 4)),
        tokens=side**2,
        frames=draw(st.integers(1, 5)),
        start_of_image=draw(st.sampled_from((None, 29))),
    )
    for layer in model.transformer.layers if pruned else ():
        for channel in (layer.attention, layer.attention_plus):
            kinds = draw(st.sets(st.sampled_from(("text", "earlier", "own"))))
            channel.sees = replace(channel.sees, **dict.fromkeys(kinds, False))
        if draw(st.integers(0, 5)) == 0:
            layer.attention_plus = Bypass()
    return model
