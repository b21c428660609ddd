"""Finds arguments with which an unknown denoiser runs, by trying guesses and going on from those that came furthest."""

from __future__ import annotations

import heapq
import inspect
import itertools
import linecache
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from f3core.errors import ModelError, SpecError
from f3core.inspection.ghosts import ValuesNeeded
from f3core.inspection.guessing import Guesses, guess
from f3core.inspection.input_values import GRAMMAR, value_of
from f3core.inspection.tracing import Trace, trace_forward

MOST_TRIES = 100
FEW_TRIES = 30
"""for a model with few layers, in whose place the whole one can be tried"""
Chosen = dict[str, str | None]
"""By argument its value in the language of ``--input``; None: left out"""


@dataclass(frozen=True)
class _Try:
    """A forward that failed: how many modules began, why and at which statement of the model's own it stopped, and the
    arguments that this names."""

    chosen: Chosen
    came: int
    error: Exception
    statement: str
    suspects: frozenset[str]


def find_inputs(
    model: nn.Module,
    config: Mapping[str, Any],
    given: Mapping[str, str],
    sizes: Mapping[str, int],
    *,
    tries: int = MOST_TRIES,
) -> Chosen:
    """Arguments with which ``model`` of this ``config`` runs at ``sizes``, those ``given`` among them, in ``tries``.

    Best first: next are the neighbours of the choice that came furthest in the model, those of the fewest changes to
    the likeliest values first, and of these those that change what the failing statement names. Raises `ModelError`
    that tells what was tried, `SpecError` for a given argument that the forward does not have.
    """
    unknown = sorted(given.keys() - {*_parameters(model)})
    if unknown:
        raise SpecError(f"--input {unknown[0]}: {type(model).__name__}.forward has no such argument")
    guesses = guess(model, config, given)
    _check(model, guesses)
    names = list(guesses)
    order = itertools.count()
    queue = [(0, 0, False, next(order), (0,) * len(names))]
    tried: set[tuple[int, ...]] = set()
    failed: list[_Try] = []
    while queue and len(failed) < tries:
        *_, places = heapq.heappop(queue)
        if places in tried:
            continue
        tried.add(places)
        chosen = {name: guesses[name][place] for name, place in zip(names, places, strict=True)}
        stopped = attempt(model, chosen, sizes)
        if stopped is None:
            return chosen
        failed.append(stopped)
        if _missing(stopped.error):
            break
        for i, name in enumerate(names):
            for place in range(len(guesses[name])):
                near = (*places[:i], place, *places[i + 1 :])
                if near not in tried:
                    changes = len(near) - near.count(0)
                    heapq.heappush(queue, (-stopped.came, changes, name not in stopped.suspects, next(order), near))
    raise _nothing_ran(model, guesses, failed)


def arguments(chosen: Chosen, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Keyword arguments at these sizes."""
    return {name: value_of(name, text, sizes) for name, text in chosen.items() if text is not None}


def attempt(model: nn.Module, chosen: Chosen, sizes: Mapping[str, int]) -> _Try | None:
    """What stopped a forward with these arguments; None where nothing did."""
    trace, inputs = Trace(), arguments(chosen, sizes)
    try:
        trace_forward(model, inputs, trace)
    except Exception as error:  # models raise whatever they like at what they do not expect
        statement = _statement(model, error)
        named = frozenset(re.findall(r"\w+", statement)) & {*_parameters(model)}
        return _Try(chosen, len(trace.modules), error, statement, named)
    return None


def _missing(error: Exception) -> bool:
    """Whether a package that the model wants is not there, which no argument helps."""
    return isinstance(error, ImportError | NameError) and not isinstance(error, UnboundLocalError)


def _statement(model: nn.Module, error: Exception) -> str:
    """The statement in a method of ``model`` itself that did not come to its end."""
    text = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_locals.get("self") is model:
            text = line = linecache.getline(frame.f_code.co_filename, number)
            while line and text.count("(") > text.count(")"):
                number += 1
                line = linecache.getline(frame.f_code.co_filename, number)
                text += line
    return text


def _nothing_ran(model: nn.Module, guesses: Guesses, failed: list[_Try]) -> ModelError:
    """Says which arguments the furthest forward stopped at, what was tried for them, and which option to use."""
    best = max(failed, key=lambda each: each.came)
    shown = [name for name in _parameters(model) if name in best.suspects and name != "return_dict"]
    tried = "; ".join(
        f"{name}: {', '.join(text or 'left out' for text in guesses.get(name, (None,)))}" for name in shown
    )
    used = ", ".join(f"{name}={text}" for name, text in best.chosen.items() if text is not None)
    if isinstance(best.error, ValuesNeeded):
        advice = "give --real, with --config arguments that make the model small: then it is computed, not only traced"
    elif _missing(best.error):
        advice = "install the package that the model misses, or give --config arguments with which it needs none"
    else:
        options = " or ".join(f"--input {name}=..." for name in shown) or "--input NAME=..."
        advice = f"give the right one by {options} ({GRAMMAR}), or other --config"
    return ModelError(
        f"no forward of {type(model).__name__} ran; tried: {len(failed)}. The furthest began {best.came} modules, and "
        f"stopped with {type(best.error).__name__}: {_short(str(best.error))}\n"
        f"It stopped at: {_short(best.statement)}\nIts arguments: {used}\n"
        f"Tried for those named there: {tried or 'nothing, no argument is'}\nNext: {advice}"
    )


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 300 else f"{words[:300]}..."


def _parameters(model: nn.Module) -> list[str]:
    return [name for name in inspect.signature(type(model).forward).parameters if name != "self"]


def _check(model: nn.Module, guesses: Guesses) -> None:
    """Raises `ModelError` where an argument has no guess."""
    blank = sorted(name for name, values in guesses.items() if not values)
    if blank:
        raise ModelError(
            f"{type(model).__name__}.forward needs {', '.join(blank)}, and nothing is known of such an argument; give "
            f"{' '.join(f'--input {name}=...' for name in blank)} ({GRAMMAR})"
        )
