"""Budgets as typed: what `plan` shows and writes of them, and how what cannot be is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import f3core
from f3core import engine
from f3core.scores import Scores
from f3core.spec import load_spec

Write = Callable[..., Path]
EVALUATE = "{num_clips: 1, timing_pairs: 1, metrics: [text_accuracy]}"


@pytest.fixture
def spec(tiny_spec: Write) -> Path:
    return tiny_spec(EVALUATE, axis="cell", criterion="drift", budget={"macs": 0.9})


@pytest.fixture
def scores(spec: Path, tmp_path: Path) -> Path:
    engine.score_only(load_spec(spec), output=tmp_path / "scores")
    return tmp_path / "scores"


def test_plan_meets_a_budget_and_draws_what_there_is(f3core_cli: Any, spec: Path, scores: Path, tmp_path: Path) -> None:
    picture, file = tmp_path / "curve.png", tmp_path / "plan.json"
    code, out, _ = f3core_cli("plan", spec, "--scores", scores, "--curve", picture, "-o", file)
    assert code == 0
    assert "budget MACs ≤ 0.9 of before" in " ".join(out.split())
    assert "one step more" in out
    assert picture.stat().st_size > 5_000
    plan = json.loads(file.read_text())
    assert plan["budget"]["macs"] == 0.9
    assert plan["macs_after"] <= 0.9 * plan["macs_before"]

    code, out, _ = f3core_cli("plan", spec, "--scores", scores, "--json")
    curve = json.loads(out)["curve"]
    assert curve["plan"]["saved"] == plan["macs_before"] - plan["macs_after"]
    assert curve["guessed"] is False
    assert curve["less"]["saved"] < curve["plan"]["saved"] < curve["more"]["saved"]

    code, _, err = f3core_cli("plan", spec, "--scores", scores, "--curve", picture)
    assert (code, "give another --curve" in err) == (2, True)


def test_ratios_on_the_command_line_stand_instead_of_the_budget(f3core_cli: Any, spec: Path, scores: Path) -> None:
    code, out, _ = f3core_cli("plan", spec, "--scores", scores, "--ratios", "0.25,0.5", "--json")
    assert code == 0
    assert [(plan["ratio"], plan["budget"]) for plan in json.loads(out)] == [(0.25, None), (0.5, None)]


@pytest.mark.parametrize(
    "budget", ["{speedup: 1.1}", "{milliseconds: 5}", "{metric: text_accuracy.all, max_drop: 0.1}"]
)
def test_plan_says_that_a_measured_budget_is_a_guess(
    f3core_cli: Any, spec: Path, scores: Path, tmp_path: Path, budget: str
) -> None:
    words = ("plan", spec, "--scores", scores, "--set", f"prune.budget={budget}")
    code, out, _ = f3core_cli(*words)
    assert code == 0
    assert "Whether this meets the budget" in " ".join(out.split())
    assert json.loads(f3core_cli(*words, "--json")[1])["curve"]["guessed"] is True
    assert "● this plan" in out
    code, _, err = f3core_cli(*words, "-o", tmp_path / "plan.json")
    assert (code, "is found, and written, by apply" in err) == (2, True)
    assert err.startswith("error: --set prune.budget=")
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prune.budget={macs: 0}", "--set prune.budget={macs: 0}: prune.budget.macs: input should be greater than 0"),
        ("prune.budget={speedup: 0.5}", "greater than or equal to 1, not 0.5"),
        ("prune.ratio=0.5", "stands instead of a ratio"),
        ("prune.budget={metric: text_acuracy, max_drop: 0}", "did you mean 'text_accuracy'?"),
        (
            "prune.budget={metric: frechet_video, max_drop: 0}",
            "frechet_video is not measured; add it to evaluate.metrics",
        ),
    ],
)
def test_a_wrong_budget_ends_with_2_before_anything_is_loaded(
    f3core_cli: Any, spec: Path, override: str, said: str
) -> None:
    code, out, err = f3core_cli("validate", spec, "--set", override)
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("evaluate", "budget", "said"),
    [
        ("null", "{speedup: 1.1}", "is measured; it needs an evaluate section"),
        ("{timing_pairs: 0}", "{speedup: 1.1}", "is timed; it needs evaluate.timing_pairs of at least 1"),
        ("{timing_pairs: 0}", "{milliseconds: 9}", "is timed; it needs evaluate.timing_pairs of at least 1"),
        ("null", "{milliseconds: 9}", "(denoiser ≤ 9 ms) is measured; it needs an evaluate section"),
    ],
)
def test_a_budget_that_could_not_be_measured_is_refused_at_its_line(
    f3core_cli: Any, spec: Path, evaluate: str, budget: str, said: str
) -> None:
    code, _, err = f3core_cli("validate", spec, "--set", f"evaluate={evaluate}", "--set", f"prune.budget={budget}")
    assert code == 2
    assert err.startswith(f"error: --set prune.budget={budget}: ")
    assert said in err


def test_a_budget_out_of_reach_ends_with_1_and_the_best(
    f3core_cli: Any, spec: Path, scores: Path, tmp_path: Path
) -> None:
    for command in (("plan", spec, "--scores", scores), ("apply", spec, "--scores", scores, "--quiet")):
        code, _, err = f3core_cli(*command, "--set", "prune.budget.macs=0.1")
        assert code == 1
        assert "cannot be met: pruning every unit leaves 0." in err
    assert not list(tmp_path.glob("run*"))


def test_apply_keeps_the_budget(spec: Path, scores: Path) -> None:
    result = f3core.apply(spec, scores=Scores.load(scores), overrides=["evaluate=null"])
    assert str(result.report.plan.budget) == "MACs ≤ 0.9 of before"
    assert result.report.generation.counted.total <= 0.9 * result.report.generation.before.total
    assert not result.report.tried
    assert "budget MACs ≤ 0.9 of before" in (result.folder / "report.md").read_text()
    assert result.pipeline.transformer.f3_plan.budget == result.plan.budget


def test_a_budget_of_macs_needs_no_weights(f3core_cli: Any, spec: Path) -> None:
    code, out, _ = f3core_cli("plan", spec, "--set", "prune.criterion=late", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["macs"]["counted"]["total"] == found["macs_after"] <= 0.9 * found["macs_before"]
    assert found["curve"]["points"][-1]["units"] == len(found["units"])
    code, _, err = f3core_cli("plan", spec, "--set", "prune.criterion=late", "--set", "prune.budget.macs=0.1")
    assert (code, "cannot be met" in err) == (1, True)


def test_a_sweep_wants_ratios(f3core_cli: Any, spec: Path) -> None:
    code, _, err = f3core_cli("sweep", spec)
    assert (code, "a sweep goes over ratios; give sweep.ratios, or --ratios" in err) == (2, True)


def test_planning_from_scores_imports_no_torch(spec: Path, scores: Path, tmp_path: Path) -> None:
    argv = ["f3core", "plan", str(spec), "--scores", str(scores), "--curve", str(tmp_path / "c.png")]
    code = (
        "import sys\nfrom f3core import cli\n"
        f"sys.argv = {argv!r}\n"
        "try: cli.main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'diffusers', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
