"""Training a student by losses: the loop over steps, and what one step does."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from f3core.distillation import training_state
from f3core.distillation.average import Average
from f3core.distillation.draws import key
from f3core.distillation.learner import Learner
from f3core.distillation.loss import Bench, Loss
from f3core.distillation.passes import Batches, Passes
from f3core.distillation.processes import Processes
from f3core.distillation.training_log import Record, TrainingLog
from f3core.errors import ModelError, OutputError
from f3core.spec_distill import DistillSpec

Listener = Callable[[str, int, int], None]
_TASK = "Distilling"
_LEAST_SCALE = 2**-10
"""of losses under fp16: gradients that overflow at less are not finite for another reason"""
_NEWS = 1.0
"""seconds between changes of what a listener is told of the losses"""


@dataclass(frozen=True)
class Trained:
    """``student`` has the averaged weights (those of the last step where the spec asks for no average)."""

    student: nn.Module
    history: Sequence[Record]
    steps: int


def train(
    bench: Bench,
    losses: Sequence[Loss],
    batches: Batches,
    spec: DistillSpec,
    folder: Path,
    listener: Listener,
    sample: Callable[[nn.Module, int], None] | None = None,
) -> Trained:
    """Train the bench's student, which has weights of its own, or go on with the training whose checkpoint lies in
    ``folder``, as if it had never stopped.

    ``sample(student, step)`` is called in the main process every ``spec.sample_every`` steps, averaged weights in
    place. What a ``listener`` is told of losses follows a tab in the task's name. Raises `ModelError` for models that
    cannot be trained, where `accelerate` is missing, and on a loss that is not finite (the last checkpoint stays);
    `SpecError` for a batch that processes cannot share evenly; `OutputError` for a checkpoint of another training.
    """
    processes = Processes(bench.device, spec.mixed_precision)
    processes.check(spec.batch_size, spec.accumulate)
    if not len(batches):
        raise ModelError("there is no clip to train on")
    if training_state.same_weights(bench.teacher, bench.student):
        raise ModelError("student and teacher share weights; the student needs a copy of its own")
    processes.check_places([bench.teacher, bench.student])
    with _readied(bench, spec.gradient_checkpointing):
        training = _Training(bench, losses, batches, spec, folder, processes)
        try:
            training.run(listener, sample)
        finally:
            training.log.close()
    return Trained(bench.student, training.log.records, training.done)


@contextlib.contextmanager
def _readied(bench: Bench, gradient_checkpointing: bool) -> Iterator[None]:
    """The teacher frozen, the student training, both with gradient checkpointing where asked; evaluating afterwards."""
    trainable = [parameter for parameter in bench.teacher.parameters() if parameter.requires_grad]
    bench.teacher.requires_grad_(False).eval()
    _to_training(bench.student)
    checkpointed: list[Any] = []
    try:
        if gradient_checkpointing:
            checkpointed.append(_with_checkpointing(bench.student))
            if hasattr(bench.teacher, "enable_gradient_checkpointing"):  # some losses need gradients through it
                checkpointed.append(_with_checkpointing(bench.teacher))
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in checkpointed:
            module.disable_gradient_checkpointing()
        bench.student.eval()


def _to_training(student: nn.Module) -> None:
    """Training mode, but for dropout: what a batch is split into must not change what is learnt, and the features of a
    student that forgets some could never be its teacher's."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()


def _with_checkpointing(module: Any) -> Any:
    try:
        module.enable_gradient_checkpointing()
    except (AttributeError, ValueError) as error:  # libraries raise either
        kind = type(module).__name__
        raise ModelError(f"{kind} has no gradient checkpointing; set distill.gradient_checkpointing: false") from error
    return module


