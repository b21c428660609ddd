"""Plans, sites and plugins as people read them on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from f3core import damage_curve
from f3core.block import Block, Site, Stage
from f3core.damage_curve import Curve
from f3core.plan import PruningPlan
from f3core.registry import Registry
from f3core.report import MacsChange
from f3core.report_text import DASH, si
from f3core.sites import KINDS, AttentionSite


def plan_table(plan: PruningPlan) -> RenderableType:
    """Every unit with its score and verdict, and what the plan saves."""
    by = f" by {plan.criterion}" if plan.ranked else ""
    table = Table(title=f"{plan.method}: {plan.scope}{by}, axis {plan.axis}, {plan.goal}")
    table.add_column("unit", overflow="fold")
    table.add_column(plan.criterion if plan.ranked else "score", justify="right")
    table.add_column("verdict")
    table.add_column("MACs saved", justify="right")
    for unit in plan.units:
        verdict = Text("prune", "bold red") if unit.pruned else Text("keep", "dim")
        ranges = "" if len(unit.ranges) != 1 or len(plan.step_ranges) == 1 else f"  {plan.step_ranges[unit.ranges[0]]}"
        saved = si(unit.macs_saved) if unit.pruned else f"({si(unit.macs_saved)})"
        table.add_row(unit.name + ranges, f"{unit.score:.6g}" if plan.ranked else DASH, verdict, saved)
    change = f"{plan.macs_share - 1:+.1%}".replace("-", "−")  # choosing what goes may cost more than it saves
    total = Text(
        f"{len(plan.pruned)} of {len(plan.units)} units go; denoiser MACs of one clip "
        f"{si(plan.macs_before)} → {si(plan.macs_after)} ({change}), predicted"
    )
    return Group(table, total, *_guessed(plan))


def _guessed(plan: PruningPlan) -> list[Text]:
    """What a plan made from scores alone cannot know."""
    if plan.budget is None or not plan.budget.measured:
        return []
    guess = (
        "is predicted from MACs alone; `f3core apply` measures and corrects it."
        if plan.budget.speedup is not None
        else "cannot be told from scores; `f3core apply` starts from here and measures."
    )
    return [Text(f"Whether this meets the budget ({plan.budget}) {guess}", "yellow")]


def plans_data(plans: Sequence[tuple[PruningPlan, MacsChange | None]], curve: Curve | None) -> Any:
    """A plan and its curve (None: it ranks nothing) as JSON, or several plans, each with MACs of one clip where they
    were counted."""
    found = [
        plan.model_dump(mode="json") | ({"macs": macs.model_dump(mode="json")} if macs else {}) for plan, macs in plans
    ]
    return found[0] | ({"curve": damage_curve.data(curve)} if curve else {}) if len(found) == 1 else found


def plans_table(plans: Sequence[tuple[PruningPlan, MacsChange | None]], curve: Curve | None) -> RenderableType:
    """A plan unit by unit with its curve; or several, a row each. MACs of one clip by kind, where they were counted."""
    first, macs = plans[0]
    drawn = [damage_curve.render(curve)] if curve else []
    if len(plans) == 1 and macs is None:
        return Group(plan_table(first), *drawn)
    removals = " and ".join(sorted({str(removal) for removal in first.removals.values()}))
    by = f"{removals}, {first.criterion}" if first.ranked else removals
    table = Table(title=f"{first.method}: {first.scope} by {by}, axis {first.axis}")
    for head in ("ratio", "units", "MACs of a clip", "saved", *(f"{kind} maps" for kind in KINDS if macs)):
        table.add_column(head, justify="right")
    kinds = [si(macs.before.kinds[kind]) for kind in KINDS] if macs else []
    table.add_row("none", f"0 of {len(first.units)}", si(first.macs_before), "", *kinds)
    for plan, counted in plans:
        table.add_row(
            f"{plan.ratio:.4g}",
            f"{len(plan.pruned)} of {len(plan.units)}",
            si(plan.macs_after),
            f"{1 - plan.macs_share:.1%}",
            *(si(counted.counted.kinds[kind]) for kind in KINDS if counted),
        )
    return Group(plan_table(first), table, *drawn) if len(plans) == 1 else table


def sites_data(sites: Sequence[Site]) -> list[dict[str, Any]]:
    """Sites, or blocks, as JSON."""
    return [
        {"block": site.fqn, "index": site.index, **site.place, "parts": list(site.modules)}
        if isinstance(site, Block)
        else {
            "site": site.fqn,
            "index": site.index,
            "kinds": [str(k) for k in site.kinds],
            "removals": {str(k): [str(r) for r in ways] for k, ways in site.removals.items()},
            "companions": list(site.companions),
        }
        for site in sites
    ]


def sites_tree(sites: Sequence[Site], title: str) -> RenderableType:
    """Sites under their modules, or blocks in the order in which they run."""
    if any(isinstance(site, Block) for site in sites) or not sites:
        return _blocks_table([site for site in sites if isinstance(site, Block)], title)
    tree = Tree(title)
    nodes: dict[str, Tree] = {}
    for site in sites:
        assert isinstance(site, AttentionSite)
        parts = site.fqn.split(".")
        for depth in range(1, len(parts)):
            path = ".".join(parts[:depth])
            if path not in nodes:
                nodes[path] = nodes.get(".".join(parts[: depth - 1]), tree).add(parts[depth - 1])
        ways = "; ".join(f"{kind}: {', '.join(map(str, removals))}" for kind, removals in site.removals.items())
        kinds = "+".join(map(str, site.kinds))
        nodes[".".join(parts[:-1])].add(
            Text.assemble(parts[-1], "  ", (kinds, "bold"), f"  can lose {ways or 'nothing'}")
        )
    return tree


def _blocks_table(blocks: Sequence[Block], title: str) -> RenderableType:
    if not blocks:
        return Text(f"{title}: the adapter of this model does not say of what blocks it is made")
    table = Table("block", "where", "can go", title=title)
    for block in blocks:
        where = "" if block.stage is Stage.STACK else f"{block.stage}, level {block.level}"
        able = Text(f"no: {block.fixed}", "dim") if block.fixed else Text("yes")
        if block.needs and not block.fixed:
            able = Text(f"with all of {', '.join(block.needs)}")
        table.add_row(block.fqn, where, able)
    return table


def plugins_data(registry: Registry) -> dict[str, Any]:
    """Registered names as JSON."""
    found: dict[str, Any] = {
        kind: [
            {"name": r.entry.name, "plugin": r.plugin, "summary": r.entry.summary} for r in registry.registered(kind)
        ]
        for kind in registry.KINDS
    }
    return {**found, "broken": registry.broken}


def plugins_table(registry: Registry) -> RenderableType:
    """Registered names by kind, and what failed to load."""
    table = Table("kind", "name", "plugin", "what it is")
    for kind in registry.KINDS:
        for i, r in enumerate(registry.registered(kind)):
            table.add_row(kind if i == 0 else "", r.entry.name, r.plugin, r.entry.summary)
        table.add_section()
    failures = [Text(f"plugin {name!r} failed to load: {why}", "red") for name, why in registry.broken.items()]
    return Group(table, *failures)
