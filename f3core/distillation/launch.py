"""`Launch`: who writes and who waits, where ``accelerate launch`` has started several processes of one command."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from f3core.errors import F3Error, ModelError
from f3core.job import Job
from f3core.workspace import Workspace, workspace

T = TypeVar("T")
PATIENCE = timedelta(days=2)
"""for which processes wait for one another: the main one scores, generates and measures alone"""


class StoppedElsewhere(F3Error):
    """The main process has failed, and said why; the others have nothing to go on with."""


def talks() -> bool:
    """Whether this process prints what is found, as far as its launcher says: the first of all, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Launch:
    """This process among ``count``, of which the one with ``index`` 0 is the main one."""

    index: int = 0
    count: int = 1

    @classmethod
    def joined(cls, job: Job) -> Launch:
        """The processes of this command, each with a GPU of its own unless the job runs on the CPU.

        Raises `ModelError` where accelerate is not installed, and `SpecError` for several processes on one GPU.
        """
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ModelError("training needs accelerate; install it: pip install 'f3core[distill]'") from error
        device = job.file.spec.model.device
        cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
        state = PartialState(cpu=cpu, timeout=PATIENCE)
        if state.num_processes > 1 and ":" in device:
            message = (
                f"{device} is one GPU, and each of {state.num_processes} processes has its own; give cuda, or auto"
            )
            raise job.file.error(("model", "device"), message)
        return cls(state.process_index, state.num_processes)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes, measures and talks."""
        return self.index == 0

    def share(self, value: T) -> T:
        """The main process's ``value``, in every process; they wait for it."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        held = [value]
        broadcast_object_list(held)
        return held[0]

    def wait(self) -> None:
        """Go on when the main process has come here, and it when all have."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def by_main(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the main process, in every process; it has to be small. What it raises there stops the
        others by `StoppedElsewhere`."""
        made: T | None = None
        problem: Exception | None = None
        if self.main:
            try:
                made = work()
            except Exception as error:
                problem = error
        failed, found = self.share((None if problem is None else str(problem), made))
        if problem is not None:
            raise problem
        if failed is not None:
            raise StoppedElsewhere(f"process {self.index} stops, because the main process failed: {failed}")
        return found  # type: ignore[return-value]

    @contextlib.contextmanager
    def workspace(self, output: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Workspace]:
        """The workspace of `f3core.workspace`, held by the main process; the others are told where it is.

        Only the main process may call `finish`. Raises `OutputError` as `workspace` does, and in the others
        `StoppedElsewhere`.
        """
        with contextlib.ExitStack() as stack:

            def enter() -> tuple[Path, Path]:
                work = stack.enter_context(workspace(output, identity, resume=resume))
                return work.output, work.folder

            yield Workspace(*self.by_main(enter))
