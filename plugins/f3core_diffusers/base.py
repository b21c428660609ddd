"""What all diffusers pipelines share: loading, generating, saving, and routing attention past other backends."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import attention_backend
from torch import nn

from f3core.adapter import Adapter, Published
from f3core.carrying import CONFIG_KEY, aligned_, carried
from f3core.errors import ModelError
from f3core.plan import PruningPlan
from f3core.segments import argument
from f3core_diffusers.arguments import check_call, opened, usual_arguments
from f3core_diffusers.guiders import guided_branches, guided_rows
from f3core_diffusers.named_calls import names_calls, naming_calls, unconditional_rows
from f3core_diffusers.pruned import pruned_model_class
from f3core_diffusers.published_models import published_models
from f3core_diffusers.shifted import distinct

if TYPE_CHECKING:
    from f3core.distillation.recipe import Recipe

# diffusers renamed the argument; older versions ignore the new name with a warning.
DTYPE = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 41) else "torch_dtype"


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of the libraries for what takes a moment; downloads keep theirs."""
    chosen = {log: log.is_progress_bar_enabled() for log in (diffusers.utils.logging, transformers.utils.logging)}
    try:
        for log in chosen:
            log.disable_progress_bar()
        yield
    finally:
        for log, enabled in chosen.items():
            if enabled:
                log.enable_progress_bar()


def _generated(pipeline: Any, arguments: Mapping[str, Any], steps: int, generator: Any) -> torch.Tensor:
    """Clips [B, F, 3, H, W] in [0, 1] of one call of a pipeline."""
    try:
        made = pipeline(**arguments, num_inference_steps=steps, generator=generator, output_type="pt")
    except (TypeError, ValueError) as error:
        raise ModelError(f"{type(pipeline).__name__} refused to generate: {error}; see model.call") from error
    frames: torch.Tensor = made.frames
    return frames.float().cpu().clamp(0, 1)


