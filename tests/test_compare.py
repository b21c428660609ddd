"""A comparison: what every row is measured by, on what, and what is refused before anything runs."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
from comparing import (
    EVALUATE,
    NAMES,
    ROWS,
    SMALL,
    Skip,
    Write,
    generated,
    registry,
    run,
    told,
)
from f3core_diffusers.wan import WanAdapter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from f3core import compare_text, engine, seeds
from f3core.compare import compare
from f3core.compare_rows import Comparison, figure_of, pareto
from f3core.compare_seed import needed_scores
from f3core.errors import ModelError, PlanError, SpecError
from f3core.evaluate import damage, generate, noise_seeds, paired_timing
from f3core.job import resolve
from f3core.scores import Scores
from f3core.spec import load_spec


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "installed", registry)


def test_every_row_is_measured_beside_the_unpruned_model(tiny_spec: Write, tmp_path: Path) -> None:
    spec, heard = tiny_spec(EVALUATE.replace("timing_pairs: 0", "timing_pairs: 1")), list[str]()
    found = run(spec, over="[0, 3]", listener=lambda task, done, total: heard.append(f"{task} {done}/{total}"))
    assert [row.name for row in found.rows] == NAMES
    assert heard.count("Loading the model 1/1") == 1
    assert heard.count("Scoring prompts 1/1") == 2  # once a seed
    unpruned, quarter, half, skip, both = found.rows
    for row in (quarter, half):
        assert row.share == pytest.approx(row.predicted)
    assert (unpruned.predicted, skip.predicted, both.predicted) == (None, None, None)
    assert unpruned.share == 1 > quarter.share > half.share > both.share
    assert (half.pruned, half.units, skip.units) == (2, 4, 0)
    assert (half.what, skip.what) == ("f3 (aas) on TA, ratio 0.5, axis layer: self_only", "with skip")
    assert both.what.endswith("self_only; with skip (block: 1)")
    assert unpruned.damage.mean == 0 < quarter.damage.mean
    assert list(unpruned.quality) == ["light"], "no clip is compared with itself"
    assert list(half.quality) == ["light", "likeness"]
    assert not unpruned.pareto["likeness"]
    head, lines = compare_text.quality(found)
    (column,) = [i for i, title in enumerate(head) if title.startswith("likeness")]
    assert [line[column] == "–" for line in lines] == [True, False, False, False, False]
    assert 1 / half.quality["likeness"]["likeness"].mean == pytest.approx(half.damage.mean, rel=0.5)
    assert found.telling == {"light": "mean", "likeness": "likeness"}
    assert (found.timed_clips, found.calibrated, found.steps, found.clips) == (1, 2, 2, 2)
    for row in found.rows:
        assert row.seconds is not None
        assert row.speedup is not None
        assert row.seconds.denoiser * row.speedup.denoiser == pytest.approx(unpruned.seconds.denoiser)  # type: ignore[union-attr]
        assert row.memory is not None
    # timed in the first seed alone, seeds of their own noise
    assert [o.timing is not None for o in found.outcomes] == [
        o.seed == 0 and o.name != "unpruned" for o in found.outcomes
    ]
    assert [o.memory is not None for o in found.outcomes] == [o.seed == 0 for o in found.outcomes]
    assert len({o.damage for o in found.outcomes if o.name == "skip"}) == 2

    written = tmp_path / "run"
    assert Comparison.model_validate_json((written / "compare.json").read_text()) == found
    assert (written / "spec.yaml").read_text() == spec.read_text()
    assert (written / "compare.png").stat().st_size > 10_000
    assert found.command in (written / "compare.md").read_text()
    with (written / "compare.csv").open(newline="") as file:
        assert [line["row"] for line in csv.DictReader(file)] == NAMES
    kept = [file.name for file in sorted((written / "scores").iterdir())]
    assert kept == ["seed-0-TA.safetensors", "seed-3-TA.safetensors"]


def test_a_row_is_what_apply_and_the_accelerator_make_of_the_same_seed(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec(EVALUATE)
    found = run(spec, *ROWS[1:3], over="[2]", output=tmp_path / "c")
    _, half, skip = found.rows
    sets = (*SMALL, "calibrate.seed=2", "prune.seed=2", "evaluate.seed=3", "evaluate.metrics=[]")
    scores = Scores.load(tmp_path / "c" / "scores" / "seed-2-TA.safetensors")
    applied = engine.apply(spec, overrides=sets, scores=scores, registry=registry())
    assert found.outcomes[1].pruning is not None
    assert tuple(unit.name for unit in applied.plan.pruned) == found.outcomes[1].pruning.pruned
    assert applied.report.damage == pytest.approx(half.damage.mean, rel=1e-6)
    assert applied.report.generation.counted.total == half.macs
    assert (half.seconds, half.damage.half_width) == (None, None)

    job = resolve(load_spec(spec), registry(), check_output=False)
    model = engine.load(job)
    makes = functools.partial(
        generate, model.adapter, model.pipeline, job.prompts(2, 3), steps=2, seeds=noise_seeds(3, 2), call=model.call
    )
    before = makes(batch_size=8).clips
    with Skip().enabled(model.pipeline, model.denoisers, steps=2):
        assert damage(before, makes(batch_size=8).clips) == pytest.approx(skip.damage.mean, rel=1e-6)


# --- going on -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_is_refused_before_anything_runs(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = generated(monkeypatch)
    spec = tiny_spec(EVALUATE)
    with pytest.raises(SpecError, match="needs a compare section"):
        compare(load_spec(spec))
    with pytest.raises(SpecError, match="needs an evaluate section"):
        run(tiny_spec("null"))
    tiny_spec(EVALUATE)
    with pytest.raises(ModelError, match="nothing to accelerate"):
        run(spec, ROWS[0], "{name: none, accelerate: unbearable}")
    with pytest.raises(SpecError, match=r"--set compare=.*unknown accelerator 'skib': did you mean 'skip'"):
        run(spec, "{name: none, accelerate: skib}")
    with pytest.raises(SpecError, match=r"--set compare=.*accelerator 'skip' does not take {'blok': 1}"):
        run(spec, "{name: none, accelerate: {skip: {blok: 1}}}")
    with pytest.raises(SpecError, match="method 'tome' works at every step"):
        run(spec, ROWS[0], "{name: none, prune: {method: tome, axis: cell}}")
    text = spec.read_text() + "compare:\n  rows:\n    - {name: none, prune: {branch: unconditional}}\n"
    spec.write_text(text.replace("model: {", "model: {call: {guidance_scale: 1.0}, "))
    with pytest.raises(SpecError, match=r"spec.yaml:9:28: generation is unguided"):
        compare(load_spec(spec))
    assert not calls
    assert not list(tmp_path.glob("run*"))


def test_a_budget_out_of_reach_names_its_row(tiny_spec: Write) -> None:
    with pytest.raises(PlanError, match=r"row 'too much' of seed 3: the budget .* cannot be met"):
        run(tiny_spec(EVALUATE), "{name: too much, prune: {budget: {macs: 0.01}}}", over="[3]")


def test_scores_are_shared_by_what_needs_the_same(tiny_spec: Write) -> None:
    def need(**prune: object) -> str:
        return needed_scores(resolve(load_spec(tiny_spec(**prune)), registry(), check_output=False))

    assert need() == need(ratio=0.9, criterion="late", axis="cell") == "TA" != need(target="CA")
    tried = need(criterion="propagated_drift")
    assert tried != need()
    assert tried != need(criterion="propagated_drift", removal="self_only")
    assert tried == need(criterion="propagated_drift", ratio=0.1)


# --- timing and the front -------------------------------------------------------------------------------------------


def test_an_accelerator_works_while_its_row_is_timed_and_not_while_the_model_is() -> None:
    pipeline, active, log = tiny_wan.pipeline(), list[bool](), list[bool]()

    @contextlib.contextmanager
    def during() -> Iterator[None]:
        active.append(True)
        yield
        active.pop()

    class Watched(WanAdapter):
        def generate(self, *args: Any, **options: Any) -> Tensor:
            log.append(bool(active))
            return super().generate(*args, **options)

    made = paired_timing(
        Watched(), pipeline, pipeline, ["a"], steps=1, seeds=[0], call=tiny_wan.CALL, pairs=2, during=during
    )
    assert log == [False, True] * 3
    assert len(made.denoiser.after_runs) == 2


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6) | st.just(float("inf"))), min_size=1, max_size=9)


@given(points, st.booleans(), st.randoms(use_true_random=False))
def test_a_point_is_on_the_front_unless_another_beats_it(
    drawn: list[tuple[float, float]], higher: bool, rng: Any
) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        (cost, value), (other, worth) = a, b
        better, as_good = (value > worth, value >= worth) if higher else (value < worth, value <= worth)
        return (cost <= other and better) or (cost < other and as_good)

    front = dict(zip(drawn, pareto(*zip(*drawn, strict=True), higher), strict=True))
    for point, on in front.items():
        assert on == (not any(beats(other, point) for other in drawn))
        assert on or any(beats(other, point) for other in drawn if front[other])  # by one of the front
    assert any(front.values())
    shuffled = rng.sample(drawn, len(drawn))
    assert dict(zip(shuffled, pareto(*zip(*shuffled, strict=True), higher), strict=True)) == front


def test_what_is_no_number_is_on_no_front_and_has_no_spread() -> None:
    nan, inf = float("nan"), float("inf")
    assert pareto([1, 2, 3], [nan, 1, 2], True) == [False, True, True]
    assert figure_of([inf, inf]).mean == inf
    assert figure_of([inf, 1.0]).mean != figure_of([inf, 1.0]).mean
    assert figure_of([1.0, 2.0]).half_width is not None


# --- as typed -------------------------------------------------------------------------------------------------------


def test_compare_prints_what_it_writes(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0}")
    spec.write_text(spec.read_text() + f"compare: {{seeds: [1], rows: [{ROWS[1]}]}}\n")
    sets = [word for one in SMALL for word in ("--set", one)]
    code, out, _ = f3core_cli("compare", spec, *sets, "-o", tmp_path / "c")
    assert code == 0
    assert "2 of 4" in out
    assert f"written to {tmp_path / 'c'}" in out
    made = json.loads((tmp_path / "c" / "compare.json").read_text())
    assert made["telling"] == {"damage": "damage"}
    assert made["command"] == f"f3core compare {spec} {' '.join(sets)}"
    code, _, err = f3core_cli("compare", spec, *sets, "-o", tmp_path / "c")
    assert code == 2
    assert "not overwritten" in err
    code, out, _ = f3core_cli("compare", spec, *sets, "-o", tmp_path / "d", "--json")
    assert told(Comparison.model_validate_json(out)) == told(Comparison.model_validate(made))
