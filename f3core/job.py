"""`Job`: a spec with every name in it looked up. All that can be refused without loading a model is refused here."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from f3core.budget import Budget
from f3core.errors import AdapterMatchError, F3Error, PluginError, SpecError, suggest
from f3core.hookspecs import AdapterEntry
from f3core.prompt_file import read_prompts
from f3core.registry import Registry
from f3core.sites import AttentionKind, Removal, Structure, Target
from f3core.spec import SpecFile

T = TypeVar("T")
CALL_FILE = "f3core.json"
"""In a model folder: ``{"call": {...}}``, arguments its generation needs; a spec's ``model.call`` overrides them."""

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Job:
    """A resolved spec. ``adapter`` is None only for a hub id, whose classes are not known before it is fetched."""

    file: SpecFile
    registry: Registry
    source: str
    local: bool
    adapter: AdapterEntry | None
    call: Mapping[str, Any]
    output: Path

    def prompts(self, count: int, seed: int) -> list[str]:
        """``count`` prompts from the spec's prompt set or file, chosen by ``seed``."""
        name = self.file.spec.calibrate.prompts
        if name in self.registry.names("prompt set"):
            made: list[str] = self.registry.make("prompt set", name).prompts(count, seed)
            return made
        lines = _prompt_lines(self.file, name)
        shuffled = [lines[i] for i in random.Random(seed).sample(range(len(lines)), len(lines))]
        return [shuffled[i % len(shuffled)] for i in range(count)]

    def of_row(self, index: int) -> Job:
        """The job of a row of the comparison: its prune section, and the model it brings, which is called as the
        spec's. Raises `SpecError` for such a model that is not there, or of another adapter."""
        part = self.file.of_row(index)
        if part.spec.model is self.file.spec.model:
            return replace(self, file=part)
        source, local, adapter = _row_model(part, self.registry, self.adapter)
        return replace(self, file=part, source=source, local=local, adapter=adapter)


def resolve(
    file: SpecFile,
    registry: Registry,
    *,
    output: str | Path | None = None,
    given_model: bool = False,
    check_output: bool = True,
) -> Job:
    """Look up every name of a spec; imports no torch and loads no model.

    ``given_model``: the caller holds the pipeline already, so the source need not exist. ``check_output``: refuse an
    output folder that is taken. Raises `SpecError` listing every problem found.
    """
    spec, problems = file.spec, list[str]()

    def attempt(work: Callable[..., T], *args: Any) -> T | None:
        try:
            return work(*args)
        except SpecError as error:
            problems.extend(error.problems)
            return None

    def check(path: tuple[str | int, ...], kind: str, name: str | None) -> None:
        if name is not None:
            attempt(_known, file, registry, path, kind, name)

    def check_prune(part: SpecFile, entry: AdapterEntry | None) -> None:
        prune = part.spec.prune
        attempt(_known, part, registry, ("prune", "method"), "method", prune.method.name)
        attempt(_known, part, registry, ("prune", "criterion"), "criterion", prune.criterion.name)
        if entry is not None and entry.removals is not None:
            attempt(_check_removal, part, registry, entry.name, entry.removals)
        if prune.budget is not None:
            attempt(_check_budget, part, registry, prune.budget)

    source, local = attempt(_source, file, registry, given_model) or ("", False)
    check(("model", "adapter"), "adapter", spec.model.adapter)
    entry = attempt(_adapter, file, registry, source, local, given_model) if not problems else None
    if spec.calibrate.prompts not in registry.names("prompt set"):
        attempt(_prompt_lines, file, spec.calibrate.prompts, registry)
    before = len(problems)
    check_prune(file, entry)
    right = len(problems) == before
    for i, row in enumerate(spec.compare.rows if spec.compare else ()):
        part, able = file.of_row(i), entry
        if row.source is not None:
            found = attempt(_row_model, part, registry, entry)
            able = found[2] if found else None
        if row.prune is not None and right:  # a row would repeat what is wrong in the section that it takes over
            check_prune(part, able)
        for j, accelerator in enumerate(row.accelerate):
            check(("compare", "rows", i, "accelerate", j), "accelerator", accelerator.name)
    if entry is not None and entry.removals is not None:
        for i, kind in enumerate((spec.sweep and spec.sweep.targets) or ()):
            attempt(_check_target, file, ("sweep", "targets", i), entry.name, entry.removals, kind)
    metrics = [metric.name for metric in spec.evaluate.metrics] if spec.evaluate else []
    for i, name in enumerate(metrics):
        check(("evaluate", "metrics", i), "metric", name)
        if name in metrics[:i]:
            twice = f"metric {name!r} is asked for twice; its figures go by its name, so give it once"
            problems.extend(file.error(("evaluate", "metrics", i), twice).problems)
    if spec.distill is not None:
        check(("distill", "data"), "data set", spec.distill.data.name)
        for i, loss in enumerate(spec.distill.losses):
            check(("distill", "losses", i), "loss", loss.name)
    target = Path(output if output is not None else spec.output)
    if check_output and target.exists() and (not target.is_dir() or any(target.iterdir())):
        message = f"{target} is there already and is not overwritten; give another output, or remove it"
        problems.extend([f"--output {message}"] if output is not None else file.error(("output",), message).problems)
    if problems:
        raise SpecError(problems)
    call = {**_default_call(file, Path(source) if local else None), **spec.model.call}
    return Job(file, registry, source, local, entry, call, target)


