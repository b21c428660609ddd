"""The study of importance: what it measures without each place, what it refuses, and that it can be interrupted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import registry

from f3core import engine, importance, importance_rows, seeds
from f3core.block import Stage
from f3core.errors import ScoresError, SpecError
from f3core.importance_rows import Importance
from f3core.sites import Removal
from f3core.spec import load_spec

Write = Callable[..., Path]
SMALL = ("calibrate.steps=2", "calibrate.num_prompts=2")
BLOCKS = [f"transformer.blocks.{i}" for i in range(4)]


def run(spec: Path, *overrides: str, **options: Any) -> Importance:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "installed", registry)
        return importance.importance(load_spec(spec, [*SMALL, *overrides]), **options)


def test_every_block_is_taken_out_alone(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 1, metrics: [light, likeness]}", target="block")
    found = run(spec, "sweep={seeds: [0, 3]}")
    assert [place.name for place in found.places] == BLOCKS
    assert found.criteria == ("change", "output_drift", "propagated_drift")
    assert found.unable == found.staying == {}
    assert found.figures == ("light.spread", "light.mean", "likeness", "damage")
    assert found.telling == ("light.mean", "likeness", "damage")
    for number, place in enumerate(found.places):
        assert (place.sites, place.removal) == ((place.name,), (Removal.DROP,))
        assert (place.index, place.stage, place.level, place.number) == (number, Stage.STACK, 0, number)
        for seed in range(2):
            assert place.figures[seed]["likeness"] == pytest.approx(1 / place.damage[seed])
        assert place.damage[0] != place.damage[1]  # noise of their own
        assert all(len(values) == 2 and min(values) > 0 for values in place.proxies.values())
        assert place.timing is not None
        assert place.seconds_saved is not None
        assert found.seconds is not None
        left = (found.seconds - place.seconds_saved) * place.timing.denoiser.speedup
        assert left == pytest.approx(found.seconds)
    written = tmp_path / "run"
    assert importance_rows.load(written) == found
    assert (written / "spec.yaml").read_text() == spec.read_text()
    assert (written / "importance.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((written / "importance.csv").open()))
    assert [row["place"] for row in rows] == BLOCKS
    assert float(rows[1]["damage_importance"]) == pytest.approx(found.importance(found.places[1], "damage").mean)
    assert float(rows[1]["light.mean_importance"]) == pytest.approx(
        sum(found.importances(found.places[1], "light.mean")) / 2
    )
    text = (written / "importance.md").read_text()
    assert "| (another seed) |" in text
    assert found.command in text


def test_without_a_place_is_what_apply_leaves(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 2, timing_pairs: 0, metrics: [light]}", target="block")
    found = run(spec, "sweep={seeds: [2]}", criteria=["output_drift"], output=tmp_path / "study")
    assert found.command.endswith("--criteria output_drift")
    sets = ("calibrate.seed=2", "prune.seed=2", "evaluate.seed=3", "prune.method={listed: {blocks: [blocks.1]}}")
    applied = engine.apply(spec, overrides=(*SMALL, *sets), registry=registry()).report
    place = found.places[1]
    assert applied.damage == pytest.approx(place.damage[0], rel=1e-6)
    light = applied.quality["light"]
    assert light.after["mean"] == pytest.approx(place.figures[0]["light.mean"])
    worse = light.after["mean"] - light.before["mean"]
    assert found.importance(place, "light.mean").mean == pytest.approx(worse if not light.higher_is_better else -worse)
    assert applied.generation.before.total == found.macs
    assert applied.generation.counted.total == found.macs - place.macs_saved
    assert applied.parameters.before == found.parameters
    assert applied.parameters.after == found.parameters - place.parameters_saved
    assert (place.seconds_saved, found.seconds) == (None, None)


def test_sites_of_a_kind_of_attention_are_places_too(tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0, metrics: [light]}", target="CA")
    found = run(spec, "sweep={seeds: [0]}", "calibrate.num_prompts=1")
    assert [place.name for place in found.places] == [f"{block}.attn2" for block in BLOCKS]
    assert [place.index for place in found.places] == [0, 1, 2, 3]
    assert {place.stage for place in found.places} == {None}
    assert {"aas", "drift", "propagated_drift", "output_drift"} <= set(found.criteria)
    assert "no block" in found.unable["change"]
    assert not {"random", "late", "measured"} & set(found.criteria)  # they measure nothing of the model
    scored = found.places[0].proxies
    assert scored["reverse"] == (-scored["aas"][0],)
    assert "change is not among the criteria" in (tmp_path / "run" / "importance.md").read_text()
    with pytest.raises(ScoresError, match="no block"):
        run(spec, "sweep={seeds: [0]}", criteria=["change"], output=tmp_path / "asked")


def test_a_block_of_a_unet_goes_with_all_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, tiny_spec: Write, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "families")
    import tiny_unet3d

    folder = tmp_path / "unet3d"
    pipeline = tiny_unet3d.pipeline()
    pipeline.register_modules(unet=tiny_unet3d.unet(block_out_channels=(8, 8)))
    pipeline.save_pretrained(folder)
    (folder / "f3core.json").write_text(json.dumps({"call": tiny_unet3d.CALL}))
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0, metrics: [light]}", target="block")
    found = run(spec, f"model.source={folder}", "sweep={seeds: [0]}", "calibrate.num_prompts=1", criteria=["late"])
    (together,) = [place for place in found.places if len(place.sites) > 1]
    assert together.sites[0] == "unet.samplers"
    inner = [place for place in found.places if place.level == together.level and place is not together]
    assert set(together.sites[1:]) == {place.name for place in inner}
    assert together.name.startswith("unet.samplers with down_blocks.1.pairs.0")
    assert together.macs_saved > sum(place.macs_saved for place in inner) > 0
    assert together.parameters_saved > sum(place.parameters_saved for place in inner)
    assert "unet.samplers" not in [place.name for place in found.places]
    assert (tmp_path / "run" / "importance.png").stat().st_size > 10_000


def test_nothing_is_measured_twice(tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0, metrics: [light]}", target="block")
    options: dict[str, Any] = {"criteria": ["random"]}

    def interrupt(task: str, done: int, total: int) -> None:
        if (task, done) == ("Seed 1: places", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, "sweep={seeds: [0, 1]}", listener=interrupt, **options)
    assert not (tmp_path / "run").exists()
    made, pruned, heard = [], list[tuple[str, ...]](), list[str]()
    usual = importance.Trial.clips

    def clips(self: Any, pipeline: Any, progress: Any = None) -> Any:
        made.append(pipeline)
        return usual(self, pipeline, progress)

    def prune(model: Any, plan: Any) -> Any:
        pruned.append(tuple(unit.name for unit in plan.pruned))
        return engine.prune(model, plan)

    monkeypatch.setattr(importance, "prune", prune)
    monkeypatch.setattr(importance.Trial, "clips", clips)
    found = run(
        spec, "sweep={seeds: [0, 1]}", resume=True, listener=lambda task, done, total: heard.append(task), **options
    )
    assert pruned == [(BLOCKS[2],), (BLOCKS[3],)]
    assert len(made) == 2  # the unpruned clips were kept too
    assert not any(task.startswith("Seed 0") for task in heard)
    whole = run(spec, "sweep={seeds: [0, 1]}", output=tmp_path / "whole", **options)
    assert [place.model_dump() for place in found.places] == [place.model_dump() for place in whole.places]


@pytest.mark.parametrize(
    ("evaluate", "overrides", "criteria", "said"),
    [
        ("null", [], [], "importance is measured; it needs an evaluate section"),
        ("{num_clips: 1}", [], [], "spec.yaml:5:1: importance is how much worse figures get; name at least one metric"),
        (None, ["prune.axis=timestep"], [], "--set prune.axis=timestep: places are taken away at every step"),
        (None, ["prune.branch=unconditional"], [], "both branches of guidance"),
        (None, ["prune.method=tomesd", "prune.target=SA"], [], "method 'tomesd' takes nothing away"),
        (None, [], ["chnge"], "--criteria chnge: did you mean 'change'"),
        (None, [], ["aas"], "--criteria aas: it scores attention, not whole blocks"),
        (None, ["sweep.seeds=[]"], [], "sweep.seeds: give at least one"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_loaded(
    tiny_spec: Write, tmp_path: Path, evaluate: str | None, overrides: list[str], criteria: list[str], said: str
) -> None:
    spec = tiny_spec(evaluate or "{num_clips: 1, timing_pairs: 0, metrics: [light]}", target="block")
    with pytest.raises(SpecError) as raised:
        run(spec, *overrides, criteria=criteria, listener=lambda *heard: pytest.fail(str(heard)))
    assert said in str(raised.value)
    assert not list(tmp_path.glob("run*"))


def test_the_command_writes_and_prints(
    f3core_cli: Any, tiny_spec: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "installed", registry)
    spec = tiny_spec("{num_clips: 1, timing_pairs: 0, metrics: [light]}", target="block")
    sets = [word for one in SMALL for word in ("--set", one)]
    code, out, _ = f3core_cli("importance", spec, "--criteria", "late", "--seeds", "1", *sets, "-o", tmp_path / "i")
    assert code == 0
    assert "block taken away at 4 places" in out
    assert f"written to {tmp_path / 'i'}" in out
    made = json.loads((tmp_path / "i" / "importance.json").read_text())
    assert made["seeds"] == [1]
    assert made["command"].endswith("--set 'sweep.seeds=[1]' --criteria late")
    code, _, err = f3core_cli("importance", spec, "--criteria", "late", *sets, "-o", tmp_path / "i")
    assert code == 2
    assert "not overwritten" in err
