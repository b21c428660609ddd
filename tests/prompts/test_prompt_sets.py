"""The prompt sets hold what they say, and choose from it fairly and repeatably."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import f3core_prompts
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f3core.clip_folder import clips_in
from f3core.method import PromptSet
from f3core.registry import Registry

SIZES = {"ucf101": 101, "davis": 90, "longtext": 123}


def made(name: str) -> PromptSet:
    registry = Registry()
    registry.register(f3core_prompts, "prompts")
    found: PromptSet = registry.make("prompt set", name)
    return found


def listed(name: str) -> list[str]:
    return sorted(made(name).prompts(SIZES[name], 0))


@pytest.mark.parametrize("name", SIZES)
def test_sets_are_registered_and_whole(name: str) -> None:
    found = listed(name)
    assert len(set(found)) == len(found) == SIZES[name]
    assert not set(made(name).prompts(SIZES[name] + 1, 0)) - set(found)
    assert all(text == " ".join(text.split()) for text in found)


@given(name=st.sampled_from(sorted(SIZES)), count=st.integers(0, 400), more=st.integers(0, 50), seed=st.integers(0))
def test_choices_are_repeatable_and_use_all_before_any_repeats(name: str, count: int, more: int, seed: int) -> None:
    chosen = made(name).prompts(count, seed)
    assert len(chosen) == count
    assert made(name).prompts(count + more, seed)[:count] == chosen
    times = Counter(chosen)
    assert max(times.values(), default=0) == -(-count // SIZES[name])
    assert count < SIZES[name] or min(times.values()) == count // SIZES[name]


def test_seeds_differ() -> None:
    assert len({tuple(made("davis").prompts(5, seed)) for seed in range(20)}) == 20
    with pytest.raises(ValueError, match="cannot choose -1"):
        made("davis").prompts(-1, 0)


def test_labels_are_plain_words() -> None:
    for name in ("ucf101", "davis"):
        assert all(text.replace(" ", "").isalpha() and text.islower() for text in listed(name))
    assert {"apply eye makeup", "clean and jerk", "yo yo", "tai chi", "biking"} <= set(listed("ucf101"))
    assert {"bear", "bmx bumps", "tuk tuk", "kite surf", "soapbox"} <= set(listed("davis"))


def test_labels_are_the_captions_of_the_data_set(tmp_path: Path) -> None:
    """So that generated clips and reference clips of a class share a caption."""
    for name in ("ApplyEyeMakeup", "HandstandPushups", "YoYo"):
        (tmp_path / name).mkdir()
        file = name.replace("HandstandP", "HandStandP")
        (tmp_path / name / f"v_{file}_g01_c01.avi").write_bytes(b"")
    captions = [file.caption for file in clips_in(tmp_path).files]
    assert len(captions) == 3
    assert set(captions) <= set(listed("ucf101"))


def test_sentences_are_full_and_varied() -> None:
    found = listed("longtext")
    for text in found:
        assert 17 <= len(text.split()) <= 24, text
        assert text[0].isupper(), text
        assert text.endswith("."), text
        assert text.count(".") == 1, text
    openings = Counter(" ".join(text.lower().split()[:3]) for text in found)
    assert max(openings.values()) <= 2
    # No two say the same in other words: they share less than half of their longer words.
    kept = [{word.strip(",.'").lower() for word in text.split() if len(word) > 4} for text in found]
    for i, one in enumerate(kept):
        for other in kept[:i]:
            assert len(one & other) < min(len(one), len(other)) / 2, (one, other)


def test_listing_sets_imports_nothing_heavy() -> None:
    code = """
import sys, f3core_prompts
entries = f3core_prompts.f3core_prompts()
assert "f3core_prompts.prompt_sets" not in sys.modules
entries[0].load().prompts(3, 0)
assert not {"torch", "PIL"} & set(sys.modules), sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
