"""How Tune-A-Video's U-Net is trained: against what its pipeline does."""

from __future__ import annotations

import tiny_tuneavideo
import torch
from diffusers import DDIMScheduler
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from perfect_predictor import decoded, knowing


def test_the_pipeline_samples_and_decodes_the_latents_of_a_clip_when_told_the_target() -> None:
    """ε as published models predict, and v as the digit world's; sampled to the end, so that no noise is left."""
    adapter, pipeline = TuneAVideoAdapter(), tiny_tuneavideo.pipeline()
    clips = torch.rand(1, 3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    published = {**tiny_tuneavideo.SCHEDULE, "set_alpha_to_one": True}
    zoo = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    for schedule in (published, published | zoo):
        pipeline.scheduler = DDIMScheduler(**schedule)
        recipe = adapter.recipe(pipeline, tiny_tuneavideo.CALL)
        assert recipe.size == (3, 8, 12)
        with knowing(adapter, pipeline, recipe, recipe.latents(clips)):
            found = adapter.generate(pipeline, ["a red cat"], steps=3, seeds=[0], call=tiny_tuneavideo.CALL)
        torch.testing.assert_close(found, decoded(pipeline, clips), atol=2e-4, rtol=0)


def test_a_prompt_gives_the_conditional_rows_and_an_empty_one_the_unconditional() -> None:
    adapter, pipeline = TuneAVideoAdapter(), tiny_tuneavideo.pipeline()
    recipe = adapter.recipe(pipeline, {**tiny_tuneavideo.CALL, "negative_prompt": "dog"})
    prompts = ["a red cat", "", "a dog"]
    text = recipe.conditions(prompts)["encoder_hidden_states"]
    torch.testing.assert_close(text, pipeline._encode(prompts))
    latents = torch.randn(3, 4, 3, 4, 6)
    levels = recipe.levels(torch.tensor([0.1, 0.5, 0.9]))
    with torch.no_grad():
        found = recipe.predict(pipeline.unet, latents, levels, recipe.conditions(prompts))
        torch.testing.assert_close(found, pipeline.unet(latents, levels, text))
    assert recipe.frames(latents) == 3
