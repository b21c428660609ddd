"""Weights from elsewhere: published Tune-A-Video checkpoints, and 2-D Stable Diffusion U-Nets to inflate."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from f3core_tuneavideo.unet import TuneAVideoUNet


def unet_from_config(config: Mapping[str, Any]) -> TuneAVideoUNet:
    """A randomly initialised U-Net from a published config, or a diffusers 2-D one. Unknown entries must be unset.

    Raises ValueError for an option that this U-Net does not have.
    """
    known = set(inspect.signature(TuneAVideoUNet.__init__).parameters) - {"self"}
    given = {}
    for name, value in config.items():
        if name in known:
            given[name] = _in_3d(value) if name.endswith("block_types") or name == "mid_block_type" else value
        elif not name.startswith("_") and value not in _UNUSED.get(name, (None, False)):
            raise ValueError(f"TuneAVideoUNet: no option {name}={value!r}")
    return TuneAVideoUNet(**given)


_UNUSED: dict[str, tuple[Any, ...]] = {
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "time_embedding_type": ("positional",),
    "addition_embed_type_num_heads": (64,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "attention_type": ("default",),
    "dropout": (0.0,),
    "cross_attention_norm": (None,),
    "num_attention_heads": (None,),
}
"""values that change nothing, of options that only diffusers' 2-D U-Net has; None and False for the rest"""


def _in_3d(value: Any) -> Any:
    """Block names of the 2-D U-Net under the published names of their inflated kind; None for a block left out."""
    if value is None:
        return None
    return value.replace("2D", "3D") if isinstance(value, str) else tuple(_in_3d(v) for v in value)


def load_published(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> TuneAVideoUNet:
    """The U-Net of a published checkpoint, strictly: every parameter must be there, and no other.

    ``config`` is ``unet/config.json``, or a mapping that holds it under ``unet``. Raises RuntimeError (torch's) when
    names or shapes differ.
    """
    model = unet_from_config(config.get("unet", config))
    model.load_state_dict(dict(state_dict), strict=True)
    return model


def inflate(unet: UNet2DConditionModel) -> TuneAVideoUNet:
    """A clip U-Net that does to clips of equal frames what ``unet`` does to the frame.

    Weights are copied; each ``attn_temp`` is fresh, its output map all zeros, so that tuning starts from the 2-D
    model. (The published code leaves a random bias there.) Raises ValueError for a U-Net of another architecture.
    """
    model = unet_from_config(unet.config)
    missing, unexpected = model.load_state_dict(unet.state_dict(), strict=False)
    wrong = [*unexpected, *(name for name in missing if ".attn_temp." not in name and ".norm_temp." not in name)]
    if wrong:
        raise ValueError(f"this U-Net cannot be inflated: {wrong[0]} has no counterpart")
    for name, module in model.named_modules():
        if name.endswith("attn_temp.to_out.0"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model.to(dtype=unet.dtype, device=unet.device)
