"""Accelerators of diffusers pipelines, on the trained Wan mini, on a pruned one, and where they must refuse."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from f3core_diffusers.accelerators_base import hooks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from f3core.accelerator import Accelerator
from f3core.adapter import Adapter
from f3core.contract import example_plan
from f3core.errors import ModelError, PluginError
from f3core.meta import share_copy
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_

TA = AttentionKind.TEMPORAL
STEPS = 4
ALL = [-1, 1001]
ROWS: dict[str, dict[str, Any]] = {
    "pab": {"spatial_attention_block_skip_range": 2, "spatial_attention_timestep_skip_range": ALL},
    "first_block_cache": {"threshold": 10.0},
    "faster_cache": {"is_guidance_distilled": True, "spatial_attention_timestep_skip_range": ALL},
    "mag_cache": {"mag_ratios": [1.0] * STEPS},
    "taylorseer": {"cache_interval": 2, "disable_cache_before_step": 1, "taylor_factors_dtype": "float32"},
    "sea_cache": {"threshold": 10.0},
    "layer_skip": {"indices": [2, 5]},
    "cache_dit": {"Fn_compute_blocks": 1, "max_warmup_steps": 1, "residual_diff_threshold": 10.0},
}
"""Options under which four steps are enough for each to do something."""
IDLE: dict[str, dict[str, Any]] = {
    "pab": {**ROWS["pab"], "spatial_attention_block_skip_range": 1},
    "first_block_cache": {"threshold": -1.0},
    "faster_cache": {**ROWS["faster_cache"], "spatial_attention_timestep_skip_range": [0, 0]},
    "mag_cache": {**ROWS["mag_cache"], "threshold": -1.0},
    "taylorseer": {**ROWS["taylorseer"], "cache_interval": 1},
    "sea_cache": {"threshold": 0.0},
    "cache_dit": {**ROWS["cache_dit"], "residual_diff_threshold": 0.0},
}
"""Options under which each may reuse nothing."""


@dataclass
class Made:
    """A pipeline with what generates on it."""

    adapter: Adapter
    pipeline: Any
    call: dict[str, Any]

    @property
    def denoisers(self) -> dict[str, nn.Module]:
        return self.adapter.denoisers(self.pipeline)

    def clip(self, steps: int = STEPS, **more: Any) -> Tensor:
        call = {**self.call, **more}
        return self.adapter.generate(self.pipeline, ["a red three moving left"], steps=steps, seeds=[3], call=call)

    def enabled(
        self, name: str, options: dict[str, Any], steps: int = STEPS
    ) -> contextlib.AbstractContextManager[None]:
        if name == "cache_dit":
            pytest.importorskip("cache_dit")
        accelerator: Accelerator = installed().make("accelerator", name, options)
        return accelerator.enabled(self.pipeline, self.denoisers, steps=steps)

    def pruned(self, removal: Removal, layers: tuple[int, ...] | None) -> Made:
        """The same with TA gone in some layers; None: in all."""
        ((name, denoiser),) = self.denoisers.items()
        copy = share_copy(denoiser)
        plan = example_plan(self.adapter.name, self.adapter.sites(copy, name), (TA, removal), chosen=layers)
        apply_plan_(copy, plan, self.adapter, name)
        return Made(self.adapter, self.adapter.with_denoisers(self.pipeline, {name: copy}), self.call)

    def state(self) -> list[Any]:
        """Everything that hangs on the modules of the denoisers and on the pipeline's class, by identity."""
        modules = [module for denoiser in self.denoisers.values() for module in denoiser.modules()]
        hung = [
            (id(module), [*vars(module)], id(vars(module).get("forward")), [*module._modules]) for module in modules
        ]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
        managed = [name for name in vars(self.pipeline) if name.startswith("_context")]
        return [hung, hooks, type(self.pipeline), id(type(self.pipeline).__call__), managed]


def tiny(family: str) -> Made:
    module = importlib.import_module(family)
    pipeline = module.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    denoiser = next(getattr(pipeline, name) for name in ("transformer", "unet") if hasattr(pipeline, name))
    known = installed()
    call = dict(module.CALL)
    if getattr(module, "IMAGE", False):
        call["image"] = Image.new("RGB", (call["width"], call["height"]), "red")
    return Made(known.make("adapter", known.match_adapter([type(denoiser).__name__]).name), pipeline, call)


