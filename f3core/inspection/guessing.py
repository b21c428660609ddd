"""Arguments for a forward of an unknown denoiser, guessed from their names and the model's config.

Guesses are written in the language of ``--input``, so that an error can show what was tried and how to do better.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

Guesses = dict[str, tuple[str | None, ...]]
"""By argument what it may be, the likeliest first; None leaves it out"""

OTHER = 7
"""tokens of conditioning that is no text, such as a picture or sound"""

_CHANNELS = ("in_channels", "in_visual_dim", "in_dim", "latent_channels", "out_channels")
_TEXT = (
    "text_embed_dim",
    "text_dim",
    "in_text_dim",
    "caption_channels",
    "cross_attention_dim",
    "joint_attention_dim",
    "context_dim",
    "encoder_hid_dim",
    "encoder_hidden_states_channels",
)
_IMAGE = ("image_dim", "image_embed_dim", "image_proj_dim", "img_context_dim_in")
_POOLED = ("pooled_projection_dim", "in_text_dim2", "projection_class_embeddings_input_dim")
_SOUND = ("audio_in_channels",)
_SOUND_TEXT = ("audio_caption_channels", "caption_channels", "audio_cross_attention_dim")
_PIXELS = ("motion_encoder_size", "image_size")


@dataclass(frozen=True)
class _Facts:
    """What rules go by: the forward's parameters, the model's config, the input channels of its first layer."""

    parameters: frozenset[str]
    config: Mapping[str, Any]
    first: tuple[int, ...]

    def widths(self, keys: Sequence[str]) -> list[int]:
        """Numbers in the config under these keys, each once; of a list the first."""
        found = [self.config.get(key) for key in keys]
        firsts = [value[0] if isinstance(value, list | tuple) and value else value for value in found]
        return list(dict.fromkeys(value for value in firsts if type(value) is int))

    def videos(self, *keys: str) -> list[str]:
        """Videos with as many channels as the config says under ``keys``, or its usual ones, or the first layer."""
        packed = ["B,F*H*W,{}", "B*F,{},H,W"] if "num_frames" in self.parameters else []
        layouts = [*packed, "B,{},F,H,W", "B,F,{},H,W", "B,F,H,W,{}"]
        channels = dict.fromkeys([*self.widths(keys), *self.widths(_CHANNELS), *self.first])
        return [layout.format(width) for width in channels for layout in layouts]


_Guess = Callable[[_Facts], Sequence[str]]


def _fixed(*values: str) -> _Guess:
    return lambda _: values


def _tokens(count: object, keys: Sequence[str], *, pooled: bool = False) -> _Guess:
    """``count`` tokens as wide as the config says; or, where they may be pooled, one vector."""
    shapes = [f"B,{count},{{}}", *(["B,{}"] if pooled else [])]
    return lambda facts: [shape.format(width) for width in facts.widths(keys) for shape in shapes]


def _text(facts: _Facts) -> list[str]:
    """Text a clip, or a frame."""
    return [f"{rows},T,{width}" for width in facts.widths(_TEXT) for rows in ("B", "B*F")]


def _second_text(facts: _Facts) -> Sequence[str]:
    """Text of a second encoder."""
    keys = [key for key in facts.config if key.startswith("text_embed_") and key != "text_embed_dim"]
    return _tokens(OTHER, keys)(facts)


def _control(facts: _Facts) -> list[str]:
    """A second video; where the first frame of the first is a given one, it may lack that."""
    own = [key for key in facts.config if key.endswith("_in_channels")]
    videos = facts.videos(*own, "latent_channels")
    return [*videos, *(video.replace(",F,", ",F-1,") for video in videos)]


def _pixels(facts: _Facts) -> list[str]:
    """A picture for every frame that latents stand for, but the first."""
    return [f"zeros(B,3,(F-1)*4,{side},{side})" for side in facts.widths(_PIXELS)]


def _time_ids(facts: _Facts) -> list[str]:
    whole, each = (facts.config.get(k) for k in ("projection_class_embeddings_input_dim", "addition_time_embed_dim"))
    return [f"B,{whole // each}"] if isinstance(whole, int) and isinstance(each, int) and each else ["B,3"]


_RULES: tuple[tuple[str, _Guess], ...] = (
    (r"\w*timesteps?(_r)?|(audio_)?(sigma|t)", _fixed("B,", "long(B)", "500", "B,F", "B,F*H*W")),
    (r"(hidden_states|sample|latents?|x|noisy_\w+)", _Facts.videos),
    (r"encoder_hidden_states|context|prompt_embeds|text(_embed\w*)?|captions?", _text),
    (r"num_frames", _fixed("F")),
    (r"height", _fixed("H")),
    (r"width", _fixed("W")),
    (r"encoder_hidden_states_(?!image)\w+", _second_text),
    (
        r"\w*image_(embed\w*|hidden_states)|encoder_hidden_states_image",
        _tokens(OTHER, (*_IMAGE, "cross_attention_dim"), pooled=True),
    ),
    (r"audio_hidden_states", _tokens(OTHER, _SOUND)),
    (r"audio_encoder_hidden_states", _tokens("T", _SOUND_TEXT)),
    (r"audio_num_frames", _fixed(str(OTHER))),
    (r"(audio_)?encoder_attention_mask|text_mask", _fixed("long(B,T)", "bool(B,T)", "B,T")),
    (r"encoder_attention_mask_\w+", _fixed(f"long(B,{OTHER})", f"bool(B,{OTHER})")),
    (r"attention_mask", _fixed("long(B,F,H,W)", "long(B,F*H*W)")),
    (r"padding_mask|condition_mask", _fixed("1,1,H,W", "B,1,F,H,W")),
    (r"pooled_\w+", lambda facts: [f"B,{width}" for width in facts.widths(_POOLED)]),
    (r"guidance|fps|motion_score|\w*_scale", _fixed("B,", "long(B)", "1")),
    (r"added_time_ids", _time_ids),
    (r"image_latents", _Facts.videos),
    (r"(control|pose|inpaint)_(hidden_states|latents)", _control),
    (r"\w*pixel_values", _pixels),
    (r"visual_rope_pos", _fixed("[arange(F),arange(H//2),arange(W//2)]", "[arange(F),arange(H),arange(W)]")),
    (r"text_rope_pos", _fixed("arange(T)")),
    (r"indices_\w+", _fixed("arange(F)", "long(B,F)")),
)
_ALWAYS = re.compile(r"timesteps?|encoder_hidden_states|num_frames|height|width")
"""given even where they can be left out, as are pictures where there are weights for them: without its text a model may
have other attention"""


def guess(model: nn.Module, config: Mapping[str, Any], given: Mapping[str, str]) -> Guesses:
    """What the arguments of ``model``'s forward may be. ``given`` are as the user says; of those that can be left out,
    most are at first. An argument that must be given and for which no rule holds has no guess at all.
    """
    parameters = [
        each
        for each in inspect.signature(type(model).forward).parameters.values()
        if each.name != "self" and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    facts = _Facts(frozenset(each.name for each in parameters), config, _first_width(model))
    found: Guesses = {}
    for each in parameters:
        if each.name in given:
            found[each.name] = (given[each.name],)
        elif each.name == "return_dict":
            found[each.name] = ("false",)
        else:
            known = next((rule(facts) for pattern, rule in _RULES if re.fullmatch(pattern, each.name)), ())
            if each.default is each.empty:
                found[each.name] = tuple(known)
            elif known:
                wanted = _ALWAYS.fullmatch(each.name) or ("image" in each.name and facts.widths(_IMAGE))
                found[each.name] = (*known, None) if wanted else (None, *known)
    return found


def _first_width(model: nn.Module) -> tuple[int, ...]:
    """Input channels of the first layer that has any, which most often reads the video."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            return (module.in_channels,)
    return ()
