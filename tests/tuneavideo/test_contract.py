"""The Tune-A-Video adapter under the contract."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from tiny_tuneavideo import unet
from torch import Tensor, nn

from f3core.calls import SdpaCall
from f3core.contract import Change
from f3core.explicit import Intercept, attention_weights
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Removal
from f3core.testing import AdapterContract


class TestTuneAVideo(AdapterContract):
    adapter = TuneAVideoAdapter()
    component = "unet"

    def build(self) -> nn.Module:
        return unet()

    def _oracle(self, denoiser: nn.Module, inputs: Mapping[str, Any], change: Change) -> list[Tensor]:
        """As the contract's, but that SC-Attn, which has no own-frame keys to keep, gets them for self_only."""
        if change != (AttentionKind.TEMPORAL, Removal.SELF_ONLY):
            return super()._oracle(denoiser, inputs, change)
        own: dict[str, Tensor] = {}

        def attend(site: AttentionSite, shape: AttentionCall, call: SdpaCall, run: Any) -> Tensor:
            if site.path.endswith("attn_temp"):
                gone = ~torch.eye(shape.keys, dtype=torch.bool)[None]
                value = call.value
            else:
                gone, value = None, own["to_v"]
                call = SdpaCall(call.query, own["to_k"], value)
            return (attention_weights(call, gone) @ value.double()).to(value.dtype)

        with ExitStack() as stack:
            sites = [site for site in self._sites(denoiser) if AttentionKind.TEMPORAL in site.kinds]
            for site in sites:
                for name in ("to_k", "to_v"):

                    def keep(module: nn.Module, args: Any, out: Tensor, name: str = name) -> None:
                        own[name] = out.unflatten(2, (2, -1)).transpose(1, 2)

                    stack.callback(denoiser.get_submodule(f"{site.path}.{name}").register_forward_hook(keep).remove)
            stack.enter_context(Intercept(attend).at(denoiser, sites))
            return self._run(denoiser, inputs)
