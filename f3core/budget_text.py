"""What was tried on the way to a budget, as the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

from f3core.budget import Tried

TITLE = "On the way to the budget"


def tried_lines(tried: Sequence[Tried]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a candidate each, by how many units go and what MACs stay, the chosen one marked. Predicted damage
    only where scores add up."""
    figures = list(dict.fromkeys(name for one in tried for name in one.measured))
    predicted = any(one.predicted is not None for one in tried)
    head = ["units", "MACs", *(["predicted damage"] if predicted else []), *figures, "verdict"]
    rows = []
    for one in tried:
        row = [f"{'● ' if one.chosen else ''}{one.units}", f"{one.macs:.1%}"]
        if predicted:
            row.append("" if one.predicted is None else f"{one.predicted:.4g}")
        row += [plain(one.measured[name]) if name in one.measured else "" for name in figures]
        rows.append([*row, f"{one.verdict}, chosen" if one.chosen else one.verdict])
    return head, rows


def plain(value: float) -> str:
    """A number with four digits, or as many as it has before the point: ``0.9812``, ``12346``."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
