"""Drafted plugin packages: what they hold, that they register, and that the contract accepts them as drafted."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_dit
import pytest
import torch
from torch import nn

from f3core.adapter import Adapter
from f3core.errors import ModelError, OutputError, SpecError
from f3core.inspection.inspect_model import inspect_class
from f3core.registry import Registry, installed
from f3core.scaffolding.input_code import forward_arguments
from f3core.scaffolding.scaffold import Subject, check_name, draft_package, marks, write_package
from f3core.scaffolding.shrinking import shrunk
from f3core.sites import AttentionKind, Removal

diffusers = pytest.importorskip("diffusers")

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
Files = dict[str, str]
Drafted = Callable[..., Files]


@pytest.fixture(scope="module")
def drafted() -> Drafted:
    """The files of a package, drafted once."""
    made: dict[str, Files] = {}

    def draft(name: str, model_class: type[nn.Module], config: Any = None, inputs: Any = None) -> Files:
        if name not in made:
            subject = Subject(name, model_class, inspect_class(model_class, config, inputs))
            made[name] = draft_package(subject, installed())
        return made[name]

    return draft


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files, str], Any]:
    """Writes a package and imports one of its modules."""

    def load(files: Files, module: str) -> Any:
        folder = tmp_path / "package"
        write_package(files, folder)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.syspath_prepend(str(folder / "tests"))
        for name in [name for name in sys.modules if name.startswith(module.partition(".")[0])]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(module)

    return load


def open_marks(files: Files) -> list[str]:
    return [mark.text for mark in marks(files) if mark.open]


def wan(drafted: Drafted) -> Files:
    return drafted("draft-wan", diffusers.WanTransformer3DModel, {"num_layers": 2})


def plain(drafted: Drafted) -> Files:
    return drafted("draft-plain", plain_dit.PlainDiT)


# --- what is drafted ------------------------------------------------------------------------------------------------


def test_a_package_holds_what_can_be_published(drafted: Drafted) -> None:
    files = wan(drafted)
    assert sorted(files) == [
        "README.md",
        "f3core_draft_wan/__init__.py",
        "f3core_draft_wan/adapter.py",
        "pyproject.toml",
        "tests/test_contract.py",
    ]
    assert 'f3core_draft_wan = "f3core_draft_wan"' in files["pyproject.toml"]
    assert 'dependencies = ["f3core", "diffusers"]' in files["pyproject.toml"]
    assert not any("$" in text for text in files.values()), "a placeholder was not filled"
    assert max(len(line) for text in files.values() for line in text.splitlines()) <= 120


def test_a_full_3d_model_of_diffusers_is_drafted_without_open_decisions(drafted: Drafted) -> None:
    adapter = wan(drafted)["f3core_draft_wan/adapter.py"]
    assert '"attn1": Full3D(companions=("norm1",)),' in adapter
    assert '"attn2": Cross(companions=("norm2",)),' in adapter
    assert 'text = ("encoder_hidden_states", 2)' in adapter
    assert (
        '"hidden_states": example.noise(config.in_channels, example.frames, example.height, example.width),' in adapter
    )
    assert open_marks(wan(drafted)) == []


def test_a_joint_model_of_diffusers_is_drafted_without_open_decisions(drafted: Drafted) -> None:
    files = drafted("draft-cog", diffusers.CogVideoXTransformer3DModel, {"num_layers": 2})
    adapter = files["f3core_draft_cog/adapter.py"]
    assert '"attn1": Joint(text_first=True),' in adapter
    assert 'axes = "FCHW"' in adapter
    assert 'usual_text = "max_text_seq_length"' in adapter
    assert open_marks(files) == []


def test_packed_latents_and_masks(drafted: Drafted) -> None:
    files = drafted("draft-ltx", diffusers.LTXVideoTransformer3DModel, {"num_layers": 2})
    adapter = files["f3core_draft_ltx/adapter.py"]
    assert 'frames = argument(args, kwargs, "num_frames", 4)' in adapter
    assert "example.noise(example.frames * example.height * example.width, config.in_channels)" in adapter
    assert "example.padding_mask()" in adapter
    assert "return 1, 1, 1" in adapter


def test_what_no_config_says_is_left_open(drafted: Drafted) -> None:
    files = drafted(
        "draft-k6",
        diffusers.Kandinsky6Transformer3DModel,
        {"num_visual_blocks": 2, "num_text_blocks": 1},
        {"hidden_states": "B,F,H,W,33"},
    )
    assert open_marks(files) == [
        "the config has no 33, as in hidden_states=B,F,H,W,33; say how it follows from the config"
    ]
    (mark,) = (mark for mark in marks(files) if mark.open)
    assert "# DECIDE: the config has no 33" in files[mark.file].splitlines()[mark.line - 1]


def test_what_stays_in_float32_is_cast_apart(drafted: Drafted, imported: Any) -> None:
    files = drafted(
        "draft-k5",
        diffusers.Kandinsky5Transformer3DModel,
        {"num_visual_blocks": 1, "num_text_blocks": 1, "visual_cond": False},
    )
    contract = imported(files, "test_contract").TestDraftK5Adapter()
    model = contract._made(torch.bfloat16)
    kept = {name for name, weight in model.named_parameters() if weight.dtype == torch.float32}
    assert kept
    assert all("time_embeddings" in name or "modulation" in name for name in kept)
    contract._run(model, contract._inputs(model))
    assert "def cast" not in wan(drafted)["tests/test_contract.py"]


def test_a_model_of_another_library_offers_its_pruned_class_itself(drafted: Drafted) -> None:
    class Elsewhere(diffusers.WanTransformer3DModel):
        pass

    files = drafted("draft-elsewhere", Elsewhere, {"num_layers": 1})
    assert 'pruned_model_class(denoiser_class, "f3core_draft_elsewhere")' in files["f3core_draft_elsewhere/adapter.py"]
    assert "PrunedElsewhere and ModelMixin" in open_marks(files)[0]


def test_modules_in_no_plain_list_of_blocks_are_left_open(drafted: Drafted) -> None:
    (text,) = (text for text in open_marks(drafted("nested", plain_dit.Nested)) if "stages" in text)
    assert text.startswith("stages.*.* (Attention, 4): B rows, queries F·S, keys F·S; in no plain list of blocks")


def test_without_attention_of_frames_there_is_nothing_to_adapt() -> None:
    with pytest.raises(ModelError, match="no attention of frames was seen"):
        draft_package(Subject("text", plain_dit.TextAlone, inspect_class(plain_dit.TextAlone)), installed())
    with pytest.raises(ModelError, match="never called"):
        inspect_class(plain_dit.NoAttention)


def test_a_model_is_made_small_by_what_its_constructor_offers() -> None:
    inputs = forward_arguments(
        {"x": "B,16,F,H,W", "t": "B,", "context": "B,T,96"},
        {"x": 0, "t": 1, "context": 2},
        {"in_channels": 16, "width": 128, "text_dim": 96, "num_layers": 3},
    )
    tiny = shrunk(plain_dit.PlainDiT, {}, inputs)
    assert tiny is not None
    assert tiny.config == {"num_layers": 2, "width": 32, "text_dim": 40}
    assert (tiny.height, tiny.width, tiny.zeros, tiny.mixed) == (4, 6, False, False)
    assert tiny.parameters == sum(weight.numel() for weight in plain_dit.PlainDiT(**tiny.config).parameters())
    assert shrunk(plain_dit.NoAttention, {}, inputs[:1]) is None


# --- what a draft does ----------------------------------------------------------------------------------------------


def test_a_drafted_package_registers_and_finds_sites(drafted: Drafted, imported: Any) -> None:
    registry = Registry()
    registry.register(imported(wan(drafted), "f3core_draft_wan"), "f3core_draft_wan")
    assert registry.match_adapter(["WanTransformer3DModel"]).name == "draft-wan"
    adapter: Adapter = registry.make("adapter", "draft-wan")
    with torch.device("meta"):
        model = diffusers.WanTransformer3DModel(num_layers=2)
    ours = installed().make("adapter", "wan").sites(model, "transformer")
    assert [(site.path, site.index, site.kinds, site.companions) for site in adapter.sites(model, "transformer")] == [
        (site.path, site.index, site.kinds, site.companions) for site in ours
    ]


def test_the_contract_accepts_a_draft(drafted: Drafted, imported: Any) -> None:
    contract = imported(wan(drafted), "test_contract").TestDraftWanAdapter()
    assert sum(weight.numel() for weight in contract.build().parameters()) < 200_000
    contract.test_sites_exist_and_run_in_the_order_listed()
    contract.test_layout_and_noise_level_are_read_from_the_arguments()
    contract.test_segments_cover_every_token_and_give_the_declared_kinds()
    contract.test_removals_equal_the_plain_way(torch.float32)


def test_the_contract_accepts_a_draft_for_a_plain_model(drafted: Drafted, imported: Any) -> None:
    contract = imported(plain(drafted), "test_contract").TestDraftPlainAdapter()
    contract.test_sites_exist_and_run_in_the_order_listed()
    contract.test_layout_and_noise_level_are_read_from_the_arguments()
    contract.test_segments_cover_every_token_and_give_the_declared_kinds()
    contract.test_removals_equal_the_plain_way(torch.float32)
    (site, _) = contract.adapter.sites(contract.build(), "transformer")[:2]
    assert site.removals == {TA: (Removal.SELF_ONLY,)}


def test_a_model_that_keeps_no_config_leaves_its_widths_open(drafted: Drafted) -> None:
    told = "what the model keeps of its constructor arguments, or whatever tells these widths"
    assert told in open_marks(drafted("nested", plain_dit.Nested))
    assert told not in open_marks(plain(drafted))


def test_what_is_open_says_so_when_it_is_used(drafted: Drafted, imported: Any) -> None:
    files = plain(drafted)
    adapter = imported(files, "f3core_draft_plain.adapter").DraftPlainAdapter()
    with pytest.raises(ModelError, match=r"PlainDiT: load\(\) is open; see DECIDE"):
        adapter.load("somewhere", dtype=None, device=torch.device("cpu"))
    assert {text.partition(" ")[0] for text in open_marks(files)} == {"return", "write"}


@pytest.mark.slow
def test_the_contract_passes_as_drafted(drafted: Drafted, tmp_path: Path) -> None:
    """All of it but compiling, which takes long, and is tested of our own adapter for the class."""
    write_package(wan(drafted), tmp_path / "package")
    (tmp_path / "registering.py").write_text(
        "import f3core_draft_wan\nfrom f3core.registry import installed\n"
        "installed().register(f3core_draft_wan, 'f3core_draft_wan')\n"  # as if it were installed
    )
    options = ("-q", "-p", "registering", "-p", "no:cacheprovider", "-k", "not compiles")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path / "package"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path / 'package'}"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout[-3000:]


# --- names and folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Mine", "1st", "my model", "my--model", "../mine", "my.model", "mine_"])
def test_names_that_no_package_can_have(name: str) -> None:
    with pytest.raises(SpecError, match="write it in small letters and digits"):
        check_name(name, installed())


def test_names_that_are_taken() -> None:
    with pytest.raises(SpecError, match="plugin 'diffusers' registers an adapter of this name"):
        check_name("wan", installed())
    with pytest.raises(SpecError, match="there is a package f3core_zoo already"):
        check_name("zoo", installed())
    check_name("my-model_2", installed())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_package({"good": "1", "good/bad": "2"}, tmp_path / "package")
    assert list(tmp_path.iterdir()) == []
    write_package({"good": "1"}, tmp_path / "package")
    with pytest.raises(OutputError, match="exists; give another folder by --output"):
        write_package({"other": "1"}, tmp_path / "package")
    assert (tmp_path / "package" / "good").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
