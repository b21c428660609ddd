"""CogVideo 1: a base channel (text and own frame) and a temporal one (text and frames) in every layer.

Sites are the channels. A temporal channel mixes into the base channel's output, so dropping it leaves the base channel
alone. Steps are the frames (`visibility.noise_level`): calibration watches one cached forward a frame of the finished
clip instead of thousands of a token.
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
from f3core.block import Block, Part
from f3core.capture import watch_forwards
from f3core.carrying import carried
from f3core.clock import Gate
from f3core.errors import ModelError, PlanError
from f3core.plan import PruningPlan
from f3core.segments import argument
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_cogvideo.compacting import shorten_, standing
from f3core_cogvideo.generation import Sampling
from f3core_cogvideo.pipeline import TRANSFORMERS, CogVideoPipeline, skeletons
from f3core_cogvideo.rehearsal import rehearse
from f3core_cogvideo.segments import CogVideoLayout, CogVideoSite, segments
from f3core_cogvideo.visibility import Narrowed, Sees, noise_level

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
_LEAVES_OUT = {CA: "text", SA: "own", TA: "earlier"}


class CogVideoAdapter(Adapter):
    name = "cogvideo"
    several_kinds = True

    # --- the pipeline -------------------------------------------------------------------------------------------

    def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Any:
        return CogVideoPipeline.from_pretrained(source, dtype=dtype, device=device)

    def skeletons(self, source: str) -> dict[str, nn.Module]:
        return dict(skeletons(Path(source).expanduser()))

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        denoisers = skeletons(Path(source).expanduser())
        if "transformer_2" in denoisers:
            _refuse_idle(call)
        with watch_forwards(self, denoisers) as seen:
            rehearse(denoisers, call)
        levels = sorted({level for each in seen.values() for level in each.levels}, reverse=True)
        return Sketch(
            dict(denoisers),
            {name: each.inputs for name, each in seen.items()},
            tuple(levels),
            {name: each.rows(levels) for name, each in seen.items()},
        )

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
        for index, layer in standing(denoiser):
            path = f"transformer.layers.{index}"
            common = {"component": component, "index": index, "config": denoiser.config}
            found.append(
                CogVideoSite(
                    path=f"{path}.attention",
                    kinds=(CA, SA),
                    removals={CA: (Removal.OMIT,), SA: (Removal.OMIT,)},
                    output="dense",
                    sees=layer.attention.sees,
                    narrowed=layer.attention.narrowed,
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
                    lasting={TA: (Removal.DROP,), CA: (Removal.OMIT,)},  # later frames see its keys; text comes once
                    sees=getattr(layer.attention_plus, "sees", Sees()),  # a replaced channel is not asked
                    narrowed=getattr(layer.attention_plus, "narrowed", None),
                    temporal=True,
                    **common,
                )
            )
        return found

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        """Layers."""
        found: list[Block] = []
        for number, _ in standing(denoiser):
            path = f"transformer.layers.{number}"
            found.append(Block(component, path, len(found), (Part(path),), number=number))
        return found

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> CogVideoLayout | None:
        """That of a forward over a whole sequence, or of a cached one that replays a frame."""
        cache = kwargs.get("cache")
        return self.running_layout(denoiser, args, kwargs) if cache is None or cache.replay else None

    def running_layout(
        self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> CogVideoLayout | None:
        """That of a piece of a frame too, with which a cached forward goes on; None where it holds several pieces."""
        cache, temporal = kwargs.get("cache"), kwargs.get("temporal", True)
        batch, length = argument(args, kwargs, "input_ids", 0).shape
        sizes, piece, place = denoiser.config, None, 0
        frames = -(-(length - sizes.text) // sizes.tokens)
        cached, total = cache is not None and cache.length > 0, frames if cache is None else cache.total
        if cached:
            numbers = (cache.running,)
            place = (cache.length - sizes.text) % sizes.tokens
            if place + length > sizes.tokens:
                return None
            piece = None if length == sizes.tokens else (place, length)
        else:
            numbers = tuple(range(frames)) if cache is None else cache.order[:frames]
        lasts = piece is not None and sizes.window == -1  # windows take turns among the keys
        goes_on, unfinished = lasts and place > 0, lasts and place + length < sizes.tokens
        common = {"rows": sizes.side, "goes_on": goes_on, "unfinished": unfinished, "piece": piece}
        found = CogVideoLayout(batch, total, sizes.tokens, sizes.text, numbers, cached, temporal, **common)
        return found if numbers else None

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        assert isinstance(site, CogVideoSite)
        assert isinstance(layout, CogVideoLayout)
        return segments(site, layout, call)

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Frames that are still to make once the running one is there: none after a whole sequence."""
        cache = kwargs.get("cache")
        return noise_level(cache.config.stage, cache.running, cache.total) if cache is not None else 0.0

    def distance(self, prediction: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Total variation between the distributions that tokens are drawn from, mean over tokens, of logits
        [B, L, V]: how likely a draw comes out another."""
        gap = prediction.softmax(-1) - other.softmax(-1)
        return gap.abs().sum(-1).flatten(1).mean(1) / 2

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
        }

    # --- surgery ------------------------------------------------------------------------------------------------

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        if removal not in site.removals.get(target, ()):
            raise PlanError(f"{site.fqn} cannot lose {target} by {removal}")
        sees = replace(module.sees, **{_LEAVES_OUT[target]: False})
        if gate.always:
            module.sees = sees
        else:
            module.narrowed = Narrowed(sees, gate)
        return module

    def compact_(self, denoiser: nn.Module, gone: Sequence[Block]) -> bool:
        return shorten_(denoiser)

    def record(self, denoiser: nn.Module, plan: PruningPlan, component: str) -> None:
        denoiser.recorded = carried(plan, component, denoiser.f3_before)


def _refuse_idle(call: Mapping[str, Any]) -> None:
    """Raises `ModelError` for a call by which a stage 2 would never run: nothing in it could be scored or counted."""
    if call.get("interpolations") == 0:
        raise ModelError(
            "model.call.interpolations is 0, so transformer_2 would never run: set it to 1 or more, or take "
            "transformer_2 out of model_index.json"
        )
