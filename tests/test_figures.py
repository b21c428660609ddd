"""Pictures are drawn for every axis and clips read back as they were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from f3core.clips import CELL, LARGEST, MAX_PROMPTS
from f3core.errors import ModelError, OutputError, ScoresError
from f3core.figures import BAND, COLOURS, attention_bars, side_by_side
from f3core.plan import PruningPlan, Verdict, make_units, select, split_steps
from f3core.scores import PromptScores, Scores, ScoresHeader
from f3core.sites import KINDS, AttentionKind, AttentionSite, PruningAxis, Removal


def make_scores(names: list[str], steps: int = 6, frames: int = 4) -> Scores:
    rng = np.random.default_rng(0)
    sites, heads = len(names), 2
    queries = np.full((sites, steps), 100.0)
    mass = rng.dirichlet((2, 3, 5), size=(sites, steps, heads)) * 100
    header = ScoresHeader(
        adapter="tiny",
        sites=tuple(names),
        heads=(heads,) * sites,
        levels=tuple(np.linspace(999, 20, steps).tolist()),
        passes={"net": {"forward": (2,) * steps}},
        drift_target=AttentionKind.TEMPORAL,
    )
    one = PromptScores(mass, queries, queries, queries, rng.random((sites, frames, frames + 1)))
    return Scores(header, {0: one})


def make_plan(scores: Scores, axis: PruningAxis, ratio: float = 0.5, only: str = "") -> PruningPlan:
    names = [name for name in scores.header.sites if only in name]
    sites = [AttentionSite("net", name.partition(".")[2], i, KINDS) for i, name in enumerate(names)]
    count = {PruningAxis.LAYER: 1, PruningAxis.TIMESTEP: 3, PruningAxis.CELL: 2}[axis]
    units = make_units(sites, axis, count)
    values = [float(i) for i in range(len(units))]
    gone = select(units, values, ratio)
    return PruningPlan(
        adapter="tiny",
        method="f3",
        criterion="aas",
        target=AttentionKind.TEMPORAL,
        axis=axis,
        ratio=ratio,
        step_ranges=split_steps(scores.header.levels, count),
        removals=dict.fromkeys(names, Removal.SELF_ONLY),
        units=tuple(
            Verdict(**u.model_dump(), score=values[i], pruned=i in gone, macs_saved=1) for i, u in enumerate(units)
        ),
        passes={"net": {"forward": (4,) * count}},
        macs_before=10,
        macs_after=5,
    )


def pixels(path: Path, colour: str) -> int:
    """How many pixels of a PNG have exactly this colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((iio.imread(path)[..., :3] == rgb).all(axis=-1).sum())


LAYERS = [f"net.blocks.{i}.attn" for i in range(6)]


@pytest.mark.parametrize("axis", list(PruningAxis))
def test_every_axis_is_drawn_with_all_kinds(axis: PruningAxis, tmp_path: Path) -> None:
    scores = make_scores(LAYERS)
    attention_bars(scores, make_plan(scores, axis, 0.6), tmp_path / "a.png")
    height, width = iio.imread(tmp_path / "a.png").shape[:2]
    assert 400 < height < width < 2400
    assert all(pixels(tmp_path / "a.png", COLOURS[kind]) > 500 for kind in KINDS)


@pytest.mark.parametrize("axis", [PruningAxis.LAYER, PruningAxis.TIMESTEP])
def test_pruned_units_are_shaded_and_more_of_them_more(axis: PruningAxis, tmp_path: Path) -> None:
    scores = make_scores(LAYERS)
    shaded = []
    for ratio in (0.0, 0.35, 1.0):
        attention_bars(scores, make_plan(scores, axis, ratio), tmp_path / "a.png")
        shaded.append(pixels(tmp_path / "a.png", BAND))
    assert shaded[0] < shaded[1] < shaded[2]
    assert shaded[0] < 500 < 5000 < shaded[1]


