"""How a number depends on sizes, read from what it is when one of them changes at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import prod

_ORDER = "BFHWT"
_MOST_TERMS = 3


@dataclass(frozen=True)
class Term:
    """``factor`` times the product of the sizes named by ``letters``."""

    factor: Fraction
    letters: frozenset[str]

    def __str__(self) -> str:
        named = "".join(letter for letter in _ORDER if letter in self.letters).replace("HW", "S")
        parts = ([] if self.factor.numerator == 1 and named else [str(self.factor.numerator)]) + list(named)
        over = "" if self.factor.denominator == 1 else f"/{self.factor.denominator}"
        return "·".join(parts) + over

    @property
    def visual(self) -> bool:
        """Whether it counts tokens of the video: it grows with the clip, not with text."""
        return bool(self.letters & {"F", "H", "W"}) and "T" not in self.letters

    def at(self, sizes: Mapping[str, int]) -> Fraction:
        """Its value."""
        return self.factor * prod(sizes[letter] for letter in self.letters)


@dataclass(frozen=True)
class Formula:
    """A sum of terms. Prints as ``F·S + T``, where S is H·W; a constant is a term without letters."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms)) or "0"

    def has(self, *letters: str) -> bool:
        """Whether one term contains all of these sizes."""
        return any(term.letters.issuperset(letters) for term in self.terms)

    def scaled(self, letters: frozenset[str], by: Fraction) -> Formula:
        """Every term that contains all of ``letters`` times ``by``."""
        terms = (Term(t.factor * by, t.letters) if t.letters >= letters else t for t in self.terms)
        return Formula(tuple(terms))


Observed = tuple[tuple[tuple[tuple[str, int], ...], int], ...]
"""Pairs of sizes by letter and the number seen at these"""


def fit(sizes: Sequence[Mapping[str, int]], numbers: Sequence[int]) -> Formula | None:
    """The sum of the fewest products of sizes that gives every number exactly; None where at most three do not.

    Height and width are told apart only where they enter apart; a size that never varies enters nowhere.
    """
    return _fit(tuple((tuple(sorted(at.items())), number) for at, number in zip(sizes, numbers, strict=True)))


@lru_cache(maxsize=4096)
def _fit(observed: Observed) -> Formula | None:
    sizes, numbers = [dict(at) for at, _ in observed], [Fraction(number) for _, number in observed]
    if not any(numbers):
        return Formula(())
    varied = [letter for letter in _ORDER if len({at[letter] for at in sizes}) > 1]
    products = [frozenset(c) for n in range(len(varied) + 1) for c in itertools.combinations(varied, n)]
    for count in range(1, _MOST_TERMS + 1):
        for chosen in itertools.combinations(products, count):
            columns = [[Fraction(prod(at[letter] for letter in letters)) for at in sizes] for letters in chosen]
            factors = _solve(columns, numbers)
            if factors is not None and all(factor > 0 for factor in factors):
                terms = [Term(factor, letters) for factor, letters in zip(factors, chosen, strict=True)]
                return Formula(tuple(sorted(terms, key=_place)))
    return None


def _place(term: Term) -> tuple[int, int, str]:
    """The video first, then text, then constants."""
    return -len(term.letters - {"T"}), -len(term.letters), str(term)


def _solve(columns: list[list[Fraction]], numbers: list[Fraction]) -> list[Fraction] | None:
    """x with Σ x[i]·columns[i] = numbers exactly; None where there is none, or more than one."""
    rows = [[column[i] for column in columns] + [numbers[i]] for i in range(len(numbers))]
    for place in range(len(columns)):
        pivot = next((i for i in range(place, len(rows)) if rows[i][place]), None)
        if pivot is None:
            return None
        rows[place], rows[pivot] = rows[pivot], rows[place]
        rows[place] = [value / rows[place][place] for value in rows[place]]
        for i, row in enumerate(rows):
            if i != place and row[place]:
                rows[i] = [value - row[place] * lead for value, lead in zip(row, rows[place], strict=True)]
    if any(row[-1] for row in rows[len(columns) :]):
        return None
    return [row[-1] for row in rows[: len(columns)]]
