"""`Accelerator`: what makes a pipeline run faster without a change to its weights, such as a cache. Plugins add them.

They are compared with pruning, and run on top of it (`f3core compare`); nothing of them is saved with a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import nn


class Accelerator(ABC):
    """One way. A class takes what a spec says beside its name (``pab: {range: 2}``) as keyword arguments."""

    name: ClassVar[str]

    @abstractmethod
    def enabled(self, pipeline: Any, denoisers: Mapping[str, nn.Module], *, steps: int) -> AbstractContextManager[None]:
        """While the context is entered, generations of the pipeline, of ``steps`` denoising steps, are accelerated;
        any number of them may follow one another, each as if it were the first. Then the pipeline is as it was.

        ``denoisers``: those of the pipeline, pruned or not, by component. Raises `ModelError` on entering where this
        model does not bear it, saying why.
        """
