"""How much blocks change what they take: by hooks on the tokens of real denoisers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_latte
import tiny_wan
import torch
from f3core_diffusers.latte import LatteAdapter
from f3core_diffusers.wan import WanAdapter
from torch import Tensor, nn

from f3core.adapter import Adapter
from f3core.block_changes import block_changes

PROMPTS, SEEDS = ["a red cat runs", "a dog"], [3, 4]


def one_minus_cosine(given: Tensor, made: Tensor) -> float:
    return float((1 - nn.functional.cosine_similarity(given, made, dim=-1)).mean())


def measured(adapter: Adapter, pipeline: Any, call: dict[str, Any]) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    blocks = {"transformer": adapter.blocks(pipeline.transformer, "transformer")}
    return block_changes(adapter, pipeline, blocks, PROMPTS, steps=2, seeds=SEEDS, call=call)


def by_hand(adapter: Adapter, pipeline: Any, call: dict[str, Any], *stacks: str) -> np.ndarray:
    """[blocks, prompts], the mean over forwards of the sum over stacks."""
    found = []
    for prompt, seed in zip(PROMPTS, SEEDS, strict=True):
        seen: dict[tuple[str, int], list[float]] = {}
        hooks = []
        for stack in stacks:
            for number, block in enumerate(pipeline.transformer.get_submodule(stack)):
                each = seen.setdefault((stack, number), [])

                def note(_m: nn.Module, args: Any, _kw: Any, out: Tensor, each: list[float] = each) -> None:
                    each.append(one_minus_cosine(args[0], out))

                hooks.append(block.register_forward_hook(note, with_kwargs=True))
        adapter.generate(pipeline, [prompt], steps=2, seeds=[seed], call=call)
        for hook in hooks:
            hook.remove()
        numbers = sorted({number for _, number in seen})
        found.append([sum(float(np.mean(seen[stack, number])) for stack in stacks) for number in numbers])
    return np.array(found).T


def test_of_one_part_it_is_what_its_tokens_change() -> None:
    adapter, pipeline = WanAdapter(), tiny_wan.pipeline(3)
    found = measured(adapter, pipeline, tiny_wan.CALL)
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found, by_hand(adapter, pipeline, tiny_wan.CALL, "blocks"), rtol=1e-4)
    assert not any(block._forward_hooks for block in pipeline.transformer.blocks)


def test_of_pairs_inside_frames_and_over_them_it_is_the_sum() -> None:
    adapter, pipeline = LatteAdapter(), tiny_latte.pipeline()
    found = measured(adapter, pipeline, tiny_latte.CALL)
    stacks = "transformer_blocks", "temporal_transformer_blocks"
    np.testing.assert_allclose(found, by_hand(adapter, pipeline, tiny_latte.CALL, *stacks), rtol=1e-4)


@pytest.mark.parametrize("width", [16, 48])
def test_of_another_width_there_is_none(width: int) -> None:
    class Widened(nn.Module):
        def forward(self, hidden: Tensor, *_: Any) -> Tensor:
            return hidden.new_ones(*hidden.shape[:-1], width)

    adapter, pipeline = WanAdapter(), tiny_wan.pipeline(2)
    blocks = pipeline.transformer.blocks
    blocks[0] = Widened()
    back = blocks[1].register_forward_pre_hook(lambda _m, args: (torch.ones(*args[0].shape[:-1], 32), *args[1:]))
    found = measured(adapter, pipeline, tiny_wan.CALL)
    back.remove()
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
