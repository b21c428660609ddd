"""cache-dit as an accelerator: DBCache, with TaylorSeer where asked."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from f3core.accelerator import Accelerator
from f3core.errors import ModelError
from f3core_diffusers.accelerators_base import FAILURES, checked, config_class, each_generation, restored
from f3core_diffusers.pruned import PrunedModel


class CacheDiT(Accelerator):
    """DBCache of the package cache-dit: residuals of middle blocks stand while those of the first ones change little.

    Options are those of its ``DBCacheConfig``; ``taylorseer_order`` switches its TaylorSeer on. By default it warms up
    for eight steps, and caches nothing in a generation that is no longer.
    """

    name = "cache_dit"

    def __init__(self, *, taylorseer_order: int | None = None, **options: Any) -> None:
        need = "pip install cache-dit"
        self.config_class = config_class(self.name, "cache_dit", "DBCacheConfig", need)
        self.options = checked(self.name, self.config_class, options, frozenset({"cache_type"}))
        self.calibrator = None
        if taylorseer_order is not None:
            calibrator = config_class(self.name, "cache_dit", "TaylorSeerCalibratorConfig", need)
            self.calibrator = calibrator(**checked(self.name, calibrator, {"taylorseer_order": taylorseer_order}))

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        import cache_dit

        models = ", ".join(type(denoiser).__name__ for denoiser in denoisers.values())
        if any(getattr(denoiser, "is_cache_enabled", False) for denoiser in denoisers.values()):
            raise ModelError(f"{models} has a cache on already; call its disable_cache() first")
        # Its own changes to the pipeline's class then end with the class that `each_generation` gives this pipeline.
        with _told_aside(), restored(denoisers), each_generation(pipeline, self.name, lambda: None):
            config = self.config_class(**copy.deepcopy(self.options))
            try:
                try:
                    with _under_their_names(denoisers):
                        cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=self.calibrator)
                except FAILURES as error:
                    raise ModelError(
                        f"accelerator 'cache_dit' does not work on {type(pipeline).__name__} with {models}: {error}; "
                        "it knows the pipelines that cache_dit.supported_pipelines() lists"
                    ) from error
                yield
            finally:
                for name in ("_context_manager", "_context_kwargs"):
                    vars(pipeline).pop(name, None)


@contextlib.contextmanager
def _told_aside() -> Iterator[None]:
    """cache-dit reports on standard output, where results go: its warnings alone are let through, on standard error."""
    streaming = [h for h in logging.getLogger("CACHE_DIT").handlers if type(h) is logging.StreamHandler]
    usual = [(handler, handler.level, handler.stream) for handler in streaming]
    for handler, level, _ in usual:
        handler.setLevel(max(level, logging.WARNING))
        handler.stream = sys.stderr
    try:
        yield
    finally:
        for handler, level, stream in usual:
            handler.setLevel(level)
            handler.stream = stream


@contextlib.contextmanager
def _under_their_names(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """cache-dit tells models apart by how the names of their classes begin, so a pruned one is of its unpruned class
    for as long as it looks: under its own, a pruned Wan VACE would lose the control between its blocks in silence."""
    own = [(denoiser, type(denoiser)) for denoiser in denoisers.values() if isinstance(denoiser, PrunedModel)]
    try:
        for denoiser, _ in own:
            denoiser.__class__ = denoiser.f3_base
        yield
    finally:
        for denoiser, pruned in own:
            denoiser.__class__ = pruned
