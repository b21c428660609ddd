"""Transformers without some of their blocks: smaller models of diffusers' own, or pruned ones that carry their plan."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.adapter import Adapter
from f3core.block import Block
from f3core.contract import distance, example_plan, tensors
from f3core.contract_blocks import BLOCK, SAME
from f3core.errors import PlanError
from f3core.meta import again, share_copy
from f3core.plan import PruningPlan
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import Pruned, apply_plan_, restrict_

TA = (AttentionKind.TEMPORAL, Removal.SELF_ONLY)
PROMPT = "a red cat runs"


def adapter_of(denoiser: nn.Module) -> Adapter:
    known = installed()
    found: Adapter = known.make("adapter", known.match_adapter([type(denoiser).__name__]).name)
    return found


def plan_of(adapter: Adapter, denoiser: nn.Module, gone: Collection[str]) -> PruningPlan:
    blocks = [block for block in adapter.blocks(denoiser, "transformer") if block.path in gone]
    assert len(blocks) == len(gone)
    return example_plan(adapter.name, blocks, BLOCK)


def without(adapter: Adapter, denoiser: nn.Module, gone: Collection[str]) -> Any:
    left = share_copy(denoiser)
    apply_plan_(left, plan_of(adapter, denoiser, gone), adapter, "transformer")
    return left


@torch.no_grad()
def run(denoiser: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    return tensors(denoiser(**again(dict(inputs))))


# --- saved and loaded -----------------------------------------------------------------------------------------------


def clip(adapter: Adapter, pipeline: Any, call: Mapping[str, Any]) -> Tensor:
    return adapter.generate(pipeline, [PROMPT], steps=2, seeds=[3], call=call)


STUDENTS = {
    "tiny_cogvideox": (
        {"num_layers": 4, "use_rotary_positional_embeddings": True},
        ("transformer_blocks.1", "transformer_blocks.3"),
        {"num_layers": 2},
    ),
    "tiny_hunyuan_video": (
        {"num_layers": 2, "num_single_layers": 3},
        ("transformer_blocks.0", "single_transformer_blocks.0", "single_transformer_blocks.2"),
        {"num_layers": 1, "num_single_layers": 1},
    ),
}


@pytest.mark.parametrize("family", STUDENTS)
def test_a_student_loads_with_diffusers_alone_and_is_pruned_as_any_other_model(
    family: str, tmp_path: Path, loaded_elsewhere: Callable[..., Tensor]
) -> None:
    tiny, (changes, gone, expected) = importlib.import_module(family), STUDENTS[family]
    teacher = tiny.pipeline()
    teacher.register_modules(transformer=tiny.transformer(**changes))
    teacher.set_progress_bar_config(disable=True)
    adapter = adapter_of(teacher.transformer)
    left = without(adapter, teacher.transformer, gone)
    student = adapter.with_denoisers(teacher, {"transformer": left})
    made = clip(adapter, student, tiny.CALL)
    assert not torch.equal(made, clip(adapter, teacher, tiny.CALL))
    assert type(left) is type(teacher.transformer)
    adapter.save(student, tmp_path / "student")

    config = json.loads((tmp_path / "student" / "transformer" / "config.json").read_text())
    assert "f3core" not in config
    assert {name: config[name] for name in expected} == expected
    index = json.loads((tmp_path / "student" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", type(teacher.transformer).__name__]
    asked = {**tiny.CALL, "num_inference_steps": 2, "prompt": [PROMPT]}
    assert torch.equal(loaded_elsewhere(tmp_path / "student", [3], asked), made)

    loaded = adapter.load(str(tmp_path / "student"), dtype=None, device=torch.device("cpu"))
    for name, model in (("made", left), ("loaded", loaded.transformer)):
        thinner = share_copy(model)
        sites = adapter.sites(model, "transformer")
        apply_plan_(thinner, example_plan(adapter.name, sites, TA), adapter, "transformer")
        pipeline = adapter.with_denoisers(student, {"transformer": thinner})
        adapter.save(pipeline, tmp_path / name)
        both = clip(adapter, pipeline, tiny.CALL)
        assert not torch.equal(both, made)
        assert torch.equal(loaded_elsewhere(tmp_path / name, [3], asked), both)
        assert thinner.f3_before == ()


def test_a_pruned_student_carries_both_its_plans(tmp_path: Path, loaded_elsewhere: Callable[..., Tensor]) -> None:
    """Mochi's last block is another than those before it, which no config of fewer blocks can say."""
    import tiny_mochi

    teacher = tiny_mochi.pipeline()
    teacher.register_modules(transformer=tiny_mochi.transformer(num_layers=3))
    teacher.set_progress_bar_config(disable=True)
    adapter, call = adapter_of(teacher.transformer), tiny_mochi.CALL
    left = without(adapter, teacher.transformer, ["transformer_blocks.2"])
    assert isinstance(left, Pruned)
    again_ = without(adapter, left, ["transformer_blocks.0"])  # alone, its config could say it
    assert isinstance(again_, Pruned)
    assert len(again_.transformer_blocks) == 3
    thinner, sites = share_copy(again_), adapter.sites(again_, "transformer")
    assert [site.path for site in sites] == ["transformer_blocks.1.attn1"]
    apply_plan_(thinner, example_plan(adapter.name, sites, TA), adapter, "transformer")
    assert [plan.structural for plan in (*thinner.f3_before, thinner.f3_plan)] == [True, True, False]
    for name, model in (("blocks", left), ("more", again_), ("both", thinner)):
        pipeline = adapter.with_denoisers(teacher, {"transformer": model})
        made = clip(adapter, pipeline, call)
        adapter.save(pipeline, tmp_path / name)
        assert torch.equal(
            loaded_elsewhere(tmp_path / name, [3], {**call, "num_inference_steps": 2, "prompt": [PROMPT]}), made
        )
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "both")
    assert (*loaded.transformer.f3_before, loaded.transformer.f3_plan) == (*thinner.f3_before, thinner.f3_plan)
    assert set(loaded.transformer.state_dict()) == set(thinner.state_dict())


