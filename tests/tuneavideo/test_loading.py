"""`load_pipeline`: our own folders, checkpoints of the published code base, and Stable Diffusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
from diffusers import DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from f3core_tuneavideo import TuneAVideoPipeline, TuneAVideoUNet, load_pipeline
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from torch import Tensor, nn
from transformers import CLIPTokenizer

from f3core.errors import ModelError
from f3core.registry import installed

ADAPTER = TuneAVideoAdapter()
FLAT = {**tiny.CONFIG, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
FLAT["up_block_types"] = ("UpBlock2D", "CrossAttnUpBlock2D")


def generate(pipe: TuneAVideoPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    return pipe("a dog", num_inference_steps=2, latents=noise, output_type="latent").frames


def foreign(folder: Path, unet: nn.Module, pipeline: str, entry: list[str]) -> Path:
    """A folder as other code wrote it, with the parts of Stable Diffusion and a scheduler that is not DDIM."""
    made = tiny.pipeline()
    vocabulary = {word: i for i, word in enumerate(("<|startoftext|>", "<|endoftext|>", "d", "o", "g</w>"))}
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "words" / "merges.txt").write_text("#version: 0.2\n")
    words = CLIPTokenizer(str(folder / "words" / "vocab.json"), str(folder / "words" / "merges.txt"))
    words.model_max_length = 6
    other = PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True)
    parts = {
        "vae": (made.vae, ["diffusers", "AutoencoderKL"]),
        "text_encoder": (made.text_encoder, ["transformers", "CLIPTextModel"]),
        "tokenizer": (words, ["transformers", "CLIPTokenizer"]),
        "scheduler": (other, ["diffusers", "PNDMScheduler"]),
        "unet": (unet, entry),
    }
    for name, (part, _) in parts.items():
        part.save_pretrained(folder / name)
    index = {"_class_name": pipeline, "_diffusers_version": "0.11.1", **{name: e for name, (_, e) in parts.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def published(folder: Path, **changes: Any) -> Path:
    """With the U-Net's old class name, and its weights as a pickle."""
    unet = tiny.unet()
    foreign(folder, unet, "TuneAVideoPipeline", ["tuneavideo", "UNet3DConditionModel"])
    config = json.loads((folder / "unet" / "config.json").read_text())
    old = {**config, "_class_name": "UNet3DConditionModel", "_diffusers_version": "0.11.1"}
    (folder / "unet" / "config.json").write_text(json.dumps(old))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({**unet.state_dict(), **changes}, folder / "unet" / "diffusion_pytorch_model.bin")
    return folder


def test_our_own_folder_comes_back(tmp_path: Path) -> None:
    made = tiny.pipeline()
    made.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path)
    assert type(loaded) is TuneAVideoPipeline
    assert type(loaded.unet) is TuneAVideoUNet
    assert torch.equal(generate(loaded), generate(made))


def test_a_published_checkpoint_keeps_its_unet(tmp_path: Path) -> None:
    folder = published(tmp_path / "published")
    loaded = load_pipeline(folder)
    assert isinstance(loaded.scheduler, DDIMScheduler)
    assert not loaded.scheduler.config.clip_sample
    state = tiny.unet().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.unet.state_dict().items())
    assert generate(loaded).isfinite().all()
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(generate(load_pipeline(tmp_path / "again")), generate(loaded))


def test_published_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unexpected keys in the U-Net, first: extra"):
        load_pipeline(published(tmp_path / "published", extra=torch.zeros(1)))


def test_stable_diffusion_is_inflated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat = UNet2DConditionModel(**FLAT).eval()
    entry = ["diffusers", "UNet2DConditionModel"]
    loaded = load_pipeline(foreign(tmp_path / "flat", flat, "StableDiffusionPipeline", entry))
    frame, text = torch.randn(1, 4, 4, 4), torch.randn(1, 6, 12)
    with torch.no_grad():
        expected = flat(frame, 5, text).sample
        found = loaded.unet.eval()(frame[:, :, None].expand(-1, -1, 2, -1, -1), 5, text)
    assert (found - expected[:, :, None]).abs().max() <= 1e-5
    assert generate(loaded).shape == (1, 4, 3, 4, 6)


@pytest.mark.parametrize("kind", ["ours", "published", "flat"])
def test_the_adapter_opens_all_of_them_and_sketches_them_without_weights(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / kind
    if kind == "ours":
        tiny.pipeline().save_pretrained(folder)
    elif kind == "published":
        published(folder)
    else:
        foreign(folder, UNet2DConditionModel(**FLAT), "StableDiffusionPipeline", ["diffusers", "UNet2DConditionModel"])
    pipe = ADAPTER.load(str(folder), dtype=None, device=torch.device("cpu"))
    (skeleton,) = ADAPTER.skeletons(str(folder)).values()
    assert all(p.is_meta for p in skeleton.parameters())
    assert {n: t.shape for n, t in skeleton.state_dict().items()} == {
        n: t.shape for n, t in pipe.unet.state_dict().items()
    }
    assert ADAPTER.sites(skeleton, "unet") == ADAPTER.sites(pipe.unet, "unet")
    clips = ADAPTER.generate(pipe, ["a dog", "a cat"], steps=2, seeds=[1, 2], call=tiny.CALL)
    assert clips.shape == (2, 3, 3, 8, 12)
    if kind != "flat":  # a plain Stable Diffusion folder is taken for one only when the spec names the adapter
        assert installed().denoiser_classes(str(folder)) == {"unet": "TuneAVideoUNet"}


def test_a_sketch_knows_the_call_as_the_pipeline_does(tmp_path: Path) -> None:
    tiny.pipeline().save_pretrained(tmp_path)
    sketch = ADAPTER.sketch(str(tmp_path), steps=2, call=tiny.CALL)
    assert sketch.inputs["unet"]["forward"]["encoder_hidden_states"].shape[1] == 6
    assert sketch.inputs["unet"]["forward"]["sample"].shape[2:] == (3, 4, 6)
    usual = ADAPTER.sketch(str(tmp_path), steps=2, call={"video_length": 3})
    assert usual.inputs["unet"]["forward"]["sample"].shape[2:] == (3, 4, 4)
    with pytest.raises(ModelError, match="height must be a multiple of 2, not 9"):
        ADAPTER.sketch(str(tmp_path), steps=2, call={**tiny.CALL, "height": 9})
    with pytest.raises(ModelError, match="TuneAVideoPipeline has no argument 'max_sequence_length'"):
        ADAPTER.sketch(str(tmp_path), steps=2, call={**tiny.CALL, "max_sequence_length": 77})


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        ADAPTER.load(str(tmp_path), dtype=None, device=torch.device("cpu"))
