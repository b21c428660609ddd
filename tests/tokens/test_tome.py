"""ToMe against a reading of the paper in loops over plain numbers, and the law its log(size) is there for."""

from __future__ import annotations

import math

import pytest
import torch
from f3core_tokens.tome import ToMeReducer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from token_strategies import Call, calls
from torch.nn.functional import scaled_dot_product_attention

Vector = list[float]


def read_of_paper(keys: list[list[Vector]], values: list[list[Vector]], keep: int) -> list[tuple[list, list, int]]:
    """Tokens (key by head, value by head, size) of one row; ``keys`` is [n][heads][D]."""
    tokens = [(k, v, 1) for k, v in zip(keys, values, strict=True)]
    while len(tokens) > keep:
        evens, odds = tokens[0::2], tokens[1::2]
        edges = []
        for i, source in enumerate(evens):
            similarity, j = max((cosine(average(source[0]), average(odd[0])), j) for j, odd in enumerate(odds))
            edges.append((similarity, i, j))
        edges.sort(reverse=True)
        count = min(len(tokens) - keep, len(evens))
        groups = [[token] for token in odds]
        for _, i, j in edges[:count]:
            groups[j].append(evens[i])
        tokens = [evens[i] for _, i, _ in edges[count:]] + [fused(group) for group in groups]
    return tokens


def average(by_head: list[Vector]) -> Vector:
    return [sum(column) / len(by_head) for column in zip(*by_head, strict=True)]


def cosine(a: Vector, b: Vector) -> float:
    length = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / length


def fused(group: list[tuple[list, list, int]]) -> tuple[list, list, int]:
    size = sum(one[2] for one in group)

    def mean(part: int) -> list[Vector]:
        heads = len(group[0][part])
        return [
            [sum(x * one[2] for x, one in zip(xs, group, strict=True)) / size for xs in zip(*vectors, strict=True)]
            for vectors in ([one[part][h] for one in group] for h in range(heads))
        ]

    return mean(0), mean(1), size


@settings(deadline=None, max_examples=60)
@given(calls, st.floats(0, 1))
@example(Call(2, 2, 1, 3, (1, 3), seed=0), 0.0)  # several passes, odd
@example(Call(2, 2, 1, 3, (1, 3), seed=0), 0.4)  # all even places of an odd number
@example(Call(1, 2, 1, 3, (3, 3), seed=3), 0.2)
@example(Call(2, 1, 1, 4, (4, 4), seed=1), 0.1)
def test_as_the_paper_reads(call: Call, share: float) -> None:
    keep = min(call.keys - 1, 1 + int(share * (call.keys - 1)))
    query, key, value = (one.double() for one in call.tensors())
    found = ToMeReducer().reduce(query, key, value, call.places(), 0.5, keep)
    assert found.bias is not None
    for row in range(call.rows):
        expected = read_of_paper(key[row].transpose(0, 1).tolist(), value[row].transpose(0, 1).tolist(), keep)
        keys, values = (torch.tensor([one[i] for one in expected], dtype=key.dtype) for i in (0, 1))
        torch.testing.assert_close(found.key[row].transpose(0, 1), keys, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.value[row].transpose(0, 1), values, atol=1e-6, rtol=1e-5)
        sizes = torch.tensor([float(one[2]) for one in expected], dtype=key.dtype)
        torch.testing.assert_close(found.bias[row, 0, 0].exp(), sizes, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(2, 5), st.integers(0, 99), st.data())
def test_merging_identical_keys_changes_no_attention(
    distinct: int, copies: int, seed: int, data: st.DataObject
) -> None:
    """Copies side by side, so that there is an even and an odd one: they find each other, and log(size) counts them."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, distinct, distinct))
    key, value = (one.repeat_interleave(2 * copies, dim=2) for one in (key, value))
    most = distinct * copies  # of each even place goes into one just like it
    keep = data.draw(st.integers(most, 2 * most - 1))
    found = ToMeReducer().reduce(query, key, value, Call(1, 1, 1, 1, (1, 1), 0).places(), 0.3, keep)
    assert found.bias is not None
    assert found.key.shape[2] == keep
    whole = scaled_dot_product_attention(query, key, value, scale=0.3)
    merged = scaled_dot_product_attention(query, found.key, found.value, attn_mask=found.bias, scale=0.3)
    torch.testing.assert_close(merged, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("keep", [1, 3, 5, 20, 39])
def test_sizes_add_up_to_the_keys(keep: int) -> None:
    found = Call(3, 2, 2, 4, (2, 5), seed=9).reduced(ToMeReducer(), keep)
    assert found.bias is not None
    torch.testing.assert_close(found.bias.exp().sum(-1), torch.full((3, 1, 1), 40.0))


def test_many_sizes_are_exact_in_half_precision() -> None:
    """1000 keys merged into one: sums of bfloat16 would stop at 256."""
    query, key, _ = Call(1, 1, 1, 10, (10, 10), seed=2).tensors(torch.bfloat16)
    value = torch.linspace(1, 2, 1000).to(torch.bfloat16)[None, None, :, None]
    found = ToMeReducer().reduce(query, key, value, Call(1, 1, 1, 1, (1, 1), 0).places(), 0.5, 1)
    torch.testing.assert_close(found.value.float(), value.float().mean(2, keepdim=True), atol=8e-3, rtol=0)
