"""The hooks a plugin may implement. All are optional, all are called when the registry is first read.

A plugin is a module (or object) named by an entry point of the group ``f3core``. Its hooks return *entries*: names
and facts that cost nothing to read. The code behind an entry is imported when it is first used, so a plugin's top
module should import nothing heavy.

    import f3core

    @f3core.hookimpl
    def f3core_adapters():
        return [f3core.AdapterEntry("mine", "my_plugin.adapter:MyAdapter", "my model", model_classes=("MyModel",))]
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

from f3core.sites import AttentionKind, PruningAxis, Removal

if TYPE_CHECKING:
    from f3core.scaffolding.scaffold import Subject

GROUP = "f3core"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class Entry:
    """A registered name. ``target`` is ``package.module:attribute``, a class; its arguments are options of a spec."""

    name: str
    target: str
    summary: str = ""

    def load(self, **options: Any) -> Any:
        """Import the target and make one. Whatever its import raises goes through."""
        return self.found()(**options)

    def signature(self) -> inspect.Signature:
        """The options that the target takes. Imports it."""
        return inspect.signature(self.found())

    def found(self) -> Any:
        """The target. Imports it."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class AdapterEntry(Entry):
    """An adapter, and what can be said of its models without loading one.

    ``model_classes`` are class names of denoisers; a subclass of one matches too. ``removals`` is the union over its
    sites, so that a spec that asks for an impossible one is refused early; left out, the sites are asked once loaded.
    """

    model_classes: tuple[str, ...] = ()
    default_axis: PruningAxis = PruningAxis.LAYER
    removals: Mapping[AttentionKind, tuple[Removal, ...]] | None = None


@dataclass(frozen=True)
class SourceEntry:
    """A model that a plugin ships under a short name.

    ``folder`` is where it lies on disk. Arguments that its generation needs lie in it as ``f3core.json``.
    """

    name: str
    folder: str
    summary: str = ""


class Hooks:
    """Every hook, with when it fires and what it may return."""

    @hookspec
    def f3core_adapters(self) -> list[AdapterEntry]:  # type: ignore[empty-body]
        """Adapters: one per family of models. Targets are `f3core.Adapter` subclasses."""

    @hookspec
    def f3core_unsupported(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Denoiser classes that cannot be pruned soundly: class name to the reason, as a clause without a full stop."""

    @hookspec
    def f3core_methods(self) -> list[Entry]:  # type: ignore[empty-body]
        """Methods, named by a spec's ``prune.method``. Targets are `f3core.Method` subclasses."""

    @hookspec
    def f3core_criteria(self) -> list[Entry]:  # type: ignore[empty-body]
        """Criteria, named by ``prune.criterion``. Targets are `f3core.Criterion` subclasses."""

    @hookspec
    def f3core_metrics(self) -> list[Entry]:  # type: ignore[empty-body]
        """Metrics, named by ``evaluate.metrics``. Targets are `f3core.Metric` subclasses."""

    @hookspec
    def f3core_features(self) -> list[Entry]:  # type: ignore[empty-body]
        """Feature networks, named by metrics that look through one. Targets are `f3core.metric.Features` subclasses."""

    @hookspec
    def f3core_accelerators(self) -> list[Entry]:  # type: ignore[empty-body]
        """Accelerators, named by a row of `f3core compare`. Targets are `f3core.accelerator.Accelerator` subclasses."""

    @hookspec
    def f3core_losses(self) -> list[Entry]:  # type: ignore[empty-body]
        """Losses, named by ``distill.losses``. Targets are `f3core.distillation.loss.Loss` subclasses."""

    @hookspec
    def f3core_datasets(self) -> list[Entry]:  # type: ignore[empty-body]
        """Data sets, named by ``distill.data``. Targets are `f3core.distillation.dataset.Dataset` subclasses."""

    @hookspec
    def f3core_prompts(self) -> list[Entry]:  # type: ignore[empty-body]
        """Prompt sets, named by ``calibrate.prompts``. Targets are `f3core.PromptSet` subclasses."""

    @hookspec
    def f3core_sources(self) -> list[SourceEntry]:  # type: ignore[empty-body]
        """Models shipped with the plugin, named by ``model.source``."""

    @hookspec(firstresult=True)
    def f3core_denoiser_classes(self, source: str) -> Mapping[str, str] | None:
        """Component name to denoiser class name of a model folder or hub id, read without loading weights; None if not
        ours. A hub id is asked for only when the model is about to be loaded."""

    @hookspec(firstresult=True)
    def f3core_skeletons(self, source: str) -> Mapping[str, tuple[Any, Mapping[str, Any]]] | None:
        """Class and constructor arguments of every denoiser in a local folder, by component, read from its configs
        alone; None if not ours. The folder holds a whole model, or one component. Asked for by `f3core inspect`."""

    @hookspec(firstresult=True)
    def f3core_adapter_draft(self, subject: Subject) -> str | None:
        """Source of an adapter for a model that no adapter knows, from what was seen in it; None if models of its kind
        are not ours. Asked for by `f3core new-adapter`, which drafts on `f3core.Adapter` where all say None."""
