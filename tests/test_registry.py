"""The registry: one name, one entry; every clash and every broken plugin is named."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import f3core_diffusers
import f3core_f3
import pytest

from f3core import hookimpl
from f3core.errors import AdapterMatchError, PluginError
from f3core.hookspecs import AdapterEntry, Entry, SourceEntry
from f3core.registry import Registry, installed


def plugin(**hooks: Callable[..., Any]) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{name: hookimpl(hook) for name, hook in hooks.items()})


def adapters(*entries: AdapterEntry) -> types.SimpleNamespace:
    return plugin(f3core_adapters=lambda: list(entries))


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    made.register(f3core_f3, "f3")
    made.register(f3core_diffusers, "diffusers")
    return made


def test_our_plugins_register_like_any_other(registry: Registry) -> None:
    assert registry.names("method") == ["f3"]
    assert registry.names("criterion") == ["aas", "aas_mean", "drift", "late", "propagated_drift", "random", "reverse"]
    assert "wan" in registry.names("adapter")
    assert {r.plugin for r in registry.registered("adapter")} == {"diffusers"}
    assert {r.plugin for r in registry.registered("criterion")} == {"f3"}
    for kind in ("method", "criterion"):
        assert [registry.make(kind, name).name for name in registry.names(kind)] == registry.names(kind)


# --- one adapter ----------------------------------------------------------------------------------------------------


def test_exactly_one_adapter_matches(registry: Registry) -> None:
    assert registry.match_adapter(["WanTransformer3DModel"]).name == "wan"


def test_no_adapter_matches(registry: Registry) -> None:
    with pytest.raises(AdapterMatchError, match=r"no adapter matches Foo; registered: .*, wan.*\. `f3core inspect`"):
        registry.match_adapter(["Foo", "Module", "object"])
    with pytest.raises(AdapterMatchError, match=r"no adapter matches Foo; registered: \(none\)"):
        Registry().match_adapter(["Foo"])


def test_a_model_that_cannot_be_pruned_is_told_why(registry: Registry) -> None:
    class Plugin:
        @hookimpl
        def f3core_unsupported(self) -> dict[str, str]:
            return {"LinearTransformer": "its attention is linear"}

    registry.register(Plugin(), "theirs")
    with pytest.raises(AdapterMatchError, match=r"^LinearTransformer cannot be pruned: its attention is linear$"):
        registry.match_adapter(["Mine", "LinearTransformer"])


def test_two_adapters_match(registry: Registry) -> None:
    registry.register(adapters(AdapterEntry("mine", "m:A", model_classes=("WanTransformer3DModel",))), "theirs")
    with pytest.raises(AdapterMatchError) as caught:
        registry.match_adapter(["WanTransformer3DModel"])
    assert "'mine' (plugin 'theirs'), 'wan' (plugin 'diffusers'); name one as model.adapter" in str(caught.value)


def test_a_subclass_matches_its_bases_adapter(registry: Registry) -> None:
    base = type("WanTransformer3DModel", (), {})
    grandchild = type("Mine", (type("Between", (base,), {}),), {})
    assert registry.match_adapter(c.__name__ for c in grandchild.__mro__).name == "wan"
    with pytest.raises(AdapterMatchError, match="matches Mine"):
        registry.match_adapter(["Mine"])


# --- what a plugin may not do ---------------------------------------------------------------------------------------


def test_a_mistyped_hook_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'oops': unknown hook 'f3core_adapter'; did you mean 'f3core_adapters'"):
        Registry().register(plugin(f3core_adapter=lambda: []), "oops")
    module = types.ModuleType("oops")
    module.f3core_metric = lambda: []  # type: ignore[attr-defined]  # without the marker
    with pytest.raises(PluginError, match="did you mean 'f3core_metrics'"):
        Registry().register(module, "oops")


def test_a_hook_of_the_wrong_shape_is_an_error() -> None:
    def f3core_denoiser_classes(folder: str) -> None:
        """The argument is called ``source``."""

    with pytest.raises(PluginError, match=r"(?s)plugin 'oops'.*'folder'"):
        Registry().register(plugin(f3core_denoiser_classes=f3core_denoiser_classes), "oops")


def test_a_hook_that_fails_is_an_error() -> None:
    def broken() -> list[Entry]:
        raise ZeroDivisionError("at once")

    with pytest.raises(PluginError, match="'oops': f3core_methods failed: ZeroDivisionError: at once"):
        Registry().register(plugin(f3core_methods=broken), "oops")
    with pytest.raises(PluginError, match="f3core_methods failed: TypeError"):
        Registry().register(plugin(f3core_methods=lambda: None), "oops")


@pytest.mark.parametrize(
    ("hook", "entry"),
    [
        ("f3core_methods", "f3"),
        ("f3core_adapters", Entry("a", "m:A")),
        ("f3core_sources", Entry("a", "m:A")),
        ("f3core_metrics", SourceEntry("a", "folder")),
    ],
)
def test_what_is_no_entry_is_refused(hook: str, entry: object) -> None:
    with pytest.raises(PluginError, match=rf"'oops': {hook} returned .*, which is no entry"):
        Registry().register(plugin(**{hook: lambda: [entry]}), "oops")


@pytest.mark.parametrize("kind", Registry.KINDS)
def test_a_name_taken_twice_names_both_plugins(kind: str) -> None:
    entry = {"adapter": AdapterEntry("x", "m:A"), "source": SourceEntry("x", "f")}.get(kind, Entry("x", "m:A"))
    registry = Registry()
    registry.register(plugin(**{Registry.KINDS[kind]: lambda: [entry]}), "first")
    with pytest.raises(PluginError, match=rf"{kind} 'x' is registered twice, by plugins 'first' and 'second'"):
        registry.register(plugin(**{Registry.KINDS[kind]: lambda: [entry]}), "second")


def test_one_name_may_serve_several_kinds() -> None:
    registry = Registry()
    registry.register(
        plugin(f3core_methods=lambda: [Entry("x", "m:A")], f3core_metrics=lambda: [Entry("x", "m:B")]), "p"
    )
    assert (registry.entry("method", "x").target, registry.entry("metric", "x").target) == ("m:A", "m:B")


def test_a_plugin_registers_once(registry: Registry) -> None:
    with pytest.raises(PluginError, match="'f3'"):
        registry.register(f3core_f3, "f3")


# --- asking ---------------------------------------------------------------------------------------------------------


def test_unknown_names_are_told_the_nearest(registry: Registry) -> None:
    with pytest.raises(PluginError, match="unknown criterion 'ass': did you mean 'aas'"):
        registry.entry("criterion", "ass")
    with pytest.raises(PluginError, match=r"unknown metric 'fvd': allowed: \(none registered\)"):
        registry.make("metric", "fvd")


@pytest.mark.parametrize("target", ["no_such_package.x:A", "f3core.errors:NoSuch", "f3core.errors"])
def test_code_that_cannot_be_imported_names_its_plugin(target: str) -> None:
    registry = Registry()
    registry.register(plugin(f3core_methods=lambda: [Entry("lost", target)]), "theirs")
    assert registry.names("method") == ["lost"]
    with pytest.raises(PluginError, match="method 'lost' of plugin 'theirs' cannot be imported"):
        registry.make("method", "lost")


class Optioned:
    def __init__(self, weight: float, *, size: int = 0) -> None:
        self.sum = weight + size
        if weight < 0:
            raise ValueError("no weight is negative")


class Plain:
    pass


def test_wrong_options_are_told_what_there_are() -> None:
    registry = Registry()
    found = [Entry(kind.__name__, f"{__name__}:{kind.__name__}") for kind in (Optioned, Plain)]
    registry.register(plugin(f3core_metrics=lambda: found), "theirs")
    assert registry.make("metric", "Optioned", {"weight": 2, "size": 3}).sum == 5
    for name, options, why in (
        ("Optioned", {"weight": 1, "sise": 2}, r"unexpected keyword argument 'sise'; its options: weight, size$"),
        ("Optioned", None, r"does not take {}: missing a required argument: 'weight'; its options: weight, size$"),
        ("Optioned", {"weight": "1"}, r"can only concatenate str"),
        ("Optioned", {"weight": -1}, r"does not take {'weight': -1}: no weight is negative"),
        ("Plain", {"size": 2}, r"unexpected keyword argument 'size'; its options: \(none\)$"),
    ):
        with pytest.raises(PluginError, match=why):
            registry.make("metric", name, options)


def test_the_first_plugin_that_knows_a_folder_answers(registry: Registry, tmp_path: Path) -> None:
    def knows(source: str) -> Mapping[str, str] | None:
        return {"net": "Mine"} if source == str(tmp_path) else None

    registry.register(plugin(f3core_denoiser_classes=knows), "theirs")
    assert registry.denoiser_classes(str(tmp_path)) == {"net": "Mine"}
    other = tmp_path / "wan"
    other.mkdir()
    assert registry.denoiser_classes(str(other)) is None
    index = {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"], "vae": ["d", "V"],
             "transformer_2": [None, None]}  # fmt: skip
    (other / "model_index.json").write_text(json.dumps(index))
    assert registry.denoiser_classes(str(other)) == {"transformer": "WanTransformer3DModel"}


# --- installed plugins, through real metadata -----------------------------------------------------------------------


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a distribution that declares entry points, as pip would leave it on disk."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = set(sys.modules)

    def install(dist: str, points: dict[str, str], **files: str) -> None:
        info = tmp_path / f"{dist.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[f3core]", *lines, ""]))
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - modules:
        if name.startswith("f3t_"):
            del sys.modules[name]


GOOD = """
import f3core

