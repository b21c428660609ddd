"""Attention mass by kind of what is told as one (a layer, a step), and between frames; in numpy, from scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from f3core.impact import Array
from f3core.plan import by_layer
from f3core.planning import scored_sites
from f3core.scores import Scores, ScoresHeader
from f3core.sites import KINDS, AttentionKind, PruningAxis


@dataclass(frozen=True)
class Masses:
    """Of G groups (layers or steps), in the order of `KINDS`.

    ``mass`` [3, G]: the Aggregate Attention Score, summed over prompts, queries and heads. ``share`` [3, G]: the part
    of one query's attention, mean over the heads and queries of the sites that pay any to that kind; NaN where none do.
    """

    labels: tuple[str, ...]
    mass: Array
    share: Array


def blocks(header: ScoresHeader) -> dict[str, list[int]]:
    """Sites (indices) of each layer, by the layer's name: the cross-attention of a layer is told with its others."""
    return {name: [header.sites.index(fqn) for fqn in fqns] for name, fqns in by_layer(scored_sites(header)).items()}


def masses(scores: Scores, axis: PruningAxis, layers: Mapping[str, Sequence[int]]) -> Masses:
    """Masses over the steps on the timestep axis, over ``layers`` (see `blocks`) on the others.

    Raises `ScoresError` when nothing was scored.
    """
    mass = np.stack([scores.mass(kind) for kind in KINDS])
    paid = (mass > 0) * scores.query_heads()
    if axis is PruningAxis.TIMESTEP:
        grouped, queries = mass.sum(axis=1), paid.sum(axis=1)
        labels = [f"{level:.3g}" if level < 10 else f"{level:.0f}" for level in scores.header.levels]
    else:
        grouped, queries = (
            np.stack([every[:, sites].sum(axis=(1, 2)) for sites in layers.values()], axis=1) for every in (mass, paid)
        )
        labels = short(list(layers))
    share = np.divide(grouped, queries, out=np.full_like(grouped, np.nan), where=queries > 0)
    return Masses(tuple(labels), grouped, share)


def short(names: Sequence[str]) -> list[str]:
    """What tells dotted names apart; their number where that is long."""
    parts = [name.split(".") for name in names]
    if len({len(part) for part in parts}) == 1:
        differing = [i for i in range(len(parts[0])) if len({part[i] for part in parts}) > 1]
        found = [".".join(part[i] for i in differing) for part in parts]
        if len(names) > 1 and max(map(len, found)) <= 8:
            return found
    return [str(i) for i in range(len(names))]


def temporal_maps(scores: Scores) -> Array:
    """[N, F, F] of the N sites that relate frames: the share that a query of frame i gives to keys of frame j.

    All sites where none relates frames.
    """
    maps = scores.frame_map()
    related = maps[scores.mass(AttentionKind.TEMPORAL).sum(axis=1) > 0]
    return related if len(related) else maps
