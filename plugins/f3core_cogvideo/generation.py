"""Sampling token by token: clips from text (stage 1), and frames between given ones (stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from f3core.errors import ModelError
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import given as given_frame


@dataclass(frozen=True)
class Text:
    """A tokenised prompt a row: ``ids`` int64 [B, T], and ``mask`` [B, T], 0 at padding."""

    ids: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. ``top_k`` None: among all. ``guidance_scale`` 1: the caption's own distribution.

    The first frame has a scale of its own, ``first_guidance_scale``: the published code draws it unguided.
    """

    guidance_scale: float = 3.0
    temperature: float = 1.05
    top_k: int | None = 12
    first_guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ModelError(f"temperature {self.temperature} must be positive")
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k {self.top_k} must be at least 1")


def pick(logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
    """Tokens [B] from ``logits`` [B, V] by inverse distribution function at ``draws`` [B] in [0, 1).

    Candidates keep the order of the vocabulary, so that rounding cannot make one draw jump between likely ones.
    """
    scaled = logits.double() / sampling.temperature
    kept = min(sampling.top_k or scaled.shape[1], scaled.shape[1])
    tokens = scaled.topk(kept, dim=1).indices.sort(dim=1).values
    below = scaled.gather(1, tokens).softmax(1).cumsum(1)
    place = (below <= draws[:, None].to(below)).sum(1, keepdim=True).clamp(max=kept - 1)
    return tokens.gather(1, place)[:, 0]


def guided(logits: Tensor, scale: float, branches: int) -> Tensor:
    """[B, V] from rows stacked [captioned; uncaptioned]: uncaptioned + scale · (captioned − uncaptioned)."""
    if branches == 1:
        return logits
    captioned, uncaptioned = logits.float().chunk(2)
    return uncaptioned + scale * (captioned - uncaptioned)


def uniform(seeds: Sequence[int], count: int) -> Tensor:
    """Random numbers in [0, 1), float64 [B, count], on the CPU: row i depends on ``seeds[i]`` alone."""
    drawn = [torch.rand(count, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(drawn)


@torch.no_grad()
def generate_tokens(
    model: CogVideoTransformer,
    text: Text,
    empty: Text,
    *,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    frames: int | None = None,
    replay: bool = False,
) -> Tensor:
    """Clips as tokens, int64 [B, F, S], of stage 1.

    The first frame comes from passes without the temporal channel; text and first frame are then run again with it, and
    all later frames follow. ``empty`` is the tokenised empty prompt, one row. ``frames``: those of the config when
    None. ``replay``: end with the same once more, a forward a frame: of the first frame without the temporal channel,
    of text and first frame with it, of every later frame, each in as many branches as it was drawn from. Raises
    `ModelError` for a stage 2 model or texts of another length.
    """
    config, sampling = model.config, sampling or Sampling()
    if config.stage != 1:
        raise ModelError("only stage 1 makes clips from text; stage 2 fills in frames: see interpolate_tokens")
    frames = config.frames if frames is None else frames
    if not 1 <= frames <= config.frames:
        raise ModelError(f"{frames} frames: the model makes 1 to {config.frames}")
    first = Run(model, text, empty, sampling, sampling.first_guidance_scale)
    later = Run(model, text, empty, sampling, sampling.guidance_scale) if frames > 1 else first
    size = config.tokens
    draws = uniform(seeds, frames * size).to(model.device)
    cache = KVCache(config, frames)
    logits = first.forward(first.text, first.positions(), cache, temporal=False)
    made = [first.frame(logits, 0, draws[:, :size], cache, temporal=False)]
    if frames > 1:
        cache = KVCache(config, frames)
        logits = later.forward(later.with_text(made[0][:, None]), later.positions(0), cache)
    for number in range(1, frames):
        made.append(later.frame(logits, number, draws[:, number * size : (number + 1) * size], cache))
        if number + 1 < frames:
            logits = later.finish(made[-1], number, cache, logits)
    clip = torch.stack(made, dim=1)
    if replay:
        first.replay(clip, temporal=False)
        if frames > 1:
            later.replay(clip)
    return clip


@torch.no_grad()
def interpolate_tokens(
    model: CogVideoTransformer,
    text: Text,
    empty: Text,
    given: Tensor,
    *,
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    replay: bool = False,
) -> Tensor:
    """Frames between all ``given`` ones, [B, N, S] tokens to [B, 2N − 1, S], of stage 2.

    More frames than the model takes at once are filled in stretch by stretch, each beginning with the frame that ends
    the one before; applied again and again this makes 5, 9, 17, 33 frames. ``replay`` ends every stretch with the
    same once more, one forward of the given frames and one of every other. Raises `ModelError` for a stage 1 model and
    for fewer than two frames.
    """
    config, sampling = model.config, sampling or Sampling()
    if config.stage != 2:
        raise ModelError("only stage 2 fills in frames; stage 1 makes clips from text: see generate_tokens")
    batch, count, size = given.shape
    if count < 2 or size != config.tokens or config.frames < 3:
        raise ModelError(f"{count} frames of {size} tokens: at least two of {config.tokens} are needed")
    run = Run(model, text, empty, sampling, sampling.guidance_scale)
    draws = uniform(seeds, (count - 1) * size).to(model.device).unflatten(1, (-1, size))
    clip = given.new_empty(batch, 2 * count - 1, size)
    clip[:, ::2] = given
    for start, end in stretches(config, count):
        part = _fill(run, given[:, start : end + 1], draws[:, start:end], replay)
        clip[:, 2 * start : 2 * end + 1] = part
    return clip


def stretches(config: CogVideoConfig, count: int) -> list[tuple[int, int]]:
    """First and last of the given frames of each sequence into which ``count`` given ones are cut."""
    size = (config.frames - 1) // 2
    return [(start, min(start + size, count - 1)) for start in range(0, count - 1, size)]


def _fill(run: Run, given: Tensor, draws: Tensor, replay: bool) -> Tensor:
    """[B, N, S] given frames that fit into one sequence to [B, 2N − 1, S]."""
    frames = 2 * given.shape[1] - 1
    cache = KVCache(run.model.config, frames)
    even = range(0, frames, 2)
    size = given.shape[2]
    # where no frame has a start of its own, the last slot of the frame before it predicts its first token
    known = run.forward(run.with_text(given), run.positions(*even), cache, last=False)
    ends = known[:, run.model.config.text :].unflatten(1, (-1, size))[:, :, -1]
    clip = given.new_empty(given.shape[0], frames, size)
    clip[:, ::2] = given
    for place, number in enumerate(range(1, frames, 2)):
        clip[:, number] = run.frame(ends[:, place], number, draws[:, place], cache)
        if number + 2 < frames:  # frames to come see its last token, too
            run.finish(clip[:, number], number, cache, ends[:, place])
    if replay:
        run.replay(clip)
    return clip


class Run:
    """Forwards under one guidance ``scale``. Rows are stacked [captioned; uncaptioned], the latter unless it is 1."""

    def __init__(self, model: CogVideoTransformer, text: Text, empty: Text, sampling: Sampling, scale: float) -> None:
        self.model = model
        self.sampling = sampling
        self.scale = scale
        self.branches = 1 if scale == 1 else 2
        self.usual = model.usual_positions(1, model.config.layout[2])
        rows = len(text.ids)
        for ids in (text.ids, empty.ids):
            if ids.shape[1] != model.config.text:
                raise ModelError(f"texts must have {model.config.text} tokens, not {ids.shape[1]}")
        ids, mask = text.ids, text.mask
        if self.branches == 2:
            ids = torch.cat([ids, empty.ids.expand(rows, -1)])
            mask = torch.cat([mask, empty.mask.expand(rows, -1)])
        self.text = ids.to(model.device)
        self.mask = mask.to(model.device)[:, None, None].bool()

    def both(self, ids: Tensor) -> Tensor:
        """[B, n] for every branch."""
        return ids.repeat(self.branches, 1)

    def with_text(self, frames: Tensor) -> Tensor:
        """Text and whole frames [B, F, S], for every branch."""
        return torch.cat([self.text, self.both(self.model.fed(frames))], dim=1)

    def positions(self, *numbers: int) -> Tensor:
        """Of the text and whole frames ``numbers``, [1, T + F·S]."""
        text, size = self.model.config.text, self.model.config.tokens
        frames = [self.usual[:, text + n * size : text + (n + 1) * size] for n in numbers]
        return torch.cat([self.usual[:, :text], *frames], dim=1)

    def position(self, number: int, place: int) -> Tensor:
        """Of one slot of a frame, [1, 1]."""
        return self.usual[:, self.model.config.text + number * self.model.config.tokens + place, None]

    def forward(
        self, ids: Tensor, positions: Tensor, cache: KVCache, *, temporal: bool = True, last: bool = True
    ) -> Tensor:
        """Logits, of the last place [B·branches, V] or of all."""
        rows = positions.expand(len(ids), -1)
        logits = self.model(ids, rows, self.mask, temporal=temporal, cache=cache)
        return logits[:, -1] if last else logits

    def frame(self, logits: Tensor, number: int, draws: Tensor, cache: KVCache, *, temporal: bool = True) -> Tensor:
        """The tokens [B, S] of a frame; ``logits`` predict its first one unless it has a start of its own.

        Its last token is not run.
        """
        start, tokens = self.model.config.start_of_image, list[Tensor]()
        if start is not None:
            ids = torch.full_like(self.text[:, :1], start)
            logits = self.forward(ids, self.position(number, 0), cache, temporal=temporal)
        for place in range(self.model.config.tokens):
            tokens.append(pick(guided(logits, self.scale, self.branches), draws[:, place], self.sampling)[:, None])
            if place + 1 < self.model.config.tokens:
                slot = place if start is None else place + 1
                logits = self.forward(self.both(tokens[-1]), self.position(number, slot), cache, temporal=temporal)
        return torch.cat(tokens, dim=1)

    def finish(self, tokens: Tensor, number: int, cache: KVCache, logits: Tensor) -> Tensor:
        """Run the last token of a frame, [B, S], where a slot is fed it, for frames to come; the newest logits."""
        if self.model.config.start_of_image is not None:
            return logits
        return self.forward(self.both(tokens[:, -1:]), self.position(number, self.model.config.tokens - 1), cache)

    def replay(self, clip: Tensor, *, temporal: bool = True) -> None:
        """The forwards that make a clip [B, F, S] that is there already, a frame at once.

        The first one takes the text with all given frames, or with the first frame. It is the only one without the
        temporal channel, where that frame alone is made.
        """
        cache = KVCache(self.model.config, clip.shape[1], replay=True)
        known = [n for n in cache.order if given_frame(self.model.config.stage, n)] or [0]
        self.forward(self.with_text(clip[:, known]), self.positions(*known), cache, temporal=temporal)
        for number in cache.order[len(known) :] if temporal else ():
            ids = self.both(self.model.fed(clip[:, number, None]))
            place = self.model.config.text + number * self.model.config.tokens
            self.forward(ids, self.usual[:, place : place + self.model.config.tokens], cache)
