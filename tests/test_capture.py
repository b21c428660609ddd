"""What forwards a generation is made of: captured inputs, and rows by kind and level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny_wan
import torch
from diffusers import WanPipeline
from f3core_diffusers.wan import WanAdapter
from torch import nn

from f3core.capture import capture_inputs, watch_forwards

PROMPTS = ["a red cat runs left"]


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return tiny_wan.pipeline()


def watched_calls(denoiser: nn.Module) -> tuple[list[dict[str, Any]], Any]:
    calls: list[dict[str, Any]] = []
    handle = denoiser.register_forward_pre_hook(lambda _m, _args, kwargs: calls.append(kwargs), with_kwargs=True)
    return calls, handle


def test_captured_inputs_are_those_of_the_first_step_and_run_again(pipe: WanPipeline) -> None:
    calls, handle = watched_calls(pipe.transformer)
    WanAdapter().generate(pipe, PROMPTS[:1], steps=2, seeds=[0], call=tiny_wan.CALL)
    assert len(calls) == 4
    first = calls[0]
    calls.clear()
    seen = capture_inputs(WanAdapter(), pipe, PROMPTS[0], tiny_wan.CALL)
    handle.remove()
    assert len(calls) == 1  # cut short; the forward itself did not even run
    assert list(seen) == ["transformer"]
    inputs = seen["transformer"]["forward"]
    assert torch.equal(inputs["hidden_states"], first["hidden_states"])
    assert torch.equal(inputs["encoder_hidden_states"], first["encoder_hidden_states"])
    assert torch.equal(inputs["timestep"], first["timestep"])
    assert WanAdapter().layout(pipe.transformer, (), inputs).batch == 1
    assert pipe.transformer(**inputs)[0].shape == (1, 4, 3, 8, 16)
    assert "forward" not in vars(pipe.transformer)


def test_one_row_is_captured_of_a_batch_and_positions_get_names(pipe: WanPipeline) -> None:
    class TwoAtOnce(WanAdapter):
        def generate(self, pipeline: Any, prompts: Sequence[str], **options: Any) -> torch.Tensor:
            denoiser = pipeline.transformer
            inputs = self.example_inputs(denoiser, frames=3, height=4, width=6, batch=2, text=5)
            positional = [inputs.pop(name) for name in ("hidden_states", "timestep", "encoder_hidden_states")]
            denoiser(*positional, **inputs)
            raise AssertionError("not cut short")

    inputs = capture_inputs(TwoAtOnce(), pipe, "", {})["transformer"]["forward"]
    assert list(inputs) == ["hidden_states", "timestep", "encoder_hidden_states", "return_dict"]
    assert inputs["hidden_states"].shape == (1, 4, 3, 4, 6)
    assert inputs["timestep"].shape == (1,)
    assert inputs["return_dict"] is False


def test_forwards_are_counted_by_kind_and_level(pipe: WanPipeline) -> None:
    adapter = WanAdapter()
    with watch_forwards(adapter, adapter.denoisers(pipe)) as seen:
        adapter.generate(pipe, PROMPTS, steps=3, seeds=[0], call=tiny_wan.CALL)
    levels = list(map(float, pipe.scheduler.timesteps))
    assert seen["transformer"].levels == set(levels)
    assert seen["transformer"].rows(levels) == {"forward": (2, 2, 2)}  # guidance runs two rows a step
    assert "forward" not in vars(pipe.transformer)
