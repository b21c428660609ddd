"""`apply_plan_`: the only code that mutates a model. What is pruned always leaves; what some step needs is gated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from f3core.attention import dropped
from f3core.block import Block, Site
from f3core.clock import Clock, Gate
from f3core.errors import ModelError, PlanError, suggest
from f3core.guidance import join_rows, runs
from f3core.reducing import Reduction
from f3core.sites import AttentionKind, AttentionSite, GuidanceBranch, Removal, Target, lasts
from f3core.skipping import check_blocks, skip_

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.plan import PruningPlan, StepRange


class Pruned(nn.Module):
    """What a pruned denoiser's class adds: before each forward its clock learns the layout and the step.

    Where one guidance branch alone is pruned, rows of both that come stacked run one branch after the other. Raises
    `ModelError` for a call that does not tell its branch.
    """

    f3_clock: Clock
    f3_adapter: Adapter
    f3_plan: PruningPlan | None
    f3_before: tuple[PruningPlan, ...] = ()
    """plans that were carried out before ``f3_plan``, each of which left a smaller model"""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        clock, adapter = self.f3_clock, self.f3_adapter
        layout = (adapter.running_layout if clock.keeps_layout else adapter.layout)(self, args, kwargs)
        clock.observe(layout)
        if clock.held or not clock.step_ranges:
            return super().__call__(*args, **kwargs)
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "this pruned model changes from call to call, which a graph cannot read: compile it in place, "
                "model.compile(...), instead of torch.compile(model)"
            )
        level = self.f3_adapter.noise_level(args, kwargs)
        clock.tick(level)
        if clock.branch is GuidanceBranch.BOTH:
            return super().__call__(*args, **kwargs)
        unconditional = self.f3_adapter.unconditional_rows(self, args, kwargs)
        if layout is None or unconditional is None:
            raise ModelError(
                f"{type(self).__name__} is pruned in the unconditional branch of guidance alone, and this call does "
                f"not tell which of its rows that is; generate by the pipeline class that adapter "
                f"{self.f3_adapter.name!r} loads"
            )
        if not any(gate.on for gate in clock.gates):  # neither branch is pruned at this step
            return super().__call__(*args, **kwargs)
        made, parts = [], runs(unconditional, layout.batch)
        for rows, reached in parts:
            clock.tick(level, reached=reached)
            if len(parts) == 1:
                return super().__call__(*args, **kwargs)
            its_args, its_kwargs = self.f3_adapter.take_rows((args, kwargs), layout, rows)
            made.append(super().__call__(*its_args, **its_kwargs))
        return join_rows(made, [len(rows) for rows, _ in parts])


_classes: dict[type, type] = {}


def pruned_class(base: type[nn.Module]) -> type[nn.Module]:
    """``base`` with `Pruned` in front; the same class every time it is asked for."""
    if base not in _classes:
        _classes[base] = type(f"Pruned{base.__name__}", (Pruned, base), {"__module__": base.__module__})
    return _classes[base]


@dataclass(frozen=True)
class Surgery:
    """What `apply_plan_` did to one denoiser. ``masked`` sites still compute what they were asked to lose."""

    sites: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    gated: tuple[str, ...]
    masked: tuple[str, ...]


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def apply_plan_(denoiser: nn.Module, plan: PruningPlan, adapter: Adapter, component: str) -> Surgery:
    """Prune a denoiser in place as ``plan`` says for ``component``; any device, meta included.

    An empty plan leaves it untouched; the plan it already has is not applied again. What a plan of blocks leaves is a
    smaller model, which another plan may prune. Raises `PlanError`, before anything is altered, for a plan of another
    model or a removal that a site does not list.
    """
    before = parameter_count(denoiser)
    gates = {fqn: ranges for fqn, ranges in plan.gates().items() if fqn.startswith(component + ".")}
    if not gates:
        return Surgery((), before, before, (), ())
    present = getattr(denoiser, "f3_plan", None)
    if present == plan:
        return Surgery(tuple(gates), before, before, (), ())
    if present is not None and not present.structural:
        raise PlanError(f"{component} is pruned already, by another plan; start from the unpruned model")
    if plan.branch is not GuidanceBranch.BOTH and not adapter.tells_branches:
        raise PlanError(f"the plan prunes one branch of guidance, but adapter {adapter.name!r} cannot tell them apart")
    if plan.adapter != adapter.name:
        raise PlanError(f"the plan was made for adapter {plan.adapter!r}, the model's is {adapter.name!r}")
    sites = {site.fqn: site for site in adapter.places(denoiser, component, plan.target)}
    _check(plan, component, gates, sites)
    former = (*denoiser.f3_before, present) if isinstance(denoiser, Pruned) and present is not None else ()
    if plan.structural:
        take_out_(denoiser, adapter, [site for fqn, site in sites.items() if fqn in gates])
    else:
        step_ranges = plan.step_ranges if plan.gated() else ()
        when = {fqn: None if plan.always(fqn) else ranges for fqn, ranges in gates.items()}
        own = reduction_of(plan)
        restrict_(denoiser, adapter, sites.values(), plan.target, plan.removals, when, step_ranges, plan.branch, own)
    vars(denoiser)["f3_plan"] = plan
    if isinstance(denoiser, Pruned):  # else it is an unpruned, smaller model
        vars(denoiser)["f3_before"] = former
        adapter.record(denoiser, plan, component)
    return Surgery(
        sites=tuple(gates),
        parameters_before=before,
        parameters_after=parameter_count(denoiser),
        gated=tuple(f for f in gates if not plan.always(f)),
        masked=tuple(f for f in gates if plan.removals[f] is Removal.MASK),
    )


def reduction_of(plan: PruningPlan) -> Reduction | None:
    """What the plan's method does by removals of its own, if any. Raises `PluginError` where it is not installed."""
    if not any(plan.removals[fqn].own for fqn in plan.gates()):
        return None
    from f3core.registry import installed

    return Reduction(installed().make("method", plan.method), 1 - plan.ratio, plan.seed)


