"""Quality metrics of generated video, as papers report them.

FVD over any feature network, CLIP scores against the caption and between frames, and PSNR, SSIM and LPIPS against
another clip each. Some need more than f3core does: torchmetrics (``f3core[metrics]``) or transformers
(``f3core[diffusers]``).
"""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_metrics() -> list[Entry]:
    return [
        Entry("fvd", "f3core_metrics.fvd:FVD", "Fréchet video distance to other clips; features: zoo:judge, i3d, ..."),
        Entry("clip_text", "f3core_metrics.clip:ClipText", "100 x cosine of frames and caption, by CLIP or SigLIP"),
        Entry("clip_image", "f3core_metrics.clip:ClipImage", "100 x cosine of a clip's frames with each other"),
        Entry("psnr", "f3core_metrics.drift:PSNR", "decibels against the same noise's other clip, 100 at most"),
        Entry("ssim", "f3core_metrics.drift:SSIM", "structural similarity to the same noise's other clip"),
        Entry("lpips", "f3core_metrics.drift:LPIPS", "perceptual distance to the same noise's other clip"),
    ]


@hookimpl
def f3core_features() -> list[Entry]:
    return [
        Entry("i3d", "f3core_metrics.networks:I3D", "I3D of Kinetics-400: path of i3d_torchscript.pt"),
        Entry("videomae", "f3core_metrics.networks:VideoMAE", "a VideoMAE checkpoint: folder or hub id as model"),
    ]
