"""What pruning changed: MACs counted, parameters, bytes, seconds, memory and quality, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f3core import evaluate, figures
from f3core.adapter import Adapter, Model
from f3core.capture import Inputs
from f3core.costs import Costs
from f3core.flops import MacCount, count
from f3core.footprint import model_size, peak_memory
from f3core.meta import meta_copy, on_meta
from f3core.plan import PruningPlan
from f3core.report import Counts, Macs, MacsChange, Quality
from f3core.scores import Scores
from f3core.sites import AttentionKind
from f3core.surgery import Pruned
from f3core.trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from f3core.job import Job

Listener = Callable[[str, int, int], None]
"""Hears (what is done, how many, of how many)."""


def measure(
    job: Job,
    model: Model,
    pruned: Any,
    plan: PruningPlan,
    scores: Scores,
    inputs: Inputs,
    folder: Path,
    listener: Listener,
) -> dict[str, Any]:
    """Fields of a `Report`, by name. Writes before/after clips into ``folder``, where ``model/`` is saved already."""
    with model.adapter.observable(pruned):
        forwards, generation = count_change(model, pruned, plan, scores, inputs)
    after = model.adapter.denoisers(pruned)
    fields: dict[str, Any] = {
        "forwards": forwards,
        "generation": generation,
        "parameters": Counts(before=model_size(model.adapter, model.pipeline), after=model_size(model.adapter, pruned)),
        "disk": Counts(
            before=sum(map(tensor_bytes, model.denoisers.values())), after=sum(map(tensor_bytes, after.values()))
        ),
    }
    return fields | _run_both(job, model, pruned, folder, listener)


def tensor_bytes(module: nn.Module) -> int:
    """Bytes of a module's state dict, shared tensors once: what its safetensors hold."""
    return sum({t.data_ptr() or id(t): t.nbytes for t in module.state_dict().values()}.values())


def count_change(
    model: Model, pruned: Any, plan: PruningPlan, scores: Scores, inputs: Inputs
) -> tuple[dict[str, MacsChange], MacsChange]:
    """MACs before, predicted and counted: of one forward by component, and of one generation."""
    costs = Costs.model_validate(scores.header.costs)
    return count_pruned(model.adapter, model.adapter.denoisers(pruned), plan, costs, inputs)


