"""Shared fixtures: a tiny real pipeline on disk, and specs that run it in seconds."""

from __future__ import annotations

import gc
import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: at these sizes threads only wait

PROMPTS = ("a red cat runs left", "a green dog sleeps", "a red dog runs right")


PLUGINS = {"cogvideo", "families", "metrics", "prompts", "tokens", "tuneavideo", "vdmini", "zoo"}
"""folders of tests of plugins, whose code is not measured"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measures no coverage where it slows much and tells nothing new: of plugins and of one family of models after the
    other, which go through f3core where its own tests went, and of what is slow. Compiling is slow."""
    for item in items:
        if item.name == "test_compiles_wherever_the_unpruned_model_does":
            item.add_marker("slow")
        if PLUGINS & {*item.path.parts} or item.get_closest_marker("slow"):
            item.add_marker("no_cover")


def pytest_collection_finish() -> None:
    """Takes the libraries, some million objects, out of what garbage collection walks through time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Wan pipeline of four layers that knows how it wants to be called."""
    import tiny_wan

    folder = tiny_wan.folder(tmp_path_factory.mktemp("tiny") / "wan", layers=4)
    (folder / "f3core.json").write_text(json.dumps({"call": tiny_wan.CALL}))
    return folder


@pytest.fixture
def tiny_spec(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a spec for the tiny pipeline; keyword arguments go into its prune section. Output: ``tmp_path/run``."""

    def write(evaluate: str = "{num_clips: 2, timing_pairs: 0}", **prune: object) -> Path:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS) + "\n")
        spec = tmp_path / "spec.yaml"
        spec.write_text(
            textwrap.dedent(f"""\
                version: 1
                model: {{source: {tiny_folder}}}
                calibrate: {{prompts: {prompts}, num_prompts: 3, steps: 4}}
                prune: {json.dumps(prune)}
                evaluate: {evaluate}
                output: {tmp_path / "run"}
                """)
        )
        return spec

    return write


@pytest.fixture
def f3core_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the entry point; gives (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        from f3core import cli

        monkeypatch.setattr(sys, "argv", ["f3core", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    return run
