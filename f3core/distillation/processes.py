"""`Processes`: the processes that share a training and the precision it runs in, through `accelerate`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from f3core.errors import ModelError, SpecError

_PATIENCE = timedelta(hours=12)
"""for which processes wait for the main one, which alone makes samples"""
_OTHER_WAYS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


class Processes:
    """All that a training asks of `accelerate`. ``index`` of ``count`` is this process.

    Models are not wrapped: gradients are averaged by one message a module (`average`), so that any number of forwards
    of any of them may be part of a step. Raises `ModelError` where `accelerate` is not installed, or the device does
    not bear the precision.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            raise ModelError("training needs accelerate; install it: pip install 'f3core[distill]'") from error
        if precision == "fp16" and device.type == "cpu":
            raise ModelError("mixed_precision: fp16 needs a GPU; give bf16, or no")
        _forget_other(device, precision)
        try:
            self._accelerator = Accelerator(
                cpu=device.type == "cpu",
                mixed_precision=precision,
                kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
            )
        except (ValueError, RuntimeError) as error:
            raise ModelError(f"accelerate cannot train in mixed_precision: {precision} on {device}: {error}") from error
        way = str(self._accelerator.distributed_type.value)
        if way in _OTHER_WAYS:
            raise ModelError(
                f"training under {way} is not supported; give accelerate launch --multi_gpu, without a GPU too"
            )
        if self._accelerator.device.type != device.type:
            raise ModelError(f"the models lie on {device}, accelerate was launched for {self._accelerator.device}")
        self.scaler: Any = self._accelerator.scaler
        self.index: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.main: bool = self._accelerator.is_main_process

    def autocast(self) -> AbstractContextManager[None]:
        """Forwards in the precision that was asked for."""
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled under fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def rows(self, batch: int, parts: int) -> list[range]:
        """The rows of the whole batch that this process goes through, part by part, as `check` has allowed."""
        share = batch // (self.count * parts)
        first = self.index * share * parts
        return [range(start, start + share) for start in range(first, first + share * parts, share)]

    def check(self, batch: int, parts: int) -> None:
        """Raises `SpecError` for a batch that cannot be divided evenly."""
        if batch % (self.count * parts):
            processes = f"{self.count} process{'es' if self.count > 1 else ''}"
            raise SpecError(
                f"distill.batch_size: {batch} clips cannot be shared evenly by {processes} in {parts} part(s) each; "
                f"give a multiple of {self.count * parts}, or another distill.accumulate"
            )

    def check_places(self, modules: Sequence[nn.Module]) -> None:
        """Raises `ModelError` for modules that do not lie on this one of several processes' device."""
        device = self._accelerator.device
        for module in modules:
            found = next((p.device for p in module.parameters()), device)
            if self.count > 1 and device.type != "cpu" and found != device:
                raise ModelError(f"process {self.index} works on {device}, its {type(module).__name__} lies on {found}")

    @torch.no_grad()
    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become their means over processes, in one message.

        A parameter that no part reached has a gradient of zero, so that all processes treat it alike, whatever their
        rows led through.
        """
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self._accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
        pieces = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)])

    @torch.no_grad()
    def same(self, modules: Sequence[nn.Module]) -> None:
        """Give every process the main one's weights."""
        if self.count > 1:
            from accelerate.utils import broadcast

            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.copy_(broadcast(tensor.detach().contiguous()))

    def gathered(self, value: Any) -> list[Any]:
        """A small object of every process, in order."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()


def _forget_other(device: torch.device, precision: str) -> None:
    """Let go of the precision and device of an earlier training in this process: accelerate keeps one for all."""
    from accelerate.state import AcceleratorState, PartialState

    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision", precision) != precision:
        AcceleratorState._reset_state()
    partial = PartialState._shared_state
    if partial and partial["device"].type != device.type and partial.get("num_processes", 1) == 1:
        AcceleratorState._reset_state(reset_partial_state=True)
