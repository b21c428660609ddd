"""The AnimateDiff adapter under the contract, and what its pipelines hold twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_animatediff
import torch
from diffusers import AnimateDiffSDXLPipeline, AnimateDiffVideoToVideoPipeline, DiffusionPipeline
from f3core_diffusers.animatediff import AnimateDiffAdapter
from PIL import Image
from torch import nn

from f3core.capture import watch_forwards
from f3core.contract import example_plan
from f3core.contract_facts import FactsContract
from f3core.errors import ModelError
from f3core.meta import share_copy
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_
from f3core.testing import AdapterContract

TA = AttentionKind.TEMPORAL


class TestAnimateDiff(AdapterContract):
    adapter = AnimateDiffAdapter()
    component = "unet"

    def build(self) -> nn.Module:
        return tiny_animatediff.unet(
            down_block_types=("CrossAttnDownBlockMotion",),
            up_block_types=("CrossAttnUpBlockMotion",),
            block_out_channels=(8,),
        )


class TestAnimateDiffDeeper(FactsContract):
    """Blocks of fewer tokens, and such without attention inside frames."""

    adapter = AnimateDiffAdapter()
    component = "unet"

    def build(self) -> nn.Module:
        return tiny_animatediff.unet()


def test_motion_modules_alone_hold_attention_over_frames() -> None:
    sites = AnimateDiffAdapter().sites(tiny_animatediff.unet(), "unet")
    over = [site.path for site in sites if TA in site.kinds]
    assert len(over) == 2 * 7
    assert all(".motion_modules." in path for path in over)
    first = [site.path for site in sites if site.index == 0]
    assert first == [
        f"down_blocks.0.{name}.0.transformer_blocks.0.attn{i}"
        for name in ("attentions", "motion_modules")
        for i in (1, 2)
    ]


def test_motion_modules_without_a_mid_block() -> None:
    sites = AnimateDiffAdapter().sites(tiny_animatediff.unet(use_motion_mid_block=False), "unet")
    assert [site.kinds for site in sites if site.path.startswith("mid_block")] == [
        (AttentionKind.SELF,),
        (AttentionKind.CROSS,),
    ]


@pytest.mark.parametrize(
    ("name", "images", "motion"),
    [
        ("AnimateDiff v2, SD 1.5", 859_520_964, 453_209_280),
        ("AnimateDiff v3, SD 1.5", 859_520_964, 417_137_600),
        ("AnimateDiff SDXL beta", 2_567_463_684, 236_779_200),
    ],
)
def test_published_models_have_their_size(name: str, images: int, motion: int) -> None:
    (published,) = (each for each in AnimateDiffAdapter().published() if each.name == name)
    parameters = dict(published.sketch().denoisers["unet"].named_parameters())
    modules = sum(tensor.numel() for path, tensor in parameters.items() if ".motion_modules." in path)
    assert modules == motion
    assert sum(tensor.numel() for tensor in parameters.values()) - modules == images


def test_free_noise_is_refused() -> None:
    adapter, pipe = AnimateDiffAdapter(), tiny_animatediff.pipeline()
    pipe.enable_free_noise(context_length=2, context_stride=1)
    with pytest.raises(ModelError, match=r"disable_free_noise\(\)"):
        adapter.sites(pipe.unet, "unet")
    pipe.disable_free_noise()
    assert adapter.sites(pipe.unet, "unet") == adapter.sites(tiny_animatediff.unet(), "unet")


def test_stable_diffusion_xl_is_told_the_size_of_its_images() -> None:
    adapter = AnimateDiffAdapter()
    unet = tiny_animatediff.unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32
    )
    inputs = adapter.example_inputs(unet, frames=3, height=4, width=6, batch=2)
    layout = adapter.layout_of(unet, inputs)
    with torch.no_grad():
        both = unet(**inputs)[0]
        second = unet(**adapter.take_rows(inputs, layout, range(1, 2)))[0]
    assert inputs["added_cond_kwargs"]["text_embeds"].shape == (2, 8)
    torch.testing.assert_close(second, both[1:])


def test_what_a_controlnet_adds_comes_once_a_frame() -> None:
    adapter, unet = AnimateDiffAdapter(), tiny_animatediff.unet()
    inputs = adapter.example_inputs(unet, frames=3, height=4, width=6, batch=2, text=5)
    inputs["mid_block_additional_residual"] = torch.randn(2 * 3, 16, 2, 3)
    layout = adapter.layout_of(unet, inputs)
    with torch.no_grad():
        both = unet(**inputs)[0]
        second = unet(**adapter.take_rows(inputs, layout, range(1, 2)))[0]
    torch.testing.assert_close(second, both[1:])


def test_pruned_motion_modules_are_in_no_part_of_the_saved_pipeline(tmp_path: Path) -> None:
    adapter, pipe = AnimateDiffAdapter(), tiny_animatediff.pipeline()
    unet = share_copy(pipe.unet)
    apply_plan_(unet, example_plan(adapter.name, adapter.sites(unet, "unet"), (TA, Removal.DROP)), adapter, "unet")
    adapter.save(adapter.with_denoisers(pipe, {"unet": unet}), tmp_path)
    assert not (tmp_path / "motion_adapter").exists()
    assert pipe.motion_adapter is not None, "the original is left as it was"
    loaded = DiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.motion_adapter is None
    assert set(loaded.unet.state_dict()) == set(unet.state_dict())


def test_a_motion_adapter_stays_where_the_pipeline_does_not_load_without(tmp_path: Path) -> None:
    adapter, pipe = AnimateDiffAdapter(), tiny_animatediff.pipeline()
    words = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    parts = {name: pipe.components[name] for name in ("vae", "unet", "motion_adapter", "scheduler")}
    adapter.save(adapter.with_denoisers(AnimateDiffSDXLPipeline(**parts, **words), {}), tmp_path)
    assert DiffusionPipeline.from_pretrained(tmp_path).motion_adapter is not None


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("enforced", [False, True])
def test_noise_levels_of_a_generation_from_a_video(strength: float, enforced: bool) -> None:
    adapter = AnimateDiffAdapter()
    pipe = AnimateDiffVideoToVideoPipeline(**tiny_animatediff.pipeline().components)
    call = {"strength": strength, "enforce_inference_steps": enforced}
    video = [Image.new("RGB", (16, 8))] * 3
    with watch_forwards(adapter, {"unet": pipe.unet}) as seen:
        adapter.generate(
            pipe, ["a red cat"], steps=4, seeds=[0], call={"video": video, "height": 8, "width": 16, **call}
        )
    assert tuple(level for _, level in seen["unet"].counted) == adapter.levels(pipe.scheduler, 4, call, (3, 4, 8))
