"""Drafts an adapter on `f3core.Adapter` for a model that no plugin knows the kind of, from what was seen in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from f3core.inspection.skeleton import Skeleton
from f3core.inspection.token_roles import Tokens, tokens
from f3core.scaffolding.block_stacks import InBlock, Stack, seen, stacks
from f3core.scaffolding.draft_text import (
    EXAMPLE_INPUTS,
    indented,
    input_lines,
    mark,
    packed_sizes,
    sizes_of,
    text_of,
    video_of,
)
from f3core.sites import AttentionKind, Removal

if TYPE_CHECKING:
    from f3core.scaffolding.scaffold import Subject

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
_GENERATE = "pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]"
_ARGUMENTS = "args: Sequence[Any], kwargs: Mapping[str, Any]"


class TorchDialect:
    """Sizes by their names, tensors on ``like``'s device."""

    sizes: Mapping[str, str] = MappingProxyType({"B": "batch", "F": "frames", "H": "height", "W": "width", "T": "text"})

    def noise(self, shape: Sequence[str]) -> str:
        return f"torch.randn({', '.join(shape)}, **like)"

    def full(self, value: int, shape: Sequence[str], dtype: str | None) -> str:
        kind = f'dtype=torch.{dtype}, device=like["device"]' if dtype else "**like"
        return f"torch.{'ones' if value else 'zeros'}({', '.join(shape)}, {kind})"

    def timestep(self, shape: Sequence[str]) -> str:
        return f'torch.full(({", ".join(shape)}{"," * (len(shape) == 1)}), 500.0, device=like["device"])'

    def mask(self) -> str:
        return self.full(1, ["batch", "text"], "long")

    def places(self, number: str) -> str:
        return f'torch.arange({number}, device=like["device"])'


def generic_adapter(subject: Subject) -> str:
    """Text of ``adapter.py``."""
    found, apart = stacks(subject.inspection.groups)
    modules = [module for stack in found for module in stack.modules]
    body = [
        f'name = "{subject.name}"',
        "",
        *_pipeline(subject),
        "def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:",
        *indented(
            [
                *(line for group, why in apart for line in mark(f"{seen(group)}; {why}: list it", decide=True)),
                "found: list[AttentionSite] = []",
                *(line for stack in found for line in _sites(stack)),
                "return found",
            ]
        ),
        "",
        *_layout(subject),
        "def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:",
        *indented([*(line for module in modules for line in _segments(module)), *_open("segments", "site.fqn")]),
        "",
        *_noise_level(subject),
        *_example_inputs(subject),
        "",
        "def restrict(",
        "    self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate",
        ") -> nn.Module:",
        *indented([*(line for module in modules for line in _restrict(module)), *_open("restrict", "site.fqn")]),
    ]
    text = "\n".join(body)
    return "\n".join([*_head(subject, text), *indented(body)]) + "\n"


def _head(subject: Subject, body: str) -> list[str]:
    segments = [name for name in ("frame_tokens", "text_tokens") if f"{name}(" in body]
    segments = ["argument"] * ("argument(" in body) + segments
    sites = ["AttentionCall", "AttentionKind", "AttentionSite", "Layout", "Removal", "Segments"]
    return [
        f'"""{subject.model_class.__name__} for f3core, drafted by ``f3core new-adapter``.',
        "",
        "CHECK marks what was taken for granted, DECIDE what is open: remove a mark once what it says is settled.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping, Sequence",
        "from pathlib import Path",
        "from typing import Any",
        "",
        "import torch",
        "from f3core import Adapter",
        *["from f3core.attention import frames_in_batch"] * ("frames_in_batch(" in body),
        "from f3core.clock import Gate",
        "from f3core.errors import ModelError",
        *[f"from f3core.segments import {', '.join(segments)}"] * bool(segments),
        f"from f3core.sites import {', '.join(sites)}",
        "from torch import nn",
        "",
        f'NAME = "{subject.model_class.__name__}"',
        "",
        "",
        f"class {subject.adapter}(Adapter):",
    ]


