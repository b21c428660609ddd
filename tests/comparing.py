"""What tests of comparisons share: accelerators and metrics of their own, and a small comparison of the tiny Wan."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from f3core_diffusers.wan import WanAdapter
from torch import Tensor, nn

from f3core import seeds
from f3core.accelerator import Accelerator
from f3core.compare import compare
from f3core.compare_rows import Comparison
from f3core.errors import ModelError
from f3core.evaluate import damage
from f3core.hookspecs import Entry, hookimpl
from f3core.metric import Batch, Metric, Reference
from f3core.probe import replaced_forward
from f3core.registry import Registry
from f3core.spec import load_spec

Write = Callable[..., Path]


class Skip(Accelerator):
    """Leaves out one block of every forward."""

    name = "skip"

    def __init__(self, block: int = 0) -> None:
        self.block = block

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        block = denoisers["transformer"].blocks[self.block]  # type: ignore[union-attr, index]
        with replaced_forward(block, lambda forward, hidden, *args, **kwargs: hidden):
            yield


class Unbearable(Accelerator):
    name = "unbearable"

    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Any:
        raise ModelError("this model has nothing to accelerate")


class Light(Metric):
    """Brightness, and how much it varies, which is less."""

    name = "light"

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        every = torch.cat([batch.clips for batch in clips]).double()
        return {"spread": 1e-3 * float(every.std()), "mean": float(every.mean())}


class Likeness(Metric):
    """Infinite for the very same clips, like a PSNR."""

    name = "likeness"
    reference = Reference.CLIP

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        error = sum(damage(a.clips, b.clips) for a, b in zip(clips, reference or [], strict=True))
        return {"likeness": 1 / error if error else float("inf")}


@functools.cache
def registry() -> Registry:
    """What is installed, and the accelerators and metrics of this file."""
    made = Registry()
    made.load_entry_points()
    plugin = types.SimpleNamespace(
        f3core_accelerators=hookimpl(lambda: [Entry(c.name, f"{__name__}:{c.__name__}") for c in (Skip, Unbearable)]),
        f3core_metrics=hookimpl(lambda: [Entry(c.name, f"{__name__}:{c.__name__}") for c in (Light, Likeness)]),
    )
    made.register(plugin, "mine")
    return made


ROWS = (
    "{name: quarter, prune: {ratio: 0.25}}",
    "{name: half, prune: {ratio: 0.5}}",
    "{name: skip, accelerate: skip}",
    "{name: half + skip, prune: {ratio: 0.5}, accelerate: [{skip: {block: 1}}]}",
)
SMALL = ("calibrate.steps=2", "calibrate.num_prompts=1")
NAMES = ["unpruned", "quarter", "half", "skip", "half + skip"]
EVALUATE = "{num_clips: 2, timing_pairs: 0, metrics: [light, likeness]}"


def run(spec: Path, *rows: str, over: str = "[0, 1]", **options: Any) -> Comparison:
    """The comparison of some rows, or of all, with the plugins of this file."""
    section = f"compare={{seeds: {over}, rows: [{', '.join(rows or ROWS)}]}}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "installed", registry)
        return compare(load_spec(spec, [section, *SMALL]), **options)


def told(found: Comparison) -> dict[str, Any]:
    """All of a comparison but when, in how much memory, and beside which imported libraries it was made."""
    data = found.model_dump(mode="json", exclude={"date": True, "versions": True, "rows": {"__all__": {"memory"}}})
    for outcome in data["outcomes"]:
        outcome.pop("memory")
    return data


def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by how many clips every generation is asked for."""
    calls, usual = list[int](), WanAdapter.generate

    def counted(self: WanAdapter, pipeline: Any, prompts: list[str], **options: Any) -> Tensor:
        calls.append(len(prompts))
        return usual(self, pipeline, prompts, **options)

    monkeypatch.setattr(WanAdapter, "generate", counted)
    return calls
