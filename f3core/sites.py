"""The vocabulary of the engine: where attention lives, what it relates, and what may be done to it.

Frozen values only. Nothing here imports torch, so that specs and plans can be checked without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TEXT = -1
"""Segment number of text (and other conditioning) tokens; frames count from 0."""

FORWARD = "forward"
"""The kind of every forward of a model whose forwards all cost the same."""


class Word(str, Enum):
    """An enum whose members print as the word a spec uses."""

    def __str__(self) -> str:
        return str(self.value)


class AttentionKind(Word):
    """What a (query token, key token) pair relates; a property of pairs, not of modules."""

    CROSS = "CA"
    SELF = "SA"
    TEMPORAL = "TA"


class Structure(Word):
    """What a plan can take away beside a kind of attention."""

    BLOCK = "block"
    """whole blocks of a denoiser: attention, feed-forward, convolutions and all"""


Target = AttentionKind | Structure
"""What a plan takes away."""


def target_of(word: str) -> Target:
    """The target that a spec or a file names by this word. Raises ValueError for an unknown one."""
    return Structure(word) if word in {str(member) for member in Structure} else AttentionKind(word)


KINDS = (AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL)
"""The order of the kinds wherever they index an array."""


class PruningAxis(Word):
    """What goes together when a unit is pruned."""

    LAYER = "layer"
    """the sites of one layer, over all steps"""
    TIMESTEP = "timestep"
    """all sites of the target kind, over one step range"""
    CELL = "cell"
    """one site over one step range"""


class GuidanceBranch(Word):
    """Of which branch of classifier-free guidance (Ho and Salimans, 2022) a plan prunes the forwards."""

    BOTH = "both"
    UNCONDITIONAL = "unconditional"
    """the one without the caption (or with the negative prompt) alone"""


class Removal(Word):
    """How the target kind leaves a site."""

    SELF_ONLY = "self_only"
    """keep same-frame (and text) keys, softmax renormalised over them (F3-Pruning, eq. 4)"""
    OMIT = "omit"
    """the kind's keys are left out of the calls; the module attends over the rest, softmax renormalised"""
    DROP = "drop"
    """the whole module goes, with its companions and parameters"""
    MASK = "mask"
    """an ablation: the kind's keys are masked; no computation is saved"""
    REDUCE = "reduce"
    """the kind's keys and values are made fewer at every forward, by the plan's method; queries and other keys stay"""
    MERGE = "merge"
    """tokens of each frame are merged before the module, and its output copied back, by the plan's method"""

    @property
    def own(self) -> bool:
        """Whether it is a method's own, which sites do not list."""
        return self in (Removal.REDUCE, Removal.MERGE)


class Place:
    """What an attention site and a block have in common: a name, and what can be taken away there."""

    component: str
    path: str
    removals: Mapping[Any, tuple[Removal, ...]]
    lasting: Mapping[Any, tuple[Removal, ...]]

    @property
    def fqn(self) -> str:
        """Dotted name in the pipeline, the place's identity in scores and plans."""
        return f"{self.component}.{self.path}"

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of all modules that go, or change, with it."""
        raise NotImplementedError

    def can(self, target: Target, removal: Removal) -> bool:
        """Whether a removal of a target is sound here."""
        return removal in self.ways(target)

    def ways(self, target: Target) -> tuple[Removal, ...]:
        """The removals of a target that are sound here, the default first."""
        return self.removals.get(target, ())

    def gated(self, target: Target) -> tuple[Removal, ...]:
        """The removals of a target that may be done at some steps only, the default first."""
        return tuple(r for r in self.removals.get(target, ()) if r not in self.lasting.get(target, ()))


@dataclass(frozen=True)
class AttentionSite(Place):
    """One attention module of a denoiser.

    ``component`` names the denoiser in its pipeline, ``path`` the module in the denoiser (dotted), ``index`` the
    place on the layer axis. ``removals`` lists, per kind, what is sound here, the default first; a kind that is
    absent cannot be pruned here. ``companions`` are paths of modules that are dead once the site is dropped.
    ``output`` is the path, inside the module, of the linear map behind the attention (W_o), if there is one.
    ``rekeyed``: where TA goes, frames get keys that they did not have before (an attention to other frames alone gets
    its own), so that what stays is no part of what was.
    ``framed``: its forward takes tokens [rows, S, C] of one frame a row, and may be run on fewer of them.
    ``lasting`` lists, per kind, those removals that are sound only at every step or none, because another step needs
    what the site computes in this one (keys that it puts into a cache).
    ``bypass``: once dropped, the site hands on its first argument (it mixes into what it is given) instead of zeros (a
    residual branch).
    """

    component: str
    path: str
    index: int
    kinds: tuple[AttentionKind, ...]
    removals: Mapping[AttentionKind, tuple[Removal, ...]] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    output: str | None = None
    rekeyed: bool = False
    framed: bool = False
    bypass: bool = False
    lasting: Mapping[AttentionKind, tuple[Removal, ...]] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """The module and its companions."""
        return (self.path, *self.companions)

    def can(self, target: Target, removal: Removal) -> bool:
        """Whether a removal of a kind is sound here: one that is listed, or one of a method's own."""
        if removal is Removal.REDUCE:
            return target is AttentionKind.TEMPORAL and Removal.SELF_ONLY in self.removals.get(target, ())
        if removal is Removal.MERGE:
            return target is AttentionKind.SELF and self.framed
        return super().can(target, removal)


def lasts(fqn: str, target: Target, removal: Removal) -> str:
    """Why a plan that prunes ``fqn`` in some forwards only is refused."""
    return (
        f"{fqn} can lose {target} by {removal} at every step or at none, because other steps need what it computes; "
        "choose axis: layer with both branches of guidance, or another removal"
    )


def scope(target: Target, branch: GuidanceBranch) -> str:
    """What a plan prunes, in words: ``TA``, ``TA of the unconditional branch``."""
    return str(target) if branch is GuidanceBranch.BOTH else f"{target} of the {branch} branch"


@dataclass(frozen=True)
class Layout:
    """Token layout of one denoiser forward: ``frames`` latent frames of ``tokens`` visual tokens each, ``text``
    conditioning tokens, ``batch`` rows. ``before``: of the conditioning, what lies in one sequence with the frames and
    before them, while the rest lies behind. ``rows``: of the grid in which a frame's tokens lie, 0 where not known.
    ``goes_on``: with the frame of the forward before, so that keys of other frames are what they were. ``unfinished``:
    the next forward may go on with the frame of this one."""

    batch: int
    frames: int
    tokens: int
    text: int = 0
    before: int = field(default=0, kw_only=True)
    rows: int = field(default=0, kw_only=True)
    goes_on: bool = field(default=False, kw_only=True)
    unfinished: bool = field(default=False, kw_only=True)

    @property
    def kind(self) -> str:
        """Name of the kind of forward: rows of one kind cost the same. An adapter whose denoiser is called in several
        ways within a generation (see `Adapter.several_kinds`) returns layouts of its own that tell them apart."""
        return FORWARD


@dataclass(frozen=True)
class AttentionCall:
    """One scaled-dot-product call inside a site: the ``ordinal``-th of that forward, with its token counts."""

    ordinal: int
    batch: int
    heads: int
    queries: int
    keys: int


@dataclass(frozen=True)
class Segments:
    """The segment of every token of an attention call: :data:`TEXT`, or a frame number.

    Integer tensors ``query`` [1 or B, Lq] and ``key`` [1 or B, Lk]; one row when all batch rows agree, B rows where
    frames are folded into the batch.
    """

    query: torch.Tensor
    key: torch.Tensor
