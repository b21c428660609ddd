"""What forwards a generation is made of: their kinds, the arguments of each, and the rows it runs at each level."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from f3core.errors import ModelError
from f3core.probe import replaced_forward

if TYPE_CHECKING:
    from f3core.adapter import Adapter

Inputs = dict[str, dict[str, dict[str, Any]]]
"""Keyword arguments of a forward of one row, by component and kind of forward"""


@dataclass
class Forwards:
    """The forwards of one denoiser: ``inputs`` of one row by kind, and ``counted`` rows by kind and noise level."""

    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    counted: Counter[tuple[str, float]] = field(default_factory=Counter)

    @property
    def levels(self) -> set[float]:
        """The noise levels at which it ran."""
        return {level for _, level in self.counted}

    def rows(self, levels: Sequence[float]) -> dict[str, tuple[int, ...]]:
        """Rows at each of ``levels``, by kind."""
        return {kind: tuple(self.counted[kind, level] for level in levels) for kind in self.inputs}


class _Seen(Exception):
    """Every denoiser has shown its inputs; the generation need not go on."""


def capture_inputs(adapter: Adapter, pipeline: Any, prompt: str, call: Mapping[str, Any]) -> Inputs:
    """The arguments with which generation calls each denoiser, for every kind of forward.

    The generation is cut short as soon as every denoiser has been called, unless the adapter says that forwards are of
    `several_kinds`: then it goes to its end. Two steps are enough to meet every denoiser of a two-stage model. Raises
    `ModelError` for one that does not run.
    """
    denoisers = adapter.denoisers(pipeline)

    def stop(seen: Mapping[str, Forwards]) -> None:
        if all(each.inputs for each in seen.values()) and not adapter.several_kinds:
            raise _Seen

    with adapter.observable(pipeline), watch_forwards(adapter, denoisers, stop) as seen, suppress(_Seen):
        adapter.generate(pipeline, [prompt], steps=2, seeds=[0], call=call)
    for name, each in seen.items():
        if not each.inputs:
            raise ModelError(f"generation never called {name}; does the adapter name the right components?")
    return {name: each.inputs for name, each in seen.items()}


@contextmanager
def watch_forwards(
    adapter: Adapter,
    denoisers: Mapping[str, nn.Module],
    noted: Callable[[Mapping[str, Forwards]], None] = lambda _: None,
) -> Iterator[dict[str, Forwards]]:
    """Notes the forwards of every denoiser, by component, until the block ends; ``noted`` hears of each before it runs.

    Forwards without a layout are not noted.
    """
    seen = {name: Forwards() for name in denoisers}

    def note(name: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layout = adapter.layout(denoisers[name], args, kwargs)
        if layout is not None:
            if layout.kind not in seen[name].inputs:
                named = _named(denoisers[name], args, kwargs)
                seen[name].inputs[layout.kind] = adapter.take_rows(named, layout, range(1))
            seen[name].counted[layout.kind, adapter.noise_level(args, kwargs)] += layout.batch
            noted(seen)
        return forward(*args, **kwargs)

    with ExitStack() as stack:
        for name, denoiser in denoisers.items():
            stack.enter_context(replaced_forward(denoiser, functools.partial(note, name)))
        yield seen


def _named(denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by keyword, so that they can be passed on without knowing their order."""
    positional = zip(inspect.signature(type(denoiser).forward).parameters, (denoiser, *args), strict=False)
    return {**dict(list(positional)[1:]), **kwargs}
