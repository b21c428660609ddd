"""The public names, what importing them costs, and the tree of errors."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import f3core
from f3core import errors

ROOT = Path(__file__).parents[1]


def test_all_is_sorted_without_repeats() -> None:
    assert f3core.__all__ == sorted(set(f3core.__all__))
    assert set(dir(f3core)) == {*f3core.__all__, "__version__"}


@pytest.mark.parametrize("name", f3core.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(f3core, name)
    assert value.__module__.startswith("f3core.") or name == "hookimpl"
    assert value.__doc__


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="module 'f3core' has no attribute 'aply'"):
        f3core.aply  # noqa: B018


def test_importing_f3core_is_cheap() -> None:
    code = """
import sys, f3core
from f3core import AdapterEntry, Criterion, Entry, F3Error, Method, PromptSet, PruningPlan, Spec, hookimpl, load_spec
import f3core.job, f3core.registry, f3core.workspace
import f3core_diffusers, f3core_f3
heavy = {"torch", "diffusers", "transformers", "fvcore", "matplotlib", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    paths = f"{ROOT}:{ROOT / 'plugins'}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_drawn_error_tree_is_the_real_one() -> None:
    drawn, above = {}, ["Exception"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│├└─ ]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            drawn[found[2]] = above[depth]
            above[depth + 1 :] = [found[2]]
    real = {
        name: cls.__base__.__name__
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, Exception)
    }
    assert drawn == real
    assert drawn["AdapterMatchError"] == "PluginError"


def test_exit_codes() -> None:
    codes = {name: cls.exit_code for name, cls in vars(errors).items() if name.endswith("Error")}
    assert {name for name, code in codes.items() if code == 2} == {"SpecError", "OutputError", "ClipError"}
    assert set(codes.values()) == {1, 2}


def test_a_spec_error_lists_its_problems() -> None:
    assert errors.SpecError("one").problems == ["one"]
    assert str(errors.SpecError(["a:1:1: one", "a:2:1: two"])) == "a:1:1: one\na:2:1: two"


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("ass", ["drift", "aas"], "did you mean 'aas'? allowed: aas, drift"),
        ("zzz", ["drift", "aas"], "allowed: aas, drift"),
        ("x", [], "allowed: (none registered)"),
    ],
)
def test_suggestions(word: str, known: list[str], text: str) -> None:
    assert errors.suggest(word, known) == text
