"""Trains the toy in processes of their own, some of which are killed: ``python forked_training.py FOLDER SEED``.

All are forked from one that has imported torch and never run it backward, which is a hundred times faster than to
start them. Every folder that a training ends in has its ``weights.pt``, and ``starts`` with the step each one began at.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import accelerate  # noqa: F401 - before processes part
import torch
import torch._dynamo
import torch.utils.tensorboard
import toy_training

from f3core.distillation import training_state
from f3core.distillation.training_log import TrainingLog

STEPS = 15
SAVING = ("half saved", "nearly saved")
STEPWISE = ("latents", "note", "sample")
SPEC = toy_training.spec(steps=STEPS, sample_every=1, seed=7)


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    forked(lambda: trained(folder / "whole"))
    places = chance.sample((*SAVING, *STEPWISE), 5)
    for place, step in zip(places, sorted(chance.sample(range(1, STEPS), 5)), strict=True):
        if forked(lambda: trained(folder / "killed", (place, step))) != -signal.SIGKILL:  # noqa: B023
            raise SystemExit(f"not killed at {place}, step {step}")
    forked(lambda: trained(folder / "killed"))
    # one that goes on in two processes, where one alone was killed
    forked(lambda: trained(folder / "joined", ("latents", 8)))
    several(folder / "joined", 2)


def forked(work: Callable[[], None], **environment: str) -> int:
    """The exit code of a child that does the work; a signal's number, negative, where one ended it."""
    return ended(started(work, **environment))


def started(work: Callable[[], None], **environment: str) -> int:
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a training ended with {code}")
    return code


def several(folder: Path, count: int) -> None:
    """One training in several processes, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    places = [{"RANK": str(i), "LOCAL_RANK": str(i), "LOCAL_WORLD_SIZE": str(count)} for i in range(count)]
    for child in [started(lambda: trained(folder), **shared, **place) for place in places]:
        ended(child)


def trained(folder: Path, kill: tuple[str, int] | None = None) -> None:
    """Train on to the end, or be killed: at a place in a step, or in the next checkpoint's making."""
    clips = toy_training.ToyClips()
    sample: Callable[[torch.nn.Module, int], None] = lambda _model, _step: None  # noqa: E731
    start = begun(folder)
    if kill is not None:
        place, step = kill
        if place == "latents":
            clips.latents = dying(clips.latents, step - start)  # type: ignore[method-assign]
        elif place == "note":
            TrainingLog.note = dying(TrainingLog.note, step - start)  # type: ignore[method-assign]
        elif place == "sample":
            sample = dying(sample, step - start)
        elif place == "half saved":
            torch.save = half_written
        else:
            os.replace = dying(os.replace, 2)  # the first brings the log to its place
    result = toy_training.run(folder, SPEC, batches=clips, sample=sample)
    if os.environ.get("RANK", "0") == "0":
        torch.save(result.student.state_dict(), folder / "weights.pt")


def begun(folder: Path) -> int:
    """The step after which a training goes on; noted for the test."""
    file = folder / training_state.FILE
    start = int(torch.load(file)["step"]) if file.exists() else 0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as starts:
        starts.write(f"{start}\n")
    return start


def dying(call: Callable[..., None], time: int) -> Callable[..., None]:
    """The call, which is killed the ``time``-th time."""
    left = [time]

    def called(*args: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)

    return called


def half_written(_state: object, file: Path) -> None:
    file.write_bytes(b"PK\x03\x04 half a checkpoint")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
