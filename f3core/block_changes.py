"""How little blocks do: 1 − cosine of what each takes and gives, the cheapest guess at which can go."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from f3core.block import Block
from f3core.impact import Array

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

    Where tokens lie otherwise behind a block's last part than before its first, as where one attends inside frames and
    the other over them, it is the sum over its parts. NaN for a block one of whose parts gives another width than it
    takes, or which did not run.
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
        self._given: list[Tensor | None] = []
        self._own: list[Tensor | None] = []
        self._sum = 0.0
        self._count = 0

    @property
    def mean(self) -> float:
        return self._sum / self._count if self._count else float("nan")

    def watch(self, denoiser: nn.Module, block: Block, stack: ExitStack) -> None:
        self._given = [None] * len(block.parts)
        self._own = [None] * len(block.parts)
        for i, part in enumerate(block.parts):
            module = denoiser.get_submodule(part.path)
            enter = functools.partial(self._enter, i, part.channels)
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(functools.partial(self._leave, i)).remove)

    def _enter(self, i: int, channels: int | None, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        self._given[i] = given if channels is None else given[:, :channels]

    def _leave(self, i: int, _module: nn.Module, _args: Any, output: Any) -> None:
        made = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
        self._own[i] = _change(self._given[i], made)
        if i < len(self._own) - 1:
            return
        whole, own = _change(self._given[0], made), [change for change in self._own if change is not None]
        self._given = [None] * len(self._given)  # else every block's tokens would be kept until it runs again
        if whole is not None:
            self._sum += float(whole.sum())
            self._count += whole.numel()
        elif len(own) == len(self._own):
            self._sum += sum(float(change.mean()) for change in own) * own[-1].numel()
            self._count += own[-1].numel()


def _change(given: Tensor | None, made: Any) -> Tensor | None:
    """1 − cosine, token by token; None where the two are not of one shape."""
    if given is None or not isinstance(made, Tensor) or made.shape != given.shape:
        return None
    return 1 - nn.functional.cosine_similarity(given.float(), made.float(), dim=-1 if made.ndim == 3 else 1)