# --- what depends on the numbers of blocks --------------------------------------------------------------------------

Made = tuple[Adapter, Any, dict[str, Any], list[Block]]

DEEP: dict[str, tuple[str, dict[str, Any]]] = {
    "two streams and one": ("tiny_hunyuan_video", {"num_layers": 2, "num_single_layers": 3}),
    "text of its own at first": ("tiny_easyanimate", {"num_layers": 5, "mmdit_layers": 2}),
    "another last one": ("tiny_mochi", {"num_layers": 4}),
    "pairs": ("tiny_latte", {"num_layers": 4}),
    "decoder": ("tiny_motif_video", {"num_layers": 2, "num_single_layers": 5, "num_decoder_layers": 2}),
    "a face behind every second": ("tiny_consisid", {"num_layers": 6, "cross_attn_interval": 2}),
    "a face behind every third": ("tiny_wan_animate", {"num_layers": 6, "inject_face_latents_blocks": 3}),
    "controlled": ("tiny_wan_vace", {"num_layers": 5, "vace_layers": [0, 2, 3]}),
    "a control branch": ("tiny_cosmos", {"num_layers": 6, "controlnet_block_every_n": 3}),
    "perturbed": ("tiny_ltx2", {"num_layers": 3, "perturbed_attn": True}),
}


@cache
def deep(case: str) -> Made:
    family, changes = DEEP[case]
    denoiser = importlib.import_module(family).transformer(**changes)
    for path, module in denoiser.named_modules():
        if path.endswith("proj_out") and not module.weight.any():
            nn.init.normal_(module.weight, std=0.2)
    adapter = adapter_of(denoiser)
    torch.manual_seed(1)
    text = 512 if family == "tiny_wan_animate" else 7
    inputs = adapter.example_inputs(denoiser, frames=3, height=4, width=6, text=text)
    if case == "a control branch":
        inputs["block_controlnet_hidden_states"] = [torch.randn(1, 18, 32) for _ in range(2)]
    if case == "perturbed":
        inputs["spatio_temporal_guidance_blocks"] = [1]
    return adapter, denoiser, inputs, adapter.blocks(denoiser, "transformer")


