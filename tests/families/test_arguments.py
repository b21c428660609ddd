"""Files that a spec names as arguments of a pipeline, opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from f3core_diffusers.arguments import opened
from PIL import Image
from safetensors.torch import save_file

from f3core.errors import ModelError


def test_tensors_come_from_files(tmp_path: Path) -> None:
    one, several = (str(tmp_path / f"{name}.safetensors") for name in ("one", "several"))
    first, second = torch.randn(1, 3), torch.randn(2)
    save_file({"face": first}, one)
    save_file({"b": second, "a": first}, several)
    found = opened({"id_cond": one, "id_vit_hidden": several, "height": 16}, clips=2)
    assert found.keys() == {"id_cond", "id_vit_hidden", "height"}
    assert torch.equal(found["id_cond"], first)
    assert [tensor.tolist() for tensor in found["id_vit_hidden"]] == [first.tolist(), second.tolist()]


def test_every_clip_of_a_call_has_the_negative_prompt() -> None:
    assert opened({"negative_prompt": "left"}, clips=2) == {"negative_prompt": ["left", "left"]}
    assert opened({"negative_prompt": "left"}) == {"negative_prompt": "left"}


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("id_cond", "face.safetensors", None, "there is no file .* give the path of a file of tensors"),
        ("id_cond", "face.safetensors", b"{}", "cannot be read as a file of tensors"),
        ("image", "cat.png", None, "there is no file .* give the path of a picture"),
        ("image", "cat.png", b"", "cannot be read as a picture"),
    ],
)
def test_files_that_are_not_there_or_not_readable(
    tmp_path: Path, name: str, file: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=f"model.call: {name}: .*{message}"):
        opened({name: str(path)})


def test_several_pictures_stay_a_list(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    for path in paths:
        Image.new("RGB", (4, 2)).save(path)
    found = opened({"reference_images": paths}, clips=2)["reference_images"]
    assert [picture.size for picture in found] == [(4, 2), (4, 2)]


def test_tensors_may_stand_for_a_video(tmp_path: Path) -> None:
    save_file({"video": torch.ones(1, 3, 2, 4, 4)}, tmp_path / "video.safetensors")
    assert opened({"video": str(tmp_path / "video.safetensors")})["video"].shape == (1, 3, 2, 4, 4)
