"""What `inspect_class` finds in modules made to be strange, and what it says where it finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_inspect_model import lengths
from torch import Tensor, nn

from f3core.errors import ModelError, SpecError
from f3core.inspection.inspect_model import inspect_class
from f3core.sites import AttentionKind, Removal

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
SELF_ONLY, DROP = Removal.SELF_ONLY, Removal.DROP


def attend(query: Tensor, key: Tensor) -> Tensor:
    out = nn.functional.scaled_dot_product_attention(query[:, None], key[:, None], key[:, None])
    return out[:, 0]


class Denoiser(nn.Module):
    """[B, 4, F, H, W] in and out, with whatever `mix` does to tokens [B, F, S, 8] in between."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.mixer = Mixer(self.mix)

    def forward(self, sample: Tensor) -> Tensor:
        tokens = self.inner(sample.flatten(3).permute(0, 2, 3, 1))
        return self.mixer(tokens)

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        raise NotImplementedError


class Mixer(nn.Module):
    def __init__(self, mix: Any) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)
        self._mix = mix

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self._mix(tokens))


class TwoFrames(Denoiser):
    """Frames in the batch, with keys of the first and the previous frame."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        keys = torch.cat([tokens[:, :1].expand_as(tokens), tokens.roll(1, 1)], dim=2)
        return attend(tokens.flatten(0, 1), keys.flatten(0, 1))


class Pooled(Denoiser):
    """Every fourth token of the clip is a key."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        return attend(tokens.flatten(1, 2), tokens[:, :, ::4].flatten(1, 2))


class Windows(Denoiser):
    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        windows = tokens.unflatten(2, (-1, 16)).flatten(0, 2)
        return attend(windows, windows)


class Squares(Denoiser):
    """As many keys as a frame has tokens, squared."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return attend(clip, clip[:, :1].expand(-1, tokens.shape[1] ** 2, -1))


class Picky(Denoiser):
    """Attends to the tokens that it likes."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return attend(clip, clip[:, clip[0, :, 0] > 0])


class Linear(Denoiser):
    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return clip @ (clip.transpose(1, 2) @ clip)


@pytest.mark.parametrize(
    ("model_class", "expected", "kinds", "remark"),
    [
        (TwoFrames, ("B·F", "S", "2·S"), (SA, TA), "every row has keys of 2 frames"),
        (Pooled, ("B", "F·S", "F·S/4"), (SA, TA), "keys are not the tokens that ask"),
        (Windows, ("B·F·S", "16", "16"), (), "windows, or rows or columns"),
        (Squares, ("B", "F·S", "None"), (), "no simple rule"),
    ],
)
def test_strange_attention(
    model_class: type[nn.Module], expected: tuple[str, ...], kinds: tuple[AttentionKind, ...], remark: str
) -> None:
    (group,) = inspect_class(model_class).groups
    assert group.pattern == "mixer"
    assert lengths(group) == [expected]
    assert group.kinds == kinds
    assert remark in group.roles[0].remark


def test_a_forward_that_reads_values_is_computed_on_demand() -> None:
    with pytest.raises(ModelError, match=r"Picky ran; tried: .*ValuesNeeded[\s\S]*give --real"):
        inspect_class(Picky)
    (group,) = inspect_class(Picky, real=True).groups
    assert lengths(group)[0][:2] == ("B", "F·S")


def test_a_model_without_visible_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="its attention is linear or written out"):
        inspect_class(Linear)


class Riddle(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, sample: Tensor, riddle: Tensor, hint: int | None = None) -> Tensor:
        tokens = self.proj(sample.flatten(2).transpose(1, 2))
        return attend(tokens, self.proj(riddle))


def test_what_cannot_be_guessed_is_asked_for_and_can_be_given() -> None:
    with pytest.raises(ModelError, match=r"Riddle.forward needs riddle, .* give --input riddle="):
        inspect_class(Riddle)
    (group,) = inspect_class(Riddle, {}, {"riddle": "B,T,4"}).groups
    assert (group.kinds, lengths(group)) == ((CA,), [("B", "F·S", "T")])
    with pytest.raises(SpecError, match="--input ridle: Riddle"):
        inspect_class(Riddle, {}, {"ridle": "B,T,4"})


def test_where_nothing_runs_the_error_says_what_was_tried() -> None:
    with pytest.raises(ModelError) as caught:
        inspect_class(Riddle, {}, {"riddle": "B,T,5"})
    said = str(caught.value)
    assert "no forward of Riddle ran" in said
    assert "It stopped at: return attend(tokens, self.proj(riddle))" in said
    assert "Tried for those named there: riddle: B,T,5" in said
    assert "--input riddle=..." in said


class Poured(nn.Module):
    """Joint attention whose tokens are written into one tensor, not put together."""

    def __init__(self, text_dim: int = 5) -> None:
        super().__init__()
        self.video, self.text = nn.Linear(4, 8), nn.Linear(text_dim, 8)

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        video, text = self.video(sample.flatten(2).transpose(1, 2)), self.text(encoder_hidden_states)
        both = video.new_zeros(video.shape[0], video.shape[1] + text.shape[1], 8)
        both[:, : text.shape[1]] = text
        both[:, text.shape[1] :] = video
        return attend(both, both)


class Wrapped(Poured):
    """Text on either side of the video."""

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        video, text = self.video(sample.flatten(2).transpose(1, 2)), self.text(encoder_hidden_states)
        both = torch.cat([text, video, text], dim=1)
        return attend(both, both)


def test_the_place_of_text_is_told_only_where_it_was_seen() -> None:
    (group,) = inspect_class(Poured).groups
    assert (group.pattern, group.kinds, lengths(group)) == ("", (CA, SA, TA), [("B", "F·S + T", "F·S + T")])
    assert group.roles[0].keys == "all frames, S tokens each; and text, first or last: look at the processor"
    (group,) = inspect_class(Wrapped).groups
    assert lengths(group) == [("B", "F·S + 2·T", "F·S + 2·T")]
    assert group.roles[0].keys == "text on both sides of all frames, S tokens each"


class Fixed(Denoiser):
    """Takes six frames and no others."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        if tokens.shape[1] != 6:
            raise ValueError("six frames, please")
        return attend(tokens.flatten(1, 2), tokens.flatten(1, 2))


class Odd(Denoiser):
    """Takes 4n + 1 frames, an odd number."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        if tokens.shape[1] % 4 != 1:
            raise ValueError("an odd number, please")
        return attend(tokens.flatten(1, 2), tokens.flatten(1, 2))


def test_a_size_that_cannot_vary_is_noted() -> None:
    (note,) = inspect_class(Fixed).notes
    assert note.startswith("F (latent frames) could not be varied")
    assert note.endswith("ValueError: six frames, please")


def test_sizes_that_a_model_takes_can_be_given() -> None:
    with pytest.raises(ModelError, match="an odd number, please"):
        inspect_class(Odd)
    found = inspect_class(Odd, sizes={"F": 5})
    assert (found.sizes["F"], found.notes) == (5, ())
    assert lengths(found.groups[0]) == [("B", "F·S", "F·S")]


def test_constructors_are_checked() -> None:
    with pytest.raises(SpecError, match=r"--config widht: Riddle has no such argument; did you mean 'width'"):
        inspect_class(Riddle, {"widht": 3})
    with pytest.raises(ModelError, match=r"Riddle could not be built with width=-1: .* give its constructor arguments"):
        inspect_class(Riddle, {"width": -1})
