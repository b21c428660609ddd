"""ToMeSD: token merging for Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604), on keys and in its own form."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from f3core.reduction import Merger, Places, Reduced, Reducer
from f3core_tokens.cells import Split, clip_splits, grid_splits
from f3core_tokens.matching import Matching, Merging, heads, pick, rows, unit


class ToMeSDReducer(Reducer):
    """Keys and values of random places in the clip take up those that resemble them most.

    The paper compares the input of the block; a call that goes on from a cache of keys has no such input for the keys
    of earlier calls, so it is the keys themselves, all heads joined, that are compared by cosine.
    Destinations are drawn at the first call; ``torch.compile`` without graph breaks needs one call before it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        """``keep`` keys, each the mean of what it stands for; softmax is not told how much that is.

        Destinations are drawn by `clip_splits`. The other keys that resemble one the most merge into it until ``keep``
        are left. Where more must go than a pass has sources, all of them go, and another pass is over its destinations.
        """
        splits = places.once((type(self), self._seed, key.device), lambda: clip_splits(places, self._seed, key.device))
        (keys, values), _ = _merged((rows(key), rows(value)), splits, keep)
        return Reduced(heads(keys, key.shape[1]), heads(values, key.shape[1]))


class ToMeSDMerger(Merger):
    """Tokens of random places of a frame take up those that resemble them most, before a module and until behind it.

    Two things differ from the published package. It draws destinations anew at each call; here they are drawn at the
    first call with a grid, as by `ToMeSDReducer`, and stay in every layer and step. It compares tokens before the
    block's norm; here they are compared as they come to the module, behind it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._splits: dict[tuple[tuple[int, int], torch.device], list[Split]] = {}

    def merge(self, tokens: Tensor, grid: tuple[int, int], keep: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Tokens that did not merge and behind them the destinations, drawn by `grid_splits`, as the mean of what they
        stand for; the way back copies each to all of that.

        Of the same tokens and draws it makes what the published package does, as long as its one pass will do (at most
        three quarters of the tokens go); further passes are over the destinations. Metric: the tokens, by cosine.
        """
        place = grid, tokens.device
        if place not in self._splits:
            self._splits[place] = grid_splits(*grid, self._seed, tokens.device)
        (merged,), home = _merged((tokens,), self._splits[place], keep)

        def back(output: Tensor) -> Tensor:
            return output if home is None else pick(output, home)

        return merged, back


def _merged(tokens: Sequence[Tensor], splits: Sequence[Split], keep: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Tokens [N, n, C] merged, pass by pass, to [N, keep, C], by the resemblance of the first of them; and which of
    those each token went to, [N, n], or None if none merged."""
    found, sizes, home = tuple(tokens), None, None
    for split in splits:
        length = found[0].shape[1]
        if length <= keep:
            break
        pairs = [(pick(one, split.sources), pick(one, split.destinations)) for one in found]
        sources, destinations = len(split.sources), len(split.destinations)
        matching = Matching.best(unit(pairs[0][0]), unit(pairs[0][1]), min(length - keep, sources))
        weights = (None, None) if sizes is None else (sizes[:, split.sources], sizes[:, split.destinations])
        merging = Merging(matching, destinations, *weights)
        found, sizes = tuple(merging(*pair) for pair in pairs), merging.sizes
        step = matching.homes(destinations)[:, split.inverse]
        home = step if home is None else step.gather(1, home)
    return found, home
