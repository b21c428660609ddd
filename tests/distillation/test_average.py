"""The moving average of weights, and its visits to the module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from f3core.distillation.average import Average


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@given(st.floats(0.01, 0.99), st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_it_is_the_weighted_sum_of_what_weights_were(decay: float, values: list[float]) -> None:
    parameter = nn.Parameter(torch.ones(2))
    average = Average([parameter], decay)
    wanted = 1.0
    for value in values:
        parameter.data.fill_(value)
        average.update()
        wanted = decay * wanted + (1 - decay) * value
    assert average.values[0].tolist() == pytest.approx([wanted] * 2, abs=1e-4)


def test_averaged_weights_are_in_place_for_a_while_and_live_ones_come_back() -> None:
    module = nn.Linear(3, 2)
    start = weights(module)
    average = Average(list(module.parameters()), 0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(2)
    average.update()
    live = weights(module)
    with average.in_place():
        assert all(torch.allclose(now, old + 1) for now, old in zip(weights(module), start, strict=True))
    assert all(map(torch.equal, weights(module), live))
    with pytest.raises(KeyError), average.in_place():
        raise KeyError
    assert all(map(torch.equal, weights(module), live))
    average.settle()
    assert all(torch.allclose(now, old + 1) for now, old in zip(weights(module), start, strict=True))


def test_without_decay_nothing_is_kept_and_weights_stay() -> None:
    module = nn.Linear(3, 2)
    average = Average(list(module.parameters()), 0)
    live = weights(module)
    average.update()
    with average.in_place():
        assert all(map(torch.equal, weights(module), live))
    average.settle()
    assert average.values == []
    assert all(map(torch.equal, weights(module), live))
