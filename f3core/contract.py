"""What `f3core.testing` stands on: example plans, comparing outputs, and a denoiser pruned the plain way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from f3core.adapter import Adapter
from f3core.block import Site
from f3core.calls import SdpaCall
from f3core.costs import Costs, Passes, unit_saving
from f3core.explicit import Intercept, attention_weights, pairs
from f3core.meta import again, share_copy
from f3core.method import Method, PlanRequest
from f3core.plan import PruningPlan, StepRange, Verdict, make_units
from f3core.reducing import Reduction
from f3core.reduction import Places, Reduced, Reducer
from f3core.sites import (
    FORWARD,
    AttentionCall,
    AttentionKind,
    AttentionSite,
    GuidanceBranch,
    PruningAxis,
    Removal,
    Target,
)
from f3core.surgery import apply_plan_, restrict_

Change = tuple[AttentionKind, Removal]


def example_plan(
    adapter: str,
    sites: Sequence[Site],
    change: tuple[Target, Removal],
    *,
    axis: PruningAxis = PruningAxis.LAYER,
    ranges: tuple[StepRange, ...] = (StepRange(),),
    chosen: Collection[int] | None = None,
    prices: Costs | None = None,
    passes: Passes | None = None,
    unconditional: Passes | None = None,
) -> PruningPlan:
    """A plan that makes ``change`` at the units ``chosen`` (numbers along the axis; None: all) of the sites listing it.

    Unit i scores i. Savings are predicted where ``prices`` are given, for ``passes`` rows a step range (left out, one
    of the only kind of forward). ``unconditional``: those of guidance's unconditional branch; where they are given, it
    is pruned alone.
    """
    target, removal = change
    able = [site for site in sites if removal in site.ways(target)]
    removals = {site.fqn: removal for site in able}
    units = make_units(able, axis, len(ranges))
    picked = range(len(units)) if chosen is None else chosen
    kinds = {site.component: [FORWARD] for site in sites} if prices is None else prices.forward
    given = passes or {name: dict.fromkeys(listed, (1,) * len(ranges)) for name, listed in kinds.items()}
    rows, apart = (
        {name: {kind: tuple(times) for kind, times in listed.items()} for name, listed in every.items()}
        for every in (given, unconditional or {})
    )
    reach = rows if unconditional is None else apart
    saved = [unit_saving(u, prices, target, removals, reach) if prices else 0 for u in units]
    before = prices.generation(rows) if prices else 0
    return PruningPlan(
        adapter=adapter,
        method="contract",
        criterion="order",
        target=target,
        branch=GuidanceBranch.BOTH if unconditional is None else GuidanceBranch.UNCONDITIONAL,
        axis=axis,
        ratio=len(picked) / max(1, len(units)),
        step_ranges=ranges,
        removals=removals,
        units=tuple(
            Verdict(**dict(unit), score=i, pruned=i in picked, macs_saved=saved[i]) for i, unit in enumerate(units)
        ),
        passes=rows,
        unconditional=apart,
        macs_before=before,
        macs_after=before - sum(saved[i] for i in picked),
    )


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a forward's output, whatever holds them."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether outputs agree in every bit."""
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Largest difference of two outputs, relative to the largest value of the second; infinite on NaN."""
    pairs = [(a.double(), b.double()) for a, b in zip(one, other, strict=True)]
    far = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)
    return math.inf if math.isnan(far) else far


@contextmanager
def explained(advice: str) -> Iterator[None]:
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{advice} ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class Call:
    """A module, and arguments with which it was called."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def blocks_around(denoiser: nn.Module, sites: Sequence[AttentionSite], run: Callable[[], object]) -> list[Call]:
    """While ``run`` runs the denoiser, one call of each kind of block: the nearest module around a site that is called.

    Blocks are of one kind when they are made of modules of the same names and classes.
    """
    parents = [[*[*accumulate(site.path.split(".")[:-1], "{}.{}".format)][::-1], ""] for site in sites]
    calls: dict[str, Call] = {}

    def note(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(path, Call(module, *tree_map_only(Tensor, torch.clone, (args, kwargs))))

    with ExitStack() as stack:
        for path in {path for above in parents for path in above}:
            hook = denoiser.get_submodule(path).register_forward_pre_hook(partial(note, path), with_kwargs=True)
            stack.callback(hook.remove)
        run()
    around = [calls[next(path for path in above if path in calls)] for above in parents]
    return list({tuple((name, type(m)) for name, m in call.module.named_modules()): call for call in around}.values())


def off_when_compiled(call: Call) -> float:
    """How far a module's outputs move when it is compiled in one graph."""
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            compiled = torch.compile(call.module, fullgraph=True, backend="aot_eager")
            after = tensors(compiled(*again(call.args), **again(call.kwargs)))
            return distance(after, tensors(call.module(*again(call.args), **again(call.kwargs))))
    finally:
        torch._dynamo.reset()


def _input_instead(_module: nn.Module, args: tuple[Any, ...], _out: Any) -> Any:
    return args[0]


def _zeros_instead(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
    return torch.zeros_like(out)


class _AllOrNone(Method):
    """Reduces keys to all or none of them, for which it need not choose."""

    name = "contract"
    removals: ClassVar[Mapping[AttentionKind, Removal]] = {AttentionKind.TEMPORAL: Removal.REDUCE}

    def plan(self, request: PlanRequest) -> PruningPlan:
        raise AssertionError("the contract makes its own plans")

    def reducer(self, seed: int) -> Reducer:
        return _Unasked()


class _Unasked(Reducer):
    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        raise AssertionError("all keys or none are kept, so nothing is to be chosen")


class ContractBase:
    """What an author fills in, and what the tests use.

    ``frames``, ``height``, ``width`` and ``text`` go to `Adapter.example_inputs`: keep frames odd and not square.
    """

    adapter: ClassVar[Adapter]
    component: ClassVar[str] = "transformer"
    frames: ClassVar[int] = 3
    height: ClassVar[int] = 4
    width: ClassVar[int] = 6
    text: ClassVar[int | None] = 7
    levels: ClassVar[tuple[float, ...]] = (900.0, 600.0, 400.0, 100.0)
    """noise levels, noisy to clean, for which :meth:`at_level` makes inputs"""
    self_only_bfloat16: ClassVar[float] = 2e-2
    """how far self_only may lie from dense attention with the other frames masked, in bfloat16, relative to the largest
    value; raise it only for a model in which many layers round on the way"""

    def build(self) -> nn.Module:
        """A tiny denoiser with random weights; called often, with torch seeded."""
        raise NotImplementedError("write build(): it returns a tiny denoiser with random weights")

    def cast(self, denoiser: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The denoiser in ``dtype``. Override for one that runs only with some of its modules in float32."""
        return denoiser.to(dtype)

    def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:
        """``inputs`` at another noise level. Override where the forward calls it something other than ``timestep``, or
        where a step of the model is no forward over all frames."""
        return {**inputs, "timestep": torch.full_like(inputs["timestep"], level)}

    def _made(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.cast(self.build().eval(), dtype)

    def _inputs(self, denoiser: nn.Module, batch: int = 2) -> dict[str, Any]:
        torch.manual_seed(1)
        size = {"frames": self.frames, "height": self.height, "width": self.width}
        return self.adapter.example_inputs(denoiser, **size, batch=batch, text=self.text)

    def _sites(self, denoiser: nn.Module) -> list[AttentionSite]:
        return self.adapter.sites(denoiser, self.component)

    def _changes(self, sites: Sequence[AttentionSite], *, gated: bool = False) -> list[Change]:
        """Every removal that some site lists; ``gated``: that it can do at some steps only."""
        listed = ((t, site.gated(t) if gated else every) for site in sites for t, every in site.removals.items())
        found = dict.fromkeys((target, removal) for target, removals in listed for removal in removals)
        assert found, "no site lists a removal: fill `removals` of the sites that can lose a kind"
        return list(found)

    def _pruned(self, denoiser: nn.Module, plan: PruningPlan) -> nn.Module:
        copied = share_copy(denoiser)
        with explained(f"surgery failed: {plan.target} by {next(iter(plan.removals.values()))}; see `restrict`"):
            apply_plan_(copied, plan, self.adapter, self.component)
        return copied

    def _reduced(self, denoiser: nn.Module, sites: Sequence[AttentionSite], keep: float) -> nn.Module:
        """The denoiser with all keys of other frames at ``sites``, or (``keep`` 0) none."""
        copied, always = share_copy(denoiser), dict.fromkeys(site.fqn for site in sites)
        removals = dict.fromkeys(always, Removal.REDUCE)
        reduction = Reduction(_AllOrNone(), keep)
        restrict_(copied, self.adapter, sites, AttentionKind.TEMPORAL, removals, always, reduction=reduction)
        return copied

    def _run(self, denoiser: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
        advice = "for a dropped site, does it return one tensor, and for a skipped block, what `Part.hands` says?"
        with torch.no_grad(), explained(f"the forward failed; {advice}"):
            found = tensors(denoiser(**again(inputs)))
        assert found, "the denoiser's output holds no tensor; let example_inputs ask for tuples (return_dict=False)"
        return found

    def _oracle(self, denoiser: nn.Module, inputs: Mapping[str, Any], change: Change) -> list[Tensor]:
        """The unpruned model with the change made the plain way: keys masked to -inf, or a site's output zeroed."""
        target, removal = change
        sites = [site for site in self._sites(denoiser) if removal in site.removals.get(target, ())]
        layout = self.adapter.layout_of(denoiser, inputs)

        def masked(site: AttentionSite, shape: AttentionCall, call: SdpaCall, run: Callable[[], Tensor]) -> Tensor:
            gone = pairs(self.adapter.segments(site, layout, shape), target)
            weights = attention_weights(call, gone)
            value = call.value.double().repeat_interleave(weights.shape[1] // call.value.shape[1], dim=1)
            return (weights @ value).to(call.value.dtype)

        with ExitStack() as stack:
            if removal is Removal.DROP:
                for site in sites:
                    module = denoiser.get_submodule(site.path)
                    handle = module.register_forward_hook(_input_instead if site.bypass else _zeros_instead)
                    stack.callback(handle.remove)
            else:
                stack.enter_context(Intercept(masked).at(denoiser, sites))
            return self._run(denoiser, inputs)