def _known(file: SpecFile, registry: Registry, path: tuple[str | int, ...], kind: str, name: str) -> None:
    try:
        registry.entry(kind, name)
    except PluginError as error:
        raise file.error(path, str(error)) from error


def _source(file: SpecFile, registry: Registry, given_model: bool) -> tuple[str, bool]:
    """What to load, and whether it lies on this machine."""
    name = file.spec.model.source
    if name in registry.names("source"):
        folder = str(registry.entry("source", name).folder)
        if not Path(folder).is_dir():
            raise file.error(("model", "source"), f"{name} should lie in {folder}, which is missing; install it again")
        return folder, True
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser()), True
    if given_model or (_HUB_ID.match(name) and not name.startswith(".")):
        return name, False
    raise file.error(
        ("model", "source"),
        f"{name!r} is no folder here, no hub id (owner/name) and no registered model; "
        f"{suggest(name, registry.names('source'))}",
    )


def _adapter(file: SpecFile, registry: Registry, source: str, local: bool, given_model: bool) -> AdapterEntry | None:
    named = file.spec.model.adapter
    if named is not None:
        entry: AdapterEntry = registry.entry("adapter", named)
        return entry
    if not local or given_model:
        return None
    classes = registry.denoiser_classes(source)
    if not classes:
        raise file.error(("model", "source"), f"{source} holds no model that a plugin knows (no model_index.json)")
    try:
        return match_classes(registry, classes)
    except PluginError as error:
        raise file.error(("model", "source"), str(error)) from error


def _row_model(
    part: SpecFile, registry: Registry, adapter: AdapterEntry | None
) -> tuple[str, bool, AdapterEntry | None]:
    """What a row of a comparison loads, whether it lies on this machine, and its adapter as far as it is known, which
    must be the spec's own ``adapter``, as one call has to suit both models."""
    source, local = _source(part, registry, False)
    named = part.spec.model.adapter is not None
    entry = adapter if named else _adapter(part, registry, source, local, False)
    if entry is not None and adapter is not None:
        check_same_adapter(part, entry.name, adapter.name)
    return source, local, entry


def check_same_adapter(part: SpecFile, name: str, wanted: str) -> None:
    """Raises `SpecError` where a row's model is not of the adapter of the spec's."""
    if name != wanted:
        message = f"{part.spec.model.source} is of adapter {name!r}, the spec's model of {wanted!r}; rows are called as"
        raise part.error(("model", "source"), f"{message} the spec's model is, so give a model of its adapter")


