"""Distillation as typed: what is printed, exit codes, and the module that launchers start."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from distilling import registry, write

from f3core import registry as registries


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "installed", registry)
    monkeypatch.setattr("f3core.distillation.distill.installed", registry)


def test_it_prints_what_it_writes_and_resumes(f3core_cli: Any, tiny_folder: Path, tmp_path: Path) -> None:
    spec = write(tmp_path, tiny_folder, losses=["shaky"], evaluate=None)
    code, out, err = f3core_cli("distill", spec, "-o", tmp_path / "out")
    assert (code, out) == (1, "")
    assert "error: step 2: loss 'shaky' is nan" in err
    assert "Distilling" in err, "how far it has come is told as it goes"

    words = ("distill", spec, "-o", tmp_path / "out", "--set", "distill.losses=[task]")
    code, _, err = f3core_cli(*words, "--resume")
    assert code == 2
    assert "of another spec" in err
    code, out, err = f3core_cli("distill", spec, "--set", "distill.losses=[task]", "--set", "distill.steps=1")
    assert (code, err.count("error")) == (0, 0)
    assert "trained by task for 1 step" in out
    assert f"written to {tmp_path / 'run'} (model/, distill.md" in out
    assert "--set 'distill.losses=[task]' --set distill.steps=1" in (tmp_path / "run" / "distill.md").read_text()

    code, _, err = f3core_cli("distill", spec)
    assert code == 2
    assert "not overwritten" in err


def test_json_is_all_that_is_printed_and_others_than_the_first_are_silent(
    f3core_cli: Any, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(tmp_path, tiny_folder, losses=["task"], steps=1, evaluate=None)
    code, out, err = f3core_cli("distill", spec, "--json", "-o", tmp_path / "json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "json" / "distill.json").read_text())
    assert "Distilling" not in err
    monkeypatch.setenv("RANK", "1")
    code, out, err = f3core_cli("distill", spec, "--json", "-o", tmp_path / "silent")
    assert (code, out) == (0, "")
    assert "Distilling" not in err


def test_a_wrong_spec_is_refused_with_its_line(f3core_cli: Any, tiny_folder: Path, tmp_path: Path) -> None:
    spec = write(tmp_path, tiny_folder, losses=["tusk"])
    for words in (("distill", spec), ("validate", spec)):
        code, out, err = f3core_cli(*words)
        assert (code, out) == (2, "")
        assert f"{spec}:6:" in err
        assert "unknown loss 'tusk'" in err


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["f3core", "distill", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("f3core", run_name="__main__")
    assert not stop.value.code
    assert "accelerate launch" in " ".join(capsys.readouterr().out.split())
