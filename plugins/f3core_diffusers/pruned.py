"""Pruned classes that diffusers saves and loads like any other: the plan lies in ``config.json``.

Loading builds the unpruned model without weights, applies the plan to it and then fills it, so that sharding, dtypes
and low-memory loading are diffusers' own.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import ModelMixin

from f3core.carrying import CONFIG_KEY, aligned_, apply_carried_
from f3core.errors import ModelError
from f3core.surgery import Pruned
from f3core_diffusers.named_calls import NamedCalls


class PrunedModel(Pruned, NamedCalls):
    """Mixin over a diffusers model class, ``f3_base``."""

    f3_base: type[ModelMixin]

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build the pruned model, without weights. Raises `ModelError` when the config carries no plan."""
        plain = dict(config)
        carried = plain.pop(CONFIG_KEY, None)
        if carried is None:
            raise ModelError(f"{cls.__name__}: its config.json has no {CONFIG_KEY!r} entry; was it saved by f3core?")
        plain.pop("_class_name", None)
        built = cls.f3_base.from_config(plain, return_unused_kwargs=return_unused_kwargs, **kwargs)
        model = built[0] if return_unused_kwargs else built
        apply_carried_(model, carried, where=f"{cls.__name__}'s config.json")
        return built

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers', but strict. Raises `ModelError` when the file and the plan disagree on the parameters."""
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info.get(problem):
                first = sorted(map(str, info[problem]))[0]
                raise ModelError(f"{cls.__name__}: {problem.replace('_', ' ')} in the saved weights, first: {first}")
        aligned_(model)
        return (model, info) if wants_info else model


@cache
def pruned_model_class(base: type[ModelMixin], package: str = "f3core_diffusers") -> type[ModelMixin]:
    """The pruned class of a diffusers model class, as ``package`` must offer it under ``Pruned<name>``.

    Saved pipelines name the package, in which diffusers then looks for the class, and for ``ModelMixin`` beside it.
    """
    body = {"__module__": package, "f3_base": base}
    return type(f"Pruned{base.__name__}", (PrunedModel, base), body)
