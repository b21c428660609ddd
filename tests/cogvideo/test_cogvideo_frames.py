"""Frames as steps: what is pruned in some frames only, cached and at once, watched, counted, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dense_cogvideo
import pytest
import tiny_cogvideo
import torch
from cogvideo_strategies import models
from f3core_cogvideo import CogVideoPipeline
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.generation import Run, Sampling, Text
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import generation_order, noise_level
from f3core_cogvideo.visibility import given as is_given
from hypothesis import given, settings
from hypothesis import strategies as st

import f3core
from f3core import calibration, engine
from f3core.contract import Change, example_plan
from f3core.errors import PlanError, SpecError
from f3core.meta import share_copy
from f3core.plan import PruningPlan, split_steps
from f3core.probe import Probe
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import Pruned, apply_plan_

ADAPTER = CogVideoAdapter()
CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
PROMPTS = ["a red cat runs left", "a dog"]
GATED: tuple[Change, ...] = ((TA, Removal.SELF_ONLY), (SA, Removal.OMIT))


def levels_of(model: CogVideoTransformer) -> list[float]:
    sizes = model.config
    return sorted({noise_level(sizes.stage, f, sizes.frames) for f in range(sizes.frames)}, reverse=True)


def cells(model: CogVideoTransformer, change: Change, chosen: Any, component: str = "transformer") -> PruningPlan:
    """A plan over one step range a level, of the cells with these numbers."""
    levels = levels_of(model)
    options: dict[str, Any] = {"axis": PruningAxis.CELL, "ranges": split_steps(levels, len(levels)), "chosen": chosen}
    return example_plan(ADAPTER.name, ADAPTER.sites(model, component), change, **options)


@given(st.sampled_from((1, 2)), st.integers(1, 33))
def test_levels_fall_in_the_order_of_generation(stage: int, frames: int) -> None:
    order = generation_order(stage, frames)
    levels = [noise_level(stage, frame, frames) for frame in order]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    together = sum(is_given(stage, frame) for frame in order) if stage == 2 else min(2, frames)
    assert len(set(levels)) == frames - together + 1
    assert len(set(levels[:together])) == 1


@settings(deadline=None, max_examples=40)
@given(models(pruned=False), st.sampled_from(GATED), st.data())
@torch.no_grad()
def test_frames_are_pruned_alike_at_once_and_from_a_cache(
    model: CogVideoTransformer, change: Change, data: st.DataObject
) -> None:
    sizes, inputs = model.config, tiny_cogvideo.sequence(model)
    count = len(cells(model, change, ()).units)
    pruned = share_copy(model)
    apply_plan_(pruned, cells(model, change, data.draw(st.sets(st.integers(0, count - 1)))), ADAPTER, "transformer")
    whole = pruned(**inputs)
    assert (whole - dense_cogvideo.logits(pruned, inputs)).abs().max() < 1e-3
    cache = KVCache(sizes)
    places = [sizes.text + frame * sizes.tokens + torch.arange(sizes.tokens) for frame in cache.order]
    order = torch.cat([torch.arange(sizes.text), *places])
    known, made, start = sum(is_given(sizes.stage, frame) for frame in cache.order), [], 0
    end = sizes.text + known * sizes.tokens
    while start < len(order):
        part = order[start:end]
        ids, positions = (inputs[k][:, part] for k in ("input_ids", "position_ids"))
        made.append(pruned(ids, positions, inputs["text_mask"], cache=cache))
        left = sizes.tokens - (end - sizes.text) % sizes.tokens
        start, end = end, min(len(order), end + data.draw(st.integers(1, left)))
    assert (torch.cat(made, dim=1) - whole[:, order]).abs().max() < 1e-3


def masses(model: CogVideoTransformer, run: Any) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
    """Mass from frame to frame and query rows, by site, over all forwards of ``run``."""
    probe = Probe(ADAPTER, model, dict(enumerate(ADAPTER.sites(model, "transformer"))))
    with probe.watching():
        run()
    maps: dict[int, torch.Tensor] = {}
    queries: dict[int, float] = {}
    for (site, _), cell in probe.cells.items():
        maps[site] = maps.get(site, 0) + cell.map
        queries[site] = queries.get(site, 0) + cell.queries
    return maps, queries


@settings(deadline=None, max_examples=25)
@given(models(pruned=False))
@torch.no_grad()
def test_frames_sum_to_the_whole_sequence(model: CogVideoTransformer) -> None:
    """The Aggregate Attention Score of a site does not depend on how the sequence is cut."""
    inputs, sizes = tiny_cogvideo.sequence(model), model.config
    clip = inputs["input_ids"][:, sizes.text :].unflatten(1, (sizes.frames, -1))
    text = Text(inputs["input_ids"][:, : sizes.text], inputs["text_mask"][:, 0, 0])
    run = Run(model, text, text, Sampling(guidance_scale=1.0), 1.0)
    whole, queries = masses(model, lambda: model(run.with_text(clip), run.positions(*range(sizes.frames)), run.mask))
    frames, rows = masses(model, lambda: run.replay(clip))
    assert rows == queries
    for site, expected in whole.items():
        assert torch.allclose(frames[site], expected, rtol=1e-4, atol=1e-3)


def test_a_step_is_watched_alone() -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    options: dict[str, Any] = {"steps": 1, "seed": 0, "call": {}, "target": TA}
    scores = calibration.calibrate(ADAPTER, pipe, PROMPTS, **options)
    plus = [i for i, site in enumerate(scores.header.sites) if site.endswith("plus")]
    assert (scores.mass(TA)[plus] > 0).all()
    assert (scores.total().drift[plus] > 0).all()


# --- saved and loaded ------------------------------------------------------------------------------------------------


def gated(pipe: CogVideoPipeline, chosen: Mapping[str, Any], change: Change = GATED[0]) -> CogVideoPipeline:
    pruned = {}
    for name, model in ADAPTER.denoisers(pipe).items():
        pruned[name] = share_copy(model)
        apply_plan_(pruned[name], cells(model, change, chosen[name], name), ADAPTER, name)
    made: CogVideoPipeline = ADAPTER.with_denoisers(pipe, pruned)
    return made


@pytest.mark.parametrize("change", GATED, ids=str)
def test_all_cells_are_the_layers_and_none_is_the_identity(change: Change) -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    layers = {}
    for name, model in ADAPTER.denoisers(pipe).items():
        layers[name] = share_copy(model)
        apply_plan_(layers[name], example_plan(ADAPTER.name, ADAPTER.sites(model, name), change), ADAPTER, name)
    whole = pipe(PROMPTS, seeds=[1, 2])
    pruned = ADAPTER.with_denoisers(pipe, layers)(PROMPTS, seeds=[1, 2])
    assert not torch.equal(pruned, whole)
    names = ADAPTER.denoisers(pipe)
    assert torch.equal(gated(pipe, dict.fromkeys(names, ()), change)(PROMPTS, seeds=[1, 2]), whole)
    assert torch.equal(gated(pipe, dict.fromkeys(names), change)(PROMPTS, seeds=[1, 2]), pruned)


def test_a_gated_model_is_saved_and_makes_the_same_clips(tmp_path: Path) -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    pruned = gated(pipe, {"transformer": (1, 2), "transformer_2": (0, 3)})
    clips = pruned(PROMPTS, seeds=[1, 2])
    assert not torch.equal(clips, pipe(PROMPTS, seeds=[1, 2]))
    ADAPTER.save(pruned, tmp_path)
    loaded = CogVideoPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.transformer, Pruned)
    assert loaded.transformer.f3_plan == pruned.transformer.f3_plan
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2]), clips)


# --- the whole line --------------------------------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    tiny_cogvideo.pipeline(stage_2=True).save_pretrained(tmp_path / "model")
    path = tmp_path / "spec.yaml"
    path.write_text(
        f"version: 1\nmodel: {{source: {tmp_path / 'model'}}}\n"
        f"calibrate: {{prompts: {tmp_path / 'prompts.txt'}, num_prompts: 2, steps: 1, batch_size: 2}}\n"
        "prune: {axis: cell, ratio: 0.5, step_ranges: 2}\n"
        f"evaluate: {{num_clips: 1, timing_pairs: 0}}\noutput: {tmp_path / 'run'}\n"
    )
    return path


def test_cells_are_predicted_as_they_are_counted_with_and_without_weights(spec: Path) -> None:
    by_step = engine.plan_only(engine.as_file(spec, ["prune.axis=timestep", "prune.step_ranges=null"]))
    steps = len(by_step.step_ranges)
    overrides = [
        "prune.criterion=late",
        f"prune.step_ranges={steps}",
    ]  # fewer are cut by what was scored
    result = f3core.apply(spec, overrides=overrides)
    generation = result.report.generation
    assert result.plan.gated()
    assert generation.predicted.total == generation.counted.total < generation.before.total
    file = engine.as_file(spec, overrides)
    [(plan, macs)] = engine.plan_without_weights(file)
    assert plan == result.plan
    assert macs.counted == generation.counted
    loaded = CogVideoPipeline.from_pretrained(result.folder / "model")
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2]), result.pipeline(PROMPTS, seeds=[1, 2]))


@pytest.mark.parametrize(("prune", "ranges"), [("axis=cell", 2), ("axis=timestep", 2), ("axis=layer", 1)])
def test_removals_are_tried_out_frame_by_frame(spec: Path, prune: str, ranges: int) -> None:
    removal = "drop" if prune == "axis=layer" else "self_only"
    overrides = ["prune.criterion=propagated_drift", f"prune.{prune}", f"prune.removal={removal}"]
    plan = engine.plan_only(engine.as_file(spec, overrides))
    assert len(plan.step_ranges) == ranges
    assert all(unit.score > 0 for unit in plan.units)


def test_what_lasts_is_refused_before_anything_runs(spec: Path) -> None:
    with pytest.raises(SpecError, match=r"attention_plus can lose TA by drop at every step or at none.*axis: layer"):
        f3core.apply(spec, overrides=["prune.removal=drop"])
    model = tiny_cogvideo.transformer()
    plan = cells(model, (TA, Removal.DROP), (0,))
    with pytest.raises(PlanError, match="at every step or at none"):
        apply_plan_(model, plan, ADAPTER, "transformer")
