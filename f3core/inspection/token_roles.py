"""From how an attention's rows, queries and keys grow with the sizes of a clip: what they are, and what it may lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from f3core.inspection.call_shapes import CallShape
from f3core.inspection.formulas import Formula, Term
from f3core.sites import AttentionKind, Removal

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL


class Tokens(str, Enum):
    """What the tokens of one row stand for, text and other conditioning apart, in words."""

    CLIP = "all frames, S tokens each"
    FRAME = "one frame a row, S tokens"
    PIXEL = "one place of all frames a row, a token a frame"
    ONE_FRAME = "S tokens that do not grow with frames"
    NONE = "no video"


@dataclass(frozen=True)
class Role:
    """What a call relates: ``kinds`` (none: no site), ``queries`` and ``keys`` in words, what can go and a remark."""

    kinds: tuple[AttentionKind, ...]
    queries: str
    keys: str
    removals: Mapping[AttentionKind, tuple[Removal, ...]] = field(default_factory=dict)
    remark: str = ""


def role(call: CallShape) -> Role:
    """What a call of this shape most likely is."""
    rows, queries, keys = call.rows, call.queries, call.keys
    if rows is None or queries is None or keys is None:
        return Role((), "unknown", "unknown", remark="lengths follow no simple rule of the sizes; look at the module")
    asking, asked = tokens(queries, rows), tokens(keys, rows)
    words = _words(queries, asking, call.query_parts), _words(keys, asked, call.key_parts)
    if asking is Tokens.NONE or asking is Tokens.ONE_FRAME:
        return Role((), *words, remark=_no_site(rows, queries))
    text = bool(_extra(keys))
    if asked is Tokens.NONE:
        pure = not _extra(queries)
        return Role((CA,), *words, {CA: (Removal.DROP,)} if pure else {})
    kinds = (*((CA,) if text else ()), SA)
    if asking is asked is Tokens.FRAME:
        frames = _visual(keys) / _visual(queries)
        if frames == 1:
            return Role(kinds, *words, {} if text else {SA: (Removal.DROP,)})
        remark = f"every row has keys of {frames} frames; see which in the module"
        return Role((*kinds, TA), *words, {TA: (Removal.SELF_ONLY,)}, remark)
    ways = (Removal.SELF_ONLY, Removal.DROP) if asking is Tokens.PIXEL and not text else (Removal.SELF_ONLY,)
    remark = ""
    if asked is not asking or _visual(keys) != _visual(queries):
        remark = "keys are not the tokens that ask; see in the module which frame each belongs to"
    return Role((*kinds, TA), *words, {TA: ways}, remark)


def tokens(lengths: Formula, rows: Formula) -> Tokens:
    """What tokens are whose number a row is ``lengths``, where there are ``rows``."""
    if lengths.has("F", "H", "W"):
        return Tokens.CLIP
    if lengths.has("H", "W"):
        return Tokens.FRAME if rows.has("F") else Tokens.ONE_FRAME
    if lengths.has("F") and rows.has("H", "W"):
        return Tokens.PIXEL
    return Tokens.NONE


def _visual(lengths: Formula) -> Fraction:
    return sum((term.factor for term in lengths.terms if term.visual), Fraction(0))


def _extra(lengths: Formula) -> list[Term]:
    """Terms of text and other conditioning."""
    return [term for term in lengths.terms if not term.visual]


def _no_site(rows: Formula, queries: Formula) -> str:
    if queries.has("T"):
        return "text alone: no site"
    if rows.has("F", "H", "W") or any(queries.has(letter) for letter in "HW"):
        return "windows, or rows or columns of pixels: look at the module"
    if queries.has("F"):
        return "frames without pixels: no site, or look at the module"
    return "conditioning alone: no site"


def _words(lengths: Formula, found: Tokens, parts: Sequence[Formula | None]) -> str:
    """``all frames, S tokens each; then text``."""
    extra = _extra(lengths)
    other = "text" if any("T" in term.letters for term in extra) else "conditioning"
    if len(extra) > 1:
        other = "text and other conditioning"
    if found is Tokens.NONE:
        return other if extra else "tokens of unknown kind"
    video: str = found.value
    if not extra:
        return video
    places = [bool(part and any(term.visual for term in part.terms)) for part in parts]
    if places.count(True) == 1 and len(places) > 1:
        if places[0]:
            return f"{video}; then {other}"
        if places[-1]:
            return f"{other}; then {video}"
        return f"{other} on both sides of {video}"
    return f"{video}; and {other}, first or last: look at the processor"
