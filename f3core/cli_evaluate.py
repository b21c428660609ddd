"""The command that measures folders of clips: thin, like those of `cli`, which registers it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from f3core.cli_options import AsJson, Quiet, say, say_broken, show
from f3core.errors import OutputError, SpecError


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Videos, folders of frames, UCF-101 or DAVIS.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", "-m", metavar="NAME[={OPTIONS}]", help="As in 'fvd={features: zoo:judge}'; repeatable."
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="Clips to compare with, for metrics that do.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of each clip, 16 for the usual FVD; all when left out.")
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Look at every so-many-th frame.")] = 1,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Cut and scale frames, e.g. 128x128; as they are when left out.")
    ] = None,
    reference_seed: Annotated[
        int, typer.Option(min=-1, help="Draws where a reference set's clips begin; -1: at their first frame.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips held and measured at once.")] = 8,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="JSON file to write.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure the clips in DIR, whoever made them: quality alone, or against those of --reference.

    With --frames, clips of DIR are looked at from their first frame, those of a reference set from a random one, as the
    FVD protocol of StyleGAN-V has it; both from the first where clips are compared one with another. Broken files and
    clips with too few frames are left out, and named.
    """
    height_width = _size(size)
    if output is not None and output.exists():
        raise OutputError(f"{output} is there already and is not overwritten; give another --output, or remove it")
    from f3core import folder_quality
    from f3core.progress import listening
    from f3core.registry import installed

    say_broken(quiet)
    metrics = folder_quality.asked(metric or (), installed())
    sampling = folder_quality.Sampling(
        frames=frames,
        stride=stride,
        size=height_width,
        batch_size=batch_size,
        reference_seed=reference_seed if reference_seed >= 0 else None,
    )
    with listening(quiet or as_json) as listener:
        found = folder_quality.evaluate(folder, metrics, reference=reference, sampling=sampling, listener=listener)
    show(quiet, as_json, lambda: found.model_dump(mode="json"), lambda: folder_quality.render(found))
    if output is not None:  # what took long to measure is shown even where it cannot be written
        found.save(output)
        say(quiet or as_json, f"written to {output}")


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise SpecError(f"--size {text}: write it as HxW, such as 128x128")
    return int(match[1]), int(match[2])
