"""What a plan's units offer: predicted damage against MACs saved, on a terminal, as data and as a picture.

Damage is the sum of a selection's scores, where the criterion's scores add up; where they only rank, how many units
go stands in its place. matplotlib is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from f3core.report_text import DASH, plural, si, terminal_table

if TYPE_CHECKING:
    from f3core.plan import PruningPlan
    from f3core.selection import Front

WIDTH, HEIGHT = 60, 12
"""columns and rows of the drawing on a terminal"""


@dataclass(frozen=True)
class Curve:
    """The front of a plan's units, and where the plan stands on it (or above: a ratio need not be the best choice)."""

    plan: PruningPlan
    front: Front

    @property
    def title(self) -> str:
        """What stands against MACs."""
        if self.front.damage is None:
            return f"units pruned, in the order of {self.plan.criterion}"
        return f"predicted damage: sum of {self.plan.criterion}"

    @property
    def heights(self) -> list[float]:
        """Of every selection, its predicted damage, or how many units go."""
        if self.front.damage is not None:
            return list(self.front.damage)
        return [float(len(self.front.units(place))) for place in range(len(self.front))]

    def share(self, saved: int) -> float:
        """Share of the MACs of one generation that stays."""
        return 1 - saved / self.plan.macs_before if self.plan.macs_before else 1.0

    def at(self, plan: PruningPlan) -> tuple[float, float]:
        """A plan of these units: share of MACs that stays, and its height."""
        gone = plan.pruned
        return plan.macs_share, float(len(gone)) if self.front.damage is None else sum(unit.score for unit in gone)

    def neighbours(self) -> dict[str, int | None]:
        """Places of the next selections that save less and more than the plan; None at the ends."""
        saved = self.plan.macs_before - self.plan.macs_after
        less = [place for place, total in enumerate(self.front.saved) if total < saved]
        return {"less": less[-1] if less else None, "more": self.front.reaching(saved + 1)}


def data(curve: Curve) -> dict[str, Any]:
    """The curve as JSON: every selection, the plan (whether it is but a guess), and one step less and more."""
    heights = curve.heights
    name = "units" if curve.front.damage is None else "predicted"

    def point(place: int | None) -> dict[str, Any] | None:
        if place is None:
            return None
        saved = curve.front.saved[place]
        return {"macs": curve.share(saved), "saved": saved, name: heights[place]}

    share, height = curve.at(curve.plan)
    return {
        "what": curve.title,
        "exact": curve.front.exact,
        "guessed": curve.plan.budget is not None and curve.plan.budget.measured,
        "points": [point(place) for place in range(len(heights))],
        "plan": {"macs": share, "saved": curve.plan.macs_before - curve.plan.macs_after, name: height},
        **{side: point(place) for side, place in curve.neighbours().items()},
    }


def render(curve: Curve) -> RenderableType:
    """The curve with the plan marked, and what one step less and more would cost."""
    lines: list[RenderableType] = [Text(), Text(f"{curve.title} (up) against MACs saved (right)", "bold")]
    lines += [*_drawing(curve), Text(), _steps(curve)]
    if not curve.front.exact:
        lines.append(Text("Selections are greedy: there are too many to find the best of all.", "dim"))
    return Group(*lines)


def _steps(curve: Curve) -> RenderableType:
    """One row each for one step less, the plan, and one step more."""
    share, height = curve.at(curve.plan)
    heights, places = curve.heights, curve.neighbours()
    own = curve.plan.macs_before - curve.plan.macs_after
    columns = 6 if curve.front.damage is not None else 4

    def step(side: str) -> list[str]:
        place = places[side]
        if place is None:
            return [f"  one step {side}", DASH]
        saved, units = curve.front.saved[place], len(curve.front.units(place))
        more = _signed(saved - own, lambda number: f"{si(number)}MAC")
        damage = _signed(heights[place] - height, lambda number: f"{number:.3g}")
        return [f"  one step {side}", f"{curve.share(saved):.2%}", str(units), more, f"{heights[place]:.4g}", damage]

    head = ["", "MACs", "units", "saved", "predicted damage", ""]
    this = ["● this plan", f"{share:.2%}", str(len(curve.plan.pruned)), "", f"{height:.4g}"]
    return terminal_table(head[:columns], [row[:columns] for row in (step("less"), this, step("more"))])


def _signed(number: float, form: Callable[[float], str]) -> str:
    return f"{'−' if number < 0 else '+'}{form(abs(number))}"


def _drawing(curve: Curve) -> list[Text]:
    front, heights = curve.front, curve.heights
    most, tall = front.saved[-1], max(*heights, curve.at(curve.plan)[1])
    if not most:
        return [Text("  no unit saves anything", "dim")]
    rows = [[" "] * (WIDTH + 1) for _ in range(HEIGHT + 1)]

    def row_of(height: float) -> int:
        return HEIGHT - round(height / tall * HEIGHT) if tall else HEIGHT

    for column in range(WIDTH + 1):
        place = front.reaching(column * most / WIDTH)
        rows[row_of(heights[-1 if place is None else place])][column] = "·"
    for place, saved in enumerate(front.saved):
        rows[row_of(heights[place])][round(saved / most * WIDTH)] = "•"
    saved = min(max(curve.plan.macs_before - curve.plan.macs_after, 0), most)
    mark = (row_of(curve.at(curve.plan)[1]), round(saved / most * WIDTH))
    rows[mark[0]][mark[1]] = "●"
    labels = {0: f"{tall:.3g}", HEIGHT: "0"}
    drawn = []
    for number, row in enumerate(rows):
        line = Text(f"{labels.get(number, ''):>9} │", "dim")
        line.append("".join(row), "cyan")
        drawn.append(line)
    left, right = "none saved", f"{1 - curve.share(most):.1%} saved"
    drawn.append(Text(f"{'':>9} └{'─' * (WIDTH + 1)}", "dim"))
    drawn.append(Text(f"{'':>11}{left}{right:>{WIDTH + 1 - len(left)}}", "dim"))
    return drawn


def draw(curve: Curve, plans: Sequence[PruningPlan], path: Path) -> None:
    """Draw the curve with each of ``plans`` marked. ``path`` names the PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from f3core.clips import INK
    from f3core.figures import COLOURS, tidy_

    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colour = COLOURS[curve.plan.target]
    saved = [1 - curve.share(total) for total in curve.front.saved]
    many = len(saved) > 200
    axes.plot(saved, curve.heights, color=colour, linewidth=1.4, marker=None if many else "o", markersize=3, zorder=3)
    for plan in plans:
        share, height = curve.at(plan)
        axes.plot([1 - share], [height], marker="D", color=INK, markersize=7, zorder=4)
        axes.annotate(
            f"{plan.goal}: {len(plan.pruned)} of {len(plan.units)} units",
            (1 - share, height),
            xytext=(-8, 6),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=INK,
        )
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(f"MACs of one generation saved, of {si(curve.plan.macs_before)}MAC", color=INK, fontsize=9)
    axes.set_ylabel(curve.title, color=INK, fontsize=9)
    axes.margins(x=0.04, y=0.08)
    tidy_(axes)
    figure.suptitle(
        f"What pruning {curve.plan.scope} offers: axis {curve.plan.axis}, {plural(len(curve.plan.units), 'unit')}",
        color=INK,
        fontsize=11,
    )
    figure.savefig(path, metadata={"Software": "f3core"})
