"""CogVideo without some of its layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny_cogvideo
import torch
from f3core_cogvideo import CogVideoPipeline
from f3core_cogvideo.adapter import CogVideoAdapter
from hypothesis import example, given, settings
from hypothesis import strategies as st

import f3core
from f3core.contract import distance, example_plan
from f3core.contract_blocks import BLOCK, SAME
from f3core.meta import share_copy
from f3core.sites import AttentionKind, Removal
from f3core.surgery import Pruned, apply_plan_, restrict_

ADAPTER = CogVideoAdapter()
LAYERS = 4
PROMPTS = ["a red cat runs left", "a dog"]


def without(model: Any, *numbers: int) -> Any:
    left, blocks = share_copy(model), ADAPTER.blocks(model, "transformer")
    apply_plan_(left, example_plan("cogvideo", blocks, BLOCK, chosen=numbers), ADAPTER, "transformer")
    return left


def skipping(model: Any, *numbers: int) -> Any:
    left, blocks = share_copy(model), [ADAPTER.blocks(model, "transformer")[number] for number in numbers]
    every = {block.fqn: BLOCK[1] for block in blocks}
    restrict_(left, ADAPTER, blocks, BLOCK[0], every, dict.fromkeys(every))
    return left


@example(stage=2, window=2, gone={1})
@example(stage=2, window=2, gone={0, 1})
@settings(max_examples=6, deadline=None)
@given(stage=st.sampled_from([1, 2]), window=st.sampled_from([-1, 2]), gone=st.sets(st.integers(0, LAYERS - 1)))
def test_whatever_goes_what_is_left_computes_the_same(stage: int, window: int, gone: set[int]) -> None:
    """Temporal windows are shifted in every second layer: they must go on being shifted where they were."""
    model = tiny_cogvideo.transformer(layers=LAYERS, tokens=16, frames=3, stage=stage, window=window)
    left, stays = without(model, *gone), [number for number in range(LAYERS) if number not in gone]
    inputs = tiny_cogvideo.sequence(model)
    with torch.no_grad():
        assert distance([left(**inputs)], [skipping(model, *gone)(**inputs)]) <= SAME
    same = window == -1 or all(number % 2 == place % 2 for place, number in enumerate(stays))
    assert isinstance(left, Pruned) == (bool(gone) and not same)
    assert left.config.layers == len(left.transformer.layers) == (len(stays) if same else LAYERS)
    assert [site.index for site in ADAPTER.sites(left, "transformer")[::2]] == (
        list(range(len(stays))) if same else stays
    )


def test_what_is_left_makes_clips_and_comes_back(tmp_path: Path) -> None:
    """With a cache of keys and values, layer by layer, in both stages; attention can be pruned as well."""
    pipe = tiny_cogvideo.pipeline(stage_2=True, layers=3)
    parts = {"transformer": without(pipe.transformer, 1), "transformer_2": without(pipe.transformer_2, 0)}
    student = ADAPTER.with_denoisers(pipe, parts)
    assert not any(isinstance(part, Pruned) for part in parts.values())
    made = student(PROMPTS, seeds=[1, 2])
    skipped = {"transformer": skipping(pipe.transformer, 1), "transformer_2": skipping(pipe.transformer_2, 0)}
    assert torch.equal(ADAPTER.with_denoisers(pipe, skipped)(PROMPTS, seeds=[1, 2]), made)
    student.save_pretrained(tmp_path / "student")
    config = json.loads((tmp_path / "student" / "transformer" / "config.json").read_text())
    assert config["layers"] == 2
    assert "f3core" not in config
    loaded = CogVideoPipeline.from_pretrained(tmp_path / "student")
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2]), made)
    thinner, sites = share_copy(loaded.transformer), ADAPTER.sites(loaded.transformer, "transformer")
    change = (AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    apply_plan_(thinner, example_plan("cogvideo", sites, change, chosen=[1]), ADAPTER, "transformer")
    both = ADAPTER.with_denoisers(loaded, {"transformer": thinner})
    both.save_pretrained(tmp_path / "both")
    again = CogVideoPipeline.from_pretrained(tmp_path / "both")
    assert again.transformer.f3_plan == thinner.f3_plan
    assert torch.equal(again(PROMPTS, seeds=[1, 2]), both(PROMPTS, seeds=[1, 2]))


def test_layers_that_must_keep_their_numbers_carry_the_plans(tmp_path: Path) -> None:
    model = tiny_cogvideo.transformer(layers=3, tokens=16, frames=3, stage=2, window=2)
    left = without(without(model, 0), 1)  # layer 2 is the second of those that are left
    assert [block.number for block in ADAPTER.blocks(left, "transformer")] == [1]
    left.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert (loaded.f3_before, loaded.f3_plan) == (left.f3_before, left.f3_plan)
    inputs = tiny_cogvideo.sequence(model)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs), left(**inputs))


def test_apply_takes_layers_out(tmp_path: Path) -> None:
    tiny_cogvideo.pipeline(layers=2).save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "spec.yaml").write_text(
        f"version: 1\nmodel: {{source: {tmp_path / 'model'}}}\n"
        f"calibrate: {{prompts: {tmp_path / 'prompts.txt'}, num_prompts: 1, steps: 1}}\n"
        "prune: {target: block, criterion: propagated_drift, ratio: 0.5}\n"
        f"evaluate: {{num_clips: 1, timing_pairs: 0}}\noutput: {tmp_path / 'run'}\n"
    )
    result = f3core.apply(tmp_path / "spec.yaml")
    generation = result.report.generation
    assert generation.predicted.total == generation.counted.total < generation.before.total
    loaded = CogVideoPipeline.from_pretrained(result.folder / "model")
    assert loaded.transformer.config.layers == 1
    assert not isinstance(loaded.transformer, Pruned)
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2]), result.pipeline(PROMPTS, seeds=[1, 2]))