def _open(method: str, where: str = "NAME") -> list[str]:
    return [f'raise ModelError(f"{{{where}}}: {method}() is open; see DECIDE in the source of its adapter")']


def _pipeline(subject: Subject) -> list[str]:
    """What only a pipeline's author knows; the contract needs none of it."""
    lines: list[str] = []
    for head, words, method in (
        (
            "def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Any:",
            "return whatever makes clips, loaded from a folder or a hub id",
            "load",
        ),
        (
            "def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:",
            f"return the pipeline's {subject.model_class.__name__} by a name such as transformer",
            "denoisers",
        ),
        (
            "def with_denoisers(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> Any:",
            "return a second pipeline that shares all else with the first",
            "with_denoisers",
        ),
        (
            f"def generate(\n    self, {_GENERATE}\n) -> torch.Tensor:",
            "return clips [B, F, 3, H, W] in [0, 1] on the CPU; seeds[i] alone decides the noise of row i",
            "generate",
        ),
        (
            "def save(self, pipeline: Any, folder: Path) -> None:",
            "write the pipeline so that its own library loads it back, pruned (see `pruned_class`)",
            "save",
        ),
    ):
        lines += [*head.split("\n"), *indented([*mark(words, decide=True), *_open(method)]), ""]
    return lines


def _sites(stack: Stack) -> list[str]:
    lines = [
        "first = found[-1].index + 1 if found else 0",
        f'for number in range(len(denoiser.get_submodule("{stack.path}"))):  # type: ignore[arg-type]',
        f'    block = f"{stack.path}.{{number}}"',
    ]
    for module in stack.modules:
        group = module.group
        kinds = ", ".join(f"AttentionKind.{kind.name}" for kind in group.kinds)
        ways = {kind: [way for way in group.removals.get(kind, ()) if _done(module, kind, way)] for kind in group.kinds}
        removals = ", ".join(
            f"AttentionKind.{kind.name}: ({', '.join(f'Removal.{way.name}' for way in listed)},)"
            for kind, listed in ways.items()
            if listed
        )
        body = [
            "component,",
            f'f"{{block}}.{module.name}",',
            "index=first + number,",
            f"kinds=({kinds},)," if len(group.kinds) == 1 else f"kinds=({kinds}),",
            *mark("what can go here soundly; what restrict() does not do is not listed"),
            f"removals={{{removals}}},",
        ]
        if module.norm:
            body += mark(f"{module.norm} is read by {module.name} alone, so that it goes where that is dropped")
            body.append(f'companions=(f"{{block}}.{module.norm}",),')
        if group.output:
            body.append(f'output="{group.output}",')
        lines += indented(["found.append(", *indented(["AttentionSite(", *indented(body), ")"]), ")"])
    return lines


def _done(module: InBlock, kind: AttentionKind, way: Removal) -> bool:
    """Whether the draft can do it: drop is the engine's own, self_only where tokens are folded."""
    return way is Removal.DROP or (way is Removal.SELF_ONLY and kind is TA and _folds(module))


def _folds(module: InBlock) -> bool:
    """Whether frames of a module over whole clips can be folded into the batch around it."""
    group = module.group
    return group.kinds == (SA, TA) and _rows(module) is Tokens.CLIP and bool(group.tokens)


def _rows(module: InBlock) -> Tokens:
    call = module.group.calls[0]
    if len(module.group.calls) > 1 or call.rows is None or call.queries is None:
        return Tokens.NONE
    return tokens(call.queries, call.rows)


