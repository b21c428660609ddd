"""`FolderData`: a folder of clips to train on, with captions as `f3core.captions` finds them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from f3core.clip_folder import clips_in
from f3core.distillation.dataset import Dataset
from f3core.errors import ClipError, ModelError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

_REFUSE, _SKIP = "refuse", "skip"


class FolderData(Dataset):
    """Videos and sequences of pictures in ``path`` or below it, UCF-101 and DAVIS as published; a caption that a clip
    does not have is "".

    - ``stride``: of a clip every so many frames are taken; ``seed``: they begin at a frame drawn for each clip, and at
      the first one when it is left out. Frames are cut around their centre to the size that is asked for.
    - ``broken``: ``refuse`` a clip that cannot be read or is too short, which stops a training; or ``skip`` it, so that
      the next one that can be read stands in for it, under its number and with its own caption.

    A clip is read, and found broken, when it is asked for. Raises `OutputError` when there is no such folder, no clip
    in it, or its captions cannot be read; `ModelError` for impossible options.
    """

    name = "folder"

    def __init__(self, path: str, stride: int = 1, seed: int | None = None, broken: str = _REFUSE) -> None:
        if broken not in (_REFUSE, _SKIP):
            raise ModelError(f"broken must be {_REFUSE} or {_SKIP}, not {broken!r}")
        self._clips = clips_in(path, stride=stride, seed=seed)
        self._skips = broken == _SKIP
        self._stands_in: dict[tuple[int, tuple[int, int, int]], int] = {}

    def __len__(self) -> int:
        return len(self._clips.files)

    def clip(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        if not 0 <= number < len(self):
            raise ClipError(f"there is no clip {number}: {self._clips.folder} has {len(self)}, from 0 on")
        if not self._skips:
            return self._read(number, size)
        first: ClipError | None = None
        known = self._stands_in.get((number, size), number)
        for following in range(len(self)):
            candidate = (known + following) % len(self)
            try:
                found = self._read(candidate, size)
            except ClipError as error:
                first = first or error
                continue
            self._stands_in[number, size] = candidate
            return found
        raise ClipError(f"{self._clips.folder}: none of its {len(self)} clips can be used; {first}")

    def _read(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        """Clip ``number`` itself. Raises `ClipError` naming its file."""
        file = self._clips.files[number]
        alone = replace(self._clips.only([file]), frames=size[0], size=size[1:], left_out={})
        try:
            ((_, clip),) = alone.each()
        except OutputError as error:
            why = alone.left_out.get(file.path, str(error))
            raise ClipError(f"{file.path}: {why}; mend or remove it, or give broken: {_SKIP}") from error
        return clip, file.caption or ""
