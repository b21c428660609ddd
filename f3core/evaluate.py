"""What a model gives and takes when it runs: clips, seconds, quality; memory and size are in `footprint`.

Denoiser time and end-to-end time are kept apart, because pruning can only shorten the first. torch is imported where
it is used, so that reports can be read without it.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from f3core.errors import F3Error, ModelError, PluginError
from f3core.footprint import Memory, cuda_in_use, folder_bytes, model_size, peak_memory
from f3core.metric import Batch, Metric, Reference

if TYPE_CHECKING:
    import torch
    from torch import nn

    from f3core.adapter import Adapter

__all__ = [
    "Generation",
    "Memory",
    "PairedTiming",
    "Progress",
    "Timing",
    "batches",
    "damage",
    "folder_bytes",
    "generate",
    "measured",
    "model_size",
    "paired_timing",
    "peak_memory",
    "quality",
]

_SEEDS_APART = 1_000_003
Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


# --- clips and seconds ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generation:
    """``clips`` [B, F, 3, H, W] float32 in [0, 1] on the CPU; ``denoiser_seconds`` inside denoiser forwards, of
    ``seconds`` in all; ``calls`` of denoisers."""

    clips: torch.Tensor
    denoiser_seconds: float
    seconds: float
    calls: int


class Timing(_Frozen):
    """Seconds of interleaved runs: medians, the median over pairs of before / after, and every raw value."""

    before: float
    after: float
    speedup: float
    before_runs: tuple[float, ...]
    after_runs: tuple[float, ...]

    @classmethod
    def of(cls, before: Sequence[float], after: Sequence[float]) -> Timing:
        """From the raw seconds of pairs of runs, in order. Raises `ValueError` without a pair."""
        if not before or len(before) != len(after):
            raise ValueError(f"runs must come in pairs: {len(before)} before, {len(after)} after")
        ratios = [b / a if a > 0 else float("inf") for b, a in zip(before, after, strict=True)]
        return cls(
            before=statistics.median(before),
            after=statistics.median(after),
            speedup=statistics.median(ratios),
            before_runs=tuple(before),
            after_runs=tuple(after),
        )


class PairedTiming(_Frozen):
    """What one generation of ``clips`` clips in ``steps`` steps takes, before and after. ``calls``: denoiser calls of
    one run before."""

    clips: int
    steps: int
    calls: int
    denoiser: Timing
    end_to_end: Timing


@dataclass
class _Stopwatch:
    seconds: float = 0.0
    calls: int = 0
    begun: float = 0.0

    def start(self, *_: Any) -> None:
        self.begun = _now()

    def stop(self, *_: Any) -> None:
        self.seconds += _now() - self.begun
        self.calls += 1


def _now() -> float:
    """Wall-clock seconds, once the GPU (where one is in use) has finished what it was given."""
    if cuda_in_use():
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def _watched(modules: Iterable[nn.Module]) -> Iterator[_Stopwatch]:
    """Time every forward of ``modules``, hooks of their own included; leaves no hook behind."""
    watch = _Stopwatch()
    handles: list[Any] = []
    try:
        for module in {id(m): m for m in modules}.values():
            handles.append(module.register_forward_pre_hook(watch.start, prepend=True))
            handles.append(module.register_forward_hook(watch.stop))
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def noise_seeds(seed: int, count: int) -> list[int]:
    """Seeds of ``count`` clips' noise; those of different ``seed`` share none."""
    return [seed * _SEEDS_APART + i for i in range(count)]


def generate(
    adapter: Adapter,
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    seeds: Sequence[int],
    call: Mapping[str, Any],
    batch_size: int,
    progress: Progress | None = None,
) -> Generation:
    """Clips of ``prompts``, ``batch_size`` at a time; clip i's noise depends on ``seeds[i]`` alone.

    ``progress`` hears (clips done, clips in all). Raises `ModelError` when prompts and seeds do not pair, no denoiser
    ran, or what the adapter returned is not finite clips in [0, 1].
    """
    import torch

    if not prompts:
        raise ModelError("no prompt to generate a clip for")
    if len(prompts) != len(seeds):
        raise ModelError(f"every clip needs one prompt and one seed; got {len(prompts)} prompts, {len(seeds)} seeds")
    if batch_size < 1:
        raise ModelError(f"batch_size must be at least 1, not {batch_size}")
    clips: list[torch.Tensor] = []
    seconds = 0.0
    with torch.no_grad(), _watched(adapter.denoisers(pipeline).values()) as watch:
        for start in range(0, len(prompts), batch_size):
            some = list(prompts[start : start + batch_size])
            begun = _now()
            made = adapter.generate(pipeline, some, steps=steps, seeds=seeds[start : start + batch_size], call=call)
            seconds += _now() - begun
            clips.append(_checked(made, len(some), adapter.name))
            if progress:
                progress(start + len(some), len(prompts))
    if not watch.calls:
        raise ModelError(f"adapter {adapter.name!r} generated clips without running any of the denoisers it declares")
    return Generation(torch.cat(clips), watch.seconds, seconds, watch.calls)


