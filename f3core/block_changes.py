"""How little blocks do: 1 − cosine of what each takes and gives, the cheapest guess at which can go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from f3core.impact import Array
from f3core.sites import Block

if TYPE_CHECKING:
    from f3core.adapter import Adapter


def block_changes(
    adapter: Adapter,
    pipeline: Any,
    blocks: Mapping[str, Sequence[Block]],
    prompts: Sequence[str],
    *,
    steps: int,
    seeds: Sequence[int],
    call: Mapping[str, Any],
) -> Array:
    """[S, P]: the mean over tokens, forwards and steps of a generation of each prompt. ``blocks``: by component.

    NaN for a block whose output is of another width than its input, or which did not run.
    """
    every = [(name, block) for name, some in blocks.items() for block in some]
    found = np.full((len(every), len(prompts)), np.nan)
    denoisers = adapter.denoisers(pipeline)
    for p, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        meters = [_Meter() for _ in every]
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(adapter.observable(pipeline))
            for (name, block), meter in zip(every, meters, strict=True):
                meter.watch(denoisers[name], block, stack)
            adapter.generate(pipeline, [prompt], steps=steps, seeds=[seed], call=call)
        found[:, p] = [meter.mean for meter in meters]
    return found


class _Meter:
    """Sums 1 − cosine over the forwards of one block."""

    def __init__(self) -> None:
        self._given: Tensor | None = None
        self._sum = 0.0
        self._count = 0

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else float("nan")

    def watch(self, denoiser: nn.Module, block: Block, stack: ExitStack) -> None:
        first, last = (denoiser.get_submodule(part.path) for part in (block.parts[0], block.parts[-1]))
        channels = block.parts[0].channels

        def enter(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            self._given = given if channels is None else given[:, :channels]

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            made = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
            if isinstance(made, Tensor) and self._given is not None and made.shape == self._given.shape:
                axis = -1 if made.ndim == 3 else 1
                cosine = nn.functional.cosine_similarity(self._given.float(), made.float(), dim=axis)
                self._sum += float((1 - cosine).sum())
                self._count += cosine.numel()

        stack.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(leave).remove)
