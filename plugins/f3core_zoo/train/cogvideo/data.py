"""The training clips as tokens, made once."""

from __future__ import annotations

import torch
from diffusers import VQModel
from torch import Tensor

from ... import digits
from ..common import Workplace
from . import vq

CLIPS = 49_152
CLIPS_SEED = 100
_PART = 512
_FILE = "tokens.pt"


def prepare(work: Workplace, clips: int = CLIPS) -> None:
    """Render and encode the training clips, unless the cache is there."""
    if work.path(_FILE).exists():
        return
    codec = VQModel.from_pretrained(vq.MODEL_DIR / "vq").float().eval()
    tokens, captions = [], []
    for part in range(clips // _PART):
        rendered, scenes = digits.sample(_PART, CLIPS_SEED + part, frames=vq.FRAMES)
        tokens.append(vq.encode(codec, rendered).short())
        captions += [digits.SCENES.index(scene) for scene in scenes]
    work.save(_FILE, {"tokens": torch.cat(tokens), "captions": torch.tensor(captions)})


def load(work: Workplace) -> tuple[Tensor, Tensor]:
    """Tokens int16 [N, 80] and the indices of their captions [N]."""
    data = work.load(_FILE)
    if data is None:
        raise FileNotFoundError(f"no tokens in {work.root}: run `python -m f3core_zoo.train.cogvideo tokens` first")
    return data["tokens"], data["captions"]
