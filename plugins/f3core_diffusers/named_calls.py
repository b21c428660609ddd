"""Which call of a pipeline a denoiser runs in: pipelines of diffusers name each by `cache_context`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from f3core.attention import become_

UNCONDITIONAL_SHARE = {"cond": 0.0, "uncond": 1.0, "uncond_cond": 0.5, "pred_cond": 0.0, "pred_uncond": 1.0}
"""By the name of a call, which share of its rows, from the first on, is of guidance's unconditional branch. Names that
pipelines give guided and unguided calls alike, such as diffusers' "cond_uncond", do not tell."""


class NamedCalls(nn.Module):
    """A denoiser that remembers the name of the running call, whether or not its class caches anything by it."""

    f3_call: str | None = None

    @contextlib.contextmanager
    def cache_context(self, name: str, **where: Any) -> Iterator[None]:
        """As diffusers' ``CacheMixin.cache_context``: calls inside are ``name``, "cond" or "uncond", or "uncond_cond"
        for rows of both branches of guidance, the unconditional ones first."""
        inherited = getattr(super(), "cache_context", None)
        with inherited(name, **where) if inherited is not None else contextlib.nullcontext():
            outer, self.f3_call = self.f3_call, name
            try:
                yield
            finally:
                self.f3_call = outer


def names_calls(pipeline_class: type) -> bool:
    """Whether a pipeline names its calls, which those of one denoiser may or may not do; read in its source."""
    own = (base for base in pipeline_class.__mro__ if issubclass(base, DiffusionPipeline))
    return any("cache_context(" in inspect.getsource(base) for base in own)


@contextlib.contextmanager
def naming_calls(denoiser: nn.Module) -> Iterator[None]:
    """Until the block ends, the denoiser remembers the names of its calls."""
    plain = type(denoiser)
    if not isinstance(denoiser, NamedCalls):
        become_(denoiser, NamedCalls)
    try:
        yield
    finally:
        denoiser.__class__ = plain


def unconditional_rows(denoiser: nn.Module, batch: int) -> range | None:
    """Of ``batch`` rows of the running call, those of guidance's unconditional branch; None where its name does not
    tell."""
    share = UNCONDITIONAL_SHARE.get(getattr(denoiser, "f3_call", None) or "")
    return None if share is None else range(int(share * batch))
