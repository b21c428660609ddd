"""`Adapter`: everything the engine has to be told about a model, and nothing about what to prune."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from f3core.block import Block, Site
from f3core.errors import ModelError, PlanError
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments, Structure, Target

if TYPE_CHECKING:
    import torch
    from torch import nn

    from f3core.clock import Gate
    from f3core.distillation.recipe import Recipe
    from f3core.plan import PruningPlan


@dataclass(frozen=True)
class Model:
    """A loaded pipeline with all that its adapter says of it. ``call``: arguments of every generation."""

    adapter: Adapter
    pipeline: Any
    denoisers: Mapping[str, nn.Module]
    sites: tuple[AttentionSite, ...]
    call: Mapping[str, Any]

    def places(self, target: Target) -> tuple[Site, ...]:
        """Where ``target`` can be looked for in it: its attention sites, or its blocks."""
        if target is not Structure.BLOCK:
            return self.sites
        return tuple(block for name, one in self.denoisers.items() for block in self.adapter.blocks(one, name))


@dataclass(frozen=True)
class Sketch:
    """A model as far as its costs go. ``denoisers`` on meta, by component, in the order in which they run; ``inputs``:
    keyword arguments of a one-row forward of each, by kind of forward; ``levels``: the noise levels of a generation,
    noisy to clean; ``rows``: by component and kind, the rows of one clip that it runs at each level (guidance counted);
    ``unconditional``: of these, those of guidance's unconditional branch, where the adapter tells them apart.
    """

    denoisers: Mapping[str, nn.Module]
    inputs: Mapping[str, Mapping[str, Mapping[str, Any]]]
    levels: tuple[float, ...]
    rows: Mapping[str, Mapping[str, tuple[int, ...]]]
    unconditional: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """A published model of a family: ``source`` is where it is published, ``clip`` the default clip in words."""

    name: str
    source: str
    clip: str
    sketch: Callable[[], Sketch]
    """Builds it on meta, at its own size and resolution."""


class Adapter(ABC):
    """Declares one family of text-to-video models.

    A pipeline is whatever :meth:`load` returns; a denoiser is a module in it that runs at every step. Methods take
    the denoiser explicitly, so one adapter instance serves any number of models, on any device, meta included.
    """

    name: ClassVar[str]
    several_kinds: ClassVar[bool] = False
    """Whether the forwards of one denoiser in one generation differ in cost, and so their layouts in `Layout.kind`"""
    tells_branches: ClassVar[bool] = False
    """Whether `unconditional_rows` knows the branches of guidance in the calls of this adapter's pipelines"""

    # --- the pipeline -------------------------------------------------------------------------------------------

    @abstractmethod
    def load(self, source: str, *, dtype: torch.dtype | None, device: torch.device) -> Any:
        """Load a pipeline from a hub id or folder. Raises `ModelError` with the next thing to try."""

    def skeletons(self, source: str) -> dict[str, nn.Module]:
        """The denoisers of a source by component name, for a look at their structure; on meta where possible."""
        import torch

        return self.denoisers(self.load(source, dtype=None, device=torch.device("cpu")))

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        """What the costs of a generation of ``steps`` steps are made of, from the configs of a source alone."""
        raise ModelError(f"adapter {self.name!r} cannot plan without weights; score the model and give --scores")

    def published(self) -> tuple[Published, ...]:
        """Published models of the family whose configs the adapter knows."""
        return ()

    def hooked(self, denoiser: nn.Module) -> str | None:
        """What has hold of a denoiser's forwards and keeps it from being copied, in a word; None where nothing has."""
        return "offloading" if any(hasattr(module, "_hf_hook") for module in denoiser.modules()) else None

    @abstractmethod
    def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:
        """The denoisers of a pipeline by component name, in the order in which they run."""

    @abstractmethod
    def with_denoisers(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> Any:
        """A second pipeline that shares every other component with the first."""

    @abstractmethod
    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        """Clips for prompts: float [B, F, 3, H, W] in [0, 1] on the CPU. ``seeds[i]`` alone decides row i's noise."""

    def one_by_one(self, pipeline: Any) -> bool:
        """Whether a pipeline makes one clip a call, so that prompts cannot share forwards; `generate` takes several all
        the same."""
        return False

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """What each guidance branch of a generation with ``call`` weighs in the prediction, in the order in which the
        component meets them: one forward after the other, or rows stacked branch by branch. Classifier-free guidance
        of scale s weighs the conditional branch s and the unconditional one 1 − s, the least.
        """
        return (1.0,)

    @abstractmethod
    def save(self, pipeline: Any, folder: Path) -> None:
        """Write the pipeline, pruned or not, so that the model's own library loads it back."""

    def recipe(self, pipeline: Any, call: Mapping[str, Any]) -> Recipe:
        """How the pipeline's denoisers are trained on clips of the size that generations with ``call`` have. Raises
        `ModelError` where the adapter does not know."""
        raise ModelError(f"adapter {self.name!r} does not know how its models are trained, so none can be distilled")

    # --- the denoiser -------------------------------------------------------------------------------------------

    @abstractmethod
    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        """Every attention site, in the order in which they run."""

    def blocks(self, denoiser: nn.Module, component: str) -> list[Block]:
        """Every block of which the denoiser is made, in the order in which they run, those that cannot go too; none
        where the adapter does not tell."""
        return []

    def places(self, denoiser: nn.Module, component: str, target: Target) -> Sequence[Site]:
        """Where ``target`` can be looked for: attention sites, or blocks."""
        return self.blocks(denoiser, component) if target is Structure.BLOCK else self.sites(denoiser, component)

    @abstractmethod
    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout | None:
        """The token layout of a forward with these arguments; None for one that is not to be watched or counted, such
        as a cached decoding step that a later forward over the whole sequence repeats. Must not read tensor values.
        """

    def running_layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout | None:
        """As `layout`, of forwards too that are not to be watched or counted; None where it cannot be told."""
        return self.layout(denoiser, args, kwargs)

    def layout_of(self, denoiser: nn.Module, inputs: Mapping[str, Any]) -> Layout:
        """The layout of a forward that can be counted. Raises `ModelError` for one that is not to be watched."""
        layout = self.layout(denoiser, (), inputs)
        if layout is None:
            raise ModelError(f"adapter {self.name!r} gives no layout for these inputs, so they cannot be counted")
        return layout

    @abstractmethod
    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        """Which segment every query and key of an attention call at ``site`` belongs to."""

    def attends(self, site: AttentionSite, layout: Layout) -> bool:
        """Whether attention is computed at ``site`` in a forward of ``layout``; some models skip it in some."""
        return True

    @abstractmethod
    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """The timestep value of a forward with these arguments: high is noisy. May read tensor values."""

    def tells_branches_in(self, pipeline: Any) -> bool:
        """Whether the calls of this pipeline tell the branches of guidance; those of one denoiser may differ in it."""
        return self.tells_branches

    def unconditional_rows(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> range | None:
        """Batch rows of the call being made that are of guidance's unconditional branch: no row where it is unguided.
        None where the call does not tell; it is never guessed from the arguments, where two prompts and one prompt
        guided look alike.

        An unpruned denoiser needs to know only while `observable` is active, a pruned one always.
        """
        return None

    def take_rows(self, arguments: Any, layout: Layout, rows: range) -> Any:
        """Any pytree of a forward's arguments with some of its ``layout.batch`` rows alone; to be overridden where
        some tensors have other rows than one a clip.
        """
        from f3core.guidance import take_rows

        return take_rows(arguments, layout.batch, rows)

    def distance(self, prediction: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """How far apart two predictions [B, ...] of a denoiser are, guidance applied, row by row: [B]. The mean squared
        difference, unless what is predicted is no point in space, such as a distribution to draw from.
        """
        return (prediction - other).square().flatten(1).mean(1)

    @abstractmethod
    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        """Keyword arguments of a forward, on the denoiser's device and dtype.

        ``frames``, ``height`` and ``width`` count what the denoiser sees (latent frames and latent rows and columns);
        ``text`` is the number of text tokens, the model's usual number when None.
        """

    # --- surgery ------------------------------------------------------------------------------------------------

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        """The module that stays at ``site`` once ``removal`` of ``target`` is done wherever ``gate`` is active.

        It may be the same object, altered. `DROP` is the engine's own and never asked for here.
        """
        raise PlanError(f"{site.fqn}: adapter {self.name!r} lists {removal} for {target} but does not implement it")

    def compact_(self, denoiser: nn.Module, gone: Sequence[Block]) -> bool:
        """Take blocks that are skipped (`f3core.skipping.Skip` stands in their place) out of the lists that hold them,
        as far as what is left computes the same.

        True where the denoiser is then what its own class makes of its own config, which is altered to say so: it is
        an unpruned, smaller model, that loads with nothing but its library. A plan leads to the same structure every
        time it is carried out.
        """
        return False

    def pruned_class(self, denoiser_class: type[nn.Module]) -> type[nn.Module]:
        """The class a pruned denoiser takes on; an adapter may give one that its library can load back."""
        from f3core.surgery import pruned_class

        return pruned_class(denoiser_class)

    def record(  # noqa: B027 - a hook: most models have no config to note it in
        self, denoiser: nn.Module, plan: PruningPlan, component: str
    ) -> None:
        """Note the plan in a pruned denoiser's own config, where its library keeps one, so that saving carries it."""

    @contextlib.contextmanager
    def observable(self, pipeline: Any) -> Iterator[None]:
        """While active, attention of the denoisers goes through ``scaled_dot_product_attention``, and their calls tell
        the branches of guidance as far as the adapter does."""
        yield
