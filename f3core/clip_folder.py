"""`clips_in`: a folder of clips as metrics take them, batch by batch; `write_clips`: such a folder.

Read are videos, in the folder or below it, and sequences: folders of numbered pictures. UCF-101 and DAVIS are read as
published, from the folder that holds UCF-101 or DAVIS, from that itself, or from part of it. torch is imported where it
is used.

Captions: see `captions`.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from f3core.captions import ClipFile, captioned
from f3core.errors import ClipError, ModelError, OutputError
from f3core.metric import Batch
from f3core.video import SUFFIXES, read_picture, read_video, sized, write_video

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Broken = Callable[[Path, str], None]
"""Called once with each clip that is left out, and why."""

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
_NUMBERED = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Clips:
    """Clips of ``folder``; every pass over them reads the files anew, and holds one batch at a time.

    A batch holds clips of one shape [F, 3, H, W]: another shape starts another batch. Its prompts are None unless
    every clip has a caption. A pass raises `OutputError` when no clip at all can be read.
    """

    folder: Path
    files: tuple[ClipFile, ...]
    frames: int | None = None
    stride: int = 1
    size: tuple[int, int] | None = None
    batch_size: int = 8
    seed: int | None = None
    broken: Broken | None = None
    left_out: dict[Path, str] = field(default_factory=dict)
    """clips that could not be used, as far as was found out yet, with the reason"""

    @property
    def count(self) -> int:
        """Clips there are, as far as is known: a pass finds those that are broken."""
        return sum(file.path not in self.left_out for file in self.files)

    @property
    def uncaptioned(self) -> list[str]:
        """Names of the clips without a caption."""
        return [file.name for file in self.files if file.caption is None]

    def only(self, files: Iterable[ClipFile]) -> Clips:
        """These files of the folder alone, in this order."""
        return replace(self, files=tuple(files))

    def each(self) -> Iterator[tuple[ClipFile, torch.Tensor]]:
        """Every readable clip [F, 3, H, W], one at a time."""
        readable = 0
        for file in self.files:
            if file.path in self.left_out:
                continue
            try:
                clip = self._read(file)
            except ClipError as error:
                self.left_out[file.path] = str(error)
                if self.broken is not None:
                    self.broken(file.path, str(error))
                continue
            readable += 1
            yield file, clip
        if not readable:
            first = next((f"; {path}: {why}" for path, why in self.left_out.items()), "")
            raise OutputError(f"{self.folder}: none of its {len(self.files)} clips can be used{first}")

    def __iter__(self) -> Iterator[Batch]:
        import torch

        captioned = not self.uncaptioned
        held: list[tuple[ClipFile, torch.Tensor]] = []

        def batch() -> Batch:
            made = Batch(torch.stack([clip for _, clip in held]), [file.caption or "" for file, _ in held])
            held.clear()
            return made if captioned else Batch(made.clips)

        for file, clip in self.each():
            if held and (len(held) == self.batch_size or clip.shape != held[0][1].shape):
                yield batch()
            held.append((file, clip))
        if held:
            yield batch()

    def _read(self, file: ClipFile) -> torch.Tensor:
        import torch

        if file.images is not None:
            shown = [sized(read_picture(path), self.size) for path in self._chosen(file, iter(file.images))]
        else:
            with closing(read_video(file.path)) as frames:
                shown = [sized(frame, self.size) for frame in self._chosen(file, frames)]
        if any(frame.shape != shown[0].shape for frame in shown):
            raise ClipError("its frames differ in size; give a size for all")
        return torch.stack(shown)

    def _chosen(self, file: ClipFile, items: Iterator[T]) -> Iterable[T]:
        """The frames of a clip that are looked at. Raises `ClipError` when there are too few."""
        if self.frames is None:
            return itertools.islice(items, 0, None, self.stride)
        span = (self.frames - 1) * self.stride + 1
        if self.seed is None:
            window = list(itertools.islice(items, span))
            found = len(window)
        else:
            # A sample of one among all windows, in one pass: how many there are is not known before the end.
            draw, running, found = random.Random(f"{self.seed}:{file.name}"), deque[T](maxlen=span), 0
            window = []
            for found, item in enumerate(items, 1):
                running.append(item)
                if found >= span and draw.randrange(found - span + 1) == 0:
                    window = list(running)
        if found < span:
            raise ClipError(f"only {found} frames; {self.frames} at stride {self.stride} take {span}")
        return window[:: self.stride]


def clips_in(
    folder: str | Path,
    *,
    frames: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    seed: int | None = None,
    broken: Broken | None = None,
) -> Clips:
    """Clips of a folder, sorted by path: one of each video or sequence.

    - ``frames``: so many of each clip, ``stride`` apart; all (every ``stride``-th) when left out. They are the first
      ones, or, given a ``seed``, begin at a frame drawn for each clip: StyleGAN-V's protocol (Skorokhodov et al. 2022)
      takes 16 consecutive frames of real videos from a random one, those of generated videos from the first, and
      leaves out shorter videos, as is done here.
    - ``size``: (height, width) to which frames are brought, cut around their centre to its aspect and scaled with
      antialiasing; as they are when left out.
    - ``broken`` hears of each clip that is left out, once: broken or empty files, those with too few frames. With
      neither ``seed`` nor all frames, what lies behind the last frame that is looked at is not checked.

    Captions: see the top of this module. Raises `OutputError` when there is no such folder, no clip in it, or a file of
    captions cannot be read; `ModelError` for impossible numbers.
    """
    numbers = {"frames": frames, "stride": stride, "batch_size": batch_size}
    numbers |= dict(zip(("height", "width"), size or (None, None), strict=True))
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ModelError(f"{name} must be at least 1, not {number}")
    place = Path(folder)
    return Clips(place, tuple(_found(place)), frames, stride, size, batch_size, seed, broken)


def write_clips(
    clips: torch.Tensor, prompts: Sequence[str] | None, folder: str | Path, *, first: int = 0, fps: int = 8
) -> list[Path]:
    """Write clips [B, F, 3, H, W] in [0, 1] as 00000.mp4, ..., each with its caption in 00000.txt; returns the videos.

    ``first``: the number of the first, for batches that follow others. `clips_in` reads them back, values within
    `f3core.video.TOLERANCE`. Raises `ModelError` when clips and prompts do not pair, `OutputError` when a file is there
    already or cannot be written.
    """
    if clips.ndim != 5 or (prompts is not None and len(prompts) != len(clips)):
        said = "no" if prompts is None else len(prompts)
        raise ModelError(f"clips {list(clips.shape)} with {said} prompts; they must be [B, F, 3, H, W], a prompt each")
    place, made = Path(folder), list[Path]()
    try:
        place.mkdir(parents=True, exist_ok=True)
        for number, clip in enumerate(clips, first):
            path = place / f"{number:05}.mp4"
            if path.exists():
                raise OutputError(f"{path} is there already and is not overwritten; give another folder, or remove it")
            write_video(path, clip, fps)
            if prompts is not None:
                path.with_suffix(".txt").write_text(f"{prompts[number - first]}\n", encoding="utf-8")
            made.append(path)
    except OSError as error:
        raise OutputError(f"{place}: clips cannot be written: {error}") from error
    return made


# --- what a folder holds --------------------------------------------------------------------------------------------


def _found(folder: Path) -> list[ClipFile]:
    """Clips of a folder, sorted by path. Raises `OutputError` when there are none."""
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; give a folder of videos or of folders of pictures")
    root = _root(folder)
    files = list[ClipFile]()
    for place, below, names in os.walk(root, followlinks=True):
        inside = Path(place).resolve()  # of which a link to a folder around it would go in circles
        below[:] = [n for n in below if n[0] != "." and not inside.is_relative_to(Path(place, n).resolve())]
        here = [Path(place, name) for name in names if not name.startswith(".")]
        videos = [path for path in here if path.suffix.lower() in SUFFIXES]
        files += [ClipFile(path, path.relative_to(root).with_suffix("").as_posix()) for path in videos]
        numbered = [(int(n[1]), p) for p in here if p.suffix.lower() in PICTURES and (n := _NUMBERED.search(p.stem))]
        if numbered and not videos:
            path = Path(place)
            name = path.name if path == root else path.relative_to(root).as_posix()
            files.append(ClipFile(path, name, images=tuple(picture for _, picture in sorted(numbered))))
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise OutputError(f"{folder} holds no clip: no video ({kinds}) and no folder of numbered pictures")
    files.sort(key=lambda file: file.path)
    return captioned(folder, root, files)


def _root(folder: Path) -> Path:
    """Where the clips lie: of DAVIS, one resolution of its pictures, as its annotations are numbered pictures too."""
    for place in (folder, folder / "JPEGImages", folder / "DAVIS" / "JPEGImages"):
        for resolution in ("480p", "Full-Resolution"):
            if place.name == "JPEGImages" and (place / resolution).is_dir():
                return place / resolution
    return folder
