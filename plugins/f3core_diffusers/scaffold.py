"""Drafts a `BlocksAdapter` for a model of diffusers that no adapter knows, from what was seen in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from f3core.block_stacks import InBlock, Stack, interleaved, seen, stacks
from f3core.draft_text import (
    EXAMPLE_INPUTS,
    called,
    indented,
    input_lines,
    mark,
    packed_sizes,
    sizes_of,
    text_of,
    video_of,
)
from f3core.input_code import Dialect, ForwardArgument
from f3core.inspect_model import Group
from f3core.shrinking import patch_frames
from f3core.sites import AttentionKind
from f3core.token_roles import Tokens, tokens

if TYPE_CHECKING:
    from f3core.scaffold import Subject

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
DIALECT = Dialect(
    like="**like(denoiser)",
    device="denoiser.device",
    timestep="timestep(denoiser, batch)",
    mask="padding_mask(denoiser, batch, text)",
)
OUTPUT = "to_out.0"
"""what patterns take a module's linear map to be called"""
TEXT_LENGTHS = ("max_text_seq_length", "text_len", "text_seq_len")
"""names in a config of the usual number of text tokens"""


def draft(subject: Subject) -> str:
    """Text of ``adapter.py``."""
    body = [*_facts(subject), "", *_layout(subject), *_example_inputs(subject)]
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


def _imports(body: str) -> list[str]:
    blocks = [name for name in ("like", "padding_mask", "timestep") if f"{name}(denoiser" in body]
    patterns = [name for name in ("Cross", "Full3D", "Joint", "Rows", "Spatial", "Temporal") if _used(name, body)]
    lines = ["from __future__ import annotations", ""]
    lines += [f"from collections.abc import {'Mapping, Sequence' if 'Sequence[Any]' in body else 'Mapping'}"] * (
        "Mapping[" in body
    )
    lines += ["from typing import Any", ""]
    lines += ["import torch"] * ("torch." in body)
    lines += ["from f3core.errors import ModelError"] * ("ModelError(" in body)
    lines += ["from f3core.segments import argument"] * ("argument(" in body)
    lines += ["from f3core.sites import Layout"] * ("Layout" in body)
    lines += [f"from f3core_diffusers.blocks import BlocksAdapter{''.join(f', {name}' for name in blocks)}"]
    lines += [f"from f3core_diffusers.patterns import {', '.join(patterns)}"] * bool(patterns)
    return [*lines, "from torch import nn"]


def _used(pattern: str, body: str) -> bool:
    return f"{pattern}(" in body or f"{pattern}." in body


def _facts(subject: Subject) -> list[str]:
    """Class attributes: name, arguments, and the patterns of all stacks."""
    lines = [f'name = "{subject.name}"']
    named = next((each for each in subject.inputs if each.is_timestep), None)
    if named is not None and named.name == "timestep":
        lines.append(f"timestep_at = {named.position}")
    text = text_of(subject.inputs)
    if text is not None:
        others = [each.name for each in subject.inputs if each.is_text and each is not text]
        if others:
            lines += mark(f"text is {text.name}; no frame attends to {', '.join(others)}")
        lines.append(f'text = ("{text.name}", {text.position})')
    lines += mark("the branch of guidance that its pipeline runs first, or stacks first; see `branches` in base.py")
    lines.append("conditional_first = False")
    found, apart = stacks(subject.inspection.groups)
    return lines + _stacks(found, apart)


def _stacks(found: list[Stack], apart: list[tuple[Group, str]]) -> list[str]:
    lines: list[str] = []
    if interleaved(found):
        words = "blocks of these stacks take turns: override layers(), which yields one stack after the other"
        lines += mark(words, decide=True)
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
    if len(group.calls) != 1 or group.calls[0].rows is None or group.calls[0].queries is None:
        return "", []
    (call,), (role,) = group.calls, group.roles
    assert call.rows is not None
    assert call.queries is not None
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
    head = ["def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:"]
    name = subject.model_class.__name__
    if video is None:
        words = "rows, latent frames, latent rows and columns of a forward: no argument of it is plainly the video"
        return [*head, *indented([*mark(words, decide=True), *_open(name, "latents")]), "", *_patch(subject, None)]
    packed = packed_sizes(video, subject.positions)
    lines = packed or sizes_of(video)
    if lines is None:
        words = f"rows, latent frames, latent rows and columns of {video.name}, which is {video.value}"
        body = [*mark(words, decide=True), *_open(name, "latents")]
    elif video.name == "hidden_states" and video.position == 0 and _is_usual(video):
        return [*_patch(subject, None), *_noise_level(subject), *_no_text(subject)]
    else:
        body = [*lines, "return batch, frames, height, width"]
    rest = [*_patch(subject, packed), *_noise_level(subject), *_no_text(subject)]
    return [*head, *indented(body), "", *rest]


def _is_usual(video: ForwardArgument) -> bool:
    parts = [part.strip() for part in video.value.split(",")]
    return parts[0] == "B" and parts[2:] == ["F", "H", "W"]


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


def _example_inputs(subject: Subject) -> list[str]:
    items = input_lines(subject.inputs, subject.config, DIALECT)
    before = ["config = denoiser.config"] * any("config." in item for item in items)
    if any("text" in item.partition(": ")[2] for item in items):
        usual = next((f"config.{name}" for name in TEXT_LENGTHS if subject.config.get(name)), None)
        if usual is None:
            before += [*mark("how many text tokens its pipelines give"), "text = text or 512"]
        else:
            before.append(f"text = text or {usual}")
    if patch_frames(subject.config) > 1:
        before += ["by_frame = self.patch(denoiser)[0]", "frames = -(-frames // by_frame) * by_frame"]
    if subject.left_out:
        before += mark(f"left out: {', '.join(subject.left_out)}; give those that every generation gives")
    return [
        *EXAMPLE_INPUTS,
        *indented([*before, "return {", *indented(items), "}"]),
    ]
