"""`Spec`: one YAML file that says what to prune, how, and what to measure. Errors point at file:line:column."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from f3core import yaml_source
from f3core.errors import SpecError, suggest
from f3core.spec_distill import DistillSpec, OptimiserSpec
from f3core.spec_sections import (
    DEFAULT_RATIO,
    UNPRUNED,
    CalibrateSpec,
    Choice,
    CompareRow,
    CompareSpec,
    EvaluateSpec,
    ModelSpec,
    PruneSpec,
    Section,
    SweepSpec,
    with_whole_rows,
)

__all__ = [
    "DEFAULT_RATIO",
    "UNPRUNED",
    "CalibrateSpec",
    "Choice",
    "CompareRow",
    "CompareSpec",
    "DistillSpec",
    "EvaluateSpec",
    "ModelSpec",
    "OptimiserSpec",
    "PruneSpec",
    "Spec",
    "SpecFile",
    "SweepSpec",
    "load_spec",
    "parse_spec",
]


class Spec(Section):
    """A whole spec. Frozen; unknown keys, wrong types and impossible values are refused."""

    version: Annotated[int, Field(ge=1, le=1)]
    model: ModelSpec
    calibrate: CalibrateSpec
    prune: PruneSpec = PruneSpec()
    evaluate: EvaluateSpec | None = EvaluateSpec()
    sweep: SweepSpec | None = None
    compare: CompareSpec | None = None
    distill: DistillSpec | None = None
    output: str = Field(min_length=1, description="folder to write; relative to where the command runs")

    @model_validator(mode="before")
    @classmethod
    def _whole_rows(cls, given: Any) -> Any:
        return with_whole_rows(given)


@dataclass(frozen=True)
class SpecFile:
    """A spec with the text it came from, so that later findings can still point at a line."""

    spec: Spec
    text: str
    name: str = "<spec>"
    overrides: tuple[str, ...] = ()
    places: Mapping[yaml_source.Path, yaml_source.Place] = field(default_factory=dict)
    taken: Mapping[yaml_source.Path, yaml_source.Path] = field(default_factory=dict)
    """of what stands in the place of the spec's own, where it was taken from"""

    def error(self, path: Sequence[str | int], message: str) -> SpecError:
        """A `SpecError` that points at ``path``, or at the override that set it."""
        path = tuple(path)
        for place, origin in self.taken.items():
            if path[: len(place)] == place:
                path = (*origin, *path[len(place) :])
                break
        return SpecError(f"{_where(self.name, path, self.places, self.overrides)}: {message}")

    def of_row(self, index: int) -> SpecFile:
        """The spec whose model and prune section are those of a row of the comparison, where it has them; errors of
        either point there."""
        assert self.spec.compare is not None
        row, at = self.spec.compare.rows[index], ("compare", "rows", index)
        parts: dict[str, Any] = {}
        taken: dict[yaml_source.Path, yaml_source.Path] = {}
        if row.prune is not None:
            parts["prune"], taken[("prune",)] = row.prune, (*at, "prune")
        if row.source is not None:
            parts["model"] = self.spec.model.model_copy(update={"source": row.source})
            taken[("model", "source")] = (*at, "source")
        return dataclasses.replace(self, spec=self.spec.model_copy(update=parts), taken=taken)


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
    section: type[BaseModel] = Spec
    for key in path:
        if isinstance(key, str):  # an item's place in a list says nothing about its form
            section = next(_models_in(section.model_fields[key].annotation))
    return list(section.model_fields)


def _models_in(kind: Any) -> Iterator[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _models_in(part)
