"""`Metric`: what measures clips, and `Features`, the networks through which some of them look. Plugins add both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Some ``clips`` [B, F, 3, H, W] in [0, 1], and their captions, where they are known."""

    clips: torch.Tensor
    prompts: Sequence[str] | None = None


class Reference(Enum):
    """What a metric compares clips with."""

    NONE = "nothing"
    SET = "a set of other clips, of any number"
    CLIP = "another clip each, such as the unpruned model's of the same noise"


class Metric(ABC):
    """Measures clips. ``higher_is_better`` holds for all its figures.

    Whoever asks sees to it that there are prompts where ``needs_prompts``, and the ``reference`` that is compared with.
    A class takes what a spec says beside its name (``fvd: {features: i3d}``) as keyword arguments.
    """

    name: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    needs_prompts: ClassVar[bool] = False
    reference: ClassVar[Reference] = Reference.NONE

    @abstractmethod
    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        """Named figures of clips that come batch by batch, so that none but the running batch need be held.

        Both may be gone through more than once. With `Reference.CLIP`, batches come in pairs of equal shape.
        """


class Features(ABC):
    """A network that makes a vector of a clip, for Fréchet distances. Options of a spec are keyword arguments."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """[B, F, 3, H, W] in [0, 1] to [B, D], on the CPU. Brings clips to the size and range that the network takes.

        Raises `ModelError` for clips that it cannot look at, such as too few frames.
        """
