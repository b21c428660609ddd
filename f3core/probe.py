"""`Probe`: watches attention at sites and sums its mass per kind, never holding an attention map.

softmax(QKᵀ)·E, with E the one-hot matrix of key segments, is the mass that each query gives each segment. So the
model's own attention kernel, called once more with E in place of V, gives every mass exactly, in memory linear in
tokens. A stratified sample of queries (every k-th of each frame) estimates the sums without bias at 1/k of the cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from f3core.attention import own_frame_attention
from f3core.calls import Partition, SdpaCall, TextCall, attend_without, by_prompt, partition, rows_held, sample, sdpa
from f3core.clock import Clock, Gate
from f3core.errors import ProbeError
from f3core.meta import share_copy
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout

if TYPE_CHECKING:
    from f3core.adapter import Adapter

DRIFT_STRIDE = 8
"""Drift looks at every eighth query at most: it is a mean of squares, and a sample of it is enough to rank by."""


@dataclass
class CellSums:
    """Sums at one (site, step), apart for the P prompts of a run.

    ``maps`` [P, H, F, F + 1]: mass from queries of a frame to keys of a frame (text last), float64. ``drifts`` [P]:
    squared norms, float64. ``queries`` and ``drift_queries``: the rows behind them, of each prompt.
    """

    maps: Tensor
    drifts: Tensor
    queries: float = 0.0
    drift_queries: float = 0.0

    @property
    def map(self) -> Tensor:
        """``maps`` of all prompts together, [H, F, F + 1]."""
        return self.maps.sum(0)

    @property
    def drift(self) -> Tensor:
        """``drifts`` of all prompts together."""
        return self.drifts.sum()


class _Watch(TorchFunctionMode):
    """Reports every attention call to ``observe(ordinal, call, output)`` after it ran."""

    def __init__(self, observe: Callable[[int, SdpaCall, Tensor], None]) -> None:
        super().__init__()
        self._observe = observe
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is sdpa:
            self._observe(self.calls, SdpaCall(*args, **(kwargs or {})), out)
            self.calls += 1
        return out


@contextmanager
def replaced_forward(module: nn.Module, around: Callable[..., Any]) -> Iterator[None]:
    """Route a module's forward through ``around(forward, *args, **kwargs)`` until the block ends."""
    own = module.__dict__.get("forward")
    module.forward = functools.partial(around, module.forward)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


