"""Models that rows of a comparison bring with them: known by their weights, and no more than one of them loaded."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from f3core.adapter import Model
from f3core.engine import adapter_for_source, load, silent
from f3core.errors import F3Error, ModelError, OutputError, SpecError
from f3core.footprint import cuda_in_use
from f3core.identity import fingerprint
from f3core.job import Job, check_same_adapter
from f3core.measure import Listener

T = TypeVar("T")
Weights = dict[str, str]
"""The `fingerprint` of each denoiser of a model, by component"""


class RowModels:
    """The models of rows with a source of their own, over all seeds of a comparison.

    The last one is held until `release`. ``weights``: what tells a source's weights from others, once it was loaded;
    ``looked``: rows whose model was found to bear what they do to it.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.weights: dict[str, Weights] = {}
        self.looked: set[int] = set()
        self._held: tuple[str, Model] | None = None

    def of(self, job: Job, base: Model, *, pruned: bool) -> Model:
        """The model of a row's job, on the device of ``base``, the spec's; with its sites where it is to be ``pruned``.

        Raises `SpecError` at the row's source where it cannot be loaded, is of another adapter than ``base``, or is
        pruned already and to be pruned again; at the row's prune section where that asks for what it cannot lose; and
        `OutputError` where the weights are no longer those that were loaded before.
        """
        source = job.file.spec.model.source
        if self._held is None or self._held[0] != source:
            self.release()
            self.listener(f"Loading {source}", 0, 1)
            self._held = source, _at_source(job, lambda: _loaded(job, base))
            self.listener(f"Loading {source}", 1, 1)
            weights = {name: fingerprint(denoiser) for name, denoiser in self._held[1].denoisers.items()}
            if self.weights.setdefault(source, weights) != weights:
                raise OutputError(f"{source} was changed while it was compared; run again with --resume")
        model = self._held[1]
        return _at_source(job, lambda: load(job, model.pipeline, silent)) if pruned else model

    def release(self, keep: str | None = None) -> None:
        """Let go of the model that is held, unless it is that of the source ``keep``."""
        if self._held is not None and self._held[0] != keep:
            self._held = None
            gc.collect()
            if cuda_in_use():
                torch.cuda.empty_cache()

    def check_kept(self, finished: Mapping[str, Any], folder: Path) -> None:
        """Raises `OutputError` where a finished seed, of which this is kept, had rows of other weights than now."""
        kept: Mapping[str, Weights] = finished["sources"]
        changed = [source for source, weights in kept.items() if self.weights.get(source, weights) != weights]
        if changed:
            raise OutputError(
                f"the unfinished run in {folder} did a seed with other weights of {', '.join(changed)}; remove the "
                "folder to begin again, or give another --output"
            )


def _loaded(job: Job, base: Model) -> Model:
    """A row's model as it is, pruned before or not; its sites are not looked for."""
    adapter = adapter_for_source(job)
    check_same_adapter(job.file, adapter.name, base.adapter.name)
    dtype = job.file.spec.model.dtype
    device = next(p.device for denoiser in base.denoisers.values() for p in denoiser.parameters())
    pipeline: Any = adapter.load(job.source, dtype=getattr(torch, dtype) if dtype else None, device=device)
    denoisers = adapter.denoisers(pipeline)
    if not denoisers:
        raise ModelError(f"adapter {adapter.name!r} finds no denoiser in {type(pipeline).__name__}")
    for denoiser in denoisers.values():
        denoiser.eval()
    return Model(adapter, pipeline, denoisers, (), job.call)


def _at_source(job: Job, work: Callable[[], T]) -> T:
    """What ``work`` gives; what it finds wrong with the row's model is said at the row's source."""
    try:
        return work()
    except SpecError:
        raise
    except F3Error as error:
        raise job.file.error(("model", "source"), str(error)) from error
