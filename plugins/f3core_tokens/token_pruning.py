"""Token pruning after DynamicViT (Rao et al., arXiv 2106.02034), without its trained predictor."""

from __future__ import annotations

from torch import Tensor

from f3core.reduction import Places, Reduced, Reducer
from f3core_tokens.matching import heads, pick, rows
from f3core_tokens.received import attention_received


class TokenPruningReducer(Reducer):
    """Keys that receive the most attention stay, the others are gone."""

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """The ``keep`` keys with the highest mean attention, over heads and queries of the call; the paper trains a
        network to predict which those should be."""
        top = attention_received(query, key, scale).topk(keep, dim=-1).indices
        kept_key, kept_value = (heads(pick(rows(tokens), top), key.shape[1]) for tokens in (key, value))
        return Reduced(kept_key, kept_value)
