"""What `f3core new-adapter` wrote, as people and as machines read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from f3core.scaffolding.scaffold import Mark, Subject


def drafted(subject: Subject, folder: Path, found: Sequence[Mark], rivals: Sequence[str]) -> RenderableType:
    """What was decided, what is open, and how to go on. ``rivals``: adapters that take the class already."""
    return Lines(*_lines(subject, folder, found, rivals))


def drafted_data(subject: Subject, folder: Path, found: Sequence[Mark], rivals: Sequence[str]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "name": subject.name,
        "package": subject.package,
        "folder": str(folder),
        "model": subject.inspection.model,
        "sites": {group.pattern: [str(kind) for kind in group.kinds] for group in subject.inspection.groups},
        "inputs": dict(subject.inspection.inputs),
        "check": [_data(each) for each in found if not each.open],
        "decide": [_data(each) for each in found if each.open],
        "rivals": list(rivals),
        "notes": list(subject.inspection.notes),
    }


def _data(mark: Mark) -> dict[str, Any]:
    return {"file": mark.file, "line": mark.line, "text": mark.text}


def _lines(subject: Subject, folder: Path, found: Sequence[Mark], rivals: Sequence[str]) -> Iterator[Text]:
    yield Text(f"{folder}: package {subject.package} for {subject.inspection.model}", "bold")
    for group in subject.inspection.groups:
        kinds = "+".join(map(str, group.kinds)) or "no site"
        yield Text(f"  {group.pattern} ({len(group.modules)} modules): {kinds}")
    given = {name: text for name, text in subject.inspection.inputs.items() if name != "return_dict"}
    yield Text(f"  inputs: {', '.join(f'{name}={text}' for name, text in given.items())}")
    for note in subject.inspection.notes:
        yield Text(f"note: {note}", "yellow")
    for rival in rivals:
        yield Text(
            f"note: adapter {rival!r} takes {subject.model_class.__name__} already; specs must name the one they mean "
            "as model.adapter",
            "yellow",
        )
    for decide, title in ((False, "Taken for granted; see that it is so:"), (True, "Left to decide:")):
        listed = [each for each in found if each.open is decide]
        if listed:
            yield Text(title, "bold")
        for each in listed:
            yield Text(f"  {folder / each.file}:{each.line}: {each.text}")
    if not any(each.open for each in found):
        yield Text("Nothing is left to decide.", "bold")
    yield Text("Next, with its contract saying what is wrong or missing:", "bold")
    yield Text(f"  pip install -e {folder}\n  pytest {folder}")
