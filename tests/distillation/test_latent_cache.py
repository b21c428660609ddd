"""Latents of clips: the same whoever asks, encoded once, shared by processes, gone on with after a kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_training import FlowRecipe

from f3core.distillation import latent_cache
from f3core.distillation.dataset import Dataset
from f3core.distillation.latent_cache import Latents
from f3core.errors import ClipError, ModelError, OutputError


class Noise(Dataset):
    """Clips of noise; clip 3 has no caption, the others their number."""

    name = "noise"

    def __init__(self, clips: int = 7, seed: int = 0) -> None:
        self.clips, self.seed, self.read = clips, seed, list[int]()

    def __len__(self) -> int:
        return self.clips

    def clip(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        if not 0 <= number < self.clips:
            raise ClipError(f"there is no clip {number}")
        self.read.append(number)
        frames, height, width = size
        generator = torch.Generator().manual_seed(100 * self.seed + number)
        return torch.rand(frames, 3, height, width, generator=generator), "" if number == 3 else f"№ {number}"


class Means(FlowRecipe):
    """Latents are the mean colours of a clip's frames, and 1/3, which half precision does not hold."""

    size = (2, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def latents(self, clips: Tensor) -> Tensor:
        self.batches.append(len(clips))
        return clips.mean((3, 4)) + 1 / 3


def expected(numbers: Sequence[int], data: Noise | None = None) -> Tensor:
    clips = torch.stack([(data or Noise()).clip(number, Means.size)[0] for number in numbers])
    return (clips.mean((3, 4)) + 1 / 3).half().float()


@given(
    asked=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), min_size=1, max_size=4), batch=st.integers(1, 9)
)
@settings(max_examples=25, deadline=None)
def test_latents_and_captions_whatever_is_asked_and_whether_or_not_they_are_kept(
    asked: list[list[int]], batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for latents in (
        Latents(Noise(), Means(), None, False, batch),
        Latents(Noise(), Means(), folder, True, batch),
        Latents(Noise(), Means(), folder, True, batch),
    ):
        assert len(latents) == 7
        for numbers in asked:
            found = latents.latents(numbers)
            assert found.dtype == torch.float32
            assert torch.equal(found, expected(numbers))
            assert latents.captions(numbers) == ["" if n == 3 else f"№ {n}" for n in numbers]
            assert latents.clips(numbers) is None


def test_captions_are_known_before_latents_were_asked_for(tmp_path: Path) -> None:
    for keep in (False, True):
        assert Latents(Noise(), Means(), tmp_path, keep, 2).captions([4, 3]) == ["№ 4", ""]


def test_every_clip_is_encoded_once(tmp_path: Path) -> None:
    data, recipe = Noise(), Means()
    latents = Latents(data, recipe, tmp_path, True, 3)
    data.read.clear()
    recipe.batches.clear()
    told: list[tuple[int, int]] = []
    latents.prepare(lambda done, of: told.append((done, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    for _ in range(2):
        latents.latents(range(7))
        latents.captions(range(7))
    assert data.read == list(range(7))
    assert recipe.batches == [3, 3, 1]
    again = Latents(data, recipe, tmp_path, True, 3)
    assert recipe.batches == [3, 3, 1, 1, 1]  # the first and the last, to see that they are the same
    again.prepare()
    assert torch.equal(again.latents(range(7)), expected(range(7)))
    assert recipe.batches == [3, 3, 1, 1, 1]


def test_shares_of_processes_are_everything(tmp_path: Path) -> None:
    recipe = Means()
    latents = Latents(Noise(), recipe, tmp_path, True, 2)
    for process in range(3):
        latents.prepare(process=process, processes=3)
    recipe.batches.clear()
    latents.latents(range(7))
    assert recipe.batches == []


def test_a_folder_of_other_clips_or_of_another_size_is_refused(tmp_path: Path) -> None:
    Latents(Noise(), Means(), tmp_path, True, 2).latents([5])
    with pytest.raises(OutputError, match="latents of 7 clips, not of 8"):
        Latents(Noise(8), Means(), tmp_path, True, 2)
    with pytest.raises(OutputError, match="other clips, or of another codec; remove"):
        Latents(Noise(seed=1), Means(), tmp_path, True, 2)
    larger = Means()
    larger.size = (3, 4, 4)
    with pytest.raises(OutputError, match="other clips, or of another codec; remove"):
        Latents(Noise(), larger, tmp_path, True, 2)
    with pytest.raises(OutputError, match="cannot be kept there"):
        Latents(Noise(), Means(), tmp_path / latent_cache.DATA, True, 2)


def test_what_was_not_marked_is_made_anew(tmp_path: Path) -> None:
    """As after a kill between writing and marking: latents half written, a line of captions without its end."""
    Latents(Noise(), Means(), tmp_path, True, 7).prepare()
    with (tmp_path / latent_cache.DONE).open("r+b") as done:
        done.seek(2)
        done.write(b"\0\0")
    with (tmp_path / latent_cache.DATA).open("r+b") as data:
        data.seek(2 * 12 + 1)
        data.write(b"\7\7\7")
    with (tmp_path / latent_cache.CAPTIONS).open("ab") as texts:
        texts.write(b'[2, "hal')
    recipe = Means()
    latents = Latents(Noise(), recipe, tmp_path, True, 7)
    recipe.batches.clear()
    assert torch.equal(latents.latents(range(7)), expected(range(7)))
    assert recipe.batches == [7]
    assert latents.captions([2, 3]) == ["№ 2", ""]


@pytest.mark.parametrize("bad", [float("nan"), 1e6])
def test_latents_that_half_precision_does_not_hold_are_refused(bad: float, tmp_path: Path) -> None:
    class Bad(Means):
        def latents(self, clips: Tensor) -> Tensor:
            return torch.where(clips.mean((3, 4)) >= 0, bad, 0.0)

    for keep in (False, True):
        with pytest.raises(ModelError, match="clip 0 are not finite in half precision"):
            Latents(Noise(), Bad(), tmp_path, keep, 2).latents([0])


def test_clips_are_given_to_recipes_that_take_them_and_names_to_those_without_prompts(tmp_path: Path) -> None:
    recipe: Any = Means()
    recipe.takes_clips, recipe.takes_prompts = True, False
    latents = Latents(Noise(), recipe, tmp_path, True, 2)
    clips = latents.clips([3, 1])
    assert clips is not None
    assert torch.equal(clips, torch.stack([Noise().clip(n, recipe.size)[0] for n in (3, 1)]))
    assert latents.captions([3, 1]) == ["clip 3", "№ 1"]  # an empty prompt would ask for the unconditional branch


def test_what_a_dataset_cannot_read_stops_here(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="there is no clip 7"):
        Latents(Noise(), Means(), None, False, 2).latents([7])
    with pytest.raises(ModelError, match="no folder is given"):
        Latents(Noise(), Means(), None, True, 2)
    with pytest.raises(ModelError, match="batch_size must be at least 1"):
        Latents(Noise(), Means(), tmp_path, True, 0)


class Dying(Means):
    """Kills its process while it holds clips of the third group that it encodes."""

    def latents(self, clips: Tensor) -> Tensor:
        if len(self.batches) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().latents(clips)


def share(folder: Path, order: int, recipe: Means) -> None:
    """Ask for all clips in some order, and see that they are right."""
    data = Noise(40)
    latents = Latents(data, recipe, folder, True, 4)
    numbers = torch.randperm(40, generator=torch.Generator().manual_seed(order)).tolist()
    for start in range(0, 40, 5):
        part = numbers[start : start + 5]
        assert torch.equal(latents.latents(part), expected(part, data))
        assert latents.captions(part) == ["" if n == 3 else f"№ {n}" for n in part]


def test_processes_share_a_folder_and_one_that_is_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    recipes = (Dying(), Means(), Means())
    running = [forked.Process(target=share, args=(tmp_path, n, recipe)) for n, recipe in enumerate(recipes)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [-signal.SIGKILL, 0, 0]
    share(tmp_path, 3, Means())
