"""Taking skipped blocks out of U-Nets: only where every pair that stays takes the skip connection that it took.

A U-Net puts what each pair of its down blocks, and each downsampler, hands on onto a pile, and each pair of its up
blocks takes the uppermost. A pair that is skipped (`f3core.skipping.Skip`) puts on, or takes, all the same; one that is
taken out does not. So a level may lose as many pairs going down as going up, if they lie so that the pairs between are
served as before: of the second pairs, what the first one going up takes is now the first one's going down, and the
third, the second one now, takes what it took (BK-SDM's rule, arXiv 2305.15798).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from f3core.skipping import Skip
from f3core_diffusers.compacting import become_smaller_
from f3core_diffusers.unet_blocks import gone, paired, sampler, stages

PER_LEVEL = (
    "down_block_types",
    "block_out_channels",
    "cross_attention_dim",
    "num_attention_heads",
    "attention_head_dim",
    "transformer_layers_per_block",
    "temporal_transformer_layers_per_block",
    "motion_num_attention_heads",
)
"""entries of configs that may have a value for each level, the outermost first"""
INNER_FIRST = (
    "up_block_types",
    "reverse_transformer_layers_per_block",
    "reverse_temporal_transformer_layers_per_block",
    "reverse_motion_num_attention_heads",
)
"""likewise, the innermost first"""

Source = tuple[Any, int]
"""What lies on the pile of skip connections: which module made it, and the level of its resolution"""


def compact_unet_(denoiser: nn.Module) -> bool:
    """Take what is skipped out of a U-Net, level by level, where what stays then computes the same: see `Adapter`.

    An innermost level that is skipped whole leaves with its down and up block. A mid block that is skipped stays as
    such, unless the class's config can leave it out (``mid_block_type``). True where the class's own config then says
    all that is left, altered so.
    """
    levels = len(stages(denoiser, "down_blocks"))
    while _innermost_is_gone(denoiser):
        _drop_innermost_(denoiser)
    for level in range(len(stages(denoiser, "down_blocks"))):
        _shorten_(denoiser, level)
    if "mid_block_type" in denoiser.config and gone(denoiser.mid_block):  # type: ignore[operator, arg-type]
        denoiser.mid_block = None
    if any(isinstance(module, Skip) for module in denoiser.modules()):
        return False
    return become_smaller_(denoiser, _config(denoiser, levels))


def takes(denoiser: nn.Module) -> list[tuple[Any, Source]]:
    """Of every pair of the up blocks that is not skipped, in order, and the pair itself, what it takes off the pile;
    of every upsampler, the resolution that it grows to. Raises IndexError where the pile is too low.

    At the end comes what is left on the pile, under None.
    """
    pile, found = [("conv_in", 0)], []
    down = stages(denoiser, "down_blocks")
    for level, stage in enumerate(down):
        for resnet in stage.resnets:  # type: ignore[union-attr]
            pile.append(pile[-1] if gone(resnet) else (resnet, level))
        below = sampler(stage, "downsamplers")
        if below is not None:
            pile.append(pile[-1] if gone(below) else (below, level + 1))
    for stage in stages(denoiser, "up_blocks"):
        for resnet in stage.resnets:  # type: ignore[union-attr]
            taken = pile.pop()
            if not gone(resnet):
                found.append((resnet, taken))
        above = sampler(stage, "upsamplers")
        if above is not None and not gone(above):
            found.append((above, ("grows", pile[-1][1])))
    return [*found, *((None, left) for left in pile)]


def _innermost_is_gone(denoiser: nn.Module) -> bool:
    down, up = stages(denoiser, "down_blocks"), stages(denoiser, "up_blocks")
    if len(down) < 2:
        return False
    between = (sampler(down[-2], "downsamplers"), denoiser.mid_block, sampler(up[0], "upsamplers"))
    return all(map(gone, (*between, *down[-1].resnets, *up[0].resnets)))  # type: ignore[misc, arg-type]


def _drop_innermost_(denoiser: nn.Module) -> None:
    """The level above is the innermost one then, so that its down block ends without a downsampler."""
    down, up = stages(denoiser, "down_blocks")[:-1], stages(denoiser, "up_blocks")[1:]
    down[-1].downsamplers = None
    for number, stage in enumerate(up):
        if hasattr(stage, "resolution_idx"):
            stage.resolution_idx = number
    denoiser.down_blocks, denoiser.up_blocks = nn.ModuleList(down), nn.ModuleList(up)
    if hasattr(denoiser, "num_upsamplers"):
        denoiser.num_upsamplers -= 1


def _shorten_(denoiser: nn.Module, level: int) -> None:
    """Take the skipped pairs out of one level's down and up block, or leave both as they are.

    No up block is emptied, which diffusers could not run: what the downsampler before it, or the first convolution, put
    on the pile would be left there.
    """
    both = stages(denoiser, "down_blocks")[level], stages(denoiser, "up_blocks")[-1 - level]
    kept = [[i for i, resnet in enumerate(stage.resnets) if not gone(resnet)] for stage in both]  # type: ignore[arg-type]
    before, wanted = [_lists(stage) for stage in both], takes(denoiser)
    for stage, numbers in zip(both, kept, strict=True):
        for name, modules in _lists(stage).items():
            setattr(stage, name, nn.ModuleList([modules[i] for i in numbers]))
    if not _serves(denoiser, wanted):
        for stage, lists in zip(both, before, strict=True):
            for name, modules in lists.items():
                setattr(stage, name, modules)


def _lists(stage: nn.Module) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in paired(stage)}


def _serves(denoiser: nn.Module, wanted: Sequence[tuple[Any, Source]]) -> bool:
    try:
        return takes(denoiser) == wanted
    except IndexError:
        return False


def _config(denoiser: nn.Module, levels: int) -> dict[str, Any]:
    """The entries of its config that say what is left of a U-Net that had so many levels."""
    down, config = stages(denoiser, "down_blocks"), denoiser.config
    left, found = len(down), dict[str, Any]()
    for name in (*PER_LEVEL, *INNER_FIRST):
        value = config.get(name)  # type: ignore[operator]
        if left < levels and isinstance(value, list | tuple) and len(value) == levels:
            found[name] = value[levels - left :] if name in INNER_FIRST else value[:left]
    pairs = [len(stage.resnets) for stage in down]  # type: ignore[arg-type]
    found["layers_per_block"] = pairs[0] if len(set(pairs)) == 1 else pairs
    if "mid_block_type" in config and denoiser.mid_block is None:  # type: ignore[operator]
        found["mid_block_type"] = None
    return found
