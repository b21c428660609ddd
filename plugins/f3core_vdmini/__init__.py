"""VDMini (arXiv 2411.18375): prune whole blocks, and train what is left to keep content and motion."""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_losses() -> list[Entry]:
    return [
        Entry("task", "f3core_vdmini.task:TaskLoss", "what the teacher was trained by: noise, velocity or flow"),
        Entry("icd", "f3core_vdmini.icd:IndividualContentLoss", "features of matched blocks, frame by frame"),
        Entry("mca", "f3core_vdmini.mca:MultiFrameAdversarialLoss", "an adversary of frames and of motion"),
    ]
