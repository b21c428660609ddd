"""Drafts a `BlocksAdapter` for a model of diffusers that no adapter knows, from what was seen in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import diffusers

from f3core.inspection.inspect_model import Group
from f3core.inspection.token_roles import Tokens, tokens
from f3core.scaffolding.block_stacks import InBlock, Stack, interleaved, seen, stacks
from f3core.scaffolding.draft_text import (
    called,
    indented,
    input_lines,
    mark,
    packed_sizes,
    text_of,
    video_of,
)
from f3core.scaffolding.input_code import ForwardArgument
from f3core.scaffolding.shrinking import patch_frames
from f3core.sites import AttentionKind

if TYPE_CHECKING:
    from f3core.scaffolding.scaffold import Subject

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
OUTPUT = "to_out.0"
"""what patterns take a module's linear map to be called"""
SIZES = {"B": "batch", "F": "frames", "H": "height", "W": "width", "T": "text"}
"""attributes of an `Example` by the letters of ``--input``"""
TEXT_LENGTHS = ("max_text_seq_length", "text_len", "text_seq_len")
"""names in a config of the usual number of text tokens"""


def draft(subject: Subject) -> str:
    """Text of ``adapter.py``."""
    body = [*_facts(subject), "", *_layout(subject), *_pruned_class(subject), *_example_inputs(subject)]
    while not body[-1]:
        body.pop()
    lines = [
        f'"""{subject.model_class.__name__} for f3core, drafted by ``f3core new-adapter``.',
        "",
        "CHECK marks what was taken for granted, DECIDE what is open: remove a mark once what it says is settled.",
        '"""',
        "",
        *_imports("\n".join(body)),
        "",
        "",
        f"class {subject.adapter}(BlocksAdapter):",
        *indented(body),
    ]
    return "\n".join(lines) + "\n"


class _FromExample:
    """Sizes and tensors of an `Example`."""

    sizes: Mapping[str, str] = MappingProxyType({letter: f"example.{name}" for letter, name in SIZES.items()})

    def noise(self, shape: Sequence[str]) -> str:
        return self._rows("noise({})", shape)

    def full(self, value: int, shape: Sequence[str], dtype: str | None) -> str:
        return self._rows(f"full({value}, {{}})", shape) + (f".{dtype}()" if dtype else "")

    def timestep(self, shape: Sequence[str]) -> str:
        return self._rows("timestep({})", shape)

    def mask(self) -> str:
        return "example.padding_mask()"

    def places(self, number: str) -> str:
        return f"example.places({number})"

    def _rows(self, made: str, shape: Sequence[str]) -> str:
        """Of a row a clip, or of other rows."""
        first, *rest = shape
        if first == self.sizes["B"]:
            return f"example.{made.format(', '.join(rest))}".replace(", )", ")")
        if first.startswith(f"{self.sizes['B']} * "):
            each = first.removeprefix(f"{self.sizes['B']} * ")
            return f"example.{made.format(', '.join([each, *rest]))}.flatten(0, 1)"
        return f"example.{made.format(', '.join(shape))}[0]"


def _imports(body: str) -> list[str]:
    patterns = [name for name in ("Cross", "Full3D", "Joint", "Rows", "Spatial", "Temporal") if _used(name, body)]
    lines = ["from __future__ import annotations", ""]
    lines += ["from collections.abc import Mapping, Sequence"] * ("Sequence[Any]" in body)
    lines += ["from dataclasses import replace"] * ("replace(" in body)
    lines += ["from typing import Any", ""]
    lines += ["from f3core.errors import ModelError"] * ("ModelError(" in body)
    lines += ["from f3core.segments import argument"] * ("argument(" in body)
    lines += ["from f3core.sites import Layout"] * ("Layout" in body)
    lines += ["from f3core_diffusers.blocks import BlocksAdapter", "from f3core_diffusers.examples import Example"]
    lines += [f"from f3core_diffusers.patterns import {', '.join(patterns)}"] * bool(patterns)
    lines += ["from f3core_diffusers.pruned import pruned_model_class"] * ("pruned_model_class(" in body)
    return [*lines, *["from torch import nn"] * ("nn.Module" in body)]


def _used(pattern: str, body: str) -> bool:
    return f"{pattern}(" in body or f"{pattern}." in body


