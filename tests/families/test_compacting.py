"""Lists of blocks made shorter, and what a config says of them then."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cogvideox
import tiny_consisid
import tiny_wan
import torch
from f3core_diffusers.cogvideox import CogVideoXAdapter
from f3core_diffusers.compacting import (
    become_smaller_,
    compact_stacks_,
    plain_class,
    reconfigured,
    shorten_,
    spaced,
    standing,
)
from f3core_diffusers.named_calls import naming_calls
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from f3core.block import Block, Part
from f3core.clock import Clock, Gate
from f3core.contract import example_plan
from f3core.sites import AttentionKind, Removal
from f3core.skipping import skip_
from f3core.surgery import apply_plan_

WAN = tiny_wan.transformer


def gone(stack: str, *numbers: int) -> list[Block]:
    paths = [f"{stack}.{number}" for number in numbers]
    return [Block("transformer", path, number, (Part(path),)) for path, number in zip(paths, numbers, strict=True)]


def skipped(denoiser: Any, blocks: list[Block]) -> Any:
    for block in blocks:
        skip_(denoiser, block, Gate(Clock()))
    return denoiser


@given(length=st.integers(1, 12), every=st.integers(1, 6), data=st.data())
def test_what_comes_behind_every_so_many_comes_where_it_did(length: int, every: int, data: st.DataObject) -> None:
    left = sorted(data.draw(st.sets(st.integers(0, length - 1))))
    step = spaced(left, every, length)

    def run(numbers: list[int], each: int) -> list[object]:
        """What runs, in order: blocks by number, and "+" behind every ``each``-th place of the list."""
        return [what for place, n in enumerate(numbers) for what in ([n] if place % each else [n, "+"])]

    whole = run(list(range(length)), every)
    expected = [what for what in whole if what == "+" or what in left]
    if step is None:
        assert all(run(left, each) != expected for each in range(1, length + 2))
    else:
        assert run(left, step) == expected


@given(numbers=st.sets(st.integers(0, 4)))
def test_lists_keep_what_stands_in_its_order(numbers: set[int]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(5))

    model = Model()
    kept = [block for number, block in enumerate(model.blocks) if number not in numbers]
    skipped(model, gone("blocks", *numbers))
    assert standing(model, "blocks") == [number for number in range(5) if number not in numbers]
    assert shorten_(model, "blocks") == len(kept)
    assert [a is b for a, b in zip(model.blocks, kept, strict=True)] == [True] * len(kept)


def test_the_class_is_the_one_that_diffusers_loads() -> None:
    model = WAN()
    assert plain_class(model) is type(model)
    with naming_calls(model):
        assert type(model) is not type(WAN())
        assert plain_class(model) is type(WAN())
    denoiser, adapter = tiny_cogvideox.transformer(), CogVideoXAdapter()
    sites = adapter.sites(denoiser, "transformer")
    change = (AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    apply_plan_(denoiser, example_plan(adapter.name, sites, change), adapter, "transformer")
    assert plain_class(denoiser) is type(tiny_cogvideox.transformer())


def test_while_calls_are_named_blocks_go_as_well() -> None:
    model, before = WAN(3), type(WAN())
    with naming_calls(model):
        assert compact_stacks_(skipped(model, gone("blocks", 1)), gone("blocks", 1), ["blocks"], counted)
    assert type(model) is before
    assert model.config.num_layers == len(model.blocks) == 2


def counted(left: Any) -> dict[str, int]:
    return {"num_layers": len(left["blocks"])}


@pytest.mark.parametrize(
    ("stacks", "told"),
    [
        ([], lambda left: {}),
        (["blocks"], lambda left: None),
        (["blocks"], lambda left: {"num_layers": 1}),
        (["blocks"], lambda left: {"num_layers": 2, "ffn_dim": 16}),
        (["blocks"], lambda left: {"num_layers": "two"}),
    ],
    ids=["no list", "not told", "too few", "other shapes", "nonsense"],
)
def test_nothing_is_altered_where_the_config_cannot_say_it(stacks: list[str], told: Any) -> None:
    model, blocks = skipped(WAN(3), gone("blocks", 1)), gone("blocks", 1)
    before, held, config = list(model.blocks), model.blocks, dict(model.config)
    assert not compact_stacks_(model, blocks, stacks, told)
    assert model.blocks is held
    assert [a is b for a, b in zip(model.blocks, before, strict=True)] == [True] * 3
    assert dict(model.config) == config


def test_a_model_is_made_of_a_config_without_its_weights() -> None:
    model = WAN(2)
    made = reconfigured(model, {})
    assert made is not None
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}
    assert reconfigured(model, {"num_layers": 3}) is None


def test_attributes_that_follow_from_the_config_follow_it() -> None:
    """ConsisID's forward asks itself, not its config, behind which blocks the face comes; a flag of training stays."""
    model = tiny_consisid.transformer(num_layers=4)
    model.enable_gradient_checkpointing()
    for number in (3, 1):
        del model.transformer_blocks[number]
    assert become_smaller_(model, {"num_layers": 2, "cross_attn_interval": 1})
    assert (model.cross_attn_interval, model.num_cross_attn, model.config.num_layers) == (1, 2, 2)
    assert model.gradient_checkpointing
    assert torch.device("meta") not in {parameter.device for parameter in model.parameters()}


def test_what_a_model_has_become_since_is_no_matter() -> None:
    """Such as quantised: the class is asked, so that a plan leaves the same whenever it is carried out."""

    class Quantised(nn.Linear):
        pass

    model = WAN(3)
    model.blocks[2].attn1.to_q = Quantised(32, 16)
    assert compact_stacks_(skipped(model, gone("blocks", 1)), gone("blocks", 1), ["blocks"], counted)
    assert isinstance(model.blocks[1].attn1.to_q, Quantised)
    assert model.config.num_layers == 2
