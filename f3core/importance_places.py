"""Places: what of a model can be taken away alone, to measure what it does. Pure: no model, no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from f3core.block import Block, Site
from f3core.candidates import Candidates
from f3core.costs import unit_saving
from f3core.errors import ModelError, suggest
from f3core.method import PlanRequest
from f3core.plan import Unit, split_steps
from f3core.sites import AttentionSite, Target


@dataclass(frozen=True)
class Place:
    """One site, or a block with all that it needs to go. ``sites`` (fqns): ``head``'s own first."""

    name: str
    head: Site
    sites: tuple[str, ...]


def places_of(sites: Sequence[Site], target: Target, able: Collection[str]) -> tuple[list[Place], dict[str, str]]:
    """The places where ``target`` can go, in the order of ``sites``, and why it stays at the other sites that hold it,
    by fqn. ``able``: fqns of the sites that can lose it.

    Blocks that need each other are one place. Raises `ModelError` for a block that needs one that is not there.
    """
    found, staying = dict[frozenset[str], Place](), dict[str, str]()
    blocks = {site.fqn: site for site in sites if isinstance(site, Block)}
    for site in sites:
        needed = _needed(site, blocks) if isinstance(site, Block) else []
        why = next(filter(None, (_why(one, target, able) for one in (site, *needed))), None)
        if why and isinstance(site, AttentionSite) and target not in site.kinds:
            continue  # there is nothing to lose
        if why:
            culprit = next(one for one in (site, *needed) if _why(one, target, able))
            staying[site.fqn] = why if culprit is site else f"it needs {culprit.fqn} to go too, which stays: {why}"
            continue
        fqns = (site.fqn, *(one.fqn for one in needed))
        name = f"{site.fqn} with {', '.join(one.path for one in needed)}" if needed else site.fqn
        found.setdefault(frozenset(fqns), Place(name, site, fqns))
    return list(found.values()), staying


def _why(site: Site, target: Target, able: Collection[str]) -> str | None:
    """Why ``target`` stays at a site by itself; None where it can go."""
    if isinstance(site, Block) and site.fixed:
        return site.fixed
    return None if site.fqn in able else f"no removal of {target} is sound there"


def _needed(block: Block, blocks: Mapping[str, Block]) -> list[Block]:
    """All without which a block cannot go, directly or through another, in the order in which they run."""
    found, asked = {block.fqn}, [block]
    while asked:
        one = asked.pop()
        for path in one.needs:
            fqn = f"{one.component}.{path}"
            if fqn not in blocks:
                raise ModelError(
                    f"block {one.fqn} needs {fqn}, which its adapter does not list; {suggest(fqn, blocks)}"
                )
            if fqn not in found:
                found.add(fqn)
                asked.append(blocks[fqn])
    return [one for fqn, one in blocks.items() if fqn in found and one is not block]


def alone(request: PlanRequest, places: Iterable[Place]) -> Candidates:
    """Candidates whose units are the places, over all steps; those of several sites may overlap with others, so only
    one of them can be chosen at a time. Raises `PlanError` as `Candidates.of` does."""
    base = Candidates.of(request, split_steps(request.scores.header.levels, 1))
    units = tuple(Unit(name=place.name, sites=place.sites, ranges=(0,)) for place in places)
    savings = (unit_saving(unit, request.costs, request.target, request.removals, base.passes) for unit in units)
    return replace(base, units=units, savings=tuple(savings))
