"""F3-Pruning (arXiv 2312.03459): prune the temporal attention that ranks lowest, without training.

Its criterion is the Aggregate Attention Score; the others here are further ways to rank, and controls for it.
"""

from __future__ import annotations

from f3core.hookspecs import Entry, hookimpl


@hookimpl
def f3core_methods() -> list[Entry]:
    return [Entry("f3", "f3core_f3.method:F3", "score, rank, prune the lowest share (F3-Pruning)")]


@hookimpl
def f3core_criteria() -> list[Entry]:
    home = "f3core_f3.criteria"
    return [
        Entry("aas", f"{home}:AggregateAttentionScore", "attention mass of the target kind, summed (the paper's)"),
        Entry("aas_mean", f"{home}:MeanAttentionShare", "mean share of a query's attention; comparable across sizes"),
        Entry("drift", f"{home}:Drift", "how far a site's output moves when the target kind is taken away"),
        Entry("propagated_drift", f"{home}:PropagatedDrift", "predicted damage to the clip; tried on a few prompts"),
        Entry("late", f"{home}:Late", "last layers or steps first; needs no scores"),
        Entry("random", f"{home}:Random", "a seeded shuffle: the control that shows whether a ranking means anything"),
        Entry("reverse", f"{home}:Reverse", "highest AAS first: the control that should do worst if AAS is right"),
    ]
