"""Token reorganisation: EViT (Liang et al., arXiv 2202.07800, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from f3core.reduction import Places, Reduced, Reducer
from f3core_tokens.matching import heads, pick, rows
from f3core_tokens.received import attention_received


class EViTReducer(Reducer):
    """Keys that receive the most attention stay, the others are fused into one."""

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """The ``keep`` - 1 keys with the highest mean attention, over heads and queries of the call (the paper takes
        that of its class token, which video models do not have), and behind them the mean of the others, weighted by
        the attention they receive.

        The weights sum to 1. Those of the paper (eq. 3) do not, which the norm that follows there makes up for; a key
        has none behind it.
        """
        score = attention_received(query, key, scale)
        top = score.topk(keep - 1, dim=-1).indices
        # where no other key gets any attention, in float32, all others weigh the same
        rest = (score + torch.finfo(score.dtype).tiny).scatter(1, top, 0.0)
        weights = (rest / rest.sum(dim=-1, keepdim=True)).to(key.dtype)[:, None]
        found = []
        for tokens in map(rows, (key, value)):
            fused = torch.bmm(weights, tokens)
            found.append(heads(torch.cat([pick(tokens, top), fused], dim=1), key.shape[1]))
        return Reduced(*found)
