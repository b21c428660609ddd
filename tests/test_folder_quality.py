"""Metrics over folders: what they are shown, what pairs with what, and what is refused before anything is read."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from test_video import DATA

from f3core import folder_quality
from f3core.clip_folder import write_clips
from f3core.errors import ModelError, OutputError, PluginError, SpecError
from f3core.folder_quality import FolderQuality, Sampling, asked
from f3core.hookspecs import Entry, hookimpl
from f3core.metric import Batch, Metric, Reference
from f3core.registry import Registry


class Brightness(Metric):
    """Mean of the clips, times ``factor``."""

    name: ClassVar[str] = "brightness"

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        assert reference is None
        means = torch.cat([batch.clips.mean((1, 2, 3, 4)) for batch in clips])
        return {"mean": self.factor * float(means.mean()), "lowest": self.factor * float(means.min())}


class Captions(Metric):
    """Mean number of words in captions."""

    name = "captions"
    needs_prompts = True

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        lengths = [len(prompt.split()) for batch in clips for prompt in batch.prompts or ()]
        return {"words": sum(lengths) / len(lengths)}


class MeanGap(Metric):
    """How far two sets' means lie apart; looks at its clips twice."""

    name = "mean_gap"
    higher_is_better = False
    reference = Reference.SET

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        assert reference is not None
        for _ in range(2):
            warnings.warn("so few [clips]", UserWarning, stacklevel=2)
            means = [torch.cat([b.clips.mean((1, 2, 3, 4)) for b in some]).mean() for some in (clips, reference)]
        return {"gap": float(means[0] - means[1])}


class Difference(Metric):
    """Largest difference of paired clips."""

    name = "difference"
    higher_is_better = False
    reference = Reference.CLIP

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        pairs = zip(clips, reference or (), strict=True)
        return {"largest": max(float((one.clips - other.clips).abs().max()) for one, other in pairs)}


@pytest.fixture
def registry() -> Registry:
    made = Registry()
    found = [Entry(kind.name, f"{__name__}:{kind.__name__}") for kind in (Brightness, Captions, MeanGap, Difference)]
    made.register(types.SimpleNamespace(f3core_metrics=hookimpl(lambda: found)), "mine")
    return made


@pytest.fixture
def evaluate(registry: Registry) -> Callable[..., FolderQuality]:
    def run(folder: Path, *metrics: str, **options: Any) -> FolderQuality:
        return folder_quality.evaluate(folder, asked(metrics, registry), **options)

    return run


def folder(place: Path, *levels: float, frames: int = 2, size: int = 4, captions: bool = False) -> Path:
    """Clips whose frames are one level of grey throughout."""
    prompts = [f"clip {'very ' * i}grey" for i in range(len(levels))] if captions else None
    shape = len(levels), frames, 3, size, size
    write_clips(torch.tensor(levels)[:, None, None, None, None].expand(shape), prompts, place)
    return place


Run = Callable[..., FolderQuality]


def test_figures(evaluate: Run, tmp_path: Path) -> None:
    clips = folder(tmp_path / "a", 0.2, 0.4, 0.9, captions=True)
    found = evaluate(clips, "brightness", "brightness={factor: 10}", "captions", sampling=Sampling(batch_size=2))
    first, tenfold, captions = found.metrics
    assert first.figures == {"mean": pytest.approx(0.5, abs=2e-3), "lowest": pytest.approx(0.2, abs=2e-3)}
    assert tenfold.figures["mean"] == pytest.approx(10 * first.figures["mean"])
    assert (tenfold.options, first.options) == ({"factor": 10}, {})
    assert captions.figures == {"words": 3}
    assert [row.clips for row in found.metrics] == [3, 3, 3]
    assert (found.reference, found.left_out) == (None, {})