@pytest.fixture(scope="module")
def mini() -> Made:
    known = installed()
    adapter = known.make("adapter", "wan")
    pipeline = adapter.load(known.entry("source", "zoo:digits-wan").folder, dtype=None, device=torch.device("cpu"))
    call = {"num_frames": 5, "height": 16, "width": 16, "guidance_scale": 3.0, "max_sequence_length": 16}
    return Made(adapter, pipeline, call)


@pytest.fixture(scope="module", params=["plain", "pruned"])
def wan(request: pytest.FixtureRequest, mini: Made) -> Made:
    return mini if request.param == "plain" else mini.pruned(Removal.SELF_ONLY, (0, 2, 4, 6))


@contextlib.contextmanager
def counted(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> Iterator[list[int]]:
    """Rows of each forward of the modules of a kind."""
    rows: list[int] = []
    found = [child for child in module.modules() if isinstance(child, kind)]
    handles = [child.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))) for child in found]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ROWS)
def test_it_computes_less_makes_the_same_clip_each_time_and_leaves_nothing(name: str, wan: Made) -> None:
    with counted(wan.pipeline.transformer) as all_of_it:
        before = wan.clip()
    state = wan.state()
    with wan.enabled(name, ROWS[name]):
        with counted(wan.pipeline.transformer) as some:
            first = wan.clip()
        assert torch.equal(wan.clip(), first), "the second generation met states of the first"
    assert torch.isfinite(first).all()
    assert not torch.equal(first, before)
    assert 0 < len(some) < len(all_of_it)
    assert wan.state() == state
    assert torch.equal(wan.clip(), before)


@pytest.mark.parametrize("name", IDLE)
def test_where_it_may_reuse_nothing_the_clip_is_the_plain_one(name: str) -> None:
    made = tiny("tiny_wan_t2v").pruned(Removal.SELF_ONLY, (0,))
    before = made.clip()
    with made.enabled(name, IDLE[name]):
        assert torch.equal(made.clip(), before)


def test_cache_dit_leaves_standard_output_to_results() -> None:
    pytest.importorskip("cache_dit")
    made, said = tiny("tiny_wan_t2v"), io.StringIO()
    # beside those that pytest adds to it
    (handler,) = [h for h in logging.getLogger("CACHE_DIT").handlers if type(h) is logging.StreamHandler]
    before = handler.setStream(said)
    try:
        with made.enabled("cache_dit", IDLE["cache_dit"]):
            assert handler.level == logging.WARNING
        assert said.getvalue() == ""
        assert handler.stream is said
    finally:
        handler.setStream(before)


def test_a_pruned_model_is_to_cache_dit_what_it_was() -> None:
    made = tiny("tiny_wan_vace").pruned(Removal.SELF_ONLY, (0,))  # told apart by name, for what it adds between blocks
    before = made.clip()
    with made.enabled("cache_dit", IDLE["cache_dit"]):
        assert torch.equal(made.clip(), before)
    with made.enabled("cache_dit", ROWS["cache_dit"]):
        assert not torch.equal(made.clip(), before)


@pytest.mark.parametrize("name", IDLE)
@pytest.mark.parametrize("family", ["tiny_wan_t2v", "tiny_chronoedit"])
def test_one_step_is_the_plain_one_so_branches_share_nothing(name: str, family: str) -> None:
    if family == "tiny_chronoedit" and name not in ("pab", "faster_cache", "taylorseer", "cache_dit"):
        pytest.skip("diffusers refuses it")
    made = tiny(family)  # ChronoEdit's pipeline runs the branches one after the other too, and does not name them
    before = made.clip(1)
    with made.enabled(name, ROWS[name], 1):
        assert torch.equal(made.clip(1), before)


@pytest.mark.parametrize("name", ["pab", "first_block_cache", "taylorseer"])
def test_a_generation_after_one_that_broke_off_is_as_the_first(name: str, mini: Made) -> None:
    class BrokeOff(Exception):
        pass

    def leave(*_: Any) -> dict[str, Any]:
        raise BrokeOff

    with mini.enabled(name, ROWS[name]):
        first = mini.clip()
        with pytest.raises(BrokeOff):
            mini.clip(callback_on_step_end=leave)
        assert torch.equal(mini.clip(), first)