class DiffusersAdapter(Adapter):
    """Base of every adapter in this package. ``components`` are the names a pipeline may give its denoisers."""

    components: ClassVar[tuple[str, ...]] = ("transformer", "transformer_2")
    timestep_at: ClassVar[int] = 1
    """position of ``timestep`` among the arguments of the denoiser's forward"""
    guidance: ClassVar[str] = "guidance_scale"
    """argument of the pipeline that switches classifier-free guidance on, above 1"""
    conditional_first: ClassVar[bool] = False
    """which guidance branch a denoiser meets first; most pipelines stack [unconditional; conditional] rows"""
    axes: ClassVar[str] = "CFHW"
    """how latents, the first argument of the denoiser's forward, lie behind the rows: channels, frames, rows and
    columns in some order"""

    def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Any:
        folder = Path(source).expanduser()
        if folder.exists() and not (folder / "model_index.json").is_file():
            raise ModelError(f"{source}: no model_index.json in it; give the folder that save_pretrained wrote")
        try:
            with _without_bars():
                pipeline = self._open(source, dtype or torch.float32)
        except (OSError, ValueError) as error:
            where = "could not be loaded" if folder.exists() else "is no folder here and could not be had from the hub"
            raise ModelError(f"{source}: {where}: {error}") from error
        pipeline.set_progress_bar_config(disable=True)
        for denoiser in self.denoisers(pipeline).values():
            aligned_(denoiser)
        return pipeline.to(device)

    def _open(self, source: str, dtype: torch.dtype) -> Any:
        """The pipeline of a source; what is wrong with it is an OSError or a ValueError."""
        return DiffusionPipeline.from_pretrained(source, **{DTYPE: dtype})

    def skeletons(self, source: str) -> dict[str, nn.Module]:
        index = DiffusionPipeline.load_config(source)
        found = {}
        for name in self.components:
            library, class_name = index.get(name) or (None, None)
            if class_name:
                model_class = getattr(importlib.import_module(library), class_name)
                with torch.device("meta"):
                    found[name] = model_class.from_config(model_class.load_config(source, subfolder=name))
        return found

    def hooked(self, denoiser: nn.Module) -> str | None:
        registries = (getattr(module, "_diffusers_hook", None) for module in denoiser.modules())
        names = {name for registry in registries if registry is not None for name in registry.hooks}
        return f"diffusers' {', '.join(sorted(names))}" if names else super().hooked(denoiser)

    def published(self) -> tuple[Published, ...]:
        return published_models(self)

    def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:
        found = {name: getattr(pipeline, name, None) for name in self.components}
        return {name: module for name, module in found.items() if module is not None}

    def with_denoisers(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> Any:
        parts = {**dict(pipeline.config), **pipeline.components, **denoisers}
        accepted = inspect.signature(type(pipeline).__init__).parameters
        other = type(pipeline)(**{name: part for name, part in parts.items() if name in accepted})
        other.set_progress_bar_config(**getattr(pipeline, "_progress_bar_config", {}))
        return other

    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        check_call(type(pipeline), call)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        asked = self.prompted(pipeline, prompts)
        if not self.one_by_one(pipeline):
            return _generated(pipeline, {**opened(call, len(prompts)), **asked}, steps, generators)
        rest = opened(call)
        each = [{name: given[i] for name, given in asked.items()} for i in range(len(prompts))]
        return torch.cat(
            [_generated(pipeline, {**rest, **its}, steps, own) for its, own in zip(each, generators, strict=True)]
        )

    def text_of(self, denoiser: nn.Module, given: Mapping[str, Any]) -> int | None:
        """Text tokens of a generation with all these arguments; None: as many as example inputs usually have."""
        return given.get("max_sequence_length")

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        """The adapter whose example inputs are those that the pipeline of a ``model_index.json`` gives its denoisers;
        another one where pipelines run denoisers of one class in several ways."""
        return self

    def prompted(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        """The arguments by which a pipeline takes prompts."""
        return {"prompt": list(prompts)}

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """As the pipeline's guider says; or by diffusers' rule: a scale above 1 switches guidance on, for every
        denoiser of the pipeline."""
        guider = getattr(pipeline, "guider", None)
        if guider is not None:
            return guided_branches(guider)
        given = {**usual_arguments(type(pipeline)), **call}
        scale = self.guidance_of(given)
        if scale <= 1:
            return (1.0,)
        own = given.get(self.guidance + component.removeprefix("transformer").removeprefix("unet"))
        scale = scale if own is None else float(own)
        return (scale, 1 - scale) if self.conditional_first else (1 - scale, scale)

    def guidance_of(self, given: Mapping[str, Any]) -> float:
        """Scale of classifier-free guidance in a generation with all these arguments; guided where it is above 1."""
        return float(given.get(self.guidance) or 1.0)

    def rows(self, given: Mapping[str, Any], guider: Any, steps: int) -> tuple[int, ...]:
        """Rows of one clip at each step of a generation with all these arguments, guidance counted."""
        if guider is not None:
            return guided_rows(guider, steps)
        return (2 if self.guidance_of(given) > 1 else 1,) * steps

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        """The forwards of a generation with all these arguments, of one clip: the arguments of each and its rows at
        each step. ``inputs`` and ``rows``: those of the guided forward, all there is where it is not overridden."""
        return [(inputs, rows)]

    def save(self, pipeline: Any, folder: Path) -> None:
        with _without_bars():
            pipeline.save_pretrained(folder, safe_serialization=True)

    def recipe(self, pipeline: Any, call: Mapping[str, Any]) -> Recipe:
        from f3core_diffusers.training import DiffusersRecipe

        return DiffusersRecipe(self, pipeline, call)

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        timestep = argument(args, kwargs, "timestep", self.timestep_at)
        return float(timestep.max()) if isinstance(timestep, torch.Tensor) else float(timestep)

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        """The noise levels of a generation with a pipeline's scheduler, noisy to clean. ``size``: latent frames, rows
        and columns, by which some pipelines shift them."""
        scheduler.set_timesteps(steps)
        return distinct(scheduler.timesteps)

    def tells_branches_in(self, pipeline: Any) -> bool:
        return self.tells_branches and names_calls(type(pipeline))

    def unconditional_rows(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> range | None:
        layout = self.layout(denoiser, args, kwargs)
        return None if layout is None else unconditional_rows(denoiser, layout.batch)

    def pruned_class(self, denoiser_class: type[nn.Module]) -> type[nn.Module]:
        return pruned_model_class(denoiser_class)

    def record(self, denoiser: nn.Module, plan: PruningPlan, component: str) -> None:
        denoiser.register_to_config(**{CONFIG_KEY: carried(plan, component, denoiser.f3_before)})  # type: ignore[operator]

    @contextlib.contextmanager
    def observable(self, pipeline: Any) -> Iterator[None]:
        processors = [
            processor
            for denoiser in self.denoisers(pipeline).values()
            for module in denoiser.modules()
            if hasattr(processor := getattr(module, "processor", None), "_attention_backend")
        ]
        chosen = [processor._attention_backend for processor in processors]
        try:
            for processor in processors:
                processor._attention_backend = None
            with contextlib.ExitStack() as stack:
                stack.enter_context(attention_backend("native"))
                for denoiser in self.denoisers(pipeline).values():
                    stack.enter_context(naming_calls(denoiser))
                yield
        finally:
            for processor, backend in zip(processors, chosen, strict=True):
                processor._attention_backend = backend
