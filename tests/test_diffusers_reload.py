"""Pruned pipelines come back with plain `DiffusionPipeline.from_pretrained`, in a process that never imports f3core."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import f3core_diffusers
import pytest
import tiny_wan
import torch
from diffusers import DiffusionPipeline, WanPipeline
from f3core_diffusers.wan import WanAdapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from f3core.contract import example_plan
from f3core.errors import F3Error, ModelError
from f3core.meta import share_copy
from f3core.plan import PruningPlan, StepRange
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import apply_plan_

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
ADAPTER = WanAdapter()
RANGES = (StepRange(low=800.0), StepRange(high=800.0))
DTYPE = "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 41) else "torch_dtype"
WEIGHTS = Path("transformer") / "diffusion_pytorch_model.safetensors"

CASES: dict[str, tuple[tuple[AttentionKind, Removal], dict[str, Any]]] = {
    "layer": ((TA, Removal.SELF_ONLY), {"chosen": (1,)}),
    "layer-drop": ((TA, Removal.DROP), {"chosen": (0, 2)}),
    "layer-text": ((CA, Removal.DROP), {"chosen": (2,)}),
    "layer-mask": ((SA, Removal.MASK), {"chosen": (0,)}),
    "timestep": ((TA, Removal.SELF_ONLY), {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (0,)}),
    "timestep-drop": ((TA, Removal.DROP), {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (1,)}),
    "cell": ((TA, Removal.SELF_ONLY), {"axis": PruningAxis.CELL, "ranges": RANGES, "chosen": (0, 1, 4)}),
    "cell-drop": ((TA, Removal.DROP), {"axis": PruningAxis.CELL, "ranges": RANGES, "chosen": (0, 1, 4)}),
    "unconditional": ((TA, Removal.SELF_ONLY), {"chosen": (0, 2), "unconditional": {"transformer": {"forward": (1,)}}}),
    "unconditional-cell": (
        (TA, Removal.DROP),
        {
            "axis": PruningAxis.CELL,
            "ranges": RANGES,
            "chosen": (0, 1, 4),
            "unconditional": {"transformer": {"forward": (1, 1)}},
        },
    ),
    "bfloat16": ((TA, Removal.DROP), {"chosen": (1,)}),
    "sharded": ((TA, Removal.DROP), {"chosen": (1,)}),
    "two-stage": ((TA, Removal.DROP), {"chosen": (0, 1)}),
}


def generate(pipe: Any, call: dict[str, Any] = tiny_wan.CALL) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    prompts = ["a red cat runs", "a dog"]
    return pipe(prompt=prompts, num_inference_steps=4, generator=seeds, output_type="pt", **call).frames.float()


FRESH = f"""
import json, sys, torch
from typing import Any
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

class tiny_wan:
    CALL = {tiny_wan.CALL!r}

{inspect.getsource(generate)}
assert not any(name.startswith("f3core") for name in sys.modules)
folder, found = sys.argv[1], {{}}
for name, dtype in json.loads(sys.argv[2]).items():
    pipe = DiffusionPipeline.from_pretrained(f"{{folder}}/{{name}}", **{{{DTYPE!r}: getattr(torch, dtype)}})
    found[name] = generate(pipe)
    state = pipe.transformer.state_dict()
    found |= {{f"{{name}}/{{key}}": value.contiguous() for key, value in state.items()}}
