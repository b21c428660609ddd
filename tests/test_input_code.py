"""Arguments of a forward, from the language of ``--input`` to Python source."""

from __future__ import annotations

import pytest

from f3core.scaffolding.generic_draft import TorchDialect
from f3core.scaffolding.input_code import forward_arguments


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("x", "B,F,4,H,W", "torch.randn(batch, frames, config.in_channels, height, width, **like)"),
        ("x", "B,F*H*W,4", "torch.randn(batch, frames * height * width, config.in_channels, **like)"),
        ("text", "B*F,T,96", "torch.randn(batch * frames, text, config.text_dims[0], **like)"),
        ("text", "B,T,97", "torch.randn(batch, text, 97, **like)"),
        ("mask", "bool(B,T)", 'torch.ones(batch, text, dtype=torch.long, device=like["device"]).bool()'),
        ("timestep", "B,", 'torch.full((batch,), 500.0, device=like["device"])'),
        ("t", "B,F", 'torch.full((batch, frames), 500.0, device=like["device"])'),
        ("scale", "B,", "torch.ones(batch, **like)"),
        ("places", "[arange(F),arange((H-1)//2)]", None),
        ("pixels", "zeros(B,3,(F-1)*4)", "torch.zeros(batch, 3, (frames - 1) * 4, **like)"),
        ("dry", "false", "False"),
    ],
)
def test_inputs_as_source(name: str, value: str, source: str | None) -> None:
    config = {"out_channels": 4, "in_channels": 4, "text_dims": [96, 2]}
    (found,) = forward_arguments({name: value}, {name: 0}, config)
    if source is None:
        places = (
            'torch.arange(frames, device=like["device"])',
            'torch.arange((height - 1) // 2, device=like["device"])',
        )
        source = f"[{', '.join(places)}]"
    assert found.source(config, TorchDialect()) == source
    assert found.unnamed == ((97,) if "97" in value else ())
