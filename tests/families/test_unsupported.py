"""Denoisers of diffusers that cannot be pruned soundly are refused, each with what it is in them."""

from __future__ import annotations

import diffusers
import pytest
from f3core_diffusers.families import FAMILIES, UNSUPPORTED

from f3core.errors import AdapterMatchError
from f3core.registry import installed

REASONS = {
    "AnyFlowFARTransformer3DModel": "a cache that later chunks read",
    "Cosmos3OmniTransformer": "two calls, a causal one of the text and one of the rest",
    "Kandinsky6SRTransformer3DModel": "a block mask that every call chooses",
    "MiniMaxH3Transformer3DModel": "by rotary coordinates alone",
    "SanaWMLTX2RefinerTransformer3DModel": "a cache that forwards of their own fill",
    "SanaWMTransformer3DModel": "a gated delta rule with a state",
    "WanAnimate2Transformer3DModel": "padded buffers of a clip and its reference",
}


@pytest.mark.parametrize("name", REASONS)
def test_refused_with_its_reason(name: str) -> None:
    with pytest.raises(AdapterMatchError, match=f"^{name} cannot be pruned: .*{REASONS[name]}") as caught:
        installed().match_adapter([name])
    assert not str(caught.value).endswith(".")


@pytest.mark.parametrize("name", REASONS)
def test_diffusers_has_it(name: str) -> None:
    assert issubclass(getattr(diffusers, name), diffusers.ModelMixin)


def test_none_else_and_none_with_an_adapter() -> None:
    assert set(UNSUPPORTED) == set(REASONS)
    assert not set(UNSUPPORTED) & {name for family in FAMILIES for name in family.model_classes}
