"""What a rank study found out: data alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from f3core.environment import Provenance
from f3core.stats import Figure

CEILING = "leave_one_out"
"""The true damage itself as a criterion: what no criterion is expected to beat."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Choice(_Frozen):
    """What a criterion chose for a share of the MACs that pruning everything saves: the share of all MACs that it
    ``saved``, the damage, and the figures of every metric."""

    criterion: str
    seed: int
    share: float
    saved: float
    damage: float
    quality: dict[str, float]


class AxisRanking(_Frozen):
    """One axis. By seed, in the study's order: the step ``ranges``, ``alone``, the damage of pruning each unit alone,
    and by criterion ``spearman``, the correlation of its scores with that (None where all are equal)."""

    axis: str
    ranges: tuple[tuple[str, ...], ...]
    alone: tuple[dict[str, float], ...]
    spearman: dict[str, tuple[float | None, ...]]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, axis: str, seeds: Sequence[int], parts: Sequence[Mapping[str, Any]]) -> AxisRanking:
        """From what was kept of each seed."""
        return cls(
            axis=axis,
            ranges=tuple(tuple(part["ranges"]) for part in parts),
            alone=tuple(part["alone"] for part in parts),
            spearman={name: tuple(part["spearman"][name] for part in parts) for name in parts[0]["spearman"]},
            choices=tuple(
                Choice(seed=seed, **choice)
                for seed, part in zip(seeds, parts, strict=True)
                for choice in part["choices"]
            ),
        )

    @property
    def alike(self) -> bool:
        """Whether a unit is the same under every seed: ranges are cut by what was scored."""
        return len(set(self.ranges)) == 1

    @property
    def criteria(self) -> tuple[str, ...]:
        """In the order of the study, the ceiling last."""
        return tuple(self.spearman)

    def correlation(self, criterion: str) -> Figure | None:
        """Mean Spearman over the seeds that have one."""
        found = [value for value in self.spearman[criterion] if value is not None]
        return Figure.of(found) if found else None

    def chosen(self, criterion: str, share: float) -> list[Choice]:
        """Of every seed."""
        return [c for c in self.choices if c.criterion == criterion and c.share == share]

    @property
    def best(self) -> str:
        """The criterion (not the ceiling) with the highest mean Spearman."""
        found = {name: self.correlation(name) for name in self.criteria if name != CEILING}
        return max(sorted(found), key=lambda name: -2.0 if (mean := found[name]) is None else mean.mean)


class RankStudy(Provenance):
    """A whole study. ``shares``: of the MACs that pruning everything saves; ``unpruned``: figures without pruning, by
    seed; ``higher_is_better``: by metric."""

    version: int = 2
    target: str
    clips: int
    steps: int
    shares: tuple[float, ...]
    higher_is_better: dict[str, bool]
    unpruned: tuple[dict[str, float], ...]
    axes: tuple[AxisRanking, ...]

    def mean_unpruned(self, name: str) -> float:
        """Mean over seeds."""
        return _mean(figures[name] for figures in self.unpruned)


def _mean(values: Iterable[float]) -> float:
    return Figure.of(values).mean
