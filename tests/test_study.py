"""The rank study: what it measures, and that it can be interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from f3core import study
from f3core.errors import SpecError
from f3core.spec import load_spec

Write = Callable[..., Path]


def run(spec: Path, criteria: Sequence[str] = ("aas", "drift", "random"), **options: object) -> study.RankStudy:
    return study.rank_study(load_spec(spec), criteria, ratios=(0.25, 0.5), seeds=(0, 1), **options)  # type: ignore[arg-type]


def test_a_study_measures_every_unit_and_criterion(tiny_spec: Write, tmp_path: Path) -> None:
    found = run(tiny_spec())
    assert len(found.units) == 4
    assert np.asarray(found.leave_one_out).shape == (2, 4)
    assert np.all(np.asarray(found.leave_one_out) > 0)
    assert {r.criterion for r in found.results} == {"aas", "drift", "random", study.CEILING}
    ceiling = [r for r in found.results if r.criterion == study.CEILING]
    assert all(r.spearman == pytest.approx(1) for r in ceiling)
    # one unit at ratio 0.25 of 4: nothing does less damage than the best unit alone
    for result in found.results:
        best = ceiling[found.seeds.index(result.seed)].damage["0.25"]
        assert result.damage["0.25"] >= best
    assert found.best in {"aas", "drift", "random"}
    written = study.RankStudy.model_validate_json((tmp_path / "run" / "rank_study.json").read_text())
    assert written == found
    text = (tmp_path / "run" / "rank_study.md").read_text()
    assert "leave_one_out" in text
    assert found.command in text
    assert found.command.endswith("--criteria aas,drift,random --ratios 0.25,0.5 --seeds 0,1")
    assert "torch" in found.versions


def test_finished_seeds_are_kept(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec()
    heard: list[str] = []

    def interrupt(task: str, done: int, total: int) -> None:
        heard.append(task)
        if task.startswith("Seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, listener=interrupt)
    assert (tmp_path / "run.partial" / "unfinished" / "seed-0.json").exists()
    heard.clear()
    found = run(spec, resume=True, listener=lambda task, done, total: heard.append(task))
    assert found.seeds == (0, 1)
    assert not any(task.startswith("Seed 0") for task in heard)


def test_an_unknown_criterion_is_refused_before_the_model_is_loaded(tiny_spec: Write, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'drift'"):
        run(tiny_spec(), criteria=["drft"])
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"seeds": ()}, "--seeds"), ({"seeds": (0, 0)}, "--seeds"), ({"ratios": (1.5,)}, "--ratios"), ({}, "evaluate")],
)
def test_impossible_options_are_refused_before_the_model_is_loaded(
    tiny_spec: Write, tmp_path: Path, options: dict[str, tuple[float, ...]], said: str
) -> None:
    spec = tiny_spec() if options else tiny_spec(evaluate="null")
    with pytest.raises(SpecError, match=said):
        study.rank_study(load_spec(spec), ["aas"], **options)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("run*"))
