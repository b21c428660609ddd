"""The sections of a spec: frozen models that refuse unknown keys, wrong types and impossible values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from f3core.budget import Budget
from f3core.errors import suggest
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal, Structure

_Count = Annotated[int, Field(ge=1)]
_T = TypeVar("_T")


def _word(*kinds: Any) -> Any:
    """Strict models take only members of enums; a spec gives words."""
    members = {str(member): member for kind in kinds for member in kind}

    def convert(value: Any) -> Any:
        if value is None or isinstance(value, kinds):
            return value
        if not isinstance(value, str) or value not in members:
            raise ValueError(f"unknown {value!r}: {suggest(str(value), members)}")
        return members[value]

    return BeforeValidator(convert, json_schema_input_type=Literal[tuple(members)])


def _distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ValueError("give at least one")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{value} is given twice; every value once")
    return values


class Choice(BaseModel):
    """Something registered: its name, or ``{name: {option: value}}``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)


def _chosen(given: Any) -> Any:
    if isinstance(given, str):
        return Choice(name=given)
    if isinstance(given, Mapping) and len(given) == 1:
        name, options = next(iter(given.items()))
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return Choice(name=name, options=dict(options or {}))
    if isinstance(given, Choice):
        return given
    raise ValueError(f"write a name, or {{name: {{option: value}}}}, not {given!r}")


def _as_written(choice: Choice) -> Any:
    return {choice.name: choice.options} if choice.options else choice.name


AChoice = Annotated[
    Choice,
    BeforeValidator(_chosen, json_schema_input_type=str | dict[str, dict[str, Any] | None]),
    PlainSerializer(_as_written),
]
Choices = Annotated[tuple[AChoice, ...], Field(strict=False)]
DEFAULT_RATIO = 0.5
_Ratio = Annotated[float, Field(ge=0, le=1)]
_Seed = Annotated[int, Field(ge=0)]
_Target = Annotated[AttentionKind | Structure, _word(AttentionKind, Structure)]
_Ratios = Annotated[tuple[_Ratio, ...], Field(strict=False), AfterValidator(_distinct)]
_Targets = Annotated[tuple[_Target, ...], Field(strict=False), AfterValidator(_distinct)]
_Seeds = Annotated[tuple[_Seed, ...], Field(strict=False), AfterValidator(_distinct)]