save_file(found, f"{{folder}}/clips.safetensors")
"""


def by_adapter(folder: Path) -> Any:
    return ADAPTER.load(str(folder), dtype=None, device=torch.device("cpu"))


def pruned(pipe: WanPipeline, plan: PruningPlan) -> WanPipeline:
    copies = {name: share_copy(denoiser) for name, denoiser in ADAPTER.denoisers(pipe).items()}
    for name, denoiser in copies.items():
        assert apply_plan_(denoiser, plan, ADAPTER, name).sites
    return ADAPTER.with_denoisers(pipe, copies)


def plan_for(name: str, pipe: WanPipeline) -> PruningPlan:
    change, options = CASES[name]
    sites = [site for part, denoiser in ADAPTER.denoisers(pipe).items() for site in ADAPTER.sites(denoiser, part)]
    return example_plan("wan", sites, change, **options)


def source(name: str, root: Path) -> WanPipeline:
    pipe = tiny_wan.pipeline(3)
    if name == "two-stage":
        pipe = WanPipeline(**{**pipe.components, "transformer_2": tiny_wan.transformer(1), "boundary_ratio": 0.9})
    if name == "bfloat16":  # as users get it: norms and embeddings stay in float32
        pipe.save_pretrained(root / "full")
        pipe = DiffusionPipeline.from_pretrained(root / "full", **{DTYPE: torch.bfloat16})
        assert pipe.transformer.blocks[0].attn1.to_q.weight.dtype is torch.bfloat16
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, WanPipeline], dict[str, Tensor]]:
    """Every case pruned and saved, the pipelines in memory, and what one fresh process made of the folders."""
    root = tmp_path_factory.mktemp("reload")
    pipes = {}
    for name in CASES:
        pipe = source(name, root)
        pipes[name] = pruned(pipe, plan_for(name, pipe))
        ADAPTER.save(pipes[name], root / name)
        if name == "sharded":
            (root / name / WEIGHTS).unlink()
            pipes[name].transformer.save_pretrained(root / name / "transformer", max_shard_size="30KB")
    asked = {name: "bfloat16" if name == "bfloat16" else "float32" for name in CASES}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    script = root / "fresh.py"
    script.write_text(FRESH)
    done = subprocess.run(
        [sys.executable, script, root, json.dumps(asked)], env=environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, pipes, load_file(root / "clips.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_process_makes_the_same_clips(name: str, made: Any) -> None:
    _, pipes, found = made
    assert torch.equal(generate(pipes[name]), found[name])
    state = pipes[name].transformer.state_dict()
    loaded = {key.partition("/")[2]: value for key, value in found.items() if key.startswith(f"{name}/")}
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert all(loaded[key].dtype is value.dtype for key, value in state.items())


@pytest.mark.parametrize("name", [name for name in CASES if name != "bfloat16"])
def test_pruning_shows_in_the_clips(name: str, made: Any) -> None:
    """Otherwise equal clips would prove nothing."""
    root, _, found = made
    assert not torch.equal(generate(source(name, root)), found[name])


def test_files_say_what_they_hold(made: Any) -> None:
    root, pipes, _ = made
    for name in CASES:
        index = json.loads((root / name / "model_index.json").read_text())
        assert index["_class_name"] == "WanPipeline"
        assert index["transformer"] == ["f3core_diffusers", "PrunedWanTransformer3DModel"]
        config = json.loads((root / name / "transformer" / "config.json").read_text())
        assert config["_class_name"] == "PrunedWanTransformer3DModel"
        assert PruningPlan.model_validate(config["f3core"]["plan"]) == pipes[name].transformer.f3_plan
    assert json.loads((root / "two-stage" / "transformer_2" / "config.json").read_text())["f3core"]["component"] == (
        "transformer_2"
    )
    shards = sorted((root / "sharded" / "transformer").glob("*.safetensors"))
    assert len(shards) > 2
    whole, half = (set(load_file(root / name / WEIGHTS)) for name in ("layer", "layer-drop"))
    assert {key for key in whole if key.startswith(("blocks.0.attn1.", "blocks.2.attn1."))} == whole - half


def test_saved_again_it_is_the_same(made: Any, tmp_path: Path) -> None:
    root, _, found = made
    once = DiffusionPipeline.from_pretrained(root / "cell-drop")
    once.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(generate(again), found["cell-drop"])
    assert again.transformer.f3_plan == once.transformer.f3_plan
    assert ADAPTER.sites(again.transformer, "transformer") == ADAPTER.sites(once.transformer, "transformer")


def test_the_adapter_loads_it_too(made: Any) -> None:
    root, _, found = made
    assert torch.equal(generate(by_adapter(root / "layer-drop")), found["layer-drop"])


# --- what is wrong is refused ---------------------------------------------------------------------------------------


def copy_of(folder: Path, path: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            target = path / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return path


def without_a_tensor(tensors: dict[str, Tensor]) -> None:
    del tensors["blocks.2.attn1.to_q.weight"]


def with_another_tensor(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.attn1.to_q.weight"] = torch.zeros(32, 32)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (without_a_tensor, r"missing keys .*blocks\.2\.attn1\.to_q\.weight"),
        (with_another_tensor, r"unexpected keys .*blocks\.1\.attn1\.to_q\.weight"),
    ],
)
@pytest.mark.parametrize("how", ["plain", "adapter"])
def test_weights_that_do_not_fit_the_plan_are_refused(
    tamper: Callable[[dict[str, Tensor]], None], message: str, how: str, made: Any, tmp_path: Path
) -> None:
    loads = {"plain": DiffusionPipeline.from_pretrained, "adapter": by_adapter}
    folder = copy_of(made[0] / "bfloat16", tmp_path / "model")  # layer 1's attention is dropped
    tensors = load_file(folder / WEIGHTS)
    tamper(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        loads[how](folder)


def test_a_tensor_of_another_shape_is_refused(made: Any, tmp_path: Path) -> None:
    folder = copy_of(made[0] / "layer", tmp_path / "model")
    tensors = load_file(folder / WEIGHTS)
    tensors["blocks.0.attn1.to_q.weight"] = torch.zeros(32, 16)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"to_q\.weight"):
        by_adapter(folder)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_config_without_a_plan_is_refused(made: Any, tmp_path: Path) -> None:
    folder = copy_of(made[0] / "layer", tmp_path / "model")
    edit_config(folder, lambda config: config.pop("f3core"))
    with pytest.raises(ModelError, match=r"has no 'f3core' entry; was it saved by f3core\?"):
        DiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["f3core"]["plan"].update(adapter="nobody"),
        lambda config: config.update(num_layers=1),
    ],
    ids=["adapter", "model"],
)
def test_a_plan_that_does_not_fit_is_refused_in_our_words(change: Any, made: Any, tmp_path: Path) -> None:
    folder = copy_of(made[0] / "layer", tmp_path / "model")
    edit_config(folder, change)
    with pytest.raises(F3Error):
        DiffusionPipeline.from_pretrained(folder)


@pytest.mark.parametrize("carried", [{}, {"plan": {}, "component": "transformer"}, {"plan": None}, []])
def test_a_damaged_plan_in_the_config_is_said(carried: object) -> None:
    config = dict(tiny_wan.transformer().config) | {"f3core": carried}
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        f3core_diffusers.PrunedWanTransformer3DModel.from_config(config)
