"""The Cosmos adapter under the contract: learned positions as in 1.0, and image tokens beside the text as in 2.5."""

from __future__ import annotations

import pytest
import tiny_cosmos
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler
from f3core_diffusers.cosmos import CosmosAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestCosmos(AdapterContract):
    adapter = CosmosAdapter()

    def build(self) -> nn.Module:
        return tiny_cosmos.transformer()


class TestCosmos25(AdapterContract):
    adapter = CosmosAdapter()

    def build(self) -> nn.Module:
        return tiny_cosmos.transformer(
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=6,
            encoder_hidden_states_channels=8,
            img_context_dim_in=6,
            img_context_num_tokens=5,
            img_context_dim_out=32,
        )


def test_the_noise_level_is_that_of_frames_that_are_not_given() -> None:
    timestep = torch.tensor([0.1, 0.1, 0.7]).view(1, 1, 3, 1, 1)
    assert CosmosAdapter().noise_level((), {"timestep": timestep}) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("scheduler", "first", "last"),
    [
        (EDMEulerScheduler(), 0.25 * 4.38203, 0.25 * -6.2146),  # a quarter of the logarithm of sigma
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), 80 / 81, 0.001996),
        (UniPCMultistepScheduler(use_karras_sigmas=True, use_flow_sigmas=True, sigma_max=200.0, sigma_min=0.01), 1, 0),
    ],
    ids=["1.0", "Predict2", "2.5"],
)
def test_levels_are_what_the_pipelines_tell_the_denoiser(scheduler: SchedulerMixin, first: float, last: float) -> None:
    levels = CosmosAdapter().levels(scheduler, 5, {}, (3, 2, 4))
    assert levels == tuple(sorted(levels, reverse=True))
    assert len(levels) == 5
    assert (levels[0], levels[-1]) == pytest.approx((first, last), abs=0.02)
