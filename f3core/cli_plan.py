"""`f3core plan`: what would go and what it would save, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from f3core.cli_options import AsJson, Override, Quiet, ScoresArg, load, merged_scores, numbers, say, show
from f3core.errors import OutputError, SpecError

if TYPE_CHECKING:
    from f3core.plan import PruningPlan
    from f3core.report import MacsChange
    from f3core.scores import Scores
    from f3core.spec import SpecFile

PUBLISHED_RATIOS = (0.25, 0.5, 0.75)


def plan(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC", help="A YAML spec.")] = None,
    scores: ScoresArg = None,
    ratios: Annotated[str | None, typer.Option(help="Comma-separated ratios, to compare; with --output: one.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write the plan to.")] = None,
    curve: Annotated[
        Path | None, typer.Option("--curve", metavar="PNG", help="Picture to draw: predicted damage against MACs.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Instead of a spec: published models of every adapter, as a table.")
    ] = False,
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="With --published: only this adapter's; may be repeated.")
    ] = None,
    overrides: Override = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Make a plan without the model's weights: units, scores, verdicts, MACs saved, and what less or more would cost.

    From saved scores; or without, from the model's configs, by a criterion that needs none (such as late).
    """
    for option, path in (("--output", output), ("--curve", curve)):
        if path is not None and path.exists():
            raise OutputError(f"{path} is there already and is not overwritten; give another {option}, or remove it")
    wanted = numbers("--ratios", ratios, float) if ratios else None
    if published:
        if spec is not None or scores or curve is not None or overrides:
            raise SpecError("--published counts published models, without a spec, scores, curve or overrides")
        _published(adapter or [], wanted or PUBLISHED_RATIOS, output, quiet, as_json)
        return
    if spec is None or adapter:
        raise SpecError("give a SPEC to plan, or --published (and --adapter) for published models")
    _plan(load(spec, overrides), merged_scores(scores), wanted, output, curve, quiet, as_json)


def _plan(
    file: SpecFile,
    scores: Scores | None,
    ratios: Sequence[float] | None,
    output: Path | None,
    curve: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    from f3core import damage_curve, tables
    from f3core.planning import plan_front
    from f3core.registry import installed

    budget = None if ratios else file.spec.prune.budget
    if output is not None and ratios is not None and len(ratios) > 1:
        raise SpecError("--output holds one plan; give one ratio")
    if output is not None and budget is not None and budget.measured:
        raise file.error(
            ("prune", "budget"), f"the plan of a measured budget ({budget}) is found, and written, by apply"
        )
    made = _plans(file, ratios or [None], scores)
    first, offered = made[0][0], None
    if first.ranked:
        offered = damage_curve.Curve(first, plan_front(first, installed()))
    elif curve is not None:
        raise file.error(("prune", "method"), f"method {first.method!r} ranks nothing, so there is no curve to draw")
    if output is not None:
        first.save(output)
    if curve is not None and offered is not None:
        damage_curve.draw(offered, [each for each, _ in made], curve)
    show(quiet, as_json, lambda: tables.plans_data(made, offered), lambda: tables.plans_table(made, offered))


def _plans(
    file: SpecFile, ratios: Sequence[float | None], scores: Scores | None
) -> list[tuple[PruningPlan, MacsChange | None]]:
    """A plan a ratio (None: the spec's own ratio or budget); where only configs are read, with its MACs by kind."""
    if scores is None:
        from f3core import engine

        return [*engine.plan_without_weights(file, ratios)]
    from f3core.job import resolve
    from f3core.planning import make_plan
    from f3core.registry import installed

    job = resolve(file, installed(), given_model=True, check_output=False)
    return [(make_plan(job, scores, ratio=ratio), None) for ratio in ratios]


def _published(adapters: Sequence[str], ratios: Sequence[float], output: Path | None, quiet: bool, json: bool) -> None:
    from f3core import published_text
    from f3core.environment import machine, now
    from f3core.progress import listening
    from f3core.published import published_counts
    from f3core.registry import installed

    with listening(quiet or json) as listener:
        counts = published_counts(installed(), adapters, ratios, listener)
    if not counts:
        raise SpecError(f"no adapter of {', '.join(adapters)} knows a published model")
    if output is not None:
        made = f"{now()}, {machine().cpu}. `f3core plan --published`; on the meta device, no weights."
        output.write_text(published_text.published_markdown(counts, made), encoding="utf-8")
        say(quiet or json, f"written to {output}")
    show(quiet, json, lambda: published_text.published_data(counts), lambda: published_text.published_table(counts))
