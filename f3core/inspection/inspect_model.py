"""`inspect_class`: where an unknown denoiser has attention, what its tokens are, and what sites to propose.

The model is built without weights, run at sizes of which one changes at a time, and the lengths of every attention
call are read as formulas of these sizes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

from torch import nn

from f3core.errors import ModelError
from f3core.inspection.call_shapes import CallShape, Key, calls_by_module, keys_of, measure, pattern
from f3core.inspection.first_forward import FEW_TRIES, arguments, find_inputs
from f3core.inspection.skeleton import Skeleton
from f3core.inspection.token_roles import Role, role
from f3core.inspection.tracing import Trace, TracedCall, trace_forward
from f3core.sites import AttentionKind, Removal

BASE = {"B": 2, "F": 6, "H": 8, "W": 24, "T": 11}
"""no usual number of channels among frames, so that a tensor of another layout does not fit by chance"""


@dataclass(frozen=True)
class FoundModule:
    """A module with attention. ``index``: its place on the layer axis where it is proposed as a site, else None."""

    path: str
    index: int | None


@dataclass(frozen=True)
class Group:
    """Modules that differ in their numbers alone: ``pattern`` has a ``*`` for each.

    ``calls`` with their ``roles``: of one module's forward, with S for the tokens that a frame has there. ``levels``:
    these S, as shares of the most in the model. ``heads``: of all modules, each once. ``tokens``: arguments of the
    module that hold one entry a visual token, with the dimension. ``norm`` and ``output``: the norm just before it (a
    path pattern) and the linear map behind its attention (a path in the module); None where there is none.
    """

    pattern: str
    module: str
    modules: tuple[FoundModule, ...]
    calls: tuple[CallShape, ...]
    roles: tuple[Role, ...]
    levels: tuple[Fraction, ...]
    heads: tuple[int, ...]
    tokens: Mapping[str, int] = field(default_factory=dict)
    norm: str | None = None
    output: str | None = None

    @property
    def kinds(self) -> tuple[AttentionKind, ...]:
        """Kinds of all its calls, in their usual order; none where it is no site."""
        return tuple(kind for kind in AttentionKind if any(kind in each.kinds for each in self.roles))

    @property
    def removals(self) -> dict[AttentionKind, tuple[Removal, ...]]:
        """By which a kind could go: what all calls that hold it allow. A module goes whole only for its only kind."""
        found = {}
        for kind in self.kinds:
            ways = [each.removals.get(kind, ()) for each in self.roles if kind in each.kinds]
            common = [way for way in ways[0] if all(way in other for other in ways)]
            if any(kind not in each.kinds for each in self.roles):
                common = [way for way in common if way is not Removal.DROP]
            if common:
                found[kind] = tuple(common)
        return found


@dataclass(frozen=True)
class Inspection:
    """What was found in a model. ``model``: dotted path of its class; ``inputs``: the arguments of its forward, as
    ``--input`` takes them; ``sizes``: what their letters were at first; ``notes``: what was assumed, or not seen.
    """

    model: str
    config: Mapping[str, object]
    inputs: Mapping[str, str]
    sizes: Mapping[str, int]
    groups: tuple[Group, ...]
    notes: tuple[str, ...]


def inspect_class(
    model_class: type[nn.Module],
    config: Mapping[str, object] | None = None,
    inputs: Mapping[str, str] | None = None,
    *,
    sizes: Mapping[str, int] | None = None,
    real: bool = False,
) -> Inspection:
    """Trace ``model_class(**config)`` and propose sites.

    ``inputs``: values of the forward's arguments that are not to be guessed, in the language of ``--input``. ``sizes``:
    what its letters are at first, where not as in `BASE`; each is then doubled on its own. ``real``:
    compute with random weights, for a model whose forward depends on values; it must be small then. Raises
    `ModelError` when it cannot be built or run, or has no attention, and `SpecError` for wrong arguments.
    """
    base = {**BASE, **(sizes or {})}
    whole = Skeleton(model_class, dict(config or {}), real=real).checked()
    few, given = whole.shallow(), inputs or {}
    chosen = None
    if few is not None:
        with suppress(ModelError):  # parts of a model may only come with more layers
            chosen = find_inputs(few.build(base), few.config, given, base, tries=FEW_TRIES)
    if few is None or chosen is None:
        few, chosen = whole, find_inputs(whole.build(base), whole.config, given, base)
    shapes, notes = measure(few, chosen, base)
    trace = Trace()
    trace_forward(whole.build(base), arguments(chosen, base), trace)
    if not trace.calls:
        raise ModelError(
            f"{whole.name} ran, and never called torch.nn.functional.scaled_dot_product_attention: its attention is "
            "linear or written out, and f3core cannot watch it"
        )
    if not shapes.keys() >= keys_of(trace):  # a few layers are not like all
        shapes, notes = measure(whole, chosen, base)
    if whole.assumed:
        taken = ", ".join(f"{key}={value}" for key, value in whole.assumed.items())
        notes = [f"{whole.name} cannot be built with its defaults; taken: {taken} (other values by --config)", *notes]
    return Inspection(
        model=whole.path,
        config={**whole.assumed, **whole.given},
        inputs={name: text for name, text in chosen.items() if text is not None},
        sizes=base,
        groups=_groups(trace, shapes, base),
        notes=tuple(notes),
    )


def _groups(trace: Trace, shapes: Mapping[Key, CallShape], sizes: Mapping[str, int]) -> tuple[Group, ...]:
    """Modules by pattern, class and the shape of their calls, in the order in which they first run."""
    modules, called = dict(trace.modules), calls_by_module(trace)
    seen = {path: tuple(shapes[call.key] for call in calls) for path, calls in called.items()}
    shares = {path: next(filter(None, (shape.pixel_share for shape in own)), None) for path, own in seen.items()}
    most = max((share for share in shares.values() if share), default=Fraction(1))
    own = {path: tuple(shape.per_frame(shares[path]) for shape in found) for path, found in seen.items()}
    roles = {path: tuple(role(shape) for shape in found) for path, found in own.items()}
    places = _places({path: {kind for each in found for kind in each.kinds} for path, found in roles.items()})
    alike: dict[tuple[str, str, tuple[CallShape, ...]], list[str]] = {}
    for path, found in own.items():
        alike.setdefault((pattern(path), type(modules[path]).__name__, found), []).append(path)
    return tuple(
        Group(
            pattern=name,
            module=kind,
            modules=tuple(FoundModule(path, places.get(path)) for path in paths),
            calls=found,
            roles=roles[paths[0]],
            levels=tuple(dict.fromkeys(share / most for share in (shares[path] for path in paths) if share)),
            heads=tuple(dict.fromkeys(call.traced.heads for path in paths for call in called[path])),
            tokens=_tokens(called[paths[0]][0].traced, seen[paths[0]][0].visual_queries(sizes)),
            norm=pattern(trace.norm(called[paths[0]][0].traced) or "") or None,
            output=trace.output(called[paths[0]][-1].traced),
        )
        for (name, kind, found), paths in alike.items()
    )


def _places(kinds: Mapping[str, Collection[AttentionKind]]) -> dict[str, int]:
    """The place on the layer axis of each path that has kinds, in the order in which they run: the number of its block
    (up to the last number in the path) among the blocks that hold TA, or of the next such block."""
    blocks = {path: re.sub(r"(.*(?:^|[.])\d+)[.].*", r"\1", path) for path, found in kinds.items() if found}
    over_time = {blocks[path] for path, found in kinds.items() if AttentionKind.TEMPORAL in found}
    counted = over_time or set(blocks.values())
    begun: dict[str, int] = {}
    places = {}
    for path, block in blocks.items():
        if block in counted:
            begun.setdefault(block, len(begun))
        places[path] = begun.get(block, min(len(begun), len(counted) - 1))
    return places


def _tokens(call: TracedCall, visual: int) -> dict[str, int]:
    """Arguments of a call's module, [rows, ..., channels] or tables [tokens, channels], with as many entries as the
    call has ``visual`` queries, with the dimension."""
    found = {}
    for name, shape in call.arguments.items():
        places = range(1, len(shape) - 1) if len(shape) > 2 else range(len(shape) - 1)
        at = [place for place in places if visual and shape[place] == visual]
        if at:
            found[name] = at[0]
    return found
