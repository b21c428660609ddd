"""`clip_text` and `clip_image`: what CLIP, or SigLIP, sees in frames; as papers on video editing report them.

Frames go in as 8-bit pictures through the checkpoint's own processor, as frames of a written video would. Both metrics
share one loaded model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from f3core.errors import ModelError
from f3core.metric import Batch, Metric

from .networks import check_clips, device, load_checkpoint

DEFAULT = "openai/clip-vit-large-patch14"
FRAMES = 32
"""frames that go through the model at once"""


class Encoder:
    """Unit vectors of frames and of prompts, by one CLIP or SigLIP checkpoint."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.length = int(min(model.config.text_config.max_position_embeddings, processor.tokenizer.model_max_length))

    @torch.inference_mode()
    def frames(self, clips: Tensor) -> Tensor:
        """[B, F, D], on the CPU, of clips [B, F, 3, H, W] in [0, 1]. Raises `ModelError` for another shape."""
        check_clips(clips, "CLIP")
        pictures = clips.detach().cpu().float().mul(255).round().clamp(0, 255).to(torch.uint8).flatten(0, 1)
        parts = []
        for some in pictures.permute(0, 2, 3, 1).split(FRAMES):
            shown = self.processor(images=list(some.numpy()), return_tensors="pt").to(device())
            parts.append(_unit(self.model.get_image_features(**shown)))
        return torch.cat(parts).view(*clips.shape[:2], -1)

    @torch.inference_mode()
    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """[B, D], on the CPU. A prompt longer than the text encoder takes is cut; SigLIP was trained on padded ones."""
        said = self.processor(
            text=list(prompts), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).to(device())
        taken = {name: said[name] for name in ("input_ids", "attention_mask") if name in said}
        return _unit(self.model.get_text_features(**taken))


def _unit(found: Any) -> Tensor:
    # A tensor in older releases of transformers, an output that holds it in newer ones.
    vectors: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()


@lru_cache(maxsize=1)
def encoder(model: str) -> Encoder:
    """A checkpoint of a folder or hub id, loaded once. Raises `ModelError` where it cannot be, or is another model."""
    try:
        from transformers import AutoModel, AutoProcessor
    except ImportError as error:
        raise ModelError("CLIP scores need transformers: pip install 'f3core[diffusers]'") from error
    network, processor = load_checkpoint(AutoModel, AutoProcessor, model, "CLIP or SigLIP")
    if not hasattr(network, "get_image_features") or not hasattr(network, "get_text_features"):
        raise ModelError(f"{model!r} is a {type(network).__name__}; CLIP scores need a model of pictures and text")
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{model!r} has no processor of both pictures and text; CLIP scores need its own, saved beside"
        )
    return Encoder(network, processor)


class ClipText(Metric):
    """100 × cosine between frame and prompt, averaged over the frames of a clip, then over clips."""

    name = "clip_text"
    needs_prompts = True

    def __init__(self, model: str = DEFAULT) -> None:
        """``model``: a local folder or hub id of any CLIP or SigLIP checkpoint of transformers."""
        self.model = model

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        """``{"clip_text": ...}``. Raises `ModelError` without clips, or one prompt a clip."""
        scores: list[Tensor] = []
        for batch in clips:
            prompts = batch.prompts or ()
            if len(prompts) != len(batch.clips):
                raise ModelError(f"clip_text needs a prompt for every clip: {len(batch.clips)} clips, {len(prompts)}")
            if len(prompts):
                seen, said = encoder(self.model).frames(batch.clips), encoder(self.model).prompts(prompts)
                scores.append((seen @ said[:, :, None]).squeeze(2).double().mean(1))
        return {"clip_text": _mean(scores, self.name)}


class ClipImage(Metric):
    """Frame consistency: 100 × mean cosine between the frames of a clip, averaged over clips.

    Tune-A-Video (arXiv 2212.11565) and the LOVEU-TGVE benchmark that follows it average over all pairs of two frames,
    which is the default; others, such as Gen-1 (arXiv 2302.03011), over consecutive ones, which scores higher.
    """

    name = "clip_image"
    PAIRS: ClassVar[tuple[str, ...]] = ("all", "consecutive")

    def __init__(self, model: str = DEFAULT, pairs: Literal["all", "consecutive"] = "all") -> None:
        """``model`` as of `ClipText`; ``pairs``: which frames are compared. Raises `ModelError` for other pairs."""
        if pairs not in self.PAIRS:
            raise ModelError(f"clip_image: pairs must be one of {', '.join(self.PAIRS)}, not {pairs!r}")
        self.model = model
        self.pairs = pairs

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        """``{"clip_image": ...}``. Raises `ModelError` without clips, or for clips of one frame."""
        scores: list[Tensor] = []
        for batch in clips:
            if not len(batch.clips):
                continue
            count = batch.clips.shape[1]
            if count < 2:
                raise ModelError(f"clip_image compares a clip's frames with each other; these have {count}")
            seen = encoder(self.model).frames(batch.clips).double()
            if self.pairs == "consecutive":
                scores.append((seen[:, 1:] * seen[:, :-1]).sum(2).mean(1))
            else:
                one, other = torch.triu_indices(count, count, offset=1)
                scores.append((seen @ seen.mT)[:, one, other].mean(1))
        return {"clip_image": _mean(scores, self.name)}


def _mean(scores: Sequence[Tensor], name: str) -> float:
    if not scores:
        raise ModelError(f"{name} was given no clip")
    return 100 * torch.cat(list(scores)).mean().item()