def restrict_all_(
    denoiser: nn.Module,
    adapter: Adapter,
    component: str,
    target: Target,
    removal: Removal,
    reduction: Reduction | None = None,
) -> None:
    """Do one removal at every site that can, at every step; with this the engine measures what each would save."""
    able = [site for site in adapter.places(denoiser, component, target) if site.can(target, removal)]
    always = dict.fromkeys(site.fqn for site in able)
    restrict_(denoiser, adapter, able, target, dict.fromkeys(always, removal), always, reduction=reduction)


def restrict_(
    denoiser: nn.Module,
    adapter: Adapter,
    sites: Iterable[Site],
    target: Target,
    removals: Mapping[str, Removal],
    gates: Mapping[str, frozenset[int] | None],
    step_ranges: Sequence[StepRange] = (),
    branch: GuidanceBranch = GuidanceBranch.BOTH,
    reduction: Reduction | None = None,
) -> Clock:
    """Restrict those of ``sites`` that ``gates`` names (by fqn), each by its removal: at every step (None), or in some
    of ``step_ranges`` (by index), there in rows of ``branch``. ``reduction``: what carries out a method's own removals.
    Returns the clock that the denoiser turns and its sites read.

    Raises `PlanError`, before anything is altered, for a removal in some of the step ranges that lasts over all.
    """
    restricted = [site for site in sites if site.fqn in gates]
    for site in restricted:
        if step_ranges and gates[site.fqn] is not None and removals[site.fqn] not in site.gated(target):
            raise PlanError(lasts(site.fqn, target, removals[site.fqn]))
    clock = Clock(step_ranges, branch)
    _become_pruned_(denoiser, adapter, clock)
    for site in restricted:
        removal, gate = removals[site.fqn], Gate(clock, gates[site.fqn])
        if isinstance(site, Block):
            skip_(denoiser, site, gate)
        elif removal.own:
            assert reduction is not None
            module = reduction.at(denoiser.get_submodule(site.path), site, removal, adapter, gate)
            denoiser.set_submodule(site.path, module)
        else:
            assert isinstance(target, AttentionKind), "attention sites lose kinds of attention"
            _restrict_site_(denoiser, adapter, site, target, removal, gate)
    return clock


def _become_pruned_(denoiser: nn.Module, adapter: Adapter, clock: Clock) -> None:
    if not isinstance(denoiser, Pruned):
        denoiser.__class__ = adapter.pruned_class(type(denoiser))
    vars(denoiser).update(f3_clock=clock, f3_adapter=adapter, f3_plan=None)  # plain attributes, not registered


def take_out_(denoiser: nn.Module, adapter: Adapter, gone: Sequence[Site]) -> None:
    """Take whole blocks out, for good; `f3core.skipping.check_blocks` says whether they can go. What carries a plan
    already goes on doing so: its blocks keep their numbers."""
    blocks, clock = [block for block in gone if isinstance(block, Block)], Clock()
    for block in blocks:
        skip_(denoiser, block, Gate(clock, None))
    if isinstance(denoiser, Pruned) or not adapter.compact_(denoiser, blocks):
        _become_pruned_(denoiser, adapter, clock)


def _check(plan: PruningPlan, component: str, gates: Iterable[str], sites: Mapping[str, Site]) -> None:
    blocks = [site for site in sites.values() if isinstance(site, Block)]
    for fqn in gates:
        if fqn not in sites:
            raise PlanError(f"the plan names site {fqn!r}, which this model does not have; {suggest(fqn, sites)}")
    check_blocks(blocks, [sites[fqn].path for fqn in gates])
    for fqn in gates:
        removal, allowed = plan.removals[fqn], sites[fqn].ways(plan.target)
        if not sites[fqn].can(plan.target, removal):
            raise PlanError(f"{fqn} cannot lose {plan.target} by {removal}; {suggest(str(removal), map(str, allowed))}")
    if blocks and plan.gated():
        raise PlanError("blocks leave the model at every step, or at none; choose axis: layer")
    known = {fqn for unit in plan.units for fqn in unit.sites if fqn.startswith(component + ".")}
    if known - sites.keys():  # numbers of blocks mean others in a model that has fewer
        first = min(known - sites.keys())
        raise PlanError(f"the plan is of another model, one that has {first}; plan for this one")


def _restrict_site_(
    denoiser: nn.Module, adapter: Adapter, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
) -> None:
    module = denoiser.get_submodule(site.path)
    if removal is Removal.DROP:
        denoiser.set_submodule(site.path, dropped(module, gate, bypass=site.bypass))
        for path in site.companions:
            denoiser.set_submodule(path, dropped(denoiser.get_submodule(path), gate, bypass=True))
    else:
        denoiser.set_submodule(site.path, adapter.restrict(module, site, target, removal, gate))
