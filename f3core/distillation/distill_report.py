"""What a distillation found out, as data: the teacher beside the student before and after its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from f3core.environment import Provenance
from f3core.evaluate import PairedTiming
from f3core.report import PlanSummary

FILE = "distill.json"
TENTH = 10
"""The first and last loss are means over the first and last one in so many of the steps, for one step says little."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Variant(_Frozen):
    """A model of the comparison. ``parameters`` of the denoiser; ``macs``: multiply-adds of one clip, all steps,
    counted; ``quality``: figures by metric; ``damage``: mean squared error to the teacher's clips of equal noise (None
    where no clip was made, and of the teacher)."""

    parameters: int
    macs: int
    quality: dict[str, dict[str, float]] = Field(default_factory=dict)
    damage: float | None = None


class LossTold(_Frozen):
    """A loss of the training: its ``weight`` (None of what was trained against the student, and of the sum of all),
    what else it was made with, and its value before the weight as training began and ended: means over some steps."""

    name: str
    weight: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    first: float
    last: float


class Training(_Frozen):
    """How the student was trained. ``clips``: of the data set, ``seen``: by the student, repetitions counted;
    ``seconds`` of training alone, over all runs that it took; ``over``: the steps of which the first and last losses
    are means; ``learning_rate``: the highest; ``matched``: blocks that teacher and student both have;
    ``precision``: of the forwards; ``dtype`` and ``device`` of the weights."""

    data: str
    clips: int
    losses: tuple[LossTold, ...]
    over: int
    steps: int
    batch_size: int
    seen: int
    seconds: float
    processes: int
    precision: str
    dtype: str
    device: str
    ema: float
    learning_rate: float
    matched: int


class Distillation(Provenance):
    """Everything a distillation found out. ``clips`` of ``generation_steps`` steps are behind quality and damage;
    ``timing``: interleaved runs of the teacher (before) and the student (after); ``samples``: paths of clips made
    during training, relative to the report's folder."""

    plan: PlanSummary
    training: Training
    teacher: Variant
    untrained: Variant
    trained: Variant
    higher_is_better: dict[str, bool] = Field(default_factory=dict)
    clips: int = 0
    generation_steps: int
    timing: PairedTiming | None = None
    samples: tuple[str, ...] = ()

    @property
    def variants(self) -> dict[str, Variant]:
        """The models by the names that tables give them."""
        return {"teacher": self.teacher, "student, untrained": self.untrained, "student, trained": self.trained}


def averaged(steps: int) -> int:
    """Over how many steps the first and the last value of a loss are means."""
    return max(1, steps // TENTH)


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last values of a loss. Raises `ValueError` for none."""
    if not values:
        raise ValueError("no step was made, so there is no loss to tell")
    over = averaged(len(values))
    return sum(values[:over]) / over, sum(values[-over:]) / over