def _facts(subject: Subject) -> list[str]:
    """Class attributes: name, arguments, and the patterns of all stacks."""
    lines = [f'name = "{subject.name}"']
    named = next((each for each in subject.inputs if each.is_timestep), None)
    if named is not None and named.name == "timestep":
        lines.append(f"timestep_at = {named.position}")
    video, text = video_of(subject.inputs), text_of(subject.inputs)
    axes = _axes(video)
    if video is not None and axes and video.name != "hidden_states":
        lines.append(f'video = "{video.name}"')
    if axes and axes != "CFHW":
        lines.append(f'axes = "{axes}"')
    if text is not None:
        others = [each.name for each in subject.inputs if each.is_text and each is not text]
        if others:
            lines += mark(f"text is {text.name}; no frame attends to {', '.join(others)}")
        lines.append(f'text = ("{text.name}", {text.position})')
        usual = next((name for name in TEXT_LENGTHS if subject.config.get(name)), None)
        lines += (
            [f'usual_text = "{usual}"'] if usual else [*mark("text tokens that its pipelines give"), "usual_text = 512"]
        )
    lines += mark("the branch of guidance that its pipeline runs first, or stacks first; see `branches` in base.py")
    lines.append("conditional_first = False")
    found, apart = stacks(subject.inspection.groups)
    return lines + _stacks(found, apart)


def _stacks(found: list[Stack], apart: list[tuple[Group, str]]) -> list[str]:
    lines: list[str] = []
    if interleaved(found):
        words = "blocks of these stacks take turns: override layers(), which yields one stack after the other"
        lines += mark(words, decide=True)
    elif len(found) > 1 and all(len(module.group.modules) == 1 for stack in found for module in stack.modules):
        lines += mark("stacks run one after the other; of one block each, it was not seen (more by --config)")
    for group, why in apart:
        lines += mark(f"{seen(group)}; {why}: override layers() so that its blocks come as they run", decide=True)
    lines.append("stacks = {")
    for stack in found:
        rows = [row for module in stack.modules for row in _module(module)]
        lines += indented([f'"{stack.path}": {{', *indented(rows), "},"])
    return [*lines, "}"]


def _module(module: InBlock) -> list[str]:
    """The pattern of a module of a block; a mark alone where none fits what was seen."""
    group = module.group
    name, options = _pattern(group)
    if not name:
        words = f"{seen(group)}; none of the patterns in f3core_diffusers.patterns says this: which is it, or write one"
        return mark(words, decide=True)
    lines = []
    if name not in ("Joint", "Spatial") and module.norm:
        options.append(f'companions=("{module.norm}",)')
        lines += mark(f"{module.norm} is read by {module.name} alone, so that it goes where that is dropped")
    if group.output != OUTPUT:
        options.append(f'output="{group.output}"' if group.output else "output=None")
    if any(role.remark for role in group.roles):
        lines += mark("; ".join(role.remark for role in group.roles if role.remark), decide=True)
    return [*lines, *called(f'"{module.name}": {name}', options, by=3)]


def _pattern(group: Group) -> tuple[str, list[str]]:
    """Name and options of the pattern that a group's calls follow; no name where none does."""
    if len(group.calls) != 1:
        return "", []
    (call,), (role,) = group.calls, group.roles
    if call.rows is None or call.queries is None:
        return "", []
    rows = tokens(call.queries, call.rows)
    if group.kinds == (CA,) and not call.queries.has("T"):
        where = {Tokens.CLIP: [], Tokens.FRAME: ["rows=Rows.FRAME"], Tokens.PIXEL: ["rows=Rows.POSITION"]}
        return ("Cross", where[rows]) if rows in where else ("", [])
    if group.kinds == (CA, SA, TA) and rows is Tokens.CLIP and call.queries == call.keys:
        if role.queries.startswith("text;"):
            return "Joint", ["text_first=True"]
        return ("Joint", []) if role.queries.startswith(Tokens.CLIP.value) else ("", [])
    if call.queries == call.keys and not role.remark:
        alone = {Tokens.CLIP: "Full3D", Tokens.FRAME: "Spatial", Tokens.PIXEL: "Temporal"}
        if group.kinds in ((SA, TA), (SA,)):
            return alone.get(rows, ""), []
    return "", []


