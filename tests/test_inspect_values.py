"""The language of ``--input``, and formulas read from numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.errors import SpecError
from f3core.inspection.formulas import Formula, Term, fit
from f3core.inspection.input_values import value_of

SIZES = {"B": 2, "F": 6, "H": 8, "W": 24, "T": 11}
DOUBLED = [SIZES, *({**SIZES, letter: 2 * size} for letter, size in SIZES.items())]


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("B,16,F,H,W", (2, 16, 6, 8, 24), torch.float32),
        ("B,", (2,), torch.float32),
        ("B, F*H*W//4, 2*T-1", (2, 288, 21), torch.float32),
        ("B,H/2", (2, 4), torch.float32),
        ("long(B,T)", (2, 11), torch.int64),
        ("bool(B, T)", (2, 11), torch.bool),
        ("zeros(B,3,(F-1)*4)", (2, 3, 20), torch.float32),
        ("arange(F)", (6,), torch.int64),
    ],
)
def test_tensors(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = value_of("x", text, SIZES)
    assert (tuple(made.shape), made.dtype) == (shape, dtype)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("F", 6),
        ("500", 500),
        ("-0.5", -0.5),
        ("true", True),
        ("none", None),
        ("'a word'", "a word"),
        ("[F, H/2, 1]", [6, 4, 1]),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert value_of("x", text, SIZES) == value


def test_the_same_text_is_the_same_tensor() -> None:
    assert torch.equal(value_of("x", "B,T", SIZES), value_of("y", "B,T", SIZES))


@pytest.mark.parametrize(
    "text", ["", "B,,", "Q,3", "B,T;", "__import__('os')", "open('x')", "B**9", "F//0", "B,-3", "(lambda: 1)()"]
)
def test_what_is_no_value_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SpecError, match=r"--input x=.*: cannot be read; B,16,F,H,W is a tensor"):
        value_of("x", text, SIZES)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (lambda s: s["F"] * s["H"] * s["W"] // 4, "F·S/4"),
        (lambda s: s["T"] + s["F"] * s["H"] * s["W"], "F·S + T"),
        (lambda s: 2 * s["B"] * s["F"], "2·B·F"),
        (lambda s: s["H"] * s["W"] + s["T"] + 7, "S + T + 7"),
        (lambda s: s["F"] * (s["H"] * s["W"] + 1), "F·S + F"),
        (lambda s: s["B"] * s["H"], "B·H"),
        (lambda s: 3 * s["F"] // 2, "3·F/2"),
        (lambda s: 77, "77"),
        (lambda s: 0, "0"),
    ],
)
def test_formulas_are_read_from_numbers(formula: Any, text: str) -> None:
    assert str(fit(DOUBLED, [formula(sizes) for sizes in DOUBLED])) == text


@pytest.mark.parametrize(
    "formula", [lambda s: s["F"] ** 2, lambda s: s["B"] * s["T"] ** 2, lambda s: s["T"] - 100 * s["B"]]
)
def test_what_is_no_sum_of_products_has_no_formula(formula: Any) -> None:
    assert fit(DOUBLED, [formula(sizes) for sizes in DOUBLED]) is None


terms = st.builds(Term, st.integers(1, 9).map(Fraction), st.frozensets(st.sampled_from("BFHWT")))


@settings(max_examples=60, deadline=None)
@given(st.lists(terms, min_size=1, max_size=2, unique_by=lambda term: term.letters))
def test_a_fitted_formula_gives_every_number(made: list[Term]) -> None:
    numbers = [int(sum(term.at(sizes) for term in made)) for sizes in DOUBLED]
    found = fit(DOUBLED, numbers)
    assert found is not None
    assert [sum(term.at(sizes) for term in found.terms) for sizes in DOUBLED] == numbers
    assert len(found.terms) <= len(made)


def test_a_size_that_never_varies_enters_nowhere() -> None:
    sizes = [SIZES, {**SIZES, "F": 12}]
    assert fit(sizes, [66, 132]) == Formula((Term(Fraction(11), frozenset("F")),))
