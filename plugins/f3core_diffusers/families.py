"""Every family of models with an adapter here. Imports neither torch nor diffusers, so that specs are checked fast."""

from __future__ import annotations

from collections.abc import Mapping

from f3core.hookspecs import AdapterEntry
from f3core.sites import AttentionKind, Removal

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL

FULL_3D = {TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.MASK,), CA: (Removal.DROP,)}
"""self-attention over all frames at once, and cross-attention to text"""
JOINT = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,), CA: (Removal.OMIT,)}
"""text and all frames in one sequence"""
CASCADED = {TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.DROP, Removal.MASK), CA: (Removal.DROP,)}
"""attention inside frames, to text and over frames, one module each"""
CHUNKS = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,), CA: (Removal.DROP,)}
"""the past and a chunk in one sequence, and cross-attention to text"""
TEXT_ONLY = {CA: (Removal.DROP,)}
"""cross-attention to text; what mixes frames is no softmax attention"""


def _family(
    name: str,
    adapter: str,
    summary: str,
    removals: Mapping[AttentionKind, tuple[Removal, ...]],
    *model_classes: str,
) -> AdapterEntry:
    """``adapter`` is module:class in this package."""
    return AdapterEntry(name, f"f3core_diffusers.{adapter}", summary, model_classes, removals=removals)


FAMILIES = [
    _family("allegro", "allegro:AllegroAdapter", "Allegro", FULL_3D, "AllegroTransformer3DModel"),
    _family("animatediff", "animatediff:AnimateDiffAdapter", "AnimateDiff", CASCADED, "UNetMotionModel"),
    _family("anyflow", "anyflow:AnyFlowAdapter", "AnyFlow", FULL_3D, "AnyFlowTransformer3DModel"),
    _family("chronoedit", "chronoedit:ChronoEditAdapter", "ChronoEdit", FULL_3D, "ChronoEditTransformer3DModel"),
    _family("cogvideox", "cogvideox:CogVideoXAdapter", "CogVideoX 1.0 and 1.5", JOINT, "CogVideoXTransformer3DModel"),
    _family("consisid", "consisid:ConsisIDAdapter", "ConsisID", JOINT, "ConsisIDTransformer3DModel"),
    _family("cosmos", "cosmos:CosmosAdapter", "Cosmos 1.0, Predict2 and 2.5", FULL_3D, "CosmosTransformer3DModel"),
    _family("easyanimate", "easyanimate:EasyAnimateAdapter", "EasyAnimate", JOINT, "EasyAnimateTransformer3DModel"),
    _family("helios", "helios:HeliosAdapter", "Helios", CHUNKS, "HeliosTransformer3DModel"),
    _family(
        "hunyuan-video",
        "hunyuan_video:HunyuanVideoAdapter",
        "HunyuanVideo, text and image to video",
        JOINT,
        "HunyuanVideoTransformer3DModel",
    ),
    _family(
        "hunyuan-video-1.5",
        "hunyuan_video15:HunyuanVideo15Adapter",
        "HunyuanVideo 1.5, text and image to video",
        JOINT,
        "HunyuanVideo15Transformer3DModel",
    ),
    _family(
        "hunyuan-video-framepack",
        "hunyuan_framepack:HunyuanFramepackAdapter",
        "FramePack, HunyuanVideo section by section",
        {TA: JOINT[TA], SA: JOINT[SA]},
        "HunyuanVideoFramepackTransformer3DModel",
    ),
    _family("i2vgen-xl", "i2vgen_xl:I2VGenXLAdapter", "I2VGen-XL", CASCADED, "I2VGenXLUNet"),
    _family("kandinsky5", "kandinsky5:Kandinsky5Adapter", "Kandinsky 5.0", FULL_3D, "Kandinsky5Transformer3DModel"),
    _family("latte", "latte:LatteAdapter", "Latte", CASCADED, "LatteTransformer3DModel"),
    _family("ltx", "ltx:LTXAdapter", "LTX-Video", FULL_3D, "LTXVideoTransformer3DModel"),
    _family("ltx2", "ltx2:LTX2Adapter", "LTX-2 to 2.5, the video", FULL_3D, "LTX2VideoTransformer3DModel"),
    _family("mochi", "mochi:MochiAdapter", "Mochi", JOINT, "MochiTransformer3DModel"),
    _family(
        "motif-video",
        "motif_video:MotifVideoAdapter",
        "Motif-Video, text and image to video",
        {**JOINT, CA: (Removal.OMIT, Removal.DROP)},
        "MotifVideoTransformer3DModel",
    ),
    _family("sana-video", "sana_video:SanaVideoAdapter", "SANA-Video", TEXT_ONLY, "SanaVideoTransformer3DModel"),
    _family("skyreels-v2", "skyreels_v2:SkyReelsV2Adapter", "SkyReels-V2", FULL_3D, "SkyReelsV2Transformer3DModel"),
    _family("svd", "svd:SVDAdapter", "Stable Video Diffusion", CASCADED, "UNetSpatioTemporalConditionModel"),
    _family("unet3d", "unet3d:UNet3DAdapter", "ModelScope and ZeroScope", CASCADED, "UNet3DConditionModel"),
    _family("wan", "wan:WanAdapter", "Wan 2.1 and 2.2", FULL_3D, "WanTransformer3DModel"),
    _family("wan-animate", "wan_animate:WanAnimateAdapter", "Wan Animate", FULL_3D, "WanAnimateTransformer3DModel"),
    _family("wan-vace", "wan_vace:WanVACEAdapter", "Wan VACE", FULL_3D, "WanVACETransformer3DModel"),
]

UNSUPPORTED: dict[str, str] = {
    "AnyFlowFARTransformer3DModel": "its causal self-attention is flex attention under a block mask of a whole clip, "
    "which takes no other keys, and fills a cache that later chunks read",
    "Cosmos3OmniTransformer": "it packs text, frames and, where asked, sound and actions into one sequence without a "
    "batch, and each attention makes two calls, a causal one of the text and one of the rest, which cannot be "
    "restricted apart",
    "Kandinsky6SRTransformer3DModel": "its self-attention is flex attention under a block mask that every call chooses "
    "from the queries and keys of all frames, which can be neither scored nor restricted to other keys, and it "
    "enlarges tiles of a given video",
    "MiniMaxH3Transformer3DModel": "it packs text, given pictures, audio and video into one sequence, whose frames a "
    "forward tells by rotary coordinates alone, which a given first picture has too, and no DiffusionPipeline runs it",
    "SanaWMLTX2RefinerTransformer3DModel": "its self-attention reads keys of earlier frames from a cache that forwards "
    "of their own fill, a forward does not tell how many frames its tokens are, and it refines another model's latents",
    "SanaWMTransformer3DModel": "its frames mix by a gated delta rule with a state, which has no map over keys, but in "
    "every fourth block, which attends twice, once in the rays of a camera path, and in bfloat16 whatever the model's "
    "dtype, and its pipeline makes no clip without such a path",
    "WanAnimate2Transformer3DModel": "its self-attention runs over padded buffers of a clip and its reference under a "
    "block mask of flex attention, which takes no other keys, and no DiffusionPipeline runs it",
}
"""Denoisers of diffusers that cannot be pruned soundly, and why, as a clause without a full stop."""
