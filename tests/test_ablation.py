"""What removals do to the output, against running the model by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_wan
import torch
from diffusers import WanPipeline
from f3core_diffusers.wan import WanAdapter

from f3core.ablation import Sensor, ablate
from f3core.errors import ModelError
from f3core.impact import Impact
from f3core.meta import share_copy
from f3core.plan import StepRange
from f3core.probe import replaced_forward
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_

TA = AttentionKind.TEMPORAL
PROMPTS = ["a red cat runs left", "a green dog sleeps"]
SITES = ("transformer.blocks.0.attn1", "transformer.blocks.1.attn1")
REMOVALS = {SITES[0]: Removal.SELF_ONLY, SITES[1]: Removal.DROP}
SCALE = tiny_wan.CALL["guidance_scale"]


class Counting(WanAdapter):
    """Counts generations; can be told of other branches than there are."""

    def __init__(self, branches: tuple[float, ...] | None = None) -> None:
        self.generations, self.told = 0, branches

    def generate(self, pipeline: Any, prompts: Sequence[str], **options: Any) -> torch.Tensor:
        self.generations += 1
        return super().generate(pipeline, prompts, **options)

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        return self.told or super().branches(pipeline, component, call)


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return tiny_wan.pipeline()


@pytest.fixture(scope="module")
def levels(pipe: WanPipeline) -> list[float]:
    pipe.scheduler.set_timesteps(3)
    return [float(t) for t in pipe.scheduler.timesteps]


@pytest.fixture(scope="module")
def ranges(levels: list[float]) -> tuple[StepRange, ...]:
    middle = (levels[0] + levels[1]) / 2
    return StepRange(low=middle), StepRange(high=middle)


def tried(pipe: WanPipeline, levels: list[float], ranges: Sequence[StepRange], **options: Any) -> Impact:
    adapter = options.pop("adapter", None) or WanAdapter()
    call = options.pop("call", tiny_wan.CALL)
    given = {"steps": 3, "seeds": [5, 6], "call": call, "target": TA, "removals": REMOVALS}
    options = {"batch_size": 2, "sensed": 2} | options
    return ablate(adapter, pipe, PROMPTS, **given, ranges=ranges, levels={"transformer": levels}, **options)


@pytest.fixture(scope="module")
def impact(pipe: WanPipeline, levels: list[float], ranges: tuple[StepRange, ...]) -> Impact:
    return tried(pipe, levels, ranges)


def generated(pipe: Any, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return WanAdapter().generate(pipe, PROMPTS, steps=3, seeds=[5, 6], call=tiny_wan.CALL, **options)


def restricted(pipe: WanPipeline, gates: Mapping[str, frozenset[int] | None], ranges: Sequence[StepRange]) -> Any:
    model, adapter = share_copy(pipe.transformer), WanAdapter()
    restrict_(model, adapter, adapter.sites(model, "transformer"), TA, REMOVALS, gates, ranges)
    return model


def test_the_drift_of_the_output_is_that_of_the_guided_prediction(
    pipe: WanPipeline, levels: list[float], impact: Impact
) -> None:
    seen: dict[float, list[Any]] = {}

    def note(forward: Any, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault(float(kwargs["timestep"].max()), []).append(kwargs)
        return forward(*args, **kwargs)

    with replaced_forward(pipe.transformer, note):
        generated(pipe)
    assert impact.sites == SITES
    assert impact.branches == {"transformer": (SCALE, 1 - SCALE)}
    for k, level in enumerate((levels[0], levels[1])):  # the first steps of the ranges
        captioned, uncaptioned = seen[level]
        for s, site in enumerate(SITES):
            model = restricted(pipe, {site: None}, ())
            with torch.no_grad():
                apart = [model(**call)[0] - pipe.transformer(**call)[0] for call in (captioned, uncaptioned)]
            weighted = [SCALE * apart[0].double(), (1 - SCALE) * apart[1].double()]
            expected = (weighted[0] + weighted[1]).square().flatten(1).mean(1).numpy()
            np.testing.assert_allclose(impact.output_drift[k, s], expected, rtol=1e-3)
            for b, one in enumerate(weighted):
                np.testing.assert_allclose(
                    impact.branch_drift[k, s, b], one.square().flatten(1).mean(1).numpy(), rtol=1e-3
                )


def test_damage_is_that_of_pruning_every_site_over_a_range(
    pipe: WanPipeline, ranges: tuple[StepRange, ...], impact: Impact
) -> None:
    plain = generated(pipe).double()
    for k in range(len(ranges)):
        model = restricted(pipe, dict.fromkeys(SITES, frozenset({k})), ranges)
        made = generated(WanAdapter().with_denoisers(pipe, {"transformer": model})).double()
        expected = (made - plain).square().flatten(1).mean(1).numpy()
        assert (expected > 0).all()
        np.testing.assert_allclose(impact.damage[k], expected, rtol=1e-6)


def test_one_range_is_every_step(pipe: WanPipeline, levels: list[float]) -> None:
    found = tried(pipe, levels, (StepRange(),))
    model = restricted(pipe, dict.fromkeys(SITES), ())
    made = generated(WanAdapter().with_denoisers(pipe, {"transformer": model})).double()
    expected = (made - generated(pipe).double()).square().flatten(1).mean(1).numpy()
    np.testing.assert_allclose(found.damage[0], expected, rtol=1e-6)


def test_without_guidance_there_is_one_branch(pipe: WanPipeline, levels: list[float]) -> None:
    found = tried(pipe, levels, (StepRange(),), call=tiny_wan.CALL | {"guidance_scale": 1.0})
    assert found.branches == {"transformer": (1.0,)}
    np.testing.assert_array_equal(found.output_drift, found.branch_drift[:, :, 0])


def test_finished_generations_are_kept(
    pipe: WanPipeline, levels: list[float], ranges: tuple[StepRange, ...], impact: Impact, tmp_path: Path
) -> None:
    first, second = Counting(), Counting()
    tried(pipe, levels, ranges, adapter=first, folder=tmp_path)
    assert first.generations == 4  # one to sense, one to compare with, one a range
    (tmp_path / "range-1.safetensors").unlink()
    again = tried(pipe, levels, ranges, adapter=second, folder=tmp_path)
    assert second.generations == 1
    for name in Impact.FIELDS:
        np.testing.assert_array_equal(getattr(again, name), getattr(impact, name))


def test_known_clips_are_not_made_again_and_few_prompts_are_sensed(
    pipe: WanPipeline, levels: list[float], ranges: tuple[StepRange, ...], impact: Impact
) -> None:
    adapter = Counting()
    found = tried(pipe, levels, ranges, adapter=adapter, clips=generated(pipe), sensed=1)
    assert adapter.generations == 3
    np.testing.assert_array_equal(found.damage, impact.damage)
    assert found.output_drift.shape == (2, 2, 1)
    np.testing.assert_allclose(found.output_drift, impact.output_drift[:, :, :1], rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_nothing(
    pipe: WanPipeline, levels: list[float], ranges: tuple[StepRange, ...], impact: Impact, batch_size: int
) -> None:
    found = tried(pipe, levels, ranges, batch_size=batch_size)
    for name in Impact.FIELDS:
        np.testing.assert_allclose(getattr(found, name), getattr(impact, name), rtol=1e-3)


def test_a_second_denoiser_is_sensed_where_it_begins() -> None:
    """Its first step lies inside a range that the first denoiser began."""
    two = tiny_wan.pipeline()
    second = tiny_wan.transformer()
    torch.nn.init.normal_(second.proj_out.weight, std=0.1)
    pipe = WanPipeline(**{**two.components, "transformer_2": second}, boundary_ratio=0.8)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.set_timesteps(3)
    steps = [float(t) for t in pipe.scheduler.timesteps]
    runs = {"transformer": [t for t in steps if t >= 800], "transformer_2": [t for t in steps if t < 800]}
    assert all(runs.values())
    removals = {site.replace("transformer.", f"{name}."): Removal.SELF_ONLY for name in runs for site in SITES}
    found = ablate(
        WanAdapter(),
        pipe,
        PROMPTS[:1],
        steps=3,
        seeds=[5],
        call=tiny_wan.CALL | {"guidance_scale_2": 1.0},  # the pipeline is guided all the same
        target=TA,
        removals=removals,
        ranges=(StepRange(),),
        levels=runs,
        batch_size=1,
        sensed=1,
    )
    assert found.branches == {"transformer": (SCALE, 1 - SCALE), "transformer_2": (1.0, 0.0)}
    assert (found.output_drift > 0).all()
    with pytest.raises(ModelError, match="did not run at noise level"):
        tried(pipe, [*steps, 123.0], (StepRange(low=200.0), StepRange(high=200.0)))


def test_other_branches_than_the_adapter_names_are_refused(pipe: WanPipeline, levels: list[float]) -> None:
    with pytest.raises(ModelError, match="2 guidance branches ran at a step, but adapter 'wan' names 3"):
        tried(pipe, levels, (StepRange(),), adapter=Counting((1.0, 1.0, -1.0)))


def test_clips_made_chunk_by_chunk_add_up() -> None:
    """Each chunk runs the same noise levels again."""
    denoiser, adapter = tiny_wan.transformer(), WanAdapter()
    sites = [site for site in adapter.sites(denoiser, "transformer") if TA in site.kinds]
    removals = {site.fqn: Removal.SELF_ONLY for site in sites}
    inputs = adapter.example_inputs(denoiser, frames=3, height=4, width=6, text=7)

    def moved(*levels: float) -> np.ndarray:
        sensor = Sensor(adapter, denoiser, sites, TA, removals, (1.0,), {900.0: 0, 500.0: 1})
        with torch.no_grad():
            for level in levels:
                sensor.around(denoiser.forward, **{**inputs, "timestep": torch.tensor([level])})
        return sensor.drifts(2)[0]

    once = moved(900.0, 500.0, 100.0)
    assert (once > 0).all()
    assert np.allclose(moved(900.0, 500.0, 100.0, 900.0, 500.0, 100.0), 2 * once)