def match_classes(registry: Registry, classes: Mapping[str, str]) -> AdapterEntry:
    """The one adapter of all denoisers of a model. Raises `AdapterMatchError` for none, several, or a mixture."""
    entries = {component: registry.match_adapter([name]) for component, name in classes.items()}
    if len({entry.name for entry in entries.values()}) > 1:
        each = ", ".join(f"{component}: {entry.name}" for component, entry in entries.items())
        raise AdapterMatchError(f"the denoisers belong to different adapters ({each}); name one as model.adapter")
    return next(iter(entries.values()))


def _check_removal(
    file: SpecFile, registry: Registry, adapter: str, removals: Mapping[AttentionKind, tuple[Removal, ...]]
) -> None:
    prune = file.spec.prune
    if prune.target is Structure.BLOCK:
        return  # an adapter tells its blocks, and which of them can go, once the model is there
    able = removals.get(prune.target, ())
    if able and prune.removal in (None, *able):
        return
    if registry.classes("method")[prune.method.name].removals:
        return  # of its own, whose sites are not known before the model is
    allowed = _check_target(file, ("prune", "target"), adapter, removals, prune.target)
    if prune.removal is not None and prune.removal not in allowed:
        message = f"sites of adapter {adapter!r} cannot lose {prune.target} by {prune.removal}; "
        raise file.error(("prune", "removal"), message + suggest(str(prune.removal), map(str, allowed)))


def _check_target(
    file: SpecFile,
    path: tuple[str | int, ...],
    adapter: str,
    removals: Mapping[AttentionKind, tuple[Removal, ...]],
    target: Target,
) -> tuple[Removal, ...]:
    """How the target can leave sites of the adapter, if it can at all."""
    if target is Structure.BLOCK:
        return (Removal.DROP,)  # as far as can be told before the model is there
    if not removals.get(target):
        kinds = ", ".join(map(str, removals))
        raise file.error(path, f"no site of adapter {adapter!r} can lose {target}; allowed: {kinds}")
    return removals[target]


def _check_budget(file: SpecFile, registry: Registry, budget: Budget) -> None:
    """Whether what the budget measures can be measured as the spec stands."""
    if not budget.measured:
        return
    path, evaluate = ("prune", "budget"), file.spec.evaluate
    if evaluate is None:
        raise file.error(path, f"the budget ({budget}) is measured; it needs an evaluate section")
    if budget.timed and not evaluate.timing_pairs:
        raise file.error(path, f"the budget ({budget}) is timed; it needs evaluate.timing_pairs of at least 1")
    if budget.metric is not None:
        name = metric_of(budget.metric, registry)[0]
        _known(file, registry, (*path, "metric"), "metric", name)
        if name not in [metric.name for metric in evaluate.metrics]:
            raise file.error((*path, "metric"), f"{name} is not measured; add it to evaluate.metrics")


def metric_of(name: str, registry: Registry) -> tuple[str, str | None]:
    """The metric, and the figure of it if just one, that a budget names as ``metric`` or ``metric.figure``."""
    if name in registry.names("metric"):
        return name, None
    metric, _, figure = name.partition(".")
    return metric, figure or None


def _prompt_lines(file: SpecFile, name: str, registry: Registry | None = None) -> list[str]:
    path = Path(name)
    known = registry.names("prompt set") if registry else []
    if not path.is_file():
        raise file.error(
            ("calibrate", "prompts"), f"{name!r} is neither a text file here nor a prompt set; {suggest(name, known)}"
        )
    try:
        return read_prompts(path)
    except SpecError as error:
        raise file.error(("calibrate", "prompts"), str(error)) from error


def _default_call(file: SpecFile, folder: Path | None) -> dict[str, Any]:
    path = folder / CALL_FILE if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        call = json.loads(path.read_text(encoding="utf-8"))["call"]
        return dict(call)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise F3Error(f'{path}: must be JSON of the form {{"call": {{...}}}}: {error}') from error
