"""Networks through which FVD looks at real video: I3D and VideoMAE. Weights are read when first asked for features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from f3core.errors import ModelError
from f3core.metric import Features

BATCH = 8
"""clips that go through a network at once"""


def device() -> torch.device:
    """Where networks run: CUDA if there is any, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_script(path: str | Path, what: str) -> Any:
    """A TorchScript file, ready to run. Raises `ModelError` that names ``what`` where it is missing or none."""
    if not Path(path).is_file():
        raise ModelError(f"{what}: no such file: {path}; give the path of a TorchScript file")
    try:
        return torch.jit.load(str(path), map_location=device()).eval()
    except RuntimeError as error:
        raise ModelError(f"{what}: {path} is no TorchScript file: {str(error).splitlines()[0]}") from error


def load_checkpoint(model: Any, processor: Any, source: str, kind: str) -> tuple[Any, Any]:
    """A transformers checkpoint ready to run, in float32, by these two classes, from a folder or hub id.

    Raises `ModelError` that says what to give where it cannot be read, or lacks weights: those, transformers would draw
    at random with no more than a warning.
    """
    hint = (
        f"give option `model`: a folder that a {kind} checkpoint and its processor were saved to, or a hub id that is "
        "cached or can be downloaded"
    )
    from safetensors import SafetensorError

    try:
        with _silent() if Path(source).is_dir() else contextlib.nullcontext():  # downloads keep their bars
            network, loaded = model.from_pretrained(source, output_loading_info=True)
            made = processor.from_pretrained(source)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"cannot load {source!r}: {reason.rstrip('.')}; {hint}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"{source!r} lacks {len(missing)} weights of {type(network).__name__}, {missing[0]} first; {hint}"
        )
    return network.float().eval().to(device()), made


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' bars and tables of weights: what is wrong with a checkpoint is an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_clips(clips: Tensor, what: str) -> None:
    """Raises `ModelError` for anything but clips [B, F, 3, H, W]."""
    if clips.ndim != 5 or clips.shape[2] != 3:
        raise ModelError(f"{what} looks at clips [B, F, 3, H, W], not {list(clips.shape)}")


