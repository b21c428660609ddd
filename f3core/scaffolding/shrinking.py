"""Makes an unknown model tiny: constructor arguments are lowered one by one, as long as its forward still runs."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from f3core.inspection.call_shapes import pattern
from f3core.inspection.first_forward import arguments
from f3core.inspection.skeleton import Skeleton
from f3core.inspection.tracing import Trace, trace_forward
from f3core.scaffolding.input_code import ForwardArgument

ROWS, TEXT = 2, 7
"""Rows and text tokens of the contract's inputs"""
LARGE = 5_000_000
"""parameters, above which a contract takes minutes"""
_SHAPES = ((4, 6), (8, 12), (16, 24), (32, 48))
"""latent rows and columns, the contract's own first"""
_FRAMES = 3
_WIDTH = re.compile(r"dim|channel|width|hidden|embed|d_model|heads|features|inner")
_NOT_A_WIDTH = re.compile(r"sample|max_|size|num_embeds")
_WIDE, _NARROW = 32, 32
_OWN_WIDTHS = (24, 40, 56, 72)
"""of what is fed to the model, each its own, so that none is taken for another"""
_HEADS, _HEAD = 2, 16

Config = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """Constructor arguments of a small model. ``height`` and ``width``: latent rows and columns that it takes;
    ``zeros``: whether some weights are all zeros; ``whole``: whether all of it runs in bfloat16; ``parameters``: how
    many it has."""

    config: Mapping[str, Any]
    height: int
    width: int
    zeros: bool
    mixed: bool
    parameters: int


def shrunk(model_class: type[nn.Module], config: Mapping[str, Any], inputs: Sequence[ForwardArgument]) -> Tiny | None:
    """The smallest that was found; None where the forward does not run at the sizes of a contract test.

    ``config``: constructor arguments without which it cannot be built; ``inputs``: with which its forward runs.
    """
    start = Skeleton(model_class, dict(config))
    start = start.shallow() or start
    for height, width in _SHAPES:
        trial = _Trial(model_class, inputs, height, width)
        attended = trial.attended(dict(start.given))
        if attended and not trial.confusing(start.config):
            break
    else:
        return None
    given = _lowered(dict(start.given), trial, attended)
    tied = {key: trial.sizes(start.config)[letter] for key, letter in start.tied.items()}
    made = Skeleton(model_class, given, real=True).build(trial.sizes(start.config))
    weights = list(made.parameters())
    parameters = sum(each.numel() for each in weights)
    return Tiny(
        config={**given, **tied},
        height=height,
        width=width,
        zeros=any(each.ndim > 1 and not each.any() for each in weights),
        mixed=parameters <= LARGE and not trial.runs_in_bfloat16(made, given),
        parameters=parameters,
    )


