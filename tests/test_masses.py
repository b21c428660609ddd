"""What stands together as a layer, and sums and shares of mass over layers, steps and frame distances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from f3core.masses import blocks, masses, short, temporal_maps
from f3core.scores import PromptScores, Scores, ScoresHeader
from f3core.sites import KINDS, AttentionKind, PruningAxis

CA, SA, TA = range(3)


def one_block_each(layers: int = 3, steps: int = 2, frames: int = 3) -> Scores:
    """Layers of two sites: attn1 pays SA and TA, attn2 text only. 2 heads, 10 queries a step."""
    names = [f"net.blocks.{i}.attn{j}" for i in range(layers) for j in (1, 2)]
    mass, queries = np.zeros((len(names), steps, 2, 3)), np.full((len(names), steps), 10.0)
    for i in range(layers):
        mass[2 * i, ..., TA] = 1 + i
        mass[2 * i, ..., SA] = 9 - i
        mass[2 * i + 1, ..., CA] = 10
    maps = np.zeros((len(names), frames, frames + 1))
    maps[::2, :, :-1] = 1.0
    maps[1::2, :, -1] = 1.0
    places = tuple(i for i in range(layers) for _ in range(2))
    header = ScoresHeader(
        adapter="tiny",
        sites=tuple(names),
        heads=(2,) * len(names),
        levels=(900.0, 20.0),
        passes={"net": {"forward": (2, 2)}},
        drift_target=KINDS[TA],
        layers=places,
    )
    return Scores(header, {0: PromptScores(mass, queries, queries, queries, maps)})


def test_sites_of_one_layer_stand_together() -> None:
    header = one_block_each().header
    together = blocks(header)
    assert together == {"net.blocks.0": [0, 1], "net.blocks.1": [2, 3], "net.blocks.2": [4, 5]}
    assert short(list(together)) == ["0", "1", "2"]
    apart = blocks(replace(header, layers=()))
    assert list(apart) == list(header.sites)
    assert short(list(apart))[:2] == ["0.attn1", "0.attn2"]
    assert short(["a.b", "a.very_long_name"]) == ["0", "1"]


def test_mass_and_share_by_layer_and_step() -> None:
    scores = one_block_each()
    layers = blocks(scores.header)
    found = masses(scores, PruningAxis.LAYER, layers)
    assert found.labels == ("0", "1", "2")
    assert found.mass[TA].tolist() == [4, 8, 12]  # 2 heads, 2 steps
    np.testing.assert_allclose(found.share[TA], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(found.share[SA] + found.share[TA], 1)
    np.testing.assert_allclose(found.share[CA], 1)  # of the queries that meet text
    steps = masses(scores, PruningAxis.TIMESTEP, layers)
    assert steps.labels == ("900", "20")
    assert steps.mass[TA].tolist() == [12, 12]
    np.testing.assert_allclose(steps.share[TA], 0.2)


def test_a_kind_that_is_nowhere_has_no_share() -> None:
    scores = one_block_each()
    mass = scores.prompts[0].mass.copy()
    mass[..., CA] = 0
    scores = replace(scores, prompts={0: replace(scores.prompts[0], mass=mass)})
    found = masses(scores, PruningAxis.TIMESTEP, {})
    assert np.isnan(found.share[CA]).all()
    assert not np.isnan(found.share[TA]).any()


def test_maps_between_frames() -> None:
    scores = one_block_each()
    assert temporal_maps(scores).shape == (3, 3, 3)
    np.testing.assert_allclose(temporal_maps(scores), 1 / 3)
    mass = scores.prompts[0].mass.copy()
    mass[..., KINDS.index(AttentionKind.TEMPORAL)] = 0
    still = replace(scores, prompts={0: replace(scores.prompts[0], mass=mass)})
    assert len(temporal_maps(still)) == 6
