"""`draft_package`: the files of a plugin package for a model that no adapter knows, from what was seen in it.

What a draft takes for granted is marked ``CHECK`` in it, what it leaves open ``DECIDE``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

from torch import nn

from f3core.errors import ModelError, OutputError, SpecError
from f3core.inspection.inspect_model import Inspection
from f3core.inspection.skeleton import Skeleton
from f3core.registry import Registry
from f3core.scaffolding.generic_draft import generic_adapter
from f3core.scaffolding.input_code import ForwardArgument, forward_arguments
from f3core.scaffolding.shrinking import LARGE, Tiny, shrunk

MARK = re.compile(r"# (CHECK|DECIDE): (.*)")
_MORE = re.compile(r"\s*# (.*)")
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Subject:
    """A model that is to be adapted under ``name``."""

    name: str
    model_class: type[nn.Module]
    inspection: Inspection

    @property
    def package(self) -> str:
        return f"f3core_{self.name.replace('-', '_')}"

    @property
    def adapter(self) -> str:
        """Name of the adapter's class."""
        return "".join(part.capitalize() for part in re.split("[-_]", self.name)) + "Adapter"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every constructor argument that has a value."""
        return Skeleton(self.model_class, self.inspection.config).config

    @cached_property
    def positions(self) -> dict[str, int]:
        """Of the forward's arguments by name, as in a call by position."""
        return {name: i - 1 for i, name in enumerate(inspect.signature(self.model_class.forward).parameters)}

    @cached_property
    def inputs(self) -> tuple[ForwardArgument, ...]:
        """The arguments with which the forward ran, in its order."""
        return forward_arguments(self.inspection.inputs, self.positions, self.config)

    @property
    def left_out(self) -> list[str]:
        """Arguments of the forward without a value in :attr:`inputs`."""
        given = {"self", *(each.name for each in self.inputs)}
        return [name for name in self.positions if name not in given]


@dataclass(frozen=True)
class Mark:
    """A line of a package that is to be looked at: ``file`` in the package, ``line`` from 1; ``open``: left to decide,
    not only to check."""

    file: str
    line: int
    open: bool
    text: str


def check_name(name: str, registry: Registry) -> None:
    """Raises `SpecError` for a name that no package can have, or that is taken."""
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"NAME {name!r}: write it in small letters and digits, with - or _ between words, such as my-model; the "
            "package is called f3core_ and this"
        )
    if name in registry.names("adapter"):
        plugin = next(each.plugin for each in registry.registered("adapter") if each.entry.name == name)
        raise SpecError(f"NAME {name!r}: plugin {plugin!r} registers an adapter of this name; take another")
    package = f"f3core_{name.replace('-', '_')}"
    if importlib.util.find_spec(package) is not None:
        raise SpecError(f"NAME {name!r}: there is a package {package} already; take another name, or uninstall it")


def draft_package(subject: Subject, registry: Registry) -> dict[str, str]:
    """Text of every file of the package, by path. The adapter is drafted by the plugin that knows models of the kind,
    or else on `f3core.Adapter`. Raises `ModelError` when no attention was seen."""
    if not any(group.kinds for group in subject.inspection.groups):
        raise ModelError(
            f"{subject.inspection.model}: no attention of frames was seen, so there is nothing to adapt; see "
            f"`f3core inspect {subject.inspection.model}`"
        )
    test = _test(subject)
    words = {
        "name": subject.name,
        "package": subject.package,
        "project": subject.package.replace("_", "-"),
        "adapter": subject.adapter,
        "model": subject.inspection.model,
        "model_class": subject.model_class.__name__,
        "model_module": subject.inspection.model.rpartition(".")[0],
        "dependencies": ", ".join(f'"{each}"' for each in ("f3core", *_distributions(subject.model_class))),
        "test": test,
        "imports": "".join(f"{line}\n" for line in _test_imports(test)),
    }
    files = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{subject.package}/__init__.py": "init.py.txt",
        "tests/test_contract.py": "test_contract.py.txt",
    }
    made = {path: Template(_template(name)).substitute(words) for path, name in files.items()}
    made[f"{subject.package}/adapter.py"] = registry.adapter_draft(subject) or generic_adapter(subject)
    return made


