"""Outputs of modules inside a model, seen through hooks that do not stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from f3core.distillation.watching import watching
from f3core.errors import ModelError


class Odd(nn.Module):
    """Gives what it was made with."""

    def __init__(self, gives: object) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, hidden: Tensor) -> object:
        return self.gives


def hooks(module: nn.Module) -> int:
    return sum(len(inner._forward_hooks) for inner in module.modules())


def test_outputs_come_by_path_with_their_graph_and_hooks_go() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3)))
    with watching(model, ["0", "1.0"]) as watched:
        out = model(torch.ones(1, 2))
    found = watched.under({"0": "first", "1.0": "second"})
    assert found["second"] is out
    assert found["first"].requires_grad
    assert hooks(model) == 0


def test_hooks_go_after_an_error_too() -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    with pytest.raises(ModelError, match="Sequential has no module 7"), watching(model, ["0", "7"]):
        pass
    with pytest.raises(RuntimeError), watching(model, ["0"]):
        model(torch.ones(1, 5))
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "gives", [lambda x: (x, None), lambda x: (None, x), lambda x: [x], lambda x: {"sample": x}, lambda x: ((x, 1), 2)]
)
def test_the_first_tensor_counts(gives: object) -> None:
    tensor = torch.ones(2)
    model = nn.ModuleDict({"odd": Odd(gives(tensor))})  # type: ignore[operator]
    with watching(model, ["odd"]) as watched:
        model["odd"](tensor)
    assert watched.under({"odd": "o"})["o"] is tensor


@pytest.mark.parametrize("runs", [False, True])
def test_what_did_not_run_or_gave_no_tensor_is_named(runs: bool) -> None:
    model = nn.ModuleDict({"odd": Odd("words")})
    with watching(model, ["odd"]) as watched:
        if runs:
            model["odd"](torch.ones(1))
    with pytest.raises(ModelError, match="odd did not run in a forward, or gave out no tensor"):
        watched.under({"odd": "odd"})
