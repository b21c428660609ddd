"""Processors whose attention call is restricted: set later, fused, copied, compiled block by block, and refused."""

from __future__ import annotations

import copy

import pytest
import tiny_cogvideox
import tiny_wan
import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from f3core_diffusers.processors import restricted_call
from torch import Tensor, nn
from torch._dynamo.utils import counters

from f3core.clock import Clock, Gate
from f3core.contract import tensors
from f3core.errors import PlanError
from f3core.joint import own_frame
from f3core.meta import share_copy
from f3core.registry import installed
from f3core.sites import AttentionKind, Layout, Removal
from f3core.surgery import restrict_all_


def pruned(denoiser: nn.Module, name: str) -> nn.Module:
    made = share_copy(denoiser)
    adapter = installed().make("adapter", name)
    restrict_all_(made, adapter, "transformer", AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    return made


def output(denoiser: nn.Module, name: str) -> Tensor:
    torch.manual_seed(1)
    adapter = installed().make("adapter", name)
    inputs = adapter.example_inputs(denoiser, frames=3, height=4, width=6, batch=2, text=8)
    with torch.no_grad():
        return tensors(denoiser(**inputs))[0]


def test_a_processor_that_is_set_later_is_restricted_too() -> None:
    made = pruned(tiny_cogvideox.transformer(), "cogvideox")
    before = output(made, "cogvideox")
    made.set_attn_processor(CogVideoXAttnProcessor2_0())
    assert torch.equal(output(made, "cogvideox"), before)
    for processor in made.attn_processors.values():
        assert isinstance(processor, CogVideoXAttnProcessor2_0)
    made.set_attn_processor(made.attn_processors)
    assert torch.equal(output(made, "cogvideox"), before)


def test_one_processor_set_everywhere_asks_each_sites_gate() -> None:
    made = pruned(tiny_cogvideox.transformer(), "cogvideox")
    first, second = (block.attn1 for block in made.transformer_blocks)
    made.set_attn_processor(first.processor)
    assert first.processor.f3_restriction is first.f3_restriction
    assert second.processor.f3_restriction is second.f3_restriction is not first.f3_restriction


def test_fused_projections_stay_restricted() -> None:
    made = pruned(tiny_cogvideox.transformer(), "cogvideox")
    before = output(made, "cogvideox")
    made.fuse_qkv_projections()
    assert torch.allclose(output(made, "cogvideox"), before, atol=1e-5)
    made.unfuse_qkv_projections()
    assert torch.equal(output(made, "cogvideox"), before)


def test_a_deep_copy_asks_its_own_gates() -> None:
    attention = tiny_wan.transformer().blocks[0].attn1
    clock = Clock()
    clock.observe(Layout(1, 3, 2))
    gate = Gate(clock)
    made = restricted_call(attention, gate, own_frame)
    twin = copy.deepcopy(made)
    hidden = torch.randn(1, 6, 32)
    with torch.no_grad():
        before = twin(hidden, None, None, None)
        assert torch.equal(made(hidden, None, None, None), before)
        gate.on = False
        assert not torch.equal(made(hidden, None, None, None), before)
        assert torch.equal(twin(hidden, None, None, None), before)


def test_blocks_compile_as_often_as_unpruned_ones() -> None:
    graphs = []
    for made in (tiny_wan.transformer(layers=3), pruned(tiny_wan.transformer(layers=3), "wan")):
        torch._dynamo.reset()
        counters.clear()
        before = output(made, "wan")
        made.compile_repeated_blocks(fullgraph=True, backend="eager")
        assert torch.allclose(output(made, "wan"), before, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    torch._dynamo.reset()
    assert graphs[0] == graphs[1] > 0


def test_a_processor_whose_attention_cannot_be_seen_is_refused() -> None:
    class Elsewhere:
        def __call__(self, attn: nn.Module, hidden_states: Tensor) -> Tensor:
            return hidden_states

    attention = tiny_wan.transformer().blocks[0].attn1
    attention.processor = Elsewhere()
    with pytest.raises(PlanError, match=r"Elsewhere calls neither .* set another attention processor$"):
        restricted_call(attention, Gate(Clock()), own_frame)


def test_a_restricted_processor_made_anew_is_restricted_once() -> None:
    made = pruned(tiny_cogvideox.transformer(), "cogvideox")
    before = output(made, "cogvideox")
    kind = type(made.transformer_blocks[0].attn1.processor)
    made.set_attn_processor(kind())
    assert torch.equal(output(made, "cogvideox"), before)


def test_a_processor_with_weights_is_refused_and_nothing_changes() -> None:
    class Weighing(nn.Module):
        pass

    made = pruned(tiny_cogvideox.transformer(), "cogvideox").transformer_blocks[0].attn1
    before = made.processor
    with pytest.raises(PlanError, match="Weighing has weights of its own"):
        made.processor = Weighing()
    assert made.processor is before