class _Training:
    """The state of a training between steps; ``done`` of them lie behind."""

    def __init__(
        self,
        bench: Bench,
        losses: Sequence[Loss],
        batches: Batches,
        spec: DistillSpec,
        folder: Path,
        processes: Processes,
    ) -> None:
        self.bench, self.losses, self.batches, self.spec = bench, losses, batches, spec
        self.folder, self.processes = folder, processes
        self.identity = training_state.identity(bench, losses, len(batches), spec)
        torch.manual_seed(key(spec.seed, "opponents"))
        for loss in losses:
            loss.prepare(bench)
        self.student = Learner("the student", bench.student, spec.optimiser, spec.steps, processes)
        self.opponents: dict[str, Learner] = {}
        for loss in losses:
            if loss.opponent is not None:
                module = loss.opponent.to(bench.device).train()
                name = f"the opponent of loss {loss.name!r}"
                self.opponents[loss.name] = Learner(name, module, spec.opponent, spec.steps, processes)
        self.passes = Passes(bench, losses, batches, spec, processes, self.opponents)
        self.average, self.done, text = self._resumed()
        if processes.main:
            training_state.forget_unproven(folder)
        self.log = TrainingLog(folder if processes.main else None, text)

    def _resumed(self) -> tuple[Average, int, str]:
        """Take up the checkpoint, if there is one: the average, steps done, and the log's text."""
        state = training_state.load(self.folder, self.identity)
        done = 0 if state is None else int(state["step"])
        if len(set(self.processes.gathered(done))) > 1:
            raise OutputError(f"processes find different checkpoints in {self.folder}; they have to share a disk")
        if state is None:
            self.processes.same([self.bench.student, *(each.module for each in self.opponents.values())])
            return Average(self.student.parameters, self.spec.ema), 0, ""
        self.student.load(state["student"])
        for name, opponent in self.opponents.items():
            opponent.load(state["opponents"][name])
        average = Average(self.student.parameters, self.spec.ema)
        average.load(state["average"])
        if self.processes.scaler is not None:
            self.processes.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        return average, done, state["log"]

    def save(self) -> None:
        """Write a checkpoint, in the main process. It counts when the next step's losses are finite: weights may be
        broken without being infinite, and nobody could go on from those."""
        if self.processes.main:
            self.log.flush()
            state = {
                "identity": self.identity,
                "step": self.done,
                "student": self.student.state(),
                "opponents": {name: each.state() for name, each in self.opponents.items()},
                "average": self.average.values,
                "scaler": None if self.processes.scaler is None else self.processes.scaler.state_dict(),
                "rng": torch.get_rng_state(),
                "log": self.log.text(),
            }
            training_state.save(self.folder, state)
        self.processes.wait()

    def run(self, listener: Listener, sample: Callable[[nn.Module, int], None] | None) -> None:
        """All steps that are left, and the average into the student."""
        told, task = -math.inf, _TASK
        if self.processes.main:
            listener(task, self.done, self.spec.steps)
        while self.done < self.spec.steps:
            self.log.note(self._step(self.done + 1))
            self._proven()
            self.done += 1
            last = self.done == self.spec.steps
            if self.processes.main:
                if last or time.monotonic() - told > _NEWS:
                    told, task = time.monotonic(), _told(self.log.records[-1])
                listener(task, self.done, self.spec.steps)
            if sample is not None and self.spec.sample_every and self.done % self.spec.sample_every == 0:
                self._sample(sample)
            if last or self.done % self.spec.save_every == 0:
                self.save()
        self._proven()
        self.average.settle()

    def _proven(self) -> None:
        if self.processes.main:
            training_state.proven(self.folder)

    def _sample(self, sample: Callable[[nn.Module, int], None]) -> None:
        if self.processes.main:
            student = self.bench.student.eval()
            with self.average.in_place(), torch.no_grad():
                sample(student, self.done)
            _to_training(student)
        self.processes.wait()

    def _step(self, number: int) -> Record:
        """One update of the student and one of each opponent; raises `ModelError` where a loss is not finite."""
        start = time.monotonic()
        parts = self.processes.rows(self.spec.batch_size, self.spec.accumulate)
        seen = [self.passes.part(number, rows, 1 / len(parts)) for rows in parts]
        norms = {"gradient_norm": self.student.learn(number)}
        norms |= {f"{name}_gradient_norm": each.learn(number) for name, each in self.opponents.items()}
        if self.processes.scaler is not None:
            self.processes.scaler.update()
        self.average.update()
        values = [part.values for part in seen]
        means = {name: torch.stack([each[name] for each in values]).mean() for name in values[0]}
        fetched = torch.stack([each.float() for each in (*means.values(), *norms.values())]).tolist()
        losses = dict(zip(means, fetched, strict=False))
        found = dict(zip(norms, fetched[len(means) :], strict=True))
        figures = _means([part.figures for part in seen])
        everyone = self.processes.gathered((losses, figures))
        losses = _means([each for each, _ in everyone])
        figures = _means([each for _, each in everyone])
        self._check(number, losses, found)
        weighed = sum(loss.weight * losses[loss.name] for loss in self.losses)
        figures = {"total": weighed, **found, **figures}
        return Record(number, losses, figures, self.student.rate(number), time.monotonic() - start)

    def _check(self, number: int, losses: dict[str, float], norms: dict[str, float]) -> None:
        wrong = [f"loss {name!r} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        scaler = self.processes.scaler  # which leaves such updates out, and goes on at a smaller scale
        if not wrong and (scaler is None or scaler.get_scale() < _LEAST_SCALE):
            wrong = [f"{name} is {value}" for name, value in norms.items() if not math.isfinite(value)]
        if wrong:
            file = self.folder / training_state.FILE
            kept = f"; the checkpoint of an earlier step stays in {file}" if file.exists() else ""
            advice = "a lower learning rate, a smaller clip_norm or another precision may help"
            raise ModelError(f"step {number}: {', '.join(wrong)}{kept}; {advice}")


def _means(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every number over those parts that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: math.fsum(found := [p[name] for p in parts if name in p]) / len(found) for name in names}


def _told(record: Record) -> str:
    return f"{_TASK}\t" + ", ".join(f"{name} {value:.3g}" for name, value in record.losses.items())
