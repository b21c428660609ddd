"""Folders of clips: what is found, what it is called, which frames are taken, and what is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_video import DATA, cut

from f3core.captions import words
from f3core.clip_folder import Clips, clips_in, write_clips
from f3core.errors import ModelError, OutputError
from f3core.video import TOLERANCE


def captions(clips: Clips) -> dict[str, str | None]:
    return {file.name: file.caption for file in clips.files}


def counting(folder: Path, *names: str, frames: int = 3, size: int = 4) -> None:
    """Clips whose frame i is i/10 everywhere, called ``names``."""
    for name in names:
        clip = (torch.arange(frames) / 10)[:, None, None, None].expand(-1, 3, size, size)
        made = write_clips(clip[None], None, folder / "made")[0]
        (folder / f"{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        made.rename(folder / f"{name}.mp4")
        made.parent.rmdir()


def sequence(folder: Path, frames: int, size: tuple[int, int] = (8, 6)) -> None:
    """Pictures 00000.jpg, ..., each brighter by ten."""
    folder.mkdir(parents=True)
    for i in range(frames):
        Image.new("RGB", size, (10 * i,) * 3).save(folder / f"{i:05}.jpg", quality=95)


def tens(clip: torch.Tensor) -> list[int]:
    """Which frames of `counting` a clip holds."""
    return (clip.mean((1, 2, 3)) * 10).round().int().tolist()


# --- what is found --------------------------------------------------------------------------------------------------


def test_ucf_as_published(tmp_path: Path) -> None:
    root = tmp_path / "UCF-101"
    for group, name in enumerate(("ApplyEyeMakeup", "YoYo", "HandstandPushups"), 1):
        (root / name).mkdir(parents=True)
        file = name.replace("HandstandP", "HandStandP")  # as it is published
        cut(root / name / f"v_{file}_g0{group}_c01.avi", "-s", "32x24", source="bikes.mp4", frames=5)
    for place in (tmp_path, root):
        found = clips_in(place, frames=4)
        assert [file.caption for file in found.files] == ["apply eye makeup", "handstand pushups", "yo yo"]
        (batch,) = found
        assert batch.clips.shape == (3, 4, 3, 24, 32)
        assert batch.prompts == ["apply eye makeup", "handstand pushups", "yo yo"]
    assert list(captions(clips_in(root / "YoYo")).values()) == ["yo yo"]


def test_davis_as_published(tmp_path: Path) -> None:
    root = tmp_path / "DAVIS"
    for name, frames in (("bmx-bumps", 5), ("bear", 3), ("tuk-tuk", 4)):
        sequence(root / "JPEGImages" / "480p" / name, frames)
        sequence(root / "JPEGImages" / "Full-Resolution" / name, frames)
        sequence(root / "Annotations" / "480p" / name, frames)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\n")
    for place in (tmp_path, root, root / "JPEGImages", root / "JPEGImages" / "480p"):
        found = clips_in(place)
        assert captions(found) == {"bear": "bear", "bmx-bumps": "bmx bumps", "tuk-tuk": "tuk tuk"}
        assert [len(batch.clips[0]) for batch in found] == [3, 5, 4]
    alone = clips_in(root / "JPEGImages" / "480p" / "tuk-tuk")
    assert captions(alone) == {"tuk-tuk": "tuk tuk"}
    (batch,) = alone
    assert batch.clips.shape == (1, 4, 3, 6, 8)
    assert torch.allclose(batch.clips.mean((0, 2, 3, 4)) * 255, torch.arange(4) * 10.0, atol=2)


def test_pictures_are_ordered_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "a cat"
    folder.mkdir()
    for i in (10, 9, 100):
        Image.new("RGB", (2, 2), (i,) * 3).save(folder / f"frame{i}.png")
    Image.new("RGB", (2, 2)).save(folder / "cover.png")
    (batch,) = clips_in(tmp_path)
    assert (batch.clips[0, :, 0, 0, 0] * 255).round().tolist() == [9, 10, 100]
    assert batch.prompts == ["a cat"]


def test_videos_are_found_below_and_sorted(tmp_path: Path) -> None:
    counting(tmp_path, "b", "x/a", "x/y/c")
    (tmp_path / "x" / "a.mp4").rename(tmp_path / "x" / "a.MP4")
    (tmp_path / "x" / "00001.png").write_bytes(b"a picture beside videos is no sequence")
    (tmp_path / "._b.mp4").write_bytes(b"hidden")
    found = clips_in(tmp_path)
    assert captions(found) == {"b": None, "x/a": None, "x/y/c": None}
    assert found.count == 3
    assert [batch.prompts for batch in found] == [None]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    counting(tmp_path, "set/x/a", "elsewhere/b")
    (tmp_path / "set" / "x" / "up").symlink_to("..")
    (tmp_path / "set" / "other").symlink_to(tmp_path / "elsewhere")
    assert [file.name for file in clips_in(tmp_path / "set").files] == ["other/b", "x/a"]


def test_a_caption_beside_beats_the_list_and_that_the_class(tmp_path: Path) -> None:
    counting(tmp_path, "PlayDog/one", "PlayDog/two", "dogs/one", "dogs/3")
    assert set(captions(clips_in(tmp_path)).values()) == {"play dog", "dogs"}
    rows = [["file", "caption"], ["two", " a  red\ndog "], ["dogs/one.mp4", "listed"], ["none.mp4", "not there"]]
    (tmp_path / "captions.csv").write_text("\n".join(f'"{file}","{caption}"' for file, caption in rows))
    (tmp_path / "dogs" / "one.txt").write_text("beside\n")
    expected = {"PlayDog/one": "play dog", "PlayDog/two": "a red dog", "dogs/one": "beside", "dogs/3": "dogs"}
    assert captions(clips_in(tmp_path)) == expected
    (tmp_path / "captions.csv").unlink()
    lines = [{"file": file, "caption": caption} for file, caption in rows[1:]]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions(clips_in(tmp_path)) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.csv", "file,caption\none.mp4,a\n", r"captions\.csv:2: one\.mp4 is the name of 2 clips"),
        ("captions.csv", "name,caption\na,b\n", r"captions\.csv:2: needs both a file and a caption"),
        ("captions.csv", "file,caption\na,b,c\n", r"captions\.csv:2: 3 values for 2 columns"),
        ("captions.jsonl", '\n"a"\n', r"captions\.jsonl:2: needs both"),
        ("captions.jsonl", '{"file": "a", "caption"}\n', r"captions\.jsonl:1: not JSON"),
    ],
)
def test_lists_of_captions_that_say_nothing_sure(tmp_path: Path, name: str, text: str, said: str) -> None:
    counting(tmp_path, "x/one", "y/one")
    (tmp_path / name).write_text(text)
    with pytest.raises(OutputError, match=said):
        clips_in(tmp_path)


def test_resolutions_are_chosen_among_pictures_of_davis_alone(tmp_path: Path) -> None:
    counting(tmp_path, "480p/a", "720p/a")
    assert [file.name for file in clips_in(tmp_path).files] == ["480p/a", "720p/a"]


@pytest.mark.parametrize("names", [("a", "b"), ("videos/a", "videos/b"), ("seed1/a", "seed2/a"), ("a", "cats/b")])
def test_folders_that_are_no_classes_give_no_captions(tmp_path: Path, names: tuple[str, ...]) -> None:
    counting(tmp_path, *names)
    assert clips_in(tmp_path).uncaptioned == sorted(names)


def test_prompts_come_with_all_clips_or_none(tmp_path: Path) -> None:
    counting(tmp_path, "a", "b")
    (tmp_path / "a.txt").write_text("a cat")
    assert [batch.prompts for batch in clips_in(tmp_path, batch_size=1)] == [None, None]
    (tmp_path / "b.txt").write_text("a dog")
    assert [batch.prompts for batch in clips_in(tmp_path, batch_size=1)] == [["a cat"], ["a dog"]]


@given(st.lists(st.from_regex(r"[A-Z][a-z]{1,6}", fullmatch=True), min_size=1, max_size=4))
def test_words(parts: list[str]) -> None:
    said = " ".join(parts).lower()
    assert {words("".join(parts)), words("-".join(parts)), words("_".join(parts)), words(said)} == {said}


# --- which frames, and how they come ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "stride", "expected"),
    [(None, 1, [*range(10)]), (None, 3, [0, 3, 6, 9]), (4, 1, [0, 1, 2, 3]), (4, 3, [0, 3, 6, 9]), (1, 5, [0])],
)
def test_frames_from_the_first(tmp_path: Path, frames: int | None, stride: int, expected: list[int]) -> None:
    counting(tmp_path, "a", frames=10)
    (batch,) = clips_in(tmp_path, frames=frames, stride=stride)
    assert tens(batch.clips[0]) == expected


@pytest.mark.parametrize("kind", ["video", "sequence"])
def test_a_seed_draws_where_a_clip_begins(tmp_path: Path, kind: str) -> None:
    if kind == "video":
        counting(tmp_path, "a", frames=8)
    else:
        sequence(tmp_path / "a", 8)
    found = [next(iter(clips_in(tmp_path, frames=3, stride=2, seed=seed))).clips[0] for seed in range(24)]
    scale = 10 if kind == "video" else 25.5
    taken = [tuple((clip.mean((1, 2, 3)) * scale).round().int().tolist()) for clip in found]
    assert set(taken) == {(i, i + 2, i + 4) for i in range(4)}  # every window that fits, and no other
    twice = clips_in(tmp_path, frames=3, stride=2, seed=5)
    assert torch.equal(next(iter(twice)).clips, next(iter(twice)).clips)


def test_batches_hold_one_shape(tmp_path: Path) -> None:
    counting(tmp_path, "a", "b", "c")
    counting(tmp_path, "d", "e", size=6)
    counting(tmp_path, "f", frames=2, size=6)
    found = clips_in(tmp_path, batch_size=2)
    for _ in range(2):
        assert [tuple(batch.clips.shape) for batch in found] == [
            (2, 3, 3, 4, 4),
            (1, 3, 3, 4, 4),
            (2, 3, 3, 6, 6),
            (1, 2, 3, 6, 6),
        ]
    assert [len(batch.clips) for batch in clips_in(tmp_path, frames=2, size=(5, 5), batch_size=4)] == [4, 2]


def test_real_videos_are_cut_and_scaled() -> None:
    (batch,) = clips_in(DATA, frames=2, stride=3, size=(32, 48))
    assert batch.clips.shape == (4, 2, 3, 32, 48)
    assert batch.clips.dtype == torch.float32
    assert 0 <= float(batch.clips.min()) < 0.1 < 0.9 < float(batch.clips.max()) <= 1
    names = [file.name for file in clips_in(DATA).files]
    assert names == ["bigbuckbunny", "bikes", "carphone_distorted", "carphone_pristine"]
    pristine, distorted = batch.clips[3], batch.clips[2]
    assert float((pristine - distorted).abs().mean()) < 0.05 < float((pristine - batch.clips[1]).abs().mean())


# --- what is left out -----------------------------------------------------------------------------------------------


def test_what_is_broken_is_left_out_and_told_once(tmp_path: Path) -> None:
    counting(tmp_path, "a", "c")
    counting(tmp_path, "short", frames=2)
    (tmp_path / "b.mp4").write_bytes((DATA / "bikes.mp4").read_bytes()[:200_000])
    (tmp_path / "empty.avi").write_bytes(b"")
    sequence(tmp_path / "seq", 3, size=(4, 4))
    (tmp_path / "seq" / "00001.jpg").write_bytes(b"no picture")
    sequence(tmp_path / "uneven", 2, size=(4, 4))
    Image.new("RGB", (9, 9)).save(tmp_path / "uneven" / "00002.png")
    heard = list[tuple[str, str]]()
    found = clips_in(tmp_path, frames=3, broken=lambda path, why: heard.append((path.name, why)))
    assert found.count == 7
    for _ in range(2):
        (batch,) = found
        assert batch.clips.shape == (2, 3, 3, 4, 4)
    assert found.count == 2
    assert [name for name, _ in heard] == ["b.mp4", "empty.avi", "seq", "short.mp4", "uneven"]
    assert {path.name for path in found.left_out} == dict(heard).keys()
    assert dict(heard)["short.mp4"] == "only 2 frames; 3 at stride 1 take 3"
    assert dict(heard)["seq"].startswith("00001.jpg cannot be read as a picture")
    assert "differ in size" in dict(heard)["uneven"]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        clips_in(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no clip")
    with pytest.raises(OutputError, match=r"holds no clip: no video \(\.avi, .*\) and no folder of numbered pictures"):
        clips_in(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"")
    found = clips_in(tmp_path)
    for _ in range(2):
        with pytest.raises(OutputError, match=r"none of its 1 clips can be used; .*a\.mp4: cannot be read as a video"):
            list(found)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"stride": 0}, {"batch_size": 0}, {"size": (0, 4)}, {"size": (4, 0)}])
def test_impossible_numbers(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="must be at least 1, not 0"):
        clips_in(tmp_path, **wrong)  # type: ignore[arg-type]


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_written_folder_is_read_back(tmp_path: Path) -> None:
    clips = torch.from_numpy(np.random.default_rng(0).random((5, 3, 3, 9, 7), np.float32))
    prompts = [f"clip, number {i}: über" for i in range(5)]
    assert [path.name for path in write_clips(clips[:2], prompts[:2], tmp_path / "out")] == ["00000.mp4", "00001.mp4"]
    write_clips(clips[2:], prompts[2:], tmp_path / "out", first=2)
    (batch,) = clips_in(tmp_path / "out")
    assert batch.prompts == prompts
    assert float((batch.clips - clips).abs().max()) <= TOLERANCE + 1e-6
    with pytest.raises(OutputError, match=r"00001\.mp4 is there already and is not overwritten"):
        write_clips(clips[:1], None, tmp_path / "out", first=1)
    with pytest.raises(ModelError, match="with 1 prompts"):
        write_clips(clips, ["one"], tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="clips cannot be written"):
        write_clips(clips[:1], None, tmp_path / "file")


def test_finding_clips_imports_no_torch(tmp_path: Path) -> None:
    counting(tmp_path, "a")
    code = (
        "import sys; from f3core.clip_folder import clips_in; clips_in(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
