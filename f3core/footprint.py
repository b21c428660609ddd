"""What a model takes up: memory while it runs, parameters, bytes on disk."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict

from f3core.errors import OutputError

if TYPE_CHECKING:
    import torch

    from f3core.adapter import Adapter

T = TypeVar("T")
SAMPLE_SECONDS = 0.005


def cuda_in_use() -> bool:
    """Whether this process has begun to use CUDA; asking does not begin it."""
    import torch

    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class Memory(BaseModel):
    """Bytes at the peak of a run: ``added`` to what was in use when it began, and ``peak`` in all. ``how`` measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    added: int
    peak: int
    how: str


def peak_memory(fn: Callable[[], T], device: torch.device | None = None) -> tuple[T, Memory]:
    """Run ``fn`` and watch memory: what the CUDA allocator holds, or the process's resident set on the CPU.

    ``device`` defaults to the current CUDA device where CUDA is in use. What ``fn`` raises goes through.
    """
    import torch

    gc.collect()
    if device.type == "cuda" if device is not None else cuda_in_use():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        result = fn()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return result, Memory(added=peak - start, peak=peak, how="CUDA tensors, torch.cuda.max_memory_allocated")
    return _resident_peak(fn)


def _resident_peak(fn: Callable[[], T]) -> tuple[T, Memory]:
    import ctypes

    import psutil

    # Freed pages that the C library keeps would be reused, and a second run seem to need less (glibc only).
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    start = int(process.memory_info().rss)
    peaks = [start]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            peaks[0] = max(peaks[0], int(process.memory_info().rss))

    sampler = threading.Thread(target=sample, name="f3core-memory", daemon=True)
    sampler.start()
    try:
        result = fn()
        last = int(process.memory_info().rss)
    finally:
        done.set()
        sampler.join()
    peak = max(peaks[0], last)
    how = f"resident set of the process, sampled every {SAMPLE_SECONDS * 1000:g} ms"
    return result, Memory(added=peak - start, peak=peak, how=how)


def model_size(adapter: Adapter, pipeline: Any) -> int:
    """Parameters of a pipeline's denoisers, each counted once however often it is shared."""
    unique = {id(p): p.numel() for module in adapter.denoisers(pipeline).values() for p in module.parameters()}
    return sum(unique.values())


def folder_bytes(folder: Path, component: str | None = None) -> int | None:
    """Bytes of safetensors below ``folder``, or below one component's folder in it; None where there are none.

    Raises `OutputError` when the folder is missing.
    """
    place = folder / component if component else folder
    if not place.is_dir():
        raise OutputError(f"{place}: no such folder, so its weights cannot be measured")
    sizes = [file.stat().st_size for file in place.rglob("*.safetensors")]
    return sum(sizes) if sizes else None
