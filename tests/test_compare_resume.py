"""A comparison that is killed goes on: nothing finished is run again, nothing that was measured otherwise taken up."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import EVALUATE, ROWS, Write, generated, run, told

from f3core import compare_figure, compare_seed
from f3core.errors import OutputError


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
