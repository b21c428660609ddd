"""The attention study: its numbers from known scores, what it says of them, and what it writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from f3core import attention_study, attention_text
from f3core.attention_study import AttentionStudy, attention
from f3core.job import resolve
from f3core.registry import installed
from f3core.scores import Scores
from f3core.sites import AttentionKind, PruningAxis
from f3core.spec import load_spec

Write = Callable[..., Path]
CA, SA, TA = AttentionKind


def test_a_model_is_scored_and_drawn(tiny_spec: Write, tmp_path: Path) -> None:
    found = attention(load_spec(tiny_spec(), ["sweep={seeds: [0, 4]}"]))
    assert (found.seeds, found.axis, found.sites, found.prompts) == ((0, 4), PruningAxis.LAYER, 4, 3)
    assert [part.name for part in found.parts] == [f"transformer.blocks.{i}" for i in range(4)]
    for part in found.parts:
        assert part.share[CA].mean == pytest.approx(1)  # of the queries that meet text
        assert part.share[SA].mean + part.share[TA].mean == pytest.approx(1)
        assert part.mass[TA].sd > 0
    np.testing.assert_allclose(np.sum(found.frame_map, axis=1), 1, rtol=1e-5)
    written = tmp_path / "run"
    assert AttentionStudy.model_validate_json((written / "attention.json").read_text()) == found
    assert {p.name for p in written.iterdir()} == {
        "attention.json", "attention.md", "attention.png", "scores", "spec.yaml",
    }  # fmt: skip
    text = (written / "attention.md").read_text()
    assert all(statement in text for statement in found.statements)
    runs = [Scores.load(written / "scores" / f"seed-{seed}.safetensors") for seed in (0, 4)]
    assert found.parts[1].mass[TA].mean == pytest.approx(np.mean([run.mass(TA)[2].sum() for run in runs]))


def test_steps_are_told_on_the_timestep_axis(tiny_spec: Write, tmp_path: Path) -> None:
    heard: list[str] = []

    def interrupt(task: str, done: int, total: int) -> None:
        heard.append(task)
        if (task, done) == ("Scoring prompts", 2):
            raise KeyboardInterrupt

    file = load_spec(tiny_spec(axis="timestep"), ["sweep={seeds: [0]}"])
    with pytest.raises(KeyboardInterrupt):
        attention(file, listener=interrupt)
    found = attention(file, resume=True)
    assert len(found.parts) == 4
    assert found.parts[0].name == "1000" or float(found.parts[0].name) > float(found.parts[-1].name)
    assert "seed 0" in (tmp_path / "run" / "attention.md").read_text()


@pytest.fixture
def scored(tiny_spec: Write) -> tuple[Path, Scores]:
    spec = tiny_spec()
    attention(load_spec(spec, ["sweep={seeds: [0]}"]))
    return spec, Scores.load(spec.parent / "run" / "scores" / "seed-0.safetensors")


def made_up(scores: Scores, by_layer: list[float], by_distance: list[float]) -> Scores:
    """Scores whose TA share is ``by_layer``, and whose maps depend on the distance between frames alone."""
    one = scores.prompts[0]
    mass, frames = np.zeros_like(one.mass), np.zeros_like(one.frames)
    count = frames.shape[1]
    for layer, share in enumerate(by_layer):
        mass[2 * layer, ..., 2], mass[2 * layer, ..., 1] = 10 * share, 10 * (1 - share)
        mass[2 * layer + 1, ..., 0] = 10
        for i in range(count):
            for j in range(count):
                frames[2 * layer, i, j] = by_distance[abs(i - j)]
        frames[2 * layer + 1, :, -1] = 1
    queries = np.full_like(one.queries, 10.0)
    return replace(scores, prompts={0: replace(one, mass=mass, queries=queries, frames=frames)})


def test_statements_say_what_the_numbers_show(scored: tuple[Path, Scores]) -> None:
    spec, scores = scored
    job = resolve(load_spec(spec), installed(), check_output=False)
    falling = made_up(scores, [0.9, 0.8, 0.7, 0.6], [4, 2, 1])
    found, layers = attention_study._study(job.file, job, [falling], [0])
    assert list(layers.values()) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    depth, progress, near, split = found.statements
    assert depth == (
        "TA's AAS falls with depth: Spearman −1.00 over 4 layers; its share of a query's attention is 90.0 % in the "
        "first and 60.0 % in the last (Spearman −1.00)."
    )
    assert progress.startswith("TA's AAS does not change as denoising goes on: Spearman – over 4 steps; ")
    assert near.startswith("Nearer frames get more attention: Spearman of the share with the distance −0.87")
    assert near.endswith("negative at 4 of 4 sites that hold TA.")
    assert (
        "a neighbouring one 26.8 %, the farthest 14.3 %; uniform attention to 3 frames would give each 33.3 %" in split
    )
    assert {(t.kind, t.axis, t.mass) for t in found.trends if t.kind is SA} == {
        (SA, PruningAxis.LAYER, (1.0,)),
        (SA, PruningAxis.TIMESTEP, (None,)),
    }

    rising = made_up(scores, [0.5, 0.6, 0.7, 0.8], [4, 1, 2])
    both, _ = attention_study._study(job.file, job, [falling, rising], [0, 1])
    assert both.statements[0].startswith("TA's AAS neither rises nor falls with depth: Spearman +0.00 ± 1")
    head, rows = attention_text.parts(both)
    assert head == ["layer", "CA score", "SA score", "TA score", "CA share", "SA share", "TA share"]
    assert rows[0][-1] == "0.700 ± 0.2"
    assert rows[0][0] == "0"


def causal(scores: Scores, by_distance: list[float]) -> Scores:
    """`made_up` scores of a model whose frames see none that come after them."""
    made = made_up(scores, [0.9, 0.8, 0.7, 0.6], by_distance)
    for prompt in made.prompts.values():
        prompt.frames[0::2, :, :-1] = np.tril(prompt.frames[0::2, :, :-1])
    return made


def test_pairs_that_are_never_seen_are_left_out(scored: tuple[Path, Scores]) -> None:
    spec, scores = scored
    job = resolve(load_spec(spec), installed(), check_output=False)
    found, _ = attention_study._study(job.file, job, [causal(scores, [4, 2, 1])], [0])
    assert found.unseen == pytest.approx(1 / 3)
    assert found.nearness == (pytest.approx(-(0.75**0.5)),)
    assert found.nearer == 4
    near, split = found.statements[2:]
    assert near == (
        "Nearer frames get more attention: Spearman of the share, as a multiple of even attention, with the distance "
        "−0.87 over the 66.7 % of pairs that are seen; it is negative at 4 of 4 sites that hold TA."
    )
    # shares of own frames 1, 4/6, 4/7; even attention 1/2 and 1/3, of the first frame no choice
    own, neighbour, farthest = (float(figure.mean) for figure in found.by_distance if figure)
    assert (own, neighbour, farthest) == pytest.approx(((1 + 4 / 6 + 4 / 7) / 3, (2 / 6 + 2 / 7) / 2, 1 / 7))
    assert [figure.mean for figure in found.over_even if figure] == pytest.approx(
        [(8 / 6 + 12 / 7) / 2, (4 / 6 + 6 / 7) / 2, 3 / 7]
    )
    assert split.endswith("its own frame 1.52×, a neighbouring one 0.76×, the farthest 0.43×.")
    assert "33.3 % of the pairs of frames are never seen" in attention_text.to_markdown(found)
    assert attention_text.distances(found)[0][-1] == "over even attention"

    even, _ = attention_study._study(job.file, job, [causal(scores, [1, 1, 1])], [0])
    assert even.nearness == (None,)  # though a frame's share falls with the number of those before it
    assert even.nearer == 0


def test_a_distance_that_is_never_seen_has_no_share(scored: tuple[Path, Scores]) -> None:
    spec, scores = scored
    job = resolve(load_spec(spec), installed(), check_output=False)
    found, _ = attention_study._study(job.file, job, [causal(scores, [2, 1, 0])], [0])
    assert found.by_distance[2] is None
    assert found.over_even[2] is None
    assert "farthest" not in found.statements[-1]
    assert attention_text.distances(found)[1][2] == ["2", "–", "–"]


def test_one_step_makes_no_trend(tiny_spec: Write) -> None:
    found = attention(load_spec(tiny_spec(), ["sweep={seeds: [0]}", "calibrate.steps=1"]))
    assert {trend.axis for trend in found.trends} == {PruningAxis.LAYER}
    assert not any("over 1 step" in statement for statement in found.statements)
