"""ToMe: token merging by bipartite soft matching (Bolya et al., arXiv 2210.09461, section 3)."""

from __future__ import annotations

from torch import Tensor

from f3core.reduction import Places, Reduced, Reducer
from f3core_tokens.matching import Matching, Merging, heads, rows, unit, wide


class ToMeReducer(Reducer):
    """Keys and values merge with the keys they resemble, and count in the softmax as often as what they stand for."""

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """``keep`` keys [N, H, keep, D] with a bias [N, 1, 1, keep] of log(size), the paper's proportional attention.

        In a pass the keys of even places each find the most similar key of an odd place, by the cosine of keys
        averaged over heads, and the closest pairs merge by the mean weighted with sizes. A pass merges half the keys at
        most, the even places; as many passes follow, on what the last one left (the official code's order: keys that
        did not merge, best matched first, then odd places), as ``keep`` needs. Rows merge for themselves, heads alike.
        """
        count = key.shape[1]
        metric = wide(key)
        keys, values, sizes = rows(key), rows(value), None
        while (length := keys.shape[1]) > keep:
            average = unit(metric.mean(dim=1))
            matching = Matching.best(average[:, ::2], average[:, 1::2], min(length - keep, (length + 1) // 2))
            weights = (None, None) if sizes is None else (sizes[:, ::2], sizes[:, 1::2])
            merging = Merging(matching, length // 2, *weights)
            keys, values = (merging(tokens[:, ::2], tokens[:, 1::2]) for tokens in (keys, values))
            sizes = merging.sizes
            metric = wide(heads(keys, count))
        bias = None if sizes is None else sizes.log()[:, None, None].to(query.dtype)
        return Reduced(heads(keys, count), heads(values, count), bias)
