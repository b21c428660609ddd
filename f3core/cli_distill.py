"""The command that trains a pruned model: thin, like those of `cli`, which registers it."""

from __future__ import annotations

from f3core.cli_options import AsJson, Output, Override, Quiet, Resume, SpecArg, load, say, say_broken, show


def distill(
    spec: SpecArg,
    output: Output = None,
    overrides: Override = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Prune a model as SPEC says and train what is left to do again what the whole model does.

    In several processes, each on a GPU of its own or on the CPU: accelerate launch --multi_gpu --num_processes N
    -m f3core distill SPEC.
    """
    file = load(spec, overrides)
    from f3core.distillation import distill_text
    from f3core.distillation.distill import distill as run
    from f3core.distillation.launch import talks
    from f3core.progress import listening

    quiet = quiet or not talks()
    say_broken(quiet)
    with listening(quiet or as_json) as listener:
        found = run(file, output=output, resume=resume, listener=listener)
    as_json = as_json and talks()
    show(quiet, as_json, lambda: found.report.model_dump(mode="json"), lambda: distill_text.render(found.report))
    say(quiet or as_json, f"written to {found.folder} (model/, distill.md, distill.json, losses.png, training.jsonl)")
