"""One video file: its frames as they are decoded, and a clip written so that nothing is lost; one picture, and sizes.

Videos go through the ffmpeg that imageio-ffmpeg carries. torch and Pillow are imported where they are used.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from f3core.errors import ClipError, ModelError, OutputError

if TYPE_CHECKING:
    import torch

SUFFIXES = frozenset({".mp4", ".avi", ".gif", ".webm", ".mov", ".mkv"})
"""files that are taken for videos"""
TOLERANCE = 0.5 / 255
"""`write_video` rounds values of [0, 1] to bytes, so what is read back is at most this far off (and float rounding)."""


def read_video(path: Path) -> Generator[NDArray[np.uint8], None, None]:
    """Frames [H, W, 3] of the first video stream, one at a time, in order; none dropped, none repeated.

    Whoever stops early never learns of damage further on. Raises `ClipError` for a file without a frame, and at the
    first place that cannot be decoded.
    """
    # A picture format that states its size before every frame: nothing has to be guessed from metadata.
    out = ["-map", "0:v:0", "-fps_mode", "passthrough", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with tempfile.TemporaryFile() as said:  # a pipe that nobody empties would block ffmpeg
        process = subprocess.Popen(
            [_ffmpeg(), "-nostdin", "-v", "error", "-xerror", "-i", _plain(path), *out],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert process.stdout is not None
        count = 0
        try:
            while (frame := _picture(process.stdout)) is not None:
                count += 1
                yield frame
            process.stdout.close()  # should it still write, it ends in an error instead of waiting for a reader
            process.wait()
        finally:  # also when the caller has seen enough
            process.stdout.close()
            process.kill()
            process.wait()
        if process.returncode or not count:
            said.seek(0)
            where = f"cannot be decoded beyond frame {count}" if count else "cannot be read as a video"
            raise ClipError(f"{where}: {_reason(said.read(), path)}")


def write_video(path: Path, clip: torch.Tensor, fps: int = 8) -> None:
    """Write a clip [F, 3, H, W] in [0, 1] as lossless H.264 of its bytes (RGB; not every player shows that).

    Read back, values differ by at most `TOLERANCE`. Raises `ModelError` for another shape, `OutputError` when the file
    cannot be written; then none is left.
    """
    import torch

    if clip.ndim != 4 or clip.shape[1] != 3 or not clip.numel():
        raise ModelError(f"{path}: a clip must be [F, 3, H, W], not {list(clip.shape)}")
    shown = (clip.detach().to("cpu", torch.float32).clamp(0, 1) * 255).round().to(torch.uint8)
    taken = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{clip.shape[3]}x{clip.shape[2]}", "-r", str(fps), "-i", "-"]
    written = ["-c:v", "libx264rgb", "-crf", "0", "-f", "mp4", "-y", _plain(path)]
    try:
        done = subprocess.run(
            [_ffmpeg(), "-v", "error", *taken, *written],
            input=shown.permute(0, 2, 3, 1).contiguous().numpy().tobytes(),
            capture_output=True,
        )
    except OSError as error:
        raise OutputError(f"{path}: the clip cannot be written: {error}") from error
    if done.returncode:
        path.unlink(missing_ok=True)
        raise OutputError(f"{path}: the clip cannot be written: {_reason(done.stderr, path)}")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture [H, W, 3]. Raises `ClipError`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(f"{path.name} cannot be read as a picture: {error}") from error


def sized(frame: NDArray[np.uint8], size: tuple[int, int] | None = None) -> torch.Tensor:
    """A frame [H, W, 3] as float32 [3, H, W] in [0, 1]; with a ``size`` (height, width), cut around its centre to that
    aspect and scaled with antialiasing."""
    import torch

    shown = torch.from_numpy(frame.copy()).permute(2, 0, 1)
    if size is None or tuple(shown.shape[1:]) == size:
        return shown.float().div(255).contiguous()
    height, width = shown.shape[1:]
    kept = min(height, max(round(width * size[0] / size[1]), 1)), min(width, max(round(height * size[1] / size[0]), 1))
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    cut = shown[None, :, top : top + kept[0], left : left + kept[1]].float().div(255)
    scaled = torch.nn.functional.interpolate(cut, size=size, mode="bilinear", antialias=True, align_corners=False)
    return scaled[0].clamp(0, 1)


# --- ffmpeg ---------------------------------------------------------------------------------------------------------


def _ffmpeg() -> str:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise OutputError(f"videos need ffmpeg: {error}; install imageio-ffmpeg, which carries one") from error


def _plain(path: Path) -> str:
    """A path that ffmpeg takes for a file whatever it is called: not for an option or a protocol."""
    return f"file:{path}"


def _picture(stream: IO[bytes]) -> NDArray[np.uint8] | None:
    """The next frame of a stream of binary PPM pictures; None at its end, or where it breaks off."""
    header = [stream.readline().split() for _ in range(3)]  # P6; width and height; the highest value
    if header[0] != [b"P6"] or len(header[1]) != 2:
        return None
    width, height = map(int, header[1])
    content = stream.read(width * height * 3)
    if len(content) < width * height * 3:
        return None
    shown: NDArray[Any] = np.frombuffer(content, np.uint8)
    return shown.reshape(height, width, 3)


def _reason(said: bytes, path: Path) -> str:
    """What ffmpeg said first, without where in its code it said so."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    first = lines[0] if lines else "it holds no frame"
    if first.startswith("["):
        first = first.partition("] ")[2] or first
    return first.replace(_plain(path), path.name)
