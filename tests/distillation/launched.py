"""Forks two processes of one command: ``python launched.py FOLDER``; what each came to lies there as JSON.

They are forked from one that has imported torch and not used it, which is faster than to start them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - before processes part
from distilling import registry, write

from f3core.distillation.launch import Launch, talks
from f3core.errors import F3Error, OutputError
from f3core.job import resolve
from f3core.spec import load_spec
from f3core.workspace import workspace

COUNT = 2


def main(folder: Path) -> None:
    spec = write(folder, "zoo:digits-wan")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(COUNT), "ACCELERATE_USE_CPU": "true"}
    children = []
    for rank in range(COUNT):
        child = os.fork()
        if child == 0:
            os.environ.update(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(COUNT)})
            try:
                (folder / f"{rank}.json").write_text(json.dumps(came_to(folder, spec, rank)))
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise SystemExit("a process failed")


def came_to(folder: Path, spec: Path, rank: int) -> dict[str, Any]:
    job = resolve(load_spec(spec), registry())
    launch = Launch.joined(job)
    found: dict[str, Any] = {"launch": [launch.index, launch.count, launch.main, talks()]}
    found["by main"] = launch.by_main(lambda: f"made by {rank}")

    def fails() -> None:
        raise OutputError(f"no place left for {rank}")

    found["failed"] = raised(lambda: launch.by_main(fails))
    with launch.workspace(folder / "out", {"run": 1}, resume=False) as work:
        found["workspace"] = [str(work.output), str(work.folder), work.folder.is_dir()]
        found["locked"] = raised(lambda: enter(folder / "out"))
        launch.wait()
        if launch.main:
            (work.folder / "made").write_text("whole")
            work.finish()
    launch.wait()
    found["finished"] = (folder / "out" / "made").read_text()

    # the main process comes late, and the other waits
    begun = time.monotonic()
    launch.by_main(lambda: time.sleep(0.3))
    found["waited"] = time.monotonic() - begun > 0.2

    (folder / "taken.partial").mkdir(exist_ok=True)
    found["taken"] = raised(lambda: launch.workspace(folder / "taken", {}, resume=False).__enter__())
    one_gpu = resolve(load_spec(spec, ["model.device=cuda:1"]), registry())
    found["one GPU"] = raised(lambda: Launch.joined(one_gpu))
    return found


def enter(output: Path) -> None:
    with workspace(output, {"run": 1}, resume=True):
        pass


def raised(work: Any) -> list[str]:
    """The class and the words of what some work raises."""
    try:
        work()
    except F3Error as error:
        return [type(error).__name__, str(error)]
    return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