@pytest.mark.parametrize("name", ["pab", "layer_skip", "cache_dit"])
def test_other_pipelines_of_the_class_are_left_alone(name: str, mini: Made) -> None:
    pruned, before = mini.pruned(Removal.SELF_ONLY, (1,)), mini.clip(2)
    with pruned.enabled(name, ROWS[name], 2):
        pruned.clip(2)
        assert torch.equal(mini.clip(2), before)


@settings(max_examples=6, deadline=None)
@given(steps=st.integers(1, 6), every=st.integers(1, 4))
def test_pab_computes_attention_every_so_many_steps_in_each_branch(steps: int, every: int) -> None:
    made = tiny("tiny_wan_t2v")
    attention = made.pipeline.transformer.blocks[1].attn1.to_q
    options = {"spatial_attention_block_skip_range": every, "spatial_attention_timestep_skip_range": ALL}
    with made.enabled("pab", options, steps), counted(attention) as calls:
        made.clip(steps)
    assert len(calls) == 2 * math.ceil(steps / every)


def test_states_begin_anew_where_the_timestep_rises_or_the_latents_change_as_with_the_next_chunk() -> None:
    made = tiny("tiny_wan_t2v")
    denoiser = made.pipeline.transformer
    ran = []
    with made.enabled("pab", ROWS["pab"]), counted(denoiser.blocks[0].attn1.to_q) as calls, torch.no_grad():
        for timestep, frames in ((900, 3), (800, 3), (900, 3), (800, 3), (700, 3), (600, 3), (500, 2), (400, 2)):
            made.pipeline._current_timestep = torch.tensor(timestep)
            denoiser(**made.adapter.example_inputs(denoiser, frames=frames, height=4, width=8, text=8))
            ran.append(len(calls))
    assert ran == [1, 1, 2, 2, 3, 3, 4, 4]


def test_faster_cache_runs_fewer_unconditional_rows_of_a_batch() -> None:
    made = tiny("tiny_cogvideox")
    denoiser = made.pipeline.transformer
    made.clip()
    options = {"unconditional_batch_skip_range": 2, "unconditional_batch_timestep_skip_range": ALL}
    before, state = made.clip(), made.state()
    with made.enabled("faster_cache", options), counted(denoiser.proj_out) as rows:
        assert not torch.equal(made.clip(), before)
    assert rows == [2, 1, 2, 1]
    assert made.state() == state
    assert torch.equal(made.clip(), before)


def test_faster_cache_says_so_where_there_is_no_guidance_to_extrapolate() -> None:
    made = tiny("tiny_cogvideox")
    with made.enabled("faster_cache", {}), pytest.raises(ModelError, match="is_guidance_distilled: true"):
        made.clip(guidance_scale=1.0)


@pytest.mark.parametrize("name", ["pab", "first_block_cache", "taylorseer", "cache_dit", "layer_skip"])
def test_a_joint_model_is_accelerated_too(name: str) -> None:
    made = tiny("tiny_cogvideox").pruned(Removal.SELF_ONLY, (0,))
    before, state = made.clip(), made.state()
    with made.enabled(name, {**ROWS[name], **({"indices": [1]} if name == "layer_skip" else {})}):
        assert not torch.equal(made.clip(), before)
    assert made.state() == state
    assert torch.equal(made.clip(), before)


def test_layer_skip_skips_blocks_of_a_u_net_that_are_named() -> None:
    made = tiny("tiny_animatediff")
    before = made.clip(2)
    with made.enabled("layer_skip", {"indices": [0], "fqn": "mid_block.attentions.0.transformer_blocks"}):
        assert not torch.equal(made.clip(2), before)
    assert torch.equal(made.clip(2), before)


def test_caches_let_modules_alone_that_were_dropped(mini: Made) -> None:
    made = mini.pruned(Removal.DROP, (0,))
    with made.enabled("taylorseer", ROWS["taylorseer"]):
        hooked = [dict(hooks_of(block.attn1)) for block in made.pipeline.transformer.blocks]
    assert not hooked[0]
    assert all(hooked[1:])


