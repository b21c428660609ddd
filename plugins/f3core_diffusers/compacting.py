"""Smaller instances of diffusers' own classes: what is left of a denoiser whose blocks went, as its config says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from f3core.block import Block
from f3core.skipping import Skip

Left = Mapping[str, Sequence[int]]
"""By path of a list of blocks, the numbers of those that stay."""
_PLAIN = (bool, int, float, str, tuple, list, type(None))


def standing(denoiser: nn.Module, stack: str) -> list[int]:
    """Numbers of the blocks in a list that are not skipped for good."""
    blocks: Any = denoiser.get_submodule(stack)
    return [number for number, block in enumerate(blocks) if not isinstance(block, Skip)]


def shorten_(denoiser: nn.Module, stack: str) -> int:
    """Take what is skipped out of a list of blocks; returns how many are left."""
    blocks: Any = denoiser.get_submodule(stack)
    left = [blocks[number] for number in standing(denoiser, stack)]
    denoiser.set_submodule(stack, nn.ModuleList(left))
    return len(left)


def spaced(left: Sequence[int], every: int, length: int) -> int | None:
    """Of a list of ``length`` blocks, behind every ``every``-th of which (from the first on) something comes: every
    how many of those ``left`` it must come behind, to come where it did. None where no number does that."""
    behind = [sum(number <= at for number in left) - 1 for at in range(0, length, every)]
    between = {later - sooner for sooner, later in pairwise(behind)} or {every}
    step = between.pop()
    return step if not between and step > 0 and behind == list(range(0, len(left), step)) else None


def plain_class(denoiser: nn.Module) -> type:
    """The class that diffusers, or whoever wrote it, gave a denoiser, without what was put in front of it."""
    return next(base for base in type(denoiser).__mro__ if "__init__" in vars(base))


def reconfigured(denoiser: nn.Module, config: Mapping[str, Any], like: nn.Module | None = None) -> nn.Module | None:
    """What a denoiser's own class makes of its config with these entries changed, on meta; None unless that is a model
    of the same modules and the same parameters as ``like`` (the denoiser itself when None), by names, classes and
    shapes."""
    try:
        made = _made(denoiser, config)
    except (TypeError, ValueError, IndexError):
        return None
    return made if _form(made) == _form(denoiser if like is None else like) else None


def become_smaller_(denoiser: nn.Module, config: Mapping[str, Any], like: nn.Module | None = None) -> bool:
    """Change these entries of a denoiser's config, and what its class keeps of them in plain attributes. False, and
    nothing is altered, where its class makes something else of that config; see `reconfigured`."""
    made = reconfigured(denoiser, config, like)
    if made is None:
        return False
    before = vars(_made(denoiser, {}))
    for name, value in vars(made).items():
        if isinstance(value, _PLAIN) and not name.startswith("_") and before.get(name) != value:
            vars(denoiser)[name] = value
    usual = [name for name in denoiser.config.get("_use_default_values", ()) if name not in config]  # type: ignore[operator]
    denoiser.register_to_config(**config, _use_default_values=usual)  # type: ignore[operator]
    return True


def _made(denoiser: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    wanted = {key: value for key, value in {**denoiser.config, **config}.items() if not key.startswith("_")}
    with torch.device("meta"):
        made: nn.Module = plain_class(denoiser).from_config(wanted)  # type: ignore[attr-defined]
    return made


def _form(model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    modules = {path: type(module).__name__ for path, module in model.named_modules() if path}
    return modules, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def compact_stacks_(
    denoiser: nn.Module, gone: Sequence[Block], stacks: Sequence[str], told: Callable[[Left], Mapping[str, Any] | None]
) -> bool:
    """Shorten the lists of blocks in which some are skipped, and tell the config.

    ``stacks``: paths of the lists; ``told``: what the config then says, None where it cannot. False, and nothing is
    altered, where it cannot, where other modules are skipped too, or the class would make something else of it.
    """
    left = {stack: standing(denoiser, stack) for stack in stacks}
    outside = {part.path.rpartition(".")[0] for block in gone for part in block.parts} - left.keys()
    config = None if outside else told(left)
    if config is None:
        return False
    # What its class makes is asked, and not the denoiser: what it has become since, such as quantised, is no matter.
    whole = _made(denoiser, {})
    for stack, numbers in left.items():
        blocks: Any = whole.get_submodule(stack)
        whole.set_submodule(stack, nn.ModuleList(blocks[number] for number in numbers))
    if not become_smaller_(denoiser, config, whole):
        return False
    for stack in stacks:
        shorten_(denoiser, stack)
    return True
