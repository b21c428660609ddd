"""What a training draws: epochs without repeats, and rows that draw the same however a batch is shared."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.distillation.draws import Draws, epoch, key, visited

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(0, 50), st.integers(1, 60))
def test_an_epoch_visits_every_clip_once(seed: int, number: int, clips: int) -> None:
    assert sorted(epoch(seed, number, clips)) == list(range(clips))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    assert len({epoch(0, 0, 30), epoch(0, 1, 30), epoch(1, 0, 30)}) == 3


@given(seeds, st.integers(1, 20), st.integers(1, 12), st.integers(1, 8))
def test_batches_go_through_epochs_one_after_the_other(seed: int, clips: int, batch: int, epochs: int) -> None:
    steps = -(-clips * epochs // batch)
    found = [clip for step in range(1, steps + 1) for clip in visited(seed, clips, batch, step, range(batch))]
    for number in range(epochs):
        assert tuple(found[number * clips : (number + 1) * clips]) == epoch(seed, number, clips)


@given(seeds, st.integers(1, 1000), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_rows_draw_the_same_however_a_batch_is_parted(seed: int, step: int, parts: int) -> None:
    like = torch.zeros(12, 3, 2)
    whole = Draws(seed, step, range(12))
    share = 12 // parts
    parted = [Draws(seed, step, range(first, first + share)) for first in range(0, 12, share)]
    noise = torch.cat([each.normal("noise", like[:share]) for each in parted])
    assert torch.equal(noise, whole.normal("noise", like))
    assert torch.equal(torch.cat([each.uniform("level") for each in parted]), whole.uniform("level"))
    clips = [clip for each in parted for clip in visited(seed, 7, 12, step, each.rows)]
    assert clips == visited(seed, 7, 12, step, range(12))


def test_seed_step_row_and_purpose_each_draw_something_else() -> None:
    places = [(0, 1, 0, "a"), (1, 1, 0, "a"), (0, 2, 0, "a"), (0, 1, 1, "a"), (0, 1, 0, "b")]
    assert len({key(*place) for place in places}) == len(places)
    drawn = {float(Draws(seed, step, [row]).uniform(purpose)) for seed, step, row, purpose in places}
    assert len(drawn) == len(places)


@settings(max_examples=5)
@given(seeds)
def test_draws_are_what_they_are_called(seed: int) -> None:
    draws = Draws(seed, 1, range(50))
    normal, uniform = draws.normal("a", torch.zeros(50, 200)), draws.uniform("b")
    assert abs(float(normal.mean())) < 0.06
    assert abs(float(normal.std()) - 1) < 0.06
    assert 0 <= float(uniform.min()) < 0.3 < 0.7 < float(uniform.max()) < 1


def test_what_modules_draw_of_torch_itself_is_seeded_too() -> None:
    def drawn(step: int, row: int) -> float:
        Draws(0, step, range(row, row + 2)).seed_torch()
        return float(torch.rand(()))

    assert drawn(3, 0) == drawn(3, 0)
    assert len({drawn(3, 0), drawn(3, 2), drawn(4, 0)}) == 3
