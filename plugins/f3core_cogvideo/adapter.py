"""CogVideo 1: a base channel (text and own frame) and a temporal one (text and frames) in every layer.

Sites are the channels. A temporal channel mixes into the base channel's output, so dropping it leaves the base channel
alone. Calibration watches one pass over the finished clip (`as_generated`) instead of thousands of cached steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from f3core.adapter import Adapter, Sketch
from f3core.carrying import carried
from f3core.clock import Gate
from f3core.errors import ModelError, PlanError
from f3core.plan import PruningPlan
from f3core.segments import argument
from f3core.sites import FORWARD, AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_cogvideo.generation import Sampling
from f3core_cogvideo.pipeline import TRANSFORMERS, CogVideoPipeline, skeletons
from f3core_cogvideo.segments import CogVideoSite, segments
from f3core_cogvideo.visibility import Sees

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
_LEAVES_OUT = {CA: "text", SA: "own", TA: "earlier"}


class CogVideoAdapter(Adapter):
    name = "cogvideo"

    # --- the pipeline -------------------------------------------------------------------------------------------

    def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Any:
        return CogVideoPipeline.from_pretrained(source, dtype=dtype, device=device)

    def skeletons(self, source: str) -> dict[str, nn.Module]:
        return dict(skeletons(Path(source).expanduser()))

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        denoisers = self.skeletons(source)
        guided = call.get("guidance_scale") != 1
        passes = {"transformer": 2 if guided or call.get("first_guidance_scale", 1) != 1 else 1}
        if "transformer_2" in denoisers:
            _refuse_idle(call)
            frames, rounds = denoisers["transformer"].config.frames, call.get("interpolations")
            whole = denoisers["transformer_2"].config.frames
            stretches = 0
            for _ in range(1 if rounds is None else rounds):
                stretches += -(-(frames - 1) // ((whole - 1) // 2))
                frames = 2 * frames - 1
            passes["transformer_2"] = (2 if guided else 1) * stretches
        inputs = {}
        for name, denoiser in denoisers.items():
            sizes = denoiser.config
            inputs[name] = {FORWARD: self.example_inputs(denoiser, frames=sizes.frames, height=sizes.tokens, width=1)}
        return Sketch(denoisers, inputs, (0.0,), {name: {FORWARD: (count,)} for name, count in passes.items()})

    def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:
        found = {name: getattr(pipeline, name) for name in TRANSFORMERS}
        return {name: module for name, module in found.items() if module is not None}

    def with_denoisers(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> Any:
        other = type(pipeline)(**{**pipeline.components, **denoisers})
        other.replay = pipeline.replay
        return other

    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        """``steps`` means nothing here: a clip takes one pass a token."""
        taken = sorted({"prompts", "seeds", "replay"} & call.keys())
        if taken:
            raise ModelError(f"model.call must not set {', '.join(taken)}: the spec's own keys decide that")
        if pipeline.transformer_2 is not None:
            _refuse_idle(call)
        try:
            clips: torch.Tensor = pipeline(list(prompts), seeds=list(seeds), **call)
        except TypeError as error:
            raise ModelError(f"{type(pipeline).__name__} refused to generate: {error}; see model.call") from error
        return clips

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        scale = float(call.get("guidance_scale", Sampling.guidance_scale))
        return (1.0,) if scale == 1 else (scale, 1 - scale)

    def save(self, pipeline: Any, folder: Path) -> None:
        pipeline.save_pretrained(folder)

    @contextlib.contextmanager
    def observable(self, pipeline: Any) -> Iterator[None]:
        chosen = pipeline.replay
        pipeline.replay = True
        try:
            yield
        finally:
            pipeline.replay = chosen

    # --- the denoiser -------------------------------------------------------------------------------------------

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        found: list[AttentionSite] = []
        for index, layer in enumerate(denoiser.transformer.layers):
            path = f"transformer.layers.{index}"
            common = {"component": component, "index": index, "config": denoiser.config}
            found.append(
                CogVideoSite(
                    path=f"{path}.attention",
                    kinds=(CA, SA),
                    removals={CA: (Removal.OMIT,), SA: (Removal.OMIT,)},
                    output="dense",
                    sees=layer.attention.sees,
                    **common,
                )
            )
            found.append(
                CogVideoSite(
                    path=f"{path}.attention_plus",
                    kinds=(CA, SA, TA),
                    removals={TA: (Removal.SELF_ONLY, Removal.DROP), CA: (Removal.OMIT,), SA: (Removal.OMIT,)},
                    output="mixed" if hasattr(layer.attention_plus, "mixed") else None,
                    bypass=True,
                    sees=getattr(layer.attention_plus, "sees", Sees()),  # a replaced channel is not asked
                    temporal=True,
                    **common,
                )
            )
        return found

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout | None:
        if kwargs.get("cache") is not None or not kwargs.get("temporal", True):
            return None
        batch, length = argument(args, kwargs, "input_ids", 0).shape
        sizes = denoiser.config
        frames = -(-(length - sizes.text) // sizes.tokens)
        return Layout(batch, frames, sizes.tokens, sizes.text) if frames > 0 else None

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        assert isinstance(site, CogVideoSite)
        return segments(site, layout, call)

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        return 0.0

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        sizes = denoiser.config
        if text not in (None, sizes.text) or height * width != sizes.tokens or not 1 <= frames <= sizes.frames:
            raise ModelError(
                f"this model takes {sizes.text} text tokens and 1 to {sizes.frames} frames of {sizes.tokens} tokens"
            )
        length = sizes.text + frames * sizes.tokens
        device = denoiser.device
        ids = torch.randint(sizes.image_vocab, (batch, length), device=device)
        if sizes.start_of_image is not None:
            ids[:, sizes.text :: sizes.tokens] = sizes.start_of_image
        return {
            "input_ids": ids,
            "position_ids": denoiser.usual_positions(batch, length),
            "text_mask": torch.ones(batch, 1, 1, sizes.text, device=device),
            "as_generated": True,
        }

    # --- surgery ------------------------------------------------------------------------------------------------

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        if removal not in site.removals.get(target, ()):
            raise PlanError(f"{site.fqn} cannot lose {target} by {removal}")
        if not gate.always:
            raise PlanError(
                f"{site.fqn} is to lose {target} at some steps only, but a CogVideo clip is made at one noise level: "
                "prune it at every step, with a plan of one step range"
            )
        module.sees = replace(module.sees, **{_LEAVES_OUT[target]: False})
        return module

    def record(self, denoiser: nn.Module, plan: PruningPlan, component: str) -> None:
        denoiser.recorded = carried(plan, component)


def _refuse_idle(call: Mapping[str, Any]) -> None:
    """Raises `ModelError` for a call by which a stage 2 would never run: nothing in it could be scored or counted."""
    if call.get("interpolations") == 0:
        raise ModelError(
            "model.call.interpolations is 0, so transformer_2 would never run: set it to 1 or more, or take "
            "transformer_2 out of model_index.json"
        )
