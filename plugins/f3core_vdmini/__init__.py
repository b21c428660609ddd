"""VDMini (arXiv 2411.18375): prune whole blocks, and train what is left to keep content and motion."""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_methods() -> list[Entry]:
    home = "f3core_vdmini.methods"
    return [
        Entry(
            "vdmini", f"{home}:VDMini", "the paper's rule for U-Nets: shallow pairs and the innermost level (VDMini)"
        ),
        Entry("importance", f"{home}:Importance", "the least important blocks, greedily under a budget"),
        Entry("listed", f"{home}:Listed", "the blocks that the spec names"),
    ]


@hookimpl
def f3core_criteria() -> list[Entry]:
    home = "f3core_vdmini.criteria"
    return [
        Entry("change", f"{home}:Change", "1 − cosine of what a block takes and gives"),
        Entry("output_drift", f"{home}:OutputDrift", "how far the denoiser's output moves without it"),
        Entry(
            "measured", "f3core_vdmini.measured:Measured", "how much worse a figure gets without it (f3core importance)"
        ),
    ]


@hookimpl
def f3core_losses() -> list[Entry]:
    return [
        Entry("task", "f3core_vdmini.task:TaskLoss", "what the teacher was trained by: noise, velocity or flow"),
        Entry("icd", "f3core_vdmini.icd:IndividualContentLoss", "features of matched blocks, frame by frame"),
        Entry("mca", "f3core_vdmini.mca:MultiFrameAdversarialLoss", "an adversary of frames and of motion"),
    ]
