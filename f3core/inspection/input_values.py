"""The small language of ``--input NAME=VALUE``: shapes and values in which letters stand for sizes that vary."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from f3core.errors import SpecError

LETTERS = {"B": "rows", "F": "latent frames", "H": "latent rows", "W": "latent columns", "T": "text tokens"}
"""the sizes that vary"""

GRAMMAR = (
    "B,16,F,H,W is a tensor of that shape and B, one of a single dimension; F*H or 7 is a number; long(B,T) and "
    "bool(B,T) are ones of that type, arange(F) counts; [..., ...] is a list"
)

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}
_WORDS = {"true": True, "false": False, "none": None, "null": None}
_MAKERS: dict[str, Callable[..., torch.Tensor]] = {
    "long": lambda *shape: torch.ones(shape, dtype=torch.long),
    "bool": lambda *shape: torch.ones(shape, dtype=torch.bool),
    "zeros": lambda *shape: torch.zeros(shape),
    "arange": torch.arange,
}


def value_of(name: str, text: str, sizes: Mapping[str, int]) -> Any:
    """What ``text`` says an argument is, at ``sizes`` by letter. Raises `SpecError` for text that is no value."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, sizes)
    except (SyntaxError, ValueError, TypeError, KeyError, ZeroDivisionError, RuntimeError, RecursionError) as error:
        raise SpecError(f"--input {name}={text}: cannot be read; {GRAMMAR}") from error


def _value(node: ast.expr, sizes: Mapping[str, int]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return sizes[node.id] if node.id in sizes else _WORDS[node.id.lower()]
        case ast.Tuple():
            shape = [int(_value(each, sizes)) for each in node.elts]
            return torch.randn(shape, generator=torch.Generator().manual_seed(0))
        case ast.List():
            return [_value(each, sizes) for each in node.elts]
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, sizes)
        case ast.BinOp():
            return _OPERATORS[type(node.op)](_value(node.left, sizes), _value(node.right, sizes))
        case ast.Call(func=ast.Name(id=made), keywords=[]):
            return _MAKERS[made](*(_value(each, sizes) for each in node.args))
    raise ValueError(ast.dump(node))
