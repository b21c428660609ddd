"""diffusers' LayerSkip as an accelerator: blocks, or parts of them, that no step runs."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from diffusers.hooks import LayerSkipConfig, apply_layer_skip
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS
from torch import nn

from f3core.accelerator import Accelerator
from f3core.errors import ModelError, PluginError
from f3core_diffusers.accelerators_base import FAILURES, checked, each_generation, hooks_of, restored


class LayerSkip(Accelerator):
    """Skip blocks ``indices`` of a stack ``fqn``, the first of a transformer unless given: whole, or with
    ``skip_ff: false`` or ``skip_attention: false`` the other part alone.

    A skipped part hands on its input, as diffusers has it, so a skipped attention still adds what it was given.
    ``dropout`` of the config is no option: it skips at random what it computes all the same.
    """

    name = "layer_skip"

    def __init__(self, *, indices: list[int] | None = None, **options: Any) -> None:
        if not indices:
            raise PluginError("accelerator 'layer_skip' needs indices, a list of at least one block to skip")
        self.options = checked(self.name, LayerSkipConfig, {"indices": indices, **options}, frozenset({"dropout"}))

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        with restored(denoisers):
            for denoiser in denoisers.values():
                self._skip(denoiser)
            with each_generation(pipeline, self.name, lambda: None):
                yield

    def _skip(self, denoiser: nn.Module) -> None:
        model = type(denoiser).__name__
        fqn = self._stack(denoiser)
        blocks = denoiser.get_submodule(fqn)
        beyond = [index for index in self.options["indices"] if not 0 <= index < len(blocks)]  # type: ignore[arg-type]
        if beyond:
            raise ModelError(f"{model} has no block {beyond[0]} in {fqn}, which holds {len(blocks)}; see indices")  # type: ignore[arg-type]
        before = _hooked(denoiser)
        try:
            apply_layer_skip(denoiser, LayerSkipConfig(**{**self.options, "fqn": fqn}))
        except FAILURES as error:
            raise ModelError(
                f"accelerator 'layer_skip' does not work so on {model}: {error}; whole blocks can be skipped where "
                "diffusers has registered their class, attention alone where it has registered the processor's"
            ) from error
        if _hooked(denoiser) == before:
            raise ModelError(
                f"{model} has nothing at blocks {self.options['indices']} of {fqn} that these options skip"
            )
        for index in self.options["indices"]:
            block = blocks[index]  # type: ignore[index]
            if _whole(block) and "hidden_states" not in inspect.signature(type(block).forward).parameters:
                raise ModelError(f"diffusers skips no {type(block).__name__}, whose input is no argument hidden_states")

    def _stack(self, denoiser: nn.Module) -> str:
        """diffusers' own choice takes the first name of a set, another one in each process."""
        fqn: str = self.options.get("fqn", "auto")
        stacks = [name for name, module in denoiser.named_modules() if isinstance(module, nn.ModuleList)]
        if fqn == "auto":
            known = [name for name in stacks if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS]
            if known:
                return known[0]
        elif fqn in stacks:
            return fqn
        given = "that accelerator 'layer_skip' knows" if fqn == "auto" else f"named {fqn!r}"
        likely = [name for name in stacks if name.rpartition(".")[2] in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS]
        raise ModelError(
            f"{type(denoiser).__name__} has no stack of transformer blocks {given}; give fqn, such as "
            f"{' or '.join(likely[:3]) or stacks}"
        )


def _whole(block: nn.Module) -> bool:
    return "layer_skip_hook" in hooks_of(block)


def _hooked(denoiser: nn.Module) -> int:
    return sum(len(hooks_of(module)) for module in denoiser.modules())
