"""The commands that compare variants of a model: thin, like those of `cli`, which registers them."""

from __future__ import annotations

from typing import Annotated

import typer

from f3core.cli_options import AsJson, Output, Override, Quiet, Resume, SpecArg, load, numbers, show


def rank_study(
    spec: SpecArg,
    output: Output = None,
    overrides: Override = None,
    criteria: Annotated[str, typer.Option(help="Criteria to compare, with commas; all when left out.")] = "",
    ratios: Annotated[str, typer.Option(help="Ratios at which quality is measured, comma-separated.")] = "0.25,0.5",
    seeds: Annotated[str, typer.Option(help="Seeds of the noise, comma-separated.")] = "0,1,2",
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune every unit alone, measure the true damage, and see which criterion predicts it."""
    file = load(spec, overrides)
    from f3core.registry import installed

    chosen = [name.strip() for name in criteria.split(",") if name.strip()] or installed().names("criterion")
    picked = numbers("--ratios", ratios, float), numbers("--seeds", seeds, int)
    from f3core import study
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = study.rank_study(
            file, chosen, ratios=picked[0], seeds=picked[1], output=output, resume=resume, listener=listener
        )
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: study.render(found))
