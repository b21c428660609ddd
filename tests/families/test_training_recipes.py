"""How denoisers of diffusers pipelines are trained: against what the pipelines themselves do, with tiny components."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_cogvideox
import torch
from diffusers import AutoencoderKLCogVideoX
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.training import DiffusersRecipe
from perfect_predictor import decoded, knowing
from test_pipelines import call_of
from torch import Tensor

from f3core.errors import ModelError
from f3core.registry import installed

PROMPT, OTHER = "a red cat runs left", "a green dog sleeps"
FAMILIES = {
    "tiny_wan_t2v": ("guidance_scale",),
    "tiny_wan_ti2v": ("guidance_scale",),
    "tiny_cogvideox": ("guidance_scale",),
    "tiny_hunyuan_video": ("true_cfg_scale",),
    "tiny_animatediff": ("guidance_scale",),
    "tiny_unet3d": ("guidance_scale",),
    "tiny_latte": ("guidance_scale",),
    "tiny_ltx": ("guidance_scale",),
    "tiny_svd": ("min_guidance_scale", "max_guidance_scale"),
    "tiny_wan_i2v": ("guidance_scale",),
}
"""and the arguments that switch guidance off"""
NO_TOKENS = "tiny_hunyuan_video"
"""of an empty prompt its tokenizer makes none at all, unlike any real one, and attention to nothing is NaN"""


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    """One that compresses four frames into one, as its config says; the tiny one of other tests makes two of them."""
    torch.manual_seed(1)
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()


def made(name: str, folder: Path) -> tuple[ModuleType, DiffusersAdapter, Any, dict[str, Any]]:
    tiny = importlib.import_module(name)
    pipeline = tiny.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    if tiny is tiny_cogvideox:
        pipeline = type(pipeline)(**{**pipeline.components, "vae": cogvideox_vae()})
        pipeline.set_progress_bar_config(disable=True)
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    adapter = installed().match_adapter([each.__name__ for each in type(denoiser).__mro__]).load()
    return tiny, adapter, pipeline, call_of(tiny, folder)


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, DiffusersAdapter, Any, dict[str, Any], DiffusersRecipe]:
    _, adapter, pipeline, call = made(request.param, tmp_path_factory.mktemp("call"))
    return request.param, adapter, pipeline, call, adapter.recipe(pipeline, call)


def clips_of(recipe: DiffusersRecipe, number: int = 1) -> Tensor:
    frames, height, width = recipe.size
    return torch.rand(number, frames, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_the_pipeline_samples_and_decodes_the_latents_of_a_clip_when_told_the_target(family: Any) -> None:
    """Signs, scales, levels, layout and normalisation at once: any of them wrong, and another clip comes out."""
    _, adapter, pipeline, call, recipe = family
    clips = clips_of(recipe)
    with knowing(adapter, pipeline, recipe, recipe.latents(clips)):
        found = adapter.generate(pipeline, [PROMPT], steps=3, seeds=[0], call=call)
    torch.testing.assert_close(found, decoded(pipeline, clips), atol=2e-4, rtol=0)


@contextmanager
def noted(denoiser: Any, calls: list[tuple[Tensor, Tensor, Tensor]]) -> Iterator[None]:
    """First argument, timestep and output of every forward."""

    def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        latents = kwargs.get("hidden_states", kwargs.get("sample", args[0] if args else None))
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[1]
        calls.append((latents, torch.as_tensor(timestep), output[0]))

    hook = denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_conditions_are_those_of_the_conditional_branch(family: Any) -> None:
    """An unguided generation runs nothing else."""
    name, adapter, pipeline, call, recipe = family
    (denoiser,) = adapter.denoisers(pipeline).values()
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    clips = clips_of(recipe)
    unguided = {**call, **dict.fromkeys(FAMILIES[name], 1.0)}
    if recipe.takes_clips:
        unguided["image"] = _picture(clips[0, 0])
    with noted(denoiser, calls):
        adapter.generate(pipeline, [PROMPT], steps=2, seeds=[0], call=unguided)
    axis = 1 + adapter.axes.index("C")
    channels = recipe.latents(clips).shape[axis]
    given, timestep, output = calls[0]
    latents, expected = (recipe.leaving(each).narrow(axis, 0, channels) for each in (given, output))
    with torch.no_grad():
        level = timestep.float().flatten()[:1]
        found = recipe.predict(denoiser, latents, level, recipe.conditions([PROMPT], clips))
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def _picture(frame: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())


def test_rows_of_several_prompts_are_those_of_each(family: Any) -> None:
    name, adapter, pipeline, _, recipe = family
    (denoiser,) = adapter.denoisers(pipeline).values()
    clips = clips_of(recipe, 3)
    latents = recipe.latents(clips)
    levels = recipe.levels(torch.tensor([0.2, 0.5, 0.8]))
    noisy = recipe.noised(latents, torch.randn_like(latents), levels)
    prompts = [PROMPT, "a" if name == NO_TOKENS else "", OTHER]
    with torch.no_grad():
        together = recipe.predict(denoiser, noisy, levels, recipe.conditions(prompts, clips))
        each = [
            recipe.predict(denoiser, noisy[i : i + 1], levels[i : i + 1], recipe.conditions([p], clips[i : i + 1]))
            for i, p in enumerate(prompts)
        ]
    assert together.shape == latents.shape
    torch.testing.assert_close(together, torch.cat(each), atol=1e-5, rtol=1e-4)


def test_prompts_and_first_frames_matter_as_the_pipeline_takes_them(family: Any) -> None:
    name, adapter, pipeline, _, recipe = family
    (denoiser,) = adapter.denoisers(pipeline).values()
    clips = clips_of(recipe, 2)
    latents = recipe.latents(clips)[:1]
    level = recipe.levels(torch.tensor([0.5]))

    def prediction(prompt: str, clip: Tensor) -> Tensor:
        with torch.no_grad():
            return recipe.predict(denoiser, latents, level, recipe.conditions([prompt], clip[None]))

    first = prediction(PROMPT, clips[0])
    assert torch.equal(first, prediction(PROMPT, clips[0]))
    assert torch.equal(first, prediction(OTHER, clips[0])) != recipe.takes_prompts
    assert torch.equal(first, prediction(PROMPT, clips[1])) != recipe.takes_clips
    assert not torch.equal(first, prediction("a" if name == NO_TOKENS else "", clips[0]))


def test_gradients_reach_the_latents_and_the_denoiser(family: Any) -> None:
    _, adapter, pipeline, _, recipe = family
    (denoiser,) = adapter.denoisers(pipeline).values()
    clips = clips_of(recipe)
    latents = recipe.latents(clips).requires_grad_()
    level = recipe.levels(torch.tensor([0.5]))
    noise = torch.randn(latents.shape)
    noisy = recipe.noised(latents, noise, level)
    predicted = recipe.predict(denoiser, noisy, level, recipe.conditions([PROMPT], clips))
    recipe.clean(noisy, predicted, level).square().mean().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0
    assert sum(float(p.grad.abs().sum()) for p in denoiser.parameters() if p.grad is not None) > 0
    denoiser.zero_grad()
    assert recipe.frames(latents) == latents.shape[1 + adapter.axes.index("F")]


def test_an_empty_prompt_is_the_unconditional_branch_of_a_pipeline_without_prompts(tmp_path: Path) -> None:
    """Stable Video Diffusion's has neither image nor its embedding."""
    _, adapter, pipeline, call = made("tiny_svd", tmp_path)
    recipe = adapter.recipe(pipeline, {**call, "image": _picture(torch.rand(3, 8, 16))})
    clips = clips_of(recipe)
    dropped, whole = (recipe.conditions([prompt], clips) for prompt in ("", "clip 0"))
    for name in ("encoder_hidden_states", "channels behind the latents"):
        assert not dropped[name].any()
        assert whole[name].any()
    assert torch.equal(dropped["added_time_ids"], whole["added_time_ids"])
    with pytest.raises(ModelError, match="StableVideoDiffusionPipeline animates an image"):
        recipe.conditions(["clip 0"])


