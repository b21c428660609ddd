"""The commands that compare variants of a model: thin, like those of `cli`, which registers them."""

from __future__ import annotations

from typing import Annotated

import typer

from f3core.cli_options import AsJson, Output, Override, Quiet, Resume, SpecArg, load, numbers, say, show

Ratios = Annotated[str | None, typer.Option(help="Shares of the units that go, comma-separated, such as 0.25,0.5.")]
Seeds = Annotated[str | None, typer.Option(help="Seeds of noise and prompts, comma-separated; 0,1,2 when left out.")]


def rank_study(
    spec: SpecArg,
    output: Output = None,
    overrides: Override = None,
    criteria: Annotated[str, typer.Option(help="Criteria to compare, with commas; all that can when left out.")] = "",
    axes: Annotated[str, typer.Option(help="Axes: layer, timestep, cell, with commas; the spec's when left out.")] = "",
    shares: Annotated[
        str, typer.Option(help="Shares of the MACs that can be saved, at which quality is measured.")
    ] = "0.25,0.5,0.75",
    seeds: Annotated[str, typer.Option(help="Seeds of the noise, comma-separated.")] = "0,1,2",
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune every unit alone, measure the true damage, and see which criterion predicts it."""
    file = load(spec, overrides)
    picked = numbers("--shares", shares, float), numbers("--seeds", seeds, int)
    from f3core import study, study_text
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = study.rank_study(
            file,
            _words(criteria),
            axes=_words(axes),
            shares=picked[0],
            seeds=picked[1],
            output=output,
            resume=resume,
            listener=listener,
        )
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: study_text.render(found))


def sweep(
    spec: SpecArg,
    ratios: Ratios = None,
    targets: Annotated[str | None, typer.Option(help="Kinds of attention, comma-separated: CA,SA,TA.")] = None,
    seeds: Seeds = None,
    output: Output = None,
    overrides: Override = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune at several ratios, and several kinds of attention, scoring once: what each costs and what it saves.

    --ratios, --targets and --seeds stand for the spec's sweep section; without either, its prune section is taken.
    """
    file = load(spec, [*(overrides or ()), *_section(ratios=ratios, targets=targets, seeds=seeds)])
    from f3core import sweep, sweep_text
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = sweep.sweep(file, output=output, resume=resume, listener=listener)
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: sweep_text.render(found))
    say(quiet or as_json, f"written to {output or file.spec.output} (sweep.md, sweep.json, curve.png, scores/)")


def compare(
    spec: SpecArg,
    output: Output = None,
    overrides: Override = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put methods, settings and accelerators side by side: the rows of the spec's compare section, measured alike."""
    file = load(spec, overrides)
    from f3core import compare, compare_text
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = compare.compare(file, output=output, resume=resume, listener=listener)
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: compare_text.render(found))
    say(quiet or as_json, f"written to {output or file.spec.output} (compare.md, .json, .csv, .png, scores/)")


def attention(
    spec: SpecArg,
    seeds: Seeds = None,
    output: Output = None,
    overrides: Override = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score a model and draw its cross, self and temporal attention over layers or steps, and between frames."""
    file = load(spec, [*(overrides or ()), *_section(seeds=seeds)])
    from f3core import attention_study, attention_text
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = attention_study.attention(file, output=output, resume=resume, listener=listener)
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: attention_text.render(found))
    say(quiet or as_json, f"written to {output or file.spec.output} (attention.png, .md, .json, scores/)")


def importance(
    spec: SpecArg,
    criteria: Annotated[
        str, typer.Option(help="Criteria to set beside, with commas; all that can when left out.")
    ] = "",
    seeds: Seeds = None,
    output: Output = None,
    overrides: Override = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Take every place away alone (blocks, or attention of a kind), and measure how much worse the model gets."""
    file = load(spec, [*(overrides or ()), *_section(seeds=seeds)])
    from f3core import importance, importance_text
    from f3core.progress import listening

    with listening(quiet or as_json) as listener:
        found = importance.importance(file, criteria=_words(criteria), output=output, resume=resume, listener=listener)
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: importance_text.render(found))
    say(quiet or as_json, f"written to {output or file.spec.output} (importance.md, .json, .csv, .png)")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _section(**given: str | None) -> list[str]:
    """Options as overrides of the sweep section, so that they are checked, recorded and repeated as those are."""
    return [f"sweep.{name}=[{text}]" for name, text in given.items() if text is not None]
