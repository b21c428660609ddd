"""The commands as typed: what they print, what they write, how they end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


def test_apply_plan_report(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec(evaluate="null")
    code, out, _ = f3core_cli("apply", spec, "--json")
    assert code == 0
    assert json.loads(out)["plan"]["ratio"] == 0.5
    run = tmp_path / "run"

    code, out, _ = f3core_cli("report", run)
    assert code == 0
    assert "TA pruned in 2 of 4 layers" in out

    plan = tmp_path / "plan.json"
    code, out, _ = f3core_cli("plan", spec, "--scores", run, "--set", "prune.ratio=0.75", "-o", plan)
    assert code == 0
    assert "3 of 4 units go" in out
    assert sum(unit["pruned"] for unit in json.loads(plan.read_text())["units"]) == 3

    code, _, err = f3core_cli("apply", spec)
    assert code == 2
    assert "not overwritten" in err


def test_score_writes_a_file_that_plan_reads(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec()
    for i in range(2):
        code, out, _ = f3core_cli("score", spec, "--shard", f"{i}/2", "-o", tmp_path / f"s{i}", "--json")
        assert code == 0
        assert json.loads(out)["prompts"] == 2 - i
    code, out, _ = f3core_cli("plan", spec, "--scores", tmp_path / "s0", "--scores", tmp_path / "s1", "--json")
    assert code == 0
    assert json.loads(out)["axis"] == "layer"


def test_dry_run_shows_the_plan_and_writes_nothing(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    code, out, _ = f3core_cli("apply", tiny_spec(), "--dry-run")
    assert code == 0
    assert "2 of 4 units go" in out
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "prune.ratio=1.2"), "--set prune.ratio=1.2: prune.ratio"),
        (("--set", "prune.axis=layr"), "did you mean 'layer'"),
        (("--set", "prune.removal=mask"), "cannot lose TA by mask"),
        (("--set", "prune.criterion=ass"), "did you mean 'aas'"),
        (("--set", "evaluate.metrics=[psnrr]"), "unknown metric 'psnrr'"),
        (("--set", "nonsense"), "write it as section.key=value"),
    ],
)
def test_a_wrong_spec_ends_with_2(f3core_cli: Any, tiny_spec: Write, words: tuple[str, ...], said: str) -> None:
    code, out, err = f3core_cli("validate", tiny_spec(), *words)
    assert code == 2
    assert out == ""
    assert said in err


def test_usage_errors_end_with_2(f3core_cli: Any, tiny_spec: Write) -> None:
    assert f3core_cli("aply")[0] == 2
    assert f3core_cli("validate", "no-such-file.yaml")[0] == 2
    code, _, err = f3core_cli("score", tiny_spec(), "--shard", "4/4")
    assert code == 2
    assert "I from 0 to N-1" in err


def test_failures_end_with_1(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    (tmp_path / "scores").write_bytes(b"not scores")
    code, _, err = f3core_cli("plan", tiny_spec(), "--scores", tmp_path / "scores")
    assert code == 1
    assert "cannot be read as scores" in err


def test_an_interruption_ends_with_130(f3core_cli: Any, tiny_spec: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("f3core.engine.load", interrupted)
    code, _, err = f3core_cli("apply", tiny_spec())
    assert code == 130
    assert "--resume" in err


def test_quiet_says_nothing(f3core_cli: Any, tiny_spec: Write) -> None:
    for command in (("validate", tiny_spec()), ("apply", tiny_spec(evaluate="null")), ("plugins",)):
        assert f3core_cli(*command, "--quiet") == (0, "", "")


def test_what_is_there_can_be_asked(f3core_cli: Any, tiny_folder: Path) -> None:
    code, out, _ = f3core_cli("plugins")
    assert code == 0
    assert {"aas", "wan", "f3", "zoo:digits"} <= set(out.split())
    assert "adapter" in json.loads(f3core_cli("plugins", "--json")[1])

    code, out, _ = f3core_cli("sites", tiny_folder)
    assert code == 0
    assert "attn1  SA+TA" in out
    code, out, _ = f3core_cli("sites", tiny_folder, "--blocks")
    assert code == 0
    assert "transformer.blocks.3" in out
    listed = json.loads(f3core_cli("sites", tiny_folder, "--blocks", "--json")[1])
    assert [(block["block"], block["fixed"]) for block in listed] == [
        (f"transformer.blocks.{i}", None) for i in range(4)
    ]
    listed = json.loads(f3core_cli("sites", tiny_folder, "--json")[1])
    assert len(listed) == 8

    schema = json.loads(f3core_cli("schema")[1])
    assert schema["additionalProperties"] is False
    assert "PruneSpec" in schema["$defs"]


@pytest.mark.parametrize("words", [["--help"], ["validate"]], ids=["help", "validate"])
def test_light_commands_do_not_import_torch(tiny_spec: Write, words: list[str]) -> None:
    argv = ["f3core", *words, *([str(tiny_spec())] if words == ["validate"] else [])]
    code = (
        "import sys\nfrom f3core import cli\n"
        f"sys.argv = {argv!r}\n"
        "try: cli.main()\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'diffusers', 'matplotlib', 'sklearn'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
