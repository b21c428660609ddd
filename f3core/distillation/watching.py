"""What modules inside a model gave out in a forward, seen through hooks that are gone when it has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from f3core.errors import ModelError


class Watched:
    """Outputs of modules by path, with the graph they have."""

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}

    def under(self, names: Mapping[str, str]) -> dict[str, Tensor]:
        """The outputs under the names that ``names`` gives to paths. Raises `ModelError` for a module that did not run
        or gave no tensor."""
        for path in names:
            if path not in self.outputs:
                raise ModelError(f"{path} did not run in a forward, or gave out no tensor; it cannot be matched")
        return {name: self.outputs[path] for path, name in names.items()}


@contextlib.contextmanager
def watching(module: nn.Module, paths: Sequence[str]) -> Iterator[Watched]:
    """Outputs of the modules at ``paths`` while the context is entered: of each its last, and of several tensors the
    first. Raises `ModelError` for a path that leads to no module."""
    watched = Watched()
    handles = []
    try:
        for path in paths:
            try:
                inner = module.get_submodule(path)
            except AttributeError as error:
                raise ModelError(f"{type(module).__name__} has no module {path}") from error
            handles.append(inner.register_forward_hook(_noting(watched.outputs, path)))
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def _noting(outputs: dict[str, Tensor], path: str) -> Any:
    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        tensor = _first(output)
        if tensor is not None:
            outputs[path] = tensor

    return note


def _first(output: Any) -> Tensor | None:
    """The first tensor of what a module gave out: blocks give hidden states first."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return next((found for found in map(_first, values) if found is not None), None)
