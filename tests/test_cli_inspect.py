"""``f3core inspect`` as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

WAN = ("diffusers.WanTransformer3DModel", "--config", "num_layers=2")


def words(text: str) -> str:
    """Text without the line breaks and frames of a terminal."""
    return " ".join(text.translate(str.maketrans("│┃", "  ")).split())


def test_a_class_as_people_read_it(f3core_cli: Any) -> None:
    code, out, _ = f3core_cli("inspect", *WAN)
    assert code == 0
    said = words(out)
    assert "blocks.*.attn1 2 B F·S F·S SA+TA TA: self_only" in said
    assert "blocks.*.attn2 2 B F·S T CA CA: drop" in said
    assert "queries: all frames, S tokens each; keys: text" in said
    assert "layer index: 0 to 1" in said
    assert "inputs: hidden_states=B,16,F,H,W, timestep=B,, encoder_hidden_states=B,T,4096" in said
    assert "f3core new-adapter NAME --model-class diffusers.WanTransformer3DModel" in said


def test_a_class_as_machines_read_it(f3core_cli: Any) -> None:
    code, out, _ = f3core_cli("inspect", *WAN, "--input", "encoder_hidden_states=B,T,4096", "--size", "F=9", "--json")
    assert code == 0
    (found,) = json.loads(out)
    assert (found["component"], found["config"]) == (None, {"num_layers": 2})
    assert found["sizes"] == {"B": 2, "F": 9, "H": 8, "W": 24, "T": 11}
    group = found["groups"][0]
    assert group["modules"] == [{"path": "blocks.0.attn1", "index": 0}, {"path": "blocks.1.attn1", "index": 1}]
    assert (group["kinds"], group["removals"]) == (["SA", "TA"], {"TA": ["self_only"]})
    assert {name: group["calls"][0][name] for name in ("rows", "queries", "keys", "masked")} == {
        "rows": "B",
        "queries": "F·S",
        "keys": "F·S",
        "masked": False,
    }


def test_folders_of_pipelines_and_of_components(f3core_cli: Any, tiny_folder: Path) -> None:
    for folder in (tiny_folder, tiny_folder / "transformer"):
        code, out, _ = f3core_cli("inspect", folder, "--json")
        assert code == 0
        (found,) = json.loads(out)
        assert found["component"] == "transformer"
        assert len(found["groups"][0]["modules"]) == 4
        assert found["inputs"]["encoder_hidden_states"] != "B,T,4096", "the folder's config was not used"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("WanTransformer3DModel",), "a class is written pkg.Class"),
        (("no_such_package.Model",), "no_such_package cannot be imported"),
        (("diffusers.WonTransformer3DModel",), "diffusers has no WonTransformer3DModel"),
        (("diffusers.WanPipeline",), "is no torch.nn.Module class; give the class of the denoiser itself"),
        (("torch.nn.functional.linear",), "is no torch.nn.Module class"),
        (("torch.nn.Identity",), "Identity.forward needs input"),
        (("torch.nn.Bilinear",), "Bilinear could not be built with its defaults"),
        ((*WAN, "--config", "layers=3"), "--config layers: WanTransformer3DModel has no such argument"),
        ((*WAN, "--config", "layers"), "--config layers: write it as NAME=VALUE"),
        ((*WAN, "--config", "num_layers=[1"), "--config num_layers=[1: "),
        ((*WAN, "--input", "sample=B,3"), "--input sample: WanTransformer3DModel.forward has no such argument"),
        ((*WAN, "--input", "timestep=B,,"), "--input timestep=B,,: cannot be read; B,16,F,H,W is a tensor"),
        ((*WAN, "--size", "Q=3"), "--size Q=3: write it as LETTER=N"),
        ((*WAN, "--size", "F=0"), "--size F=0: write it as LETTER=N"),
        ((*WAN, "--input", "timestep=B,3,4,5"), "no forward of WanTransformer3DModel ran; tried:"),
    ],
)
def test_what_goes_wrong_is_said(f3core_cli: Any, typed: tuple[str, ...], said: str) -> None:
    code, out, err = f3core_cli("inspect", *typed)
    assert code in (1, 2)
    assert said in err
    assert "Traceback" not in out + err


def test_folders_without_a_config_are_refused(f3core_cli: Any, tmp_path: Path) -> None:
    code, _, err = f3core_cli("inspect", tmp_path)
    assert code == 1
    assert "no plugin finds a denoiser in it; give the folder of a pipeline" in err

    (tmp_path / "config.json").write_text("{}")
    code, _, err = f3core_cli("inspect", tmp_path)
    assert code == 1
    assert "its _class_name is missing" in err

    (tmp_path / "config.json").write_text('{"_class_name": "MyModel"}')
    assert "is MyModel, which is no model class of diffusers" in f3core_cli("inspect", tmp_path)[2]

    (tmp_path / "config.json").write_text("{")
    assert "config.json: cannot be read" in f3core_cli("inspect", tmp_path)[2]


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from f3core import cli\n"
        "sys.argv = ['f3core', 'inspect', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pkg.Class|DIR" in done.stdout
