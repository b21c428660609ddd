"""The studies as typed: options stand for the spec's sweep section, and are checked as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ratios", "0.5,2"), "--set sweep.ratios=[0.5,2]: sweep.ratios.1: input should be less than or equal to 1"),
        (("--ratios", ""), "sweep.ratios: give at least one"),
        (("--targets", "TA,XA"), "sweep.targets.1: unknown 'XA'"),
        (("--seeds", "1,1"), "sweep.seeds: 1 is given twice"),
        (("--seeds", "one"), "sweep.seeds.0: input should be a valid integer, not 'one'"),
    ],
)
def test_options_of_a_sweep_are_checked_as_its_section(
    f3core_cli: Any, tiny_spec: Write, words: tuple[str, ...], said: str
) -> None:
    code, out, err = f3core_cli("sweep", tiny_spec(), *words)
    assert (code, out) == (2, "")
    assert said in err


def test_a_section_is_validated_too(f3core_cli: Any, tiny_spec: Write) -> None:
    spec = tiny_spec()
    assert f3core_cli("validate", spec, "--set", "sweep={ratios: [0, 1], targets: [CA, TA]}")[0] == 0
    spec.write_text(spec.read_text() + "sweep:\n  seeds: [0, -1]\n")
    code, _, err = f3core_cli("validate", spec)
    assert code == 2
    assert f"{spec}:8:14: sweep.seeds.1: input should be greater than or equal to 0, not -1" in err


def test_sweep_and_attention_print_what_they_write(f3core_cli: Any, tiny_spec: Write, tmp_path: Path) -> None:
    spec = tiny_spec()
    code, out, _ = f3core_cli("sweep", spec, "--ratios", "0.5", "--seeds", "1", "-o", tmp_path / "s")
    assert code == 0
    assert "self_only  2 of 4" in out
    assert f"written to {tmp_path / 's'}" in out
    made = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert made["command"] == f"f3core sweep {spec} --set 'sweep.ratios=[0.5]' --set 'sweep.seeds=[1]'"

    code, out, _ = f3core_cli("attention", spec, "--seeds", "0", "-o", tmp_path / "a", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "a" / "attention.json").read_text())
    assert "3 prompts, one seed" in (tmp_path / "a" / "attention.md").read_text()

    code, _, err = f3core_cli("attention", spec, "-o", tmp_path / "a")
    assert code == 2
    assert "not overwritten" in err
