"""A sweep: what it measures of every variant, what it falls back to, and that it can be interrupted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from f3core import engine, sweep_text
from f3core.errors import OutputError, SpecError
from f3core.scores import Scores
from f3core.seeds import each_seed
from f3core.sites import AttentionKind, Removal
from f3core.spec import load_spec
from f3core.sweep import sweep
from f3core.sweep_rows import Sweep

Write = Callable[..., Path]
CA, SA, TA = AttentionKind
EVALUATE = "{num_clips: 2, timing_pairs: 0}"


def run(spec: Path, *overrides: str, **options: object) -> Sweep:
    return sweep(load_spec(spec, overrides), **options)  # type: ignore[arg-type]


def test_every_variant_is_measured_on_the_same_noise(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 1}", removal="self_only")
    heard: list[str] = []
    found = run(
        spec,
        "sweep={ratios: [0, 0.5, 1], targets: [TA, CA], seeds: [0, 3]}",
        listener=lambda task, done, total: heard.append(f"{task} {done}/{total}"),
    )
    assert [(row.target, row.ratio) for row in found.rows] == [(None, 0), (TA, 0.5), (TA, 1), (CA, 0.5), (CA, 1)]
    assert [row.removal for row in found.rows] == ["", "self_only", "self_only", "drop", "drop"]
    assert heard.count("Loading the model 1/1") == 1
    assert heard.count("Scoring prompts 3/3") == 4  # once a seed and target
    unpruned, half, whole, *_ = found.rows
    assert (unpruned.damage.mean, unpruned.macs_removed, unpruned.predicted_speedup) == (0, 0, 1)
    assert (half.pruned, half.units) == (2, 4)
    for row in found.rows:
        assert row.macs_counted == row.macs_predicted
        assert row.seconds is not None
        assert row.speedup is not None
        assert row.seconds.denoiser * row.speedup.denoiser == pytest.approx(unpruned.seconds.denoiser)  # type: ignore[union-attr]
    assert 0 < half.macs_removed < whole.macs_removed
    assert half.damage.mean > 0
    dropped = next(row for row in found.rows if row.target is CA and row.ratio == 1)
    assert dropped.parameters < whole.parameters == unpruned.parameters
    # timed in the first seed alone, seeds of their own noise
    assert [o.timing is not None for o in found.outcomes if o.target] == [True] * 4 + [False] * 4
    assert len({o.damage for o in found.outcomes if o.target is TA}) == 4
    written = tmp_path / "run"
    assert Sweep.model_validate_json((written / "sweep.json").read_text()) == found
    assert (written / "spec.yaml").read_text() == spec.read_text()
    assert (written / "curve.png").stat().st_size > 10_000
    kept = {file.name for file in (written / "scores").iterdir()}
    assert kept == {f"seed-{seed}-{kind}.safetensors" for seed in (0, 3) for kind in (TA, CA)}
    text = (written / "sweep.md").read_text()
    assert "The spec asks for self_only, which CA cannot do" in text
    assert found.command in text


def test_a_variant_is_what_apply_makes_of_the_same_seed(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec(ratio=0.5)
    found = run(spec, "sweep={seeds: [2]}", output=tmp_path / "sweep")
    (_, row) = found.rows
    assert (row.target, row.ratio, row.removal, row.seconds) == (TA, 0.5, "self_only", None)
    sets = ("calibrate.seed=2", "prune.seed=2", "evaluate.seed=3")
    scores = Scores.load(tmp_path / "sweep" / "scores" / "seed-2-TA.safetensors")
    applied = engine.apply(spec, overrides=sets, scores=scores)
    assert tuple(unit.name for unit in applied.plan.pruned) == found.outcomes[1].pruned
    assert found.outcomes[1].removals == {Removal.SELF_ONLY: 2}
    assert applied.report.damage == pytest.approx(row.damage.mean, rel=1e-6)
    assert applied.report.generation.counted.total == row.macs_counted
    assert applied.report.parameters.after == row.parameters


def test_finished_seeds_are_kept(tiny_spec: Write, tmp_path: Path) -> None:
    spec, section = tiny_spec(EVALUATE), "sweep={ratios: [0.5], seeds: [0, 1]}"

    def interrupt(task: str, done: int, total: int) -> None:
        if task.startswith("Seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, section, listener=interrupt)
    assert not (tmp_path / "run").exists()
    heard: list[str] = []
    found = run(spec, section, resume=True, listener=lambda task, done, total: heard.append(task))
    assert [o.seed for o in found.outcomes] == [0, 0, 1, 1]
    assert not any(task.startswith("Seed 0") for task in heard)
    assert sorted(p.name for p in (tmp_path / "run" / "scores").iterdir()) == [
        "seed-0-TA.safetensors",
        "seed-1-TA.safetensors",
    ]


def rewrite(folder: Path) -> None:
    """Other weights in the same files."""
    (file,) = (folder / "transformer").glob("*.safetensors")
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def test_a_sweep_does_not_go_on_with_another_model(tiny_spec: Write, tiny_folder: Path, tmp_path: Path) -> None:
    spec, model = tiny_spec(EVALUATE), tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    sets = (f"model.source={model}", "sweep={ratios: [0.5], seeds: [0, 1]}")

    def interrupt(task: str, done: int, total: int) -> None:
        if task.startswith("Seed 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, *sets, listener=interrupt)
    prompts = tmp_path / "prompts.txt"
    before = prompts.read_text()
    prompts.write_text(before.replace("red", "blue"))
    with pytest.raises(OutputError, match=r"run.partial did seed 0 .*another prompts\); remove"):
        run(spec, *sets, resume=True)
    prompts.write_text(before)
    rewrite(model)
    with pytest.raises(OutputError, match=r"another model\); remove the folder to begin again"):
        run(spec, *sets, resume=True)
    assert (tmp_path / "run.partial" / "unfinished" / "seed-0.json").exists()


def test_finished_seeds_of_two_models_do_not_mix(tmp_path: Path) -> None:
    jobs = dict.fromkeys((0, 1))
    for seed, weights in ((0, "x"), (1, "y")):
        part = {"identity": {"model": {"transformer": weights}, "seed": seed}, "result": seed}
        (tmp_path / f"seed-{seed}.json").write_text(json.dumps(part))
    with pytest.raises(OutputError, match=r"did seed 1 .*another model"):
        each_seed(jobs, tmp_path, engine.silent, pytest.fail)  # type: ignore[arg-type]


def test_nothing_to_measure_with_is_refused_before_the_model_is_loaded(tiny_spec: Write, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs an evaluate section"):
        run(tiny_spec("null"))
    assert not list(tmp_path.glob("run*"))


def test_tables_tell_rows_apart_and_metrics_by_name() -> None:
    machine = {"cpu": "x", "cores": 2, "memory": 10**9}
    outcome = {"macs_before": 100, "macs_predicted": 80, "macs_counted": 80, "parameters": 10}
    figures = {"judge": {"all": 0.5, "one": 1.0}, "distance": {"distance": 3.0, "all": 2.0}}
    outcomes = [
        {**outcome, "seed": seed, "quality": figures, "target": target, "ratio": ratio, "damage": 0.25 * seed}
        for seed in (0, 1)
        for target, ratio in ((None, 0.0), ("TA", 0.5))
    ]
    from f3core.sweep_rows import Outcome, rows_of

    made = [Outcome.model_validate_json(json.dumps(one)) for one in outcomes]
    found = Sweep.model_validate(
        {
            "date": "now", "machine": machine, "versions": {}, "command": "f3core sweep s", "spec": "s",
            "source": "m", "method": "f3", "criterion": "aas", "axis": "layer", "removal": None, "seeds": (0, 1),
            "clips": 2, "steps": 4, "timed_clips": None, "rows": tuple(rows_of(made)), "outcomes": tuple(made),
            "higher_is_better": {"judge": True, "distance": False},
        }
    )  # fmt: skip
    head, rows = sweep_text.quality(found)
    assert head[2:] == ["judge: all ↑", "one ↑", "distance ↓", "distance: all ↓", "damage ↓"]
    assert rows[1] == ["TA", "0.5", "0.5 ± 0", "1 ± 0", "3 ± 0", "2 ± 0", "0.125 ± 0.1"]
    assert sweep_text.time(found)[1] == []
    assert sweep_text.cost(found)[1][1][4:7] == ["80.0", "80.0", "20.0 %"]
