"""Tune-A-Video as the engine sees it: three attention sites in each transformer block.

SC-Attn (``attn1``) has own-frame pairs in the first frame alone. Taking TA from it by self_only gives every frame its
own keys, which is what F3-Pruning counts (arXiv 2312.03459, table 2), not the mask that it would be elsewhere.
``attn_temp`` relates frames alone: with self_only it is one linear map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.pruned import pruned_model_class
from f3core_diffusers.sketch import divided, sketch
from f3core_diffusers.skips import compact_unet_
from f3core_diffusers.unet_blocks import unet_blocks
from torch import nn
from transformers import CLIPTextConfig

import f3core_tuneavideo
from f3core.adapter import Sketch
from f3core.block import Block
from f3core.clock import Gate
from f3core.errors import ProbeError
from f3core.folding import value_only
from f3core.segments import argument, text_tokens
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_tuneavideo.blocks import ClipTransformerBlock
from f3core_tuneavideo.loading import load_pipeline, load_skeleton
from f3core_tuneavideo.pipeline import TuneAVideoPipeline
from f3core_tuneavideo.restrictions import not_own_frame, own_frame

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    factor = 2 ** (len(AutoencoderKL.load_config(source, subfolder="vae")["block_out_channels"]) - 1)
    usual = denoiser.config.sample_size or 64
    height, width = (divided(call[name], factor, name) if call[name] else usual for name in ("height", "width"))
    return call["video_length"], height, width


def _text_length(source: str) -> int | None:
    """Tokens of a prompt, which is padded to what the encoder takes; None when the source has no encoder's config."""
    try:
        length: int = CLIPTextConfig.from_pretrained(source, subfolder="text_encoder").max_position_embeddings
    except OSError:
        return None
    return length


class TuneAVideoAdapter(DiffusersAdapter):
    name = "tune-a-video"
    tells_branches = True
    components = ("unet",)

    def _open(self, source: str, dtype: torch.dtype) -> Any:
        return load_pipeline(source, dtype=dtype)

    def skeletons(self, source: str) -> dict[str, nn.Module]:
        return {"unet": load_skeleton(source)}

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        classes = {"pipeline_class": TuneAVideoPipeline, "scheduler_class": DDIMScheduler}
        return sketch(self, source, _latent_size, steps=steps, call=call, text=_text_length(source), **classes)

    def pruned_class(self, denoiser_class: type[nn.Module]) -> type[nn.Module]:
        return pruned_model_class(denoiser_class, f3core_tuneavideo.__name__)

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        found = []
        blocks = [path for path, module in denoiser.named_modules() if isinstance(module, ClipTransformerBlock)]
        for i, block in enumerate(blocks):
            spatial = AttentionSite(
                component,
                f"{block}.attn1",
                index=i,
                kinds=(SA, TA),
                removals={TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,)},
                output="to_out.0",
                rekeyed=True,
                framed=True,
            )
            text = AttentionSite(
                component,
                f"{block}.attn2",
                index=i,
                kinds=(CA,),
                removals={CA: (Removal.DROP,)},
                companions=(f"{block}.norm2",),
                output="to_out.0",
            )
            temporal = AttentionSite(
                component,
                f"{block}.attn_temp",
                index=i,
                kinds=(SA, TA),
                removals={TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.MASK,)},
                companions=(f"{block}.norm_temp",),
                output="to_out.0",
            )
            found += [spatial, text, temporal]
        return found

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        return unet_blocks(denoiser, component)

    def compact_(self, denoiser: nn.Module, gone: Sequence[Block]) -> bool:
        return compact_unet_(denoiser)

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        """``tokens`` are those of a frame at the resolution of the latents; deeper blocks see fewer."""
        batch, _, frames, height, width = argument(args, kwargs, "sample", 0).shape
        text = argument(args, kwargs, "encoder_hidden_states", 2).shape[1]
        return Layout(batch, frames, height * width, text, rows=height)

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        """Rows are clip by clip: frames in attn1 and attn2, positions in attn_temp, whose tokens are the frames.

        Raises `ProbeError` when the call has another shape.
        """
        frames, kind = torch.arange(layout.frames), site.path.rpartition(".")[2]
        if kind == "attn_temp":
            self._fits(site, layout, call, call.queries == call.keys == layout.frames)
            return Segments(frames[None], frames[None])
        self._fits(site, layout, call, call.batch == layout.batch * layout.frames)
        own = frames.repeat(layout.batch)[:, None]
        query = own.expand(-1, call.queries)
        if kind == "attn2":
            return Segments(query, text_tokens(call.keys))
        if call.keys == call.queries:  # pruned
            return Segments(query, query)
        former = (own - 1).clamp(min=0).expand(-1, call.queries)
        return Segments(query, torch.cat([torch.zeros_like(former), former], dim=1))

    def _fits(self, site: AttentionSite, layout: Layout, call: AttentionCall, does: bool) -> None:
        if not does:
            raise ProbeError(
                f"{site.fqn}: {call.queries} queries and {call.keys} keys in {call.batch} rows do not fit "
                f"{layout.batch} clips of {layout.frames} frames"
            )

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        if removal is Removal.MASK:
            return not_own_frame(module, gate)
        return own_frame(module, gate) if site.path.endswith("attn1") else value_only(module, gate)

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        like = {"device": denoiser.device, "dtype": denoiser.dtype}
        return {
            "sample": torch.randn(batch, config.in_channels, frames, height, width, **like),
            "timestep": torch.full((batch,), 500.0, device=denoiser.device),
            "encoder_hidden_states": torch.randn(batch, text or 77, config.cross_attention_dim, **like),
        }
