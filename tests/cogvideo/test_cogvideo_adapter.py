"""The adapter beyond the contract: what is watched, what is planned, and the whole line from spec to pruned folder."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_cogvideo
import torch
from f3core_cogvideo import CogVideoPipeline
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.segments import CogVideoLayout

import f3core
from f3core.calibration import calibrate
from f3core.capture import capture_inputs
from f3core.errors import ModelError, PlanError, ProbeError
from f3core.registry import installed
from f3core.sites import AttentionCall, AttentionKind, Removal
from f3core.surgery import Pruned

ADAPTER = CogVideoAdapter()
PROMPTS = ["a red cat runs left", "a dog", "a green dog sleeps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cogvideo")
    tiny_cogvideo.pipeline(stage_2=True).save_pretrained(path)
    return path


@pytest.mark.parametrize("prune", [{"axis": "layer"}, {"removal": "drop", "criterion": "drift"}], ids=str)
def test_apply_predicts_what_it_counts_and_saves_what_it_holds(
    folder: Path, tmp_path: Path, prune: dict[str, Any]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "spec.yaml").write_text(
        f"version: 1\nmodel: {{source: {folder}}}\n"
        f"calibrate: {{prompts: {tmp_path / 'prompts.txt'}, num_prompts: 3, steps: 1, batch_size: 2}}\n"
        f"prune: {json.dumps(prune)}\nevaluate: {{num_clips: 1, timing_pairs: 0}}\noutput: {tmp_path / 'run'}\n"
    )
    result = f3core.apply(tmp_path / "spec.yaml")
    generation = result.report.generation
    assert generation.predicted.total == generation.counted.total < generation.before.total
    loaded = CogVideoPipeline.from_pretrained(result.folder / "model")
    assert isinstance(loaded.transformer, Pruned)
    assert loaded.transformer.f3_plan == result.plan
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2, 3]), result.pipeline(PROMPTS, seeds=[1, 2, 3]))


def test_a_generation_is_watched_frame_by_frame() -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    target = AttentionKind.TEMPORAL
    scores = calibrate(ADAPTER, pipe, PROMPTS, steps=9, seed=0, call={}, target=target, batch_size=3)
    assert scores.header.levels == (1.0, 0.0)
    assert scores.header.passes == {  # the first frame is drawn without guidance; stage 2 runs twice
        "transformer": {
            "text and frame 1 of 3, base channel alone": (1, 0),
            "text and frame 1 of 3": (2, 0),
            "frame 2 of 3": (2, 0),
            "frame 3 of 3": (0, 2),
        },
        "transformer_2": {"text and frames 1, 3 of 3": (4, 0), "frame 2 of 3": (0, 4)},
    }
    assert not pipe.replay


def test_inputs_are_captured_of_every_kind_of_forward() -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    inputs = capture_inputs(ADAPTER, pipe, PROMPTS[0], {})
    lengths = {
        name: {kind: given["input_ids"].shape for kind, given in kinds.items()} for name, kinds in inputs.items()
    }
    assert lengths == {
        "transformer": {
            "text and frame 1 of 3, base channel alone": (1, 5 + 9),
            "text and frame 1 of 3": (1, 5 + 9),
            "frame 2 of 3": (1, 9),
            "frame 3 of 3": (1, 9),
        },
        "transformer_2": {"text and frames 1, 3 of 3": (1, 5 + 2 * 9), "frame 2 of 3": (1, 9)},
    }
    for name, kinds in inputs.items():
        for kind, given in kinds.items():
            assert ADAPTER.layout_of(getattr(pipe, name), given).kind == kind
            assert all(t.shape[0] == 1 for t in torch.utils._pytree.tree_leaves(given) if isinstance(t, torch.Tensor))


@pytest.mark.parametrize(
    "call",
    [{}, {"interpolations": 2}, {"guidance_scale": 1.0}, {"guidance_scale": 1.0, "first_guidance_scale": 2.0}],
    ids=str,
)
def test_sketch_agrees_with_a_generation(folder: Path, call: dict[str, Any]) -> None:
    sketch = ADAPTER.sketch(str(folder), steps=1, call=call)
    pipe = CogVideoPipeline.from_pretrained(folder)
    target = AttentionKind.TEMPORAL
    scores = calibrate(ADAPTER, pipe, PROMPTS[:1], steps=1, seed=0, call=call, target=target)
    assert sketch.rows == scores.header.passes
    assert sketch.levels == scores.header.levels
    seen = capture_inputs(ADAPTER, pipe, PROMPTS[0], call)
    for name, kinds in sketch.inputs.items():
        for kind, inputs in kinds.items():
            assert inputs["input_ids"].is_meta
            assert inputs["input_ids"].shape == seen[name][kind]["input_ids"].shape


def test_steps_that_a_later_pass_repeats_have_no_layout() -> None:
    model = tiny_cogvideo.transformer()
    inputs = tiny_cogvideo.sequence(model)
    assert ADAPTER.layout(model, (), inputs) == CogVideoLayout(2, 5, 9, 5, (0, 1, 2, 3, 4), rows=3)
    assert ADAPTER.layout(model, (), {**inputs, "cache": KVCache(model.config)}) is None
    assert ADAPTER.layout(model, (inputs["input_ids"][:, :5],), {}) is None


def test_the_running_layout_tells_pieces_of_a_frame() -> None:
    model = tiny_cogvideo.transformer()

    def running(length: int, before: int, **cache: bool) -> CogVideoLayout | None:
        held = KVCache(model.config, length=before, **cache)
        return ADAPTER.running_layout(model, (torch.zeros(2, length, dtype=torch.long),), {"cache": held})

    assert running(14, 0) == CogVideoLayout(2, 5, 9, 5, (0,), rows=3)
    piece = functools.partial(CogVideoLayout, 2, 5, 9, 5, (1,), cached=True, rows=3)
    assert running(1, 14) == piece(piece=(0, 1), unfinished=True)
    assert running(2, 15) == piece(piece=(1, 2), goes_on=True, unfinished=True)
    assert running(2, 21) == piece(piece=(7, 2), goes_on=True)
    assert running(9, 14) == CogVideoLayout(2, 5, 9, 5, (1,), cached=True, rows=3)
    assert running(9, 15) is None, "pieces of two frames"


def test_a_second_pipeline_shares_the_rest() -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True)
    other = tiny_cogvideo.pipeline(stage_2=True).transformer
    made = ADAPTER.with_denoisers(pipe, {"transformer": other})
    assert made.transformer is other
    assert (made.vq, made.tokenizer, made.transformer_2) == (pipe.vq, pipe.tokenizer, pipe.transformer_2)


def test_registry_knows_the_folder(folder: Path) -> None:
    assert installed().denoiser_classes(str(folder)) == dict.fromkeys(
        ("transformer", "transformer_2"), "CogVideoTransformer"
    )
    assert list(ADAPTER.skeletons(str(folder))) == ["transformer", "transformer_2"]


def test_a_stage_2_that_never_runs_is_named(folder: Path) -> None:
    call, pipe = {"interpolations": 0}, CogVideoPipeline.from_pretrained(folder)
    said = r"model\.call\.interpolations is 0, so transformer_2 would never run: set it to 1 or more"
    with pytest.raises(ModelError, match=said):
        capture_inputs(ADAPTER, pipe, PROMPTS[0], call)
    with pytest.raises(ModelError, match=said):
        ADAPTER.sketch(str(folder), steps=1, call=call)
    assert list(capture_inputs(ADAPTER, tiny_cogvideo.pipeline(), PROMPTS[0], call)) == ["transformer"]


def test_published_frames_are_counted_as_they_are_fed() -> None:
    model = tiny_cogvideo.transformer(start_of_image=29)
    ids = ADAPTER.example_inputs(model, frames=2, height=3, width=3)["input_ids"]
    assert ids[0, 5::9].tolist() == [29, 29]
    assert int((ids == 29).sum()) == 2


def test_calls_that_the_spec_decides_or_nobody_knows_are_refused() -> None:
    pipe = tiny_cogvideo.pipeline()
    with pytest.raises(ModelError, match="must not set replay, seeds"):
        ADAPTER.generate(pipe, ["a"], steps=1, seeds=[1], call={"seeds": [1], "replay": True})
    with pytest.raises(ModelError, match="unexpected keyword argument 'guidance'"):
        ADAPTER.generate(pipe, ["a"], steps=1, seeds=[1], call={"guidance": 1})


def test_what_the_model_cannot_do_is_named() -> None:
    model = tiny_cogvideo.transformer()
    site = ADAPTER.sites(model, "transformer")[0]
    with pytest.raises(ModelError, match="takes 5 text tokens and 1 to 5 frames of 9 tokens"):
        ADAPTER.example_inputs(model, frames=6, height=3, width=3)
    with pytest.raises(PlanError, match="cannot lose SA by mask"):
        ADAPTER.restrict(model, site, AttentionKind.SELF, Removal.MASK, None)  # type: ignore[arg-type]
    layout = CogVideoLayout(2, 5, 9, 5, (0, 1, 2, 3, 4))
    for call in (AttentionCall(2, 2, 4, 9, 9), AttentionCall(1, 10, 4, 9, 9)):
        with pytest.raises(ProbeError, match="makes no attention call like"):
            ADAPTER.segments(site, layout, call)


def test_distance_is_the_share_of_draws_that_come_out_another() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(2, 2, 3, 7).double()
    found = CogVideoAdapter().distance(one, other)
    for row in range(2):
        same = torch.minimum(one[row].softmax(-1), other[row].softmax(-1)).sum(-1)  # of a best coupling of two draws
        assert float(found[row]) == pytest.approx(float((1 - same).mean()))
    assert torch.equal(CogVideoAdapter().distance(one, one), torch.zeros(2).double())
    assert torch.allclose(CogVideoAdapter().distance(one, one + 5), torch.zeros(2).double())  # logits shift freely
