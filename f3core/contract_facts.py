"""The first half of the adapter contract: what an adapter says of a model is true of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from f3core.calls import SdpaCall
from f3core.contract import ContractBase, explained, same
from f3core.explicit import Intercept, attention_weights, pairs
from f3core.meta import meta_copy, on_meta
from f3core.probe import Probe
from f3core.sites import KINDS, TEXT, AttentionCall, AttentionKind, AttentionSite

EXACT = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
"""how far two ways to compute the same may lie apart, relative to the largest value"""
both_dtypes = pytest.mark.parametrize("dtype", EXACT, ids=str)


class FactsContract(ContractBase):
    """Sites, layout, segments and attention mass."""

    def test_sites_exist_and_run_in_the_order_listed(self) -> None:
        denoiser = self._made()
        sites = self._sites(denoiser)
        assert sites, "sites() found nothing in the model that build() returns"
        assert self._sites(meta_copy(denoiser)) == sites, "sites() differs on meta; it must not read weights"
        paths = [site.path for site in sites]
        assert len(set(paths)) == len(paths), f"sites() lists a path twice: {paths}"
        indices = [site.index for site in sites]
        assert indices == sorted(indices), f"sites() must come in the order of `index`, not {indices}"
        ran: list[str] = []
        modules = dict(denoiser.named_modules())
        for site in sites:
            assert site.component == self.component, f"{site.fqn}: pass on `component` as sites() was given it"
            output = [f"{site.path}.{site.output}"] if site.output else []
            for path in (site.path, *site.companions, *output):
                assert path in modules, f"{site.fqn}: the model has no module {path!r}"
            assert site.kinds, f"{site.fqn}: `kinds` is empty"
            for target, listed in site.removals.items():
                assert target in site.kinds, f"{site.fqn}: lists removals of {target}, which is not in its kinds"
                assert len(set(listed)) == len(listed) > 0, f"{site.fqn}: removals of {target} are empty or repeated"
            modules[site.path].register_forward_pre_hook(lambda _m, _args, path=site.path: ran.append(path))
        self._run(denoiser, self._inputs(denoiser))
        missing = [path for path in paths if path not in ran]
        assert not missing, f"these sites never ran in a forward: {missing}"
        assert list(dict.fromkeys(ran)) == paths, f"sites() must list sites as they run: {list(dict.fromkeys(ran))}"

    def test_layout_and_noise_level_are_read_from_the_arguments(self) -> None:
        odd, square = self.frames % 2 == 1, self.height == self.width
        assert odd, "keep the number of frames odd"
        assert not square, "keep frames not square"
        denoiser = self._made()
        inputs = self._inputs(denoiser)
        layout = self.adapter.layout_of(denoiser, inputs)
        assert layout.batch == 2, f"layout() says batch {layout.batch} for a forward of 2 rows"
        assert layout.frames > 1, "layout() says one frame; raise `frames` until there are at least two"
        advice = "layout() and noise_level() must take arguments by position and by keyword, as forward() does"
        bound = inspect.signature(type(denoiser).forward).bind(denoiser, **inputs)
        with explained(advice):
            assert self.adapter.layout(denoiser, bound.args[1:], bound.kwargs) == layout, advice
            level = self.adapter.noise_level(bound.args[1:], bound.kwargs)
            assert level == self.adapter.noise_level((), inputs), advice
        with explained("layout() must not read tensor values"):
            assert self.adapter.layout(meta_copy(denoiser), (), on_meta(inputs)) == layout, "layout() differs on meta"
        for level in self.levels:
            read = self.adapter.noise_level((), self.at_level(denoiser, inputs, level))
            assert read == level, f"noise_level() says {read} for timestep {level}; it must be high where noisy"

    def test_segments_cover_every_token_and_give_the_declared_kinds(self) -> None:
        denoiser = self._made()
        inputs = self._inputs(denoiser)
        layout = self.adapter.layout_of(denoiser, inputs)
        seen: dict[str, set[AttentionKind]] = {}
        queried: dict[str, Tensor] = {}

        def check(site: AttentionSite, shape: AttentionCall, call: SdpaCall, run: Callable[[], Tensor]) -> Tensor:
            where = f"{site.fqn}, {shape}"
            with explained(f"segments() failed for {where}"):
                found = self.adapter.segments(site, layout, shape)
            for name, tensor, length in (("query", found.query, shape.queries), ("key", found.key, shape.keys)):
                fits = tensor.ndim == 2 and tensor.shape[0] in (1, shape.batch) and tensor.shape[1] == length
                assert fits, f"{where}: {name} segments are {tuple(tensor.shape)}, not [1 or {shape.batch}, {length}]"
                inside = int(tensor.min()) >= TEXT and int(tensor.max()) < layout.frames
                assert inside, f"{where}: {name} segments must be TEXT or frames 0 to {layout.frames - 1}"
            rows = found.query.expand(shape.batch, -1)
            asked = queried.setdefault(site.fqn, torch.zeros(layout.frames, dtype=torch.long))
            asked += torch.bincount(rows[rows != TEXT], minlength=layout.frames)
            seen.setdefault(site.fqn, set()).update(kind for kind in KINDS if bool(pairs(found, kind).any()))
            if site.output is not None:
                weight = getattr(denoiser.get_submodule(f"{site.path}.{site.output}"), "weight", None)
                width = shape.heads * call.value.shape[-1]
                linear = isinstance(weight, Tensor) and weight.shape[-1] == width
                assert linear, f"{site.fqn}: `output` must be a linear map of {width} channels, {site.output!r} is not"
            return run()

        sites = self._sites(denoiser)
        with Intercept(check).at(denoiser, sites):
            self._run(denoiser, inputs)
        for site in sites:
            kinds = seen.get(site.fqn)
            assert kinds is not None, f"{site.fqn} never calls scaled_dot_product_attention: is the path the attention?"
            asked = queried[site.fqn].tolist()
            assert min(asked) > 0, f"{site.fqn}: frames have {asked} query tokens; every frame must ask"
            assert kinds == set(site.kinds), f"{site.fqn} declares {site.kinds}, its segments give {sorted(kinds)}"

    @both_dtypes
    def test_probe_equals_explicit_softmax(self, dtype: torch.dtype) -> None:
        denoiser = self._made(dtype)
        inputs = self._inputs(denoiser)
        sites = self._sites(denoiser)
        layout = self.adapter.layout_of(denoiser, inputs)
        mass: dict[str, dict[AttentionKind, Tensor]] = {}
        rows: dict[str, int] = {}

        def explicit(site: AttentionSite, shape: AttentionCall, call: SdpaCall, run: Callable[[], Tensor]) -> Tensor:
            segments = self.adapter.segments(site, layout, shape)
            weights = attention_weights(call)
            for kind in KINDS:
                found = (weights * pairs(segments, kind)[:, None]).sum((0, 2, 3))
                kinds = mass.setdefault(site.fqn, {})
                kinds[kind] = kinds[kind] + found if kind in kinds else found
            visual = int((segments.query != TEXT).expand(shape.batch, -1).sum())
            rows[site.fqn] = rows.get(site.fqn, 0) + visual
            return run()

        with Intercept(explicit).at(denoiser, sites):
            plain = self._run(denoiser, inputs)
        probe = Probe(self.adapter, denoiser, dict(enumerate(sites)))
        with probe.watching():
            assert same(self._run(denoiser, inputs), plain), "watching changes the output"
        for index, site in enumerate(sites):
            cell = probe.cells[index, 0]
            own = cell.map[:, :, :-1].diagonal(dim1=1, dim2=2).sum(-1)
            text = cell.map[:, :, -1].sum(-1)
            found = {KINDS[0]: text, KINDS[1]: own, KINDS[2]: cell.map.sum((1, 2)) - text - own}
            for kind in KINDS:
                off = float((found[kind] - mass[site.fqn][kind]).abs().max()) / rows[site.fqn]
                assert off <= EXACT[dtype], f"{site.fqn}: {kind} mass is off by {off:.1e} of its query rows"
            assert cell.queries == rows[site.fqn], f"{site.fqn}: {cell.queries} visual query rows, not {rows[site.fqn]}"
            off = float((torch.stack(list(found.values())).sum(0) / cell.queries - 1).abs().max())
            assert off <= EXACT[dtype], f"{site.fqn}: CA + SA + TA miss the number of visual queries by {off:.1e}"
