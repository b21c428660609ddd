"""Sampling: rows on their own, the replayed pass, guidance, and frames between frames."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cogvideo
import torch
from f3core_cogvideo.generation import Sampling, Text, generate_tokens, guided, interpolate_tokens, pick, uniform
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import Sees
from f3core_cogvideo.visibility import given as given_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.attention import Bypass
from f3core.errors import ModelError

EMPTY = Text(torch.tensor([[20, 20, 20, 20, 21]]), torch.tensor([[0, 0, 0, 0, 1]]))


def texts(rows: int) -> Text:
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[1:2, :2] = 0
    return Text(torch.randint(20, 30, (rows, 5), generator=torch.Generator().manual_seed(0)), mask)


def watched(model: CogVideoTransformer) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Fills with (keyword arguments, logits) of every forward to come."""
    seen: list[tuple[dict[str, Any], torch.Tensor]] = []
    model.register_forward_hook(lambda _m, _args, kwargs, out: seen.append((kwargs, out)), with_kwargs=True)
    return seen


def model_of(**changes: Any) -> CogVideoTransformer:
    torch.manual_seed(0)
    return tiny_cogvideo.transformer(std=0.15, **changes)


def replays(seen: list[tuple[dict[str, Any], torch.Tensor]]) -> list[list[tuple[dict[str, Any], torch.Tensor]]]:
    """Those forwards that repeat others, by cache."""
    found: dict[int, list[tuple[dict[str, Any], torch.Tensor]]] = {}
    for kwargs, out in seen:
        if kwargs["cache"].replay:
            found.setdefault(id(kwargs["cache"]), []).append((kwargs, out))
    return list(found.values())


@pytest.mark.parametrize("start", [None, 29])
@pytest.mark.parametrize("pruned", ["no", "self_only", "drop"])
def test_replayed_frames_predict_what_was_drawn(pruned: str, start: int | None) -> None:
    model = model_of(start_of_image=start)
    for layer in model.transformer.layers[:2]:
        if pruned == "self_only":
            layer.attention_plus.sees = Sees(earlier=False)
        elif pruned == "drop":
            layer.attention_plus = Bypass()
    seen, seeds, sampling = watched(model), [4, 5, 6], Sampling(guidance_scale=2.0, first_guidance_scale=1.0)
    made = generate_tokens(model, texts(3), EMPTY, seeds=seeds, sampling=sampling, replay=True)
    alone, together = replays(seen)
    assert [kwargs["temporal"] for kwargs, _ in (*alone, *together)] == [False, *[True] * 5]
    # two prefills; of tokens, every start, and every one that another follows but the first frame's last
    assert len(seen) - 6 == 2 + 5 * 9 - (2 if start is None else 0)
    first, later = (torch.cat([out for _, out in forwards], dim=1) for forwards in (alone, together))
    text, draws = model.config.text + (start is not None), uniform(seeds, 45)
    for place in range(45):
        logits, scale, branches = (first, 1.0, 1) if place < 9 else (later, 2.0, 2)
        drawn = pick(guided(logits[:, text - 1 + place], scale, branches), draws[:, place], sampling)
        assert torch.equal(drawn, made.flatten(1)[:, place]), place


