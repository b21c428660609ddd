"""`Impact`: what taking attention away did to the model's output, tried out on a few prompts. Numpy alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f3core.plan import StepRange
from f3core.sites import GuidanceBranch, Removal, Target, target_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Impact:
    """Measured over K step ranges, S sites and P prompts, where all sites lose ``target`` by their ``removals``.

    ``damage`` [K, P]: mean squared error of the clip, against the unpruned model's from the same noise, when all sites
    lose the target in a step range and nowhere else.
    ``output_drift`` [K, S, P]: how far what the denoiser predicts with guidance moves (`Adapter.distance`: the mean
    square) when a site alone loses the target in the first step of a range; 0 where the site does not run there.
    ``branch_drift`` [K, S, B, P]: the same when it loses it in one guidance branch only, weighted as guidance weighs
    it. ``branches``: by component, the weight of each branch in the prediction, in the order in which they run.
    """

    target: Target
    removals: Mapping[str, Removal]
    ranges: tuple[StepRange, ...]
    branches: Mapping[str, tuple[float, ...]]
    damage: Array
    output_drift: Array
    branch_drift: Array
    change: Array = field(default_factory=lambda: np.zeros((0, 0)))
    """[S, P], of blocks: 1 − cosine of what each takes and gives (`f3core.block_changes`); empty otherwise"""

    FIELDS = ("damage", "output_drift", "branch_drift", "change")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites (fqns) in the order of the arrays."""
        return tuple(self.removals)

    def fits(self, target: Target, removals: Mapping[str, Removal], ranges: Sequence[StepRange], prompts: int) -> bool:
        """Whether this is what losing ``target`` by these removals over these step ranges does, on so many prompts."""
        same = self.of(target, removals) and self.ranges == tuple(ranges)
        return same and self.damage.shape[1] == prompts

    def of(self, target: Target, removals: Mapping[str, Removal]) -> bool:
        """Whether it was measured of losing ``target`` by these removals."""
        return self.target is target and dict(self.removals) == dict(removals)

    def by_step(self, levels: Sequence[float]) -> Array:
        """[S, T] predicted damage of the removal at a site in a step, by itself: the damage of each range, shared among
        its sites as the drift of the output is, and among its steps evenly.

        Damage ≈ drift × amplification; the amplification of a range, by all that happens afterwards, is taken to be
        the same for all sites: (damage of the range) ÷ (summed drift of its sites).
        """
        shares = self.output_drift.mean(axis=2)
        whole = shares.sum(axis=1, keepdims=True)
        shares = np.divide(shares, whole, out=np.full_like(shares, 1 / max(1, shares.shape[1])), where=whole > 0)
        member = np.array([[level in r for level in levels] for r in self.ranges], dtype=np.float64)
        amplified = self.damage.mean(axis=1) / np.maximum(member.sum(axis=1), 1)
        spread: Array = np.einsum("k,ks,kt->st", amplified, shares, member)
        return spread

    def within(self, branch: GuidanceBranch) -> Impact:
        """The impact of the same removals in ``branch`` alone: measured for both; for the unconditional one the drift
        that each site has there, with the damage of a range predicted by the amplification that it has with both.
        """
        if branch is GuidanceBranch.BOTH:
            return self
        drift = np.zeros_like(self.output_drift)
        for i, site in enumerate(self.sites):
            weights = self.branches[site.partition(".")[0]]
            if len(weights) > 1:
                drift[:, i] = self.branch_drift[:, i, weights.index(min(weights))]
        alone, both = (every.mean(axis=2).sum(axis=1) for every in (drift, self.output_drift))
        part = np.divide(alone, both, out=np.zeros_like(both), where=both > 0)
        return replace(self, damage=self.damage * part[:, None], output_drift=drift)

    def to_json(self) -> str:
        """All but the arrays, as JSON."""
        ranges = [r.model_dump(mode="json") for r in self.ranges]
        removals = {site: str(removal) for site, removal in self.removals.items()}
        named = {"target": str(self.target), "removals": removals, "ranges": ranges, "branches": dict(self.branches)}
        return json.dumps(named)

    @classmethod
    def from_json(cls, text: str, arrays: Mapping[str, Any]) -> Impact:
        """Inverse of `to_json`, with the arrays by name. Raises `ValueError` or `KeyError` for anything else."""
        data = json.loads(text)
        return cls(
            target_of(data["target"]),
            {site: Removal(removal) for site, removal in data["removals"].items()},
            tuple(StepRange.model_validate(r) for r in data["ranges"]),
            {component: tuple(weights) for component, weights in data["branches"].items()},
            **{name: arrays[name] for name in cls.FIELDS if name != "change" or name in arrays},
        )
