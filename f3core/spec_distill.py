"""The section of a spec that says how a pruned model is trained (`f3core distill`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from f3core.spec_sections import AChoice, Choice, Choices, Section

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimiserSpec(Section):
    """AdamW (Loshchilov and Hutter, 2019) under a learning rate that warms up and falls by a cosine."""

    learning_rate: _Positive = 1e-4
    betas: Annotated[tuple[_Decay, _Decay], Field(strict=False)] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = Field(50, description="steps over which the learning rate rises")
    clip_norm: _Positive | None = Field(1.0, description="gradients are scaled down to this norm; null: they are not")


class DistillSpec(Section):
    """How the pruned model (the student) is trained to do again what the model (the teacher) does."""

    data: AChoice = Field(description="a data set of a plugin, or {folder: {path: ...}}")
    losses: Choices = Field(
        (Choice(name="task"), Choice(name="icd"), Choice(name="mca")),
        description="names, or {name: {option: value}}; every loss has a weight",
    )
    steps: _Count = Field(1000, description="updates of the student")
    batch_size: _Count = Field(8, description="clips a step, over all processes and accumulated parts together")
    accumulate: _Count = Field(1, description="parts into which each process splits its share of a batch")
    optimiser: OptimiserSpec = OptimiserSpec()
    opponent: OptimiserSpec = Field(OptimiserSpec(), description="of what losses train against the student")
    ema: _Decay = Field(0.99, description="decay of the average that is saved; 0: none")
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = Field(False, description="less memory for one more forward of each block")
    caption_dropout: Annotated[float, Field(ge=0, le=1)] = Field(0.1, description="share of rows without their caption")
    keep_latents: bool = Field(True, description="encode every clip once, and keep its latents on disk")
    save_every: _Count = Field(100, description="steps between checkpoints")
    sample_every: Annotated[int, Field(ge=0)] = Field(0, description="steps between sample clips; 0 for none")
    samples: _Count = Field(4, description="clips each time")
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _learns_something(self) -> DistillSpec:
        names = [loss.name for loss in self.losses]
        if not names:
            raise ValueError("losses: give at least one")
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ValueError(f"losses: {twice!r} is given twice; every loss once")
        return self
