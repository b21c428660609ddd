"""What stands for a block that is skipped, for good or in some forwards, and which blocks may go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.block import Block, Part
from f3core.clock import Clock, Gate
from f3core.errors import PlanError
from f3core.sites import Removal, Structure
from f3core.skipping import Skip, check_blocks, handed_on, skip_

NAMES = ("hidden", "text", "level", "return_dict")


class Two(nn.Module):
    """[B, C, L] and [B, T] to as many of each."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, hidden: Tensor, text: Tensor, level: float = 1.0) -> tuple[Tensor, Tensor]:
        return self.line(hidden) * level, text + 1


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 3)

    def forward(self, hidden: Tensor, scale: float = 2.0, return_dict: bool = True) -> Any:
        made = self.line(hidden) * scale
        return made if return_dict else (made,)


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


def block(number: int = 0, hands: tuple[str, ...] = (), **other: Any) -> Block:
    path = f"blocks.{number}"
    return Block("transformer", path, number, (Part(path, hands),), number=number, **other)


@given(
    positional=st.integers(0, 3),
    hands=st.lists(st.sampled_from(NAMES[:3]), unique=True).map(tuple),
    channels=st.none() | st.integers(1, 4),
    asked=st.sampled_from([None, True, False]),
)
def test_arguments_are_handed_on_however_they_are_given(
    positional: int, hands: tuple[str, ...], channels: int | None, asked: bool | None
) -> None:
    values: dict[str, Any] = {"hidden": torch.randn(2, 4, 3), "text": torch.randn(2, 5), "level": 7.0}
    if asked is not None:
        values["return_dict"] = asked
    args, kwargs = list(values.values())[:positional], dict(list(values.items())[positional:])
    part = Part("blocks.0", hands, channels)
    made = handed_on(part, NAMES, args, kwargs)
    expected = [values[name] for name in hands or ("hidden",)]
    if channels is not None and isinstance(expected[0], Tensor):
        expected[0] = expected[0][:, :channels]
    assert isinstance(made, tuple) == (len(expected) > 1 or asked is False)
    found = made if isinstance(made, tuple) else (made,)
    assert len(found) == len(expected)
    assert all(a is b or torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    again = Skip(part, NAMES)(*args, **kwargs)
    assert torch.equal(torch.stack(_numbers(again)), torch.stack(_numbers(made)))


def _numbers(made: Any) -> list[Tensor]:
    return [torch.as_tensor(each).float().sum() for each in (made if isinstance(made, tuple) else (made,))]


def test_a_block_that_is_always_skipped_leaves_with_its_weights() -> None:
    model, given = Stack(Two(), Two()), (torch.randn(2, 4, 3), torch.randn(2, 5))
    skip_(model, block(1, ("hidden", "text")), Gate(Clock()))
    assert isinstance(model.blocks[1], Skip)
    assert not list(model.blocks[1].parameters())
    assert set(model.state_dict()) == {"blocks.0.line.weight", "blocks.0.line.bias"}
    made = model.blocks[1](given[0], text=given[1], level=3.0)
    assert isinstance(made, tuple)
    assert [a is b for a, b in zip(made, given, strict=True)] == [True, True]


def test_a_block_steps_aside_while_its_gate_is_on_and_keeps_its_weights() -> None:
    model, hidden = Stack(One(), One()), torch.randn(2, 4, 3)
    before, state = model.blocks[0](hidden, scale=3.0), set(model.state_dict())
    clock = Clock()
    skip_(model, block(0), Gate(clock, frozenset({1})))
    assert isinstance(model.blocks[0], One)
    assert set(model.state_dict()) == state
    with clock.hold(0):
        assert torch.equal(model.blocks[0](hidden, scale=3.0), before)
        assert torch.equal(model.blocks[0](hidden, 3.0, return_dict=False)[0], before)
    with clock.hold(1):
        assert model.blocks[0](hidden, scale=3.0) is hidden
        (made,) = model.blocks[0](hidden, 3.0, return_dict=False)
        assert made is hidden
    assert type(model.blocks[1]) is One


def test_all_parts_of_a_block_are_skipped() -> None:
    model = Stack(One(), One(), One())
    parts = (Part("blocks.0"), Part("blocks.2"))
    skip_(model, Block("transformer", "blocks.0", 0, parts), Gate(Clock()))
    assert [isinstance(each, Skip) for each in model.blocks] == [True, False, True]
    assert not isinstance(model.blocks[1], Skip)


@given(
    fixed=st.sets(st.integers(0, 5)),
    needs=st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 5), min_size=1)),
    gone=st.sets(st.integers(0, 5)),
)
def test_blocks_go_unless_one_is_fixed_or_lacks_what_it_needs(
    fixed: set[int], needs: dict[int, set[int]], gone: set[int]
) -> None:
    blocks = [
        block(
            i, fixed="it holds the rest" if i in fixed else None, needs=tuple(f"blocks.{n}" for n in needs.get(i, ()))
        )
        for i in range(6)
    ]
    paths = [f"blocks.{i}" for i in gone]
    if fixed & gone or any(not needs.get(i, set()) <= gone for i in gone):
        with pytest.raises(PlanError, match=r"cannot go: it holds the rest|can only go together with blocks"):
            check_blocks(blocks, paths)
    else:
        check_blocks(blocks, paths)


def test_what_a_block_can_lose_is_itself_at_every_step_or_none() -> None:
    able, fixed = block(), block(fixed="it holds the rest")
    assert able.ways(Structure.BLOCK) == (Removal.DROP,)
    assert able.gated(Structure.BLOCK) == fixed.ways(Structure.BLOCK) == ()
    assert able.can(Structure.BLOCK, Removal.DROP)
    assert not fixed.can(Structure.BLOCK, Removal.DROP)
    assert able.modules == ("blocks.0",)