def _checked(clips: torch.Tensor, count: int, adapter: str) -> torch.Tensor:
    """Clips as promised by `Adapter.generate`, or `ModelError`."""
    import torch

    if clips.ndim != 5 or clips.shape[0] != count or clips.shape[2] != 3:
        raise ModelError(f"adapter {adapter!r}: clips must be [{count}, F, 3, H, W], not {list(clips.shape)}")
    clips = clips.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(clips).all()):
        raise ModelError(f"adapter {adapter!r}: generated clips hold NaN or infinity; try a wider dtype (float32)")
    low, high = float(clips.min()), float(clips.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise ModelError(f"adapter {adapter!r}: clips must lie in [0, 1]; these span [{low:.3g}, {high:.3g}]")
    return clips.clamp(0, 1)


def paired_timing(
    adapter: Adapter,
    before: Any,
    after: Any,
    prompts: Sequence[str],
    *,
    steps: int,
    seeds: Sequence[int],
    call: Mapping[str, Any],
    pairs: int,
    progress: Progress | None = None,
    during: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> PairedTiming:
    """Time two pipelines in turn (before, after, before, after, ...), all prompts in one batch, after a warm-up each.

    Taking turns lets a slow spell of the machine fall on both. ``progress`` hears (runs done, runs in all).
    ``during``: makes a context that is entered, outside the clock, around each run of ``after`` alone, so that both
    may be one pipeline. Raises `ModelError` as `generate` does.
    """
    if pairs < 1:
        raise ModelError(f"timing needs at least one pair of runs, not {pairs}")
    runs: tuple[list[Generation], list[Generation]] = ([], [])
    total = 2 * (pairs + 1)
    for done in range(total):
        gc.collect()
        pipeline, context = (after, during()) if done % 2 else (before, contextlib.nullcontext())
        with context:
            run = generate(adapter, pipeline, prompts, steps=steps, seeds=seeds, call=call, batch_size=len(prompts))
        if done >= 2:
            runs[done % 2].append(run)
        if progress:
            progress(done + 1, total)
    return PairedTiming(
        clips=len(prompts),
        steps=steps,
        calls=runs[0][0].calls,
        denoiser=Timing.of([r.denoiser_seconds for r in runs[0]], [r.denoiser_seconds for r in runs[1]]),
        end_to_end=Timing.of([r.seconds for r in runs[0]], [r.seconds for r in runs[1]]),
    )


# --- quality --------------------------------------------------------------------------------------------------------

BATCH = 16
"""clips that a metric is shown at once"""


def batches(clips: torch.Tensor, prompts: Sequence[str] | None = None) -> list[Batch]:
    """Clips [B, F, 3, H, W] as metrics take them; views."""
    return [
        Batch(clips[i : i + BATCH], None if prompts is None else prompts[i : i + BATCH])
        for i in range(0, len(clips), BATCH)
    ]


def measured(metric: Metric, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
    """A metric's figures. Raises `PluginError` that names the metric when it fails, or returns anything but numbers."""
    if metric.reference is not Reference.NONE and reference is None:
        raise ModelError(f"metric {metric.name!r} compares clips with {metric.reference.value}; give a reference")
    try:
        found = {str(name): float(value) for name, value in metric.measure(clips, reference).items()}
    except F3Error:
        raise
    except Exception as error:
        raise PluginError(f"metric {metric.name!r} failed: {type(error).__name__}: {error}") from error
    if not found:
        raise PluginError(f"metric {metric.name!r} returned no figure")
    return found


def quality(
    metrics: Sequence[Metric], clips: torch.Tensor, prompts: Sequence[str], reference: torch.Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Figures of every metric, by metric name, for clips [B, F, 3, H, W] in [0, 1] of B prompts; ``reference``: the
    unpruned model's of the same noise.

    Raises `PluginError` that names the metric when one fails, returns anything but numbers, or is asked for twice;
    `ModelError` when clips and prompts do not pair, or a metric lacks its reference.
    """
    if len(clips) != len(prompts):
        raise ModelError(f"{len(clips)} clips but {len(prompts)} prompts")
    twice = {metric.name for i, metric in enumerate(metrics) if metric.name in [m.name for m in metrics[:i]]}
    if twice:
        raise PluginError(f"metric {min(twice)!r} is asked for twice")
    shown, other = batches(clips, prompts), None if reference is None else batches(reference, prompts)
    return {metric.name: measured(metric, shown, other) for metric in metrics}


def damage(before_clips: torch.Tensor, after_clips: torch.Tensor) -> float:
    """Mean squared error between clips [B, F, 3, H, W] made from the same noise. Raises `ModelError` for two shapes."""
    if before_clips.shape != after_clips.shape:
        raise ModelError(f"clips differ in shape: {list(before_clips.shape)} before, {list(after_clips.shape)} after")
    return float((before_clips.double() - after_clips.double()).square().mean())
