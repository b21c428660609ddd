"""What tests of `f3core distill` share: clips and losses of their own, and a small distillation of the tiny Wan."""

from __future__ import annotations

import functools
import json
import textwrap
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from comparing import Light, Likeness
from torch import Tensor

from f3core.distillation.dataset import Dataset
from f3core.distillation.distill import Distilled, distill
from f3core.distillation.loss import Loss, Step
from f3core.errors import ModelError
from f3core.hookspecs import Entry, hookimpl
from f3core.registry import Registry

PROMPTS = ("a red cat runs left", "a green dog sleeps", "a red dog runs right")
QUALITY = {"num_clips": 2, "timing_pairs": 0, "metrics": ["light", "likeness"], "steps": 2}
BLOCKS = {"target": "block", "criterion": "random", "ratio": 0.25}


class Stripes(Dataset):
    """Clips of any size: grey, each of its own brightness."""

    name = "stripes"

    def __init__(self, number: int = 4) -> None:
        if number < 0:
            raise ModelError("there are no fewer clips than none")
        self.number = number

    def __len__(self) -> int:
        return self.number

    def clip(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        frames, height, width = size
        return torch.full((frames, 3, height, width), (number + 1) / (self.number + 1)), PROMPTS[number % 3]


class Shaky(Loss):
    """As the task's, but not a number at one step, unless that was cured."""

    name = "shaky"
    cured = False

    def __init__(self, step: int = 2, weight: float = 1.0) -> None:
        self.step, self.weight = step, weight

    def __call__(self, step: Step) -> Tensor:
        value = (step.predicted - step.noise).square().mean()
        return value * float("nan") if step.number == self.step and not Shaky.cured else value


@functools.cache
def registry() -> Registry:
    """What is installed, and the clips, losses and metrics of these tests."""
    made = Registry()
    made.load_entry_points()
    metrics = [Entry(c.name, f"comparing:{c.__name__}") for c in (Light, Likeness)]
    plugin = types.SimpleNamespace(
        f3core_datasets=hookimpl(lambda: [Entry("stripes", f"{__name__}:Stripes")]),
        f3core_losses=hookimpl(lambda: [Entry("shaky", f"{__name__}:Shaky")]),
        f3core_metrics=hookimpl(lambda: metrics),
    )
    made.register(plugin, "mine")
    return made


def write(folder: Path, source: Path | str, *, prune: Any = BLOCKS, evaluate: Any = QUALITY, **section: Any) -> Path:
    """A spec of three steps of training, keyword arguments over them; its output is ``folder/run``."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    training = {
        "data": "stripes",
        "steps": 3,
        "batch_size": 2,
        "losses": ["task", "icd"],
        "optimiser": {"learning_rate": 0.01, "warmup": 0},
        "save_every": 1,
        "ema": 0.5,
    }
    spec = folder / "spec.yaml"
    spec.write_text(
        textwrap.dedent(f"""\
            version: 1
            model: {{source: {source}, device: cpu}}
            calibrate: {{prompts: {prompts}, num_prompts: 1, steps: 2}}
            prune: {json.dumps(prune)}
            evaluate: {json.dumps(evaluate)}
            distill: {json.dumps(training | section)}
            output: {folder / "run"}
            """)
    )
    return spec


def run(spec: Path, *overrides: str, **options: Any) -> Distilled:
    """`distill` with the plugins of this file."""
    return distill(spec, overrides=overrides, registry=registry(), **options)


def stopped_at(place: str) -> Callable[[str, int, int], None]:
    """A listener that interrupts the run when it hears ``task done/total``."""

    def listen(task: str, done: int, total: int) -> None:
        if f"{task.partition(chr(9))[0]} {done}/{total}" == place:
            raise KeyboardInterrupt

    return listen


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def weights(pipeline: Any) -> Iterable[tuple[str, Tensor]]:
    return pipeline.transformer.state_dict().items()
