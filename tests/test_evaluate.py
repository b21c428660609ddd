"""Generation, paired timing, memory, size and quality on a model of two linear layers."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from f3core.adapter import Adapter
from f3core.errors import ModelError, OutputError, PluginError
from f3core.evaluate import (
    PairedTiming,
    Timing,
    damage,
    folder_bytes,
    generate,
    model_size,
    paired_timing,
    peak_memory,
    quality,
)
from f3core.metric import Batch, Metric, Reference
from f3core.sites import AttentionCall, AttentionSite, Layout, Segments


class Denoiser(nn.Module):
    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.mix = nn.Linear(12, 12)
        self.pause = pause

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause)
        return torch.tanh(self.mix(x))


class Pipeline:
    def __init__(self, **parts: nn.Module) -> None:
        self.parts = parts
        self.scale = 1.0
        self.log: list[tuple[str, int]] = []


class TinyAdapter(Adapter):
    """Clips of 2 frames of 2 × 1 pixels; every step runs each denoiser once."""

    name = "tiny"

    def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Pipeline:
        return Pipeline(net=Denoiser())

    def denoisers(self, pipeline: Pipeline) -> dict[str, nn.Module]:
        return dict(pipeline.parts)

    def with_denoisers(self, pipeline: Pipeline, denoisers: Mapping[str, nn.Module]) -> Pipeline:
        return Pipeline(**denoisers)

    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        pipeline.log.append((",".join(prompts), len(seeds)))
        time.sleep(call.get("encode", 0.0))
        x = torch.stack([torch.rand(12, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        for _ in range(steps):
            for net in pipeline.parts.values():
                x = net(x)
        return (x.sigmoid() * pipeline.scale).reshape(-1, 2, 3, 2, 1)

    def save(self, pipeline: Any, folder: Path) -> None:
        for name, net in pipeline.parts.items():
            (folder / name).mkdir(parents=True)
            save_file(net.state_dict(), folder / name / "weights.safetensors")

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return []

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        return Layout(batch=1, frames=2, tokens=2)

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        raise NotImplementedError

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        return 0.0

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        return {"x": torch.zeros(batch, 12)}

    def latent_size(self, pipeline: Any, call: Mapping[str, Any]) -> dict[str, int]:
        return {"frames": 2, "height": 2, "width": 1, "text": 0}


ADAPTER = TinyAdapter()
PROMPTS = ["a", "b", "c", "d", "e"]


def pipeline(**parts: nn.Module) -> Pipeline:
    torch.manual_seed(0)
    return Pipeline(**(parts or {"net": Denoiser()}))


def hooks(pipe: Pipeline) -> int:
    return sum(len(net._forward_hooks) + len(net._forward_pre_hooks) for net in pipe.parts.values())


# --- generation -----------------------------------------------------------------------------------------------------


def test_clips_do_not_depend_on_the_batch_size() -> None:
    seeds, heard = list(range(5)), []
    runs = [
        generate(
            ADAPTER,
            pipeline(),
            PROMPTS,
            steps=3,
            seeds=seeds,
            call={},
            batch_size=size,
            progress=lambda *d: heard.append(d),
        )
        for size in (1, 2, 5, 8)
    ]
    assert runs[0].clips.shape == (5, 2, 3, 2, 1)
    for run in runs[1:]:
        torch.testing.assert_close(run.clips, runs[0].clips)
    assert [run.calls for run in runs] == [15, 9, 3, 3]
    assert heard[5:9] == [(2, 5), (4, 5), (5, 5), (5, 5)]


def test_denoiser_seconds_are_part_of_all_seconds() -> None:
    pipe = pipeline(first=Denoiser(0.002), second=Denoiser(0.002))
    run = generate(ADAPTER, pipe, PROMPTS, steps=2, seeds=range(5), call={"encode": 0.02}, batch_size=5)
    assert run.calls == 4
    assert 0 < run.denoiser_seconds < run.seconds
    assert not run.clips.requires_grad


def test_hooks_are_gone_even_when_generation_fails() -> None:
    pipe = pipeline()
    generate(ADAPTER, pipe, ["a"], steps=1, seeds=[0], call={}, batch_size=1)
    assert hooks(pipe) == 0
    broken = pipeline(net=nn.Linear(3, 3))
    with pytest.raises(RuntimeError):
        generate(ADAPTER, broken, ["a"], steps=1, seeds=[0], call={}, batch_size=1)
    assert hooks(broken) == 0


def test_a_shared_denoiser_is_timed_once_a_call() -> None:
    net = Denoiser()
    run = generate(ADAPTER, pipeline(one=net, two=net), ["a"], steps=2, seeds=[0], call={}, batch_size=1)
    assert run.calls == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": []}, "no prompt"),
        ({"seeds": [0]}, "5 prompts, 1 seeds"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 0}, "without running any"),
    ],
)
def test_impossible_requests_are_refused(arguments: dict[str, Any], message: str) -> None:
    usual = {"prompts": PROMPTS, "steps": 1, "seeds": list(range(5)), "call": {}, "batch_size": 2}
    with pytest.raises(ModelError, match=message):
        generate(ADAPTER, pipeline(), **{**usual, **arguments})


@pytest.mark.parametrize(("scale", "message"), [(float("nan"), "NaN"), (3.0, r"in \[0, 1\]")])
def test_clips_that_are_not_clips_are_refused(scale: float, message: str) -> None:
    pipe = pipeline()
    pipe.scale = scale
    with pytest.raises(ModelError, match=message):
        generate(ADAPTER, pipe, ["a"], steps=1, seeds=[0], call={}, batch_size=1)


def test_clips_of_another_shape_are_refused() -> None:
    class Flat(TinyAdapter):
        def generate(self, pipeline: Any, prompts: Sequence[str], **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
            return super().generate(pipeline, prompts, **kwargs).flatten(1)

    with pytest.raises(ModelError, match=r"must be \[1, F, 3, H, W\], not \[1, 12\]"):
        generate(Flat(), pipeline(), ["a"], steps=1, seeds=[0], call={}, batch_size=1)


# --- timing ---------------------------------------------------------------------------------------------------------


def test_runs_take_turns_after_a_warm_up_each() -> None:
    slow, fast, heard = pipeline(net=Denoiser(0.004)), pipeline(), []
    turns: list[str] = []
    for word, pipe in (("before", slow), ("after", fast)):
        pipe.parts["net"].register_forward_hook(lambda *_, word=word: turns.append(word))
    timing = paired_timing(
        ADAPTER, slow, fast, PROMPTS, steps=1, seeds=range(5), call={}, pairs=3, progress=lambda *d: heard.append(d)
    )
    assert turns == ["before", "after"] * 4
    assert heard[-1] == (8, 8)
    assert slow.log == [("a,b,c,d,e", 5)] * 4
    assert (timing.clips, timing.steps, timing.calls) == (5, 1, 1)
    for one in (timing.denoiser, timing.end_to_end):
        assert len(one.before_runs) == len(one.after_runs) == 3
        assert min(*one.before_runs, *one.after_runs, one.speedup) > 0
    assert PairedTiming.model_validate_json(timing.model_dump_json()) == timing


def test_medians_and_the_median_ratio_of_pairs() -> None:
    timing = Timing.of([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert (timing.before, timing.after, timing.speedup) == (4.0, 3.0, 2.0)
    assert Timing.of([1.0], [0.0]).speedup == float("inf")
    for before, after in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="pairs"):
            Timing.of(before, after)


def test_timing_needs_a_pair() -> None:
    with pytest.raises(ModelError, match="at least one pair"):
        paired_timing(ADAPTER, pipeline(), pipeline(), ["a"], steps=1, seeds=[0], call={}, pairs=0)


# --- memory and size ------------------------------------------------------------------------------------------------


def test_peak_memory_sees_what_a_run_adds() -> None:
    def work() -> int:
        block = torch.ones(40 * 2**20 // 4)
        time.sleep(0.05)
        return int(block.numel())

    result, memory = peak_memory(work, torch.device("cpu"))
    assert result == 40 * 2**20 // 4
    assert 30 * 2**20 < memory.added <= memory.peak
    assert "resident set" in memory.how


def test_peak_memory_lets_errors_through() -> None:
    with pytest.raises(ZeroDivisionError):
        peak_memory(lambda: 1 // 0, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu() -> None:
    _, memory = peak_memory(lambda: torch.ones(2**22, device="cuda").sum().item(), torch.device("cuda"))
    assert memory.added >= 4 * 2**22
    assert "CUDA" in memory.how


def test_shared_parameters_count_once() -> None:
    net = Denoiser()
    assert model_size(ADAPTER, pipeline(net=net)) == 12 * 12 + 12
    assert model_size(ADAPTER, pipeline(one=net, two=net)) == 12 * 12 + 12
    assert model_size(ADAPTER, pipeline(one=net, two=Denoiser())) == 2 * (12 * 12 + 12)


def test_folder_bytes_are_those_of_safetensors(tmp_path: Path) -> None:
    ADAPTER.save(pipeline(net=Denoiser(), other=Denoiser()), tmp_path)
    (tmp_path / "net" / "config.json").write_text("{}" * 100)
    (tmp_path / "empty").mkdir()
    one = (tmp_path / "net" / "weights.safetensors").stat().st_size
    assert folder_bytes(tmp_path, "net") == one
    assert folder_bytes(tmp_path) == 2 * one
    assert folder_bytes(tmp_path, "empty") is None
    with pytest.raises(OutputError, match="no such folder"):
        folder_bytes(tmp_path, "nowhere")


# --- quality --------------------------------------------------------------------------------------------------------


class Brightness(Metric):
    name = "brightness"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        (batch,) = clips
        return {"mean": float(batch.clips.mean()), "max": float(batch.clips.max())}


class Broken(Metric):
    name = "broken"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        return {"x": clips.nothing_of_the_kind}  # type: ignore[dict-item]


class Distance(Metric):
    name = "distance"
    reference = Reference.CLIP

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        assert reference is not None
        pairs = list(zip(clips, reference, strict=True))
        return {"distance": max(float((a.clips - b.clips).abs().max()) for a, b in pairs), "batches": len(pairs)}


class Silent(Metric):
    name = "silent"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        return {}


def test_quality_is_keyed_by_metric() -> None:
    clips = torch.full((2, 1, 3, 2, 2), 0.5)
    assert quality([Brightness()], clips, ["a", "b"]) == {"brightness": {"mean": 0.5, "max": 0.5}}
    assert quality([], clips, ["a", "b"]) == {}


def test_metrics_that_fail_are_named() -> None:
    clips = torch.zeros(1, 1, 3, 2, 2)
    with pytest.raises(PluginError, match=r"metric 'broken' failed: AttributeError: .*nothing_of_the_kind"):
        quality([Brightness(), Broken()], clips, ["a"])
    with pytest.raises(PluginError, match="'silent' returned no figure"):
        quality([Silent()], clips, ["a"])
    with pytest.raises(PluginError, match="'brightness' is asked for twice"):
        quality([Brightness(), Brightness()], clips, ["a"])
    with pytest.raises(ModelError, match="1 clips but 2 prompts"):
        quality([Brightness()], clips, ["a", "b"])


def test_metrics_that_compare_get_batches_in_pairs() -> None:
    clips, prompts = torch.zeros(20, 1, 3, 2, 2), ["a"] * 20
    assert quality([Distance()], clips, prompts, clips + 0.5) == {"distance": {"distance": 0.5, "batches": 2}}
    with pytest.raises(ModelError, match="'distance' compares clips with another clip each"):
        quality([Distance()], clips, prompts)


def test_damage_is_the_mean_squared_error() -> None:
    before = torch.zeros(2, 1, 3, 2, 2)
    after = before.clone()
    assert damage(before, after) == 0
    after[0] = 0.5
    assert damage(before, after) == pytest.approx(0.125)
    with pytest.raises(ModelError, match="differ in shape"):
        damage(before, after[:1])
