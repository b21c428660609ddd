"""Mochi: ``MochiTransformer3DModel``, joint attention over [all frames; text], row by row.

Padding takes no part in attention: each row is a call of its own, as long as its prompt makes it. Without values (on
meta) every text token counts as one of a prompt, so that MACs are those of prompts that fill the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Joint

NOISELESS = 1000.0
"""the timestep of a clean clip; that of noise is 0"""
THRESHOLD = 0.025
"""the share of noise that the pipeline removes in its evenly spaced first half of the steps"""


class MochiAdapter(BlocksAdapter):
    name = "mochi"
    timestep_at = 2
    usual_text = "max_sequence_length"
    stacks = {"transformer_blocks": {"attn1": Joint(row_by_row=True)}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    hands = {"transformer_blocks": ("hidden_states", "encoder_hidden_states")}  # noqa: RUF012
    usual_call = {"height": 480, "width": 848}  # noqa: RUF012

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        return NOISELESS - super().noise_level(args, kwargs)

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(steps, THRESHOLD)))
        return tuple(NOISELESS - float(t) for t in scheduler.timesteps)

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | {"encoder_attention_mask": example.padding_mask().bool()}