@f3core.hookimpl
def f3core_metrics():
    return [f3core.Entry("f3t_metric", "builtins:dict", "a metric")]
"""


def test_a_plugin_that_fails_to_import_is_noted_and_the_others_work(site_packages: Callable[..., None]) -> None:
    site_packages("f3t-good", {"f3t_good": "f3t_good_module"}, f3t_good_module=GOOD)
    site_packages("f3t-bad", {"f3t_a_bad": "f3t_bad_module"}, f3t_bad_module="import f3t_is_not_installed\n")
    site_packages("f3t-gone", {"f3t_gone": "f3t_gone_module"})
    site_packages("f3t-syntax", {"f3t_syntax": "f3t_syntax_module"}, f3t_syntax_module="def\n")
    registry = Registry()
    registry.load_entry_points()
    assert {name for name in registry.broken if name.startswith("f3t_")} == {"f3t_a_bad", "f3t_gone", "f3t_syntax"}
    assert "f3t_bad_module: ModuleNotFoundError" in registry.broken["f3t_a_bad"]
    assert "f3t_is_not_installed" in registry.broken["f3t_a_bad"]
    assert registry.broken["f3t_syntax"].startswith("f3t_syntax_module: SyntaxError")
    assert registry.entry("metric", "f3t_metric").summary == "a metric"
    with pytest.raises(PluginError, match=r"plugins that failed to load: .*f3t_a_bad, f3t_gone"):
        registry.entry("metric", "f3t_other")


def test_an_installed_plugin_with_a_mistyped_hook_is_an_error(site_packages: Callable[..., None]) -> None:
    site_packages("f3t-odd", {"f3t_odd": "f3t_odd_module"}, f3t_odd_module=GOOD.replace("_metrics", "_metrik"))
    with pytest.raises(PluginError, match="plugin 'f3t_odd': unknown hook 'f3core_metrik'"):
        Registry().load_entry_points()


def test_installed_is_read_once(site_packages: Callable[..., None]) -> None:
    site_packages("f3t-good", {"f3t_good": "f3t_good_module"}, f3t_good_module=GOOD)
    installed.cache_clear()
    try:
        assert "f3t_metric" in installed().names("metric")
        assert installed() is installed()
    finally:
        installed.cache_clear()


def test_an_unmarked_hook_is_an_error() -> None:
    unmarked = types.SimpleNamespace(f3core_denoiser_classes=lambda source: {})
    with pytest.raises(PluginError, match=r"mark f3core_denoiser_classes with @f3core\.hookimpl"):
        Registry().register(unmarked, "oops")