def test_what_a_pipeline_draws_on_its_own_does_not_change_what_a_training_draws(tmp_path: Path) -> None:
    """I2VGen-XL draws latents of the image from torch's own generator."""
    _, adapter, pipeline, call = made("tiny_i2vgen_xl", tmp_path)
    recipe = adapter.recipe(pipeline, call)
    before = torch.get_rng_state()
    clips = torch.full((1, recipe.size[0], 3, *recipe.size[1:]), 0.5)
    first = recipe.conditions([PROMPT], clips)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    again = recipe.conditions([PROMPT], clips)
    assert torch.equal(first["image_latents"], again["image_latents"])


def test_a_pipeline_in_half_precision_is_trained_in_single() -> None:
    _, adapter, pipeline, call = made("tiny_wan_t2v", Path())
    pipeline.to(torch.bfloat16)
    recipe = adapter.recipe(pipeline, call)
    latents = recipe.latents(clips_of(recipe))
    assert latents.dtype == torch.float32
    level = recipe.levels(torch.tensor([0.5]))
    for dtype in (torch.bfloat16, torch.float32):
        with torch.no_grad():
            found = recipe.predict(pipeline.transformer.to(dtype), latents, level, recipe.conditions([PROMPT]))
        assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tiny_allegro", "AutoencoderKLAllegro cannot encode"),
        ("tiny_anyflow", "FlowMapEulerDiscreteScheduler"),
        ("tiny_chronoedit", "several ways"),
        ("tiny_cosmos", "EDMEulerScheduler"),
        ("tiny_cosmos_predict2", "at timesteps"),
        ("tiny_helios", "frames 5 at a time"),
        ("tiny_hunyuan_video_i2v", "clean first frame"),
        ("tiny_ltx_i2v", "timesteps 0 to 1000"),
        ("tiny_ltx2", "several ways"),
        ("tiny_mochi", "timesteps from 0"),
        ("tiny_wan_animate", "guided by its pose_video"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name: str, why: str, tmp_path: Path) -> None:
    _, adapter, pipeline, call = made(name, tmp_path)

    def encoded() -> Tensor:
        recipe = adapter.recipe(pipeline, call)
        return recipe.latents(clips_of(recipe))

    with pytest.raises(ModelError, match=why):
        encoded()


def test_a_last_frame_that_all_clips_would_share_is_refused(tmp_path: Path) -> None:
    _, adapter, pipeline, call = made("tiny_wan_i2v", tmp_path)
    with pytest.raises(ModelError, match="WanImageToVideoPipeline is guided by its last_image"):
        adapter.recipe(pipeline, {**call, "last_image": call["image"]})


def test_clips_of_another_size_are_refused() -> None:
    _, adapter, pipeline, call = made("tiny_unet3d", Path())
    recipe = adapter.recipe(pipeline, call)
    with pytest.raises(ModelError, match=r"are not \[B, 3, 3, 8, 16\]"):
        recipe.latents(torch.rand(1, 4, 3, 8, 16))