def skipping(adapter: Adapter, denoiser: nn.Module, gone: Sequence[Block]) -> nn.Module:
    copied, every = share_copy(denoiser), {block.fqn: BLOCK[1] for block in gone}
    restrict_(copied, adapter, gone, BLOCK[0], every, dict.fromkeys(every))
    return copied


@pytest.mark.parametrize("case", DEEP)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_whatever_goes_what_is_left_computes_the_same(case: str, data: st.DataObject) -> None:
    adapter, denoiser, inputs, blocks = deep(case)
    able = [block.path for block in blocks if not block.fixed]
    gone = data.draw(st.sets(st.sampled_from(able), min_size=1))
    left = without(adapter, denoiser, gone)
    taken = [block for block in blocks if block.path in gone]
    assert distance(run(left, inputs), run(skipping(adapter, denoiser, taken), inputs)) <= SAME
    stays = {path for block in adapter.blocks(left, "transformer") for path in block.modules}
    assert all(site.path.startswith(("face_adapter", *stays)) for site in adapter.sites(left, "transformer"))


@pytest.mark.parametrize(
    ("case", "gone", "entries"),
    [
        ("text of its own at first", (0, 3), {"num_layers": 3, "mmdit_layers": 1}),
        ("another last one", (0, 2), {"num_layers": 2}),
        ("another last one", (3,), None),
        ("pairs", (2, 3), {"num_layers": 2}),
        ("pairs", (0,), None),
        ("a face behind every second", (1, 3, 5), {"num_layers": 3, "cross_attn_interval": 1}),
        ("a face behind every second", (1,), None),
        ("a face behind every third", (1, 5), {"num_layers": 4, "inject_face_latents_blocks": 2}),
        ("a face behind every third", (0, 4), None),
        ("controlled", (1, 4), {"num_layers": 3, "vace_layers": [0, 1, 2]}),
        ("controlled", (2,), {"num_layers": 4, "vace_layers": [0, 1, 2]}),
        ("controlled", (1, 2), None),
        ("controlled", (0,), None),
        ("a control branch", (2, 4), {"num_layers": 4, "controlnet_block_every_n": 2}),
        ("a control branch", (2,), None),
        ("perturbed", (2,), None),
    ],
    ids=str,
)
def test_the_config_says_it_where_it_can(case: str, gone: tuple[int, ...], entries: dict[str, Any] | None) -> None:
    adapter, denoiser, _, blocks = deep(case)
    stack = next(block.path for block in blocks if not block.fixed).rpartition(".")[0]
    left = without(adapter, denoiser, [f"{stack}.{number}" for number in gone])
    assert isinstance(left, Pruned) == (entries is None)
    whole = len(denoiser.get_submodule(stack))
    assert len(left.get_submodule(stack)) == whole - (0 if entries is None else len(gone))
    if entries is not None:
        assert {name: left.config[name] for name in entries} == entries
        assert {k: v for k, v in left.config.items() if k[0] != "_"} == {
            k: v for k, v in {**denoiser.config, **entries}.items() if k[0] != "_"
        }


def test_a_decoder_loses_its_own_blocks() -> None:
    adapter, denoiser, _, _ = deep("decoder")
    left = without(adapter, denoiser, ["single_transformer_blocks.0", "single_transformer_blocks.3"])
    assert (left.config.num_single_layers, left.config.num_decoder_layers, left.num_decoder_layers) == (3, 1, 1)


@pytest.mark.parametrize(
    ("case", "path", "reason"),
    [
        ("controlled", "vace_blocks.1", "what it makes of the control is added behind another block"),
        ("a control branch", "transformer_blocks.3", "what a control branch adds comes in there"),
        ("decoder", "single_transformer_blocks.4", "a decoder without any block predicts nothing"),
    ],
)
def test_blocks_that_others_lean_on_cannot_go(case: str, path: str, reason: str) -> None:
    adapter, denoiser, _, blocks = deep(case)
    (block,) = (each for each in blocks if each.path == path)
    assert block.fixed == reason
    loose = Block(block.component, block.path, block.index, block.parts)
    with pytest.raises(PlanError, match=f"block transformer.{path} cannot go: {reason}"):
        apply_plan_(share_copy(denoiser), example_plan(adapter.name, [loose], BLOCK), adapter, "transformer")
