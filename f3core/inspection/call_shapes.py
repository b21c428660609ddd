"""How the lengths of every attention call of a model depend on the sizes of its inputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

from torch import nn

from f3core.inspection.first_forward import Chosen, arguments
from f3core.inspection.formulas import Formula, fit
from f3core.inspection.input_values import LETTERS
from f3core.inspection.skeleton import Skeleton
from f3core.inspection.tracing import Trace, TracedCall, trace_forward

Key = tuple[str, int, int, int, int]
"""Pattern of a module's path, ordinal of the call in it, and the rows, queries and keys there"""


@dataclass(frozen=True)
class CallShape:
    """How the ``rows`` (of the batch, times calls in a loop), ``queries`` and ``keys`` of an attention call depend on
    sizes, and the parts that tokens were put together from, in order; None where one follows no simple rule."""

    rows: Formula | None
    queries: Formula | None
    keys: Formula | None
    masked: bool
    query_parts: tuple[Formula | None, ...] = ()
    key_parts: tuple[Formula | None, ...] = ()

    @property
    def pixel_share(self) -> Fraction | None:
        """Tokens of a frame, as a share of its latent pixels; None where pixels do not enter."""
        for formula in (self.queries, self.keys, self.rows):
            for term in formula.terms if formula else ():
                if term.letters >= {"H", "W"}:
                    return term.factor
        return None

    def per_frame(self, share: Fraction | None) -> CallShape:
        """The same with S = H·W for the tokens of a frame, where those are this share of its latent pixels."""

        def scaled(formula: Formula | None) -> Formula | None:
            return formula.scaled(frozenset("HW"), 1 / share) if formula and share else formula

        parts = (tuple(map(scaled, each)) for each in (self.query_parts, self.key_parts))
        return CallShape(scaled(self.rows), scaled(self.queries), scaled(self.keys), self.masked, *parts)

    def visual_queries(self, sizes: Mapping[str, int]) -> int:
        """Queries of one row that are of the video."""
        terms = self.queries.terms if self.queries else ()
        return int(sum(term.at(sizes) for term in terms if term.visual))


@dataclass(frozen=True)
class Call:
    """The ``ordinal``-th call of a module, made ``times`` times in a row."""

    traced: TracedCall
    ordinal: int
    times: int

    @property
    def rows(self) -> int:
        return self.traced.batch * self.times

    @property
    def key(self) -> Key:
        return (pattern(self.traced.path), self.ordinal, self.rows, self.traced.queries, self.traced.keys)


def pattern(path: str) -> str:
    """A module's path with ``*`` for every number."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", path)


def calls_by_module(trace: Trace) -> dict[str, list[Call]]:
    """The calls of every module, in the order in which modules first ran; a loop over rows is one call."""
    found: dict[str, list[Call]] = {}
    for same, run in groupby(trace.calls, key=lambda c: (c.path, c.began, c.batch, c.queries, c.keys, c.masked)):
        calls, first = list(run), found.setdefault(same[0], [])
        first.append(Call(calls[0], len(first), len(calls)))
    return found


def keys_of(trace: Trace) -> set[Key]:
    """What the shapes of its calls are looked up by."""
    return {call.key for calls in calls_by_module(trace).values() for call in calls}


def measure(skeleton: Skeleton, chosen: Chosen, sizes: Mapping[str, int]) -> tuple[dict[Key, CallShape], list[str]]:
    """The shape of every call, by what it is at ``sizes``, from forwards in which one size is another at a time; and
    notes on sizes that could not be. Raises what a forward at ``sizes`` raises."""
    model = skeleton.build(sizes)
    runs = [(sizes, _lengths(model, chosen, sizes))]
    notes = []
    for letter, word in LETTERS.items():
        problem: Exception | None = None
        for other in (2 * sizes[letter], sizes[letter] + 4):  # some take 4n + 1 frames only
            changed = {**sizes, letter: other}
            try:
                model = skeleton.build(changed) if skeleton.tied else model
                runs.append((changed, _lengths(model, chosen, changed)))
                break
            except Exception as error:  # a model that takes one size only says so in its own way
                problem = problem or error
        else:
            notes.append(
                f"{letter} ({word}) could not be varied, so what depends on it is not told, and proposals may be "
                f"wrong: {type(problem).__name__}: {problem}"
            )
    at = [size for size, _ in runs]
    return {
        call.key: _shape(call, at, [calls.get(place) for _, calls in runs]) for place, call in runs[0][1].items()
    }, notes


def _lengths(model: nn.Module, chosen: Chosen, sizes: Mapping[str, int]) -> dict[tuple[str, int], Call]:
    trace = Trace()
    trace_forward(model, arguments(chosen, sizes), trace)
    return {(path, call.ordinal): call for path, calls in calls_by_module(trace).items() for call in calls}


def _shape(call: Call, sizes: list[Mapping[str, int]], seen: list[Call | None]) -> CallShape:
    same = [each for each in seen if each is not None]
    if len(same) < len(seen):  # it is called more or less often at other sizes
        return CallShape(None, None, None, call.traced.masked)

    def parts(of: Callable[[TracedCall], tuple[int, ...]]) -> tuple[Formula | None, ...]:
        lengths = [of(each.traced) for each in same]
        if len({len(each) for each in lengths}) > 1:
            return ()
        return tuple(fit(sizes, part) for part in zip(*lengths, strict=True) if any(part))

    return CallShape(
        fit(sizes, [each.rows for each in same]),
        fit(sizes, [each.traced.queries for each in same]),
        fit(sizes, [each.traced.keys for each in same]),
        call.traced.masked,
        parts(lambda traced: traced.query_parts),
        parts(lambda traced: traced.key_parts),
    )
