"""What was found in an unknown model, as people and as machines read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from f3core.inspection.formulas import Formula
from f3core.inspection.inspect_model import Group, Inspection
from f3core.sites import AttentionKind

LETTERS = "B rows, F latent frames, S tokens of a frame (there), T text tokens"


def inspection_tables(found: Mapping[str, Inspection]) -> RenderableType:
    """Of every component (or class, under no name) its attention modules by pattern: lengths of their calls, what these
    are, what could go; and what to do next."""
    return Lines(*(line for name, each in found.items() for line in _lines(name, each)), _next(found))


def _lines(name: str, found: Inspection) -> Iterator[RenderableType]:
    class_name = found.model.rpartition(".")[2]
    table = Table(title=f"{name}: {class_name}" if name else class_name, caption=LETTERS, caption_justify="left")
    table.add_column("modules", overflow="fold")
    for head in ("n", "rows", "queries", "keys"):
        table.add_column(head, justify="right")
    table.add_column("kinds")
    table.add_column("can lose")
    for group in found.groups:
        for i, call in enumerate(group.calls):
            table.add_row(
                _name(group) if i == 0 else "",
                str(len(group.modules)) if i == 0 else "",
                *(_formula(each) for each in (call.rows, call.queries, call.keys)),
                Text("+".join(map(str, group.roles[i].kinds)) or "no site", "bold" if group.kinds else "dim"),
                _removals(group) if i == 0 else "",
            )
    yield table
    for group in found.groups:
        yield from _detail(group)
    yield Text("inputs: " + ", ".join(f"{name}={text}" for name, text in found.inputs.items() if name != "return_dict"))
    for note in found.notes:
        yield Text(f"note: {note}", "yellow")


def _next(found: Mapping[str, Inspection]) -> Text:
    over_time = [each for each in found.values() if any(AttentionKind.TEMPORAL in group.kinds for group in each.groups)]
    if not over_time:
        return Text(
            "Next: nothing to do. No attention across frames was seen, so there is no TA to prune. (Linear attention "
            "is not seen, nor is one whose map is written out.)",
            "bold",
        )
    return Text(
        f"Next: f3core new-adapter NAME --model-class {over_time[0].model} writes a plugin package with these "
        "proposals. Lengths cannot tell everything; its contract test will.",
        "bold",
    )


def inspection_data(found: Inspection) -> dict[str, Any]:
    """An inspection as JSON."""
    return {
        "model": found.model,
        "config": dict(found.config),
        "inputs": dict(found.inputs),
        "sizes": dict(found.sizes),
        "groups": [_group_data(group) for group in found.groups],
        "notes": list(found.notes),
    }


def _group_data(group: Group) -> dict[str, Any]:
    return {
        "pattern": group.pattern,
        "module": group.module,
        "modules": [{"path": each.path, "index": each.index} for each in group.modules],
        "calls": [
            {
                "rows": _formula(call.rows),
                "queries": _formula(call.queries),
                "keys": _formula(call.keys),
                "masked": call.masked,
                "kinds": [str(kind) for kind in role.kinds],
                "query_segments": role.queries,
                "key_segments": role.keys,
                "remark": role.remark,
            }
            for call, role in zip(group.calls, group.roles, strict=True)
        ],
        "heads": list(group.heads),
        "levels": [str(level) for level in group.levels],
        "kinds": [str(kind) for kind in group.kinds],
        "removals": {str(kind): [str(way) for way in ways] for kind, ways in group.removals.items()},
        "tokens": dict(group.tokens),
        "norm": group.norm,
        "output": group.output,
    }


def _name(group: Group) -> str:
    return group.pattern or "(the model itself)"


def _formula(formula: Formula | None) -> str:
    return "?" if formula is None else str(formula)


def _removals(group: Group) -> str:
    return "; ".join(f"{kind}: {', '.join(map(str, ways))}" for kind, ways in group.removals.items())


def _detail(group: Group) -> Iterator[Text]:
    """Segments and layer index of a group in words."""
    yield Text(f"{_name(group)} ({group.module})", "bold")
    for call, role in zip(group.calls, group.roles, strict=True):
        if role.kinds:
            same = role.queries == role.keys
            words = f"queries and keys: {role.queries}" if same else f"queries: {role.queries}; keys: {role.keys}"
            yield Text(f"  {words}{'; masked' if call.masked else ''}")
        if role.remark:
            yield Text(f"  {role.remark}", "yellow")
    places = [each.index for each in group.modules if each.index is not None]
    if places:
        yield Text(f"  layer index: {_range(places)}{_levels(group)}")


def _range(places: Sequence[int]) -> str:
    if len(places) == 1:
        return str(places[0])
    together = [*places] == [*range(places[0], places[0] + len(places))]
    return f"{places[0]} to {places[-1]}" if together else ", ".join(map(str, places))


def _levels(group: Group) -> str:
    """At how many sizes of a frame it runs, if not at the model's largest alone."""
    shares = [str(level) for level in group.levels]
    return f"; S is {', '.join(shares)} of the most in the model" if shares not in (["1"], []) else ""
