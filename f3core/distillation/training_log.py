"""What a training notes of each step: a line of ``training.jsonl``, and TensorBoard's scalars where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from f3core.workspace import written

FILE = "training.jsonl"
BOARD = "tensorboard"


@dataclass(frozen=True)
class Record:
    """One step: ``losses`` and ``figures``, means over the whole batch; losses without their weights."""

    step: int
    losses: Mapping[str, float]
    figures: Mapping[str, float]
    learning_rate: float
    seconds: float

    def line(self) -> str:
        """As JSON; figures that are not finite have no place in it."""
        finite = {name: value for name, value in self.figures.items() if math.isfinite(value)}
        return json.dumps({**asdict(self), "figures": finite})


class TrainingLog:
    """``records`` of all steps so far; written only where ``folder`` is given, in the main process.

    It begins with the ``text`` of a checkpoint: what a killed run noted after that is dropped, since it comes again.
    """

    def __init__(self, folder: Path | None, text: str = "") -> None:
        self.lines = text.splitlines()
        self.records = [Record(**json.loads(line)) for line in self.lines]
        self._file: IO[str] | None = None
        self._board: Any = None
        if folder is not None:
            with written(folder / FILE) as file:
                file.write_text(self.text(), encoding="utf-8")
            self._file = (folder / FILE).open("a", encoding="utf-8")
            self._board = _board(folder / BOARD, len(self.records) + 1)

    def text(self) -> str:
        """All lines, for a checkpoint."""
        return "".join(f"{line}\n" for line in self.lines)

    def note(self, record: Record) -> None:
        """Add a step."""
        self.records.append(record)
        self.lines.append(record.line())
        if self._file is not None:
            self._file.write(self.lines[-1] + "\n")
            self._file.flush()
        if self._board is not None:
            scalars = {f"loss/{name}": value for name, value in record.losses.items()}
            scalars |= {f"figure/{name}": value for name, value in record.figures.items()}
            for name, value in {**scalars, "learning_rate": record.learning_rate, "seconds": record.seconds}.items():
                self._board.add_scalar(name, value, record.step)

    def flush(self) -> None:
        """Before a checkpoint: what TensorBoard holds back of steps that will not come again."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, first: int) -> Any:
    """TensorBoard's writer, which hides what an earlier run noted of steps from ``first`` on; None without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=first)
