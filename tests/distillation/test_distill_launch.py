"""Several processes of one command: one writes, all know what it made, and none is left waiting when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distilling import registry, write

from f3core.distillation.launch import Launch, talks
from f3core.errors import ModelError, OutputError
from f3core.job import resolve
from f3core.spec import load_spec


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder, here = tmp_path_factory.mktemp("launched"), Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "launched.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_the_first_process_is_the_main_one(launched: Any) -> None:
    assert [found["launch"] for found in launched[1]] == [[0, 2, True, True], [1, 2, False, False]]


def test_all_have_what_the_main_one_made(launched: Any) -> None:
    assert [found["by main"] for found in launched[1]] == ["made by 0", "made by 0"]
    assert all(found["waited"] for found in launched[1])


def test_where_the_main_one_fails_the_others_stop(launched: Any) -> None:
    main, other = (found["failed"] for found in launched[1])
    assert main == ["OutputError", "no place left for 0"]
    assert other[0] == "StoppedElsewhere"
    assert "process 1 stops" in other[1]
    assert "no place left for 0" in other[1]


def test_the_workspace_is_held_by_the_main_one_for_all(launched: Any) -> None:
    folder, both = launched
    assert [found["workspace"] for found in both] == [[str(folder / "out"), str(folder / "out.partial"), True]] * 2
    assert both[1]["locked"][0] == "OutputError"
    assert "another process is working" in both[1]["locked"][1]
    assert [found["finished"] for found in both] == ["whole", "whole"]
    assert [found["taken"][0] for found in both] == ["OutputError", "StoppedElsewhere"]


def test_processes_do_not_share_one_gpu(launched: Any) -> None:
    for found in launched[1]:
        kind, said = found["one GPU"]
        assert kind == "SpecError"
        assert "--set model.device=cuda:1: cuda:1 is one GPU for 2 processes" in said or "each of 2 processes" in said


# --- one alone ------------------------------------------------------------------------------------------------------


def test_one_alone_waits_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch.joined(resolve(load_spec(write(tmp_path, "zoo:digits-wan")), registry()))
    assert launch == Launch(0, 1)
    assert launch.main
    assert talks()
    held = object()
    assert launch.share(held) is held
    assert launch.by_main(lambda: held) is held
    launch.wait()
    with pytest.raises(ZeroDivisionError):
        launch.by_main(lambda: 1 // 0)
    with launch.workspace(tmp_path / "out", {}, resume=False) as work:
        (work.folder / "made").touch()
        with pytest.raises(OutputError, match="another process"), launch.workspace(tmp_path / "out", {}, resume=True):
            pass
        work.finish()
    assert (tmp_path / "out" / "made").exists()


def test_an_interruption_goes_through_at_once() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Launch(0, 1).by_main(interrupted)


def test_without_accelerate_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModelError, match=r"f3core\[distill\]"):
        Launch.joined(resolve(load_spec(write(tmp_path, "zoo:digits-wan")), registry()))
