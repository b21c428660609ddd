"""Arguments of a forward, in the language of ``--input``, as Python source for any config and sizes."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None"}
_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Div: "//"}
_TEXT_WORDS = frozenset({"text", "caption", "context", "cross", "joint", "encoder"})
_TIMESTEP = re.compile(r"\w*timesteps?(_r)?|sigma|t")
_LEAST = 8
"""smaller numbers are fixed, except for channels of videos"""


class Dialect(Protocol):
    """How a draft writes sizes, by the letters of ``--input``, and tensors of them. A shape has all its dimensions."""

    sizes: Mapping[str, str]

    def noise(self, shape: Sequence[str]) -> str:
        """Normal numbers."""
        ...

    def full(self, value: int, shape: Sequence[str], dtype: str | None) -> str:
        """One value; in the model's dtype where it is None."""
        ...

    def timestep(self, shape: Sequence[str]) -> str:
        """A timestep in the middle of a generation."""
        ...

    def mask(self) -> str:
        """A mask [B, T] of text tokens."""
        ...

    def places(self, number: str) -> str:
        """0, 1, ... [number]."""
        ...


@dataclass(frozen=True)
class ForwardArgument:
    """One argument: its value as ``--input`` takes it, its ``position`` among the forward's, and, by number of channels
    in the value, the name of that number in the config; those in ``unnamed`` are none of the config's."""

    name: str
    value: str
    position: int
    widths: Mapping[int, str]
    unnamed: tuple[int, ...]

    @property
    def letters(self) -> frozenset[str]:
        """The sizes in it."""
        return _letters(self.value)

    @property
    def is_video(self) -> bool:
        return _is_video(self.value)

    @property
    def is_text(self) -> bool:
        return self.letters >= {"B", "T"} and "(" not in self.value

    @property
    def is_timestep(self) -> bool:
        return bool(_TIMESTEP.fullmatch(self.name))

    def at(self, config: Mapping[str, Any]) -> str:
        """The value with the numbers of another config."""
        made = self.value
        for number, key in self.widths.items():
            made = re.sub(rf"\b{number}\b", str(_first(config[key])), made)
        return made

    def source(self, config: Mapping[str, Any], dialect: Dialect) -> str:
        """Python source of the value. ``config``: tells which numbers are the first of several."""
        if self.value == "long(B,T)":
            return dialect.mask()
        if self.value == "bool(B,T)":
            return f"{dialect.mask()}.bool()"
        tree = ast.parse(self.value.strip(), mode="eval").body
        named = {
            number: f"config.{key}" + ("[0]" if isinstance(config[key], list | tuple) else "")
            for number, key in self.widths.items()
        }
        if self.is_timestep and isinstance(tree, ast.Tuple):
            return dialect.timestep([_source(each, named, dialect) for each in tree.elts])
        return _source(tree, named, dialect)


def forward_arguments(
    inputs: Mapping[str, str], positions: Mapping[str, int], config: Mapping[str, Any]
) -> tuple[ForwardArgument, ...]:
    """The ``inputs`` that a forward ran with. ``positions``: of the forward's arguments, by name."""
    found = []
    for name, value in inputs.items():
        numbers = _channels(value)
        widths = {number: key for number in numbers if (key := _key(name, value, number, config))}
        unnamed = tuple(number for number in numbers if number not in widths)
        found.append(ForwardArgument(name, value, positions[name], widths, unnamed))
    return tuple(found)


def _channels(value: str) -> list[int]:
    """Numbers that are dimensions of a tensor of their own."""
    tree = ast.parse(value.strip(), mode="eval").body
    dimensions = tree.elts if isinstance(tree, ast.Tuple) else tree.args if isinstance(tree, ast.Call) else []
    numbers = [each.value for each in dimensions if isinstance(each, ast.Constant)]
    least = 2 if _is_video(value) else _LEAST
    return [number for number in numbers if type(number) is int and number >= least]


def _key(name: str, value: str, number: int, config: Mapping[str, Any]) -> str | None:
    """The likeliest name in the config of a number of channels of argument ``name``."""
    words = {*name.split("_")} | (_TEXT_WORDS if "T" in value else set())
    video = _is_video(value)

    def likeness(key: str) -> int:
        told = {*key.split("_")}
        return 2 * ("in" in told) - 2 * ("out" in told) if video else len(words & told)

    keys = [key for key, each in config.items() if type(_first(each)) is int and _first(each) == number]
    return max(keys, key=likeness, default=None)


def _letters(value: str) -> frozenset[str]:
    return frozenset(re.findall(r"\b[BFHWT]\b", value))


def _is_video(value: str) -> bool:
    return _letters(value) >= {"B", "F", "H", "W"} and "(" not in value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and value else value


def _source(node: ast.expr, named: Mapping[int, str], dialect: Dialect) -> str:
    def inner(each: ast.expr) -> str:
        return _source(each, named, dialect)

    match node:
        case ast.Constant(value=value):
            return named.get(value, repr(value)) if type(value) is int else repr(value)
        case ast.Name(id=word):
            return dialect.sizes.get(word) or _WORDS[word.lower()]
        case ast.Tuple(elts=[_] as shape):
            return dialect.full(1, [*map(inner, shape)], None)
        case ast.Tuple(elts=shape):
            return dialect.noise([*map(inner, shape)])
        case ast.List(elts=items):
            return f"[{', '.join(map(inner, items))}]"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"-{inner(operand)}"
        case ast.BinOp(left=left, op=sign, right=right):
            plain = isinstance(left, ast.BinOp) and type(left.op) is type(sign)  # a * b * c
            first = f"({inner(left)})" if isinstance(left, ast.BinOp) and not plain else inner(left)
            second = f"({inner(right)})" if isinstance(right, ast.BinOp) else inner(right)
            return f"{first} {_OPERATORS[type(sign)]} {second}"
        case ast.Call(func=ast.Name(id=made), args=shape):
            numbers = [*map(inner, shape)]
            if made == "arange":
                return dialect.places(*numbers)
            return dialect.full(0, numbers, None) if made == "zeros" else dialect.full(1, numbers, made)
    raise ValueError(ast.dump(node))
