"""MACs of a denoiser, by module and by attention kind, counted with fvcore's op handles.

fvcore finds operators by `torch.jit.trace`, which cannot trace convolutions on the meta device, and a 14 B model must
be counted without allocating it. Its handles only ask for shapes, so :func:`count` feeds them from a dispatch mode;
:func:`count_by_tracing` is fvcore's own way, and both agree wherever every result is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from f3core import surgery
from f3core.block import Block
from f3core.costs import Costs, SiteCost
from f3core.errors import CountingError
from f3core.meta import meta_copy, on_meta
from f3core.operators import Ledger, trace, watch
from f3core.reducing import reduced_calls
from f3core.sites import (
    KINDS,
    TEXT,
    AttentionCall,
    AttentionKind,
    AttentionSite,
    Layout,
    Removal,
    Segments,
    Structure,
    Target,
)

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.reducing import Reduction


@dataclass(frozen=True)
class MacCount:
    """MACs of one forward. Norms, activations and everything else elementwise count 0.

    ``own`` holds, by module path ("" is the denoiser), what a module computes itself, ``modules`` that plus its
    children; modules that compute nothing are left out. ``operators`` splits the total into matmul, conv and
    attention. With an adapter, ``sites`` splits the attention of each site (by fqn) by kind, ``kinds`` is their sum,
    and ``other`` is what text queries cost there, which belongs to no kind.
    """

    total: int
    own: Mapping[str, int]
    modules: Mapping[str, int]
    operators: Mapping[str, int]
    kinds: Mapping[AttentionKind, int] = field(default_factory=dict)
    sites: Mapping[str, Mapping[AttentionKind, int]] = field(default_factory=dict)
    other: int = 0

    def under(self, *paths: str) -> int:
        """MACs of the modules at these dotted paths and all below them, each once."""
        outer = [p for p in set(paths) if not any(p.startswith(f"{q}.") for q in paths)]
        return sum(self.modules.get(path, 0) for path in outer)


def count(
    denoiser: nn.Module, inputs: Mapping[str, Any], adapter: Adapter | None = None, component: str = "transformer"
) -> MacCount:
    """Count one ``denoiser(**inputs)``, on any device; on meta nothing is computed.

    Attention calls cost Lq * Lk * (Dqk + Dv) * B * H, masked or not. Raises `CountingError` for an operator that is
    not free but has no formula, and for segments that do not fit an attention call.
    """
    sites = {site.path: site for site in adapter.sites(denoiser, component)} if adapter else {}
    ledger = watch(denoiser, inputs, sites)
    counted = _by_module(ledger)
    if adapter is None:
        return counted
    layout = adapter.layout_of(denoiser, inputs)
    by_site = {site.fqn: dict.fromkeys(KINDS, 0) for site in sites.values()}
    other = 0
    # Segments are made only now: while the modes are on, making them would be watched too.
    for (path, call, width), times in ledger.calls.items():
        site = sites[path]
        calls = reduced_calls(denoiser.get_submodule(path))
        segments = adapter.segments(site, layout, call) if calls is None else calls.segments(call.ordinal)
        pairs, text_pairs = _pairs(site, layout, call, segments)
        scale = call.heads * width * times
        other += text_pairs * scale
        for kind, number in pairs.items():
            by_site[site.fqn][kind] += number * scale
    kinds = {kind: sum(split[kind] for split in by_site.values()) for kind in KINDS}
    return replace(counted, kinds=kinds, sites=by_site, other=other)


def count_by_tracing(denoiser: nn.Module, inputs: Mapping[str, Any]) -> MacCount:
    """Count one ``denoiser(**inputs)`` by fvcore's `FlopCountAnalysis`. The model is run, so it must have weights.

    A trace leaves out what no output depends on, such as a text embedding once no cross-attention is left.
    Raises `CountingError` as :func:`count` does, and when the output holds no tensor.
    """
    return _by_module(trace(denoiser, inputs))


def costs(
    adapter: Adapter,
    denoisers: Mapping[str, nn.Module],
    inputs: Mapping[str, Mapping[str, Mapping[str, Any]]],
    targets: Collection[Target] = KINDS,
    reduction: Reduction | None = None,
) -> Costs:
    """What each component costs per forward of one row, its sites' maps by kind, and what each removal of one of the
    ``targets`` saves, those that sites list and those of a ``reduction``, which may cost more than they save.

    ``inputs`` holds, by component and kind of forward, keyword arguments of a one-row forward. Everything is counted
    on meta copies. Raises `CountingError` when a removal changes what other modules cost, or a site shows no attention
    in any kind of forward.
    """
    forward: dict[str, dict[str, int]] = {}
    found: dict[str, dict[str, SiteCost]] = {}
    for component, denoiser in denoisers.items():
        model = meta_copy(denoiser)
        priced = {
            kind: _price(adapter, component, model, given, targets, reduction)
            for kind, given in inputs[component].items()
        }
        forward[component] = {kind: total for kind, (total, _) in priced.items()}
        for site in (*adapter.sites(model, component), *_blocks(adapter, model, component, targets)):
            found[site.fqn] = {kind: sites[site.fqn] for kind, (_, sites) in priced.items()}
            mapped = any(cost.maps.get(kind) for cost in found[site.fqn].values() for kind in KINDS)
            if not mapped and not isinstance(site, Block):
                raise CountingError(
                    f"{site.fqn} made no call of scaled_dot_product_attention, so its map cannot be split by kind; "
                    "set the native attention backend"
                )
    sizes = {component: surgery.parameter_count(denoiser) for component, denoiser in denoisers.items()}
    return Costs(forward=forward, sites=found, parameters=sizes)


def _blocks(adapter: Adapter, model: nn.Module, component: str, targets: Collection[Target]) -> Sequence[Block]:
    """Blocks, where they are among what is priced."""
    return adapter.blocks(model, component) if Structure.BLOCK in targets else ()


def _price(
    adapter: Adapter,
    component: str,
    model: nn.Module,
    inputs: Mapping[str, Any],
    targets: Collection[Target],
    reduction: Reduction | None,
) -> tuple[int, dict[str, SiteCost]]:
    """MACs of one forward, and what its sites cost, by fqn. ``model`` is on meta."""
    given = on_meta(dict(inputs))
    rows = adapter.layout_of(model, given).batch
    if rows != 1:
        raise CountingError(f"{component}: costs are those of one row, the inputs have {rows}")
    whole = count(model, given, adapter, component)
    sites = [*adapter.sites(model, component), *_blocks(adapter, model, component, targets)]
    saved: dict[str, dict[str, int]] = {site.fqn: {} for site in sites}
    freed: dict[str, dict[str, int]] = {site.fqn: {} for site in sites}
    listed = [(t, r) for site in sites for t, rs in site.removals.items() for r in rs]
    own = reduction.method.removals.items() if reduction else ()
    for target, removal in dict.fromkeys((t, r) for t, r in (*listed, *own) if t in targets):
        for fqn, one in _savings(model, given, adapter, component, target, removal, whole, reduction).items():
            saved[fqn][f"{target}:{removal}"], freed[fqn][f"{target}:{removal}"] = one
    return whole.total, {
        s.fqn: SiteCost(maps=dict(whole.sites.get(s.fqn, {})), saved=saved[s.fqn], parameters=freed[s.fqn])
        for s in sites
    }


def _savings(
    model: nn.Module,
    inputs: Mapping[str, Any],
    adapter: Adapter,
    component: str,
    target: Target,
    removal: Removal,
    whole: MacCount,
    reduction: Reduction | None,
) -> dict[str, tuple[int, int]]:
    """The MACs of a forward that one removal saves, and the parameters that leave, by fqn of the sites that can do it.

    It is done at all of them at once: sites are disjoint, so each one's saving can be read off its own modules.
    """
    pruned = meta_copy(model)
    surgery.restrict_all_(pruned, adapter, component, target, removal, reduction)
    left = count(pruned, inputs)
    saved = {}
    for site in adapter.places(model, component, target):
        if site.can(target, removal):
            freed = sum(_size(model, path) - _size(pruned, path) for path in site.modules)
            saved[site.fqn] = (whole.under(*site.modules) - left.under(*site.modules), freed)
    total = sum(macs for macs, _ in saved.values())
    if total != whole.total - left.total:
        raise CountingError(
            f"{component}: {removal} of {target} saves {whole.total - left.total} MACs, but its sites and companions "
            f"account for {total}; a module that it changes is missing from the companions"
        )
    return saved


def _size(model: nn.Module, path: str) -> int:
    return surgery.parameter_count(model.get_submodule(path))


def _by_module(ledger: Ledger) -> MacCount:
    own = {path: macs for path, macs in ledger.own.items() if macs}
    modules: Counter[str] = Counter()
    for path, macs in own.items():
        parts = path.split(".") if path else []
        for depth in range(len(parts) + 1):
            modules[".".join(parts[:depth])] += macs
    return MacCount(sum(own.values()), own, dict(modules), dict(ledger.operators))


# --- by kind ----------------------------------------------------------------------------------------------------


def _pairs(
    site: AttentionSite, layout: Layout, call: AttentionCall, segments: Segments
) -> tuple[dict[AttentionKind, int], int]:
    """(query, key) pairs of a call by kind, over all rows, and those of text queries; from histograms of segments."""
    query = _histogram(site, layout, call.batch, call.queries, segments.query)
    key = _histogram(site, layout, call.batch, call.keys, segments.key)
    times = call.batch // max(len(query), len(key))  # one row stands for all
    text, visible = key[:, :1], key[:, 1:]
    cross = query[:, 1:] * text
    same = query[:, 1:] * visible
    temporal = query[:, 1:] * (visible.sum(1, keepdim=True) - visible)
    numbers = [int(pairs.sum()) * times for pairs in (cross, same, temporal)]
    return dict(zip(KINDS, numbers, strict=True)), call.batch * call.queries * call.keys - sum(numbers)


def _histogram(site: AttentionSite, layout: Layout, batch: int, length: int, segment: Tensor) -> Tensor:
    """Tokens by segment, int64 [1 or B, 1 + F], text first."""
    if segment.ndim != 2 or segment.shape[1] != length or segment.shape[0] not in (1, batch):
        raise CountingError(
            f"{site.fqn}: the adapter's segments have shape {tuple(segment.shape)}, the attention call has {length} "
            f"tokens in {batch} rows"
        )
    if segment.is_meta:
        raise CountingError(f"{site.fqn}: segments must have values; make them on the CPU")
    if segment.numel() and not TEXT <= int(segment.min()) <= int(segment.max()) < layout.frames:
        raise CountingError(f"{site.fqn}: segments must be TEXT or frames 0 to {layout.frames - 1}")
    bins = layout.frames + 1
    rows = torch.arange(len(segment), device=segment.device)[:, None]
    flat = torch.bincount((rows * bins + segment - TEXT).flatten(), minlength=len(segment) * bins)
    return flat.view(len(segment), bins)
