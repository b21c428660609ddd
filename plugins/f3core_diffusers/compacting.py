"""Smaller instances of diffusers' own classes: what is left of a denoiser whose blocks went, as its config says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from f3core.skipping import Skip
from f3core.sites import Block


def shorten_(denoiser: nn.Module, stack: str) -> int:
    """Take what is skipped out of a list of blocks; returns how many are left."""
    blocks: Any = denoiser.get_submodule(stack)
    left = [block for block in blocks if not isinstance(block, Skip)]
    denoiser.set_submodule(stack, nn.ModuleList(left))
    return len(left)


def reconfigured(denoiser: nn.Module, config: Mapping[str, Any]) -> bool:
    """Whether a denoiser's own class makes of its config, with these entries changed, a model of the same modules and
    the same parameters, by names, classes and shapes; nothing the size of the model is made for that."""
    wanted = {**denoiser.config, **config}
    plain = type(denoiser).__mro__[0]
    try:
        with torch.device("meta"):
            made = plain.from_config({key: value for key, value in wanted.items() if not key.startswith("_")})
    except (TypeError, ValueError, IndexError):
        return False
    return _form(made) == _form(denoiser)


def _form(model: nn.Module) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    modules = {path: type(module).__name__ for path, module in model.named_modules() if path}
    return modules, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def compact_stacks_(denoiser: nn.Module, gone: Sequence[Block], depths: Mapping[str, str]) -> bool:
    """Shorten the lists of blocks in which some are skipped, and the config's entries that count them.

    ``depths``: by path of a list, the config's entry for its length. False, and nothing is altered, where a list has no
    such entry, or the class would make something else of it.
    """
    stacks = dict.fromkeys(block.path.rpartition(".")[0] for block in gone)
    if not stacks.keys() <= depths.keys():
        return False
    before = {stack: denoiser.get_submodule(stack) for stack in stacks}
    config = {depths[stack]: shorten_(denoiser, stack) for stack in stacks}
    if reconfigured(denoiser, config):
        denoiser.register_to_config(**config)  # type: ignore[operator]
        return True
    for stack, whole in before.items():
        denoiser.set_submodule(stack, whole)
    return False