def test_sets_are_compared_and_broken_clips_named(evaluate: Run, tmp_path: Path) -> None:
    clips, others = folder(tmp_path / "a", 0.2, 0.4), folder(tmp_path / "b", 0.1, 0.1, 0.1, size=6)
    (clips / "00009.mp4").write_bytes((DATA / "bikes.mp4").read_bytes()[:99_999])
    (others / "empty.gif").write_bytes(b"")
    told = list[tuple[str, int, int]]()
    found = evaluate(clips, "mean_gap", "brightness", reference=others, listener=lambda *said: told.append(said))
    gap, brightness = found.metrics
    assert gap.figures["gap"] == pytest.approx(0.2, abs=4e-3)
    assert (gap.clips, gap.reference_clips, gap.higher_is_better) == (2, 3, False)
    assert (brightness.clips, brightness.reference_clips) == (2, 0)
    assert found.left_out.keys() == {"00009.mp4"}
    assert found.reference_left_out.keys() == {"empty.gif"}
    assert told[-1] == ("brightness", 2, 2)
    assert ("mean_gap, reference", 3, 3) in told
    assert evaluate(others, "mean_gap", reference=others).metrics[0].figures["gap"] == 0


def test_clips_pair_by_name(evaluate: Run, tmp_path: Path) -> None:
    clips, others = folder(tmp_path / "a", 0.2, 0.4, 0.6), folder(tmp_path / "b", 0.2, 0.4, 0.6)
    same = evaluate(clips, "difference", reference=others).metrics[0]
    assert same.figures["largest"] == 0
    (others / "00002.mp4").rename(others / "0.mp4")  # now the first
    assert evaluate(clips, "difference", reference=others).metrics[0].figures["largest"] > 0.1
    (clips / "00002.mp4").rename(clips / "0.mp4")
    assert evaluate(clips, "difference", reference=others).metrics[0].figures["largest"] == 0


def test_a_broken_clip_takes_its_pair_along(evaluate: Run, tmp_path: Path) -> None:
    clips, others = folder(tmp_path / "a", 0.2, 0.4, 0.6, 0.8), folder(tmp_path / "b", 0.2, 0.4, 0.6, 0.8)
    (clips / "00000.mp4").write_bytes(b"")
    (others / "00002.mp4").write_bytes(b"")
    found = evaluate(clips, "difference", "brightness", reference=others, sampling=Sampling(batch_size=1))
    difference, brightness = found.metrics
    assert difference.figures["largest"] == 0
    assert (difference.clips, difference.reference_clips, brightness.clips) == (2, 2, 3)
    assert (found.left_out.keys(), found.reference_left_out.keys()) == ({"00000.mp4"}, {"00002.mp4"})
    for name in ("00001.mp4", "00003.mp4"):
        (clips / name).write_bytes(b"")
    with pytest.raises(OutputError, match=r"no pair of clips .* can be used"):
        evaluate(clips, "difference", reference=others)


def test_clips_that_do_not_pair(evaluate: Run, tmp_path: Path) -> None:
    clips = folder(tmp_path / "a", 0.2, 0.4)
    with pytest.raises(OutputError, match=r"2 clips in .* but 3 in .*on the other side: 00002$"):
        evaluate(clips, "difference", reference=folder(tmp_path / "b", 0.2, 0.4, 0.6))
    longer = folder(tmp_path / "c", 0.2, 0.4, frames=3, size=8)
    with pytest.raises(OutputError, match=r"\[2, 3, 4, 4\] and \[3, 3, 8, 8\]; give --frames and --size"):
        evaluate(clips, "difference", reference=longer)
    found = evaluate(clips, "difference", reference=longer, sampling=Sampling(frames=2, size=(4, 4)))
    assert found.metrics[0].figures["largest"] < 1e-6


