"""What one operator costs in MACs (one fused multiply-add is one), by fvcore's op handles.

Counted are matrix products, convolutions and attention. Everything else is 0: fvcore has estimates for norms and
resampling too, but they are no multiply-adds and would part the totals from those of ``torch.utils.flop_counter``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from fvcore.nn import jit_handles

from f3core.errors import CountingError

Handle = Callable[[Sequence[Any], Sequence[Any]], Any]
MATMUL, CONV, ATTENTION = "matmul", "conv", "attention"


class Value:
    """What fvcore's handles ask of a jit value, answered from a tensor (a meta one will do), a shape, a list or a
    constant. The names are fvcore's."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def isCompleteTensor(self) -> bool:
        return isinstance(self._value, torch.Tensor | torch.Size)

    def type(self) -> Value:
        return self

    def sizes(self) -> list[int]:
        return list(self._value.shape if isinstance(self._value, torch.Tensor) else self._value)

    def toIValue(self) -> Any:
        return self._value

    def node(self) -> Value:
        return self

    def inputs(self) -> list[Value]:
        return [Value(item) for item in self._value]


def _shape(value: Any) -> list[int]:
    shape = jit_handles.get_shape(value)
    if shape is None:
        raise CountingError("an operand has no known shape")
    return list(shape)


def _broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def attention_shape(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> tuple[int, int, int, int, int]:
    """(B, H, Lq, Lk, Dqk + Dv) of an attention of shapes [..., H, L, D]; [B, L, D] has one head.

    Leading dimensions broadcast; with fewer key or value heads than query heads, groups of queries share them.
    """
    leading = [list(s[:-2]) for s in (query, key, value)]
    heads = max(lead.pop() if len(lead) > 1 else 1 for lead in leading)
    batch = prod(_broadcast(*leading))
    return batch, heads, query[-2], key[-2], query[-1] + value[-1]


def attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Lq * Lk * (Dqk + Dv) * B * H. Neither a mask nor ``is_causal`` lowers it: kernels are free to do all the work."""
    return prod(attention_shape(*(_shape(v) for v in inputs[:3])))


def _matmul(inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    # fvcore's handle takes neither vectors nor a second operand with more batch dimensions than the first.
    left, right = (_shape(v) for v in inputs[:2])
    left = [1, *left] if len(left) == 1 else left
    right = [*right, 1] if len(right) == 1 else right
    batch = _broadcast(left[:-2], right[:-2])
    operands = torch.Size([*batch, *left[-2:]]), torch.Size(right[-2:])
    return jit_handles.matmul_flop_jit([Value(shape) for shape in operands], outputs)


def _bmm(inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return jit_handles.bmm_flop_jit(inputs[:2], outputs)  # an overload has an output dtype after the operands


def _skip_first(handle: Handle) -> Handle:
    """For ops that add their first operand to the product of the next two."""
    return lambda inputs, outputs: handle(inputs[1:3], outputs)


def _einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    # fvcore's handle reads numpy's report, which rounds to four digits. Two operands are simple enough to be exact.
    shapes = [_shape(v) for v in inputs[1].node().inputs()]
    if len(shapes) > 2:
        raise CountingError(f"einsum of {len(shapes)} operands: the order of contraction is unknown")
    if len(shapes) == 1:
        return 0
    terms, _, result = inputs[0].toIValue().replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    labels = []
    for term, shape in zip(terms.split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        # the dimensions behind "..." line up from the right; no digit can be a label
        names = [*before, *(str(i) for i in range(hidden, 0, -1)), *after] if dots else [*term]
        labels.append(set(names))
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    both = labels[0] & labels[1]
    kept = set(result) | {name for name in sizes if name.isdigit()}
    if "->" not in inputs[0].toIValue():
        kept |= labels[0] ^ labels[1]
    if not both - kept:
        return 0  # nothing is summed over: an elementwise or outer product
    return prod(size for name, size in sizes.items() if name in kept | both)


def _conv(inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    # fvcore's handle wants the arguments of aten::_convolution, which end in backend flags.
    padded = [*inputs, *[Value(None)] * (12 - len(inputs))] if len(inputs) < 12 else inputs
    return jit_handles.conv_flop_jit(padded, outputs)


def _conv_by_padding_name(inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return _conv([*inputs[:6], Value(False)], outputs)  # aten::_convolution_mode knows no transposed convolution


def _counted(kind: str, handle: Handle) -> Handle:
    """Names the count by kind of operator and turns a handle's failed assertions into `CountingError`."""

    def run(inputs: Sequence[Any], outputs: Sequence[Any]) -> Counter[str]:
        try:
            found = handle(inputs, outputs)
        except (AssertionError, TypeError, IndexError) as error:
            raise CountingError(f"fvcore's handle refused its operands: {error or 'unexpected shapes'}") from error
        return Counter({kind: int(sum(found.values()) if isinstance(found, Counter) else found)})

    return run


HANDLES: dict[str, Handle] = {
    name: _counted(kind, handle)
    for kind, table in {
        MATMUL: {
            "aten::linear": jit_handles.linear_flop_jit,
            "aten::matmul": _matmul,
            "aten::mm": _matmul,
            "aten::mv": _matmul,
            "aten::dot": _matmul,
            "aten::vdot": _matmul,
            "aten::bmm": _bmm,
            "aten::addmm": jit_handles.addmm_flop_jit,
            "aten::_addmm_activation": jit_handles.addmm_flop_jit,
            "aten::addmv": _skip_first(_matmul),
            "aten::baddbmm": _skip_first(_bmm),
            "aten::addbmm": _skip_first(_bmm),
            "aten::einsum": _einsum,
        },
        CONV: {
            "aten::_convolution": _conv,
            "aten::convolution": _conv,
            "aten::_convolution_mode": _conv_by_padding_name,
        },
        ATTENTION: {
            "aten::scaled_dot_product_attention": attention,
            "aten::_scaled_dot_product_attention_math": attention,
            "aten::_scaled_dot_product_cudnn_attention": attention,
            "aten::_scaled_dot_product_efficient_attention": attention,
            "aten::_scaled_dot_product_flash_attention": attention,
            "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
            "aten::_scaled_dot_product_fused_attention_overrideable": attention,
        },
    }.items()
    for name, handle in table.items()
}
"""Handle of every operator that costs something; each returns a Counter with one entry, MACs by kind of operator."""

_COSTLY = re.compile(r"attention|attn|linear|(?<![a-z])conv(?!ert)|mm(?![a-z])|matmul|einsum|lstm|gru|rnn")


def handle_of(name: str) -> Handle | None:
    """The handle of an operator such as ``aten::addmm``, in-place variants included."""
    return HANDLES.get(name) or HANDLES.get(name.rstrip("_"))


def refuse_costly(name: str, module: str) -> None:
    """Raise `CountingError` for an operator without a handle whose name says that it is not free."""
    operator = name.rpartition("::")[2]
    # scripted functions, custom autograd functions and higher-order operators hide what they do
    if (
        operator.startswith(("PythonOp", "CallFunction"))
        or "::" not in name
        or (_COSTLY.search(operator) and not operator.startswith("upsample_"))
    ):
        raise CountingError(
            f"operator {name!r} in module {module or '(root)'!r} has no MAC formula, so the total would be too low; "
            "run the model with its native attention backend, or add a handle in f3core.handles"
        )
