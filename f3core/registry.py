"""`Registry`: which plugins there are, and the one thing each name stands for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from f3core.errors import AdapterMatchError, PluginError, suggest
from f3core.hookspecs import GROUP, AdapterEntry, Entry, Hooks, SourceEntry

if TYPE_CHECKING:
    from f3core.scaffolding.scaffold import Subject


@dataclass(frozen=True)
class Registered:
    """An entry and the plugin it came from."""

    entry: Any
    plugin: str


class HookFailed(PluginError):
    """A hook raised: the plugin is at fault, the others are not."""


class Registry:
    """Names to entries, per kind of plugin. Refuses two entries of one name: nothing wins silently."""

    KINDS: ClassVar[dict[str, str]] = {
        "adapter": "f3core_adapters",
        "method": "f3core_methods",
        "criterion": "f3core_criteria",
        "metric": "f3core_metrics",
        "feature network": "f3core_features",
        "accelerator": "f3core_accelerators",
        "loss": "f3core_losses",
        "data set": "f3core_datasets",
        "prompt set": "f3core_prompts",
        "source": "f3core_sources",
    }

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._entries: dict[str, dict[str, Registered]] = {kind: {} for kind in self.KINDS}
        self.broken: dict[str, str] = {}
        """plugins that failed to import: name to reason"""

    # --- filling ------------------------------------------------------------------------------------------------

    def register(self, plugin: object, name: str) -> None:
        """Add a plugin. Raises `PluginError` for a mistyped hook, a hook that fails, or a name already taken."""
        hooks = {n for n in vars(Hooks) if n.startswith("f3core_")}
        for attribute in dir(plugin):
            hook = getattr(plugin, attribute, None)
            if not attribute.startswith("f3core_") or not callable(hook):
                continue
            if attribute not in hooks:
                raise PluginError(f"plugin {name!r}: unknown hook {attribute!r}; {suggest(attribute, hooks)}")
            if not hasattr(hook, f"{GROUP}_impl"):
                raise PluginError(f"plugin {name!r}: mark {attribute} with @f3core.hookimpl, or it is never called")
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(f"plugin {name!r}: {error}") from error
        for kind, hook_name in self.KINDS.items():
            implementation = getattr(plugin, hook_name, None)
            if implementation is None:
                continue
            try:
                entries = list(implementation())
            except Exception as error:
                raise HookFailed(f"plugin {name!r}: {hook_name} failed: {type(error).__name__}: {error}") from error
            for entry in entries:
                self._add(kind, entry, name)

    def _add(self, kind: str, entry: Any, plugin: str) -> None:
        if not isinstance(entry, SourceEntry if kind == "source" else AdapterEntry if kind == "adapter" else Entry):
            raise PluginError(f"plugin {plugin!r}: {self.KINDS[kind]} returned {entry!r}, which is no entry")
        taken = self._entries[kind].get(entry.name)
        if taken is not None:
            raise PluginError(
                f"{kind} {entry.name!r} is registered twice, by plugins {taken.plugin!r} and {plugin!r}; "
                "uninstall one or rename its entry"
            )
        self._entries[kind][entry.name] = Registered(entry, plugin)

    def load_entry_points(self) -> None:
        """Register every installed plugin. One that cannot be imported is noted in `broken`, not raised."""
        for point in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda p: p.name):
            try:
                plugin = point.load()
            except Exception as error:
                self.broken[point.name] = f"{point.value}: {type(error).__name__}: {error}"
                continue
            try:
                self.register(plugin, point.name)
            except HookFailed as error:
                self.broken[point.name] = str(error)

    # --- asking -------------------------------------------------------------------------------------------------

    def names(self, kind: str) -> list[str]:
        """Registered names of a kind, sorted."""
        return sorted(self._entries[kind])

    def registered(self, kind: str) -> list[Registered]:
        """Entries of a kind with the plugin each came from, sorted by name."""
        return [self._entries[kind][name] for name in self.names(kind)]

    def entry(self, kind: str, name: str) -> Any:
        """The entry of a name. Raises `PluginError` that says what is allowed."""
        found = self._entries[kind].get(name)
        if found is None:
            broken = f"; plugins that failed to load: {', '.join(sorted(self.broken))}" if self.broken else ""
            raise PluginError(f"unknown {kind} {name!r}: {suggest(name, self._entries[kind])}{broken}")
        return found.entry

    def make(self, kind: str, name: str, options: Mapping[str, Any] | None = None) -> Any:
        """An instance of what a name stands for, made with ``options``. Raises `PluginError` when its code cannot be
        imported, or does not take these options."""
        entry: Entry = self.entry(kind, name)
        try:
            return entry.load(**(options or {}))
        except (ImportError, AttributeError) as error:
            plugin = self._entries[kind][name].plugin
            raise PluginError(f"{kind} {name!r} of plugin {plugin!r} cannot be imported: {error}") from error
        except (LookupError, TypeError, ValueError) as error:
            takes, why = entry.signature(), str(error)
            try:
                takes.bind(**(options or {}))
            except TypeError as wrong:
                why = f"{wrong}; its options: {', '.join(takes.parameters) or '(none)'}"
            else:
                if not options:
                    raise
            raise PluginError(f"{kind} {name!r} does not take {dict(options or {})}: {why}") from error

    def classes(self, kind: str) -> Mapping[str, Any]:
        """By name, the classes that entries of a kind stand for, imported when one is asked for."""
        return _Classes(self, kind)

    def denoiser_classes(self, source: str) -> Mapping[str, str] | None:
        """Denoiser classes of a model folder or hub id by component, or None if no plugin knows it."""
        found: Mapping[str, str] | None = self._manager.hook.f3core_denoiser_classes(source=source)
        return found

    def skeletons(self, source: str) -> Mapping[str, tuple[Any, Mapping[str, Any]]] | None:
        """Class and constructor arguments of the denoisers in a folder by component, or None if no plugin knows it."""
        found: Mapping[str, tuple[Any, Mapping[str, Any]]] | None = self._manager.hook.f3core_skeletons(source=source)
        return found

    def adapter_draft(self, subject: Subject) -> str | None:
        """Source of an adapter for a model that no adapter knows, or None if no plugin knows models of its kind."""
        found: str | None = self._manager.hook.f3core_adapter_draft(subject=subject)
        return found

    def match_adapter(self, class_names: Iterable[str]) -> AdapterEntry:
        """The one adapter for a denoiser, given the class names of its MRO (or its class name alone).

        Raises `AdapterMatchError` naming the candidates when there is none or more than one.
        """
        names = list(class_names)
        matches = [r for r in self.registered("adapter") if set(names) & set(r.entry.model_classes)]
        if len(matches) == 1:
            entry: AdapterEntry = matches[0].entry
            return entry
        if matches:
            rivals = ", ".join(f"{m.entry.name!r} (plugin {m.plugin!r})" for m in matches)
            raise AdapterMatchError(f"several adapters match {names[0]}: {rivals}; name one as model.adapter")
        for name, reason in self.unsupported().items():
            if name in names:
                raise AdapterMatchError(f"{name} cannot be pruned: {reason}")
        raise AdapterMatchError(
            f"no adapter matches {names[0]}; registered: {', '.join(self.names('adapter')) or '(none)'}. "
            "`f3core inspect` shows what a model attends to, `f3core new-adapter` starts an adapter for it"
        )

    def unsupported(self) -> dict[str, str]:
        """Denoiser classes that plugins know and cannot prune, with the reason."""
        return {name: why for told in self._manager.hook.f3core_unsupported() for name, why in told.items()}


class _Classes(Mapping[str, Any]):
    """The classes behind a registry's entries of one kind."""

    def __init__(self, registry: Registry, kind: str) -> None:
        self._registry, self._kind = registry, kind

    def __getitem__(self, name: str) -> Any:
        return self._registry.entry(self._kind, name).found()

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry.names(self._kind))

    def __len__(self) -> int:
        return len(self._registry.names(self._kind))


@lru_cache(maxsize=1)
def installed() -> Registry:
    """The registry of all installed plugins, read once."""
    registry = Registry()
    registry.load_entry_points()
    return registry
