"""The part of the adapter contract that is about whole blocks: where they are, and what is left without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from f3core.block import Block
from f3core.carrying import aligned_
from f3core.clock import Clock
from f3core.contract import ContractBase, distance, example_plan, explained, same, tensors
from f3core.errors import PlanError
from f3core.flops import costs, count
from f3core.meta import again, meta_copy, on_meta, share_copy
from f3core.plan import PruningPlan
from f3core.sites import Removal, Structure
from f3core.surgery import Pruned, apply_plan_, parameter_count, restrict_

BLOCK = (Structure.BLOCK, Removal.DROP)
SAME = 1e-6
"""how far a model without a block may lie from one that skips it, relative to the largest value"""


class BlocksContract(ContractBase):
    """Blocks, and what is left when they have gone: an adapter that tells of none is not asked."""

    def test_blocks_exist_and_run_in_the_order_listed(self) -> None:
        denoiser = self._made()
        blocks = self._blocks(denoiser)
        assert self._blocks(meta_copy(denoiser)) == blocks, "blocks() differs on meta; it must not read weights"
        paths = [block.path for block in blocks]
        assert len(set(paths)) == len(paths), f"blocks() lists a path twice: {paths}"
        indices = [block.index for block in blocks]
        assert indices == sorted(indices), f"blocks() must come in the order of `index`, not {indices}"
        parts = [(f"{block.path}, part", part.path) for block in blocks for part in block.parts]
        held = [path for _, path in parts]
        assert len(set(held)) == len(held), f"blocks share a part: {held}"
        modules, ran = dict(denoiser.named_modules()), list[str]()
        for name, path in parts:
            assert path in modules, f"{name}: the model has no module {path!r}"
            modules[path].register_forward_pre_hook(lambda _m, _args, path=path: ran.append(path))
        for block in blocks:
            assert block.component == self.component, f"{block.fqn}: pass on `component` as blocks() was given it"
            unknown = sorted({*block.needs} - {*paths})
            assert not unknown, f"{block.fqn}: needs {unknown}, which blocks() does not list"
        self._run(denoiser, self._inputs(denoiser))
        missing = [path for path in held if path not in ran]
        assert not missing, f"these parts of blocks never ran in a forward: {missing}"
        ends = [ran.index(block.parts[-1].path) for block in blocks]
        assert ends == sorted(ends), f"blocks() must come in the order in which they run, not {paths}"

    def test_blocks_that_cannot_go_are_refused(self) -> None:
        denoiser = self._made()
        blocks = self._blocks(denoiser)
        for block in blocks:
            if block.fixed or block.needs:
                plan = example_plan(self.adapter.name, [replace(block, fixed=None)], BLOCK)
                with pytest.raises(PlanError, match="cannot go" if block.fixed else "can only go together") as caught:
                    apply_plan_(denoiser, plan, self.adapter, self.component)
                assert block.fqn in str(caught.value)

    def test_blocks_can_be_taken_out(self) -> None:
        """One after the other: what is left computes what the whole model does while the block steps aside, and
        learns."""
        denoiser = self._made()
        # of one row, which nothing takes for as many outputs as there are rows
        inputs, every = self._inputs(denoiser, batch=1), units(self._blocks(denoiser))
        before = self._run(denoiser, inputs)
        trial, clock = self._trial(denoiser, every)
        for number, gone in enumerate(every):
            name = named(gone)
            with clock.hold(number):
                after = self._run(trial, inputs)
            shapes = [t.shape for t in after] == [t.shape for t in before]
            assert shapes, f"{name}: skipped, it changes the output's shape; see `Part.hands`"
            assert not same(after, before), (
                f"{name}: that it is skipped does not show in the output; is it a block, and does build() give it "
                "weights other than zero?"
            )
            left = self._pruned(denoiser, self._plan(gone))
            with explained(f"{name}: what is left does not run"):
                made = tensors(left(**again(inputs)))
            off = distance([tensor.detach() for tensor in made], after)
            assert off <= SAME, (
                f"{name}: what compact_() leaves is off by {off:.1e} from the model that skips it: something depends "
                "on what numbers blocks have; let compact_() return False, or say in the config what else changes"
            )
            self._check_learns(left, made, name)
        with clock.hold(len(every)):
            assert same(self._run(trial, inputs), before), "blocks that stepped aside do not come back"
        assert same(self._run(denoiser, inputs), before), "taking blocks out of copies altered the original"

    def test_macs_and_parameters_without_blocks_are_predicted_exactly(self) -> None:
        denoiser = self._made()
        inputs, blocks = on_meta(self._inputs(denoiser, batch=1)), self._blocks(denoiser)
        kind, skeleton = self.adapter.layout_of(denoiser, inputs).kind, meta_copy(denoiser)
        with explained("MACs cannot be counted"):
            given = {self.component: {kind: inputs}}
            prices = costs(self.adapter, {self.component: skeleton}, given, [Structure.BLOCK])
        whole, usual = parameter_count(denoiser), prices.forward[self.component][kind]
        every = units(blocks)
        for number, gone in enumerate(every):
            plan = self._plan(gone)
            left = self._pruned(skeleton, plan)
            name = named(gone)
            freed = sum(prices.parameters_saved(block.fqn, *BLOCK) for block in gone)
            assert whole - parameter_count(left) == freed > 0, f"{name}: {freed} parameters should leave with it"
            if number in (0, len(every) - 1):
                saved = sum(prices.saved(block.fqn, *BLOCK, kind) for block in gone)
                counted = count(left, inputs).total
                assert counted == usual - saved, f"{name}: {usual - saved} MACs predicted, {counted} counted"

    def test_blocks_left_are_a_smaller_model(self, tmp_path: Path) -> None:
        """A fresh model takes the state dict, a saved one loads back, and both can lose attention as well."""
        denoiser = self._made()
        inputs, blocks = self._inputs(denoiser, batch=1), self._blocks(denoiser)
        fresh, stored = self._made(seed=2), set[bool]()
        for gone in units(blocks):
            name, plan = named(gone), self._plan(gone)
            left, again_ = self._pruned(denoiser, plan), self._pruned(fresh, plan)
            with explained(f"{name}: a fresh model with the same plan does not take the state dict of what is left"):
                again_.load_state_dict(left.state_dict(), strict=True)
            assert [block.path for block in self._blocks(again_)] == [block.path for block in self._blocks(left)]
            stock = not isinstance(left, Pruned)
            assert type(left) is type(denoiser) or not stock, (
                f"{name}: a smaller model must be of the model's own class"
            )
            if stock in stored or not hasattr(left, "save_pretrained"):
                continue
            stored.add(stock)
            thinner = self._losing_attention(left)
            for number, model in enumerate((left, *thinner)):
                self._check_loads(model, inputs, tmp_path / f"{stock}-{number}", name)

    # --- what they share ----------------------------------------------------------------------------------------

    def _blocks(self, denoiser: nn.Module) -> list[Block]:
        found = self.adapter.blocks(denoiser, self.component)
        if not found:
            pytest.skip(f"adapter {self.adapter.name!r} does not say of what blocks its denoisers are made")
        return found

    def _plan(self, gone: Sequence[Block]) -> PruningPlan:
        return example_plan(self.adapter.name, gone, BLOCK)

    def _trial(self, denoiser: nn.Module, every: Sequence[Sequence[Block]]) -> tuple[nn.Module, Clock]:
        """The denoiser with blocks that step aside, those of ``every[i]`` while its clock is held at i."""
        copied = share_copy(denoiser)
        gates = {block.fqn: frozenset({number}) for number, gone in enumerate(every) for block in gone}
        blocks = [block for gone in every for block in gone]
        return copied, restrict_(copied, self.adapter, blocks, BLOCK[0], dict.fromkeys(gates, BLOCK[1]), gates)

    def _losing_attention(self, left: nn.Module) -> list[nn.Module]:
        """What is left, without some of its attention as well."""
        sites = self._sites(left)
        modules = dict(left.named_modules())
        missing = [site.fqn for site in sites if site.path not in modules]
        assert not missing, f"sites() lists attention of blocks that have gone: {missing}"
        listed = [(target, removals[0]) for site in sites for target, removals in site.removals.items()]
        return [self._pruned(left, example_plan(self.adapter.name, sites, change)) for change in listed[:1]]

    def _check_learns(self, left: nn.Module, made: Sequence[Tensor], name: str) -> None:
        parameters = dict(left.named_parameters())
        loss = sum((tensor.float().square().mean() for tensor in made), start=torch.zeros(()))
        grads = dict(
            zip(parameters, torch.autograd.grad(loss, list(parameters.values()), allow_unused=True), strict=True)
        )
        broken = [path for path, grad in grads.items() if grad is not None and not grad.isfinite().all()]
        assert not broken, f"{name}: without it gradients are not finite: {broken[:3]}"
        for part in (part for block in self.adapter.blocks(left, self.component) for part in block.parts):
            reached = [g for path, g in grads.items() if path.startswith(f"{part.path}.") and g is not None and g.any()]
            assert reached, f"{name}: without it no gradient reaches {part.path}"

    def _check_loads(self, model: Any, inputs: Mapping[str, Any], folder: Path, name: str) -> None:
        with explained(
            f"{name}: what is left does not come back by save_pretrained and from_pretrained; compact_() must leave "
            "what the config says, or else `pruned_class` and `record` let the library build the pruned model"
        ):
            model.save_pretrained(folder)
            loaded = type(model).from_pretrained(folder).eval()
            aligned_(loaded)
        assert list(loaded.state_dict()) == list(model.state_dict()), f"{name}: other parameters after from_pretrained"
        assert same(self._run(loaded, inputs), self._run(model, inputs)), (
            f"{name}: outputs differ after from_pretrained"
        )


def named(gone: Sequence[Block]) -> str:
    return " and ".join(block.fqn for block in gone)


def units(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks that can go, with those that they go together with: of one index, or needed."""
    by_path = {block.path: block for block in blocks}
    found: dict[frozenset[str], list[Block]] = {}
    for block in blocks:
        gone = {block.path}
        while (
            more := {
                other.path
                for path in gone
                for other in blocks
                if other.path in by_path[path].needs or other.index == by_path[path].index
            }
            - gone
        ):
            gone |= more
        together = [other for other in blocks if other.path in gone]
        if not any(other.fixed for other in together):
            found[frozenset(gone)] = together
    return list(found.values())
