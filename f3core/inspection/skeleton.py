"""A model class and its constructor arguments: instances without weights, at any sizes, or few of its layers."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from f3core.errors import ModelError, SpecError, suggest

_DEPTH = re.compile(r"(num|n)_(\w+_)?(layers|blocks)|\w+_layers|(\w+_)?depth")
_FEW = 2
_TIED = {"video_length": "F", "max_text_seq_length": "T"}
_STAND_INS: dict[str, int] = {"in_channels": 4, "out_channels": 4, "patch_size": 2, "caption_channels": 64}


@dataclass(frozen=True)
class Skeleton:
    """``model_class`` with the constructor arguments ``given``; ``assumed``: those that it cannot be built without.

    ``real``: with random weights on the CPU, instead of without weights on the meta device.
    """

    model_class: type[nn.Module]
    given: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    real: bool = False

    @property
    def name(self) -> str:
        return self.model_class.__name__

    @property
    def path(self) -> str:
        """Dotted path of the class, from the package itself where that has it."""
        module = self.model_class.__module__
        package = module.partition(".")[0]
        public = getattr(importlib.import_module(package), self.name, None) is self.model_class
        return f"{package if public else module}.{self.name}"

    @property
    def config(self) -> dict[str, Any]:
        """Every constructor argument that has a value."""
        defaults = {
            name: each.default
            for name, each in self._parameters().items()
            if each.default is not inspect.Parameter.empty
        }
        return {**defaults, **self.assumed, **self.given}

    def checked(self) -> Skeleton:
        """The same, or with values assumed for arguments that it cannot do without.

        Raises `SpecError` for an argument that the constructor does not have, `ModelError` when it cannot be built.
        """
        parameters = self._parameters()
        unknown = sorted(self.given.keys() - parameters)
        if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            raise SpecError(
                f"--config {unknown[0]}: {self.name} has no such argument; {suggest(unknown[0], parameters)}"
            )
        try:
            self._made({})
        except Exception as error:  # constructors raise whatever they like at what they do not expect
            helped = replace(self, assumed=self._stand_ins())
            try:
                helped._made({})
            except Exception:
                raise ModelError(
                    f"{self.name} could not be built{self._words()}: {type(error).__name__}: {error}; give its "
                    f"constructor arguments by --config NAME=VALUE: {', '.join(parameters)}"
                ) from error
            return helped
        return self

    def shallow(self) -> Skeleton | None:
        """The same with two layers wherever it has a number of them; None if it has none, or cannot be built so."""
        fewer = {
            key: _FEW
            for key, value in self.config.items()
            if _DEPTH.fullmatch(key) and type(value) is int and value > _FEW
        }
        made = replace(self, given={**self.given, **fewer})
        try:
            made._made({})
        except Exception:
            return None
        return made if fewer else None

    def build(self, sizes: Mapping[str, int]) -> nn.Module:
        """An instance that takes inputs of these sizes."""
        return self._made({key: sizes[letter] for key, letter in self.tied.items()})

    @property
    def tied(self) -> dict[str, str]:
        """Constructor arguments that must be a size of the inputs, with its letter."""
        return {key: letter for key, letter in _TIED.items() if key in self._parameters()}

    def _made(self, tied: Mapping[str, Any]) -> nn.Module:
        with torch.random.fork_rng(devices=[]), nullcontext() if self.real else torch.device("meta"):
            torch.manual_seed(0)
            made = self.model_class(**{**self.assumed, **self.given, **tied})
        return made.eval() if self.real else made.to("meta").eval()

    def _parameters(self) -> dict[str, inspect.Parameter]:
        return {
            name: each
            for name, each in inspect.signature(self.model_class.__init__).parameters.items()
            if name != "self"
        }

    def _stand_ins(self) -> dict[str, Any]:
        """Values for what usually is given and defaults to None."""
        config = self.config
        heads, each = (config.get(key) for key in ("num_attention_heads", "attention_head_dim"))
        found: dict[str, Any] = dict(_STAND_INS)
        if isinstance(heads, int) and isinstance(each, int):
            found["cross_attention_dim"] = heads * each
        missing = self._parameters()
        return {k: v for k, v in found.items() if k in missing and k not in self.given and config.get(k) is None}

    def _words(self) -> str:
        return f" with {', '.join(f'{k}={v}' for k, v in self.given.items())}" if self.given else " with its defaults"


def model_class(path: str) -> type[nn.Module]:
    """The class of a dotted path. Raises `ModelError` that says which part of it is wrong."""
    module, _, name = path.replace(":", ".").rpartition(".")
    if not module:
        raise ModelError(f"{path}: is no folder here; a class is written pkg.Class, with the package it lies in")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ModelError(f"{path}: {module} cannot be imported: {error}; is it installed where f3core is?") from error
    except AttributeError as error:
        raise ModelError(f"{path}: {module} has no {name}; {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ModelError(
            f"{path}: is no torch.nn.Module class; give the class of the denoiser itself, not of a pipeline"
        )
    return found
