"""Value and output maps in one: equal to the two, kept while the weights stay, alone in the model when always on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from f3core_tuneavideo.attention import TemporalAttention
from torch import Tensor, nn

from f3core import folding
from f3core.clock import Clock, Gate
from f3core.errors import PlanError
from f3core.folding import FoldedAttention, fold, value_only
from f3core.meta import meta_copy, share_copy
from f3core.plan import StepRange


def attention(width: int = 12) -> TemporalAttention:
    torch.manual_seed(0)
    return TemporalAttention(width, 2).requires_grad_(False)


def gated(module: nn.Module, *, on: bool = True) -> tuple[nn.Module, Clock]:
    clock = Clock((StepRange(low=500.0), StepRange(high=500.0)))
    left = value_only(module, Gate(clock, frozenset({0})))
    clock.tick(900.0 if on else 100.0)
    return left, clock


TOKENS = torch.randn(6, 5, 12, generator=torch.Generator().manual_seed(1))


def masked(module: TemporalAttention) -> Tensor:
    """The plain way: every frame but the own one at -inf."""
    module.mask = lambda frames, device: torch.eye(frames, dtype=torch.bool)  # type: ignore[method-assign]
    found: Tensor = module(TOKENS, 3)
    del module.mask
    return found


@pytest.mark.parametrize("value_bias", [False, True])
@pytest.mark.parametrize("output_bias", [False, True])
def test_one_map_equals_two(value_bias: bool, output_bias: bool) -> None:
    value, output = nn.Linear(5, 7, bias=value_bias), nn.Linear(7, 3, bias=output_bias)
    hidden = torch.randn(4, 5)
    weight, bias = fold(value, output)
    assert (bias is None) == (not value_bias and not output_bias)
    assert (nn.functional.linear(hidden, weight, bias) - output(value(hidden))).abs().max() <= 1e-6


def test_both_ways_equal_the_masked_attention() -> None:
    expected = masked(attention())
    always = value_only(attention(), Gate(Clock()))
    sometimes, _ = gated(attention())
    assert (always(TOKENS, 3) - expected).abs().max() <= 1e-5
    assert torch.equal(sometimes(TOKENS, 3), always(TOKENS, 3))


def test_always_leaves_one_map_and_sometimes_leaves_all() -> None:
    always = value_only(attention(), Gate(Clock()))
    assert type(always) is FoldedAttention
    assert {name: tuple(t.shape) for name, t in always.state_dict().items()} == {"weight": (12, 12), "bias": (12,)}
    left, clock = gated(attention(), on=False)
    assert set(left.state_dict()) == set(attention().state_dict())
    assert torch.equal(left(TOKENS, 3), attention()(TOKENS, 3))
    clock.tick(900.0)
    left(TOKENS, 3)
    assert set(left.state_dict()) == set(attention().state_dict())


def test_on_meta_nothing_is_computed_and_saved_weights_fit() -> None:
    bare = value_only(meta_copy(attention()), Gate(Clock()))
    assert all(p.is_meta for p in bare.parameters())
    filled = value_only(attention(), Gate(Clock()))
    bare.load_state_dict(filled.state_dict(), strict=True, assign=True)
    assert torch.equal(bare(TOKENS), filled(TOKENS))


def in_place(module: nn.Module) -> None:
    module.to_v.weight.mul_(2)


def replaced(module: nn.Module) -> None:
    module.to_out[0].weight = nn.Parameter(module.to_out[0].weight * 2, requires_grad=False)


def loaded(module: nn.Module) -> None:
    module.load_state_dict({name: tensor * 2 for name, tensor in module.state_dict().items()})


def new_bias(module: nn.Module) -> None:
    module.to_out[0].bias.add_(1)


def other_dtype(module: nn.Module) -> None:
    module.to(torch.float64)


def lora(module: nn.Module) -> None:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base, self.weight = base, base.weight

        def forward(self, hidden: Tensor) -> Tensor:
            return self.base(hidden) + hidden

    module.to_v = Adapted(module.to_v)


@pytest.mark.parametrize("change", [in_place, replaced, loaded, new_bias, other_dtype, lora])
def test_the_folded_map_follows_the_weights(change: Callable[[nn.Module], None]) -> None:
    left, _ = gated(attention())
    before = left(TOKENS, 3)
    change(left)
    hidden = TOKENS.to(left.to_out[0].weight.dtype)
    expected = left.to_out[0](left.to_v(hidden))
    assert (left(hidden, 3) - expected).abs().max() <= 1e-5
    assert change is other_dtype or not torch.equal(left(hidden, 3), before)


def test_it_is_computed_once_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr(folding, "fold", lambda *maps: times.append(1) or fold(*maps))
    left, clock = gated(attention())
    for level in (900.0, 800.0, 700.0):
        clock.tick(level)
        left(TOKENS, 3)
    assert len(times) == 1
    share_copy(left)(TOKENS, 3)
    assert len(times) == 1
    with torch.inference_mode():
        left(TOKENS, 3)
    assert len(times) == 1
    for level in (100.0, 900.0, 800.0):
        clock.tick(level)
        left(TOKENS, 3)
    assert len(times) == 2


def two_ranges(module: nn.Module) -> tuple[nn.Module, Clock]:
    """Pruned in both of the ranges that this generation meets."""
    clock = Clock((StepRange(low=700.0), StepRange(low=500.0, high=700.0), StepRange(high=500.0)))
    return value_only(module, Gate(clock, frozenset({0, 1}))), clock


@pytest.mark.parametrize(("make", "levels"), [(gated, (900.0, 800.0, 100.0)), (two_ranges, (900.0, 600.0))])
def test_writes_that_leave_no_trace_are_met_by_the_next_generation(
    make: Callable[[nn.Module], tuple[nn.Module, Clock]], levels: tuple[float, ...]
) -> None:
    left, clock = make(attention())

    def generation() -> list[Tensor]:
        return [clock.tick(level) or left(TOKENS, 3) for level in levels]

    before = generation()
    version = left.to_v.weight._version
    left.to_v.weight.data += 0.5
    assert left.to_v.weight._version == version
    after = generation()
    assert (after[0] - left.to_out[0](left.to_v(TOKENS))).abs().max() <= 1e-5
    assert not torch.equal(before[0], after[0])


def test_the_folded_map_is_dropped_while_something_cannot_be_folded() -> None:
    left, _ = gated(attention())
    left(TOKENS, 3)
    plain = left.to_v
    lora(left)
    left(TOKENS, 3)
    plain.weight.data += 0.5
    left.to_v = plain
    assert (left(TOKENS, 3) - left.to_out[0](plain(TOKENS))).abs().max() <= 1e-5


def test_gradients_reach_both_maps() -> None:
    left, _ = gated(attention().requires_grad_(True))
    left(TOKENS, 3).square().sum().backward()
    assert float(left.to_v.weight.grad.abs().sum()) > 0
    assert float(left.to_out[0].weight.grad.abs().sum()) > 0


def test_what_cannot_be_folded_for_good_is_refused() -> None:
    module = attention()
    lora(module)
    with pytest.raises(PlanError, match="to_v is a Adapted"):
        value_only(module, Gate(Clock()))
