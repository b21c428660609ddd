"""What denoisers learn under a scheduler: laws, and agreement with the schedulers themselves."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_svd
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from f3core_diffusers.objectives import Objective, objective
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.errors import ModelError

LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULERS: dict[str, Any] = {
    "flow": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow, by unipc": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0, num_train_timesteps=1000
    ),
    "epsilon": DDIMScheduler(**LINEAR, clip_sample=False),
    "sample": DDPMScheduler(prediction_type="sample", clip_sample=False),
    "v": CogVideoXDDIMScheduler(prediction_type="v_prediction"),
    "v to pure noise": DDIMScheduler(
        **LINEAR, prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False
    ),
    "euler": EulerDiscreteScheduler(**LINEAR),
    "continuous": tiny_svd.pipeline().scheduler,
}
numbers = st.integers(0, 2**31)


def drawn(seed: int, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, noise, and numbers in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, rows, 2, 3, 4, 4, generator=generator)
    return clean, noise, torch.rand(rows, generator=generator)


def sigma(made: Objective, levels: torch.Tensor) -> torch.Tensor:
    signal, share = made.mix(levels)
    return share / signal


@pytest.mark.parametrize("name", SCHEDULERS)
@given(seed=numbers, scale=st.sampled_from([1.0, 0.001]))
@settings(max_examples=15, deadline=None)
def test_the_target_stands_for_the_clean_latents(name: str, seed: int, scale: float) -> None:
    made = objective(SCHEDULERS[name], scale=scale)
    clean, noise, uniform = drawn(seed)
    levels = made.levels(uniform)
    noisy = made.noised(clean, noise, levels)
    found = made.clean(noisy, made.target(clean, noise, levels), levels)
    signal = made.mix(levels)[0].min()
    torch.testing.assert_close(found, clean, atol=float(2e-5 / signal.clamp(min=1e-3)) + 1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SCHEDULERS)
@given(seed=numbers)
@settings(max_examples=15, deadline=None)
def test_levels_rise_with_what_is_drawn_and_with_the_noise(name: str, seed: int) -> None:
    made = objective(SCHEDULERS[name])
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(seed)).sort().values
    levels = made.levels(uniform)
    assert levels.dtype == torch.float32
    assert (levels.diff() >= 0).all()
    assert (made.mix(levels)[1].diff() >= 0).all()
    assert torch.equal(made.levels(uniform[7:8]), levels[7:8])
    assert made.levels(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


@pytest.mark.parametrize("name", SCHEDULERS)
@given(logs=st.lists(st.floats(-4, 4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_levels_at_sigma_are_the_schedulers_own_and_the_nearest(name: str, logs: list[float]) -> None:
    made = objective(SCHEDULERS[name])
    wanted = torch.tensor(logs).exp()
    found = made.at_sigma(wanted)
    if name == "continuous":
        torch.testing.assert_close(sigma(made, found), wanted, rtol=1e-3, atol=0)
        return
    count = SCHEDULERS[name].config.num_train_timesteps
    if name.startswith("flow"):
        shift = 3.0 if name == "flow" else 5.0
        even = torch.arange(1, count + 1).double() / count
        own = (shift * even / (1 + (shift - 1) * even) * count).float()
        torch.testing.assert_close(own[(own - found[:, None]).abs().argmin(1)], found)
    else:
        own = torch.arange(count).float()
    best = (sigma(made, own)[None].double() - wanted[:, None]).abs().min(1).values
    torch.testing.assert_close((sigma(made, found).double() - wanted).abs(), best, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["epsilon", "sample", "v", "v to pure noise"])
def test_diffusion_noises_as_the_scheduler_does(name: str) -> None:
    scheduler = SCHEDULERS[name]
    made = objective(scheduler)
    clean, noise, _ = drawn(0)
    levels = torch.tensor([0.0, 431.0, 999.0])
    torch.testing.assert_close(made.noised(clean, noise, levels), scheduler.add_noise(clean, noise, levels.long()))
    if name == "v":
        velocity = scheduler.get_velocity(clean, noise, levels.long())
        torch.testing.assert_close(made.target(clean, noise, levels), velocity)


def test_flow_noises_as_the_scheduler_does_at_its_own_timesteps() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    made = objective(scheduler)
    clean, noise, _ = drawn(1)
    scheduler.set_timesteps(20)
    levels = scheduler.timesteps[[0, 7, 19]]
    torch.testing.assert_close(made.noised(clean, noise, levels), scheduler.scale_noise(clean, levels, noise))


@pytest.mark.parametrize("name", ["flow", "flow, by unipc"])
def test_flow_levels_are_shifted_as_sampling_shifts_them(name: str) -> None:
    """Those that the scheduler takes in sampling are what evenly spread numbers become."""
    scheduler = SCHEDULERS[name]
    scheduler.set_timesteps(10)
    even = torch.linspace(1, 0.001, 10) if name == "flow" else torch.linspace(1, 0.001, 11)[:-1]
    found = objective(scheduler).levels(even)
    if name == "flow":  # sampling begins and ends at the shifted levels of training, and shifts what is between again
        ends = objective(scheduler).levels(torch.tensor([1.0, 0.001]))
        even = torch.linspace(float(ends[0]), float(ends[1]), 10) / 1000
        found = objective(scheduler).levels(even)
    torch.testing.assert_close(found, scheduler.timesteps.float(), atol=1.01, rtol=0)  # unipc cuts fractions off


def test_a_shift_by_the_clips_size_is_the_pipelines() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=[1.0, 0.5, 0.25], mu=0.8)
    found = objective(scheduler, mu=0.8).levels(torch.tensor([1.0, 0.5, 0.25]))
    torch.testing.assert_close(found, scheduler.timesteps)
    with pytest.raises(ModelError, match="shifts levels by the clip's size"):
        objective(scheduler)


def test_what_the_continuous_scheduler_is_given_is_scaled_as_it_scales() -> None:
    scheduler = tiny_svd.pipeline().scheduler
    scheduler.set_timesteps(5)
    made = objective(scheduler)
    clean, noise, _ = drawn(2)
    for place in (0, 2, 4):
        level, own = scheduler.timesteps[place], scheduler.sigmas[place]
        torch.testing.assert_close(sigma(made, level[None])[0], own, rtol=1e-3, atol=0)
        scheduler._step_index = None
        scaled = scheduler.scale_model_input(clean + own * noise, level)
        torch.testing.assert_close(made.noised(clean, noise, level.expand(3)), scaled, atol=1e-4, rtol=1e-4)
        target = made.target(clean, noise, level.expand(3))
        found = scheduler.step(target, level, clean + own * noise).pred_original_sample
        torch.testing.assert_close(found, clean, atol=5e-3 * float(own.clamp(min=1)), rtol=1e-3)


def test_levels_of_continuous_training_are_log_normal() -> None:
    made = objective(tiny_svd.pipeline().scheduler)
    logs = 4 * made.levels((torch.arange(10_000) + 0.5) / 10_000)
    assert abs(float(logs.mean()) - 0.7) < 0.01
    assert abs(float(logs.std()) - 1.6) < 0.02


@pytest.mark.parametrize(
    "scheduler", [EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler(invert_sigmas=True)], ids=["edm", "inverted"]
)
def test_an_unknown_scheduler_is_refused_by_name(scheduler: Any) -> None:
    with pytest.raises(ModelError, match=type(scheduler).__name__):
        objective(scheduler)
