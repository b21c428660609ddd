"""CogVideo as a pipeline: prompts to clips, and a folder to save and load."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from f3core_diffusers.base import DTYPE
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from f3core.carrying import aligned_
from f3core.errors import ModelError
from f3core_cogvideo.folder import load_transformer, read_json, save_transformer, skeleton
from f3core_cogvideo.generation import Sampling, Text, generate_tokens, interpolate_tokens
from f3core_cogvideo.model import CogVideoTransformer

INDEX = "model_index.json"
CLASS = "CogVideoPipeline"
TRANSFORMERS = ("transformer", "transformer_2")
_KINDS = {
    "transformer": ("f3core_cogvideo", "CogVideoTransformer"),
    "transformer_2": ("f3core_cogvideo", "CogVideoTransformer"),
    "vq": ("diffusers", "VQModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
}


class CogVideoPipeline:
    """Makes clips of prompts.

    ``transformer`` makes frames (stage 1), ``transformer_2`` fills in frames between them (stage 2; optional), ``vq``
    turns the tokens of a frame into a picture, and the ids of ``tokenizer`` are final ids in the transformers'
    vocabulary; what it gives for an empty prompt is the prompt of guidance's other branch. Raises `ModelError` when
    the components do not fit together.
    """

    def __init__(
        self,
        transformer: CogVideoTransformer,
        vq: VQModel,
        tokenizer: PreTrainedTokenizerFast,
        transformer_2: CogVideoTransformer | None = None,
    ) -> None:
        self.transformer = transformer
        self.transformer_2 = transformer_2
        self.vq = vq
        self.tokenizer = tokenizer
        self.replay = False
        """whether every generation ends with forwards of whole frames that repeat it"""
        sizes = transformer.config
        if sizes.side**2 != sizes.tokens:
            raise ModelError(f"frames of {sizes.tokens} tokens are not square: their pictures cannot be decoded")
        if sizes.image_vocab > vq.config.num_vq_embeddings:
            raise ModelError(f"{sizes.image_vocab} picture tokens, but vq knows {vq.config.num_vq_embeddings}")
        if sizes.stage != 1 or (transformer_2 is not None and transformer_2.config.stage != 2):
            raise ModelError("transformer must be of stage 1, and transformer_2 of stage 2")

    @property
    def components(self) -> dict[str, Any]:
        """By the names of the constructor; without those that are None."""
        found = {name: getattr(self, name) for name in _KINDS}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def to(self, device: torch.device | str) -> CogVideoPipeline:
        """Move every model; returns itself."""
        for name in (*TRANSFORMERS, "vq"):
            part = getattr(self, name)
            if part is not None:
                part.to(device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write every component and an index."""
        folder = Path(folder)
        for name, part in self.components.items():
            if name in TRANSFORMERS:
                save_transformer(part, folder / name)
            else:
                part.save_pretrained(folder / name)
        index = {"_class_name": CLASS, **{name: list(_KINDS[name]) for name in self.components}}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> CogVideoPipeline:
        """Load what `save_pretrained` wrote; ``dtype`` float32 when None. Raises `ModelError`."""
        folder, dtype = Path(folder).expanduser(), dtype or torch.float32
        names = components_of(folder, set(_KINDS) - {"transformer_2"})
        parts: dict[str, Any] = {}
        try:
            parts["vq"] = VQModel.from_pretrained(folder / "vq", disable_mmap=True, **{DTYPE: dtype}).eval()
            parts["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder}: vq or tokenizer could not be loaded: {error}") from error
        for name in TRANSFORMERS:
            if name in names:
                parts[name] = load_transformer(folder / name, dtype=dtype)
        aligned_(parts["vq"])
        return cls(**parts).to(device)

    def tokenize(self, prompts: Sequence[str]) -> Text:
        """Prompts padded and cut to the text's length."""
        given = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.transformer.config.text,
            truncation=True,
            return_tensors="pt",
        )
        return Text(given["input_ids"], given["attention_mask"])

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        guidance_scale: float = 3.0,
        temperature: float = 1.05,
        top_k: int | None = 12,
        first_guidance_scale: float = 1.0,
        interpolations: int | None = None,
        replay: bool = False,
    ) -> Tensor:
        """Clips, float32 [B, F, 3, H, W] in [0, 1] on the CPU; row i depends on its prompt and ``seeds[i]`` alone.

        ``interpolations``: how often stage 2 fills in frames (5, 9, 17, 33); None is once if there is a stage 2.
        For the others see `Sampling`. Raises `ModelError` for arguments that make no sense.
        """
        if len(seeds) != len(prompts) or not prompts:
            raise ModelError(f"{len(prompts)} prompts and {len(seeds)} seeds: give one seed a prompt")
        rounds = self.rounds(interpolations)
        sampling = Sampling(guidance_scale, temperature, top_k, first_guidance_scale)
        text, empty = self.tokenize(prompts), self.tokenize([""])
        replay = replay or self.replay
        clip = generate_tokens(self.transformer, text, empty, seeds=seeds, sampling=sampling, replay=replay)
        for number in range(rounds):
            assert self.transformer_2 is not None
            later = [seed * 1_000_003 + number + 1 for seed in seeds]  # other numbers than the frames before
            clip = interpolate_tokens(
                self.transformer_2, text, empty, clip, seeds=later, sampling=sampling, replay=replay
            )
        return self.decode(clip)

    def rounds(self, interpolations: int | None) -> int:
        """How often stage 2 runs. Raises `ModelError` where there is none and it is asked for."""
        if interpolations is None:
            return int(self.transformer_2 is not None)
        if interpolations < 0 or (interpolations and self.transformer_2 is None):
            raise ModelError(f"interpolations {interpolations}: this pipeline has no transformer_2 for that")
        return interpolations

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Token clips [B, F, S] to pictures, float32 [B, F, 3, H, W] in [0, 1] on the CPU."""
        side = self.transformer.config.side
        clips = []
        for clip in tokens.to(self.vq.device):
            codes = self.vq.quantize.embedding(clip.view(-1, side, side)).permute(0, 3, 1, 2)
            frames = self.vq.decode(codes, force_not_quantize=True).sample
            clips.append((frames.float() / 2 + 0.5).clamp(0, 1).cpu())
        return torch.stack(clips)


def components_of(folder: Path, needed: Iterable[str]) -> set[str]:
    """Names of the components that a pipeline folder holds, ``needed`` among them.

    Raises `ModelError` for any other folder.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder")
    if not (folder / INDEX).is_file():
        raise ModelError(f"{folder}: no {INDEX} in it; give the folder that CogVideoPipeline.save_pretrained wrote")
    index = read_json(folder / INDEX)
    if index.get("_class_name") != CLASS:
        raise ModelError(f"{folder} holds a {index.get('_class_name')}, not a {CLASS}")
    names = {name for name in _KINDS if index.get(name)}
    for name in sorted({*needed, *names}):
        if name not in names or not (folder / name).is_dir():
            raise ModelError(f"{folder}: component {name!r} is missing")
    return names


def skeletons(folder: Path) -> dict[str, CogVideoTransformer]:
    """The transformers of a pipeline folder on the meta device. Raises `ModelError`."""
    names = components_of(folder, ["transformer"])
    return {name: skeleton(folder / name) for name in TRANSFORMERS if name in names}
