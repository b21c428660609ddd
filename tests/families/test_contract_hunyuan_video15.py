"""The HunyuanVideo 1.5 adapter under the contract."""

from __future__ import annotations

import tiny_hunyuan_video15
from f3core_diffusers.hunyuan_video15 import HunyuanVideo15Adapter
from torch import nn

from f3core.contract import example_plan
from f3core.flops import count
from f3core.meta import meta_copy
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_
from f3core.testing import AdapterContract


class TestHunyuanVideo15(AdapterContract):
    adapter = HunyuanVideo15Adapter()

    def build(self) -> nn.Module:
        return tiny_hunyuan_video15.transformer()


def test_text_longer_than_the_clip_stays_text_once_pruned() -> None:
    model, adapter = meta_copy(tiny_hunyuan_video15.transformer()), HunyuanVideo15Adapter()
    inputs = adapter.example_inputs(model, frames=3, height=2, width=4, text=40)
    whole = count(model, inputs, adapter)
    sites = adapter.sites(model, "transformer")
    plan = example_plan(adapter.name, sites, (AttentionKind.TEMPORAL, Removal.SELF_ONLY))
    apply_plan_(model, plan, adapter, "transformer")
    left = count(model, inputs, adapter)
    assert left.other == whole.other
    assert left.kinds == {**whole.kinds, AttentionKind.TEMPORAL: 0}
