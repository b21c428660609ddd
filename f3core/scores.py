"""`Scores`: what calibration measured, per prompt, so that shards merge in any order to the same bits.

Kept in numpy, so that plans can be made from saved scores without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from f3core.block import Block, Site
from f3core.errors import ScoresError
from f3core.impact import Array, Impact
from f3core.sites import KINDS, AttentionKind, AttentionSite, GuidanceBranch, Removal, Target, target_of

VERSION = 1
IMPACT = "impact"
"""Under this name, among the prompts' numbers, a file holds the arrays of an `Impact`."""


@dataclass(frozen=True)
class PromptScores:
    """Sums over one prompt's generation. S sites, T steps, H heads (padded to the most), F frames.

    ``mass`` [S, T, H, 3]: attention mass in the order of `KINDS`, summed over visual queries and batch rows.
    ``queries`` [S, T]: visual query rows behind it, so mass / queries is a mean share per head.
    ``drift`` [S, T]: squared norm of what the site's output loses with the target kind, summed over queries.
    ``drift_queries`` [S, T]: query rows behind it.
    ``frames`` [S, F, F + 1]: mass that queries of frame i give keys of frame j, and (last) of text, summed over steps
    and heads.
    """

    mass: Array
    queries: Array
    drift: Array
    drift_queries: Array
    frames: Array

    FIELDS = ("mass", "queries", "drift", "drift_queries", "frames")


