"""Guidance of pipelines that have a guider: rows a step, branches and what they weigh, as the guider runs them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_hunyuan_video15
import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance, SkipLayerGuidance
from f3core_diffusers.guiders import guided_branches, guided_rows
from f3core_diffusers.hunyuan_video15 import HunyuanVideo15Adapter
from torch import nn

from f3core.errors import ModelError


def steered(guider: Any, conditional: float, unconditional: float) -> float:
    """What a guider makes of two predictions."""
    guider.set_state(step=0, num_inference_steps=1, timestep=None)
    return float(guider.forward(torch.tensor(conditional), torch.tensor(unconditional)).pred)


@pytest.mark.parametrize("original", [False, True])
def test_branches_weigh_what_the_guider_makes_of_them(original: bool) -> None:
    guider = ClassifierFreeGuidance(guidance_scale=3.0, use_original_formulation=original)
    assert guided_branches(guider) == (steered(guider, 1.0, 0.0), steered(guider, 0.0, 1.0))


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, (2, 2, 2, 2)),
        ({"start": 0.5}, (1, 1, 2, 2)),
        ({"stop": 0.25}, (2, 1, 1, 1)),
        ({"guidance_scale": 1.0}, (1, 1, 1, 1)),
        ({"enabled": False}, (1, 1, 1, 1)),
    ],
)
def test_rows_are_those_that_the_guider_runs_at_each_step(options: dict[str, Any], rows: tuple[int, ...]) -> None:
    guider = ClassifierFreeGuidance(**options)
    guider.set_state(step=3, num_inference_steps=4, timestep=None)
    before = guider.num_conditions
    assert guided_rows(guider, 4) == rows
    assert len(guided_branches(guider)) == max(rows)
    assert guider.num_conditions == before, "its own state has moved"


def test_other_guiders_of_one_scale_do_and_those_of_more_are_refused() -> None:
    assert guided_branches(AdaptiveProjectedGuidance(guidance_scale=3.0)) == (3.0, -2.0)
    three = SkipLayerGuidance(skip_layer_guidance_layers=[0])
    assert max(guided_rows(three, 20)) == 3
    with pytest.raises(ModelError, match=r"SkipLayerGuidance weighs 3 conditions .* ClassifierFreeGuidance"):
        guided_branches(three)


def test_a_generation_runs_the_rows_that_are_told_and_names_its_branches() -> None:
    adapter, pipe = HunyuanVideo15Adapter(), tiny_hunyuan_video15.pipeline()
    pipe.guider = ClassifierFreeGuidance(guidance_scale=3.0, stop=0.5)
    seen = []

    def note(denoiser: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows = adapter.unconditional_rows(denoiser, args, kwargs)
        seen.append((adapter.noise_level(args, kwargs), None if rows is None else list(rows)))

    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    with adapter.observable(pipe):
        adapter.generate(pipe, ["a cat"], steps=2, seeds=[1], call=tiny_hunyuan_video15.CALL)
    first, second = adapter.levels(pipe.scheduler, 2, tiny_hunyuan_video15.CALL, (3, 2, 4))
    assert seen == [(first, []), (first, [0]), (second, [])]
    assert adapter.rows({}, pipe.guider, 2) == (2, 1)
