"""Captions of clips in a folder.

Captions are looked for in this order, and a clip may be without:

- a text file beside the clip, of its name: clip.mp4, clip.txt;
- captions.csv or captions.jsonl in the folder, with columns or keys ``file`` (its path in the folder, or its name where
  no other clip has it) and ``caption``;
- of UCF-101 videos, their class: v_ApplyEyeMakeup_g01_c01.avi is "apply eye makeup";
- of other videos in two or more sub-folders, and of sequences, the name of their folder in words, such as "bmx bumps";
  but a name with digits is a number rather than a caption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from f3core.errors import F3Error, OutputError
from f3core.prompt_file import rows

_UCF = re.compile(r"v_([A-Za-z]+)_g\d+_c\d+")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[-_\s]+")


@dataclass(frozen=True)
class ClipFile:
    """A clip where it lies. ``name``: its path in the folder without suffix; ``images``: those of a sequence."""

    path: Path
    name: str
    caption: str | None = None
    images: tuple[Path, ...] | None = None


def words(name: str) -> str:
    """A class or sequence as words: "ApplyEyeMakeup" is "apply eye makeup", "bmx-bumps" is "bmx bumps"."""
    return " ".join(word for word in _WORDS.split(name) if word).lower()


def captioned(folder: Path, root: Path, files: Sequence[ClipFile]) -> list[ClipFile]:
    """The clips with their captions, where they have one. ``root``: the part of ``folder`` in which they lie.

    Raises `OutputError` naming file and line for captions that cannot be read.
    """
    told = _told(folder, root, files)
    parents = {file.path.parent for file in files if file.images is None}
    classed = len(parents) > 1 and root not in parents
    return [replace(file, caption=_beside(file) or told.get(file.path) or _class_of(file, classed)) for file in files]


def _beside(file: ClipFile) -> str | None:
    text = file.path.with_suffix(".txt") if file.images is None else file.path.with_name(f"{file.path.name}.txt")
    try:
        return " ".join(text.read_text(encoding="utf-8").split()) if text.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{text}: cannot be read as text: {error}") from error


def _told(folder: Path, root: Path, files: Sequence[ClipFile]) -> dict[Path, str]:
    """Captions of the folder's captions.csv or captions.jsonl. Raises `OutputError` naming file and line."""
    listed = next((p for p in (folder / "captions.csv", folder / "captions.jsonl") if p.is_file()), None)
    if listed is None:
        return {}
    called: dict[str, set[Path]] = {}
    for file in files:
        for base in {folder, root}:
            for path in (file.path.relative_to(base), Path(file.path.name)):
                for name in {path.as_posix(), path.with_suffix("").as_posix()}:
                    called.setdefault(name, set()).add(file.path)
    captions: dict[Path, str] = {}
    try:
        for line, row in rows(listed):
            if isinstance(row, str) or not {"file", "caption"} <= row.keys():
                raise OutputError(f"{listed}:{line}: needs both a file and a caption")
            meant = called.get(row["file"].removeprefix("./"), set())
            if len(meant) > 1:
                raise OutputError(f"{listed}:{line}: {row['file']} is the name of {len(meant)} clips; give its path")
            captions |= dict.fromkeys(meant, " ".join(row["caption"].split()))
    except F3Error as error:
        raise OutputError(str(error)) from error
    return captions


def _class_of(file: ClipFile, classed: bool) -> str | None:
    parent = file.path.parent.name
    if match := _UCF.fullmatch(file.path.name if file.images else file.path.stem):
        # HandstandPushups is the one class whose files spell it otherwise.
        return words(parent if parent.lower() == match[1].lower() else match[1])
    name = file.path.name if file.images is not None else parent if classed else ""
    return words(name) if name and not any(map(str.isdigit, name)) else None