class Section(BaseModel):
    """What every section shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(Section):
    """Which model, and how it generates."""

    source: str = Field(min_length=1, description="a hub id, a local folder, or a name that a plugin registered")
    adapter: str | None = Field(None, description="an adapter by name; found by the model's class when left out")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(None, description="float32 when left out")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto (a GPU if there is one), cpu, cuda, cuda:1"
    )
    call: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of every generation: num_frames, height, width, ...",
    )


class CalibrateSpec(Section):
    """On what attention is scored."""

    prompts: str = Field(min_length=1, description="a prompt set of a plugin, or a .txt, .csv or .jsonl file")
    num_prompts: _Count = 16
    steps: _Count = Field(20, description="denoising steps of each calibration run")
    seed: _Seed = 0
    batch_size: _Count = Field(1, description="prompts run at once; more is faster where the device is not full")
    impact_prompts: _Count | None = Field(
        None, description="prompts on which criteria that need it try removals out; half of num_prompts otherwise"
    )
    query_stride: _Count = Field(1, description="look at every k-th query of each frame: 1 is exact, 8 nearly free")


class PruneSpec(Section):
    """What goes."""

    method: AChoice = Choice(name="f3")
    target: _Target = AttentionKind.TEMPORAL
    axis: Annotated[PruningAxis | None, _word(PruningAxis)] = Field(None, description="the adapter's own when left out")
    criterion: AChoice = Choice(name="aas")
    ratio: _Ratio | None = Field(None, description="share of the units that goes; 0.5 when there is no budget either")
    budget: Budget | None = Field(None, description="what to save, or what it may cost, instead of a ratio")
    removal: Annotated[Removal | None, _word(Removal)] = Field(None, description="the site's first when left out")
    branch: Annotated[GuidanceBranch, _word(GuidanceBranch)] = Field(
        GuidanceBranch.BOTH, description="under classifier-free guidance, whose forwards: both, or unconditional alone"
    )
    step_ranges: _Count | None = Field(
        None, description="step ranges of the timestep and cell axes: every step its own, or 4, when left out"
    )
    seed: _Seed = Field(0, description="of criteria and methods that draw at random")

    @model_validator(mode="before")
    @classmethod
    def _half(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("ratio") is None and given.get("budget") is None:
            return {**given, "ratio": DEFAULT_RATIO}
        return given

    @field_validator("budget")
    @classmethod
    def _instead_of_a_ratio(cls, budget: Budget | None, info: ValidationInfo) -> Budget | None:
        if budget is not None and info.data.get("ratio") is not None:
            raise ValueError("stands instead of a ratio; give one of the two (ratio: null takes one away)")
        return budget


class EvaluateSpec(Section):
    """What is measured, before and after."""

    metrics: Choices = Field((), description="names, or {name: {option: value}}")
    num_clips: _Count = 16
    batch_size: _Count = 8
    steps: _Count | None = Field(None, description="as in calibration when left out")
    seed: _Seed = 1
    timing_pairs: Annotated[int, Field(ge=0)] = Field(3, description="interleaved before/after runs; 0 for no timing")
    timing_batch: _Count = Field(1, description="clips in each timed run")


class SweepSpec(Section):
    """Over what `sweep` goes; `attention` takes its seeds from here too."""

    ratios: _Ratios | None = Field(
        None, description="the ratio of prune when left out; the unpruned model (0) is always measured"
    )
    targets: _Targets | None = Field(
        None, description="kinds of attention, pruned one at a time; the target of prune when left out"
    )
    seeds: _Seeds = Field((0, 1, 2), description="seeds of noise and prompts, instead of those of the other sections")


UNPRUNED = "unpruned"
"""the name of the row that every comparison begins with"""


def _listed(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else [given]


class CompareRow(Section):
    """One row of a comparison: another model, what is pruned, what accelerates it, or several of these."""

    name: str = Field(min_length=1, description="as tables and the picture show it")
    source: str | None = Field(
        None,
        min_length=1,
        description="another model in the place of the spec's, such as a student of it, called in the same way: a hub "
        "id, a local folder, or a registered name",
    )
    prune: PruneSpec | None = Field(
        None, description="over the spec's own prune section, key by key; nothing is pruned when left out"
    )
    accelerate: Annotated[Choices, BeforeValidator(_listed)] = Field(
        (), description="an accelerator, or a list of them: names, or {name: {option: value}}"
    )

    @model_validator(mode="after")
    def _does_something(self) -> CompareRow:
        if self.name == UNPRUNED:
            raise ValueError(f"{UNPRUNED!r} is the row of the model as it is, which is always there; give another name")
        if self.source is None and self.prune is None and not self.accelerate:
            raise ValueError("give source, prune, accelerate or several of them; the model as it is has a row already")
        return self


def _named_apart(rows: tuple[CompareRow, ...]) -> tuple[CompareRow, ...]:
    _distinct(tuple(row.name for row in rows))
    return rows


class CompareSpec(Section):
    """What `compare` puts side by side, beside the unpruned model."""

    seeds: _Seeds = Field((0, 1, 2), description="seeds of noise and prompts, instead of those of the other sections")
    rows: Annotated[tuple[CompareRow, ...], Field(strict=False), AfterValidator(_named_apart)]


def with_whole_rows(given: Any) -> Any:
    """A raw spec whose comparison's rows have whole prune sections: what a row leaves out is the spec's own.

    A row's budget stands instead of the spec's ratio, and the other way round. What is not of the form of a spec, or
    a prune section that is wrong already, is left for validation to refuse.
    """
    if not isinstance(given, Mapping):
        return given
    compare, own = given.get("compare"), given.get("prune")
    if not isinstance(compare, Mapping) or not isinstance(own, Mapping) or not _valid(own):
        return given
    rows = compare.get("rows")
    if not isinstance(rows, list | tuple):
        return given

    def whole(row: Any) -> Any:
        if not isinstance(row, Mapping) or not isinstance(row.get("prune"), Mapping):
            return row
        goals = {"ratio", "budget"}
        inherited = {key: value for key, value in own.items() if not (key in goals and goals & row["prune"].keys())}
        return {**row, "prune": {**inherited, **row["prune"]}}

    return {**given, "compare": {**compare, "rows": [whole(row) for row in rows]}}


def _valid(prune: Mapping[str, Any]) -> bool:
    try:
        PruneSpec.model_validate(prune)
    except ValidationError:
        return False
    return True
