"""What the adapter says of Tune-A-Video beyond the contract: its order, its segments, what stays of SC-Attn."""

from __future__ import annotations

import pytest
import tiny_tuneavideo as tiny
import torch
from f3core_tuneavideo import TuneAVideoUNet
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from f3core_tuneavideo.attention import SparseCausalAttention, TemporalAttention
from f3core_tuneavideo.restrictions import not_own_frame, own_frame

from f3core.clock import Clock, Gate
from f3core.contract import example_plan
from f3core.errors import ProbeError
from f3core.flops import count
from f3core.meta import on_meta
from f3core.plan import StepRange
from f3core.probe import Probe
from f3core.sites import TEXT, AttentionCall, AttentionKind, Layout, PruningAxis, Removal
from f3core.surgery import apply_plan_

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
ADAPTER = TuneAVideoAdapter()
LAYOUT = Layout(batch=2, frames=3, tokens=4, text=5)
RANGES = (StepRange(low=500.0), StepRange(high=500.0))
SPATIAL, TEXTUAL, TEMPORAL = ADAPTER.sites(tiny.unet(), "unet")[:3]


def test_sites_come_block_by_block_as_they_run() -> None:
    with torch.device("meta"):
        sites = ADAPTER.sites(TuneAVideoUNet(), "unet")
    assert len(sites) == 3 * 16
    assert [site.path.rpartition(".")[2] for site in sites[:3]] == ["attn1", "attn2", "attn_temp"]
    firsts = list(dict.fromkeys(site.path.partition("_blocks")[0].partition("_block")[0] for site in sites))
    assert firsts == ["down", "mid", "up"]
    assert [site.index for site in sites[::3]] == list(range(16))


def test_segments_are_read_from_the_call() -> None:
    found = ADAPTER.segments(SPATIAL, LAYOUT, AttentionCall(0, 6, 2, 2, 4))  # two tokens a frame: a deeper block
    assert found.query.tolist() == [[0, 0], [1, 1], [2, 2]] * 2
    assert found.key.tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]] * 2
    found = ADAPTER.segments(SPATIAL, LAYOUT, AttentionCall(0, 6, 2, 4, 4))
    assert torch.equal(found.key, found.query)  # pruned
    found = ADAPTER.segments(TEXTUAL, LAYOUT, AttentionCall(0, 6, 2, 4, 5))
    assert found.query[:, 0].tolist() == [0, 1, 2] * 2
    assert found.key.tolist() == [[TEXT] * 5]
    found = ADAPTER.segments(TEMPORAL, LAYOUT, AttentionCall(0, 8, 2, 3, 3))
    assert found.query.tolist() == found.key.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("site", [SPATIAL, TEXTUAL, TEMPORAL], ids=lambda site: site.path[-9:])
def test_calls_of_another_shape_are_refused(site: object) -> None:
    with pytest.raises(ProbeError, match="do not fit 2 clips of 3 frames"):
        ADAPTER.segments(site, LAYOUT, AttentionCall(0, 5, 2, 4, 4))  # type: ignore[arg-type]


TOKENS = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_sc_attention_without_time_is_attention_inside_each_frame() -> None:
    """Against one dense map over all tokens of a clip, other frames at -inf."""
    torch.manual_seed(0)
    module = SparseCausalAttention(12, 2)
    clips = TOKENS.unflatten(0, (2, 3)).flatten(1, 2)
    frame = torch.arange(3).repeat_interleave(5)
    dense = module._attend(module.to_q(clips), module.to_k(clips), module.to_v(clips), frame[:, None] == frame)
    found = own_frame(module, Gate(Clock()))(TOKENS, 3)
    assert (found.flatten(0, 1) - dense.flatten(0, 1)).abs().max() <= 1e-5


