"""The blocks of a U-Net: pairs of a ResNet and what follows it (attention, motion module), the mid block, and what
samples down to the innermost level and up again.

A stage of a U-Net is its down block, or its up block, of one level. Levels count from the outermost, of the full
resolution, so ``up_blocks`` count the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from f3core.block import Block, Part, Stage
from f3core.skipping import Skip

PAIRED = ("resnets", "temp_convs", "attentions", "temp_attentions", "motion_modules")
"""lists of a stage whose modules of one number are a pair, in the order in which they run"""


def stages(denoiser: nn.Module, name: str) -> list[nn.Module]:
    """The down blocks, or the up blocks, in the order in which they run."""
    return list(denoiser.get_submodule(name))  # type: ignore[arg-type]


def paired(stage: nn.Module) -> list[str]:
    """Names of a stage's lists whose modules of one number are a pair, in the order in which they run."""
    return [name for name in PAIRED if getattr(stage, name, None) is not None]


def sampler(stage: nn.Module, name: str) -> nn.Module | None:
    """The only one of a stage's ``downsamplers`` or ``upsamplers``; None where there is none."""
    found = getattr(stage, name, None)
    return None if not found else found[0]


def gone(module: nn.Module | None) -> bool:
    """Whether nothing runs there, or nothing any more."""
    return module is None or isinstance(module, Skip)


def handed_width(resnet: Any) -> int:
    """Channels that a ResNet hands on, whether it works frame by frame or over frames too."""
    width: int = getattr(resnet, "spatial_res_block", resnet).out_channels
    return width


def unet_blocks(denoiser: nn.Module, component: str) -> list[Block]:
    """Every block that is left of a U-Net, in the order in which they end.

    Those of the innermost level have one index: its pairs, the mid block, and, where it is not the only level, as one
    more block behind them its samplers, which can go only with all others. A pair that hands on another width than it
    is given is fixed, as what comes behind it takes that width.
    """
    down, up = stages(denoiser, "down_blocks"), stages(denoiser, "up_blocks")
    deepest = len(down) - 1
    walk = _Walk(component, int(denoiser.conv_in.out_channels))  # type: ignore[union-attr, arg-type]
    for level, stage in enumerate(down):
        walk.stage(stage, f"down_blocks.{level}", Stage.DOWN, level)
    inner = [block for block in walk.found if block.level == deepest]
    outer = [block for block in walk.found if block.level < deepest]
    walk.found = inner
    if not gone(getattr(denoiser, "mid_block", None)):
        inner.append(Block(component, "mid_block", 0, (Part("mid_block"),), Stage.MID, deepest))
    walk.stage(up[0], "up_blocks.0", Stage.UP, deepest)
    inner += _samplers(denoiser, component, inner)
    walk.found = []
    for number, stage in enumerate(up[1:], 1):
        walk.stage(stage, f"up_blocks.{number}", Stage.UP, deepest - number)
    placed = [*enumerate(outer), *((len(outer), block) for block in inner), *enumerate(walk.found, len(outer) + 1)]
    return [replace(block, index=index) for index, block in placed]


@dataclass
class _Walk:
    """Goes through a U-Net with the width of the hidden state, and gathers pairs as it meets them."""

    component: str
    width: int

    def __post_init__(self) -> None:
        self.found: list[Block] = []

    def stage(self, stage: nn.Module, path: str, where: Stage, level: int) -> None:
        for number, resnet in enumerate(stage.resnets):  # type: ignore[arg-type]
            if gone(resnet):
                continue
            before, self.width = self.width, handed_width(resnet)
            given = self.width if where is Stage.UP else None  # a skip connection's channels come behind
            first, *rest = (f"{path}.{name}.{number}" for name in paired(stage))
            self.found.append(
                Block(
                    self.component,
                    f"{path}.pairs.{number}",
                    0,
                    (Part(first, channels=given), *map(Part, rest)),
                    where,
                    level,
                    number,
                    fixed=None if before == self.width else f"it changes the width from {before} to {self.width}",
                )
            )


def _samplers(denoiser: nn.Module, component: str, inner: list[Block]) -> list[Block]:
    """What samples down to the innermost level and up again, where it is still there. ``inner``: the other blocks."""
    down, up = stages(denoiser, "down_blocks"), stages(denoiser, "up_blocks")
    if len(down) < 2 or gone(sampler(down[-2], "downsamplers")) or gone(sampler(up[0], "upsamplers")):
        return []
    stuck = [block.path for block in inner if block.fixed]
    samplers = Block(
        component,
        "samplers",
        0,
        (Part(f"down_blocks.{len(down) - 2}.downsamplers.0"), Part("up_blocks.0.upsamplers.0")),
        Stage.MID,
        len(down) - 1,
        number=1,
        needs=tuple(block.path for block in inner),
        fixed=f"all between them has to go too, and {stuck[0]} cannot" if stuck else None,
    )
    return [samplers]
