"""`Costs`: what a model's forwards cost and what removals save in them, in MACs. Pure: no model, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from f3core.errors import PlanError
from f3core.plan import Unit
from f3core.sites import AttentionKind, Removal, Structure, Target

Passes = Mapping[str, Mapping[str, Sequence[int]]]
"""By component and kind of forward, denoiser rows of one clip in each step, or step range (guidance counted)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteCost(_Frozen):
    """MACs of one site in one forward of one row: its attention maps by kind, and what each removal would save.

    ``saved`` is keyed ``"TA:self_only"``: target and removal. ``parameters``: how many leave the model by it, likewise.
    A block has no maps of its own: those are of the sites in it.
    """

    maps: dict[AttentionKind, int]
    saved: dict[str, int]
    parameters: dict[str, int] = Field(default_factory=dict)


class Costs(_Frozen):
    """What a model costs: MACs of one forward of one row, by component and kind of forward, and of its sites in it."""

    forward: dict[str, dict[str, int]]
    sites: dict[str, dict[str, SiteCost]]
    parameters: dict[str, int] = Field(default_factory=dict)
    """by component"""

    def saved(self, site: str, target: Target, removal: Removal, kind: str) -> int:
        """MACs that ``removal`` of ``target`` at ``site`` saves in one forward of ``kind`` of one row."""
        return self.sites[site][kind].saved[f"{target}:{removal}"]

    def generation(self, passes: Passes) -> int:
        """MACs of the forwards counted in ``passes``.

        Raises `PlanError` for a kind of forward that has no price, which is one that calibration met and the capture
        of inputs did not.
        """
        for component, kinds in passes.items():
            unknown = sorted(kinds.keys() - self.forward[component].keys())
            if unknown:
                raise PlanError(f"{component} ran forwards of a kind that was not counted: {unknown[0]}")
        return sum(self.forward[name][kind] * sum(rows) for name, ks in passes.items() for kind, rows in ks.items())

    def parameters_saved(self, site: str, target: Target, removal: Removal) -> int:
        """Parameters that leave the model with ``removal`` of ``target`` at ``site``, done at every step."""
        return max(cost.parameters.get(f"{target}:{removal}", 0) for cost in self.sites[site].values())

    def occurs(self, site: str, target: Target, passes: Passes, index: int) -> bool:
        """Whether ``site`` computes maps of ``target`` in the step (range) at ``index`` of ``passes``."""
        ran = {kind for kind, rows in passes[site.partition(".")[0]].items() if rows[index]}
        if target is Structure.BLOCK:
            return bool(ran)
        return any(cost.maps.get(target, 0) > 0 for kind, cost in self.sites[site].items() if kind in ran)


def unit_saving(
    unit: Unit,
    costs: Costs,
    target: Target,
    removals: Mapping[str, Removal],
    passes: Passes,
) -> int:
    """MACs of one generation that a unit's removal saves: per-forward savings times the rows run in its ranges."""
    total = 0
    for site in unit.sites:
        for kind, rows in passes[site.partition(".")[0]].items():
            total += costs.saved(site, target, removals[site], kind) * sum(rows[i] for i in unit.ranges)
    return total
