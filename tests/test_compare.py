"""A comparison: what every row is measured by, on what, and that it can be killed at any moment and go on."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core import compare_figure, compare_seed, compare_text, engine, seeds
from f3core.accelerator import Accelerator
from f3core.compare import compare
from f3core.compare_rows import Comparison, figure_of, pareto
from f3core.compare_seed import needed_scores
from f3core.errors import ModelError, OutputError, PlanError, SpecError
from f3core.evaluate import damage, generate, noise_seeds, paired_timing
from f3core.hookspecs import Entry, hookimpl
from f3core.job import resolve
from f3core.metric import Batch, Metric, Reference
from f3core.probe import replaced_forward
from f3core.registry import Registry
from f3core.scores import Scores
from f3core.spec import load_spec

Write = Callable[..., Path]


class Skip(Accelerator):
    """Leaves out one block of every forward."""

    name = "skip"

    def __init__(self, block: int = 0) -> None:
        self.block = block

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        block = denoisers["transformer"].blocks[self.block]  # type: ignore[union-attr, index]
        with replaced_forward(block, lambda forward, hidden, *args, **kwargs: hidden):
            yield


class Unbearable(Accelerator):
    name = "unbearable"

    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Any:
        raise ModelError("this model has nothing to accelerate")


class Light(Metric):
    """Brightness, and how much it varies, which is less."""

    name = "light"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        every = torch.cat([batch.clips for batch in clips]).double()
        return {"spread": 1e-3 * float(every.std()), "mean": float(every.mean())}


class Likeness(Metric):
    """Infinite for the very same clips, like a PSNR."""

    name = "likeness"
    reference = Reference.CLIP

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        error = sum(damage(a.clips, b.clips) for a, b in zip(clips, reference or [], strict=True))
        return {"likeness": 1 / error if error else float("inf")}


@functools.cache
def registry() -> Registry:
    """What is installed, and the accelerators and metrics of this file."""
    made = Registry()
    made.load_entry_points()
    plugin = types.SimpleNamespace(
        f3core_accelerators=hookimpl(lambda: [Entry(c.name, f"{__name__}:{c.__name__}") for c in (Skip, Unbearable)]),
        f3core_metrics=hookimpl(lambda: [Entry(c.name, f"{__name__}:{c.__name__}") for c in (Light, Likeness)]),
    )
    made.register(plugin, "mine")
    return made


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "installed", registry)


ROWS = (
    "{name: quarter, prune: {ratio: 0.25}}",
    "{name: half, prune: {ratio: 0.5}}",
    "{name: skip, accelerate: skip}",
    "{name: half + skip, prune: {ratio: 0.5}, accelerate: [{skip: {block: 1}}]}",
)
SMALL = ("calibrate.steps=2", "calibrate.num_prompts=1")
NAMES = ["unpruned", "quarter", "half", "skip", "half + skip"]
EVALUATE = "{num_clips: 2, timing_pairs: 0, metrics: [light, likeness]}"


def run(spec: Path, *rows: str, over: str = "[0, 1]", **options: Any) -> Comparison:
    section = f"compare={{seeds: {over}, rows: [{', '.join(rows or ROWS)}]}}"
    return compare(load_spec(spec, [section, *SMALL]), **options)


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


def told(found: Comparison) -> dict[str, Any]:
    """All of a comparison but when and in how much memory it was made."""
    data = found.model_dump(mode="json", exclude={"date": True, "rows": {"__all__": {"memory"}}})
    for outcome in data["outcomes"]:
        outcome.pop("memory")
    return data


def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by how many clips every generation is asked for."""
    calls, usual = list[int](), WanAdapter.generate

    def counted(self: WanAdapter, pipeline: Any, prompts: list[str], **options: Any) -> Tensor:
        calls.append(len(prompts))
        return usual(self, pipeline, prompts, **options)

    monkeypatch.setattr(WanAdapter, "generate", counted)
    return calls


