"""diffusers' caches as accelerators, each with the options and defaults of its config class.

Callbacks are not options: the current timestep is the pipeline's own, and the number of steps the generation's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import nn

from f3core.accelerator import Accelerator
from f3core.attention import Bypass, ZeroBranch
from f3core.errors import ModelError, PluginError
from f3core_diffusers.accelerators_base import (
    FAILURES,
    checked,
    config_class,
    current_timestep,
    each_generation,
    forget_children,
    hooks_of,
    is_guided,
    keep_branches_apart,
    restored,
    sources,
    telling_calls,
    tells_timestep,
)


class DiffusersCache(Accelerator):
    """Base: what ``denoiser.enable_cache(config)`` enables, on every denoiser, from each generation's beginning."""

    config: ClassVar[str]
    """name of the config class in diffusers.hooks"""
    ours: ClassVar[frozenset[str]] = frozenset({"current_timestep_callback"})
    """fields of it that are no options"""
    wants_timestep: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        self.config_class = config_class(self.name, "diffusers.hooks", self.config, "install a newer diffusers")
        self.options = checked(self.name, self.config_class, options, self.ours)

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(restored(denoisers))
            for denoiser in denoisers.values():
                self.check(pipeline, denoiser)
                self._enable(denoiser, self.configured(pipeline, denoiser, steps))
                stack.enter_context(telling_calls(pipeline, denoiser))
            stack.enter_context(each_generation(pipeline, self.name, lambda: self.begin(pipeline, denoisers)))
            yield

    def check(self, pipeline: Any, denoiser: nn.Module) -> None:
        """Raises `ModelError` where diffusers would fail, or do nothing, or nothing sound, in silence."""
        model = type(denoiser).__name__
        if not hasattr(denoiser, "enable_cache"):
            raise self.refused(denoiser, "it is no CacheMixin of diffusers, as no U-Net is", "compare it with pruning")
        if denoiser.is_cache_enabled:
            raise ModelError(f"{model} has a cache on already; call its disable_cache() first")
        timed = tells_timestep(pipeline)
        if (self.wants_timestep or "cache_context(" not in sources(type(pipeline))) and not timed:
            why = f"{type(pipeline).__name__} tells neither its current timestep nor the branches of guidance"
            raise self.refused(denoiser, why, "try cache_dit, which needs neither")

    def refused(self, denoiser: nn.Module, why: str, instead: str) -> ModelError:
        """What to raise where a model does not bear this cache."""
        return ModelError(f"accelerator {self.name!r} does not work on {type(denoiser).__name__}: {why}; {instead}")

    def configured(self, pipeline: Any, denoiser: nn.Module, steps: int) -> Any:
        """The config of a generation of so many steps."""
        return self.config_class(**self.options, **self.given(pipeline, denoiser, steps))

    def given(self, pipeline: Any, denoiser: nn.Module, steps: int) -> dict[str, Any]:
        """Fields of the config that are no options, or defaults other than its own."""
        return {}

    def begin(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> None:
        """Before each generation. diffusers resets after one, which one that breaks off does not reach."""
        for denoiser in denoisers.values():
            denoiser._reset_stateful_cache()  # type: ignore[operator]

    def _enable(self, denoiser: Any, config: Any) -> None:
        before = {id(hook) for module in denoiser.modules() for hook in hooks_of(module).values()}
        try:
            denoiser.enable_cache(config)
        except FAILURES as error:
            why = f"diffusers refuses its blocks or their number ({type(error).__name__}: {error})"
            raise self.refused(denoiser, why, "try pab, which caches attention, not blocks") from error
        caching = False
        for module in denoiser.modules():
            for name, hook in list(hooks_of(module).items()):
                if id(hook) in before:
                    continue
                if isinstance(module, ZeroBranch | Bypass):  # found by its name, but was dropped: nothing to cache
                    module._diffusers_hook.remove_hook(name, recurse=False)  # type: ignore[union-attr, operator]
                elif module is not denoiser:
                    caching = True
        if not caching:
            why = "none of its modules is what these options name, or those that are were pruned away"
            raise self.refused(denoiser, why, "give others, such as block identifiers")
        keep_branches_apart(denoiser)
        for module in denoiser.modules():
            forget_children(module)


class PyramidAttentionBroadcast(DiffusersCache):
    """Pyramid Attention Broadcast (arXiv 2408.12588): attention outputs stand for those of the next steps."""

    name = "pab"
    config = "PyramidAttentionBroadcastConfig"
    wants_timestep = True

    def given(self, pipeline: Any, denoiser: nn.Module, steps: int) -> dict[str, Any]:
        found: dict[str, Any] = {"current_timestep_callback": lambda: current_timestep(pipeline)}
        if not any(name.endswith("_attention_block_skip_range") for name in self.options):
            found["spatial_attention_block_skip_range"] = 2  # diffusers' own choice, which it makes with a warning
        return found


_NO_CHAIN = {
    "LatteTransformer3DModel": "its spatial and temporal blocks take turns, in other shapes",
    "MotifVideoTransformer3DModel": "the last of its blocks start from the input again",
    "WanAnimateTransformer3DModel": "what it adds for the face between blocks would be added twice",
    "WanVACETransformer3DModel": "what it adds for the control between blocks would be added twice",
}
"""Denoisers of which no residual from the first block to the last can stand for the blocks, and why"""


class ResidualCache(DiffusersCache):
    """Base of those that reuse what a chain of blocks adds to its input."""

    def check(self, pipeline: Any, denoiser: nn.Module) -> None:
        super().check(pipeline, denoiser)
        if (why := _by_class(denoiser, _NO_CHAIN)) is not None:
            raise self.refused(denoiser, why, "try pab, which caches attention, not blocks")


class FirstBlockCache(ResidualCache):
    """First Block Cache: the other blocks' residual stands while the first block's changes less than a threshold."""

    name = "first_block_cache"
    config = "FirstBlockCacheConfig"


_FORMATS = {"CogVideoXTransformer3DModel": "BFCHW", "LTXVideoTransformer3DModel": ""}
"""Axes of a denoiser's latents where they are not BCFHW; empty where frames, rows and columns are packed into one"""


class FasterCache(DiffusersCache):
    """FasterCache (arXiv 2410.19355): attention outputs and guidance's unconditional branch are extrapolated.

    ``attention_weight`` is the constant that diffusers' ``attention_weight_callback`` gives by default, 0.5.
    """

    name = "faster_cache"
    config = "FasterCacheConfig"
    wants_timestep = True
    ours = DiffusersCache.ours | {
        "attention_weight_callback",
        "low_frequency_weight_callback",
        "high_frequency_weight_callback",
        "_unconditional_conditional_input_kwargs_identifiers",
    }

    def __init__(self, *, attention_weight: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(attention_weight, int | float):
            raise PluginError(f"attention_weight of accelerator 'faster_cache' is no number: {attention_weight!r}")
        self.weight: Callable[[nn.Module], float] = lambda _: float(attention_weight)

    def check(self, pipeline: Any, denoiser: nn.Module) -> None:
        super().check(pipeline, denoiser)
        if _by_class(denoiser, {"LTX2VideoTransformer3DModel": "two"}) is not None:
            raise self.refused(denoiser, "it denoises sound too, and calls attention with plain numbers", "use pab")
        if self.options.get("is_guidance_distilled"):
            return
        if "[latents] * 2" not in sources(type(pipeline)):
            why = f"{type(pipeline).__name__} runs the branches of guidance apart, and it extrapolates one in a batch"
            raise self.refused(denoiser, why, "give is_guidance_distilled: true, which leaves attention to cache")
        if not _by_class(denoiser, _FORMATS, "BCFHW"):
            why = "its latents are packed, and it splits the spectra of frames"
            raise self.refused(denoiser, why, "give is_guidance_distilled: true, which leaves attention to cache")

    def given(self, pipeline: Any, denoiser: nn.Module, steps: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "attention_weight_callback": self.weight,
            "current_timestep_callback": lambda: current_timestep(pipeline),
        }
        if "tensor_format" not in self.options:
            found["tensor_format"] = _by_class(denoiser, _FORMATS) or "BCFHW"
        return found

    @contextlib.contextmanager
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> Iterator[None]:
        def guided(module: nn.Module, args: Any) -> None:
            if not is_guided(pipeline):
                raise ModelError(
                    f"accelerator {self.name!r} extrapolates guidance's unconditional branch, and this generation has "
                    "none; give is_guidance_distilled: true"
                )

        with super().enabled(pipeline, denoisers, steps=steps), contextlib.ExitStack() as stack:
            for denoiser in () if self.options.get("is_guidance_distilled") else denoisers.values():
                stack.callback(denoiser.register_forward_pre_hook(guided).remove)
            yield

    def _enable(self, denoiser: Any, config: Any) -> None:
        super()._enable(denoiser, config)
        # Without guidance to extrapolate, diffusers' hook looks for a cached output in the very first forward too.
        for module in denoiser.modules():
            for hook in hooks_of(module).values():
                if hasattr(hook, "weight_callback"):
                    hook.current_timestep_callback = partial(_once_computed, hook, hook.current_timestep_callback)


def _once_computed(hook: Any, timestep: Callable[[], Any]) -> Any:
    """The timestep, but infinity, in no range, where there is nothing to extrapolate yet."""
    return float("inf") if hook.state.cache is None else timestep()


def _by_class(denoiser: nn.Module, table: Mapping[str, str], otherwise: str | None = None) -> str | None:
    """What a table says of a denoiser's class, pruned or not."""
    names = [base.__name__ for base in type(denoiser).__mro__]
    return next((table[name] for name in names if name in table), otherwise)


class MagCache(ResidualCache):
    """MagCache (arXiv 2506.09045): the blocks' residual stands while its foreseen change of magnitude is small.

    ``mag_ratios`` are the model's, and must be given: diffusers prints them after a generation with
    ``MagCacheConfig(calibrate=True, num_inference_steps=...)`` enabled. The number of steps is the generation's.
    """

    name = "mag_cache"
    config = "MagCacheConfig"
    ours = frozenset({"num_inference_steps", "calibrate"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not options.get("mag_ratios"):
            raise PluginError(
                "accelerator 'mag_cache' needs mag_ratios, a list of numbers that belong to a model; diffusers prints "
                "them after a generation with MagCacheConfig(calibrate=True, num_inference_steps=...) enabled"
            )

    def given(self, pipeline: Any, denoiser: nn.Module, steps: int) -> dict[str, Any]:
        return {"num_inference_steps": steps}


ATTENTION = [r"(?:\w+_)?(?:blocks|layers)\.\d+\.attn\w*"]
"""Attention modules of diffusers' transformers. Its own pattern must match whole names, and misses ``attn1``."""


class TaylorSeer(DiffusersCache):
    """TaylorSeer (arXiv 2503.06923): outputs of modules are extrapolated by a Taylor series over steps.

    Of attention modules, unless ``cache_identifiers`` or ``use_lite_mode`` says otherwise, as diffusers documents.
    """

    name = "taylorseer"
    config = "TaylorSeerCacheConfig"

    def given(self, pipeline: Any, denoiser: nn.Module, steps: int) -> dict[str, Any]:
        named = self.options.get("cache_identifiers") or self.options.get("use_lite_mode")
        return {} if named else {"cache_identifiers": ATTENTION}

    def configured(self, pipeline: Any, denoiser: nn.Module, steps: int) -> Any:
        return self.config_class(**{**self.options, **self.given(pipeline, denoiser, steps)})


class SeaCache(DiffusersCache):
    """SeaCache (arXiv 2602.18993): the blocks' residual stands while filtered latents change little. Wan, text to
    video: diffusers reads the latents of no other family here."""

    name = "sea_cache"
    config = "SeaCacheConfig"
    ours = frozenset({"raw_vision_callback"})

    def check(self, pipeline: Any, denoiser: nn.Module) -> None:
        super().check(pipeline, denoiser)
        from diffusers import WanTransformer3DModel

        own = (
            isinstance(denoiser, WanTransformer3DModel) and denoiser.config.in_channels == denoiser.config.out_channels
        )
        if not own or "sigma" not in sources(type(pipeline)):
            why = "diffusers gives it no latents or noise levels, and it would do nothing"
            raise self.refused(denoiser, why, "use first_block_cache")
