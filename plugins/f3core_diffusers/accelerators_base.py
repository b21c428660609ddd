"""What accelerators of diffusers models share: options, states that begin with a generation, and a clean end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from f3core.errors import ModelError

FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What libraries raise where a model does not bear what they do to it"""


def config_class(name: str, module: str, attribute: str, need: str) -> Any:
    """A library's dataclass of options. Raises `ModelError` with ``need``, what to install, where there is none."""
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"accelerator {name!r} cannot be had: {error}; {need}") from error


def checked(name: str, config: Any, options: Mapping[str, Any], ours: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Options for a dataclass, converted to the types it declares; ``ours``: fields that are not for users.

    Raises `TypeError` for an option that it has not, naming those it has, or of another type.
    """
    hints = get_type_hints(config)
    known = [field.name for field in dataclasses.fields(config) if field.name not in ours]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(f"accelerator {name!r} has no option {', '.join(map(repr, unknown))}; its options: {known}")
    found = {}
    for option, value in options.items():
        hint = TypeAdapter(hints[option], config=ConfigDict(arbitrary_types_allowed=True))
        try:
            found[option] = hint.validate_python(_dtype(value) if option.endswith("_dtype") else value)
        except ValidationError as error:
            raise TypeError(f"{option} of accelerator {name!r}: {error.errors()[0]['msg']}, not {value!r}") from error
    return found


def _dtype(value: Any) -> Any:
    return getattr(torch, value, value) if isinstance(value, str) else value


def hooks_of(module: nn.Module) -> dict[str, Any]:
    """diffusers' hooks of one module, by name."""
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else registry.hooks


@contextlib.contextmanager
def restored(denoisers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Once the block ends, however it does, modules have the hooks, attributes, forwards and order they had before.

    Disabling a cache leaves wrappers, registries and other attributes behind in both libraries, and a failure to
    enable one leaves all that was done until then.
    """
    modules = [module for denoiser in denoisers.values() for module in denoiser.modules()]
    before = [(module, dict(vars(module)), dict(module._modules), set(hooks_of(module))) for module in modules]
    try:
        yield
    finally:
        for module, attributes, children, hooks in before:
            for name in [name for name in reversed(hooks_of(module)) if name not in hooks]:
                module._diffusers_hook.remove_hook(name, recurse=False)  # type: ignore[union-attr, operator]
            held = vars(module)
            for name in held.keys() - attributes.keys():
                del held[name]
            held.update((name, attributes[name]) for name in ("forward", "_cache_config") if name in attributes)
            if list(module._modules) != list(children):
                module._modules.clear()
                module._modules.update(children)
        for module in modules:
            forget_children(module)


def forget_children(module: nn.Module) -> None:
    """A registry keeps a list of those below it, which goes stale as they come and go (diffusers issue 14037)."""
    if (registry := getattr(module, "_diffusers_hook", None)) is not None:
        registry._child_registries_cache = None


@contextlib.contextmanager
def each_generation(pipeline: Any, name: str, begin: Callable[[], None]) -> Iterator[None]:
    """``begin`` runs before every generation of this pipeline, also after one that broke off; what a library fails on
    in one is a `ModelError`. Other pipelines of its class are left alone."""
    plain = type(pipeline)

    @functools.wraps(plain.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        begin()
        try:
            return plain.__call__(self, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise ModelError(
                f"{plain.__name__} failed with accelerator {name!r} on: {type(error).__name__}: {error}; if it runs "
                "without, this model does not bear these options: change them, or leave the row out"
            ) from error

    # Python looks ``__call__`` up in the class, so this one pipeline gets a class of its own, of the same name.
    pipeline.__class__ = type(plain.__name__, (plain,), {"__module__": plain.__module__, "__call__": call})
    try:
        yield
    finally:
        pipeline.__class__ = plain


def sources(pipeline_class: type) -> str:
    """The source of a pipeline class, in which it shows how it calls its denoisers."""
    return inspect.getsource(pipeline_class.__call__)


def tells_timestep(pipeline: Any) -> bool:
    """Whether a running pipeline tells which timestep it is at."""
    return hasattr(type(pipeline), "current_timestep")


def is_guided(pipeline: Any) -> bool:
    """Whether the generation that a pipeline is running has classifier-free guidance."""
    guided = getattr(pipeline, "do_classifier_free_guidance", None)
    return bool(getattr(pipeline, "guidance_scale", 2.0) > 1 if guided is None else guided)


def current_timestep(pipeline: Any) -> float:
    """The timestep a running pipeline is at, the noisiest where frames have their own; infinity between generations,
    in no cache's range."""
    timestep = getattr(pipeline, "_current_timestep", None)
    if timestep is None:
        return float("inf")
    return float(timestep.max() if isinstance(timestep, torch.Tensor) else timestep)


def _managers(denoiser: nn.Module) -> Iterator[Any]:
    for module in denoiser.modules():
        for hook in hooks_of(module).values():
            yield from (held for held in vars(hook).values() if hasattr(held, "get_state"))


@contextlib.contextmanager
def telling_calls(pipeline: Any, denoiser: Any) -> Iterator[None]:
    """Hooks learn what pipelines do not tell them.

    Forwards without a `cache_context` get one by their order at the current timestep, so that branches of guidance
    that run one after the other do not share states. Where the timestep rises, as it does with the next chunk of a long
    video, or the latents take another shape, states begin anew: what was computed for others does not stand for these.
    """
    last, level, shape, order, entered = None, float("-inf"), None, 0, contextlib.ExitStack()
    managers = list(_managers(denoiser))

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal last, level, shape, order
        contexts = [getattr(manager, "_context", None) for manager in managers]
        now = getattr(pipeline, "_current_timestep", None)
        order = order + 1 if now is last and now is not None else 0
        latents = kwargs.get("hidden_states", args[0] if args else None)
        seen = latents.shape[1:] if isinstance(latents, torch.Tensor) else None  # rows differ where guidance is partial
        if (timestep := current_timestep(pipeline)) > level or seen != shape:
            denoiser._reset_stateful_cache()
            for manager, context in zip(managers, contexts, strict=True):
                manager.set_context(context)
        last, level, shape = now, timestep, seen
        if all(context is None for context in contexts):
            entered.enter_context(denoiser.cache_context(f"call {order}"))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        entered.close()

    handles = (
        denoiser.register_forward_pre_hook(enter, with_kwargs=True),
        denoiser.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _BranchStates:
    """Over a hook of diffusers that keeps one ``state`` for all calls: one for each branch of guidance instead."""

    @property
    def state(self) -> Any:
        return self.branches.get_state()  # type: ignore[attr-defined]

    def reset_state(self, module: nn.Module) -> nn.Module:
        self.branches.reset()  # type: ignore[attr-defined]
        return module


def keep_branches_apart(denoiser: nn.Module) -> None:
    """Give hooks with a state of their own one a branch, as diffusers' newer caches have it.

    PAB's and FasterCache's count forwards, and would hand the unconditional forward of a pipeline that runs the
    branches one after the other what the conditional one computed.
    """
    from diffusers.hooks.hooks import StateManager

    for module in denoiser.modules():
        for hook in hooks_of(module).values():
            if "state" in vars(hook):
                hook.branches = StateManager(type(vars(hook).pop("state")))
                hook.__class__ = type(type(hook).__name__, (_BranchStates, type(hook)), {})
