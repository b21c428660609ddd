"""`Latents`: what a training takes of clips: their latents, encoded once and kept on disk, and their captions.

A folder of latents holds four files. ``latents.json`` says how many clips there are and what the latents of one look
like; it is written last, so a folder with it is whole. ``latents.bin`` holds them clip by clip, with gaps where none
are yet; ``latents.done`` has a byte a clip, 1 where they are; ``captions.jsonl`` a line a clip, [number, caption].

Processes of one machine, or of one disk that locks byte ranges, share it: whoever needs a clip locks its byte, looks
whether another was faster, encodes it, writes it, and marks it only then. A process that is killed loses its locks, and
what it has not marked is made anew.

Latents are of half precision. They are of about unit variance, so the rounding, 5e-4 of a value at most, is below the
noise of any level that is trained on (1e-3 and more), and half the disk is free. Codecs round otherwise for other
numbers of clips at once: clips are encoded in groups that do not depend on who asks for them, so that they are the
same for any number of processes; those that are not kept, one by one.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

from f3core.distillation.dataset import Dataset
from f3core.distillation.recipe import Recipe
from f3core.errors import ModelError, OutputError

ABOUT, DATA, DONE, CAPTIONS, LOCK = "latents.json", "latents.bin", "latents.done", "captions.jsonl", "latents.lock"
ALIKE = 0.05
"""how far latents that are encoded again may be from those that are kept, in shares of these: codecs round otherwise on
another device"""


class Latents:
    """Latents and captions of a data set's clips, by number, as ``recipe`` makes them.

    With ``keep`` they are encoded once, ``batch_size`` at a time, into ``folder``. Raises `OutputError` for one that
    holds those of other clips or of another codec, `ModelError` for latents that are not finite, and whatever reading
    a clip raises.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, folder: Path | None, keep: bool, batch_size: int) -> None:
        self._dataset, self._recipe, self._batch_size = dataset, recipe, batch_size
        self._captions: dict[int, str] = {}
        self._kept: _Folder | None = None
        if keep:
            if folder is None:
                raise ModelError("latents are to be kept, but no folder is given")
            if fcntl is None:
                raise ModelError(
                    "this system cannot lock files for latents to be kept; set distill.keep_latents: false"
                )
            if batch_size < 1:
                raise ModelError(f"batch_size must be at least 1, not {batch_size}")
            self._kept = _Folder(folder, len(dataset), lambda number: self._encoded([number])[0])

    def __len__(self) -> int:
        return len(self._dataset)

    def latents(self, numbers: Sequence[int]) -> Tensor:
        """[B, ...] in float32, on the CPU."""
        if self._kept is None:
            return torch.cat([self._encoded([number]) for number in numbers]).float()
        self._make(numbers)
        return torch.stack([self._kept.read(number) for number in numbers]).float()

    def captions(self, numbers: Sequence[int]) -> list[str]:
        """Of each clip. To a recipe that takes no prompts an empty one means something else: then it is a name."""
        if any(number not in self._captions for number in numbers):
            if self._kept is not None:
                self._make(numbers)
                self._captions |= self._kept.captions()
            for number in numbers:
                if number not in self._captions:
                    self._clip(number)
        found = [self._captions[number] for number in numbers]
        if self._recipe.takes_prompts:
            return found
        return [caption or f"clip {number}" for caption, number in zip(found, numbers, strict=True)]

    def clips(self, numbers: Sequence[int]) -> Tensor | None:
        """[B, F, 3, H, W] in [0, 1] where the recipe's conditions take clips, else None."""
        return torch.stack([self._clip(number) for number in numbers]) if self._recipe.takes_clips else None

    def prepare(
        self, told: Callable[[int, int], None] = lambda done, of: None, *, process: int = 0, processes: int = 1
    ) -> None:
        """Encode the share of one of several processes before it is asked for; nothing where latents are not kept.

        ``told`` hears how many groups of clips are done, of how many.
        """
        if self._kept is None:
            return
        groups = range(process * self._batch_size, len(self), processes * self._batch_size)
        for done, first in enumerate(groups):
            told(done, len(groups))
            self._make([first])
        told(len(groups), len(groups))

    def _make(self, numbers: Sequence[int]) -> None:
        """Encode and keep those of the clips that are not kept yet, and all that are encoded with them."""
        assert self._kept is not None
        for group in sorted({number // self._batch_size for number in self._kept.missing(numbers)}):
            first = group * self._batch_size
            members = range(first, min(first + self._batch_size, len(self)))
            with self._kept.claimed(members) as missing:
                if missing:
                    encoded = self._encoded(members)
                    self._kept.write(members, encoded, [self._captions[number] for number in members])

    def _encoded(self, numbers: Sequence[int]) -> Tensor:
        """[B, ...] in half precision. Raises `ModelError` where that cannot hold them."""
        found = self._recipe.latents(torch.stack([self._clip(number) for number in numbers])).cpu().half()
        for number, row in zip(numbers, found, strict=True):
            if not row.isfinite().all():
                raise ModelError(f"the latents of clip {number} are not finite in half precision, or not at all")
        return found

    def _clip(self, number: int) -> Tensor:
        clip, self._captions[number] = self._dataset.clip(number, self._recipe.size)
        return clip


class _Folder:
    """A folder of latents of ``count`` clips; ``make`` encodes one."""

    def __init__(self, folder: Path, count: int, make: Callable[[int], Tensor]) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not (folder / ABOUT).exists():
                    self._start(count, list(make(0).shape))
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            self._data, self._done = (os.open(folder / name, os.O_RDWR) for name in (DATA, DONE))
            self._texts = os.open(folder / CAPTIONS, os.O_WRONLY | os.O_APPEND)
            for file in (self._data, self._done, self._texts):
                weakref.finalize(self, os.close, file)
        except (OSError, ValueError) as error:
            raise OutputError(f"{folder}: latents cannot be kept there: {error}") from error
        self._shape = about["shape"]
        self._bytes = 2 * math.prod(self._shape)
        self._marked: set[int] = set()
        self._check(about["count"], count, make)

    def _start(self, count: int, shape: list[int]) -> None:
        """Files of no latents yet."""
        for name, size in ((DATA, 2 * count * math.prod(shape)), (DONE, count), (CAPTIONS, 0)):
            with (self._folder / name).open("wb") as file:
                file.truncate(size)
        partial = self._folder / f"{ABOUT}.partial"
        partial.write_text(json.dumps({"count": count, "shape": shape, "type": "float16"}) + "\n", encoding="utf-8")
        partial.replace(self._folder / ABOUT)

    def _check(self, kept: int, count: int, make: Callable[[int], Tensor]) -> None:
        """Raises `OutputError` where the first or the last of what is kept is not what would be encoded now."""
        advice = "remove the folder, or give another output"
        if kept != count:
            raise OutputError(f"{self._folder} keeps latents of {kept} clips, not of {count}; {advice}")
        done = [number for number, mark in enumerate(os.pread(self._done, count, 0)) if mark]
        for number in sorted({*done[:1], *done[-1:]}):
            new, old = make(number).float(), self.read(number).float()
            if new.shape != old.shape or (new - old).norm() > ALIKE * old.norm():
                raise OutputError(f"{self._folder} keeps latents of other clips, or of another codec; {advice}")

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Those that are not kept, sorted, each once."""
        wanted = sorted(set(numbers) - self._marked)
        self._marked.update(number for number in wanted if os.pread(self._done, 1, number) == b"\1")
        return [number for number in wanted if number not in self._marked]

    @contextmanager
    def claimed(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        """Hold sorted clips against other processes; those that are still missing."""
        try:
            for number in numbers:  # in one order everywhere, so that nobody waits in a circle
                fcntl.lockf(self._done, fcntl.LOCK_EX, 1, number)
            yield self.missing(numbers)
        finally:
            for number in numbers:
                fcntl.lockf(self._done, fcntl.LOCK_UN, 1, number)

    def write(self, numbers: Sequence[int], latents: Tensor, captions: Sequence[str]) -> None:
        """Keep latents of clips that are claimed."""
        if list(latents.shape[1:]) != self._shape:
            raise OutputError(f"{self._folder} keeps latents {self._shape}, not {list(latents.shape[1:])}")
        try:
            for number, row in zip(numbers, latents, strict=True):
                _write(self._data, row.contiguous().numpy().tobytes(), number * self._bytes)
            lines = [json.dumps([number, text]) for number, text in zip(numbers, captions, strict=True)]
            # A line that a killed process left half written ends here.
            os.write(self._texts, ("\n" + "\n".join(lines) + "\n").encode())
            os.fsync(self._data)
            os.fsync(self._texts)
            for number in numbers:
                os.pwrite(self._done, b"\1", number)
        except OSError as error:
            raise OutputError(f"{self._folder}: latents cannot be written: {error}") from error

    def read(self, number: int) -> Tensor:
        """Latents of one clip, which are kept."""
        held = bytearray(os.pread(self._data, self._bytes, number * self._bytes))
        return torch.frombuffer(held, dtype=torch.float16).view(self._shape)

    def captions(self) -> dict[int, str]:
        """Of all clips that are kept."""
        found: dict[int, str] = {}
        for line in (self._folder / CAPTIONS).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                number, caption = json.loads(line)
            except ValueError:
                continue
            found[number] = caption
        return found


def _write(file: int, data: bytes, offset: int) -> None:
    """All of ``data``; one call may write a part alone."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