def marks(files: Mapping[str, str]) -> list[Mark]:
    """All that is marked in a package, file by file; what goes on over several lines in one."""
    found: list[Mark] = []
    last = 0
    for file, text in sorted(files.items()):
        for number, line in enumerate(text.splitlines(), 1):
            if mark := MARK.search(line):
                found.append(Mark(file, number, mark[1] == "DECIDE", mark[2]))
            elif found and (file, number - 1) == (found[-1].file, last) and (more := _MORE.fullmatch(line)):
                found[-1] = replace(found[-1], text=f"{found[-1].text} {more[1]}")
            else:
                continue
            last = number
    return found


def rivals(subject: Subject, registry: Registry) -> list[str]:
    """Adapters that take the model's class already."""
    names = {each.__name__ for each in subject.model_class.__mro__}
    return [each.entry.name for each in registry.registered("adapter") if names & {*each.entry.model_classes}]


def check_folder(folder: Path) -> None:
    """Raises `OutputError` when the place of a package is taken."""
    if folder.exists():
        raise OutputError(f"{folder} exists; give another folder by --output, or remove it")


def write_package(files: Mapping[str, str], folder: Path) -> None:
    """Write files into a new folder, all or none. Raises `OutputError`."""
    check_folder(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for path, text in files.items():
                file = unfinished / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            unfinished.chmod(0o755)
            os.rename(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _distributions(model_class: type[nn.Module]) -> list[str]:
    """What is to be installed for a class: nothing for one that is in no installed distribution."""
    package = model_class.__module__.partition(".")[0]
    return sorted(set(importlib.metadata.packages_distributions().get(package, ())) - {"f3core", "torch"})


def _test(subject: Subject) -> str:
    """The rest of the contract's class: `build`, and what sizes it needs."""
    tiny = shrunk(subject.model_class, subject.inspection.config, subject.inputs)
    lines = [f"height, width = {tiny.height}, {tiny.width}"] if tiny and (tiny.height, tiny.width) != (4, 6) else []
    lines += ["", "def build(self) -> nn.Module:", *(f"    {line}" for line in _build(subject, tiny))]
    if tiny and tiny.mixed:
        lines += ["", *_cast(subject)]
    named = next((each for each in subject.inputs if each.is_timestep), None)
    if named is not None and named.name != "timestep":
        lines += [
            "",
            "def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:",
            f'    return {{**inputs, "{named.name}": torch.full_like(inputs["{named.name}"], level)}}',
        ]
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _test_imports(test: str) -> list[str]:
    """What the test needs beside pytest's usual."""
    lines = ["from collections.abc import Mapping", "from typing import Any", ""] * ("Mapping[" in test)
    return [*lines, *["import torch"] * ("torch." in test)]


def _literal(value: Any) -> str:
    """Python source of a config's value, in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _cast(subject: Subject) -> list[str]:
    """`cast` for a model that does not run in bfloat16 as a whole; libraries often note on the class what stays."""
    kept = getattr(subject.model_class, "_keep_in_fp32_modules", None) or ()
    lines = ["def cast(self, denoiser: nn.Module, dtype: torch.dtype) -> nn.Module:"]
    if not kept:
        return [
            *lines,
            "    # DECIDE: with a float32 timestep it does not run in bfloat16: which modules stay in float32 in its",
            "    # pipelines, or which arguments come in bfloat16 (see inputs)?",
            "    return denoiser.to(dtype)",
        ]
    return [
        *lines,
        "    # CHECK: these stay in float32, as the class says",
        f"    kept = {_literal(tuple(kept))}",
        "    denoiser.to(dtype)",
        "    for name, module in denoiser.named_modules():",
        "        if any(each in name for each in kept):",
        "            module.float()",
        "    return denoiser",
    ]


def _build(subject: Subject, tiny: Tiny | None) -> list[str]:
    name = subject.model_class.__name__
    if tiny is None:
        return [
            "# DECIDE: constructor arguments of a tiny model; none was found whose forward runs on 3 latent frames",
            f'raise NotImplementedError("write build(): a tiny {name} with random weights")',
        ]
    many = tiny.parameters > LARGE
    lines = [f"# DECIDE: it has {tiny.parameters / 1e6:.0f} million parameters; make it smaller"] if many else []
    lines += [f"{'model = ' if tiny.zeros else 'return '}{name}("]
    lines += [f"    {key}={_literal(value)}," for key, value in tiny.config.items()]
    lines += [")"]
    if tiny.zeros:
        lines += [
            "for weight in model.parameters():",
            "    if not weight.any():  # or what it takes part in would not show",
            "        nn.init.normal_(weight, std=0.1)",
            "return model",
        ]
    return lines