@dataclass(frozen=True)
class ScoresHeader:
    """What a set of scores describes. Scores merge only where headers agree.

    ``layers``: place of every site on the layer axis; left out, each is a layer of its own.
    ``levels``: noise level of every step, noisy to clean. ``passes``: denoiser rows per step of one clip, by
    component and kind of forward. ``unconditional``: of these, those of guidance's unconditional branch, where the
    adapter tells them apart. ``heads``: heads of every site. ``drift_target``: the kind whose removal ``drift``
    measures.
    ``removals``: what each site can lose and how, by fqn and kind, the default first; ``lasting``: those of them that
    are done at every step or at none; ``framed``: sites that are `AttentionSite.framed`.
    ``blocks``: where each lies and what it needs, by fqn, where the sites are blocks (see `Block`).
    ``identity``: what else must agree for scores to be of one calibration (model, steps, seed, query stride).
    ``costs``: the model's `Costs` as JSON, so that a plan needs no weights.
    """

    adapter: str
    sites: tuple[str, ...]
    heads: tuple[int, ...]
    levels: tuple[float, ...]
    passes: Mapping[str, Mapping[str, tuple[int, ...]]]
    drift_target: Target
    unconditional: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    removals: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    lasting: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    framed: tuple[str, ...] = ()
    blocks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    costs: Mapping[str, Any] | None = None

    @classmethod
    def of_sites(cls, sites: Iterable[Site], **other: Any) -> ScoresHeader:
        """A header of these sites, in their order; ``other`` are the remaining fields."""
        every = list(sites)
        return cls(
            sites=tuple(site.fqn for site in every),
            layers=tuple(site.index for site in every),
            removals={site.fqn: _in_words(site.removals) for site in every},
            lasting={site.fqn: _in_words(site.lasting) for site in every},
            framed=tuple(site.fqn for site in every if isinstance(site, AttentionSite) and site.framed),
            blocks={site.fqn: site.place for site in every if isinstance(site, Block)},
            **other,
        )

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({**self.__dict__, "drift_target": str(self.drift_target), "version": VERSION}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ScoresHeader:
        """Inverse of `to_json`. Raises `ScoresError` for another version."""
        data = json.loads(text)
        if data.pop("version", None) != VERSION:
            raise ScoresError(f"scores were written in another format; this f3core reads version {VERSION}")
        data["drift_target"] = target_of(data["drift_target"])
        for name in ("sites", "heads", "levels", "layers", "framed"):
            data[name] = tuple(data[name])
        for name in ("removals", "lasting"):
            data[name] = {site: {kind: tuple(ways) for kind, ways in ks.items()} for site, ks in data[name].items()}
        for name in ("passes", "unconditional"):
            data[name] = {part: {kind: tuple(rows) for kind, rows in ks.items()} for part, ks in data[name].items()}
        return cls(**data)


def _in_words(removals: Mapping[Any, Sequence[Removal]]) -> dict[str, tuple[str, ...]]:
    return {str(kind): tuple(map(str, ways)) for kind, ways in removals.items()}


@dataclass(frozen=True)
class Scores:
    """Scores of a set of prompts, keyed by the prompt's place in the calibration set.

    ``impact``: what removals did to the output, where a criterion asked for it.
    """

    header: ScoresHeader
    prompts: Mapping[int, PromptScores]
    impact: Impact | None = None

    @classmethod
    def unscored(cls, sites: Sequence[Site], **header: Any) -> Scores:
        """Those of no prompt, which tell a plan what there is and what it costs. ``header``: its other fields."""
        return cls(ScoresHeader.of_sites(sites, heads=(0,) * len(sites), **header), {})

    # --- together -----------------------------------------------------------------------------------------------

    def merge(self, *others: Scores) -> Scores:
        """The union of disjoint sets of prompts, without an impact: what was tried depends on all of them.

        Raises `ScoresError` when headers differ or a prompt is in two.
        """
        if not others:
            return self
        merged = dict(self.prompts)
        for other in others:
            if other.header.to_json() != self.header.to_json():
                raise ScoresError(f"scores of different calibrations cannot be merged: {self._difference(other)}")
            twice = merged.keys() & other.prompts.keys()
            if twice:
                raise ScoresError(f"prompt {min(twice)} is in two of the scores to be merged")
            merged.update(other.prompts)
        return replace(self, prompts=merged, impact=None)

    def _difference(self, other: Scores) -> str:
        mine, theirs = (json.loads(s.header.to_json()) for s in (self, other))
        return ", ".join(sorted(key for key in mine if mine[key] != theirs.get(key)))

    def total(self) -> PromptScores:
        """Sums over prompts, added in the prompts' order whatever order they came in. Raises `ScoresError` if empty."""
        if not self.prompts:
            raise ScoresError("no prompt has been scored")
        ordered = [self.prompts[i] for i in sorted(self.prompts)]
        sums = {}
        for name in PromptScores.FIELDS:
            total = np.zeros_like(getattr(ordered[0], name))
            for one in ordered:
                total = total + getattr(one, name)
            sums[name] = total
        return PromptScores(**sums)

    # --- reading ------------------------------------------------------------------------------------------------

    def within(self, branch: GuidanceBranch) -> Scores:
        """As they are for plans that prune ``branch`` of guidance: the impact is told by branch, attention is not."""
        return replace(self, impact=self.impact.within(branch)) if self.impact is not None else self

    def site_index(self, fqn: str) -> int:
        """A site's place in the arrays. Raises `ScoresError` for a site that was not scored."""
        try:
            return self.header.sites.index(fqn)
        except ValueError:
            raise ScoresError(f"site {fqn!r} was not scored; score the model again") from None

    def mass(self, kind: AttentionKind) -> Array:
        """[S, T] mass of a kind, summed over prompts and heads: the paper's Aggregate Attention Score per cell."""
        summed: Array = self.total().mass.sum(axis=2)[:, :, KINDS.index(kind)]
        return summed

    def mean_drift(self) -> Array:
        """[S, T] drift per query, in squared units of a site's output; 0 where none was measured."""
        total = self.total()
        mean: Array = np.divide(
            total.drift, total.drift_queries, out=np.zeros_like(total.drift), where=total.drift_queries > 0
        )
        return mean

    def query_heads(self) -> Array:
        """[S, T] visual query rows times heads: the most mass that any kind can have in a cell."""
        return self.total().queries * np.asarray(self.header.heads, dtype=np.float64)[:, None]

    def frame_map(self) -> Array:
        """[S, F, F] mean share that a query of frame i gives to frame j (the rest goes to text)."""
        frames = self.total().frames
        mean: Array = frames[:, :, :-1] / np.maximum(frames.sum(axis=2, keepdims=True), 1e-300)
        return mean

    # --- files --------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write as safetensors; the header goes into its metadata."""
        tensors = {
            f"{index}.{name}": np.ascontiguousarray(getattr(one, name))
            for index, one in sorted(self.prompts.items())
            for name in PromptScores.FIELDS
        }
        metadata = {"f3core": self.header.to_json()}
        if self.impact is not None:
            metadata["impact"] = self.impact.to_json()
            tensors |= {f"{IMPACT}.{n}": np.ascontiguousarray(getattr(self.impact, n)) for n in Impact.FIELDS}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read scores. Raises `ScoresError` naming the file."""
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ScoresError(f"{path}: cannot be read as scores: {error}") from error
        if "f3core" not in metadata:
            raise ScoresError(f"{path}: a safetensors file, but not one of f3core's scores")
        try:
            header = ScoresHeader.from_json(metadata["f3core"])
            tried = {key.partition(".")[2]: tensors.pop(key) for key in list(tensors) if key.startswith(f"{IMPACT}.")}
            impact = Impact.from_json(metadata["impact"], tried) if "impact" in metadata else None
            indices = sorted({int(key.partition(".")[0]) for key in tensors})
            prompts = {i: PromptScores(**{n: tensors[f"{i}.{n}"] for n in PromptScores.FIELDS}) for i in indices}
        except ScoresError as error:
            raise ScoresError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScoresError(f"{path}: damaged scores: {type(error).__name__}: {error}; score again") from error
        cells = (len(header.sites), len(header.levels))
        for index, one in prompts.items():
            if {one.mass.shape[:2], one.queries.shape, one.drift.shape, one.drift_queries.shape} != {cells}:
                raise ScoresError(
                    f"{path}: damaged scores: prompt {index} is not of {cells[0]} sites, {cells[1]} steps"
                )
        return cls(header, prompts, impact)


def merge_files(paths: Iterable[Path]) -> Scores:
    """Scores of several files, merged. Raises `ScoresError` when there is none or they do not fit."""
    loaded = [Scores.load(path) for path in paths]
    if not loaded:
        raise ScoresError("no scores file given")
    return loaded[0].merge(*loaded[1:])