REFUSED = [
    *(("tiny_animatediff", name, ROWS[name], "CacheMixin") for name in IDLE if name != "cache_dit"),
    ("tiny_animatediff", "cache_dit", {}, "supported_pipelines"),
    ("tiny_animatediff", "layer_skip", {"indices": [0]}, "give fqn, such as .*transformer_blocks"),
    ("tiny_cogvideox", "sea_cache", {}, "does not work on CogVideoXTransformer3DModel"),
    ("tiny_cogvideox", "taylorseer", {"cache_identifiers": ["nothing"]}, "none of its modules"),
    ("tiny_cogvideox", "layer_skip", {"indices": [0], "skip_ff": False}, "not registered"),
    ("tiny_cogvideox", "layer_skip", {"indices": [2]}, "no block 2 in transformer_blocks, which holds 2"),
    ("tiny_cogvideox", "layer_skip", {"indices": [0], "fqn": "layers"}, "named 'layers'; give fqn, such as"),
    ("tiny_wan_t2v", "faster_cache", {}, "branches of guidance apart"),
    ("tiny_sana_video", "pab", {}, "CacheMixin"),
    ("tiny_latte", "first_block_cache", {}, "take turns"),
    ("tiny_wan_vace", "mag_cache", ROWS["mag_cache"], "added twice"),
    ("tiny_kandinsky5", "pab", ROWS["pab"], "tells neither its current timestep"),
    ("tiny_ltx", "faster_cache", {}, "latents are packed"),
]


@pytest.mark.parametrize(("family", "name", "options", "said"), REFUSED)
def test_what_a_model_does_not_bear_is_refused_and_leaves_nothing(
    family: str, name: str, options: dict[str, Any], said: str
) -> None:
    made = tiny(family)
    state = made.state()
    with pytest.raises(ModelError, match=said), made.enabled(name, options):
        pytest.fail("it was entered")
    assert made.state() == state


def test_a_model_with_one_block_a_cache_that_is_on_and_attention_that_is_gone_are_refused(mini: Made) -> None:
    made = tiny("tiny_wan_t2v")
    del made.pipeline.transformer.blocks[1:]
    state = made.state()
    with pytest.raises(ModelError, match="their number"), made.enabled("first_block_cache", {}):
        pytest.fail("it was entered")
    assert made.state() == state
    gone = mini.pruned(Removal.DROP, None)
    with pytest.raises(ModelError, match="pruned away"), gone.enabled("pab", {}):
        pytest.fail("it was entered")
    with gone.enabled("first_block_cache", {}):
        for name in ("first_block_cache", "cache_dit"):
            with pytest.raises(ModelError, match="cache on already"), gone.enabled(name, {}):
                pytest.fail("it was entered")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pab", {"range": 2}, "'range'.*spatial_attention_block_skip_range"),
        ("pab", {"current_timestep_callback": None}, "has no option"),
        ("first_block_cache", {"threshold": "much"}, "threshold of accelerator 'first_block_cache'"),
        ("faster_cache", {"attention_weight": "much"}, "is no number: 'much'"),
        ("mag_cache", {}, "needs mag_ratios"),
        ("mag_cache", {"threshold": 0.1}, "needs mag_ratios"),
        ("taylorseer", {"taylor_factors_dtype": "float33"}, "taylor_factors_dtype"),
        ("layer_skip", {}, "at least one block"),
        ("layer_skip", {"indices": []}, "at least one block"),
        ("layer_skip", {"indices": [0], "dropout": 0.5}, "has no option 'dropout'"),
        ("cache_dit", {"Fn": 1}, "'Fn'.*Fn_compute_blocks"),
        ("cache_dit", {"taylorseer_order": "two"}, "taylorseer_order of accelerator 'cache_dit'"),
    ],
)
def test_options_are_those_of_the_library(name: str, options: dict[str, Any], said: str) -> None:
    if name == "cache_dit":
        pytest.importorskip("cache_dit")
    with pytest.raises(PluginError, match=said):
        installed().make("accelerator", name, options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("pab", {**ROWS["pab"], "spatial_attention_block_skip_range": 0}), ("taylorseer", {"cache_interval": 0})],
)
def test_options_that_fail_in_a_generation_are_named(name: str, options: dict[str, Any]) -> None:
    made = tiny("tiny_wan_t2v")
    with made.enabled(name, options), pytest.raises(ModelError, match=f"'{name}' on: ZeroDivisionError"):
        made.clip()


def test_without_cache_dit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    with pytest.raises(ModelError, match="pip install cache-dit"):
        installed().make("accelerator", "cache_dit")
