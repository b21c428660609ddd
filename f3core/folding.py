"""Attention in which every token sees one key, itself: its softmax is 1, which leaves x -> W_o (W_v x + b_v) + b_o.

The two maps fold into one, W_o W_v. Where that holds at every step the folded map takes the module's place, and
queries, keys, values and output leave the model; where it holds at some steps the module keeps its weights and the
folded map is computed from them whenever such steps begin. Source: F3-Pruning, arXiv 2312.03459, equation 4, for maps
of frames alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from f3core.attention import become_
from f3core.clock import Gate
from f3core.errors import PlanError


class FoldedAttention(nn.Linear):
    """Stands where the attention was: one linear map of its first input; what else it is given is ignored."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """[..., C] to [..., C']."""
        return super().forward(hidden_states)


def fold(value: nn.Linear, output: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight W_o W_v and bias W_o b_v + b_o of two maps in one, computed in float32, in the dtype of ``output``.

    On the meta device nothing is computed, so nothing is counted.
    """
    inner, outer = value.weight, output.weight
    if inner.is_meta or outer.is_meta:
        bias = None if output.bias is None and value.bias is None else outer.new_empty(outer.shape[0])
        return outer.new_empty(outer.shape[0], inner.shape[1]), bias
    with torch.no_grad(), torch.autocast(outer.device.type, enabled=False):
        weight = outer.float() @ inner.float()
        bias = None if output.bias is None else output.bias.float()
        if value.bias is not None:
            moved = outer.float() @ value.bias.float()
            bias = moved if bias is None else bias + moved
        return weight.to(outer.dtype), None if bias is None else bias.to(outer.dtype)


def folded(value: nn.Linear, output: nn.Linear) -> FoldedAttention:
    """A module of the folded map, with parameters of its own; on meta when the two are."""
    weight, bias = fold(value, output)
    with torch.device("meta"):
        made = FoldedAttention(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=output.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=output.weight.requires_grad)
    return made.train(output.training)


def _state(tensor: Tensor | None) -> tuple[Any, ...]:
    """Changes whenever a tensor is moved, replaced or written to."""
    if tensor is None:
        return ()
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version, tensor.device, tensor.dtype


class _ValueOnly(nn.Module):
    """While its gate is active, the folded map of its first input; never saved.

    The map is kept while forwards of one step range follow one another and no weight is seen to change. It is made
    anew with each entry into a range, because writes through ``.data``, as fusing a LoRA does, leave no trace.
    """

    f3_gate: Gate
    f3_value: str
    f3_output: str
    f3_known: tuple[Any, ...] | None
    f3_weight: Tensor | None
    f3_bias: Tensor | None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.f3_gate.active():
            self._forget()
            return super().forward(hidden_states, *args, **kwargs)
        value, output = self.get_submodule(self.f3_value), self.get_submodule(self.f3_output)
        if torch.compiler.is_compiling() or not _foldable(value, output, hidden_states):
            self._forget()
            return output(value(hidden_states))
        assert isinstance(value, nn.Linear)
        assert isinstance(output, nn.Linear)
        tensors = (t for linear in (value, output) for t in (linear.weight, linear.bias))
        state = (self.f3_gate.clock.step_range, *map(_state, tensors))
        if state != self.f3_known:
            weight, bias = fold(value, output)
            vars(self).update(f3_weight=weight, f3_bias=bias, f3_known=state)
        assert self.f3_weight is not None
        return nn.functional.linear(hidden_states, self.f3_weight, self.f3_bias)

    def _forget(self) -> None:
        if not torch.compiler.is_compiling() and self.f3_known is not None:
            vars(self).update(f3_weight=None, f3_bias=None, f3_known=None)


def _foldable(value: nn.Module, output: nn.Module, hidden: Tensor) -> bool:
    """Not with a LoRA, quantised, or offloaded, and not while gradients must reach both maps."""
    if type(value) is not nn.Linear or type(output) is not nn.Linear:
        return False
    if torch.is_grad_enabled() and (value.weight.requires_grad or output.weight.requires_grad):
        return False
    return value.weight.device == output.weight.device == hidden.device


def value_only(module: nn.Module, gate: Gate, *, value: str = "to_v", output: str = "to_out.0") -> nn.Module:
    """What stays of an attention module in which every token sees itself alone; its output has its input's layout.

    ``value`` and ``output`` are the paths of W_v and W_o in the module. Where the gate is always on a module with the
    folded map alone is returned. Raises `PlanError` when that cannot be made because a map is no plain ``nn.Linear``.
    """
    maps = module.get_submodule(value), module.get_submodule(output)
    if not gate.always:
        return become_(module, _ValueOnly, f3_gate=gate, f3_value=value, f3_output=output, f3_known=None)
    for path, linear in zip((value, output), maps, strict=True):
        if type(linear) is not nn.Linear:
            raise PlanError(
                f"{path} is a {type(linear).__name__}, which cannot be folded; prune first, then quantise or add a LoRA"
            )
    return folded(*maps)  # type: ignore[arg-type]
