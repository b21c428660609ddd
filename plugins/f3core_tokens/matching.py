"""Matching tokens with their most similar ones, and merging those that match: what ToMe, ToMeSD and TPS share.

Tokens are [N, n, C], row by row: a token of all heads is one line of memory, so that picking and adding tokens moves
whole lines. Similarities are bounded in memory, and nothing here has a shape that depends on values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAP_ELEMENTS = {"cpu": 2**20}
"""Of a map between tokens, how many elements are made at a time: on a CPU what its cache holds, by type of device."""
_MANY_ELEMENTS = 2**26
_HALF = (torch.float16, torch.bfloat16)
_WIDE_PRODUCTS = "dtype" in torch.ops.aten.bmm.overloads() and torch.version.hip is None


def rows(tokens: Tensor) -> Tensor:
    """Keys or values [N, H, n, D] as tokens [N, n, H * D]; no copy where a model laid them out so."""
    return tokens.transpose(1, 2).flatten(2)


def heads(tokens: Tensor, count: int) -> Tensor:
    """The way back: tokens [N, n, H * D] as [N, H, n, D]."""
    return tokens.unflatten(2, (count, -1)).transpose(1, 2)


def products(left: Tensor, right: Tensor) -> Tensor:
    """``left`` [B, s, C] times ``right`` [B, d, C] transposed, [B, s, d], in float32 at least.

    A GPU multiplies half precision as it is and sums in float32; a CPU is no slower in float32.
    """
    if left.dtype not in _HALF:
        return torch.bmm(left, right.mT)
    if left.is_cuda and _WIDE_PRODUCTS:
        return torch.bmm(left, right.mT, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float().mT)


def wide(tokens: Tensor) -> Tensor:
    """Half precision as float32, anything else as it is: sums of many tokens need the digits."""
    return tokens.float() if tokens.dtype in _HALF else tokens


def unit(tokens: Tensor) -> Tensor:
    """Tokens of length 1 (a zero token stays zero), worked out in float32, in the dtype that was given."""
    found = wide(tokens)
    length = found.square().sum(-1, keepdim=True).sqrt_().clamp_min_(1e-12)
    return (found / length).to(tokens.dtype)


def nearest(sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """Of each source [N, s, C] the highest product with a destination [N, d, C], and which one that is: [N, s] each."""
    parts = sources.detach().split(at_once(sources, sources.shape[0] * destinations.shape[1]), dim=1)
    found = [products(part, destinations.detach()).max(dim=-1) for part in parts]
    if len(found) == 1:
        return found[0].values, found[0].indices
    return torch.cat([one.values for one in found], dim=1), torch.cat([one.indices for one in found], dim=1)


def at_once(tokens: Tensor, elements: int) -> int:
    """Of how many of the ``tokens`` [N, s, C] in each row the map is made at a time, where one in every row has
    ``elements`` of it. On meta, where nothing is held, all."""
    return max(
        1, tokens.shape[1] if tokens.is_meta else MAP_ELEMENTS.get(tokens.device.type, _MANY_ELEMENTS) // elements
    )


def pick(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens [N, r, C] at ``index`` [N, r], or at [r] in every row, of tokens [N, n, C]."""
    lines = _lines(index, tokens)
    return tokens.flatten(0, 1).index_select(0, lines).view(tokens.shape[0], index.shape[-1], tokens.shape[2])


def _lines(index: Tensor, tokens: Tensor) -> Tensor:
    """An index into tokens [N, n, C] as one into their N * n lines."""
    count, length = tokens.shape[:2]
    return (index + torch.arange(0, count * length, length, device=index.device)[:, None]).flatten()


@dataclass(frozen=True)
class Matching:
    """Which sources merge into which destinations.

    ``into`` [N, r]: the destination of each source that goes. ``order`` [N, s]: the sources, those r first, best match
    first; None where all of them go, in their own order.
    """

    into: Tensor
    order: Tensor | None = None

    @classmethod
    def best(cls, sources: Tensor, destinations: Tensor, count: int) -> Matching:
        """Each source with the destination of highest product; the ``count`` best of these pairs."""
        similarity, into = nearest(sources, destinations)
        if count == sources.shape[1]:
            return cls(into)
        order = similarity.argsort(dim=-1, descending=True, stable=True)
        return cls(into.gather(1, order[:, :count]), order)

    @property
    def count(self) -> int:
        """How many sources go."""
        return self.into.shape[1]

    @property
    def left(self) -> int:
        """How many stay."""
        return 0 if self.order is None else self.order.shape[1] - self.count

    def going(self, sources: Tensor) -> Tensor:
        """Those of ``sources`` [N, s, C] that go, [N, r, C], as ``into`` has them."""
        return sources if self.order is None else pick(sources, self.order[:, : self.count])

    def staying(self, sources: Tensor) -> Tensor:
        """Those that stay, [N, s - r, C]."""
        return sources[:, :0] if self.order is None else pick(sources, self.order[:, self.count :])

    def homes(self, destinations: int) -> Tensor:
        """Where sources and then destinations are found behind merging (see `Merging`): [N, s + d]."""
        places = torch.arange(self.left + destinations, device=self.into.device).expand(self.into.shape[0], -1)
        found = self.into + self.left
        if self.order is not None:
            found = torch.cat([found, places[:, : self.left]], dim=1)
            found = torch.empty_like(found).scatter_(1, self.order, found)
        return torch.cat([found, places[:, self.left :]], dim=1)


class Merging:
    """Weighted means over the pairs of a matching: tokens that stay come first, destinations with all that went into
    them behind.

    ``sizes`` [N, s - r + d]: the summed weights, in float32. Weights of sources [N, s] and of destinations [N, d] are 1
    where None.
    """

    def __init__(
        self, matching: Matching, destinations: int, weights: Tensor | None = None, own_weights: Tensor | None = None
    ) -> None:
        def ones(count: int) -> Tensor:
            return matching.into.new_ones((matching.into.shape[0], count, 1), dtype=torch.float32)

        self._matching = matching
        self._going = None if weights is None else matching.going(weights.float()[..., None])
        self._own = None if own_weights is None else own_weights.float()[..., None]
        self._total = _added(
            ones(destinations) if self._own is None else self._own,
            matching.into,
            ones(matching.count) if self._going is None else self._going,
        )
        staying = ones(matching.left) if weights is None else matching.staying(weights.float()[..., None])
        self.sizes = torch.cat([staying, self._total], dim=1)[..., 0]

    def __call__(self, sources: Tensor, destinations: Tensor) -> Tensor:
        """Tokens [N, s - r + d, C] of sources [N, s, C] and destinations [N, d, C]."""
        going, own = wide(self._matching.going(sources)), wide(destinations)
        if self._going is not None:
            going = going * self._going
        if self._own is not None:
            own = own * self._own
        mean = _added(own, self._matching.into, going).div_(self._total).to(sources.dtype)
        return torch.cat([self._matching.staying(sources), mean], dim=1) if self._matching.left else mean


def _added(base: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
    """A copy of ``base`` [N, d, C] with ``tokens`` [N, r, C] added at ``index`` [N, r]."""
    found = base.clone(memory_format=torch.contiguous_format)
    found.flatten(0, 1).index_add_(0, _lines(index, base), tokens.flatten(0, 1))
    return found
