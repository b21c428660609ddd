"""Token pruning, EViT and TPS against loops over an explicit attention map; the map is never needed whole."""

from __future__ import annotations

import math

import pytest
import torch
from f3core_tokens import matching
from f3core_tokens.received import attention_received
from hypothesis import given, settings
from hypothesis import strategies as st
from token_strategies import REDUCERS, Call, calls
from torch import Tensor

quick = settings(deadline=None, max_examples=30)
share = st.floats(0, 1, exclude_max=True)


def explicit(query: Tensor, key: Tensor, scale: float) -> list[float]:
    """Mean attention each key of one row gets, from its map; query [H, Lq, D]."""
    heads, queries, _ = query.shape
    total = [0.0] * key.shape[1]
    for h in range(heads):
        for i in range(queries):
            logits = [scale * float(query[h, i] @ key[h, j]) for j in range(key.shape[1])]
            whole = sum(math.exp(logit) for logit in logits)
            for j, logit in enumerate(logits):
                total[j] += math.exp(logit) / whole / (heads * queries)
    return total


def ranked(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda j: -scores[j])


def joined(tokens: Tensor, row: int) -> Tensor:
    """[n, H * D], in the order of what is kept."""
    return tokens[row].transpose(0, 1).flatten(1)


def sorted_rows(tokens: Tensor) -> Tensor:
    return tokens[tokens[:, 0].argsort()]


@quick
@given(calls)
def test_attention_received_is_the_mean_of_the_map(call: Call) -> None:
    query, key, _ = call.tensors()
    found = attention_received(query, key, 0.5)
    expected = [explicit(query[row].double(), key[row].double(), 0.5) for row in range(call.rows)]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.sum(-1), torch.ones(call.rows))


@pytest.mark.parametrize("elements", [1, 200, 1000, 2**20])
def test_no_more_of_a_map_is_made_at_a_time_than_the_budget(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    call = Call(2, 3, 17, 4, (2, 3), seed=4)
    query, key, value = call.tensors()
    whole = attention_received(query, key, 0.5), REDUCERS["tps"].reduce(query, key, value, call.places(), 0.5, 9)
    sizes: list[int] = []
    plain = torch.bmm

    def seen(left: Tensor, right: Tensor) -> Tensor:
        found = plain(left, right)
        sizes.append(found.numel())
        return found

    monkeypatch.setitem(matching.MAP_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(torch, "bmm", seen)
    torch.testing.assert_close(attention_received(query, key, 0.5), whole[0])
    one_query = 2 * 3 * call.keys
    assert max(sizes) <= max(elements, one_query)
    assert sum(sizes) == 17 * one_query
    parts = REDUCERS["tps"].reduce(query, key, value, call.places(), 0.5, 9)
    torch.testing.assert_close(parts.key, whole[1].key)
    torch.testing.assert_close(parts.value, whole[1].value)


@quick
@given(calls, share)
def test_token_pruning_keeps_the_keys_that_receive_most(call: Call, part: float) -> None:
    keep = 1 + int(part * (call.keys - 1))
    query, key, value = call.tensors()
    found = REDUCERS["token_pruning"].reduce(query, key, value, call.places(), 0.5, keep)
    assert found.bias is None
    for row in range(call.rows):
        top = ranked(explicit(query[row].double(), key[row].double(), 0.5))[:keep]
        assert torch.equal(sorted_rows(joined(found.key, row)), sorted_rows(joined(key, row)[top]))
        assert torch.equal(sorted_rows(joined(found.value, row)), sorted_rows(joined(value, row)[top]))


@quick
@given(calls, share)
def test_evit_fuses_the_rest_by_the_attention_it_receives(call: Call, part: float) -> None:
    keep = 1 + int(part * (call.keys - 1))
    query, key, value = call.tensors()
    found = REDUCERS["evit"].reduce(query, key, value, call.places(), 0.5, keep)
    assert found.bias is None
    for row in range(call.rows):
        scores = explicit(query[row].double(), key[row].double(), 0.5)
        order = ranked(scores)
        top, rest = order[: keep - 1], order[keep - 1 :]
        for one, given_tokens in ((found.key, key), (found.value, value)):
            tokens = joined(given_tokens, row)
            fused = sum(scores[j] * tokens[j].double() for j in rest) / sum(scores[j] for j in rest)
            assert torch.equal(sorted_rows(joined(one, row)[:-1]), sorted_rows(tokens[top]))
            torch.testing.assert_close(joined(one, row)[-1], fused.float(), atol=1e-5, rtol=1e-4)


def test_evit_fuses_keys_that_receive_nothing_into_their_mean() -> None:
    """Far keys get exactly 0 in float32; their fused token is still one that lies among them."""
    query, key = torch.full((1, 1, 1, 1), 100.0), torch.tensor([9.0, 1.0, 3.0])[None, None, :, None]
    found = REDUCERS["evit"].reduce(query, key, key, Call(1, 1, 1, 3, (1, 1), 0).places(), 1.0, 2)
    assert found.value.flatten().tolist() == [9.0, 2.0]


@quick
@given(calls, share)
def test_tps_squeezes_each_pruned_key_into_the_nearest_kept_one(call: Call, part: float) -> None:
    keep = 1 + int(part * (call.keys - 1))
    query, key, value = call.tensors()
    found = REDUCERS["tps"].reduce(query, key, value, call.places(), 0.5, keep)
    assert found.bias is None
    for row in range(call.rows):
        order = ranked(explicit(query[row].double(), key[row].double(), 0.5))
        kept, gone = order[:keep], order[keep:]
        keys = joined(key, row).double()
        squeezed: dict[int, list[tuple[float, int]]] = {j: [(math.exp(1.0), j)] for j in kept}
        for i in gone:
            cosines = {j: float(keys[i] @ keys[j] / (keys[i].norm() * keys[j].norm())) for j in kept}
            host = max(kept, key=lambda j: cosines[j])
            squeezed[host].append((math.exp(cosines[host]), i))
        for one, given_tokens in ((found.key, key), (found.value, value)):
            tokens = joined(given_tokens, row).double()
            expected = torch.stack(
                [sum(w * tokens[i] for w, i in group) / sum(w for w, _ in group) for group in squeezed.values()]
            )
            torch.testing.assert_close(joined(one, row), expected.float(), atol=1e-5, rtol=1e-4)
