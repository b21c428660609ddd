"""`AdapterContract`: what every adapter must keep, as a pytest class that an adapter's author subclasses.

    class TestMyAdapter(AdapterContract):
        adapter = MyAdapter()

        def build(self) -> nn.Module:
            return MyDenoiser(num_layers=2, width=32)  # tiny and random; no weight may be all zeros

Needs pytest. Every failure says what in the adapter is likely wrong.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from f3core.contract import Call, Change, blocks_around, distance, example_plan, explained, off_when_compiled, same
from f3core.contract_blocks import BlocksContract
from f3core.contract_facts import EXACT, FactsContract, both_dtypes
from f3core.flops import costs, count
from f3core.measure import count_pruned
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.plan import make_units, select, split_steps
from f3core.sites import AttentionKind, AttentionSite, PruningAxis, Removal
from f3core.surgery import restrict_

TEMPORAL = AttentionKind.TEMPORAL


class AdapterContract(FactsContract, BlocksContract):
    """Subclass as ``Test...``, set ``adapter`` and write :meth:`build`; the rest has defaults.

    Sizes, ``component``, :meth:`cast` and :meth:`at_level` may be overridden too: see `ContractBase`.
    """

    @both_dtypes
    def test_an_empty_plan_changes_nothing(self, dtype: torch.dtype) -> None:
        denoiser = self._made(dtype)
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        before = self._run(denoiser, inputs)
        assert same(self._run(denoiser, inputs), before), "two forwards of one input differ: the model draws noise"
        for change in self._changes(sites):
            plan = example_plan(self.adapter.name, sites, change, chosen=())
            assert same(self._run(self._pruned(denoiser, plan), inputs), before), "an empty plan changes the output"

    @both_dtypes
    def test_removals_equal_the_plain_way(self, dtype: torch.dtype) -> None:
        """drop: zeros, or its first input, for a site's output; all others: dense attention with those keys at -inf."""
        denoiser = self._made(dtype)
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        before = self._run(denoiser, inputs)
        bars = dict.fromkeys(Removal, EXACT[dtype])
        if dtype is torch.bfloat16:
            bars[Removal.SELF_ONLY] = self.self_only_bfloat16
        for target, removal in self._changes(sites):
            plan = example_plan(self.adapter.name, sites, (target, removal))
            off = distance(
                self._run(self._pruned(denoiser, plan), inputs), self._oracle(denoiser, inputs, (target, removal))
            )
            likely = (
                "a companion feeds something else, or the site's output has another shape than its first input"
                if removal is Removal.DROP
                else "restrict() and segments() disagree on what stays (check every argument that holds tokens)"
            )
            assert off <= bars[removal], f"{removal} of {target} is off by {off:.1e}: {likely}"
            assert same(self._run(denoiser, inputs), before), f"{removal} of {target} altered a copy's original"

    def test_keys_of_other_frames_can_be_reduced(self) -> None:
        """Token reduction that keeps all keys of other frames is the model; one that keeps none is self_only."""
        denoiser = self._made()
        inputs = self._inputs(denoiser)
        able = [site for site in self._sites(denoiser) if site.can(TEMPORAL, Removal.REDUCE) and not site.rekeyed]
        if not able:
            return
        whole, none = (self._run(self._reduced(denoiser, able, keep), inputs) for keep in (1.0, 0.0))
        assert same(whole, self._run(denoiser, inputs)), "watching the attention calls of a site changes them"
        own = example_plan(self.adapter.name, able, (TEMPORAL, Removal.SELF_ONLY))
        off = distance(none, self._run(self._pruned(denoiser, own), inputs))
        assert off <= EXACT[torch.float32], (
            f"attention without keys of other frames is off self_only by {off:.1e}: segments() tells other frames than "
            "restrict() keeps, or running_layout() is wrong"
        )

    def test_every_listed_removal_works_alone_and_shows(self) -> None:
        denoiser = self._made()
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        before = self._run(denoiser, inputs)
        for site in sites:
            for change in self._changes([site]) if site.removals else ():
                pruned = self._pruned(denoiser, example_plan(self.adapter.name, [site], change))
                after = self._run(pruned, inputs)
                shapes = [t.shape for t in after] == [t.shape for t in before]
                assert shapes, f"{site.fqn}: {change[1]} of {change[0]} changes the output's shape"
                assert not same(after, before), (
                    f"{site.fqn}: {change[1]} of {change[0]} does not show in the output; does restrict() do it, and "
                    "does build() give every projection weights other than zero?"
                )

    def test_macs_never_rise_and_are_predicted_exactly(self) -> None:
        denoiser = self._made()
        inputs, sites = on_meta(self._inputs(denoiser, batch=1)), self._sites(denoiser)
        skeleton = meta_copy(denoiser)
        kind = self.adapter.layout_of(denoiser, inputs).kind
        with explained("MACs cannot be counted"):
            prices = costs(self.adapter, {self.component: denoiser}, {self.component: {kind: inputs}})
        for change in self._changes(sites):
            able = [site for site in sites if change[1] in site.removals.get(change[0], ())]
            last = prices.forward[self.component][kind]
            units = make_units(able, PruningAxis.LAYER, 1)
            scores = [float(i) for i in range(len(units))]
            ratios = {frozenset(select(units, scores, ratio)): ratio for ratio in (0.0, 0.25, 0.5, 0.75, 1.0)}
            for chosen, ratio in ratios.items():
                plan = example_plan(self.adapter.name, sites, change, chosen=chosen, prices=prices)
                counted = count(self._pruned(skeleton, plan), inputs).total
                what = f"{change[1]} of {change[0]} at ratio {ratio}"
                assert counted == plan.macs_after, f"{what}: {plan.macs_after} MACs predicted, {counted} counted"
                assert counted <= last, f"{what}: MACs rise from {last} to {counted}"
                last = counted

    def test_macs_of_any_cells_are_predicted_exactly(self) -> None:
        denoiser = self._made()
        inputs, sites = self._inputs(denoiser, batch=1), self._sites(denoiser)
        forwards: dict[str, dict[str, Any]] = {}
        rows: dict[str, list[int]] = {}
        for i, level in enumerate(self.levels):
            at = on_meta(self.at_level(denoiser, inputs, level))
            kind = self.adapter.layout_of(denoiser, at).kind
            forwards[kind] = at
            rows.setdefault(kind, [0] * len(self.levels))[i] = 2 + i
        ranges = split_steps(self.levels, len(self.levels))
        passes = {self.component: {kind: tuple(times) for kind, times in rows.items()}}
        with explained("MACs cannot be counted"):
            prices = costs(self.adapter, {self.component: denoiser}, {self.component: forwards})
        skeleton = meta_copy(denoiser)
        drawn = random.Random(0)
        for change in self._changes(sites, gated=True):
            able = [site for site in sites if change[1] in site.gated(change[0])]
            number = len(make_units(able, PruningAxis.CELL, len(ranges)))
            for chosen in (range(number), *(drawn.sample(range(number), number // 2) for _ in range(3))):
                plan = example_plan(
                    self.adapter.name,
                    able,
                    change,
                    axis=PruningAxis.CELL,
                    ranges=ranges,
                    chosen=chosen,
                    prices=prices,
                    passes=passes,
                )
                pruned = {self.component: self._pruned(skeleton, plan)}
                total = count_pruned(self.adapter, pruned, plan, prices, {self.component: forwards})[1].counted.total
                assert total == plan.macs_after, (
                    f"{change[1]} of {change[0]} in cells {sorted(chosen)}: {plan.macs_after} MACs predicted, {total} "
                    "counted; ask the gate in forward, not in restrict()"
                )

    @both_dtypes
    def test_timestep_plans_prune_exactly_where_they_say(self, dtype: torch.dtype) -> None:
        denoiser = self._made(dtype)
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        levels = {level: self.at_level(denoiser, inputs, level) for level in self.levels}
        halves = split_steps(self.levels, 2)
        whole = {level: self._run(denoiser, at) for level, at in levels.items()}
        for change in self._changes(sites, gated=True):
            name = f"{change[1]} of {change[0]}"
            able = [site for site in sites if change[1] in site.gated(change[0])]
            layer = self._pruned(denoiser, example_plan(self.adapter.name, able, change))
            pruned = {level: self._run(layer, at) for level, at in levels.items()}
            for chosen in ((), (0,), (1,), (0, 1)):
                plan = example_plan(
                    self.adapter.name, able, change, axis=PruningAxis.TIMESTEP, ranges=halves, chosen=chosen
                )
                gated = self._pruned(denoiser, plan)
                kept = layer if len(chosen) == 2 else denoiser
                keys = set(gated.state_dict()) == set(kept.state_dict())
                assert keys, f"{name}: a plan over steps {chosen} of 2 keeps other parameters than it needs"
                for level, at in levels.items():
                    active = (0 if level in halves[0] else 1) in chosen
                    expected = pruned if active else whole
                    assert same(self._run(gated, at), expected[level]), (
                        f"{name}: gated over steps {chosen} of 2, timestep {level} should be "
                        f"{'pruned' if active else 'untouched'}; ask the gate in forward, not in restrict()"
                    )

    @both_dtypes
    def test_saved_and_loaded_is_the_same_model(self, dtype: torch.dtype, tmp_path: Path) -> None:
        denoiser = self._made(dtype)
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        for number, change in enumerate(self._changes(sites)):
            plan = example_plan(self.adapter.name, sites, change)
            pruned = self._pruned(denoiser, plan)
            after, state = self._run(pruned, inputs), pruned.state_dict()
            if change[1] is Removal.DROP:
                gone = [f"{p}." for s in sites if s.fqn in plan.gates() for p in (s.path, *s.companions)]
                left = [key for key in state if key.startswith(tuple(gone))]
                assert not left, f"dropped parameters are still in the state dict: {left}"
            loaded = self._pruned(self._made(dtype, seed=2), plan)
            with explained(f"{change}: a fresh model with the same plan does not take the saved state dict"):
                loaded.load_state_dict(state, strict=True)
            assert same(self._run(loaded, inputs), after), f"{change}: outputs differ after load_state_dict"
            if not hasattr(pruned, "save_pretrained"):
                continue
            folder = tmp_path / str(number)
            with explained(
                f"{change}: save_pretrained and from_pretrained fail; `pruned_class` and `record` must let the library "
                "build the pruned model, and the adapter's plugin must be installed"
            ):
                pruned.save_pretrained(folder)  # type: ignore[operator]
                again = self.cast(type(pruned).from_pretrained(folder).eval(), dtype)  # type: ignore[attr-defined]
            assert list(again.state_dict()) == list(state), f"{change}: other parameters after from_pretrained"
            assert same(self._run(again, inputs), after), f"{change}: outputs differ after from_pretrained"

    @both_dtypes
    def test_rows_of_a_batch_do_not_mix(self, dtype: torch.dtype) -> None:
        denoiser = self._made(dtype)
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        layout = self.adapter.layout_of(denoiser, inputs)
        for change in self._changes(sites):
            pruned = self._pruned(denoiser, example_plan(self.adapter.name, sites, change))
            both = self._run(pruned, inputs)
            for row in range(2):
                alone = self.adapter.take_rows(inputs, layout, range(row, row + 1))
                off = distance([tensor[row : row + 1] for tensor in both], self._run(pruned, alone))
                assert off <= EXACT[dtype], f"{change[1]} of {change[0]}: row {row} depends on the others by {off:.1e}"

    def test_compiles_wherever_the_unpruned_model_does(self) -> None:
        """In one graph, with the same numbers. One pruned model is compiled whole, of the others the blocks that hold
        what was restricted, for most of a model is as it was; the unpruned model is asked only where this fails."""
        denoiser = self._made()
        inputs, sites = self._inputs(denoiser), self._sites(denoiser)
        for number, together in enumerate(self._changes_together(sites)):
            pruned, able = share_copy(denoiser), [site for losing in together.values() for site in losing]
            for (target, removal), losing in reversed(together.items()):  # drops first: they ask no clock
                always = dict.fromkeys(site.fqn for site in losing)
                restrict_(pruned, self.adapter, losing, target, dict.fromkeys(always, removal), always)
            name = " and ".join(f"{removal} of {target}" for target, removal in together)
            whole = Call(pruned, (), inputs)
            calls = blocks_around(pruned, able, partial(self._run, pruned, inputs)) if number else [whole]
            try:
                off = max(map(off_when_compiled, calls))
            except Exception:
                off = self._off_whole(whole, Call(denoiser, (), inputs), name)
            assert off <= 1e-4, f"{name}: compiled and eager differ by {off:.1e}"

    def _changes_together(self, sites: list[AttentionSite]) -> list[dict[Change, list[AttentionSite]]]:
        """Changes, with the sites that list them, in as few models as hold them: what drops some modules goes along
        with a change of other modules."""
        found: list[tuple[set[str], dict[Change, list[AttentionSite]]]] = []
        for target, removal in self._changes(sites):
            able = [site for site in sites if removal in site.removals.get(target, ())]
            touched = {path for site in able for path in (site.path, *site.companions)}
            free = (held for held in found if removal is Removal.DROP and not held[0] & touched)
            paths, changes = next(free, (set[str](), {}))
            if not changes:
                found.append((paths, changes))
            paths |= touched
            changes[target, removal] = able
        return [changes for _, changes in found]

    def _off_whole(self, pruned: Call, unpruned: Call, name: str) -> float:
        try:
            return off_when_compiled(pruned)
        except Exception as error:
            try:
                off_when_compiled(unpruned)
            except Exception as unable:
                pytest.skip(f"the unpruned model does not compile in one graph: {type(unable).__name__}")
            raise AssertionError(
                f"{name}: torch.compile(fullgraph=True) fails, unlike the unpruned model "
                f"({type(error).__name__}: {error})"
            ) from error
