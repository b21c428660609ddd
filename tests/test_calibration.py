"""Calibration of a real (tiny, random) Wan pipeline: shards, resuming, two-stage models, captured inputs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_wan
import torch
from diffusers import WanPipeline
from f3core_diffusers.wan import WanAdapter
from torch import nn

from f3core.calibration import calibrate
from f3core.capture import capture_inputs
from f3core.errors import ModelError, ProbeError, ScoresError
from f3core.scores import PromptScores, Scores
from f3core.sites import KINDS, AttentionKind

PROMPTS = ["a red cat runs left", "a green dog sleeps", "a red dog runs right", "a cat", "a dog sleeps left"]


class Counting(WanAdapter):
    """Notes what is generated, and can be told to fail."""

    def __init__(self, fails_at: str | None = None) -> None:
        self.made: list[str] = []
        self.seeds: list[int] = []
        self.fails_at = fails_at

    def generate(self, pipeline: Any, prompts: Sequence[str], **options: Any) -> torch.Tensor:
        if self.fails_at in prompts:
            raise KeyboardInterrupt
        self.made += prompts
        self.seeds += options["seeds"]
        return super().generate(pipeline, prompts, **options)


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    return tiny_wan.pipeline()


def scored(pipe: WanPipeline, prompts: Sequence[str] = PROMPTS[:3], adapter: Any = None, **options: Any) -> Scores:
    given: dict[str, Any] = {"steps": 2, "seed": 7, "call": tiny_wan.CALL, "target": AttentionKind.TEMPORAL} | options
    return calibrate(adapter or WanAdapter(), pipe, prompts, **given)


def equal(one: PromptScores, other: PromptScores) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in PromptScores.FIELDS)


@pytest.fixture(scope="module")
def whole(pipe: WanPipeline) -> Scores:
    return scored(pipe, PROMPTS)


def test_scores_describe_the_generation(pipe: WanPipeline, whole: Scores) -> None:
    header = whole.header
    assert header.sites == tuple(f"transformer.blocks.{i}.attn{n}" for i in range(2) for n in (1, 2))
    assert header.heads == (2, 2, 2, 2)
    assert list(header.levels) == sorted(map(float, pipe.scheduler.timesteps), reverse=True)
    assert header.passes == {"transformer": {"forward": (2, 2)}}  # guidance runs two rows a step
    assert sorted(whole.prompts) == list(range(5))
    one = whole.prompts[0]
    assert one.mass.shape == (4, 2, 2, 3)
    assert (one.queries == 2 * 3 * 32).all()
    assert np.allclose(one.mass.sum(-1), one.queries[:, :, None], rtol=1e-5)
    shares = one.mass.sum((1, 2)) / one.mass.sum((1, 2, 3))[:, None]
    assert np.allclose(shares[[1, 3], KINDS.index(AttentionKind.CROSS)], 1.0)
    assert (shares[[0, 2]][:, 1:] > 0.1).all()
    assert (one.drift[[0, 2]] > 0).all()
    assert (one.drift[[1, 3]] == 0).all()
    assert np.allclose(one.frames.sum((1, 2)), one.mass.sum((1, 2, 3)), rtol=1e-5)
    assert not equal(whole.prompts[0], whole.prompts[1])


def test_calibrating_alters_nothing(pipe: WanPipeline) -> None:
    before = {key: value.clone() for key, value in pipe.transformer.state_dict().items()}
    clip = WanAdapter().generate(pipe, PROMPTS[:1], steps=2, seeds=[0], call=tiny_wan.CALL)
    scored(pipe)
    assert torch.equal(WanAdapter().generate(pipe, PROMPTS[:1], steps=2, seeds=[0], call=tiny_wan.CALL), clip)
    assert all(torch.equal(value, before[key]) for key, value in pipe.transformer.state_dict().items())
    assert not any("forward" in vars(module) for module in pipe.transformer.modules())


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shards_merge_to_the_same_bits_in_any_order(pipe: WanPipeline, whole: Scores, world: int) -> None:
    shards = [scored(pipe, PROMPTS, shard=(rank, world)) for rank in range(world)]
    for order in itertools.islice(itertools.permutations(shards), 6):
        merged = order[0].merge(*order[1:])
        assert sorted(merged.prompts) == list(range(5))
        assert merged.header == whole.header
        assert equal(merged.total(), whole.total())
    assert all(sorted(s.prompts) == list(range(5))[rank::world] for rank, s in enumerate(shards))


def test_prompts_scored_in_batches_stay_apart(pipe: WanPipeline, whole: Scores) -> None:
    batched = scored(pipe, PROMPTS, batch_size=2)
    assert batched.header == whole.header
    for i, alone in whole.prompts.items():
        for name in PromptScores.FIELDS:
            assert np.allclose(getattr(batched.prompts[i], name), getattr(alone, name), rtol=1e-4), (i, name)
    parts = [scored(pipe, PROMPTS, batch_size=2, shard=(rank, 2)) for rank in (1, 0)]
    assert [sorted(part.prompts) for part in parts] == [[2, 3], [0, 1, 4]]
    merged = parts[0].merge(parts[1])
    assert all(equal(merged.prompts[i], batched.prompts[i]) for i in batched.prompts)


def test_guidance_in_one_batch_is_told_from_prompts(whole: Scores) -> None:
    """Rows come as [unconditional of all prompts, conditional of all prompts]."""

    class GuidesInOneBatch(WanAdapter):
        def generate(self, pipeline: Any, prompts: Sequence[str], **options: Any) -> torch.Tensor:
            torch.manual_seed(0)
            denoiser = pipeline.transformer
            inputs = self.example_inputs(denoiser, frames=3, height=8, width=8, batch=4, text=8)
            chosen = torch.tensor([[0, 2], [1, 3]])[[{"a": 0, "b": 1}[p] for p in prompts]].T.flatten()
            rows = {k: v[chosen] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            denoiser(**rows)
            return torch.zeros(len(prompts), 5, 3, 16, 16)

    pipe = tiny_wan.pipeline()
    together = scored(pipe, ["a", "b"], GuidesInOneBatch(), batch_size=2)
    alone = scored(pipe, ["a", "b"], GuidesInOneBatch())
    for i in (0, 1):
        for name in PromptScores.FIELDS:
            assert np.allclose(getattr(together.prompts[i], name), getattr(alone.prompts[i], name), rtol=1e-4), name
    assert not np.allclose(alone.prompts[0].mass, alone.prompts[1].mass, rtol=1e-3)


def test_noise_belongs_to_the_prompt_not_to_the_shard(pipe: WanPipeline) -> None:
    scored(pipe, PROMPTS, adapter := Counting(), shard=(1, 2))
    assert list(zip(adapter.made, adapter.seeds, strict=True)) == [(PROMPTS[1], 7 + 1), (PROMPTS[3], 7 + 3)]


def test_shards_that_do_not_exist_or_hold_nothing(pipe: WanPipeline) -> None:
    for shard in ((2, 2), (-1, 2)):
        with pytest.raises(ScoresError, match="does not exist; ranks count from 0"):
            scored(pipe, shard=shard)
    with pytest.raises(ScoresError, match="shard 3 of 4 holds none of the 3 prompts"):
        scored(pipe, shard=(3, 4))


def test_an_interrupted_run_goes_on_where_it_stopped(pipe: WanPipeline, whole: Scores, tmp_path: Path) -> None:
    failing = Counting(fails_at=PROMPTS[2])
    with pytest.raises(KeyboardInterrupt):
        scored(pipe, PROMPTS, failing, folder=tmp_path / "calibration")
    finished = sorted((tmp_path / "calibration").iterdir())
    assert [file.name for file in finished] == ["prompt-00000.safetensors", "prompt-00001.safetensors"]
    assert not any("forward" in vars(module) for module in pipe.transformer.modules())
    adapter = Counting()
    heard: list[tuple[int, int]] = []
    resumed = scored(
        pipe, PROMPTS, adapter, folder=tmp_path / "calibration", progress=lambda *count: heard.append(count)
    )
    assert adapter.made == PROMPTS[2:]
    assert heard == [(i + 1, 5) for i in range(5)]
    assert equal(resumed.total(), whole.total())
    assert resumed.header == whole.header
    scored(pipe, PROMPTS, again := Counting(), folder=tmp_path / "calibration")
    assert again.made == []


def test_scores_of_another_calibration_are_refused(pipe: WanPipeline, tmp_path: Path) -> None:
    scored(pipe, PROMPTS[:1], folder=tmp_path, identity={"seed": 1})
    assert scored(pipe, PROMPTS[:1], folder=tmp_path, identity={"seed": 1}).header.identity == {"seed": 1}
    with pytest.raises(ScoresError, match=r"prompt-00000\.safetensors: of another calibration"):
        scored(pipe, PROMPTS[:1], folder=tmp_path, identity={"seed": 2})
    (tmp_path / "prompt-00000.safetensors").write_bytes(b"half a fi")
    with pytest.raises(ScoresError, match="cannot be read as scores"):
        scored(pipe, PROMPTS[:1], folder=tmp_path, identity={"seed": 1})


def test_a_sample_of_queries_accounts_for_all(pipe: WanPipeline, whole: Scores) -> None:
    sampled = scored(pipe, PROMPTS, stride=4).total()
    full = whole.total()
    assert np.array_equal(sampled.queries, full.queries)
    assert np.allclose(sampled.mass.sum(-1), full.mass.sum(-1), rtol=1e-5)
    assert np.abs(sampled.mass - full.mass).max() <= 0.05 * full.mass.max()
    assert not np.array_equal(sampled.mass, full.mass)


# --- models of two stages, and pipelines that do not fit --------------------------------------------------------------


def two_stage(boundary: float) -> WanPipeline:
    """As Wan 2.2: the second transformer takes over below the boundary."""
    made = tiny_wan.pipeline()
    parts = {**made.components, "transformer_2": tiny_wan.transformer(1), "boundary_ratio": boundary}
    pipeline = WanPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_two_stage_model_is_scored_stage_by_stage() -> None:
    pipe = two_stage(0.9)
    assert list(capture_inputs(WanAdapter(), pipe, PROMPTS[0], tiny_wan.CALL)) == ["transformer", "transformer_2"]
    found = scored(pipe, PROMPTS[:1], steps=3)
    assert [site for site in found.header.sites if "_2" in site] == [f"transformer_2.blocks.0.attn{n}" for n in (1, 2)]
    first, second = (found.header.passes[name]["forward"] for name in ("transformer", "transformer_2"))
    assert [a + b for a, b in zip(first, second, strict=True)] == [2, 2, 2]
    assert first[0] == second[-1] == 2
    total = found.total()
    ran = np.array([first] * 4 + [second] * 2) > 0
    assert np.array_equal(total.queries > 0, ran)
    assert np.array_equal(total.mass.sum((2, 3)) > 0, ran)


def test_a_stage_that_never_runs_is_an_error_before_scoring_and_empty_in_scores() -> None:
    pipe = two_stage(0.0)
    with pytest.raises(ModelError, match="generation never called transformer_2"):
        capture_inputs(WanAdapter(), pipe, PROMPTS[0], tiny_wan.CALL)
    found = scored(pipe, PROMPTS[:1])
    assert found.header.passes["transformer_2"] == {}
    assert (found.total().queries[4:] == 0).all()


class WrongComponent(WanAdapter):
    """Names a module as denoiser that generation never calls."""

    def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:
        return {"transformer": tiny_wan.transformer()}


def test_a_denoiser_that_never_runs_is_an_error(pipe: WanPipeline) -> None:
    with pytest.raises(ModelError, match="never called transformer; does the adapter name the right components"):
        capture_inputs(WrongComponent(), pipe, PROMPTS[0], tiny_wan.CALL)
    with pytest.raises(ModelError, match="never called a denoiser; does the adapter name the right components"):
        scored(pipe, adapter=WrongComponent())


def test_a_pipeline_that_refuses_to_generate_is_an_error(pipe: WanPipeline) -> None:
    with pytest.raises(ModelError, match=r"WanPipeline refused to generate: .*model\.call"):
        scored(pipe, call={**tiny_wan.CALL, "height": 17})
    assert not any("forward" in vars(module) for module in pipe.transformer.modules())


def test_other_attention_backends_are_set_aside_while_calibrating(pipe: WanPipeline) -> None:
    """`observable` routes a chosen backend back to the native one, and returns it afterwards."""
    processor = pipe.transformer.blocks[0].attn1.processor
    processor._attention_backend = "flex"
    try:
        assert sorted(scored(pipe, PROMPTS[:1]).prompts) == [0]
        assert processor._attention_backend == "flex"
    finally:
        processor._attention_backend = None
    processor.__class__ = type("Elsewhere", (), {"__call__": lambda self, attn, hidden, *rest: hidden})
    try:
        with pytest.raises(ProbeError, match="without calling scaled_dot_product_attention"):
            scored(pipe, PROMPTS[:1])
    finally:
        pipe.transformer.blocks[0].attn1.set_processor(type(pipe.transformer.blocks[1].attn1.processor)())
