"""`Pace`: seconds of one clip, told so that a slow spell of the machine counts against no variant that is compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from f3core.evaluate import PairedTiming
from f3core.report_text import plural


class Pace(BaseModel):
    """One number of the denoiser's forwards alone, and one of a whole generation."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    denoiser: float
    end_to_end: float

    @classmethod
    def unpruned(cls, timings: Sequence[PairedTiming]) -> Pace | None:
        """Seconds of one clip of the unpruned model, the median over its runs beside every variant; None for none."""
        if not timings:
            return None
        runs = [(t.denoiser.before_runs, t.end_to_end.before_runs) for t in timings]
        denoiser, end_to_end = (statistics.median(s for each in part for s in each) for part in zip(*runs, strict=True))
        return cls(denoiser=denoiser / timings[0].clips, end_to_end=end_to_end / timings[0].clips)

    @classmethod
    def speedup(cls, timing: PairedTiming | None) -> Pace:
        """Of a variant, the medians over interleaved pairs; 1 for the unpruned model, which has no timing."""
        if timing is None:
            return cls(denoiser=1, end_to_end=1)
        return cls(denoiser=timing.denoiser.speedup, end_to_end=timing.end_to_end.speedup)

    def over(self, speedup: Pace) -> Pace:
        """The seconds of a variant of this speed-up."""
        return Pace(denoiser=self.denoiser / speedup.denoiser, end_to_end=self.end_to_end / speedup.end_to_end)


def how_timed(timings: Sequence[PairedTiming], runs: str) -> str:
    """How seconds and speed-ups came about, of variants timed alike; ``runs``: those of a pair, in words."""
    clips, pairs = timings[0].clips, len(timings[0].denoiser.before_runs)
    return (
        f"Time: {plural(clips, 'clip')} at once, {plural(pairs, 'interleaved pair')} of "
        f"{runs}, first seed. Speed-up is the median over pairs; seconds are those of one clip of the unpruned model "
        "(median) divided by it, so a slow spell of the machine counts against none of them."
    )
