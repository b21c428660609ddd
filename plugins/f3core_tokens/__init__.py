"""Token reduction: the baselines that F3-Pruning compares itself with (arXiv 2312.03459, tables 1 and 2).

All without training: they make the keys and values of temporal attention fewer at every forward, and pay for choosing
them there.
"""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_methods() -> list[Entry]:
    home = "f3core_tokens.methods"
    return [
        Entry("tome", f"{home}:ToMe", "merge keys that resemble each other (ToMe)"),
        Entry("tomesd", f"{home}:ToMeSD", "merge keys, or a frame's tokens, into random ones of a grid (ToMeSD)"),
        Entry("token_pruning", f"{home}:TokenPruning", "keep the keys that receive most attention (DynamicViT)"),
        Entry("evit", f"{home}:EViT", "keep the keys that receive most attention, fuse the rest into one (EViT)"),
        Entry("tps", f"{home}:TPS", "keep the keys that receive most attention, squeeze the rest into them (TPS)"),
    ]
