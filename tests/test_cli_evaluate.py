"""`f3core evaluate` as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_video import DATA, cut

from f3core.clip_folder import write_clips


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the digit world with their captions, and one that is broken."""
    from f3core_zoo import digits

    folder = tmp_path_factory.mktemp("clips") / "digits"
    prompts = digits.prompts(6)
    write_clips(digits.render(prompts, 0, "held_out"), prompts, folder)
    (folder / "broken.mp4").write_bytes((DATA / "bikes.mp4").read_bytes()[:200_000])
    (folder / "broken.txt").write_text("a red one moving left")
    return folder


def test_a_table_and_what_was_left_out(f3core_cli: Any, digits: Path) -> None:
    code, out, err = f3core_cli("evaluate", digits, "--metric", "text_accuracy", "-m", "frechet_video")
    assert code == 0
    for part in ("text_accuracy", "direction", "frechet_video", "higher", "lower", "left out:", "broken.mp4"):
        assert part in out
    assert "text_accuracy" in err  # the bar


def test_json_and_the_file_say_the_same(f3core_cli: Any, digits: Path, tmp_path: Path) -> None:
    words = "evaluate", digits, "-m", "text_accuracy", "--frames", "8", "--size", "16x16"
    code, out, err = f3core_cli(*words, "--json", "-o", tmp_path / "q.json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads((tmp_path / "q.json").read_text())
    assert found["left_out"].keys() == {"broken.mp4"}
    assert found["metrics"][0]["clips"] == 6
    assert found["sampling"] == {"frames": 8, "stride": 1, "size": [16, 16], "batch_size": 8, "reference_seed": 0}
    code, _, err = f3core_cli(*words, "-o", tmp_path / "q.json")
    assert code == 2
    assert "q.json is there already and is not overwritten" in err
    assert f3core_cli(*words, "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "error: give at least one --metric; there are: "),
        (("-m", "text_acuracy"), 2, "did you mean 'text_accuracy'?"),
        (("-m", "text_accuracy", "--size", "16"), 2, "--size 16: write it as HxW, such as 128x128"),
        (("-m", "text_accuracy", "--frames", "0"), 2, "--frames"),
        (("-m", "text_accuracy={a: 1}"), 1, "metric 'text_accuracy' does not take {'a': 1}"),
        (("-m", "text_accuracy", "--frames", "99"), 2, "none of its 7 clips can be used"),
        (("-m", "text_accuracy", "--size", "8x8"), 1, "the judge of the digit world looks at clips [B, F, 3, 16, 16]"),
        (("-m", "text_accuracy", "--reference", "."), 2, "text_accuracy would not look at it"),
    ],
)
def test_what_is_refused(f3core_cli: Any, digits: Path, words: tuple[str, ...], code: int, said: str) -> None:
    got, out, err = f3core_cli("evaluate", digits, *words)
    assert (got, out) == (code, "")
    assert said in err.replace("│", "").replace("\n", " ")


def test_folders_without_captions_or_clips(f3core_cli: Any, tmp_path: Path) -> None:
    code, _, err = f3core_cli("evaluate", tmp_path, "-m", "text_accuracy")
    assert code == 2
    assert "holds no clip" in err
    write_clips(torch.rand(1, 2, 3, 16, 16), None, tmp_path)
    code, _, err = f3core_cli("evaluate", tmp_path, "-m", "text_accuracy")
    assert code == 2
    assert "1 of 1" in err
    assert "(00000.txt), or into" in err


def test_real_videos_in_two_folders(f3core_cli: Any, tmp_path: Path) -> None:
    """A pristine and a distorted recording of the same scene, compared clip by clip."""
    pytest.importorskip("torchmetrics")
    for folder, source in (("distorted", "carphone_distorted.mp4"), ("pristine", "carphone_pristine.mp4")):
        (tmp_path / folder).mkdir()
        cut(tmp_path / folder / "carphone.mkv", "-c:v", "ffv1", source=source, frames=6)
    words = "--reference", tmp_path / "pristine", "-m", "psnr", "--frames", "4", "--size", "64x64", "--json"
    values = []
    for folder in ("distorted", "pristine"):
        code, out, err = f3core_cli("evaluate", tmp_path / folder, *words)
        assert code == 0, err
        values.append(float(json.loads(out)["metrics"][0]["figures"]["psnr"]))
    assert 20 < values[0] < 45 < values[1]


def test_fvd_of_a_folder_and_itself(f3core_cli: Any, digits: Path) -> None:
    fvd = "fvd={features: zoo:judge}"
    code, out, err = f3core_cli("evaluate", digits, "--reference", digits, "-m", fvd, "--json")
    assert code == 0, err
    found = json.loads(out)
    (row,) = found["metrics"]
    assert row["options"] == {"features": "zoo:judge"}
    assert (row["clips"], row["reference_clips"]) == (6, 6)
    assert abs(row["figures"]["fvd"]) < 1e-3
    assert "2048" in row["warnings"][0]
    assert found["left_out"] == found["reference_left_out"]
    assert err == ""