def count_pruned(
    adapter: Adapter,
    denoisers: Mapping[str, nn.Module],
    plan: PruningPlan,
    costs: Costs,
    inputs: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> tuple[dict[str, MacsChange], MacsChange]:
    """MACs before (from ``costs``), predicted and counted, of pruned ``denoisers``: of one forward, of one generation.

    A component's forward is told for the kind of forward, step range and branch of guidance in which most is saved; one
    that runs in no range is left out. One count per kind and distinct gate state.
    """
    forwards: dict[str, MacsChange] = {}
    whole_before, whole_after = Counter[str](), Counter[str]()
    for name, denoiser in denoisers.items():
        gates = {fqn: ranges for fqn, ranges in plan.gates().items() if fqn.startswith(name + ".")}
        told: list[MacsChange] = []
        copy = meta_copy(denoiser)
        for kind, rows in plan.passes[name].items():
            before, counted = _kinds(costs, name, kind), dict[frozenset[str], Macs]()
            for index, reached, times in _alike(rows, plan.reach[name][kind]):
                state = frozenset(fqn for fqn, ranges in gates.items() if reached and index in ranges)
                if state not in counted:
                    counted[state] = _count_state(adapter, copy, name, inputs[name][kind], index, reached)
                _add_(whole_before, before, times)
                _add_(whole_after, counted[state], times)
            for state, after in counted.items():
                saved = sum(costs.saved(fqn, plan.target, plan.removals[fqn], kind) for fqn in state)
                told.append(MacsChange(before=before, predicted=Macs(total=before.total - saved), counted=after))
        if told:
            forwards[name] = max(told, key=lambda change: change.before.total - change.counted.total)
    return forwards, MacsChange(
        before=_total(whole_before), predicted=Macs(total=plan.macs_after), counted=_total(whole_after)
    )


def _alike(rows: Sequence[int], reach: Sequence[int]) -> Iterator[tuple[int, bool, int]]:
    """(step range, whether pruning reaches them, how many) of rows that pruning treats alike."""
    for index, (every, reached) in enumerate(zip(rows, reach, strict=True)):
        yield from ((index, inside, n) for inside, n in ((True, reached), (False, every - reached)) if n)


def _count_state(
    adapter: Adapter, denoiser: nn.Module, name: str, inputs: Mapping[str, Any], step_range: int, reached: bool
) -> Macs:
    given = on_meta(dict(inputs))
    if not isinstance(denoiser, Pruned):
        return _macs(count(denoiser, given, adapter, name))
    with denoiser.f3_clock.hold(step_range, reached=reached):
        return _macs(count(denoiser, given, adapter, name))


def _kinds(costs: Costs, component: str, kind: str) -> Macs:
    kinds: Counter[AttentionKind] = Counter()
    for fqn, site in costs.sites.items():
        if fqn.startswith(component + "."):
            kinds.update(site[kind].maps)
    return Macs(total=costs.forward[component][kind], kinds=dict(kinds))


def _macs(counted: MacCount) -> Macs:
    return Macs(total=counted.total, kinds=dict(counted.kinds))


def _add_(total: Counter[str], macs: Macs, rows: int) -> None:
    total.update({"total": macs.total * rows, **{str(k): n * rows for k, n in macs.kinds.items()}})


def _total(sums: Mapping[str, int]) -> Macs:
    kinds = {AttentionKind(k): n for k, n in sums.items() if k != "total"}
    return Macs(total=sums["total"], kinds=kinds)


def _notes(steps: int, calibrated: int) -> tuple[str, ...]:
    if steps == calibrated:
        return ()
    return (f"MACs of a clip are for the {calibrated} calibrated steps; clips, seconds and memory for {steps} steps.",)


def _run_both(job: Job, model: Model, pruned: Any, folder: Path, listener: Listener) -> dict[str, Any]:
    spec = job.file.spec.evaluate
    if spec is None:
        return {}
    trial = Trial.of(job, model)
    prompts = trial.prompts

    def heard(title: str) -> evaluate.Progress:
        listener(title, 0, len(prompts))
        return lambda done, total: listener(title, done, total)

    before = trial.unpruned(heard("Generating, before"))
    after = trial.clips(pruned, heard("Generating, after"))
    quality_before, quality_after = trial.quality(before), trial.quality(after)
    shown = slice(0, 6)
    gif, mp4 = figures.side_by_side(before[shown], after[shown], prompts[shown], folder)
    fields: dict[str, Any] = {
        "clips": len(prompts),
        "notes": _notes(trial.steps, job.file.spec.calibrate.steps),
        "damage": evaluate.damage(before, after),
        "gif": gif.name,
        "mp4": mp4.name,
        "quality": {
            metric.name: Quality(
                before=quality_before[metric.name],
                after=quality_after[metric.name],
                higher_is_better=metric.higher_is_better,
            )
            for metric in trial.metrics
        },
    }

    def one(pipeline: Any) -> Callable[[], Any]:
        return lambda: model.adapter.generate(
            pipeline, prompts[:1], steps=trial.steps, seeds=trial.seeds[:1], call=model.call
        )

    if spec.timing_pairs:
        listener("Timing pairs", 0, 2 * (spec.timing_pairs + 1))
        fields["timing"] = trial.timing(pruned, lambda done, total: listener("Timing pairs", done, total))
        for done, (name, pipeline) in enumerate((("before", model.pipeline), ("after", pruned))):
            fields[f"memory_{name}"] = peak_memory(one(pipeline))[1]
            listener("Watching memory", done + 1, 2)
    return fields
