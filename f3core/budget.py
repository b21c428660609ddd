"""`Budget`: what pruning must save, or may cost, instead of a share of units; and what was tried to meet it."""

from __future__ import annotations

from fractions import Fraction

from pydantic import BaseModel, ConfigDict, Field, model_validator

_GOALS = ("macs", "parameters", "speedup", "milliseconds", "metric")


class Budget(BaseModel):
    """Exactly one of ``macs``, ``parameters``, ``speedup``, ``milliseconds`` and ``metric`` (with ``max_drop``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    macs: float | None = Field(
        None, gt=0, le=1, description="at most this share of the denoisers' MACs of one generation stays"
    )
    parameters: float | None = Field(
        None, gt=0, le=1, description="at most this share of the denoisers' parameters stays"
    )
    speedup: float | None = Field(
        None, ge=1, description="denoiser seconds before ÷ after, measured on this machine, to 5 %"
    )
    milliseconds: float | None = Field(
        None,
        gt=0,
        description="denoiser milliseconds of one generation of evaluate.timing_batch clips at most, measured on this "
        "machine, to 5 %",
    )
    metric: str | None = Field(
        None,
        min_length=1,
        description="a metric of the evaluate section (all its figures), or one figure of it as metric.figure",
    )
    max_drop: float | None = Field(
        None, ge=0, description="how far a figure of the metric may fall (rise, where lower is better), in its own unit"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        given = [name for name in _GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of {', '.join(_GOALS[:-1])}, and metric with max_drop; found {found}")
        if (self.metric is None) != (self.max_drop is None):
            lacking = "max_drop" if self.max_drop is None else "metric"
            raise ValueError(f"metric and max_drop go together; {lacking} is missing")
        return self

    def __str__(self) -> str:
        if self.macs is not None:
            return f"MACs ≤ {self.macs:g} of before"
        if self.parameters is not None:
            return f"parameters ≤ {self.parameters:g} of before"
        if self.milliseconds is not None:
            return f"denoiser ≤ {self.milliseconds:g} ms"
        if self.speedup is not None:
            return f"speed-up ≥ {self.speedup:g}×"
        return f"{self.metric} within {self.max_drop:g}"

    @property
    def measured(self) -> bool:
        """Whether only running the pruned model tells if the budget is met."""
        return self.macs is None and self.parameters is None

    @property
    def timed(self) -> bool:
        """Whether it is about seconds."""
        return self.speedup is not None or self.milliseconds is not None

    def to_save(self, total: int) -> int | None:
        """How many of the MACs of one generation must go as far as the budget itself says, or of the parameters for a
        budget of parameters: exact for these two, a prediction for ``speedup`` (as if time went with MACs); None for
        ``milliseconds`` and a metric, which say nothing before the model has run."""
        share = self.macs if self.macs is not None else self.parameters
        if share is None and self.speedup is None:
            return None
        stays = Fraction(str(share)) if share is not None else 1 / Fraction(str(self.speedup))
        return total - int(stays * total)


class Tried(BaseModel):
    """A candidate that was measured on the way to a budget.

    ``macs``: share of the MACs that stays; ``units``: how many go; ``predicted``: their summed scores, where the
    criterion's add up; ``measured``: figures by name; ``verdict``: what they mean for the budget, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    macs: float
    units: int
    predicted: float | None
    measured: dict[str, float]
    verdict: str
    chosen: bool = False
