"""ToMeSD: its own form is that of the published package; on keys, destinations are one of each cell of a clip."""

from __future__ import annotations

import pytest
import torch
from f3core_tokens.cells import clip_splits, grid_splits
from f3core_tokens.tomesd import ToMeSDMerger, ToMeSDReducer
from hypothesis import given, settings
from hypothesis import strategies as st
from token_strategies import Call, calls
from tomesd.merge import bipartite_soft_matching_random2d

from f3core.reduction import Places

CPU = torch.device("cpu")
grids = st.tuples(st.integers(2, 9), st.integers(2, 9))
quick = settings(deadline=None, max_examples=40)


@quick
@given(grids, st.integers(1, 3), st.integers(0, 2**31), st.floats(0, 1))
def test_merges_and_unmerges_as_the_published_package(
    grid: tuple[int, int], rows: int, seed: int, share: float
) -> None:
    high, across = grid
    count = high * across
    destinations = (high // 2) * (across // 2)
    keep = destinations + int(share * (count - destinations))
    tokens = torch.randn(rows, count, 6, generator=torch.Generator().manual_seed(seed + 1))
    theirs, theirs_back = bipartite_soft_matching_random2d(
        tokens, across, high, 2, 2, count - keep, generator=torch.Generator().manual_seed(seed)
    )
    ours, back = ToMeSDMerger(seed).merge(tokens, grid, keep)
    assert ours.shape == (rows, keep, 6)
    # Theirs lie in an order that an unstable sort decides, so it is what comes back that is compared, through a module
    # that does something to each token, with an output of another width.
    module = torch.nn.Linear(6, 4)
    torch.testing.assert_close(back(module(ours)), theirs_back(module(theirs(tokens))))


@quick
@given(st.tuples(st.integers(1, 7), st.integers(1, 7)), st.integers(0, 99), st.data())
def test_any_number_of_tokens_can_be_kept(grid: tuple[int, int], seed: int, data: st.DataObject) -> None:
    """Further passes: what comes out is the mean of the tokens it is copied back to."""
    count = grid[0] * grid[1]
    keep = data.draw(st.integers(1, count))
    tokens = torch.randn(2, count, 5, generator=torch.Generator().manual_seed(seed))
    merged, back = ToMeSDMerger(seed).merge(tokens, grid, keep)
    assert merged.shape == (2, keep, 5)
    home = back(torch.arange(float(keep)).expand(2, -1)[..., None])[..., 0].long()  # where each token went
    for row in range(2):
        for place in range(keep):
            torch.testing.assert_close(merged[row, place], tokens[row, home[row] == place].mean(0))


def test_a_frame_that_keeps_all_is_left_alone() -> None:
    tokens = torch.randn(1, 6, 2)
    merged, back = ToMeSDMerger(0).merge(tokens, (2, 3), 6)
    assert torch.equal(merged, tokens)
    assert torch.equal(back(merged), tokens)


def test_identical_tokens_come_back_as_they_were() -> None:
    tokens = torch.arange(4.0).repeat_interleave(4)[None, :, None].expand(1, 16, 3) + 1
    grid_of_cells = tokens.view(1, 2, 2, 2, 2, 3).transpose(2, 3).reshape(1, 16, 3)  # each 2 x 2 cell of one value
    tokens = torch.nn.functional.one_hot(grid_of_cells[..., 0].long() - 1).float()
    merged, back = ToMeSDMerger(5).merge(tokens, (4, 4), 4)
    assert torch.equal(back(merged), tokens)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_merges_on_meta_and_in_any_dtype(dtype: torch.dtype) -> None:
    merger = ToMeSDMerger(0)
    for keep in (1, 3, 7, 14):
        real, back = merger.merge(torch.randn(2, 15, 4).to(dtype), (3, 5), keep)
        meta, meta_back = merger.merge(torch.empty(2, 15, 4, dtype=dtype, device="meta"), (3, 5), keep)
        assert (real.shape, real.dtype) == (meta.shape, meta.dtype) == ((2, keep, 4), dtype)
        assert back(real).shape == meta_back(meta).shape == (2, 15, 4)


def test_rows_merge_for_themselves_and_draws_are_alike() -> None:
    tokens = torch.randn(3, 30, 4)
    merger = ToMeSDMerger(2)
    whole, _ = merger.merge(tokens, (5, 6), 11)
    for row in range(3):
        torch.testing.assert_close(ToMeSDMerger(2).merge(tokens[row : row + 1], (5, 6), 11)[0][0], whole[row])
    assert torch.equal(merger.merge(tokens, (5, 6), 11)[0], whole)
    assert not torch.equal(ToMeSDMerger(3).merge(tokens, (5, 6), 11)[0], whole)


# --- which tokens are destinations ----------------------------------------------------------------------------------


@quick
@given(calls, st.integers(0, 99))
def test_each_cell_of_a_frame_has_one_destination(call: Call, seed: int) -> None:
    places = call.places()
    splits = clip_splits(places, seed, CPU)
    cells = [
        (f // 4, 0, 0) if call.grid == (1, 1) else (f, r // 2, c // 2)
        for f, r, c in zip(places.frame.tolist(), places.row.tolist(), places.column.tolist(), strict=True)
    ]
    first = splits[0]
    assert sorted(cells[i] for i in first.destinations.tolist()) == sorted(set(cells))
    _chain_holds(splits, call.keys)


@quick
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda grid: grid != (1, 1)), st.integers(0, 99))
def test_each_whole_cell_of_a_grid_has_one_destination(grid: tuple[int, int], seed: int) -> None:
    high, across = (min(2, side) for side in grid)
    splits = grid_splits(*grid, seed, CPU)
    cells = [(i // grid[1] // high, i % grid[1] // across) for i in splits[0].destinations.tolist()]
    assert sorted(cells) == [(a, b) for a in range(grid[0] // high) for b in range(grid[1] // across)]
    _chain_holds(splits, grid[0] * grid[1])


def _chain_holds(splits: list, count: int) -> None:
    """Each pass splits what the one before it left, until one token is left."""
    for split in splits:
        both = torch.cat([split.sources, split.destinations])
        assert sorted(both.tolist()) == list(range(count))
        assert torch.equal(both[split.inverse], torch.arange(count))
        assert len(split.sources) > 0
        count = len(split.destinations)
    assert count == 1


def test_every_token_of_a_cell_may_be_the_destination() -> None:
    places = Call(1, 1, 1, 2, (2, 2), 0).places()
    drawn = [clip_splits(places, seed, CPU)[0].destinations.tolist() for seed in range(80)]
    for cell in range(2):
        counts = [sum(4 * cell + i in one for one in drawn) for i in range(4)]
        assert min(counts) >= 8  # 20 expected


def test_frames_of_one_token_have_cells_of_four_frames() -> None:
    frame = torch.tensor([7, 1, 2, 3, 4, 5])  # the fifth and sixth in the order of time are 5 and 7
    places = Places(frame, torch.full((6,), 3), torch.full((6,), 9))
    first = clip_splits(places, 0, CPU)[0].destinations
    assert sorted(int(f) > 4 for f in frame[first]) == [False, True]


def test_keys_far_apart_still_meet() -> None:
    places = Places(torch.tensor([0, 0, 0]), torch.tensor([0, 40, 41]), torch.tensor([3, 0, 90]))
    _chain_holds(clip_splits(places, 0, CPU), 3)


# --- on keys --------------------------------------------------------------------------------------------------------


@quick
@given(calls, st.data())
def test_keys_merge_into_the_most_similar_destination(call: Call, data: st.DataObject) -> None:
    """One pass, in loops."""
    places, (query, key, value) = call.places(), call.tensors()
    split = clip_splits(places, 3, CPU)[0]
    sources, destinations = split.sources.tolist(), split.destinations.tolist()
    keep = data.draw(st.integers(len(destinations), call.keys - 1))
    found = ToMeSDReducer(3).reduce(query, key, value, places, 0.5, keep)
    assert found.bias is None
    for row in range(call.rows):
        keys = key[row].transpose(0, 1).flatten(1).double()
        unit = keys / keys.norm(dim=-1, keepdim=True)
        cosine = (unit @ unit.T).tolist()
        best = {i: max(destinations, key=lambda j: cosine[i][j]) for i in sources}
        order = sorted(sources, key=lambda i: -cosine[i][best[i]])
        going, staying = order[: call.keys - keep], order[call.keys - keep :]
        groups = [[i] for i in staying] + [[j, *(i for i in going if best[i] == j)] for j in destinations]
        for one, tokens in ((found.key, key), (found.value, value)):
            expected = torch.stack([tokens[row][:, group].mean(1) for group in groups], dim=1)
            torch.testing.assert_close(one[row], expected, atol=1e-5, rtol=1e-4)


def test_draws_are_made_once_for_each_seed() -> None:
    call = Call(2, 2, 3, 3, (4, 4), seed=1)
    places, tensors = call.places(), call.tensors()
    one = ToMeSDReducer(1).reduce(*tensors, places, 0.5, 20)
    kept = dict(places.kept)
    assert len(kept) == 1
    again = ToMeSDReducer(1).reduce(*tensors, places, 0.5, 30)
    assert again.key.shape[2] == 30
    assert places.kept == kept
    other = ToMeSDReducer(2).reduce(*tensors, places, 0.5, 20)
    assert len(places.kept) == 2
    assert not torch.equal(one.key, other.key)