def _layout(subject: Subject) -> list[str]:
    video, text = video_of(subject.inputs), text_of(subject.inputs)
    packed = packed_sizes(video, subject.positions) if video else None
    sizes = packed or (sizes_of(video) if video else None)
    head = f"def layout(self, denoiser: nn.Module, {_ARGUMENTS}) -> Layout:"
    if sizes is None:
        words = "rows, latent frames, tokens of a frame and text tokens of a forward, from its arguments' shapes"
        return [head, *indented([*mark(words, decide=True), *_open("layout")]), ""]
    tokens = "height * width"
    if packed is None:
        tokens = f"{tokens} // {_patch_area(subject)}" if _patch_area(subject) > 1 else tokens
    count = "0"
    if text is not None:
        sizes = [*sizes, f'text = argument(args, kwargs, "{text.name}", {text.position})']
        count = "text.shape[-2]"
    words = f"a frame has {tokens} tokens"
    return [head, *indented([*sizes, *mark(words), f"return Layout(batch, frames, {tokens}, {count})"]), ""]


def _patch_area(subject: Subject) -> int:
    size = subject.config.get("patch_size")
    if isinstance(size, int):
        return size * size
    return int(size[-1]) * int(size[-2]) if isinstance(size, list | tuple) and len(size) > 1 else 1


def _segments(module: InBlock) -> list[str]:
    group, rows = module.group, _rows(module)
    by_frame = rows in (Tokens.CLIP, Tokens.FRAME)
    visual = ["query = frame_tokens(layout, call.queries, call.batch)"]
    if by_frame and group.kinds == (CA,):
        body = [*visual, "return Segments(query, text_tokens(call.keys))"]
    elif by_frame and CA not in group.kinds and group.calls[0].queries == group.calls[0].keys:
        body = [*visual, "return Segments(query, query)"]
    elif rows is Tokens.PIXEL and CA not in group.kinds:
        body = ["frames = torch.arange(layout.frames)[None]", "return Segments(frames, frames)"]
    else:
        body = mark(f"the segment of every query and key: {seen(group)}", decide=True) + _open("segments", "site.fqn")
    return [f'if site.path.endswith(".{module.name}"):', *indented(body)]


def _restrict(module: InBlock) -> list[str]:
    if TA not in module.group.kinds:
        return []
    if _folds(module):
        fold = ", ".join(f'"{name}"' for name in module.group.tokens)
        body = [
            *mark("every argument that holds tokens is folded; the module calls no kernel of its own"),
            f"return frames_in_batch(module, gate, fold=({fold},))",
        ]
    else:
        words = f"what stays of {module.name} without TA (see f3core.attention and f3core.folding); then list it above"
        body = mark(words, decide=True) + _open("restrict", "site.fqn")
    return [f'if site.path.endswith(".{module.name}"):', *indented(body)]


def _noise_level(subject: Subject) -> list[str]:
    named = next((each for each in subject.inputs if each.is_timestep), None)
    head = f"def noise_level(self, {_ARGUMENTS}) -> float:"
    if named is None:
        words = "the timestep of a forward, high where it is noisy: no argument has such a name"
        return [head, *indented([*mark(words, decide=True), *_open("noise_level")]), ""]
    value = f'float(torch.as_tensor(argument(args, kwargs, "{named.name}", {named.position})).max())'
    return [head, *indented([*mark(f"{named.name} is high where the clip is noisy"), f"return {value}"]), ""]


def _example_inputs(subject: Subject) -> list[str]:
    items = input_lines(subject.inputs, subject.config, TorchDialect())
    before = [
        "first = next(denoiser.parameters())",
        'like: dict[str, Any] = {"device": first.device, "dtype": first.dtype}',
    ]
    if any("config." in item for item in items):
        model = Skeleton(subject.model_class, subject.inspection.config).build(subject.inspection.sizes)
        words = "what the model keeps of its constructor arguments, or whatever tells these widths"
        before += [*mark(words, decide=not hasattr(model, "config")), "config: Any = denoiser.config"]
    if any("text" in item.partition(": ")[2] for item in items):
        before += [*mark("how many text tokens a generation gives"), "text = text or 512"]
    return [
        *EXAMPLE_INPUTS,
        *indented([*before, "return {", *indented(items), "}"]),
    ]
