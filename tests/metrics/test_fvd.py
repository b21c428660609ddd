"""FVD is 0 of a set with itself, and grows with whatever spoils clips; memory does not grow with their number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_networks
import torch
import torch.nn.functional as F
from f3core_metrics.frechet import Moments, distance
from f3core_metrics.fvd import FVD, LeftOutWarning, SmallSetWarning
from f3core_zoo import captions, digits, judge
from torch import Tensor

from f3core.clip_folder import clips_in, write_clips
from f3core.errors import ModelError, OutputError, PluginError
from f3core.evaluate import batches, measured
from f3core.metric import Batch, Reference
from f3core.registry import installed

pytestmark = pytest.mark.filterwarnings("ignore::f3core_metrics.fvd.SmallSetWarning")


@pytest.fixture(scope="module")
def real() -> Tensor:
    return digits.render(captions.prompts(120, seed=1), seed=7)


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.video_mae(tmp_path_factory.mktemp("mae") / "videomae")


def fvd(clips: Tensor, reference: Tensor, features: object = "zoo:judge") -> float:
    metric = installed().make("metric", "fvd", {"features": features})
    return measured(metric, batches(clips), batches(reference))["fvd"]


def noisy(clips: Tensor, dose: float) -> Tensor:
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    return (clips + dose * noise).clamp(0, 1)


def blurred(clips: Tensor, dose: float) -> Tensor:
    soft = F.avg_pool2d(clips.flatten(0, 1), 5, stride=1, padding=2, count_include_pad=False).view_as(clips)
    return torch.lerp(clips, soft, dose)


def shuffled(clips: Tensor, dose: float) -> Tensor:
    """Share ``dose`` of the frames trade places, the same in every clip; a larger share holds a smaller one."""
    order = torch.arange(clips.shape[1])
    moved = torch.randperm(len(order), generator=torch.Generator().manual_seed(0))[: round(dose * len(order))]
    order[moved] = order[moved.roll(1)]
    return clips[:, order]


@pytest.mark.parametrize("spoil", [noisy, blurred, shuffled])
def test_grows_with_what_spoils_clips(real: Tensor, spoil: Callable[[Tensor, float], Tensor]) -> None:
    distances = [fvd(spoil(real[:50], dose), real[:50]) for dose in (0.0, 0.25, 0.5, 1.0)]
    assert distances[0] < 1e-9
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[1] > 0


def test_grows_with_noise_through_video_mae(real: Tensor, mae: Path) -> None:
    distances = [
        fvd(noisy(real[:50], dose), real[:50], {"videomae": {"model": str(mae)}}) for dose in (0.0, 0.1, 0.3, 0.9)
    ]
    assert distances[0] < 1e-9
    assert distances == sorted(set(distances))


def test_is_the_distance_of_the_networks_features(real: Tensor) -> None:
    one, other = real[:50], real[50:90]
    wanted = distance(Moments.of(judge.features(one)), Moments.of(judge.features(other)))
    assert fvd(one, other) == pytest.approx(wanted, rel=1e-9)
    assert fvd(other, one) == pytest.approx(wanted, rel=1e-9)


def test_holds_no_batch_longer_than_it_looks_at_it(real: Tensor) -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    def stream(clips: Tensor) -> Iterator[Batch]:
        for part in clips.split(20):
            held = [ref for ref in alive if ref() is not None]
            assert len(held) <= 1  # the loop's own last batch
            copy = part.clone()
            alive.append(weakref.ref(copy))
            yield Batch(copy)
            del copy

    figures = FVD("zoo:judge").measure(stream(real), stream(real))
    assert figures["fvd"] < 1e-9
    assert len(alive) == 12


def test_warns_under_2048_clips(real: Tensor) -> None:
    with pytest.warns(SmallSetWarning, match=r"50 clips against 70: with fewer than 2048 .* biased upwards"):
        fvd(real[:50], real[50:])
    many = batches(real[:32, :1].repeat(64, 1, 1, 1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FVD({"f3core_tests:mean": None}).measure(many, many)


def test_a_folder_stands_for_the_callers_reference(real: Tensor, tmp_path: Path) -> None:
    write_clips(real[:20], None, tmp_path)
    metric = installed().make("metric", "fvd", {"features": "zoo:judge", "reference": str(tmp_path)})
    written = torch.cat([batch.clips for batch in clips_in(tmp_path)])
    # No other clips are asked for, and those that come do not count.
    assert metric.reference is Reference.NONE
    wanted = pytest.approx(fvd(real[20:60], written), rel=1e-6)
    assert measured(metric, batches(real[20:60]))["fvd"] == wanted
    assert measured(metric, batches(real[20:60]), batches(real[60:]))["fvd"] == wanted
    # Shorter clips are compared with as many frames of the references.
    assert measured(metric, batches(written[:, :9]))["fvd"] < 1e-6


def test_a_folder_is_read_once_and_its_broken_clips_are_left_out(real: Tensor, tmp_path: Path) -> None:
    paths = write_clips(real[:4], None, tmp_path)
    paths[0].write_bytes(b"no video")
    metric = FVD({MeanColour.name: None}, reference=str(tmp_path))
    with pytest.warns(LeftOutWarning, match=r"leaves out 1 of 4 reference clips, such as .*00000\.mp4"):
        first = metric.measure(batches(real))
    for path in paths:
        path.unlink()
    assert metric.measure(batches(real)) == first


class MeanColour:
    """A feature network as cheap as can be."""

    name = "f3core_tests:mean"

    def __call__(self, clips: Tensor) -> Tensor:
        return clips.mean((1, 3, 4))


@pytest.fixture(autouse=True)
def cheap_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from f3core.hookspecs import Entry
    from f3core.registry import Registered

    entry = Entry(MeanColour.name, f"{__name__}:MeanColour")
    known = installed()._entries["feature network"]
    monkeypatch.setitem(known, MeanColour.name, Registered(entry, "tests"))


def test_says_what_networks_there_are() -> None:
    for none in (None, "", {}, {"i3d": {}, "zoo:judge": {}}):
        with pytest.raises(PluginError, match=r"one feature network as `features`.*i3d, videomae, zoo:judge"):
            FVD(none)
    with pytest.raises(PluginError, match="did you mean 'i3d'"):
        FVD("id3")
    with pytest.raises(ModelError, match="no such file"):
        FVD({"i3d": {"path": "nowhere.pt"}})
    with pytest.raises(OutputError, match="nowhere: no such folder"):
        FVD("zoo:judge", reference="nowhere")
    for unread in ({"stride": 2}, {"seed": 0}):
        with pytest.raises(ModelError, match="give it too, or leave them out"):
            FVD("zoo:judge", **unread)


def test_needs_two_clips_a_side_that_the_network_knows(real: Tensor) -> None:
    with pytest.raises(ModelError, match="two clips or more, got 1"):
        fvd(real[:1], real[:5])
    with pytest.raises(ModelError, match="two reference clips or more, got 0"):
        fvd(real[:5], real[:0])
    with pytest.raises(ModelError, match="give a reference"):
        FVD("zoo:judge").measure(batches(real[:5]))
    with pytest.raises(ModelError, match="NaN"):
        fvd(real[:5] * float("nan"), real[:5], MeanColour.name)
    with pytest.raises(ModelError, match=r"reference clips of 9 frames beside others of 21; .* --frames 16"):
        fvd(real[:5], real[:5, :9])
    with pytest.raises(ModelError, match="fvd: clips of 9 frames beside others of 21"):
        FVD("zoo:judge").measure([Batch(real[:5]), Batch(real[:5, :9])], batches(real[:5]))
    with pytest.raises(ModelError, match="judge of the digit world"):
        fvd(torch.zeros(2, 3, 3, 8, 8), real[:5])
