"""From a job and its scores to a plan, without weights or torch: sites and costs come with the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from f3core.block import Block, Site
from f3core.costs import Costs
from f3core.errors import PlanError, suggest
from f3core.hookspecs import AdapterEntry
from f3core.job import Job
from f3core.method import Criterion, Method, PlanRequest
from f3core.plan import PruningPlan
from f3core.registry import Registry
from f3core.scores import Scores, ScoresHeader
from f3core.selection import Front
from f3core.sites import AttentionKind, AttentionSite, GuidanceBranch, PruningAxis, Removal, Structure, Target, lasts


def scored_sites(header: ScoresHeader) -> tuple[Site, ...]:
    """The sites that were scored, as far as a plan needs to know them: where they are and what they can lose."""
    sites = list[Site]()
    for index, fqn in enumerate(header.sites):
        component, _, path = fqn.partition(".")
        if fqn in header.blocks:
            sites.append(Block.placed(component, path, header.layers[index], header.blocks[fqn]))
            continue
        removals, lasting = (_from_words(listed.get(fqn, {})) for listed in (header.removals, header.lasting))
        layer = header.layers[index] if header.layers else index
        framed = fqn in header.framed
        sites.append(AttentionSite(component, path, layer, tuple(removals), removals, lasting=lasting, framed=framed))
    return tuple(sites)


def _from_words(removals: Mapping[str, Sequence[str]]) -> dict[AttentionKind, tuple[Removal, ...]]:
    return {AttentionKind(kind): tuple(map(Removal, ways)) for kind, ways in removals.items()}


def chosen_removals(job: Job, sites: Iterable[Site]) -> dict[str, Removal]:
    """What is to be done at each site that holds the spec's target, by fqn: the spec's removal, or at sites that cannot
    do it their own default.

    Raises `SpecError` when no site can lose the target, or none by the spec's removal, or one only at every step while
    the spec's axis goes by steps, or prunes one branch of guidance.
    """
    spec, sites = job.file.spec.prune, list(sites)
    method: Method = job.registry.make("method", spec.method.name, spec.method.options)
    if method.removals:
        return _own_removals(job, method, sites)
    able = {site.fqn: listed for site in sites if (listed := site.ways(spec.target))}
    if not able:
        raise job.file.error(("prune", "target"), _nowhere(spec.target, sites))
    if spec.target is Structure.BLOCK and method.needs_scores:
        _check_criterion(job)
    every = dict.fromkeys(removal for listed in able.values() for removal in listed)
    if spec.removal is not None and spec.removal not in every:
        message = f"no site can lose {spec.target} by {spec.removal}; {suggest(str(spec.removal), map(str, every))}"
        raise job.file.error(("prune", "removal"), message)
    chosen = {
        fqn: spec.removal if spec.removal is not None and spec.removal in listed else listed[0]
        for fqn, listed in able.items()
    }
    by_branch = spec.branch is not GuidanceBranch.BOTH
    if by_branch or spec.axis not in (None, PruningAxis.LAYER):
        for site in sites:
            if site.fqn in chosen and chosen[site.fqn] not in site.gated(spec.target):
                place = ("prune", "branch" if by_branch else "axis")
                raise job.file.error(place, lasts(site.fqn, spec.target, chosen[site.fqn]))
    return chosen


def _nowhere(target: Target, sites: Sequence[Site]) -> str:
    """Why nothing can be pruned."""
    fixed = next((site for site in sites if isinstance(site, Block) and site.fixed), None)
    if target is Structure.BLOCK and fixed is None:
        return "the adapter of this model does not say of what blocks it is made, so none can be taken out"
    why = f": {fixed.fqn} cannot go, because {fixed.fixed}" if fixed else ""
    return f"no site of this model can lose {target}{why}"


def able_criteria(job: Job) -> list[str]:
    """Names of the criteria that can be asked to score the spec's target, sorted: whole blocks have no attention of
    their own to score, and take what goes by the impact of removals, or needs no scores."""
    every, target = job.registry.classes("criterion"), job.file.spec.prune.target
    return [n for n, c in every.items() if target is not Structure.BLOCK or c.needs_impact or not c.needs_scores]


def _check_criterion(job: Job) -> None:
    """Raises `SpecError` for a criterion that scores attention, of which whole blocks have none of their own."""
    name, able = job.file.spec.prune.criterion.name, able_criteria(job)
    if name not in able:
        message = f"criterion {name!r} scores attention; blocks take one of {', '.join(able)}"
        raise job.file.error(("prune", "criterion"), message)


def priced(method: str, ratio: float | None, seed: int) -> list[Any]:
    """For what removals of a method's own the costs of unscored `Scores` are."""
    return [method, ratio, seed]


