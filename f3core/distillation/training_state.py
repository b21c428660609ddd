"""Checkpoints of a training: all that the next step hangs on, in one file that is replaced only by a whole one."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from f3core.distillation.loss import Bench, Loss
from f3core.errors import OutputError
from f3core.identity import fingerprint
from f3core.spec_distill import DistillSpec
from f3core.workspace import written

FILE = "checkpoint.pt"
_UNPROVEN = "checkpoint.next.pt"
"""the newest, until the next step has come to finite losses from it: only then is the one before given up"""
_RATE = {"learning_rate", "warmup", "clip_norm"}
"""settings of an optimiser that may be others when a training goes on, such as after a loss that was not finite"""
FREE: dict[str, Any] = {
    **dict.fromkeys(("save_every", "sample_every", "samples", "keep_latents"), True),
    **dict.fromkeys(("accumulate", "gradient_checkpointing"), True),
    "optimiser": _RATE,
    "opponent": _RATE,
}
"""settings of a spec that may be; what is trained hangs on none but the rates"""


def identity(bench: Bench, losses: Sequence[Loss], clips: int, spec: DistillSpec) -> dict[str, str]:
    """What must agree between a checkpoint and the training that would go on from it; before the first step."""
    return {
        "spec": repr(spec.model_dump(mode="json", exclude=FREE)),
        "losses": repr([(loss.name, loss.options()) for loss in losses]),
        "number of clips": str(clips),
        "matched blocks": repr([tuple(pair) for pair in bench.matched]),
        "teacher": fingerprint(bench.teacher),
        "student": fingerprint(bench.student),
    }


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint into ``folder``, which takes the place of the one before when it is `proven`. Raises
    `OutputError`."""
    try:
        with written(folder / _UNPROVEN) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{folder / FILE}: the checkpoint cannot be written: {error}") from error


def proven(folder: Path) -> None:
    """The newest checkpoint, if one was written since the last, is good to go on from. Raises `OutputError`."""
    if (folder / _UNPROVEN).exists():
        try:
            os.replace(folder / _UNPROVEN, folder / FILE)
        except OSError as error:
            raise OutputError(f"{folder / FILE}: the checkpoint cannot be written: {error}") from error


def forget_unproven(folder: Path) -> None:
    """Drop a checkpoint that was never proven: what led to it comes again, or went wrong."""
    (folder / _UNPROVEN).unlink(missing_ok=True)


def load(folder: Path, wanted: Mapping[str, str]) -> dict[str, Any] | None:
    """The checkpoint in ``folder``; None where there is none. Raises `OutputError` for one that cannot be read, or is
    of another training than ``wanted``."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        found = state["identity"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise OutputError(f"{file} is no checkpoint that can be read; remove it to train from the beginning") from error
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        raise OutputError(
            f"the training in {folder} is another: {', '.join(differing)} differ; remove the folder to begin again, or "
            "give another output"
        )
    return state


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether modules share memory of a parameter, so that training one would change the other."""
    held = {p.data_ptr() for p in one.parameters() if p.numel()}
    return any(p.data_ptr() in held for p in other.parameters() if p.numel())
