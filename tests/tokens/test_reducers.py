"""What holds for every way to reduce keys: how many come out, of what, and that the outcome is the inputs' alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_strategies import BY_ATTENTION, REDUCERS, Call, calls

from f3core.operators import watch
from f3core.reduction import Reduced, Reducer

every = pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
quick = settings(deadline=None, max_examples=12)


def keeps(call: Call, data: st.DataObject) -> int:
    return data.draw(st.integers(1, call.keys - 1))


@every
@quick
@given(calls, st.data())
def test_as_many_keys_as_asked_for_in_the_dtype_given(reducer: Reducer, call: Call, data: st.DataObject) -> None:
    keep = keeps(call, data)
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    found = call.reduced(reducer, keep, dtype)
    assert found.key.shape == (call.rows, call.heads, keep, call.width)
    assert found.value.shape == (call.rows, call.heads, keep, call.width + 2)
    assert found.key.dtype == found.value.dtype == dtype
    if found.bias is not None:
        assert found.bias.shape == (call.rows, 1, 1, keep)
        assert found.bias.dtype == dtype
    assert all(one.isfinite().all() for one in (found.key, found.value))


@every
@quick
@given(calls, st.data())
def test_on_meta_shapes_and_dtypes_are_the_same(reducer: Reducer, call: Call, data: st.DataObject) -> None:
    keep = keeps(call, data)
    real = call.reduced(reducer, keep, torch.bfloat16)
    meta = reducer.reduce(*(one.to("meta") for one in call.tensors(torch.bfloat16)), call.places(), 0.5, keep)
    for one, other in zip(_parts(real), _parts(meta), strict=True):
        assert other.is_meta
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@every
@quick
@given(calls, st.data())
def test_rows_are_independent(reducer: Reducer, call: Call, data: st.DataObject) -> None:
    keep, places = keeps(call, data), call.places()
    whole = _parts(reducer.reduce(*call.tensors(), places, 0.5, keep))
    for row in range(call.rows):
        alone = _parts(reducer.reduce(*(one[row : row + 1] for one in call.tensors()), places, 0.5, keep))
        for one, other in zip(whole, alone, strict=True):
            torch.testing.assert_close(one[row : row + 1], other)


@every
@quick
@given(calls, st.data())
def test_the_same_call_gives_the_same(reducer: Reducer, call: Call, data: st.DataObject) -> None:
    keep, places = keeps(call, data), call.places()
    first, again = (reducer.reduce(*call.tensors(), places, 0.5, keep) for _ in range(2))
    other = call.reduced(reducer, keep)  # places drawn for anew
    for one, two, three in zip(*map(_parts, (first, again, other)), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@every
@quick
@given(calls, st.data())
def test_what_comes_out_lies_within_what_went_in(reducer: Reducer, call: Call, data: st.DataObject) -> None:
    """Keys and values are means with weights that sum to 1: weights that the keys' indicator columns show."""
    keep = keeps(call, data)
    query, key, _ = call.tensors()
    value = torch.eye(call.keys).expand(call.rows, call.heads, -1, -1)  # values name the keys
    found = reducer.reduce(query, key, value, call.places(), 0.5, keep)
    assert found.value.min() >= 0
    torch.testing.assert_close(found.value.sum(-1), torch.ones(call.rows, call.heads, keep))
    torch.testing.assert_close(found.key, found.value @ key, atol=1e-5, rtol=1e-4)  # keys and values alike
    assert torch.equal(found.value > 0, (found.value > 0)[:, :1].expand_as(found.value))  # heads alike


@pytest.mark.parametrize("name", BY_ATTENTION)
@quick
@given(calls, st.data())
def test_the_order_of_keys_does_not_matter_where_attention_chooses(name: str, call: Call, data: st.DataObject) -> None:
    keep = keeps(call, data)
    query, key, value = call.tensors()
    order = torch.tensor(data.draw(st.permutations(range(call.keys))))
    one = REDUCERS[name].reduce(query, key, value, call.places(), 0.5, keep)
    two = REDUCERS[name].reduce(query, key[:, :, order], value[:, :, order], call.places(), 0.5, keep)
    for first, second in zip(_parts(one), _parts(two), strict=True):
        torch.testing.assert_close(_sorted(first), _sorted(second))


@every
def test_heads_may_be_permuted(reducer: Reducer) -> None:
    call = Call(2, 3, 4, 3, (2, 3), seed=5)
    query, key, value = call.tensors()
    order = torch.tensor([2, 0, 1])
    one = reducer.reduce(query, key, value, call.places(), 0.5, 7)
    two = reducer.reduce(query[:, order], key[:, order], value[:, order], call.places(), 0.5, 7)
    torch.testing.assert_close(one.key[:, order], two.key)
    torch.testing.assert_close(one.value[:, order], two.value)


@every
def test_what_choosing_costs_is_counted_alike_on_meta(reducer: Reducer) -> None:
    """Products are what counting sees, and parts of a map add up to the map."""
    call = Call(2, 2, 6, 3, (4, 4), seed=1, width=8)

    class Module(torch.nn.Module):
        def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            return reducer.reduce(query, key, value, call.places(), 0.5, 24).value

    inputs = dict(zip(("query", "key", "value"), call.tensors(), strict=True))
    real = watch(Module(), inputs, ()).own
    meta = watch(Module(), {name: one.to("meta") for name, one in inputs.items()}, ()).own
    assert real == meta
    assert sum(real.values()) > 0


def _parts(found: Reduced) -> list[torch.Tensor]:
    return [one for one in (found.key, found.value, found.bias) if one is not None]


def _sorted(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens of each row in an order that does not depend on the one they had: by the first feature of head 0."""
    order = tokens[:, 0, :, 0].argsort(dim=-1)
    return tokens.gather(2, order[:, None, :, None].expand_as(tokens))
