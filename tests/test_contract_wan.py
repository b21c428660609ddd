"""The Wan adapter under the contract, and adapters with one mistake each, which the contract must name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from torch import Tensor, nn

from f3core.attention import frames_in_batch
from f3core.calls import SdpaCall
from f3core.clock import Gate
from f3core.contract import blocks_around
from f3core.explicit import Intercept
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core.testing import AdapterContract

TA = AttentionKind.TEMPORAL


class TestWan(AdapterContract):
    adapter = WanAdapter()

    def build(self) -> nn.Module:
        return tiny_wan.transformer()


class TestWanImageToVideo(AdapterContract):
    adapter = WanAdapter()
    text = 512  # the processor counts 512 text tokens from the end; what comes before is the image

    def build(self) -> nn.Module:
        return tiny_wan.transformer(image_dim=8, added_kv_proj_dim=32)


def test_image_tokens_are_keys_of_their_own_and_all_count_as_text() -> None:
    contract = TestWanImageToVideo()
    denoiser = contract._made()
    inputs = contract._inputs(denoiser)
    sites = [site for site in contract._sites(denoiser) if site.path.endswith("attn2")]
    layout = contract.adapter.layout(denoiser, (), inputs)
    lengths = []

    def note(site: AttentionSite, shape: AttentionCall, call: SdpaCall, run: Callable[[], Tensor]) -> Tensor:
        lengths.append((shape.ordinal, shape.keys))
        assert bool((contract.adapter.segments(site, layout, shape).key == -1).all())
        return run()

    with Intercept(note).at(denoiser, sites):
        contract._run(denoiser, inputs)
    assert lengths == [(0, 257), (1, 512)] * len(sites)


def test_each_kind_of_block_is_found_once_with_what_it_is_called_with() -> None:
    denoiser = tiny_wan.transformer(layers=3)
    contract = TestWan()
    inputs = contract._inputs(denoiser)
    runs: list[object] = []
    calls = blocks_around(denoiser, contract._sites(denoiser), lambda: runs.append(contract._run(denoiser, inputs)))
    (call,) = calls
    site = replace(contract._sites(denoiser)[0], path="attn1")  # nothing but the denoiser itself is around it
    assert call.module is denoiser.blocks[2]
    assert call.args[0].shape == (2, 18, 32)
    assert len(runs) == 1
    assert not any(module._forward_pre_hooks for module in denoiser.modules())
    (whole,) = blocks_around(call.module, [site], lambda: call.module(*call.args, **call.kwargs))
    assert whole.module is call.module


# --- what the contract must catch -----------------------------------------------------------------------------------


def with_sites(**changes: Any) -> type[WanAdapter]:
    """Wan whose attn1 sites are declared otherwise; ``{}`` stands for the block."""

    class Told(WanAdapter):
        def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
            return [told(site) if TA in site.kinds else site for site in super().sites(denoiser, component)]

    def told(site: AttentionSite) -> AttentionSite:
        block = site.path.rpartition(".")[0]
        companions = tuple(path.format(block) for path in changes.get("companions", ()))
        return replace(site, **changes | ({"companions": companions} if companions else {}))

    return Told


class ListsBackwards(WanAdapter):
    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return super().sites(denoiser, component)[::-1]


class SwapsSites(WanAdapter):
    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        a, b, *rest = super().sites(denoiser, component)
        return [b, a, *rest]


class ListsTwice(WanAdapter):
    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return super().sites(denoiser, component) * 2


class NamesABlock(WanAdapter):
    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [replace(site, path=site.path.replace("attn2", "ffn")) for site in super().sites(denoiser, component)]


class TakesTokensForFrames(WanAdapter):
    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        def interleaved(segment: Tensor) -> Tensor:
            return segment.reshape(1, layout.frames, -1).transpose(1, 2).reshape(1, -1)

        right = super().segments(site, layout, call)
        query = interleaved(right.query)
        return Segments(query, query if TA in site.kinds else right.key)


class ForgetsTokens(WanAdapter):
    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        right = super().segments(site, layout, call)
        return Segments(right.query[:, 1:], right.key)


class CountsFramesFromOne(WanAdapter):
    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        right = super().segments(site, layout, call)
        return Segments(right.query + 1, right.key)


class ReadsValues(WanAdapter):
    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        assert float(kwargs.get("timestep", [0])[0]) >= 0
        return super().layout(denoiser, args, kwargs)


class WantsKeywords(WanAdapter):
    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        kwargs["hidden_states"]
        return super().layout(denoiser, args, kwargs)


class CountsSteps(WanAdapter):
    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        return 1000 - super().noise_level(args, kwargs)


class DoesNothing(WanAdapter):
    def restrict(self, module: nn.Module, *_: Any) -> nn.Module:
        return module


class LeavesPositionsUnfolded(WanAdapter):
    def restrict(self, module: nn.Module, site: Any, target: Any, removal: Any, gate: Gate) -> nn.Module:
        return frames_in_batch(module, gate, fold=("hidden_states",))


class PrunesAtOnce(WanAdapter):
    def restrict(self, module: nn.Module, site: Any, target: Any, removal: Any, gate: Gate) -> nn.Module:
        always = Gate(gate.clock)
        return super().restrict(module, site, target, removal, always)


class LooksAtValues(WanAdapter):
    def restrict(self, module: nn.Module, *args: Any) -> nn.Module:
        restricted = super().restrict(module, *args)
        restricted.register_forward_pre_hook(lambda _m, given: print(end="" if given[0].sum().item() else " "))
        return restricted


class LooksAtValuesOfMasked(LooksAtValues):
    """Goes wrong in a removal of which the contract compiles blocks alone."""

    def restrict(self, module: nn.Module, site: Any, target: Any, removal: Any, gate: Gate) -> nn.Module:
        careful = WanAdapter if removal is not Removal.MASK else LooksAtValues
        return careful.restrict(self, module, site, target, removal, gate)


class MixesRows(WanAdapter):
    def restrict(self, module: nn.Module, *args: Any) -> nn.Module:
        restricted = super().restrict(module, *args)
        restricted.register_forward_hook(lambda _m, _args, out: out + out.mean(0))
        return restricted


class RecordsNothing(WanAdapter):
    def record(self, *_: Any) -> None:
        pass


class AddsAParameter(WanAdapter):
    def restrict(self, module: nn.Module, *args: Any) -> nn.Module:
        self.seen = getattr(self, "seen", 0) + 1
        module.register_parameter(f"extra{self.seen}", nn.Parameter(torch.ones(1)))
        return super().restrict(module, *args)


MISTAKES: list[tuple[type[WanAdapter], str, str]] = [
    (with_sites(kinds=(TA,)), "segments", "declares .* its segments give"),
    (with_sites(output="to_out"), "segments", "must be a linear map of 32 channels"),
    (with_sites(output="to_nothing"), "sites", "has no module 'blocks.0.attn1.to_nothing'"),
    (with_sites(companions=("{}.norm9",)), "sites", "has no module 'blocks.0.norm9'"),
    (with_sites(companions=("{}.norm2",)), "removals", "drop of TA is off by .*a companion feeds something else"),
    (with_sites(kinds=(AttentionKind.SELF,)), "sites", "lists removals of TA, which is not in its kinds"),
    (with_sites(removals={TA: ()}), "sites", "removals of TA are empty"),
    (ListsBackwards, "sites", "in the order of `index`"),
    (SwapsSites, "sites", "must list sites as they run"),
    (ListsTwice, "sites", "lists a path twice"),
    (NamesABlock, "segments", "never calls scaled_dot_product_attention"),
    (TakesTokensForFrames, "removals", "self_only of TA is off by .*restrict.. and segments.. disagree"),
    (ForgetsTokens, "segments", "query segments are"),
    (CountsFramesFromOne, "segments", "must be TEXT or frames 0 to 2"),
    (ReadsValues, "layout", "must not read tensor values"),
    (WantsKeywords, "layout", "by position and by keyword"),
    (CountsSteps, "layout", "must be high where noisy"),
    (DoesNothing, "removals", "self_only of TA is off by"),
    (DoesNothing, "shows", "does not show in the output"),
    (LeavesPositionsUnfolded, "removals", "the forward failed"),
    (PrunesAtOnce, "timestep", "should be untouched; ask the gate"),
    (LooksAtValues, "compiles", "self_only of TA and drop of CA: torch.compile"),
    (LooksAtValuesOfMasked, "compiles", "mask of SA: torch.compile"),
    (MixesRows, "rows", "depends on the others"),
    (RecordsNothing, "loaded", "`record` must let the library build"),
    (AddsAParameter, "loaded", "does not take the saved state dict"),
]


@pytest.mark.parametrize(("mistaken", "check", "message"), MISTAKES, ids=lambda v: getattr(v, "__name__", None))
def test_a_mistake_is_named(mistaken: type[WanAdapter], check: str, message: str, tmp_path: Path) -> None:
    contract = type("Mistaken", (TestWan,), {"adapter": mistaken()})()
    (method,) = [getattr(contract, name) for name in dir(contract) if name.startswith("test_") and check in name]
    available = {"dtype": torch.float32, "tmp_path": tmp_path}
    with pytest.raises(AssertionError, match=message):
        method(**{name: available[name] for name in inspect.signature(method).parameters})


def test_weights_of_zero_are_named() -> None:
    class Zero(TestWan):
        def build(self) -> nn.Module:
            model = super().build()
            for block in model.blocks:
                nn.init.zeros_(block.attn1.to_out[0].weight)
                nn.init.zeros_(block.attn1.to_out[0].bias)
            return model

    with pytest.raises(AssertionError, match="weights other than zero"):
        Zero().test_every_listed_removal_works_alone_and_shows()