def test_sixty_layers_and_many_frames_fit(tmp_path: Path) -> None:
    scores = make_scores([f"net.blocks.{i}.attn" for i in range(60)], steps=2, frames=21)
    attention_bars(scores, make_plan(scores, PruningAxis.LAYER), tmp_path / "a.png")
    assert iio.imread(tmp_path / "a.png").shape[1] < 2400


def test_one_site_of_one_kind_is_drawn(tmp_path: Path) -> None:
    scores = make_scores(["net.attn"], steps=1, frames=1)
    mass = scores.prompts[0].mass.copy()
    mass[..., :2] = 0
    scores = replace(scores, prompts={0: replace(scores.prompts[0], mass=mass)})
    attention_bars(scores, make_plan(scores, PruningAxis.LAYER), tmp_path / "a.png")
    assert pixels(tmp_path / "a.png", COLOURS[AttentionKind.SELF]) == 0


def test_no_scores_is_a_scores_error(tmp_path: Path) -> None:
    scores = make_scores(LAYERS)
    with pytest.raises(ScoresError):
        attention_bars(replace(scores, prompts={}), make_plan(scores, PruningAxis.LAYER), tmp_path / "a.png")


# --- clips ----------------------------------------------------------------------------------------------------------


def moving(batch: int, frames: int, height: int, width: int) -> torch.Tensor:
    """A bright square that moves by one pixel a frame."""
    clips = torch.zeros(batch, frames, 3, height, width)
    for frame in range(frames):
        clips[:, frame, 0, 2:6, frame : frame + 4] = 1
    return clips


def test_clips_read_back_with_every_frame(tmp_path: Path) -> None:
    before = moving(3, 7, 16, 16)
    gif, mp4 = side_by_side(before, before.flip(2), ["a red one", "a blue two moving left", "three"], tmp_path, fps=5)
    assert (gif.name, mp4.name) == ("before_after.gif", "before_after.mp4")
    pictures, video = iio.imread(gif), iio.imread(mp4)
    assert pictures.shape[0] == video.shape[0] == 7
    assert pictures.shape[1:3] == video.shape[1:3]
    assert video.shape[1] % 2 == video.shape[2] % 2 == 0
    facts = iio.immeta(mp4)
    assert facts["codec"] == "h264"
    assert facts["pix_fmt"].startswith("yuv420p")
    assert facts["fps"] == 5


def test_small_clips_are_blown_up_pixel_by_pixel(tmp_path: Path) -> None:
    before, after = torch.zeros(1, 2, 3, 16, 16), torch.zeros(1, 2, 3, 16, 16)
    before[:, 0, 0, 0, 0] = 1
    before[:, 1, 0, 0, 1] = 1
    gif, _ = side_by_side(before, after, ["x"], tmp_path)
    red = (iio.imread(gif).astype(int)[0] - [255, 0, 0]).__abs__().sum(-1) < 30
    assert red.sum() == (CELL // 16) ** 2


def test_large_clips_are_shrunk_and_prompts_capped(tmp_path: Path) -> None:
    clips = torch.rand(8, 2, 3, 30, 800)
    gif, mp4 = side_by_side(clips, 1 - clips, ["a rather long prompt " * 20] * 8, tmp_path)
    height, width = iio.imread(gif).shape[1:3]
    assert width < 2 * LARGEST + 60
    assert height < MAX_PROMPTS * 110
    assert len(iio.imread(mp4)) == 2


def test_clips_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    clips = torch.zeros(2, 3, 3, 8, 8)
    for before, after, prompts in (
        (clips, clips[:1], ["a", "b"]),
        (clips, clips, ["a"]),
        (clips[0], clips[0], ["a"] * 3),
        (clips[:0], clips[:0], []),
    ):
        with pytest.raises(ModelError, match="one clip a prompt"):
            side_by_side(before, after, prompts, tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        side_by_side(clips, clips, ["a", "b"], tmp_path / "nowhere")
