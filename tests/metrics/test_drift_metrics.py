"""PSNR and SSIM equal their formulas; LPIPS goes through a file; all pair clips strictly."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import tiny_networks
import torch
from f3core_metrics.drift import FRAMES, LPIPS, PSNR, SSIM
from torch import Tensor, nn

from f3core.errors import ModelError
from f3core.evaluate import batches, measured
from f3core.metric import Batch, Metric, Reference
from f3core.registry import installed

pytest.importorskip("torchmetrics")


def pair(count: int = 3, frames: int = 4, height: int = 16, width: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(count, frames, 3, height, width, generator=generator)
    doses = torch.linspace(0.02, 0.4, count * frames).view(count, frames, 1, 1, 1)
    return clean, (clean + doses * torch.randn(clean.shape, generator=generator)).clamp(0, 1)


def figure(metric: str | Metric, clips: Tensor, reference: Tensor) -> float:
    made = installed().make("metric", metric) if isinstance(metric, str) else metric
    assert made.reference is Reference.CLIP
    [value] = measured(made, batches(clips), batches(reference)).values()
    return value


def psnr_by_hand(clips: Tensor, reference: Tensor) -> float:
    error = (clips.double() - reference.double()).square().mean((2, 3, 4))
    return float((-10 * error.log10()).mean())


def ssim_by_hand(clips: Tensor, reference: Tensor) -> float:
    """Per channel and pixel, with a Gaussian of deviation 1.5 cut at 5 pixels, mirrored at the border."""

    def mean(picture: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(picture, 1.5, radius=5, mode="mirror")

    found = []
    for x, y in zip(clips.double().flatten(0, 2).numpy(), reference.double().flatten(0, 2).numpy(), strict=True):
        mx, my = mean(x), mean(y)
        vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        likeness = (2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        found.append(likeness.mean())
    return float(np.mean(found))


def test_psnr_and_ssim_are_means_of_their_formulas_over_frames() -> None:
    clean, spoiled = pair()
    assert figure("psnr", spoiled, clean) == pytest.approx(psnr_by_hand(spoiled, clean), rel=1e-5)
    assert figure("ssim", spoiled, clean) == pytest.approx(ssim_by_hand(spoiled, clean), abs=1e-4)
    # A mean over frames of decibels, not the decibels of a mean.
    assert figure("psnr", spoiled, clean) != pytest.approx(
        psnr_by_hand(spoiled[None, :, 0], clean[None, :, 0]), rel=1e-2
    )


def test_real_video_by_the_same_formulas() -> None:
    clean = tiny_networks.real_clips("carphone_pristine", frames=3)
    coded = tiny_networks.real_clips("carphone_distorted", frames=3)
    assert 15 < figure("psnr", coded, clean) < 60
    assert figure("psnr", coded, clean) == pytest.approx(psnr_by_hand(coded, clean), rel=1e-4)
    assert 0.3 < figure("ssim", coded, clean) < 0.999
    assert figure("ssim", coded, clean) == pytest.approx(ssim_by_hand(coded, clean), abs=1e-4)


def test_equal_clips_count_a_hundred_decibels() -> None:
    clean, spoiled = pair()
    assert figure("psnr", clean, clean) == 100.0
    assert figure("ssim", clean, clean) == pytest.approx(1.0)
    mixed = torch.cat([clean[:1], spoiled[1:2]])
    assert figure("psnr", mixed, clean[:2]) == pytest.approx(
        (100 + psnr_by_hand(spoiled[1:2], clean[1:2])) / 2, rel=1e-5
    )


def test_every_clip_weighs_alike_however_they_are_batched() -> None:
    clean, spoiled = pair(count=FRAMES // 4 + 3)
    whole = PSNR().measure([Batch(spoiled)], [Batch(clean)])["psnr"]
    uneven = [5, len(clean) - 5]
    split = PSNR().measure(*([Batch(part) for part in side.split(uneven)] for side in (spoiled, clean)))["psnr"]
    assert whole == pytest.approx(psnr_by_hand(spoiled, clean), rel=1e-5)
    assert split == pytest.approx(whole, rel=1e-9)


def test_ssim_refuses_frames_under_its_window() -> None:
    assert 0 < figure("ssim", *pair(height=11, width=11)) < 1
    with pytest.raises(ModelError, match="window of 11 pixels; frames of 10 × 20 are too small"):
        figure("ssim", *pair(height=10))


def test_clips_must_pair() -> None:
    clean, spoiled = pair()
    with pytest.raises(ModelError, match=r"its reference: \[3, 4, 3, 16, 20\] against \[2, 4, 3, 16, 20\]"):
        figure("psnr", spoiled, clean[:2])
    with pytest.raises(ModelError, match="against None"):
        PSNR().measure([Batch(spoiled[:1]), Batch(spoiled[1:2])], [Batch(clean[:1])])
    with pytest.raises(ModelError, match="None against"):
        PSNR().measure([Batch(spoiled[:1])], [Batch(clean[:1]), Batch(clean[1:2])])
    with pytest.raises(ModelError, match="give a reference"):
        SSIM().measure([Batch(clean)])
    with pytest.raises(ModelError, match="given no clip"):
        SSIM().measure([], [])


class Apart(nn.Module):
    """Called as LPIPS networks are: pictures in [-1, 1], a distance each, [N, 1, 1, 1]."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        assert bool((one.min() >= -1) & (one.min() < -0.5) & (one.max() > 0.5) & (one.max() <= 1))
        return (one - other).abs().mean([1, 2, 3], keepdim=True)


class Summed(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().sum()


def test_lpips_through_a_file(tmp_path: Path) -> None:
    clean, spoiled = pair()
    path = str(tiny_networks.save_script(Apart(), tmp_path / "apart.pt"))
    metric = installed().make("metric", "lpips", {"network": path})
    assert metric.higher_is_better is False
    assert figure(metric, spoiled, clean) == pytest.approx(2 * float((spoiled - clean).abs().mean()), rel=1e-5)
    assert figure(metric, clean, clean) == 0
    summed = str(tiny_networks.save_script(Summed(), tmp_path / "summed.pt"))
    with pytest.raises(ModelError, match="a distance for each of 12 frames"):
        figure(LPIPS(network=summed), spoiled, clean)
    with pytest.raises(ModelError, match="no such file"):
        figure(LPIPS(network=str(tmp_path / "missing.pt")), spoiled, clean)
    with pytest.raises(ModelError, match="backbone must be alex, vgg or squeeze"):
        LPIPS(backbone="resnet")  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_lpips_says_which_two_ways_there_are() -> None:
    with pytest.raises(ModelError, match="install torchvision, or give option `network`: a TorchScript file"):
        figure("lpips", *pair())


def test_without_torchmetrics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchmetrics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ModelError, match=r"pip install 'f3core\[metrics\]'"):
        figure("psnr", *pair())
