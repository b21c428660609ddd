"""YAML text to plain values that remember where each stood. No tag ever constructs an object."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A position in a file, counted from 1."""

    line: int
    column: int


class YamlProblem(Exception):
    """Text that is not plain YAML."""

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.message = message
        self.place = place


@dataclass
class Located:
    """A document's value, and the place of every key's value (and of the key itself, under ``keys``)."""

    value: Any
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-3 as a number, as YAML 1.2 does."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str")}
_PLAIN: dict[type[yaml.Node], set[str]] = {
    yaml.ScalarNode: _SCALARS,
    yaml.MappingNode: {"tag:yaml.org,2002:map"},
    yaml.SequenceNode: {"tag:yaml.org,2002:seq"},
}
_MOST_VALUES = 10_000
"""so that aliases of aliases cannot blow up"""


def read(text: str) -> Located:
    """Parse one YAML document. Raises `YamlProblem` for a syntax error, a duplicate key, a tag or an alias loop."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(before.count("\n") + 1, error.position - before.rfind("\n"))
        raise YamlProblem(f"not valid YAML: {error.reason} (#x{ord(text[error.position]):04x})", place) from error
    try:
        node = loader.get_single_node()
        found = Located(None)
        found.value = _plain(loader, node, (), found) if node is not None else None
        return found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        raise YamlProblem(f"not valid YAML: {error.problem or error.context}", place) from error
    except RecursionError as error:
        raise YamlProblem("nested too deeply", Place(loader.line + 1, loader.column + 1)) from error
    finally:
        loader.dispose()


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _plain(loader: _Loader, node: yaml.Node, path: Path, found: Located) -> Any:
    found.places[path] = _place(node)
    if len(path) > 50:
        raise YamlProblem("nested too deeply", _place(node))
    if len(found.places) > _MOST_VALUES:
        raise YamlProblem(f"more than {_MOST_VALUES} values", _place(node))
    _refuse_tag(node)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem("a key must be plain text", _place(key_node))
            _refuse_tag(key_node)
            key = str(key_node.value)
            if key in mapping:
                first = found.keys[(*path, key)]
                raise YamlProblem(f"duplicate key {key!r}; first given on line {first.line}", _place(key_node))
            found.keys[(*path, key)] = _place(key_node)
            mapping[key] = _plain(loader, value_node, (*path, key), found)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(loader, item, (*path, i), found) for i, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError) as error:  # an explicit tag, or digits without a number
        kind = node.tag.rpartition(":")[2]
        raise YamlProblem(f"{_short(node.value)!r} cannot be read as {kind}", _place(node)) from error


def _refuse_tag(node: yaml.Node) -> None:
    if node.tag not in _PLAIN[type(node)]:
        raise YamlProblem(f"{node.tag.rpartition(':')[2] or node.tag}: tags and dates are not used here", _place(node))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
