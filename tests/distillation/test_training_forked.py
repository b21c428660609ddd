"""Trainings in processes of their own: killed and resumed, and several at once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import run, spec

from f3core.distillation.training_log import FILE

HERE = Path(__file__).parent


def started(words: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def curve(folder: Path) -> list[dict[str, float]]:
    """All numbers of each step but the seconds it took."""
    records = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    return [
        {"step": r["step"], "rate": r["learning_rate"], **r["losses"], **{f"+{k}": v for k, v in r["figures"].items()}}
        for r in records
    ]


def same(found: Path, wanted: Path, by: float, weights_by: float) -> None:
    mine, theirs = curve(found), curve(wanted)
    assert [each["step"] for each in mine] == list(range(1, 16))
    assert mine == [pytest.approx(each, abs=by, rel=by) for each in theirs]
    kept = torch.load(wanted / "weights.pt")
    torch.testing.assert_close(torch.load(found / "weights.pt"), kept, atol=weights_by, rtol=weights_by)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trainings")
    seed = random.SystemRandom().randrange(10**6)
    print(f"forked_training.py, seed {seed}")  # shown when a test fails
    started([sys.executable, str(HERE / "forked_training.py"), str(folder), str(seed)])
    return folder


def test_a_training_killed_five_times_goes_as_if_it_never_was(trainings: Path) -> None:
    starts = (trainings / "killed" / "starts").read_text().split()
    assert len(starts) == 6
    same(trainings / "killed", trainings / "whole", by=1e-6, weights_by=1e-6)


def test_tensorboard_shows_every_step_of_a_killed_training_once(trainings: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(trainings / "killed" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss/task")] == list(range(1, 16))


def test_one_killed_alone_goes_on_in_two_processes(trainings: Path) -> None:
    assert (trainings / "joined" / "starts").read_text().split() == ["0", "6", "6"]
    same(trainings / "joined", trainings / "whole", by=1e-5, weights_by=1e-4)


@pytest.mark.slow
def test_two_launched_processes_do_what_one_does(tmp_path: Path) -> None:
    """Through `accelerate launch`; each goes through its share in two parts."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, pathlib, os, toy_training\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "toy_training.run(folder / 'two', toy_training.spec(steps=15, batch_size=4, accumulate=2))\n"
        "(folder / os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
    )
    options: list[Any] = ["--multi_gpu", "--num_machines", 1, "--num_processes", 2, "--main_process_port", 0]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no", script, tmp_path]
    started([sys.executable, "-m", "accelerate.commands.launch", *map(str, options)])
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2", "2"]
    run(tmp_path / "one", spec(steps=15, batch_size=4))
    assert curve(tmp_path / "two") == [pytest.approx(each, abs=1e-5, rel=1e-5) for each in curve(tmp_path / "one")]
    assert len(curve(tmp_path / "one")) == 15
