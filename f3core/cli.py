"""The command line: thin commands over the engine. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from f3core import cli_adapters, cli_distill, cli_evaluate, cli_plan, cli_studies
from f3core.cli_options import (
    AsJson,
    Output,
    Override,
    Quiet,
    Resume,
    ScoresArg,
    SpecArg,
    load,
    merged_scores,
    say,
    say_broken,
    show,
)
from f3core.errors import F3Error, SpecError

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Prune temporal attention out of text-to-video models: one YAML spec in, a smaller and faster model out.",
)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failure, 2 wrong spec or usage, 130 interrupted."""
    try:
        app()
    except F3Error as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("interrupted; the same command with --resume goes on where it stopped", file=sys.stderr)
        raise


@app.command()
def apply(
    spec: SpecArg,
    output: Output = None,
    overrides: Override = None,
    scores: ScoresArg = None,
    resume: Resume = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan; write nothing.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model as SPEC says, measure it, and write it with a report."""
    file, merged = load(spec, overrides), merged_scores(scores)
    from f3core import engine, report, tables
    from f3core.progress import listening

    say_broken(quiet)
    with listening(quiet or as_json) as listener:
        if dry_run:
            plan = engine.plan_only(file, scores=merged, listener=listener)
            show(quiet, as_json, lambda: plan.model_dump(mode="json"), lambda: tables.plan_table(plan))
            return
        result = engine.apply(file, output=output, scores=merged, resume=resume, listener=listener)
    show(quiet, as_json, lambda: result.report.model_dump(mode="json"), lambda: report.render(result.report))
    say(quiet or as_json, f"written to {result.folder} (model/, report.md, plan.json, scores.safetensors)")


@app.command()
def score(
    spec: SpecArg,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write the scores to.")] = None,
    scores: ScoresArg = None,
    overrides: Override = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Score only every N-th prompt, from the I-th (0-based).")
    ] = "0/1",
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a model's attention and save the scores; `plan` and `apply --scores` use them.

    With --scores: merge those of all shards, and add what the spec's criterion needs beyond them.
    """
    file, merged = load(spec, overrides), merged_scores(scores)
    parts = _shard(shard)
    if merged is not None and parts[1] > 1:
        raise SpecError("--scores merges what shards scored; leave --shard out")
    from f3core import engine
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        path, made = engine.score_only(
            file, scores=merged, output=output, shard=parts, resume=resume, listener=listener
        )
    found = {"scores": str(path), "prompts": len(made.prompts), "sites": len(made.header.sites)}
    told = f"{found['prompts']} prompts scored at {found['sites']} sites: {path}"
    if made.header.blocks:  # which no prompt is scored for by itself
        told = f"{found['sites']} blocks scored: {path}"
    show(quiet, as_json, lambda: found, lambda: told)


@app.command()
def sites(
    model: Annotated[str, typer.Argument(metavar="SPEC|MODEL", help="A spec, a model's name, folder or hub id.")],
    blocks: Annotated[bool, typer.Option("--blocks", help="Whole blocks, and why some cannot go.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show where a model's cross, self and temporal attention (CA, SA, TA) lives, and what it can lose; or its blocks,
    where the spec's target is these."""
    from f3core import engine, tables
    from f3core.sites import Structure

    found = engine.sites_of(_job_for(model), Structure.BLOCK if blocks else None)
    show(quiet, as_json, lambda: tables.sites_data(found), lambda: tables.sites_tree(found, model))


@app.command()
def validate(spec: SpecArg, overrides: Override = None, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Check a spec and every name in it, without loading a model."""
    from f3core.job import resolve
    from f3core.registry import installed

    file = load(spec, overrides)
    job = resolve(file, installed(), check_output=False)
    say_broken(quiet)
    adapter = job.adapter.name if job.adapter else None
    show(
        quiet,
        as_json,
        lambda: {"valid": True, "spec": str(spec), "adapter": adapter, "source": job.source},
        lambda: f"{spec}: valid; adapter {adapter or 'is found once the hub id is fetched'}",
    )


@app.command()
def schema() -> None:
    """Print the JSON schema of a spec, for editors."""
    from f3core.spec import Spec

    print(json.dumps(Spec.model_json_schema(), indent=2))


@app.command()
def plugins(quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Show what is registered, and from which package; exit 1 when a plugin is broken."""
    from f3core import tables
    from f3core.registry import installed

    registry = installed()
    show(quiet, as_json, lambda: tables.plugins_data(registry), lambda: tables.plugins_table(registry))
    if registry.broken:
        raise typer.Exit(1)


@app.command("report")
def show_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `apply` wrote.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Show the report of a finished run."""
    from f3core import report

    loaded = report.load(folder)
    show(quiet, as_json, lambda: loaded.model_dump(mode="json"), lambda: report.render(loaded))


app.command()(cli_plan.plan)
app.command()(cli_evaluate.evaluate)
app.command("rank-study")(cli_studies.rank_study)
app.command()(cli_studies.sweep)
app.command()(cli_studies.compare)
app.command()(cli_studies.attention)
app.command()(cli_studies.importance)
app.command()(cli_distill.distill)
app.command()(cli_adapters.inspect)
app.command("new-adapter")(cli_adapters.new_adapter)


# --- helpers --------------------------------------------------------------------------------------------------------


def _shard(text: str) -> tuple[int, int]:
    rank, slash, world = text.partition("/")
    if not slash or not rank.isdigit() or not world.isdigit() or not int(rank) < int(world):
        raise SpecError(f"--shard {text}: write it as I/N with I from 0 to N-1, such as 0/4")
    return int(rank), int(world)


def _job_for(model: str) -> Any:
    """The job of a spec, or a job that is no more than a model."""
    from f3core.job import resolve
    from f3core.registry import installed
    from f3core.spec import load_spec, parse_spec

    if Path(model).is_file():
        return resolve(load_spec(model), installed(), check_output=False)
    text = json.dumps({"version": 1, "model": {"source": model}, "calibrate": {"prompts": __file__}, "output": "-"})
    return resolve(parse_spec(text, "MODEL"), installed(), check_output=False)
