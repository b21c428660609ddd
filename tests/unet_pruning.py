"""What tests of pruned U-Nets share: plans of blocks, and U-Nets whose blocks are skipped by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from f3core.adapter import Adapter
from f3core.block import Block, Stage
from f3core.contract import distance, tensors
from f3core.meta import share_copy
from f3core.plan import PruningPlan, StepRange, Verdict
from f3core.sites import PruningAxis, Removal, Structure
from f3core.skipping import Skip
from f3core.surgery import Pruned, apply_plan_


def block_plan(adapter: Adapter, blocks: Sequence[Block], gone: Collection[str]) -> PruningPlan:
    """The plan by which the blocks at these paths go, each a unit of its own."""
    units = [
        Verdict(name=b.fqn, sites=(b.fqn,), ranges=(0,), score=0.0, pruned=b.path in gone, macs_saved=0) for b in blocks
    ]
    return PruningPlan(
        adapter=adapter.name,
        method="listed",
        criterion="order",
        target=Structure.BLOCK,
        axis=PruningAxis.LAYER,
        ratio=len(gone) / len(blocks),
        step_ranges=(StepRange(),),
        removals={block.fqn: Removal.DROP for block in blocks},
        units=tuple(units),
        passes={},
        macs_before=0,
        macs_after=0,
    )


def pruned(adapter: Adapter, denoiser: nn.Module, gone: Collection[str]) -> Any:
    """A copy, on the same weights, without the blocks at these paths."""
    copied = share_copy(denoiser)
    apply_plan_(copied, block_plan(adapter, adapter.blocks(denoiser, "unet"), gone), adapter, "unet")
    return copied


def vdmini(blocks: Sequence[Block]) -> set[str]:
    """Paths of what VDMini's rule takes out (arXiv 2411.18375): the second pair of every down and up block but the
    second-deepest, and the deepest whole, with the mid block."""
    deepest = max(block.level for block in blocks)
    second = {block.level for block in blocks if block.stage is Stage.DOWN and block.number == 1} - {deepest - 1}
    return {b.path for b in blocks if b.level == deepest or (b.number == 1 and b.level in second)}


def drawn(blocks: Sequence[Block], chosen: Collection[str]) -> set[str]:
    """Those of the chosen that can go, without what needs others that were not chosen."""
    able = {block.path for block in blocks if not block.fixed and block.path in chosen}
    return {block.path for block in blocks if block.path in able and able.issuperset(block.needs)}


@contextmanager
def skipped_by_hand(denoiser: nn.Module, gone: Collection[str]) -> Iterator[None]:
    """While active, every module of these blocks hands on the hidden state that it is given, as wide as what it would
    have made of it."""

    def hand_on(module: nn.Module, args: Any, kwargs: Mapping[str, Any], made: Any) -> Any:
        given = args[0] if args else next(kwargs[name] for name in ("hidden_states", "input_tensor") if name in kwargs)
        if isinstance(made, tuple):
            return (given,)
        samples = "sampl" in type(module).__name__.lower()
        return given if samples else given[:, : made.shape[1]]

    with ExitStack() as stack:
        for path in modules_of(denoiser, gone):
            module = denoiser.get_submodule(path)
            stack.callback(module.register_forward_hook(hand_on, with_kwargs=True).remove)
        yield


def modules_of(denoiser: nn.Module, gone: Collection[str]) -> list[str]:
    """Paths of the modules of these blocks."""
    found = [path for path in gone if path == "mid_block"]
    if "samplers" in gone:
        found += [f"down_blocks.{len(denoiser.down_blocks) - 2}.downsamplers.0", "up_blocks.0.upsamplers.0"]  # type: ignore[arg-type]
    for path in gone:
        stage, _, number = path.partition(".pairs.")
        if number:
            lists = denoiser.get_submodule(stage).named_children()
            found += [f"{stage}.{name}.{number}" for name, _ in lists if "sampl" not in name]
    return found


def run(denoiser: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        return tensors(denoiser(**inputs))


def check_pruned(adapter: Adapter, denoiser: nn.Module, inputs: Mapping[str, Any], gone: Collection[str]) -> Any:
    """The pruned U-Net computes what the whole one does whose blocks are skipped by hand, and comes back from its
    config and weights, strictly, on meta too."""
    with skipped_by_hand(denoiser, gone):
        expected = run(denoiser, inputs)
    left = pruned(adapter, denoiser, gone)
    made = run(left, inputs)
    off = distance(made, expected)
    assert off <= 1e-5, f"without {sorted(gone)} it is off by {off:.1e}"
    again = rebuilt(left)
    again.load_state_dict(left.state_dict(), strict=True)
    assert distance(run(again.eval(), inputs), made) == 0
    assert modules(again) == modules(left)
    assert left.down_blocks[-1].downsamplers is None
    if not isinstance(left, Pruned):
        assert not any(isinstance(module, Skip) for module in left.modules())
    return left


def rebuilt(denoiser: Any) -> Any:
    """What its class makes of its config, which a plan may be in."""
    return type(denoiser).from_config(dict(denoiser.config))


def modules(model: nn.Module) -> dict[str, str]:
    return {path: type(module).__name__ for path, module in model.named_modules()}


def pairs_left(denoiser: Any) -> list[list[int]]:
    """How many pairs the down blocks run, the outermost first, and the up blocks of the same levels."""
    found = [
        [sum(not isinstance(resnet, Skip) for resnet in stage.resnets) for stage in stages]
        for stages in (denoiser.down_blocks, reversed(denoiser.up_blocks))
    ]
    return found


def check_backward(denoiser: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Every parameter gets a gradient."""
    denoiser.requires_grad_(True)
    sum(out.float().square().mean() for out in tensors(denoiser(**inputs))).backward()  # type: ignore[union-attr]
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        parameter.grad = None
