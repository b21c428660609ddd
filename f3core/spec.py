"""`Spec`: one YAML file that says what to prune, how, and what to measure. Errors point at file:line:column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

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

from f3core import yaml_source
from f3core.budget import Budget
from f3core.errors import SpecError, suggest
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal

_Count = Annotated[int, Field(ge=1)]
_T = TypeVar("_T")


def _word(kind: Any) -> Any:
    """Strict models take only members of an enum; a spec gives words."""

    def convert(value: Any) -> Any:
        if value is None or isinstance(value, kind):
            return value
        allowed = [str(member) for member in kind]
        if value not in allowed:
            raise ValueError(f"unknown {value!r}: {suggest(str(value), allowed)}")
        return kind(value)

    return BeforeValidator(convert, json_schema_input_type=Literal[tuple(str(m) for m in kind)])


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


_Choice = Annotated[
    Choice,
    BeforeValidator(_chosen, json_schema_input_type=str | dict[str, dict[str, Any] | None]),
    PlainSerializer(_as_written),
]
_Choices = Annotated[tuple[_Choice, ...], Field(strict=False)]
DEFAULT_RATIO = 0.5
_Ratio = Annotated[float, Field(ge=0, le=1)]
_Seed = Annotated[int, Field(ge=0)]
_Target = Annotated[AttentionKind, _word(AttentionKind)]
_Ratios = Annotated[tuple[_Ratio, ...], Field(strict=False), AfterValidator(_distinct)]
_Targets = Annotated[tuple[_Target, ...], Field(strict=False), AfterValidator(_distinct)]
_Seeds = Annotated[tuple[_Seed, ...], Field(strict=False), AfterValidator(_distinct)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSpec(_Section):
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


class CalibrateSpec(_Section):
    """On what attention is scored."""

    prompts: str = Field(min_length=1, description="a prompt set of a plugin, or a text file with one prompt a line")
    num_prompts: _Count = 16
    steps: _Count = Field(20, description="denoising steps of each calibration run")
    seed: _Seed = 0
    batch_size: _Count = Field(1, description="prompts run at once; more is faster where the device is not full")
    impact_prompts: _Count | None = Field(
        None, description="prompts on which criteria that need it try removals out; half of num_prompts otherwise"
    )
    query_stride: _Count = Field(1, description="look at every k-th query of each frame: 1 is exact, 8 nearly free")


class PruneSpec(_Section):
    """What goes."""

    method: str = "f3"
    target: _Target = AttentionKind.TEMPORAL
    axis: Annotated[PruningAxis | None, _word(PruningAxis)] = Field(None, description="the adapter's own when left out")
    criterion: str = "aas"
    ratio: _Ratio | None = Field(None, description="share of the units that goes; 0.5 when there is no budget either")
    budget: Budget | None = Field(None, description="what to save, or what it may cost, instead of a ratio")
    removal: Annotated[Removal | None, _word(Removal)] = Field(None, description="the site's first when left out")
    branch: Annotated[GuidanceBranch, _word(GuidanceBranch)] = Field(
        GuidanceBranch.BOTH, description="under classifier-free guidance, whose forwards: both, or unconditional alone"
    )
    step_ranges: _Count | None = Field(
        None, description="step ranges of the timestep and cell axes: every step its own, or 4, when left out"
    )
    seed: _Seed = Field(0, description="of criteria that draw at random")

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


class EvaluateSpec(_Section):
    """What is measured, before and after."""

    metrics: _Choices = Field((), description="names, or {name: {option: value}}")
    num_clips: _Count = 16
    batch_size: _Count = 8
    steps: _Count | None = Field(None, description="as in calibration when left out")
    seed: _Seed = 1
    timing_pairs: Annotated[int, Field(ge=0)] = Field(3, description="interleaved before/after runs; 0 for no timing")
    timing_batch: _Count = Field(1, description="clips in each timed run")


class SweepSpec(_Section):
    """Over what `sweep` goes; `attention` takes its seeds from here too."""

    ratios: _Ratios | None = Field(
        None, description="the ratio of prune when left out; the unpruned model (0) is always measured"
    )
    targets: _Targets | None = Field(
        None, description="kinds of attention, pruned one at a time; the target of prune when left out"
    )
    seeds: _Seeds = Field((0, 1, 2), description="seeds of noise and prompts, instead of those of the other sections")


class Spec(_Section):
    """A whole spec. Frozen; unknown keys, wrong types and impossible values are refused."""

    version: Annotated[int, Field(ge=1, le=1)]
    model: ModelSpec
    calibrate: CalibrateSpec
    prune: PruneSpec = PruneSpec()
    evaluate: EvaluateSpec | None = EvaluateSpec()
    sweep: SweepSpec | None = None
    output: str = Field(min_length=1, description="folder to write; relative to where the command runs")


@dataclass(frozen=True)
class SpecFile:
    """A spec with the text it came from, so that later findings can still point at a line."""

    spec: Spec
    text: str
    name: str = "<spec>"
    overrides: tuple[str, ...] = ()
    places: Mapping[yaml_source.Path, yaml_source.Place] = field(default_factory=dict)

    def error(self, path: Sequence[str | int], message: str) -> SpecError:
        """A `SpecError` that points at ``path``, or at the override that set it."""
        return SpecError(f"{_where(self.name, tuple(path), self.places, self.overrides)}: {message}")


def load_spec(source: str | Path, overrides: Iterable[str] = ()) -> SpecFile:
    """Read a spec file. ``overrides`` are ``prune.ratio=0.3``-like, their values YAML.

    Raises `SpecError` listing every problem as ``file:line:column: what; what is allowed``.
    """
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}; give the path of a YAML spec") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from error
    return parse_spec(text, str(path), overrides)


def parse_spec(text: str, name: str = "<spec>", overrides: Iterable[str] = ()) -> SpecFile:
    """Read a spec from text; see `load_spec`."""
    overrides = tuple(overrides)
    try:
        located = yaml_source.read(text)
    except yaml_source.YamlProblem as error:
        raise SpecError(f"{name}:{error.place.line}:{error.place.column}: {error.message}") from error
    if not isinstance(located.value, dict):
        raise SpecError(f"{name}:1:1: a spec is a mapping with the keys {', '.join(Spec.model_fields)}")
    for override in overrides:
        _override_(located.value, override)
    places = {**located.places, **located.keys}
    try:
        spec = Spec.model_validate(located.value)
    except ValidationError as error:
        raise SpecError([_explain(name, problem, places, overrides) for problem in error.errors()]) from error
    return SpecFile(spec, text, name, overrides, places)


def _override_(value: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {override}: write it as section.key=value, such as prune.ratio=0.3")
    try:
        parsed = yaml_source.read(text).value
    except yaml_source.YamlProblem as error:
        raise SpecError(f"--set {override}: {error.message}") from error
    for key in keys[:-1]:
        inner = value.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SpecError(f"--set {override}: {key!r} is a value, not a section")
        value = inner
    value[keys[-1]] = parsed


def _where(
    name: str,
    path: yaml_source.Path,
    places: Mapping[yaml_source.Path, yaml_source.Place],
    overrides: Sequence[str],
) -> str:
    keys = tuple(map(str, path))
    for override in reversed(overrides):  # the last one won
        given = tuple(override.partition("=")[0].strip().split("."))
        if given == keys[: len(given)] or keys == given[: len(keys)] != ():
            return f"--set {override}"
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            place = places[path[:length]]
            return f"{name}:{place.line}:{place.column}"
    return name


def _explain(
    name: str,
    problem: Any,
    places: Mapping[yaml_source.Path, yaml_source.Place],
    overrides: Sequence[str],
) -> str:
    path = tuple(problem["loc"])
    dotted = ".".join(map(str, path)) or "spec"
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind == "extra_forbidden":
        known = _keys_of(path[:-1])
        message = f"unknown key {path[-1]!r}" + (f" in {'.'.join(map(str, path[:-1]))}" if path[:-1] else "")
        message += f"; {suggest(str(path[-1]), known)}"
    elif kind == "missing":
        message = f"{dotted} is missing"
    elif kind == "value_error":
        message = f"{dotted}: {context.get('error', problem['msg'])}"
    else:
        message = f"{dotted}: {problem['msg'][0].lower()}{problem['msg'][1:]}, not {problem['input']!r}"
    return f"{_where(name, path, places, overrides)}: {message}"


def _keys_of(path: yaml_source.Path) -> list[str]:
    """The keys that a section knows."""
    section: Any = Spec
    for key in path:
        kind = section.model_fields[str(key)].annotation
        section = next(part for part in (kind, *get_args(kind)) if hasattr(part, "model_fields"))
    return list(section.model_fields)
