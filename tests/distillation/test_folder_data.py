"""Folders of clips as data: by number, brought to size, with captions; what is broken is refused or stood in for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_clip_folder import counting, sequence, tens
from test_video import cut

from f3core.distillation.folder_data import FolderData
from f3core.errors import ClipError, ModelError, OutputError
from f3core.registry import installed

SIZE = (2, 4, 4)


def test_clips_by_number_with_their_captions(tmp_path: Path) -> None:
    counting(tmp_path, "a", "b", frames=5)
    (tmp_path / "b.txt").write_text("a red cat\n")
    data = installed().make("data set", "folder", {"path": str(tmp_path), "stride": 2})
    assert len(data) == 2
    (first, uncaptioned), (second, caption) = data.clip(0, SIZE), data.clip(1, (3, 2, 4))
    assert (first.shape, tens(first), uncaptioned) == ((2, 3, 4, 4), [0, 2], "")
    assert (second.shape, tens(second), caption) == ((3, 3, 2, 4), [0, 2, 4], "a red cat")
    assert 0 <= first.min() <= first.max() <= 1
    with pytest.raises(ClipError, match="there is no clip 2"):
        data.clip(2, SIZE)


def test_ucf_as_published_has_classes_for_captions(tmp_path: Path) -> None:
    for name in ("ApplyEyeMakeup", "YoYo"):
        (tmp_path / name).mkdir()
        cut(tmp_path / name / f"v_{name}_g01_c01.avi", "-s", "32x24", source="bikes.mp4", frames=3)
    data = FolderData(str(tmp_path))
    assert [data.clip(i, (2, 8, 8))[1] for i in range(2)] == ["apply eye makeup", "yo yo"]


def test_a_seed_draws_where_each_clip_begins_and_repeats(tmp_path: Path) -> None:
    for name in "abcdef":
        sequence(tmp_path / name, 20)

    def begins(seed: int | None) -> list[int]:
        data = FolderData(str(tmp_path), seed=seed)
        return [round(float(data.clip(i, SIZE)[0][0].mean()) * 255 / 10) for i in range(6)]

    assert begins(None) == [0] * 6
    assert begins(1) == begins(1)
    assert len(set(begins(1))) > 1
    assert begins(1) != begins(2)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Clips a (2 frames), b (broken), c (1 frame), d (2 frames)."""
    counting(tmp_path, "a", "d", frames=2)
    counting(tmp_path, "c", frames=1)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(name)
    return tmp_path


def test_a_broken_clip_is_refused_by_name_when_it_is_asked_for(damaged: Path) -> None:
    data = FolderData(str(damaged))
    assert len(data) == 4
    assert data.clip(0, SIZE)[1] == "a"
    with pytest.raises(ClipError, match=r"b\.mp4: .*give broken: skip"):
        data.clip(1, SIZE)
    with pytest.raises(ClipError, match=r"c\.mp4: only 1 frames; 2 at stride 1 take 2"):
        data.clip(2, SIZE)
    assert data.clip(2, (1, 4, 4))[1] == "c"  # long enough for another size


def test_a_skipped_clip_is_stood_in_for_by_the_next_that_can_be_read(damaged: Path) -> None:
    data = FolderData(str(damaged), broken="skip")
    for _ in range(2):  # found, and remembered
        assert [data.clip(i, SIZE)[1] for i in range(4)] == ["a", "d", "d", "d"]
    assert [data.clip(i, (1, 4, 4))[1] for i in range(4)] == ["a", "c", "c", "d"]
    assert torch.equal(data.clip(1, SIZE)[0], data.clip(3, SIZE)[0])
    with pytest.raises(ClipError, match="none of its 4 clips can be used"):
        data.clip(0, (3, 4, 4))


def test_impossible_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no such folder"):
        FolderData(str(tmp_path / "nowhere"))
    counting(tmp_path, "a")
    with pytest.raises(ModelError, match="broken must be refuse or skip, not 'ignore'"):
        FolderData(str(tmp_path), broken="ignore")
    with pytest.raises(ModelError, match="stride must be at least 1"):
        FolderData(str(tmp_path), stride=0)
