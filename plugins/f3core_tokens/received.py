"""How much attention keys receive, without the attention map ever being whole."""

from __future__ import annotations

from torch import Tensor

from f3core_tokens.matching import at_once, products


def attention_received(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Mean attention [N, n] that each key gets, over heads and queries, in float32; it sums to 1 in each row.

    ``query`` [N, H, Lq, D], ``key`` [N, H, n, D]. The softmax of a query is over the n keys alone. Queries come in
    parts, so that memory is bounded at any length.
    """
    count, number, length = key.shape[:3]
    queries = (query.detach() * scale).flatten(0, 1)
    keys = key.detach().flatten(0, 1)
    total = None
    for part in queries.split(at_once(queries, count * number * length), dim=1):
        # [N, H * queries, n]: one sum over lines that lie one behind the other
        got = products(part, keys).softmax(dim=-1).view(count, -1, length).sum(dim=1)
        total = got if total is None else total.add_(got)
    assert total is not None, "an attention call has queries"
    return total.div_(number * query.shape[2])
