"""The commands for authors of adapters: thin, like those of `cli`, which registers them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from f3core.cli_options import AsJson, Quiet, show
from f3core.errors import ModelError, SpecError

if TYPE_CHECKING:
    from torch import nn

Config = Annotated[
    list[str] | None,
    typer.Option("--config", metavar="NAME=VALUE", help="Constructor argument, as YAML, e.g. num_layers=2."),
]
Input = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=VALUE", help="Argument of the forward, e.g. hidden_states=B,16,F,H,W or num_frames=F."
    ),
]
Size = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="LETTER=N", help="What a letter of --input is at first, e.g. F=9; it then varies."),
]
Real = Annotated[
    bool, typer.Option("--real", help="Compute, with random weights; for a small model whose forward needs values.")
]


def inspect(
    model: Annotated[
        str, typer.Argument(metavar="pkg.Class|DIR", help="A denoiser's class, or the folder of a model or component.")
    ],
    config: Config = None,
    inputs: Input = None,
    sizes: Size = None,
    real: Real = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Trace a model that no adapter knows, list its attention calls, and propose sites and segments.

    It is built without weights and run at sizes that vary one at a time. In --input, B, F, H, W and T stand for rows,
    latent frames, latent rows and columns, and text tokens.
    """
    changed, given, at = _changed(config), dict(_pairs("--input", inputs)), _sizes(sizes)
    denoisers = _denoisers(model)
    from f3core.inspection import inspect_model, inspect_text

    found = {
        name: inspect_model.inspect_class(model_class, {**arguments, **changed}, given, sizes=at, real=real)
        for name, (model_class, arguments) in denoisers.items()
    }
    show(
        quiet,
        as_json,
        lambda: [{"component": name or None, **inspect_text.inspection_data(each)} for name, each in found.items()],
        lambda: inspect_text.inspection_tables(found),
    )


def new_adapter(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter; the package is f3core_NAME.")],
    model: Annotated[
        str, typer.Option("--model-class", metavar="pkg.Class", help="The class of the denoiser, not of a pipeline.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; f3core-NAME unless given.")
    ] = None,
    config: Config = None,
    inputs: Input = None,
    sizes: Size = None,
    real: Real = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a plugin package for a model that no adapter knows: what `f3core inspect` proposes, with what is left to
    decide marked, and a contract test."""
    from f3core.registry import installed

    folder = output or Path(f"f3core-{name}")
    changed, given, at = _changed(config), dict(_pairs("--input", inputs)), _sizes(sizes)
    from f3core.inspection.inspect_model import inspect_class
    from f3core.inspection.skeleton import model_class
    from f3core.scaffolding import scaffold, scaffold_text

    scaffold.check_name(name, installed())
    scaffold.check_folder(folder)
    found = model_class(model)
    subject = scaffold.Subject(name, found, inspect_class(found, changed, given, sizes=at, real=real))
    files = scaffold.draft_package(subject, installed())
    scaffold.write_package(files, folder)
    rivals = scaffold.rivals(subject, installed())
    show(
        quiet,
        as_json,
        lambda: scaffold_text.drafted_data(subject, folder, scaffold.marks(files), rivals),
        lambda: scaffold_text.drafted(subject, folder, scaffold.marks(files), rivals),
    )


def _denoisers(model: str) -> Mapping[str, tuple[type[nn.Module], Mapping[str, Any]]]:
    """Class and constructor arguments of each denoiser: by component, or under no name for a class."""
    if not Path(model).expanduser().is_dir():
        from f3core.inspection.skeleton import model_class

        return {"": (model_class(model), {})}
    from f3core.registry import installed

    found = installed().skeletons(str(Path(model).expanduser()))
    if not found:
        raise ModelError(
            f"{model}: no plugin finds a denoiser in it; give the folder of a pipeline (with a model_index.json) or of "
            "one component (with a config.json), or a class as pkg.Class"
        )
    return found


def _changed(config: list[str] | None) -> dict[str, Any]:
    """Constructor arguments by name."""
    return {name: _yaml(f"--config {name}={text}", text) for name, text in _pairs("--config", config)}


def _pairs(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """NAME=VALUE of every one. Raises `SpecError` for one that is none."""
    parted = [text.partition("=") for text in texts or ()]
    for name, equals, value in parted:
        if not (name and equals and value):
            raise SpecError(f"{option} {name}{equals}{value}: write it as NAME=VALUE")
    return [(name, value) for name, _, value in parted]


def _sizes(texts: list[str] | None) -> dict[str, int]:
    """Sizes by letter. Raises `SpecError` for what is none."""
    pairs = _pairs("--size", texts)
    for letter, text in pairs:
        if letter not in tuple("BFHWT") or not text.isdigit() or not int(text):
            raise SpecError(f"--size {letter}={text}: write it as LETTER=N with one of B, F, H, W, T and N above 0")
    return {letter: int(text) for letter, text in pairs}


def _yaml(where: str, text: str) -> Any:
    from f3core.yaml_source import YamlProblem, read

    try:
        return read(text).value
    except YamlProblem as error:
        raise SpecError(f"{where}: {error.message}") from error
