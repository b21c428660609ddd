"""What tests of measured importance share: studies of a few places, without a model."""

from __future__ import annotations

from typing import Any

from f3core.environment import Machine
from f3core.importance_rows import Importance, MeasuredPlace
from f3core.sites import Removal, Structure

SEEDS = (0, 1)


def place(name: str, *figures: dict[str, float], **changes: Any) -> MeasuredPlace:
    """A place of one block, whose damage under a seed is a hundredth of its first figure."""
    known: dict[str, Any] = {
        "name": name,
        "sites": (name,),
        "removal": (Removal.DROP,),
        "index": 0,
        "figures": figures,
        "damage": tuple(abs(next(iter(one.values()))) / 100 for one in figures),
        "macs_saved": 10,
        "parameters_saved": 5,
        "proxies": {"guess": tuple(next(iter(one.values())) for one in figures)},
    }
    return MeasuredPlace(**(known | changes))


def study(*places: MeasuredPlace, **changes: Any) -> Importance:
    """Of `fid` (lower is better) and `acc` (higher is better), two figures of which are told."""
    known: dict[str, Any] = {
        "date": "2026-01-01T00:00:00+00:00",
        "machine": Machine(cpu="one", cores=1, memory=1),
        "versions": {},
        "command": "f3core importance spec.yaml",
        "spec": "spec.yaml",
        "source": "a/model",
        "seeds": SEEDS,
        "adapter": "wan",
        "target": Structure.BLOCK,
        "clips": 2,
        "steps": 2,
        "calibrated": 2,
        "higher_is_better": {"fid": False, "acc": True},
        "unpruned": ({"fid": 10.0, "acc.all": 0.5, "acc.some": 1.0},) * 2,
        "macs": 100,
        "parameters": 50,
        "seconds": None,
        "criteria": ("guess",),
        "unable": {},
        "places": places,
        "staying": {},
    }
    return Importance(**(known | changes))


def measured(name: str, fid: float, every: float = 0.5, some: float = 1.0, **changes: Any) -> MeasuredPlace:
    """A place by its figures: `fid` under the first seed, one more under the second; `acc.all` and `acc.some`."""
    return place(name, *({"fid": fid + seed, "acc.all": every, "acc.some": some} for seed in SEEDS), **changes)
