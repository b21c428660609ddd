"""What a whole generation costs, counted operator by operator while it runs: caches that skip and methods that add work
are seen, which no count of single forwards sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from f3core.errors import ModelError
from f3core.operators import Ledger, booking, tracked
from f3core.probe import replaced_forward

if TYPE_CHECKING:
    from f3core.adapter import Adapter


def generation_macs(
    adapter: Adapter, pipeline: Any, prompt: str, *, steps: int, seed: int, call: Mapping[str, Any]
) -> int:
    """MACs that the denoisers' forwards execute in one generation of one clip, guidance and all steps included.

    The generation is run as it is, so the denoisers need their weights; what runs outside of them is not counted.

    Plans are priced by single forwards, of which a generation need not consist. One that goes token by token from a
    cache runs a little less, since it never feeds back its last tokens. One pruned at some steps may run a little more,
    since weights are folded again whenever these begin. Raises `CountingError` for an operator that is not free but has
    no formula, and `ModelError` when no denoiser runs.
    """
    ledger, forwards = Ledger(()), 0

    def count(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal forwards
        forwards += 1
        with booking(ledger):
            return forward(*args, **kwargs)

    unique = {id(denoiser): denoiser for denoiser in adapter.denoisers(pipeline).values()}
    with torch.no_grad(), ExitStack() as stack:
        for denoiser in unique.values():
            stack.enter_context(tracked(denoiser, ledger))
            stack.enter_context(replaced_forward(denoiser, count))
        adapter.generate(pipeline, [prompt], steps=steps, seeds=[seed], call=call)
    if not forwards:
        raise ModelError(f"adapter {adapter.name!r} generated a clip without running any of the denoisers it declares")
    return sum(ledger.own.values())