def resized(clips: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """Clips [B, F, 3, H, W] with frames of ``size``, bilinear, as they are where they have it."""
    if tuple(clips.shape[3:]) == size:
        return clips
    frames = F.interpolate(clips.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=antialias)
    return frames.view(*clips.shape[:3], *size)


class I3D(Features):
    """I3D of Kinetics-400 from a TorchScript file: the features of FVD (Unterthiner et al., arXiv 1812.01717).

    The file is `i3d_torchscript.pt` of StyleGAN-V (arXiv 2112.14683), whose forward is
    ``(x, rescale=False, resize=False, return_features=False)`` with x [B, 3, F, H, W]; it is called as there, with
    8-bit values 0 to 255 and all three true: the file itself brings them to [-1, 1] and to 224 × 224, and returns the
    400 logits before the softmax. A file whose forward lacks ``rescale`` or ``resize`` gets clips that this has been
    done to already, so a plain one takes [B, 3, F, 224, 224] in [-1, 1]; what it returns is flattened to [B, D].
    """

    name = "i3d"
    MIN_FRAMES = 9
    """Three strides of 2 must leave the two frames that the last pooling, unpadded, takes together: ⌈F / 8⌉ ≥ 2."""

    def __init__(self, path: str | None = None, batch_size: int = BATCH) -> None:
        """``path``: the TorchScript file; ``batch_size``: clips at once. Raises `ModelError` where there is no file."""
        if path is None or not Path(path).is_file():
            lacking = "option `path` is missing" if path is None else f"no such file: {path}"
            raise ModelError(
                f"feature network 'i3d': {lacking}; give `path`, where i3d_torchscript.pt lies, to which "
                "StyleGAN-V's repository links (https://github.com/universome/stylegan-v)"
            )
        self.path = path
        self.batch_size = batch_size
        self._network: Any = None

    def __call__(self, clips: Tensor) -> Tensor:
        check_clips(clips, "I3D")
        if clips.shape[1] < self.MIN_FRAMES:
            raise ModelError(
                f"I3D needs clips of {self.MIN_FRAMES} frames or more, got {clips.shape[1]}; take longer clips, or "
                "another feature network"
            )
        if self._network is None:
            self._network = load_script(self.path, "feature network 'i3d'")
        with torch.inference_mode():
            return torch.cat([self._features(part) for part in clips.split(self.batch_size)])

    def _features(self, clips: Tensor) -> Tensor:
        taken = {argument.name for argument in self._network.forward.schema.arguments}
        flags = {name: True for name in ("rescale", "resize", "return_features") if name in taken}
        # 8-bit values, as of clips that were written and read back, so that both are measured alike.
        shown = clips.to(device(), torch.float32).mul(255).round().clamp(0, 255)
        if "resize" not in flags:
            shown = resized(shown, (224, 224), antialias=False)
        if "rescale" not in flags:
            shown = shown / 127.5 - 1
        try:
            features = self._network(shown.transpose(1, 2).contiguous(), **flags)
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ModelError(f"I3D ({self.path}) failed on clips {list(clips.shape)}: {lines[-1]}") from error
        if not isinstance(features, Tensor) or not features.ndim or len(features) != len(clips):
            raise ModelError(f"I3D ({self.path}) must return one tensor with a row for each of {len(clips)} clips")
        return features.float().flatten(1).cpu()


class VideoMAE(Features):
    """Features of a VideoMAE checkpoint (Tong et al., arXiv 2203.12602): the mean of the last hidden state over tokens.

    Of each clip, ``config.num_frames`` frames are taken, evenly from the first to the last (short clips repeat some),
    resized without a crop to ``config.image_size`` (bilinear, antialiased), and normalised by the mean and deviation of
    the checkpoint's own image processor.
    """

    name = "videomae"

    def __init__(self, model: str | None = None, batch_size: int = BATCH) -> None:
        """``model``: a local folder or hub id of a transformers checkpoint; ``batch_size``: clips at once. Raises
        `ModelError` without a model."""
        if model is None:
            raise ModelError("feature network 'videomae' needs option `model`: a folder or hub id of a checkpoint")
        self.model = model
        self.batch_size = batch_size
        self._network: Any = None
        self._mean = self._std = torch.zeros(0)

    def __call__(self, clips: Tensor) -> Tensor:
        check_clips(clips, "VideoMAE")
        if not clips.shape[1]:
            raise ModelError("VideoMAE needs clips of one frame or more")
        if self._network is None:
            self._load()
        with torch.inference_mode():
            return torch.cat([self._features(part) for part in clips.split(self.batch_size)])

    def _load(self) -> None:
        try:
            from transformers import AutoImageProcessor, VideoMAEModel
        except ImportError as error:
            raise ModelError(
                "feature network 'videomae' needs transformers: pip install 'f3core[diffusers]'"
            ) from error
        network, processor = load_checkpoint(VideoMAEModel, AutoImageProcessor, self.model, "VideoMAE")
        self._mean, self._std = (
            torch.tensor(v, device=device()).view(3, 1, 1) for v in (processor.image_mean, processor.image_std)
        )
        self._network = network

    def _features(self, clips: Tensor) -> Tensor:
        config = self._network.config
        size = config.image_size
        evenly = torch.linspace(0, clips.shape[1] - 1, config.num_frames).round().long()
        shown = clips[:, evenly].to(device(), torch.float32)
        shown = resized(shown, (size, size) if isinstance(size, int) else tuple(size), antialias=True)
        tokens: Tensor = self._network(pixel_values=(shown - self._mean) / self._std).last_hidden_state
        return tokens.mean(1).cpu()