def _layout(subject: Subject) -> list[str]:
    """Methods that read sizes from the arguments, where those of `BlocksAdapter` do not."""
    video = video_of(subject.inputs)
    packed = packed_sizes(video, subject.positions) if video else None
    rest = [*_patch(subject, packed), *_noise_level(subject), *_no_text(subject)]
    if _axes(video):
        return rest
    body = [*packed, "return batch, frames, height, width"] if packed else _open(subject.name, "latents")
    if packed is None:
        what = f"{video.name}, which is {video.value}" if video else "its arguments, none of which is plainly a video"
        body = [*mark(f"rows, latent frames, latent rows and columns of a forward, from {what}", decide=True), *body]
    head = "def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:"
    return [head, *indented(body), "", *rest]


def _axes(video: ForwardArgument | None) -> str | None:
    """The axes behind the rows of a video that is the first argument; None where it is laid out in another way."""
    first, *rest = [part.strip() for part in video.value.split(",")] if video else [""]
    axes = "".join(part if part in SIZES else "C" for part in rest)
    usual = video is not None and video.position == 0 and first == "B" and sorted(axes) == sorted("CFHW")
    return axes if usual else None


def _open(name: str, method: str) -> list[str]:
    return [f'raise ModelError("{method}() of the adapter of {name} is open: see DECIDE in its source")']


def _patch(subject: Subject, packed: list[str] | None) -> list[str]:
    head = "def patch(self, denoiser: nn.Module) -> tuple[int, int, int]:"
    if packed is not None:
        words = "latents are packed before the forward, which is told numbers of tokens"
        return [head, f"    return 1, 1, 1  # {words}", ""]
    if subject.config.get("patch_size") is not None:
        return []
    words = "latent frames, rows and columns of a token; its config has no patch_size"
    return [head, *indented([*mark(words), "return 1, 1, 1"]), ""]


def _noise_level(subject: Subject) -> list[str]:
    named = next((each for each in subject.inputs if each.is_timestep), None)
    head = "def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:"
    if named is None:
        words = "the timestep of a forward, high where it is noisy: no argument has such a name"
        return [head, *indented([*mark(words, decide=True), *_open(subject.name, "noise_level")]), ""]
    if named.name == "timestep":
        return []
    words = f"{named.name} is high where the clip is noisy"
    value = f'float(argument(args, kwargs, "{named.name}", {named.position}).max())'
    return [head, *indented([*mark(words), f"return {value}"]), ""]


def _no_text(subject: Subject) -> list[str]:
    """A layout without text, for a model that has none."""
    if text_of(subject.inputs) is not None:
        return []
    return [
        "def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:",
        *indented(
            [
                *mark("no argument is plainly text"),
                "batch, frames, height, width = self.latents(args, kwargs)",
                "by_frame, by_row, by_column = self.patch(denoiser)",
                "return Layout(batch, frames // by_frame, (height // by_row) * (width // by_column))",
            ]
        ),
        "",
    ]


def _pruned_class(subject: Subject) -> list[str]:
    """Where a pruned model is loaded from, for a model in a library of its own."""
    if getattr(diffusers, subject.model_class.__name__, None) is subject.model_class:
        return []
    words = (
        f"saved pipelines look in {subject.package} for Pruned{subject.model_class.__name__} and ModelMixin: let its "
        "__init__ offer both by __getattr__, as that of f3core_diffusers does"
    )
    return [
        "def pruned_class(self, denoiser_class: type[nn.Module]) -> type[nn.Module]:",
        *indented([*mark(words, decide=True), f'return pruned_model_class(denoiser_class, "{subject.package}")']),
        "",
    ]


def _example_inputs(subject: Subject) -> list[str]:
    items = input_lines(subject.inputs, subject.config, _FromExample())
    before = ["config = example.config"] * any("config." in item for item in items)
    if patch_frames(subject.config) > 1:
        before += [
            "by_frame = self.patch(example.denoiser)[0]",
            "example = replace(example, frames=-(-example.frames // by_frame) * by_frame)",
        ]
    if subject.left_out:
        before += mark(f"left out: {', '.join(subject.left_out)}; give those that every generation gives")
    head = "def inputs(self, example: Example) -> dict[str, Any]:"
    return [head, *indented([*before, "return {", *indented(items), "}"])]