def best(
    model: CogVideoTransformer, text: Text, clip: torch.Tensor, frame: int, place: int, scale: float, *, temporal: bool
) -> torch.Tensor:
    """How far every token of a place falls short of the best one there: [B, V], by one forward over everything, of
    which all that generation has yet to make is zero."""
    sizes, rows = model.config, len(clip)
    known = clip.clone()
    known[:, frame, place:] = 0
    for other in range(sizes.frames):
        if other > frame and not given_frame(sizes.stage, other):
            known[:, other] = 0
    start = sizes.start_of_image
    slots = known.flatten(1)
    if start is not None:
        slots = torch.cat([torch.full((rows, sizes.frames, 1), start), known[:, :, :-1]], dim=2).flatten(1)
    ids = torch.cat([torch.cat([words.ids.expand(rows, -1), slots], dim=1) for words in (text, EMPTY)])
    mask = torch.cat([words.mask.expand(rows, -1) for words in (text, EMPTY)])
    logits = model(ids, model.usual_positions(*ids.shape), mask[:, None, None], temporal=temporal)
    at = sizes.text + frame * sizes.tokens + place - (start is None)
    captioned, uncaptioned = logits[:, at].chunk(2)
    scores = uncaptioned + scale * (captioned - uncaptioned)
    return scores.amax(1, keepdim=True) - scores


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from((None, 29)),
    st.sampled_from(((1, -1), (1, 2), (2, -1), (2, 1), (2, 2))),
    st.sampled_from((1.0, 2.0)),
    st.sampled_from((1.0, 3.0)),
    st.integers(0, 99),
)
@torch.no_grad()
def test_generation_from_a_cache_is_that_of_whole_forwards(
    start: int | None, kind: tuple[int, int], first: float, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    stage, window = kind
    model = tiny_cogvideo.transformer(stage=stage, window=window, tokens=4, start_of_image=start, layers=2)
    text, sampling = texts(2), Sampling(scale, top_k=1, first_guidance_scale=first)
    if stage == 1:
        clip = generate_tokens(model, text, EMPTY, seeds=[1, 2], sampling=sampling)
    else:
        frames = torch.randint(20, (2, 3, 4))
        clip = interpolate_tokens(model, text, EMPTY, frames, seeds=[1, 2], sampling=sampling)
    for frame in range(5):
        for place in range(4):
            if not given_frame(stage, frame):
                alone = stage == 1 and frame == 0
                short = best(model, text, clip, frame, place, first if alone else scale, temporal=not alone)
                assert short.gather(1, clip[:, frame, place, None]).max() < 1e-3, (frame, place)


def test_a_row_does_not_depend_on_its_batch() -> None:
    model, text = model_of(), texts(4)
    together = generate_tokens(model, text, EMPTY, seeds=[7, 8, 9, 7])
    for row, seed in enumerate([7, 8, 9, 7]):
        alone = generate_tokens(model, Text(text.ids[row : row + 1], text.mask[row : row + 1]), EMPTY, seeds=[seed])
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(together[0], together[1])


def test_fewer_frames_begin_the_same() -> None:
    model = model_of()
    made = [generate_tokens(model, texts(2), EMPTY, seeds=[1, 2], frames=n) for n in (1, 2, 5)]
    assert [m.shape[1] for m in made] == [1, 2, 5]
    assert torch.equal(made[0], made[1][:, :1])
    assert torch.equal(made[1][0, 0], made[2][0, 0])


def test_without_guidance_there_is_one_branch() -> None:
    model = model_of()
    seen = watched(model)
    generate_tokens(model, texts(2), EMPTY, seeds=[1, 2], sampling=Sampling(guidance_scale=1.0))
    assert {len(out) for _, out in seen} == {2}


@pytest.mark.parametrize(("first", "later"), [(1.0, 3.0), (3.0, 1.0), (3.0, 3.0)])
def test_only_guided_frames_have_two_branches(first: float, later: float) -> None:
    model = model_of()
    seen = watched(model)
    sampling = Sampling(later, first_guidance_scale=first)
    generate_tokens(model, texts(2), EMPTY, seeds=[1, 2], sampling=sampling, replay=True)
    rows = {temporal: {len(out) for kw, out in seen if kw.get("temporal") is temporal} for temporal in (False, True)}
    assert rows == {False: {2 if first == 1 else 4}, True: {2 if later == 1 else 4}}


def test_the_first_frame_is_unguided_by_default() -> None:
    assert Sampling().first_guidance_scale == 1.0


@pytest.mark.parametrize("start", [None, 29])
@pytest.mark.parametrize(("frames", "count"), [(5, 3), (5, 5), (3, 4), (5, 2), (5, 4), (4, 3)])
def test_frames_are_filled_in_between_given_ones(frames: int, count: int, start: int | None) -> None:
    model = model_of(stage=2, window=1, frames=frames, start_of_image=start)
    given_frames = torch.randint(20, (2, count, 9))
    seen = watched(model)
    clip = interpolate_tokens(model, texts(2), EMPTY, given_frames, seeds=[1, 2], replay=True)
    assert clip.shape == (2, 2 * count - 1, 9)
    assert torch.equal(clip[:, ::2], given_frames)
    draws, sampling = uniform([1, 2], (count - 1) * 9).unflatten(1, (-1, 9)), Sampling()
    stretch = (frames - 1) // 2
    assert len(replays(seen)) == -(-(count - 1) // stretch)
    for number, forwards in enumerate(replays(seen)):
        order = forwards[0][0]["cache"].order
        made = torch.cat([out for _, out in forwards], dim=1)[:, 5:].unflatten(1, (-1, 9))
        logits = made[:, [order.index(frame) for frame in range(len(order))]].flatten(1, 2)
        for frame in range(1, len(order), 2):
            for place in range(9):
                scores = guided(logits[:, frame * 9 + place - (start is None)], 3.0, 2)
                chosen = pick(scores, draws[:, number * stretch + frame // 2, place], sampling)
                assert torch.equal(chosen, clip[:, 2 * number * stretch + frame, place])


def test_interpolating_again_and_again_doubles_the_rate() -> None:
    model, clip, lengths = model_of(stage=2, layers=1), torch.randint(20, (1, 3, 9)), []
    for _ in range(3):
        clip = interpolate_tokens(model, texts(1), EMPTY, clip, seeds=[1])
        lengths.append(clip.shape[1])
    assert lengths == [5, 9, 17]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(1, 14), st.floats(0, 0.999), st.floats(0.1, 3))
def test_pick_inverts_the_distribution_of_the_best(vocab: int, top: int, draw: float, temperature: float) -> None:
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(vocab))
    chosen = int(pick(logits, torch.tensor([draw]), Sampling(temperature=temperature, top_k=top)))
    best = logits[0].argsort(descending=True)[:top].tolist()
    assert chosen in best
    weights = (logits[0].double() / temperature).exp()
    total = weights[best].sum()
    below = sum(weights[i] for i in best if i < chosen) / total
    assert below - 1e-6 <= torch.tensor(draw).double() <= below + weights[chosen] / total + 1e-6


def test_generation_runs_where_the_model_is_and_reads_no_value() -> None:
    text = texts(2)
    for stage, window, start in ((1, -1, None), (1, 1, 29), (2, 1, None), (2, 1, 29)):
        model = model_of(stage=stage, window=window, start_of_image=start, layers=2).to("meta")
        if stage == 1:
            made = generate_tokens(model, text, EMPTY, seeds=[1, 2], replay=True)
        else:
            made = interpolate_tokens(model, text, EMPTY, torch.zeros(2, 3, 9).long().to("meta"), seeds=[1, 2])
        assert made.is_meta
        assert made.shape == (2, 5, 9)


def test_draws_are_those_of_the_seed() -> None:
    assert torch.equal(uniform([3, 4], 10)[1], uniform([4], 10)[0])


def test_what_makes_no_sense_is_named() -> None:
    first, second = model_of(layers=1), model_of(layers=1, stage=2)
    with pytest.raises(ModelError, match="temperature 0 must be positive"):
        Sampling(temperature=0)
    with pytest.raises(ModelError, match="top_k 0 must be at least 1"):
        Sampling(top_k=0)
    with pytest.raises(ModelError, match="only stage 1"):
        generate_tokens(second, texts(1), EMPTY, seeds=[1])
    with pytest.raises(ModelError, match="only stage 2"):
        interpolate_tokens(first, texts(1), EMPTY, torch.zeros(1, 3, 9).long(), seeds=[1])
    with pytest.raises(ModelError, match="6 frames: the model makes 1 to 5"):
        generate_tokens(first, texts(1), EMPTY, seeds=[1], frames=6)
    with pytest.raises(ModelError, match="1 frames of 9 tokens: at least two of 9"):
        interpolate_tokens(second, texts(1), EMPTY, torch.zeros(1, 1, 9).long(), seeds=[1])
    short = Text(EMPTY.ids[:, :4], EMPTY.mask[:, :4])
    with pytest.raises(ModelError, match="texts must have 5 tokens, not 4"):
        generate_tokens(first, short, EMPTY, seeds=[1])
