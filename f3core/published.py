"""Published models at their own sizes, counted from configs on the meta device: what losing TA would save of each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from f3core.adapter import Adapter, Published, Sketch
from f3core.costs import Costs, unit_saving
from f3core.flops import costs
from f3core.measure import Listener
from f3core.meta import meta_copy
from f3core.plan import Unit, make_units, select
from f3core.registry import Registry
from f3core.sites import KINDS, AttentionKind, AttentionSite, PruningAxis, Removal
from f3core.surgery import parameter_count, restrict_

TARGET = AttentionKind.TEMPORAL
SINGLE = 1
"""step ranges: what goes is gone at every step"""


@dataclass(frozen=True)
class Pruning:
    """TA gone from ``ratio`` of the layers by ``removal``: MACs of one clip that stay, and parameters that go."""

    removal: Removal
    ratio: float
    macs: int
    parameters_removed: int


@dataclass(frozen=True)
class PublishedCount:
    """One published model. ``forward``: MACs of one forward of one row; ``kinds``: of its attention maps among them;
    ``macs``: of the denoisers' forwards of one clip, guidance counted. Of several denoisers, forwards are summed."""

    name: str
    adapter: str
    source: str
    clip: str
    steps: int
    parameters: int
    forward: int
    kinds: dict[AttentionKind, int]
    macs: int
    prunings: tuple[Pruning, ...]
    seconds: float
    """that counting took"""


def published_counts(
    registry: Registry,
    adapters: Iterable[str] = (),
    ratios: Sequence[float] = (0.25, 0.5, 0.75),
    listener: Listener = lambda task, done, total: None,
) -> list[PublishedCount]:
    """Counts of everything that the named adapters (all, when none is named) publish, one model after the other.

    Where units cost alike, which ones go does not matter to a count; where they do not, the last layers go. Raises
    `PluginError` for an adapter that is not registered.
    """
    known: list[Adapter] = [registry.make("adapter", name) for name in list(adapters) or registry.names("adapter")]
    models = [(adapter, published) for adapter in known for published in adapter.published()]
    counts: list[PublishedCount] = []
    for adapter, published in models:
        listener("Counting models", len(counts), len(models))
        counts.append(_count(adapter, published, ratios))
    listener("Counting models", len(counts), len(models))
    return counts


def _count(adapter: Adapter, published: Published, ratios: Sequence[float]) -> PublishedCount:
    began = time.perf_counter()
    sketch = published.sketch()
    priced = costs(adapter, sketch.denoisers, sketch.inputs, [TARGET])
    sites = [site for name, denoiser in sketch.denoisers.items() for site in adapter.sites(denoiser, name)]
    maps = {kind: sum(cost.maps[kind] for of in priced.sites.values() for cost in of.values()) for kind in KINDS}
    return PublishedCount(
        name=published.name,
        adapter=adapter.name,
        source=published.source,
        clip=published.clip,
        steps=len(sketch.levels),
        parameters=sum(parameter_count(denoiser) for denoiser in sketch.denoisers.values()),
        forward=sum(macs for kinds in priced.forward.values() for macs in kinds.values()),
        kinds=maps,
        macs=priced.generation(sketch.rows),
        prunings=tuple(
            _prune(adapter, sketch, priced, sites, removal, ratio)
            for removal in dict.fromkeys(r for site in sites for r in site.removals.get(TARGET, ()))
            for ratio in ratios
        ),
        seconds=time.perf_counter() - began,
    )


def _prune(
    adapter: Adapter, sketch: Sketch, priced: Costs, sites: Sequence[AttentionSite], removal: Removal, ratio: float
) -> Pruning:
    """A site that lists TA and cannot do the removal does its own default, as in a plan."""
    able = {site.fqn: listed for site in sites if (listed := site.removals.get(TARGET, ()))}
    removals = {fqn: removal if removal in listed else listed[0] for fqn, listed in able.items()}
    units = make_units([site for site in sites if site.fqn in able], PruningAxis.LAYER, SINGLE)
    chosen = [units[i] for i in select(units, [0.0] * len(units), ratio)]
    rows = {name: {kind: (sum(times),) for kind, times in kinds.items()} for name, kinds in sketch.rows.items()}
    saved = sum(unit_saving(unit, priced, TARGET, removals, rows) for unit in chosen)
    gone = sum(_parameters_removed(adapter, sketch, component, chosen, removals) for component in sketch.denoisers)
    return Pruning(removal, ratio, priced.generation(rows) - saved, gone)


def _parameters_removed(
    adapter: Adapter, sketch: Sketch, component: str, chosen: Sequence[Unit], removals: dict[str, Removal]
) -> int:
    denoiser = sketch.denoisers[component]
    sites = adapter.sites(denoiser, component)
    here = {fqn for unit in chosen for fqn in unit.sites} & {site.fqn for site in sites}
    pruned = meta_copy(denoiser)
    restrict_(pruned, adapter, sites, TARGET, removals, dict.fromkeys(here))
    return parameter_count(denoiser) - parameter_count(pruned)
