"""`Clock`: what the denoiser is doing right now, read by the sites that depend on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from f3core.sites import GuidanceBranch

if TYPE_CHECKING:
    from f3core.plan import StepRange
    from f3core.sites import Layout


class Clock:
    """Token layout and step range of the running forward, shared by a denoiser and its pruned sites.

    ``layout`` is the whole layout of the running forward, of every forward, where ``keeps_layout``; compiled code does
    without. ``branch``: whose rows are pruned; ``reached``: whether those that run are of it.

    Compiled code reads only ``frames``, ``tokens``, ``before`` and whether a gate is on, so it is compiled once per
    distinct state of the gates, however many step ranges there are.
    """

    def __init__(self, step_ranges: Sequence[StepRange] = (), branch: GuidanceBranch = GuidanceBranch.BOTH) -> None:
        self.step_ranges = tuple(step_ranges)
        self.branch = branch
        self.reached = True
        self.step_range = 0
        self.frames = 1
        self.tokens = 0
        self.before = 0
        self.layout: Layout | None = None
        self.keeps_layout = False
        self.held = False
        self.gates: list[Gate] = []

    def observe(self, layout: Layout | None) -> None:
        """Take the layout of the forward that starts; None changes nothing but ``layout``."""
        if self.keeps_layout:
            self.layout = layout
        if layout is None:
            return
        self.frames = layout.frames
        self.tokens = layout.tokens
        self.before = layout.before

    def tick(self, level: float, *, reached: bool = True) -> None:
        """Take the noise level of the forward that starts. The ranges of a plan leave no gap, so one holds it."""
        for index, step_range in enumerate(self.step_ranges):
            if level in step_range:
                self._turn(index, reached)
                return

    @contextlib.contextmanager
    def hold(self, step_range: int, *, reached: bool = True) -> Iterator[None]:
        """Pretend that a step range runs, whatever the timestep; for counting, where timesteps have no values."""
        self._turn(step_range, reached)
        self.held = True
        try:
            yield
        finally:
            self.held = False

    def _turn(self, step_range: int, reached: bool) -> None:
        self.step_range = step_range
        self.reached = reached
        for gate in self.gates:
            gate.on = reached and (gate.ranges is None or step_range in gate.ranges)


class Gate:
    """When a site is pruned: always, or while the clock is in one of ``ranges``, as far as its rows are reached."""

    def __init__(self, clock: Clock, ranges: frozenset[int] | None = None) -> None:
        self.clock = clock
        self.ranges = ranges
        self.on = ranges is None or clock.step_range in ranges
        clock.gates.append(self)

    @property
    def always(self) -> bool:
        """Whether the site is pruned at every step."""
        return self.ranges is None

    def active(self) -> bool:
        """Whether the site is pruned in the running forward."""
        return self.on

    def active_at(self, level: float) -> bool:
        """Whether the site is pruned at a noise level, for models whose forward may hold tokens of several steps. While
        the clock is held, the running step range stands for every level."""
        if self.ranges is None or self.clock.held:
            return self.on
        return self.clock.reached and any(level in self.clock.step_ranges[index] for index in self.ranges)
