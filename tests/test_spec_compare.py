"""The compare section of a spec: rows take over what the spec's own prune section says, and are refused in place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.errors import SpecError
from f3core.sites import AttentionKind
from f3core.spec import Choice, CompareRow, PruneSpec, Spec, SpecFile, parse_spec

HEAD = "version: 1\nmodel: {source: a/b}\ncalibrate: {prompts: p}\noutput: o\n"
OWN = "prune: {method: f3, criterion: drift, ratio: 0.25, seed: 3}\n"


def spec(*rows: str, own: str = OWN, overrides: tuple[str, ...] = ()) -> SpecFile:
    lines = "".join(f"    - {row}\n" for row in rows)
    return parse_spec(f"{HEAD}{own}compare:\n  rows:\n{lines}", "s.yaml", overrides)


def rows(*given_rows: str, own: str = OWN, overrides: tuple[str, ...] = ()) -> tuple[CompareRow, ...]:
    compare = spec(*given_rows, own=own, overrides=overrides).spec.compare
    assert compare is not None
    return compare.rows


def refusal(*given_rows: str, own: str = OWN, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec(*given_rows, own=own, overrides=overrides)
    return caught.value.problems


def test_a_row_prunes_as_the_spec_does_but_for_what_it_says() -> None:
    own, other, none = rows("{name: a, prune: {}}", "{name: b, prune: {method: tome}}", "{name: c, accelerate: pab}")
    assert own.prune == spec("{name: a, prune: {}}").spec.prune
    assert other.prune == PruneSpec(method="tome", criterion="drift", ratio=0.25, seed=3)
    assert none.prune is None
    (alone,) = rows("{name: a, prune: {target: CA}}", own="")
    assert alone.prune == PruneSpec(target=AttentionKind.CROSS)
    (set_,) = rows("{name: a, prune: {method: tome}}", overrides=("prune.ratio=0.75",))
    assert set_.prune is not None
    assert set_.prune.ratio == 0.75


def test_a_ratio_stands_for_the_specs_budget_and_a_budget_for_its_ratio() -> None:
    (row,) = rows("{name: a, prune: {budget: {macs: 0.9}}}")
    assert row.prune is not None
    assert (row.prune.ratio, row.prune.budget is not None) == (None, True)
    (row,) = rows("{name: a, prune: {ratio: 0.75}}", own="prune: {budget: {macs: 0.9}}\n")
    assert row.prune is not None
    assert (row.prune.ratio, row.prune.budget) == (0.75, None)


def test_accelerators_are_one_or_several_with_or_without_options() -> None:
    found = [row.accelerate for row in rows(
        "{name: a, accelerate: pab}", "{name: b, accelerate: {pab: {range: 2}}}", "{name: c, accelerate: [pab, {x: }]}"
    )]  # fmt: skip
    pab = Choice(name="pab")
    assert found == [(pab,), (Choice(name="pab", options={"range": 2}),), (pab, Choice(name="x"))]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prune": st.fixed_dictionaries({}, optional={"ratio": st.floats(0, 1), "seed": st.integers(0, 9)})},
            optional={
                "source": st.sampled_from(["a/b", "runs/student"]),
                "accelerate": st.lists(st.sampled_from(["pab", {"pab": {"range": 2}}]), max_size=2),
            },
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whole_rows_round_trip(given_rows: list[dict[str, object]]) -> None:
    made = spec(*(json.dumps({"name": f"row {i}", **row}) for i, row in enumerate(given_rows))).spec
    assert Spec.model_validate_json(made.model_dump_json()) == made
    assert parse_spec(made.model_dump_json()).spec == made


@pytest.mark.parametrize(
    ("row", "column", "says"),
    [
        ("{name: a, prune: {ratio: 2}}", 25, "compare.rows.0.prune.ratio: input should be less than or equal to 1"),
        ("{name: a, prune: {raito: 1}}", 25, "unknown key 'raito' in compare.rows.0.prune; did you mean 'ratio'?"),
        ("{name: a, prune: {target: XA}}", 25, "unknown 'XA': allowed: CA, SA, TA"),
        ("{name: a, prune: {budget: {mac: 1}}}", 34, "unknown key 'mac' in compare.rows.0.prune.budget"),
        ("{name: a, prune: 3}", 17, "compare.rows.0.prune"),
        ("{name: a, prun: {}}", 17, "unknown key 'prun' in compare.rows.0; did you mean 'prune'?"),
        ("{name: a}", 7, "give source, prune, accelerate or several of them"),
        ("{name: a, accelerate: []}", 7, "give source, prune, accelerate or several of them"),
        ("{name: a, source: null}", 7, "give source, prune, accelerate or several of them"),
        ("{name: a, source: ''}", 17, "at least 1 character"),
        ("{name: a, source: 3}", 17, "input should be a valid string"),
        ("{name: unpruned, source: a/b}", 7, "'unpruned' is the row of the model as it is"),
        ("{name: a, accelerate: 3}", 17, "write a name, or {name: {option: value}}, not 3"),
        ("{name: a, accelerate: [pab, 3]}", 35, "write a name"),
        ("{name: unpruned, prune: {}}", 7, "'unpruned' is the row of the model as it is"),
        ("{name: '', prune: {}}", 8, "at least 1 character"),
        ("{prune: {}}", 7, "compare.rows.0.name is missing"),
    ],
)
def test_a_wrong_row_is_refused_at_its_place(row: str, column: int, says: str) -> None:
    (problem,) = refusal(row)
    assert problem.startswith(f"s.yaml:8:{column}: ")
    assert says in problem


def test_a_row_may_bring_a_model_and_prune_it_as_the_spec_does() -> None:
    alone, pruned = rows("{name: a, source: c/d}", "{name: b, source: c/d, prune: {ratio: 0.75}}")
    assert (alone.source, alone.prune, alone.accelerate) == ("c/d", None, ())
    assert pruned.prune == PruneSpec(method="f3", criterion="drift", ratio=0.75, seed=3)


def test_rows_are_told_apart_by_name() -> None:
    assert refusal("{name: a, prune: {}}", "{name: a, accelerate: pab}") == [
        "s.yaml:7:3: compare.rows: a is given twice; every value once"
    ]
    with pytest.raises(SpecError, match=r"s.yaml:5:11: compare.rows: give at least one"):
        parse_spec(HEAD + "compare: {rows: []}", "s.yaml")
    with pytest.raises(SpecError, match=r"s.yaml:5:1: compare.rows is missing"):
        parse_spec(HEAD + "compare: {seeds: [1]}", "s.yaml")


def test_what_is_wrong_in_the_specs_own_section_is_said_once() -> None:
    (problem,) = refusal("{name: a, prune: {}}", "{name: b, prune: {}}", own="prune: {ratio: 2}\n")
    assert problem.startswith("s.yaml:5:9: prune.ratio")


def test_later_findings_of_a_row_point_at_the_row() -> None:
    file = spec("{name: p, accelerate: pab}", "{name: a, prune: {removal: drop}}", overrides=("prune.seed=1",))
    row = file.of_row(1)
    assert row.spec.prune.removal == "drop"
    assert str(row.error(("prune", "removal"), "no")) == "s.yaml:9:25: no"
    assert str(row.error(("prune", "target"), "no")) == "s.yaml:9:17: no"
    assert str(row.error(("model", "source"), "no")) == "s.yaml:2:9: no"
    assert str(file.error(("prune", "method"), "no")) == "s.yaml:5:9: no"
    assert row.spec.model == file.spec.model


def test_later_findings_of_a_rows_model_point_at_its_source() -> None:
    file = spec("{name: a, source: c/d}", "{name: b, source: e/f, prune: {}}", "{name: c, accelerate: pab}")
    alone, pruned, none = map(file.of_row, range(3))
    assert [each.spec.model.source for each in (alone, pruned, none)] == ["c/d", "e/f", "a/b"]
    assert alone.spec.prune == file.spec.prune
    assert [str(each.error(("model", "source"), "no")) for each in (alone, pruned, none)] == [
        "s.yaml:8:17: no", "s.yaml:9:17: no", "s.yaml:2:9: no"
    ]  # fmt: skip
    assert str(alone.error(("prune", "ratio"), "no")) == "s.yaml:5:39: no"
    assert str(pruned.error(("prune", "ratio"), "no")) == "s.yaml:9:30: no"
    assert str(alone.error(("model", "adapter"), "no")) == "s.yaml:2:1: no"
