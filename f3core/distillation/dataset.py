"""`Dataset`: clips with captions to train on. Plugins add them; `f3core.distillation.folder_data` reads folders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class Dataset(ABC):
    """Clips by number, each the same every time it is asked for. Options of a spec are keyword arguments."""

    name: ClassVar[str]

    @abstractmethod
    def __len__(self) -> int:
        """How many clips there are."""

    @abstractmethod
    def clip(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        """Clip ``number``, float [F, 3, H, W] in [0, 1] of ``size`` (F, H, W), and its caption ("" where it has none).

        Raises `ClipError` for a clip that cannot be read or is too short.
        """