@dataclass(frozen=True)
class _Trial:
    model_class: type[nn.Module]
    inputs: Sequence[ForwardArgument]
    height: int
    width: int

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Of the inputs by letter; frames are as many as fill whole tokens."""
        frames = -(-_FRAMES // patch_frames(config)) * patch_frames(config)
        return {"B": ROWS, "F": frames, "H": self.height, "W": self.width, "T": TEXT}

    def attended(self, given: Config) -> frozenset[str]:
        """Patterns of the modules that attend in a forward of the model built so; none where it does not run."""
        skeleton, trace = Skeleton(self.model_class, given), Trace()
        sizes = self.sizes(skeleton.config)
        try:
            chosen: dict[str, str | None] = {each.name: each.at(skeleton.config) for each in self.inputs}
            trace_forward(skeleton.build(sizes), arguments(chosen, sizes), trace)
        except Exception:  # models raise whatever they like at what they do not expect
            return frozenset()
        return frozenset(pattern(call.path) for call in trace.calls)

    def confusing(self, config: Mapping[str, Any]) -> bool:
        """Whether a tensor that has no rows of clips is as long as there are rows."""
        sizes = self.sizes(config)
        found = arguments({each.name: each.at(config) for each in self.inputs if "B" not in each.letters}, sizes)
        return any(isinstance(leaf, Tensor) and leaf.shape[:1] == (ROWS,) for leaf in tree_leaves(found))

    def runs_in_bfloat16(self, model: nn.Module, given: Config) -> bool:
        """Whether the forward runs with all weights and all inputs but single numbers in bfloat16."""
        config = Skeleton(self.model_class, given).config
        chosen: dict[str, str | None] = {each.name: each.at(config) for each in self.inputs}
        inputs = {
            name: value.bfloat16()
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1
            else value
            for name, value in arguments(chosen, self.sizes(config)).items()
        }
        try:
            trace_forward(copy.deepcopy(model).bfloat16(), inputs, Trace())
        except Exception:  # as above
            return False
        return True


def patch_frames(config: Mapping[str, Any]) -> int:
    """Latent frames of a token, as configs usually say."""
    size = config.get("patch_size")
    found = size[0] if isinstance(size, list | tuple) and len(size) == 3 else config.get("patch_size_t")
    return found if isinstance(found, int) and found > 0 else 1


def _lowered(given: Config, trial: _Trial, attended: frozenset[str]) -> Config:
    for change in _changes(trial.model_class, given, trial.inputs):
        lowered = {**given, **change(given)}
        if lowered != given and trial.attended(lowered) == attended:
            given = lowered
    return given


def _changes(
    model_class: type[nn.Module], given: Config, inputs: Sequence[ForwardArgument]
) -> Iterator[Callable[[Config], Config]]:
    """Changes to try in turn: heads with all that is as wide as they are, then numbers that are equal, then each."""
    config = Skeleton(model_class, given).config
    yield lambda _: _few_heads(config)
    for key, value in config.items():
        if _WIDTH.search(key) and _numbers(value):
            yield lambda now, key=key, value=value: {key: _scaled(value, _HEAD)} if now.get(key) is None else {}  # type: ignore[misc]
            yield lambda now, key=key, value=value: {key: [_NARROW] * len(value)} if now.get(key) is None else {}  # type: ignore[misc]
    own = dict(zip(dict.fromkeys(key for each in inputs for key in each.widths.values()), _OWN_WIDTHS, strict=False))
    wide = [k for k, v in config.items() if type(v) is int and v > _WIDE and _is_width(k)]
    for value in dict.fromkeys(config[key] for key in wide):
        keys = [key for key in wide if config[key] == value]
        for small in dict.fromkeys([*(own[key] for key in keys if key in own), _NARROW]):
            yield lambda now, keys=keys, small=small: _unless_lowered(keys, small, now, config)  # type: ignore[misc]
    for key in wide:
        for small in dict.fromkeys([own.get(key, _NARROW), _NARROW, 64]):
            yield lambda now, key=key, small=small: _unless_lowered([key], small, now, config)  # type: ignore[misc]


def _is_width(key: str) -> bool:
    return bool(_WIDTH.search(key)) and not _NOT_A_WIDTH.search(key)


def _unless_lowered(keys: list[str], small: int, now: Config, config: Config) -> Config:
    return {key: small for key in keys if now.get(key, config[key]) == config[key] and small < config[key]}


def _few_heads(config: Config) -> Config:
    """Two heads of 16 channels, and all that is said to be as wide as one or all of them."""
    heads, each = config.get("num_attention_heads"), config.get("attention_head_dim")
    if not (type(heads) is int and type(each) is int and heads > _HEADS and each > _HEAD):
        return {}
    widths = {key: _HEADS * _HEAD for key, value in config.items() if value == heads * each and type(value) is int}
    parts = {key: _scaled(v, _HEAD) for key, v in config.items() if _numbers(v) and sum(v) == each}
    return {**widths, **parts, "num_attention_heads": _HEADS, "attention_head_dim": _HEAD}


def _numbers(value: Any) -> bool:
    whole = isinstance(value, list | tuple) and all(type(each) is int for each in value)
    return whole and sum(value) > _WIDE


def _scaled(parts: Sequence[int], to: int) -> list[int]:
    """Even numbers in about the proportions of ``parts`` that add up to ``to``."""
    small = [max(2, each * to // sum(parts) // 2 * 2) for each in parts]
    return [small[0] + to - sum(small), *small[1:]]
