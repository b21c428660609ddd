"""The branches of classifier-free guidance in one forward: rows taken apart and joined again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from f3core.errors import ModelError
from f3core.sites import GuidanceBranch

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.job import Job


def check_branch(job: Job, adapter: Adapter, pipeline: Any) -> None:
    """Raises `SpecError` when the spec prunes one branch, and the adapter cannot tell branches apart or the generation
    has no second one."""
    place, branch = ("prune", "branch"), job.file.spec.prune.branch
    if branch is GuidanceBranch.BOTH:
        return
    if not adapter.tells_branches_in(pipeline):
        message = f"adapter {adapter.name!r} cannot tell the branches of guidance in the calls of this pipeline"
        raise job.file.error(place, f"{message} ({type(pipeline).__name__}) apart; prune both")
    if all(len(adapter.branches(pipeline, name, job.call)) == 1 for name in adapter.denoisers(pipeline)):
        message = f"generation is unguided and has no {branch} branch; raise model.call.guidance_scale, or prune both"
        raise job.file.error(place, message)


def runs(rows: range, batch: int) -> list[tuple[range, bool]]:
    """The rows of a batch in turn, cut where ``rows`` begin and end; and of each piece, whether it is of them."""
    pieces = ((range(rows.start), False), (rows, True), (range(rows.stop, batch), False))
    return [(piece, inside) for piece, inside in pieces if piece]


def take_rows(tree: Any, batch: int, rows: range) -> Any:
    """A copy of a pytree with ``rows`` alone of every tensor in it that has ``batch`` of them."""

    def taken(tensor: Tensor) -> Tensor:
        return tensor[rows.start : rows.stop] if tensor.ndim and tensor.shape[0] == batch else tensor

    return tree_map_only(Tensor, taken, tree)


def join_rows(outputs: Sequence[Any], sizes: Sequence[int]) -> Any:
    """The pytree that a forward over all rows returns, of those over ``sizes`` of them each.

    Raises `ModelError` where something that depends on the rows is no tensor of so many.
    """

    def joined(*parts: Any) -> Any:
        if all(isinstance(p, Tensor) and p.shape[:1] == (size,) for p, size in zip(parts, sizes, strict=True)):
            return torch.cat(parts)
        if any(isinstance(part, Tensor) or part != parts[0] for part in parts):
            kind = type(parts[0]).__name__
            raise ModelError(f"what a denoiser returns for each branch of guidance cannot be joined: {kind}")
        return parts[0]

    return tree_map(joined, *outputs)
