"""TPS: joint token pruning and squeezing (Wei et al., arXiv 2304.10716, section 3)."""

from __future__ import annotations

from torch import Tensor

from f3core.reduction import Places, Reduced, Reducer
from f3core_tokens.matching import Matching, Merging, heads, nearest, pick, rows, unit
from f3core_tokens.received import attention_received

TEMPERATURE = 1.0
"""τ of the weights of what is squeezed into a token."""


class TPSReducer(Reducer):
    """Keys that receive the most attention stay, and each of the others is squeezed into the one it resembles most."""

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """The ``keep`` keys with the highest mean attention, over heads and queries of the call, each the mean of
        itself and the keys whose most similar kept key it is, with weights softmax(cos / τ); its own cosine is 1.

        Similarity is the cosine of keys, all heads joined. Values take the weights of their keys.
        """
        order = attention_received(query, key, scale).argsort(dim=-1, descending=True, stable=True)
        kept, gone = order[:, :keep], order[:, keep:]
        tokens = rows(key)
        host, guest = pick(tokens, kept), pick(tokens, gone)
        cosine, into = nearest(unit(guest), unit(host))
        merging = Merging(Matching(into), keep, ((cosine - 1.0) / TEMPERATURE).exp())
        values = rows(value)
        squeezed = merging(guest, host), merging(pick(values, gone), pick(values, kept))
        return Reduced(*(heads(one, key.shape[1]) for one in squeezed))
