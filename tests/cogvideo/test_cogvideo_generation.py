"""Sampling: rows on their own, the replayed pass, guidance, and frames between frames."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_cogvideo
import torch
from f3core_cogvideo.generation import Sampling, Text, generate_tokens, guided, interpolate_tokens, pick, uniform
from f3core_cogvideo.model import CogVideoTransformer
from f3core_cogvideo.visibility import Sees
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


@pytest.mark.parametrize("pruned", ["no", "self_only", "drop"])
def test_the_replayed_pass_predicts_what_was_drawn(pruned: str) -> None:
    model = model_of()
    for layer in model.transformer.layers[:2]:
        if pruned == "self_only":
            layer.attention_plus.sees = Sees(earlier=False)
        elif pruned == "drop":
            layer.attention_plus = Bypass()
    seen, seeds, sampling = watched(model), [4, 5, 6], Sampling(guidance_scale=2.0, first_guidance_scale=1.0)
    made = generate_tokens(model, texts(3), EMPTY, seeds=seeds, sampling=sampling, replay=True)
    kwargs, logits = seen[-1]
    assert kwargs == {"as_generated": True}
    assert len(seen) == 2 + 5 * 9 - 2 + 1  # two prefills, every token that another follows but the first frame's last
    text, draws = model.config.text, uniform(seeds, 45)
    scales = [1.0] * 9 + [2.0] * 36
    for place, scale in enumerate(scales):
        drawn = pick(guided(logits[:, text - 1 + place], scale, 2), draws[:, place], sampling)
        assert torch.equal(drawn, made.flatten(1)[:, place]), place


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


@pytest.mark.parametrize(("frames", "count"), [(5, 3), (5, 5), (3, 4), (5, 2), (5, 4), (4, 3)])
def test_frames_are_filled_in_between_given_ones(frames: int, count: int) -> None:
    model = model_of(stage=2, window=1, frames=frames)
    given_frames = torch.randint(20, (2, count, 9))
    seen = watched(model)
    clip = interpolate_tokens(model, texts(2), EMPTY, given_frames, seeds=[1, 2], replay=True)
    assert clip.shape == (2, 2 * count - 1, 9)
    assert torch.equal(clip[:, ::2], given_frames)
    replays = [out for kwargs, out in seen if "as_generated" in kwargs]
    draws, sampling = uniform([1, 2], (count - 1) * 9).unflatten(1, (-1, 9)), Sampling()
    stretch = (frames - 1) // 2
    assert len({len(r[0]) for r in replays}) == 1  # one layout
    for number, logits in enumerate(replays):
        for frame in range(1, 2 * min(stretch, count - 1), 2):
            for place in range(9):
                scores = guided(logits[:, 5 - 1 + frame * 9 + place], 3.0, 2)
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
    for stage, window in ((1, -1), (1, 1), (2, 1)):
        model = model_of(stage=stage, window=window, layers=2).to("meta")
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
