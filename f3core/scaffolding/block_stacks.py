"""The attention modules of an inspected model by the stack of blocks they lie in, as adapters list them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from f3core.inspection.inspect_model import Group


@dataclass(frozen=True)
class InBlock:
    """A module of every block, by its ``name`` there; ``norm``: that of the norm just before it, if it is in the block
    too."""

    name: str
    group: Group
    norm: str | None


@dataclass(frozen=True)
class Stack:
    """A list of blocks at ``path`` in the model, with the attention modules of a block as they run."""

    path: str
    modules: tuple[InBlock, ...]


def stacks(groups: Iterable[Group]) -> tuple[list[Stack], list[tuple[Group, str]]]:
    """Stacks in the order in which they run, and the modules that cannot be listed so, with the reason in words."""
    sites = [group for group in groups if group.kinds]
    found: dict[str, list[InBlock]] = {}
    apart = []
    for group in sites:
        stack, star, name = group.pattern.partition(".*.")
        alike = [other for other in sites if other.pattern == group.pattern]
        if len(alike) > 1:
            apart.append((group, "modules of one name, not all of which make the same calls"))
        elif not star or "*" in name:
            apart.append((group, "in no plain list of blocks"))
        elif [each.path for each in group.modules] != [f"{stack}.{i}.{name}" for i in range(len(group.modules))]:
            apart.append((group, "in some blocks only"))
        else:
            found.setdefault(stack, []).append(InBlock(name, group, _inside(stack, group.norm)))
    return [Stack(path, tuple(modules)) for path, modules in found.items()], apart


def interleaved(found: Iterable[Stack]) -> bool:
    """Whether blocks of several stacks take turns."""
    spans = []
    for stack in found:
        places = [each.index for module in stack.modules for each in module.group.modules if each.index is not None]
        spans.append((min(places), max(places)))
    spans.sort()
    return any(one[1] > other[0] for one, other in itertools.pairwise(spans))


def seen(group: Group) -> str:
    """What was seen of a group's calls, in one line."""
    calls = "; ".join(
        f"{call.rows or '?'} rows, queries {call.queries or '?'}, keys {call.keys or '?'}" for call in group.calls
    )
    return f"{group.pattern} ({group.module}, {len(group.modules)}): {calls}"


def _inside(stack: str, norm: str | None) -> str | None:
    start = f"{stack}.*."
    return norm.removeprefix(start) if norm and norm.startswith(start) else None