@torch.no_grad()
def test_the_first_frame_of_sc_attention_sees_nothing_but_itself() -> None:
    torch.manual_seed(0)
    module = SparseCausalAttention(12, 2)
    before = module(TOKENS, 3)
    masked = not_own_frame(module, Gate(Clock()))
    after = masked(TOKENS, 3)
    assert torch.equal(after[::3], module.to_out[0].bias.expand(2, 5, 12))
    assert torch.equal(after[1::3], before[1::3])
    alone = masked(TOKENS[:1], 1)
    assert (alone - before[:1]).abs().max() <= 1e-6  # a clip of one frame is left as it is


@torch.no_grad()
def test_a_lone_frame_keeps_itself_in_time() -> None:
    torch.manual_seed(0)
    module = TemporalAttention(12, 2)
    before = module(TOKENS[:1], 1)
    assert torch.equal(not_own_frame(module, Gate(Clock()))(TOKENS[:1], 1), before)


@pytest.mark.parametrize("removal", [Removal.SELF_ONLY, Removal.DROP])
def test_what_a_step_prunes_is_not_computed(removal: Removal) -> None:
    """In the pruned range attn1 costs half its maps, and attn_temp one map (self_only) or nothing (drop)."""
    unet = tiny.unet()
    inputs = on_meta(ADAPTER.example_inputs(unet, frames=3, height=4, width=6))
    sites = ADAPTER.sites(unet, "unet")
    whole = count(unet.to("meta"), inputs, ADAPTER, "unet")
    change = {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (0,)}
    plan = example_plan(ADAPTER.name, sites, (TA, Removal.SELF_ONLY), **change)
    removals = {site.fqn: removal if removal in site.removals.get(TA, ()) else Removal.SELF_ONLY for site in sites}
    plan = plan.model_copy(update={"removals": removals})
    apply_plan_(unet, plan, ADAPTER, "unet")
    at = []
    for level in (1, 0):
        with unet.f3_clock.hold(level):
            at.append(count(unet, inputs))
    assert at[0].modules == whole.modules
    for site in sites:
        saved = whole.under(site.path) - at[1].under(site.path)
        maps = sum(whole.sites[site.fqn].values())
        if site.path.endswith("attn1"):
            assert saved == maps // 2
        elif site.path.endswith("attn_temp"):
            width = unet.get_submodule(site.path).to_v.in_features
            tokens = (whole.under(site.path) - maps) // (4 * width**2)
            assert at[1].under(site.path) == (tokens * width**2 if removal is Removal.SELF_ONLY else 0)
        else:
            assert saved == 0


@torch.no_grad()
def test_a_gated_model_compiles_in_place() -> None:
    unet = tiny.unet()
    inputs = ADAPTER.example_inputs(unet, frames=3, height=4, width=6, text=6)
    change = {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (1,)}
    plan = example_plan(ADAPTER.name, ADAPTER.sites(unet, "unet"), (TA, Removal.SELF_ONLY), **change)
    apply_plan_(unet, plan, ADAPTER, "unet")
    at = [{**inputs, "timestep": torch.full((1,), level)} for level in (900.0, 100.0)]
    eager = [unet(**given) for given in at]
    unet.compile(fullgraph=True, backend="eager")
    for given, expected in zip(at, eager, strict=True):
        assert (unet(**given) - expected).abs().max() <= 1e-5


def test_the_probe_sees_prompts_apart() -> None:
    """Two prompts under guidance: each one's mass is what it has alone."""
    unet = tiny.unet()
    inputs = ADAPTER.example_inputs(unet, frames=3, height=4, width=6, batch=4, text=6)
    sites = dict(enumerate(ADAPTER.sites(unet, "unet")))
    together = Probe(ADAPTER, unet, sites, prompts=2)
    with torch.no_grad(), together.watching():
        unet(**inputs)
    for prompt in range(2):
        alone = Probe(ADAPTER, unet, sites)
        rows = {name: tensor[prompt::2] for name, tensor in inputs.items()}
        with torch.no_grad(), alone.watching():
            unet(**rows)
        for index in sites:
            one, both = alone.cells[index, 0], together.cells[index, 0]
            assert (both.maps[prompt] - one.maps[0]).abs().max() <= 1e-5 * one.queries
            assert both.queries == one.queries