def must_rank(job: Job) -> None:
    """Raises `SpecError` for a job whose method ranks nothing, where scores or criteria are all that it is about."""
    name = job.file.spec.prune.method.name
    if not job.registry.classes("method")[name].needs_scores:
        raise job.file.error(("prune", "method"), f"method {name!r} ranks nothing, so there is nothing to score")


def _own_removals(job: Job, method: Method, sites: Iterable[Site]) -> dict[str, Removal]:
    """What a method with removals of its own does at each site that can bear it: the same in every forward, as it ranks
    nothing. Raises `SpecError` where the spec asks for something else."""
    spec = job.file.spec.prune
    removal = method.removals.get(spec.target) if isinstance(spec.target, AttentionKind) else None
    if removal is None:
        allowed = suggest(str(spec.target), map(str, method.removals))
        raise job.file.error(
            ("prune", "target"), f"method {spec.method.name!r} does nothing to {spec.target}; {allowed}"
        )
    if spec.removal not in (None, removal):
        message = f"method {spec.method.name!r} has a way of its own, {removal}; leave the removal out (null)"
        raise job.file.error(("prune", "removal"), message)
    for key, asked, message in (
        ("method", bool(spec.method.options), "has no options that a plan could keep; leave them out"),
        ("budget", spec.budget is not None, "ranks nothing, so it cannot meet a budget; give prune.ratio instead"),
        ("axis", spec.axis not in (None, PruningAxis.LAYER), "works at every step; set prune.axis to layer"),
        ("branch", spec.branch is not GuidanceBranch.BOTH, "works in both branches of guidance; leave the branch out"),
    ):
        if asked:
            raise job.file.error(("prune", key), f"method {spec.method.name!r} {message}")
    chosen = {site.fqn: removal for site in sites if site.can(spec.target, removal)}
    if not chosen:
        raise job.file.error(("prune", "method"), f"no site of this model bears {removal} of {spec.target}")
    return chosen


def axis_of(job: Job, adapter: str) -> PruningAxis:
    """The axis of a job's plans: the spec's, or the usual one of the adapter, by name, unless a plan does the same in
    every forward, as those of blocks do."""
    spec, entry = job.file.spec.prune, job.registry.entry("adapter", adapter)
    assert isinstance(entry, AdapterEntry)
    whole = spec.target is Structure.BLOCK or bool(job.registry.classes("method")[spec.method.name].removals)
    return spec.axis or (PruningAxis.LAYER if whole else entry.default_axis)


def _check_places(header: ScoresHeader, target: Target) -> None:
    """Raises `PlanError` for scores of attention where blocks are to go, and the other way round."""
    found = "blocks" if header.blocks else "attention"
    if header.sites and (target is Structure.BLOCK) != (found == "blocks"):
        raise PlanError(f"these scores are of {found}, and the spec's target is {target}; score the model for that")


def make_plan(job: Job, scores: Scores, *, ratio: float | None = None) -> PruningPlan:
    """The plan of the spec's method, for the spec's ratio or budget, or at another ratio.

    For a budget that has to be measured it is the first guess. Raises `PlanError`, such as for a budget that cannot be
    met, or `SpecError` when it asks for what no site can lose.
    """
    spec, header = job.file.spec.prune, scores.header
    if header.costs is None:
        raise PlanError("the scores carry no costs; score the model again")
    _check_places(header, spec.target)
    sites = scored_sites(header)
    removals = chosen_removals(job, sites)
    method: Method = job.registry.make("method", spec.method.name, spec.method.options)
    budget = spec.budget if ratio is None else None
    ratio = spec.ratio if ratio is None else ratio
    if method.removals and header.identity.get("priced") != priced(spec.method.name, ratio, spec.seed):
        raise PlanError(
            f"what method {spec.method.name!r} costs at ratio {ratio} is not in these scores; it needs none, so leave "
            "them out"
        )
    return method.plan(
        PlanRequest(
            adapter=header.adapter,
            sites=sites,
            scores=scores,
            costs=Costs.model_validate(header.costs),
            target=spec.target,
            axis=axis_of(job, header.adapter),
            removals=removals,
            criterion=job.registry.make("criterion", spec.criterion.name, spec.criterion.options),
            ratio=ratio,
            budget=budget,
            branch=spec.branch,
            step_ranges=spec.step_ranges,
            seed=spec.seed,
        )
    )


def plan_front(plan: PruningPlan, registry: Registry) -> Front:
    """The best selections among a plan's units between nothing and all; `PruningPlan.choosing` makes plans of them."""
    criterion: type[Criterion] = registry.classes("criterion")[plan.criterion]
    scores, savings = [unit.score for unit in plan.units], [unit.macs_saved for unit in plan.units]
    method: type[Method] = registry.classes("method")[plan.method]
    return method.front(plan.units, scores, savings, criterion)