class Probe:
    """Watches the sites of one denoiser while `watching`; results are in ``cells``, keyed by (site index, step).

    ``stride`` k looks at every k-th query of each frame. ``target`` is the kind whose removal drift measures, None
    for no drift. ``prompts`` run at once, P: the rows of a batch belong to them in turn (guidance branches
    outermost, as pipelines stack them) and are summed prompt by prompt. Raises `ProbeError` when a site runs without
    a recognisable attention.
    """

    def __init__(
        self,
        adapter: Adapter,
        denoiser: nn.Module,
        sites: Mapping[int, AttentionSite],
        *,
        stride: int = 1,
        target: AttentionKind | None = AttentionKind.TEMPORAL,
        prompts: int = 1,
    ) -> None:
        self._adapter = adapter
        self._denoiser = denoiser
        self._sites = sites
        self._stride = stride
        self._target = target
        self._prompts = prompts
        self._partitions: dict[Any, Partition] = {}
        self._layout: Layout | None = None
        self._twins = {index: self._twin(site) for index, site in sites.items() if self._by_twin(site)}
        self._blind = False
        """while a forward runs that is not to be watched"""
        self._seen: list[TextCall | None] = []  # calls of the running site, None for those with other keys than text
        self._foregone: dict[Any, list[TextCall]] = {}
        """the same of sites whose mass is known without watching, by site and layout"""
        self.cells: dict[tuple[int, int], CellSums] = {}
        self.levels: list[float] = []
        self.rows: dict[tuple[int, str], int] = {}
        """denoiser rows by step and kind of forward"""
        self.unconditional: dict[tuple[int, str], int] = {}
        """of these, the rows that their calls tell to be of guidance's unconditional branch"""

    @property
    def step(self) -> int:
        """Index of the running step among the noise levels seen so far."""
        return len(self.levels) - 1

    @contextmanager
    def watching(self) -> Iterator[Probe]:
        """Watch until the block ends; the model's forwards are put back whatever happens."""
        with ExitStack() as stack:
            stack.enter_context(replaced_forward(self._denoiser, self._around_denoiser))
            for index, site in self._sites.items():
                module = self._denoiser.get_submodule(site.path)
                stack.enter_context(replaced_forward(module, functools.partial(self._around_site, index, site, module)))
            yield self

    def _around_denoiser(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._layout = self._adapter.layout(self._denoiser, args, kwargs)
        if self._layout is None:
            return self._unwatched(forward, *args, **kwargs)
        if self._layout.batch % self._prompts:
            raise ProbeError(f"a forward of {self._layout.batch} rows cannot be shared by {self._prompts} prompts")
        level = self._adapter.noise_level(args, kwargs)
        if not self.levels or self.levels[-1] != level:
            self.levels.append(level)
        at = self.step, self._layout.kind
        self.rows[at] = self.rows.get(at, 0) + self._layout.batch
        told = self._adapter.unconditional_rows(self._denoiser, args, kwargs)
        self.unconditional[at] = self.unconditional.get(at, 0) + len(told or ())
        return forward(*args, **kwargs)

    def _unwatched(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._blind = True
        try:
            return forward(*args, **kwargs)
        finally:
            self._blind = False

    def _around_site(
        self, index: int, site: AttentionSite, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self._blind:
            return forward(*args, **kwargs)
        foregone = self._foregone.get((index, self._layout))
        if foregone is not None:
            for heads, part, device, held in foregone:
                self._add_text(self._cell(index, heads, part, device), part, held)
            return forward(*args, **kwargs)
        watch = _Watch(functools.partial(self._observe, index, site, module))
        with watch:
            out = forward(*args, **kwargs)
        if self._by_twin(site):
            self._add_twin_drift(index, out, *args, **kwargs)
        if self._layout and not watch.calls and self._adapter.attends(site, self._layout):
            raise ProbeError(
                f"{site.fqn} ran without calling scaled_dot_product_attention; set the native attention backend, "
                "or let the adapter's `observable` do it"
            )
        seen = [entry for entry in self._seen if entry is not None]
        if len(seen) == watch.calls == len(self._seen) and self._target not in site.kinds:
            self._foregone[index, self._layout] = seen
        self._seen = []
        return out

    # --- one attention call -------------------------------------------------------------------------------------

    def _observe(
        self, index: int, site: AttentionSite, module: nn.Module, ordinal: int, call: SdpaCall, out: Tensor
    ) -> None:
        if self._layout is None:
            raise ProbeError(f"{site.fqn} ran outside its denoiser's forward")
        query, key = call.query, call.key
        shape = AttentionCall(ordinal, query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        cache_key = (self._layout, shape, query.shape[3], query.dtype, query.device, index)
        part = self._partitions.get(cache_key)
        if part is None:
            part = partition(self._adapter, site, self._layout, shape, query)
            alike = (p for key, p in self._partitions.items() if key[:-1] == cache_key[:-1] and p.equals(part))
            part = self._partitions[cache_key] = next(alike, part)  # sites share what they have in common
        cell = self._cell(index, query.shape[1], part, query.device)
        held = rows_held(site, self._layout, shape)
        self._seen.append((query.shape[1], part, query.device, held) if part.only_text else None)
        if part.only_text:
            self._add_text(cell, part, held)
        else:
            cell.queries += part.visual * sum(row % self._prompts == 0 for row in held)
            cell.maps += self._mass(part, call, held)
        if self._target is not None and self._target in site.kinds and not self._by_twin(site):
            self._add_drift(cell, part, site, module, call, out, held)

    def _cell(self, index: int, heads: int, part: Partition, device: torch.device) -> CellSums:
        cell = self.cells.get((index, self.step))
        if cell is None:
            shape = (self._prompts, heads, part.frames, part.frames + 1)
            zeros = torch.zeros(shape, dtype=torch.float64, device=device)
            cell = self.cells[(index, self.step)] = CellSums(zeros, zeros.new_zeros(self._prompts))
        return cell

    def _add_text(self, cell: CellSums, part: Partition, held: range) -> None:
        """Where every key is text, all mass is the text's, whatever the attention: it need not be looked at."""
        times = torch.bincount(torch.tensor(held) % self._prompts, minlength=self._prompts)
        cell.queries += part.visual * int(times[0])
        cell.maps[..., part.frames] += times.to(part.by_frame.device)[:, None, None] * part.by_frame

    def _summed(self, rows: Tensor, held: range) -> Tensor:
        """Of rows [B, ...] of a call that holds the clip rows ``held``: sums by prompt, [P, ...] float64."""
        assert self._layout is not None
        return by_prompt(rows, held, self._layout.batch, self._prompts)

    def _mass(self, part: Partition, call: SdpaCall, held: range) -> Tensor:
        sampled = sample(part, self._stride, self.step)
        query, options = call.at(sampled if self._stride > 1 else None)
        columns = [sdpa(query, call.key, one_hot.expand(*call.key.shape), **options) for one_hot in part.one_hot]
        width = query.shape[3]
        total: Tensor | None = None
        for piece, start in zip(columns, range(0, part.columns, width), strict=True):
            used = min(width, part.columns - start)
            masses = piece[..., :used].float()
            if part.uniform:  # the same number of queries of every frame, frame after frame
                by_frame = masses.reshape(*masses.shape[:2], part.frames, -1, used).sum(3)
                per_frame = by_frame * (part.per_frame * part.frames / len(sampled.positions))
            else:
                per_frame = torch.matmul(sampled.weights, masses)
            summed = self._summed(per_frame, held)  # [P, H, F, used]
            total = summed if total is None else torch.cat([total, summed], dim=-1)
        assert total is not None
        return nn.functional.pad(total, (0, part.frames + 1 - part.columns))

    def _by_twin(self, site: AttentionSite) -> bool:
        return site.rekeyed and self._target is AttentionKind.TEMPORAL

    def _twin(self, site: AttentionSite) -> tuple[Clock, nn.Module]:
        """A restricted copy of a site around the same weights, and the clock that it asks."""
        clock, copied = Clock(), share_copy(self._denoiser.get_submodule(site.path))
        removal = site.removals[AttentionKind.TEMPORAL][0]
        return clock, self._adapter.restrict(copied, site, AttentionKind.TEMPORAL, removal, Gate(clock))

    def _add_twin_drift(self, index: int, out: Tensor, *args: Any, **kwargs: Any) -> None:
        """Drift of a rekeyed site: how far its output lies from that of its restricted twin."""
        assert self._layout is not None
        clock, twin = self._twins[index]
        clock.observe(self._layout)
        delta = (out - twin(*args, **kwargs)).flatten(1, -2)
        cell = self.cells[index, self.step]
        cell.drifts += self._summed(delta.float().square().sum((1, 2)), range(self._layout.batch))
        cell.drift_queries += delta.shape[0] * delta.shape[1] / self._prompts

    def _add_drift(
        self,
        cell: CellSums,
        part: Partition,
        site: AttentionSite,
        module: nn.Module,
        call: SdpaCall,
        out: Tensor,
        held: range,
    ) -> None:
        assert self._target is not None
        stride = max(self._stride, DRIFT_STRIDE)
        sampled = sample(part, stride, self.step)
        query, options = call.at(sampled)
        if self._target is AttentionKind.TEMPORAL and part.uniform and call.plain:
            kept = own_frame_attention(query, call.key, call.value, part.frames, part.text, scale=call.scale)
        else:
            kept = attend_without(self._target, part, sampled, query, call, options)
        delta = (sampled.of(out) - kept).transpose(1, 2).flatten(2)
        if site.output is not None:
            project = module.get_submodule(site.output)
            if type(project) is nn.Linear:
                delta = nn.functional.linear(delta, project.weight)
            else:  # quantised, or with a LoRA
                delta = project(delta) - project(torch.zeros_like(delta[:1, :1]))
        cell.drifts += self._summed(delta.float().square().sum((1, 2)), held)
        cell.drift_queries += delta.shape[0] * delta.shape[1] / self._prompts
