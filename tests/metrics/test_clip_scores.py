"""CLIP scores equal cosines worked out by hand with the same checkpoint, CLIP and SigLIP alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_networks
import torch
from f3core_metrics.clip import FRAMES, ClipImage, ClipText, encoder
from PIL import Image
from torch import Tensor

from f3core.errors import ModelError
from f3core.evaluate import batches, measured
from f3core.metric import Batch
from f3core.registry import installed

PROMPTS = ("a red cat", "blue", "a cat runs a red cat runs a blue cat runs a red cat")
KINDS = ("clip", "siglip")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("checkpoints")
    return {kind: getattr(tiny_networks, kind)(place / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def clips() -> Tensor:
    """[3, 5, 3, 40, 60]: colours that drift, so that frames differ and neighbours less so."""
    generator = torch.Generator().manual_seed(0)
    start, end = torch.rand(2, 3, 1, 3, 40, 60, generator=generator)
    return torch.lerp(start, end, torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1))


def seen(folder: Path, frame: Tensor) -> Tensor:
    """A unit vector [D] of one frame [3, H, W], which goes in as a picture."""
    from transformers import AutoImageProcessor, AutoModel

    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    picture = Image.fromarray((frame * 255).round().byte().permute(1, 2, 0).numpy())
    pooled = model.vision_model(**processor(images=picture, return_tensors="pt")).pooler_output
    vector = model.visual_projection(pooled) if hasattr(model, "visual_projection") else pooled
    return (vector / vector.norm(dim=1))[0].double()


def said(folder: Path, prompt: str) -> Tensor:
    """A unit vector [D] of one prompt, cut to the 12 tokens that the text encoders take."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding: Any = "max_length" if folder.name == "siglip" else False
    tokens = tokenizer(prompt, padding=padding, truncation=True, max_length=12, return_tensors="pt")["input_ids"]
    pooled = model.text_model(input_ids=tokens).pooler_output
    vector = model.text_projection(pooled) if hasattr(model, "text_projection") else pooled
    return (vector / vector.norm(dim=1))[0].double()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_equal_cosines_by_hand(folders: dict[str, Path], clips: Tensor, kind: str) -> None:
    model = str(folders[kind])
    frames = torch.stack([torch.stack([seen(folders[kind], frame) for frame in clip]) for clip in clips])
    texts = torch.stack([said(folders[kind], prompt) for prompt in PROMPTS])
    shown = [Batch(clips[:2], PROMPTS[:2]), Batch(clips[2:], PROMPTS[2:])]

    text = sum(100 * float(f @ texts[i]) for i in range(3) for f in frames[i]) / 15
    made = installed().make("metric", "clip_text", {"model": model})
    assert measured(made, shown) == {"clip_text": pytest.approx(text, abs=1e-3)}

    pairs = [(i, j) for i in range(5) for j in range(i)]
    every = sum(100 * float(frames[c, i] @ frames[c, j]) for c in range(3) for i, j in pairs) / 30
    made = installed().make("metric", "clip_image", {"model": model})
    assert measured(made, shown) == {"clip_image": pytest.approx(every, abs=1e-3)}

    near = sum(100 * float(frames[c, i] @ frames[c, i + 1]) for c in range(3) for i in range(4)) / 12
    made = installed().make("metric", "clip_image", {"model": model, "pairs": "consecutive"})
    assert measured(made, shown) == {"clip_image": pytest.approx(near, abs=1e-3)}
    assert near > every + 1e-2  # neighbours are more alike, so that the two cannot be taken for each other


def test_one_model_is_loaded_for_both(folders: dict[str, Path], clips: Tensor) -> None:
    model = str(folders["clip"])
    encoder.cache_clear()
    shown = batches(clips, PROMPTS)
    ClipText(model).measure(shown)
    ClipImage(model).measure(shown)
    assert encoder.cache_info().misses == 1


def test_frames_go_in_batches_and_come_in_order(folders: dict[str, Path]) -> None:
    shades = torch.linspace(0, 1, FRAMES + 9).view(1, -1, 1, 1, 1)
    clips = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * shades
    look = encoder(str(folders["clip"]))
    whole = look.frames(clips)
    assert whole.shape == (1, FRAMES + 9, 8)
    torch.testing.assert_close(whole[:, -3:], look.frames(clips[:, -3:]), rtol=1e-4, atol=1e-5)


def test_frames_of_real_video_are_more_alike_than_of_two_videos(folders: dict[str, Path]) -> None:
    one = tiny_networks.real_clips("carphone_pristine", frames=3)
    other = tiny_networks.real_clips("bikes", frames=3)[..., : one.shape[3], : one.shape[4]]
    if other.shape != one.shape:
        one = one[..., : other.shape[3], : other.shape[4]]
    metric = ClipImage(str(folders["clip"]))
    alike = min(metric.measure([Batch(clip)])["clip_image"] for clip in (one, other))
    mixed = torch.cat([one[:, :1], other[:, :1]], dim=1)
    assert metric.measure([Batch(mixed)])["clip_image"] < alike <= 100 + 1e-4


def test_say_what_they_need(folders: dict[str, Path], clips: Tensor, tmp_path: Path) -> None:
    model = str(folders["clip"])
    with pytest.raises(ModelError, match="a prompt for every clip: 3 clips, 0"):
        ClipText(model).measure(batches(clips))
    with pytest.raises(ModelError, match="each other; these have 1"):
        ClipImage(model).measure(batches(clips[:, :1]))
    with pytest.raises(ModelError, match="pairs must be one of all, consecutive, not 'near'"):
        ClipImage(model, pairs="near")  # type: ignore[arg-type]
    for metric in (ClipText(model), ClipImage(model)):
        with pytest.raises(ModelError, match="was given no clip"):
            metric.measure([])


def test_nothing_but_errors_is_said(folders: dict[str, Path], clips: Tensor, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    encoder.cache_clear()
    capfd.readouterr()
    ClipImage(str(folders["clip"])).measure(batches(clips))
    assert "Loading" not in capfd.readouterr().err
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_say_which_checkpoints_they_take(clips: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot load '.*nowhere'.*give option `model`: a folder that a CLIP"):
        ClipImage(str(tmp_path / "nowhere")).measure(batches(clips))
    blind = tiny_networks.video_mae(tmp_path / "mae")
    with pytest.raises(ModelError, match="VideoMAEModel; CLIP scores need a model of pictures and text"):
        ClipImage(str(blind)).measure(batches(clips))
    cut = tiny_networks.clip(tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot load '.*cut': .*give option `model`"):
        ClipImage(str(cut)).measure(batches(clips))
    mute = tiny_networks.clip(tmp_path / "mute")
    for file in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (mute / file).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"mute'"):
        ClipImage(str(mute)).measure(batches(clips))
