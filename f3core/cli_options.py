"""What commands share: their options, and how a result is shown. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from f3core.errors import SpecError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from f3core.spec import SpecFile

SpecArg = Annotated[Path, typer.Argument(metavar="SPEC", help="A YAML spec.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. prune.ratio=0.3.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write, instead of the spec's.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same spec.")]
ScoresArg = Annotated[
    list[Path] | None, typer.Option("--scores", help="Saved scores to use; give it again for every shard.")
]


def load(spec: Path, overrides: list[str] | None) -> SpecFile:
    """The spec with its overrides. Raises `SpecError`."""
    from f3core.spec import load_spec

    return load_spec(spec, overrides or ())


def merged_scores(paths: list[Path] | None) -> Any:
    """Scores of all files; a run's folder stands for the scores in it."""
    if not paths:
        return None
    from f3core.scores import merge_files

    return merge_files(path / "scores.safetensors" if path.is_dir() else path for path in paths)


def numbers(option: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    """Numbers of an option such as ``0.25,0.5``, at least one. Raises `SpecError` that names the option."""
    try:
        found = [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise SpecError(f"{option} {text}: write numbers with commas between them")
    return found


def show(quiet: bool, as_json: bool, data: Callable[[], Any], text: Callable[[], RenderableType]) -> None:
    """Print the result: JSON, or for people, or not at all."""
    if as_json:
        print(json.dumps(data(), indent=2))
    elif not quiet:
        from rich.console import Console

        Console().print(text())


def say(quiet: bool, message: str) -> None:
    """Print a line, unless quiet."""
    if not quiet:
        print(message)


def say_broken(quiet: bool) -> None:
    """Warn of plugins that failed to load."""
    from f3core.registry import installed

    for name, reason in installed().broken.items():
        if not quiet:
            print(f"warning: plugin {name!r} failed to load: {reason}", file=sys.stderr)