def test_only_a_reference_set_begins_at_random(evaluate: Run, tmp_path: Path) -> None:
    ramp = (torch.arange(12) / 20)[None, :, None, None, None].expand(1, 12, 3, 4, 4)
    write_clips(ramp, None, tmp_path / "a")

    def gap(seed: int | None, *more: str) -> float:
        sampling = Sampling(frames=2, reference_seed=seed)
        found = evaluate(tmp_path / "a", "mean_gap", *more, reference=tmp_path / "a", sampling=sampling)
        assert all(row.figures["largest"] == 0 for row in found.metrics[1:])
        return found.metrics[0].figures["gap"]

    assert gap(None) == 0
    gaps = [gap(seed) for seed in range(5)]
    assert len({round(gap * 20) for gap in gaps}) > 2
    assert max(gaps) <= 0
    assert gap(3, "difference") == gaps[3]


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ((), r"give at least one --metric; there are: brightness, captions, difference, mean_gap"),
        (("brightnes",), r"--metric brightnes: unknown metric 'brightnes': did you mean 'brightness'\?"),
        (("brightness={factor: 2",), r"--metric brightness=\{factor: 2: "),
        (("brightness=2",), r"--metric brightness=2: write a name, or NAME=\{option: value\}"),
        (("captions", "captions={}"), r"--metric captions=\{\} is asked for twice"),
        (("mean_gap",), r"--metric mean_gap compares clips with a set of other clips.*; give --reference"),
        (("difference",), r"--metric difference compares clips with another clip each.*; give --reference"),
        (
            ("brightness", "captions"),
            r"--metric captions needs a caption of every clip; 2 of 2 in .* have none, such as 00000: write it into "
            r"a text file beside the clip \(00000\.txt\), or into .*captions\.csv with columns file and caption",
        ),
    ],
)
def test_wrong_usage(evaluate: Run, tmp_path: Path, metrics: tuple[str, ...], said: str) -> None:
    clips = folder(tmp_path / "a", 0.2, 0.4)
    with pytest.raises(SpecError, match=said):
        evaluate(clips, *metrics)


def test_other_refusals(evaluate: Run, tmp_path: Path) -> None:
    clips = folder(tmp_path / "a", 0.2, 0.4)
    with pytest.raises(PluginError, match=r"metric 'brightness' does not take \{'colour': 3\}"):
        evaluate(clips, "brightness={colour: 3}")
    with pytest.raises(SpecError, match="brightness would not look at it; leave it out"):
        evaluate(clips, "brightness", reference=clips)
    with pytest.raises(OutputError, match="none of its 2 clips can be used"):
        evaluate(clips, "brightness", sampling=Sampling(frames=9))
    with pytest.raises(OutputError, match="no such folder"):
        evaluate(clips, "mean_gap", reference=tmp_path / "none")
    with pytest.raises(ModelError, match="stride must be at least 1"):
        evaluate(clips, "brightness", sampling=Sampling(stride=0))


def test_results_are_saved_and_shown(evaluate: Run, tmp_path: Path) -> None:
    clips = folder(tmp_path / "a", 0.2)
    (clips / "z[bold].avi").write_bytes(b"")
    found = evaluate(clips, "brightness={factor: 2}", "mean_gap", reference=clips, sampling=Sampling(size=(2, 2)))
    found.save(tmp_path / "deep" / "q.json")
    assert FolderQuality.model_validate_json((tmp_path / "deep" / "q.json").read_text()) == found
    with pytest.raises(OutputError, match="not overwritten"):
        found.save(tmp_path / "deep" / "q.json")
    console = Console(width=200)
    with console.capture() as shown:
        console.print(folder_quality.render(found))
    text = shown.get()
    assert [row.warnings for row in found.metrics] == [(), ("so few [clips]",)]
    for part in (
        "mean_gap: so few [clips]",
        "brightness {'factor': 2}",
        "lowest",
        "0.4",
        "higher",
        "mean_gap",
        "gap",
        "lower",
        "z[bold].avi: can",
    ):
        assert part in text


def test_the_digit_world(tmp_path: Path) -> None:
    """Metrics as they are installed, over clips of digits that were written as videos."""
    from f3core_zoo import digits

    from f3core.registry import installed

    prompts, clips = digits.prompts(10), tmp_path / "digits"
    written = write_clips(digits.render(prompts, 0, "held_out"), prompts, clips)
    right = folder_quality.evaluate(clips, asked(["text_accuracy"], installed())).metrics[0].figures
    for path, prompt in zip(written, prompts[1:] + prompts[:1], strict=True):
        path.with_suffix(".txt").write_text(prompt)
    wrong = folder_quality.evaluate(clips, asked(["text_accuracy"], installed())).metrics[0].figures
    assert min(right.values()) >= 0.9
    assert wrong["all"] <= 0.1
