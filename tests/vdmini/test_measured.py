"""Ranking by measured importance: what a unit is worth, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from f3core_vdmini.measured import Measured
from hypothesis import given
from hypothesis import strategies as st
from importances import measured, study

from f3core import engine
from f3core.errors import ScoresError
from f3core.importance_rows import Importance
from f3core.plan import Unit, split_steps
from f3core.registry import installed
from f3core.scores import Scores, ScoresHeader
from f3core.sites import AttentionKind, Structure, Target
from f3core.spec import load_spec

Write = Callable[..., Path]
NAMES = ("transformer.a", "transformer.b", "transformer.mid", "transformer.samplers")
TOGETHER = ("transformer.samplers", "transformer.mid", "transformer.b")


def found() -> Importance:
    """a is worth 2, b 3, mid −4, and samplers, which need mid and b, 10."""
    return study(
        measured("transformer.a", 11.5),
        measured("transformer.b", 12.5),
        measured("transformer.mid", 5.5),
        measured("transformer.samplers with mid, b", 19.5, sites=TOGETHER),
        staying={"transformer.z": "it changes the width"},
    )


def scores(sites: tuple[str, ...] = (*NAMES, "transformer.z"), adapter: str = "wan") -> Scores:
    levels = (900.0, 300.0)
    passes = {"transformer": {"forward": (1, 1)}}
    return Scores(ScoresHeader(adapter, sites, (0,) * len(sites), levels, passes, Structure.BLOCK), {})


def worth(
    file: Path,
    *units: tuple[str, ...],
    figure: str = "fid",
    given: Scores | None = None,
    target: Target = Structure.BLOCK,
    over: tuple[int, ...] = (0,),
    ranges: int = 1,
) -> list[float]:
    made = [Unit(name=" + ".join(sites), sites=sites, ranges=over) for sites in units]
    asked = Measured(str(file), figure)
    return asked.score(made, split_steps((900.0, 300.0), ranges), given or scores(), target, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "importance.json").write_text(found().model_dump_json())
    return tmp_path / "importance.json"


def test_a_unit_is_worth_the_places_that_it_is_made_of(file: Path) -> None:
    a, b, mid, samplers = NAMES
    assert worth(file, (a,), (b,), (mid,), (a, b), (a, mid)) == [2, 3, -4, 5, -2]
    assert worth(file, TOGETHER, (b, samplers, mid), (a, *TOGETHER)) == [10, 10, 12]
    assert worth(file, (samplers,)) == [10]  # it goes with them or not at all
    assert worth(file.parent, (a,)) == [2]
    assert worth(file, (a,), figure="damage") == pytest.approx([0.12])


@given(st.sets(st.sampled_from(NAMES[:3]), min_size=1), st.permutations(NAMES[:3]))
def test_sums_do_not_depend_on_order(
    tmp_path_factory: pytest.TempPathFactory, chosen: set[str], order: list[str]
) -> None:
    file = tmp_path_factory.getbasetemp() / "measured-importance.json"
    if not file.exists():
        file.write_text(found().model_dump_json())
    unit = tuple(name for name in order if name in chosen)
    assert worth(file, unit) == [pytest.approx(sum(worth(file, *((name,) for name in unit))))]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"figure": "fud"}, "no figure 'fud' was measured; there are fid, acc.all"),
        ({"figure": "acc"}, "'acc' has several figures"),
        ({"target": AttentionKind.TEMPORAL}, "the importance of block, not of TA"),
        ({"given": scores(adapter="svd")}, "another model, a/model, which is of adapter 'wan'"),
        ({"given": scores(NAMES[:2])}, "which has transformer.mid, which this one lacks"),
        ({"ranges": 2}, "measured at every step at once; set prune.axis to layer"),
    ],
)
def test_what_the_study_cannot_say_is_refused(file: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ScoresError) as raised:
        worth(file, ("transformer.a",), **options)
    assert said in str(raised.value)


def test_a_site_that_stayed_has_no_importance(file: Path) -> None:
    with pytest.raises(ScoresError, match=r"transformer\.z was not measured: it changes the width"):
        worth(file, ("transformer.z",))
    with pytest.raises(ScoresError, match=r"transformer\.y was not measured: it is of a/model"):
        worth(file, ("transformer.y",))


def test_infinite_importance_ranks_nothing(file: Path) -> None:
    endless = {"fid": float("inf"), "acc.all": 0.5, "acc.some": 1.0}
    file.write_text(study(measured("transformer.a", 1.0), unpruned=(endless, endless)).model_dump_json())
    with pytest.raises(ScoresError, match=r"fid without transformer\.a is no number to rank by"):
        worth(file, ("transformer.a",))


def test_a_file_is_asked_for_where_it_is_used() -> None:
    made = installed().make("criterion", "measured")
    with pytest.raises(ScoresError, match=r"give its file: criterion: \{measured: \{file"):
        made.score([], [], scores(), Structure.BLOCK, 0)


def test_a_plan_goes_by_it_without_a_calibration(tiny_spec: Write, tmp_path: Path) -> None:
    names = [f"transformer.blocks.{i}" for i in range(4)]
    values = [14.5, 9.5, 12.5, 11.5]
    made = study(*(measured(name, value) for name, value in zip(names, values, strict=True)))
    file = tmp_path / "importance.json"
    file.write_text(made.model_dump_json())
    spec = tiny_spec(target="block", criterion={"measured": {"file": str(file), "figure": "fid"}}, ratio=0.5)
    ((plan, macs),) = engine.plan_without_weights(load_spec(spec))
    assert [unit.score for unit in plan.units] == [5, 0, 3, 2]
    assert [unit.name for unit in plan.pruned] == [names[1], names[3]]
    assert macs.counted.total == plan.macs_after