def test_killed_at_any_moment_it_goes_on_to_the_same_and_runs_no_finished_row_twice(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, calls, rows = tiny_spec(EVALUATE), generated(monkeypatch), (ROWS[1], ROWS[3])
    whole = run(spec, *rows, output=tmp_path / "whole")
    straight = calls.copy()

    def goes_on(output: str, kill: Callable[[str, int], bool]) -> int:
        """How often it was killed on its way."""
        folder, kills = tmp_path / f"{output}.partial" / "unfinished", 0
        names = [row.name for row in whole.rows]

        def finished(task: str) -> bool:
            seed, _, name = task.removeprefix("Seed ").partition(": ")
            kept = folder.glob(f"seed-{seed}-*/row-*.json")
            return name in names and any(json.loads(file.read_text())["name"] == name for file in kept)

        def listen(task: str, done: int, total: int) -> None:
            assert done or not finished(task)  # no clips for what is finished
            if kill(task, done):
                raise KeyboardInterrupt

        while True:
            try:
                found = run(spec, *rows, output=tmp_path / output, resume=kills > 0, listener=listen)
            except KeyboardInterrupt:
                kills += 1
                assert not (tmp_path / output).exists()
                continue
            assert told(found) == told(whole)
            assert not folder.exists()
            return kills

    seen = set[tuple[str, int]]()

    def new(task: str, done: int) -> bool:
        """Once before and once after every piece of work."""
        known = (task, done) in seen or task == "Loading the model"
        seen.add((task, done))
        return not known

    assert goes_on("often", new) > 20
    seen.clear()
    calls.clear()
    assert goes_on("between", lambda task, done: task.endswith("rows") and done > 0 and new(task, done)) == 6
    assert sorted(calls) == sorted(straight)  # down to the last generation


def test_versions_are_those_that_ran_the_rows(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    spec, draw = tiny_spec(EVALUATE), compare_figure.draw
    monkeypatch.setattr(compare_figure, "draw", full)
    with pytest.raises(OSError, match="no space"):
        run(spec, ROWS[2], over="[0]")
    monkeypatch.setattr(compare_figure, "draw", draw)
    monkeypatch.delitem(sys.modules, "diffusers")  # as in a process that has no row left to run
    assert "diffusers" in run(spec, ROWS[2], over="[0]", resume=True).versions


def interrupted(spec: Path) -> None:
    def kill(task: str, done: int, total: int) -> None:
        if task == "Seed 0: rows" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, ROWS[2], over="[0]", listener=kill)


def test_it_goes_on_with_other_rows_but_not_with_another_measurement(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(EVALUATE)
    interrupted(spec)
    with pytest.raises(OutputError, match="is of another spec"):
        run(tiny_spec(EVALUATE.replace("num_clips: 2", "num_clips: 1")), ROWS[2], over="[0]", resume=True)
    spec = tiny_spec(EVALUATE)
    whole = run(spec, ROWS[3], over="[0]", output=tmp_path / "whole")
    calls = generated(monkeypatch)
    assert told(run(spec, ROWS[3], over="[0]", resume=True)) == told(whole)
    resumed = len(calls)
    calls.clear()
    run(spec, ROWS[3], over="[0]", output=tmp_path / "again")
    assert resumed < len(calls), "the unpruned row was kept"


def test_rows_of_other_prompts_are_not_taken_up(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec(EVALUATE)
    interrupted(spec)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(prompts.read_text().replace("red", "green"))
    other = run(spec, ROWS[2], over="[0]", output=tmp_path / "other")
    assert told(run(spec, ROWS[2], over="[0]", resume=True)) == told(other)


def test_rows_timed_on_another_machine_are_run_again(
    tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec(EVALUATE)
    interrupted(spec)
    calls = generated(monkeypatch)
    run(spec, ROWS[2], over="[0]", output=tmp_path / "other")
    whole = calls.copy()
    calls.clear()
    here = compare_seed.machine()
    monkeypatch.setattr(compare_seed, "machine", lambda: here.model_copy(update={"cores": here.cores + 1}))
    assert run(spec, ROWS[2], over="[0]", resume=True).machine.cores == here.cores + 1
    assert calls == whole


# --- what is refused ------------------------------------------------------------------------------------------------


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
