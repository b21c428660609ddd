"""`Workspace`: output is written beside its place and moved there when it is whole, so nothing is ever half written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from f3core.errors import OutputError

try:
    import fcntl
except ImportError:  # not on Windows: there, two runs into one folder are not told apart
    fcntl = None  # type: ignore[assignment]

_STATE = "run.json"


class Workspace:
    """The unfinished form of an output folder: a sibling named ``<output>.partial``."""

    def __init__(self, output: Path, folder: Path) -> None:
        self.output = output
        self.folder = folder
        self.scratch = folder / "unfinished"
        """for what a resumed run needs and a finished one does not"""

    def finish(self) -> None:
        """Drop scratch files and move the whole folder to its place. Raises `OutputError` if that was taken."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.output.rmdir()  # an empty folder in the place is no obstacle
        if self.output.exists():
            raise OutputError(f"{self.output} appeared meanwhile; the finished run lies in {self.folder}")
        os.replace(self.folder, self.output)


@contextlib.contextmanager
def written(file: Path) -> Iterator[Path]:
    """A path to write in place of ``file``, which is there, whole, only once the block has ended well."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    yield unfinished
    os.replace(unfinished, file)


@contextlib.contextmanager
def _alone(lock: Path, folder: Path) -> Iterator[None]:
    """Hold a lock that ends with the process. Raises `OutputError` when another process holds it."""
    if fcntl is None:
        yield
        return
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another process is working in {folder}; wait for it, or give another output") from error
        yield


@contextlib.contextmanager
def workspace(output: Path, identity: Mapping[str, Any], *, resume: bool) -> Iterator[Workspace]:
    """A workspace for ``output``. It stays when the block fails, for `resume`; the caller calls `finish`.

    ``identity`` says what run this is. Raises `OutputError` when an unfinished run is there and ``resume`` is not
    given, or is of another identity.
    """
    output = output.resolve()  # so that "." and links to folders have a name and a sibling
    if not output.name:
        raise OutputError(f"{output} cannot be an output folder; give one below it")
    folder = output.with_name(output.name + ".partial")
    state = folder / "unfinished" / _STATE
    wanted = json.dumps(identity, sort_keys=True, default=str)
    if folder.exists():
        if not resume:
            raise OutputError(f"an unfinished run lies in {folder}; add --resume to go on with it, or remove it")
        found = state.read_text(encoding="utf-8") if state.is_file() else None
        if found != wanted:
            raise OutputError(f"the unfinished run in {folder} is of another spec; remove it, or give another output")
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(wanted, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    work = Workspace(output, folder)
    with _alone(state.with_name("lock"), folder):
        try:
            for left in folder.iterdir():
                if left != work.scratch:  # made anew
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield work
        finally:
            if folder.exists() and not any(p.is_file() and p.name not in (_STATE, "lock") for p in folder.rglob("*")):
                shutil.rmtree(folder)  # nothing worth going on with
