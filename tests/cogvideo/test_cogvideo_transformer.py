"""The transformer against the plain computation, at any size and however it is pruned."""

from __future__ import annotations

import dense_cogvideo
import pytest
import tiny_cogvideo
import torch
from cogvideo_strategies import models
from f3core_cogvideo.model import CogVideoTransformer
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.attention import Bypass
from f3core.errors import ModelError


@settings(deadline=None, max_examples=40)
@given(models(), st.booleans())
@torch.no_grad()
def test_logits_are_those_of_the_plain_computation(model: CogVideoTransformer, temporal: bool) -> None:
    inputs = tiny_cogvideo.sequence(model)
    off = model(**inputs, temporal=temporal) - dense_cogvideo.logits(model, inputs, temporal=temporal)
    assert off.abs().max() < 1e-4


@settings(deadline=None, max_examples=20)
@given(models(stage=1), st.data())
@torch.no_grad()
def test_a_sequence_cut_short_has_the_same_logits(model: CogVideoTransformer, data: st.DataObject) -> None:
    inputs = tiny_cogvideo.sequence(model)
    length = data.draw(st.integers(model.config.text, model.config.layout[2]))
    short = model(inputs["input_ids"][:, :length], inputs["position_ids"][:, :length], inputs["text_mask"])
    assert (short - model(**inputs)[:, :length]).abs().max() < 1e-4


def test_slots_are_fed_tokens_or_a_start_and_all_but_the_last() -> None:
    frames = torch.arange(12).view(1, 2, 6)
    fed = [tiny_cogvideo.transformer(layers=1, start_of_image=start).fed(frames)[0].tolist() for start in (None, 29)]
    assert fed == [list(range(12)), [29, 0, 1, 2, 3, 4, 29, 6, 7, 8, 9, 10]]


def test_a_replaced_temporal_channel_leaves_the_base_channel_and_trains() -> None:
    model = tiny_cogvideo.transformer()
    inputs = tiny_cogvideo.sequence(model)
    alone = model(**inputs, temporal=False)
    for layer in model.transformer.layers:
        layer.attention_plus = Bypass()
    out = model.train()(**inputs)
    assert torch.equal(out, alone)
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_every_parameter_learns() -> None:
    for window, stage in ((-1, 1), (2, 2)):
        model = tiny_cogvideo.transformer(stage=stage, window=window, tokens=16)
        model(**tiny_cogvideo.sequence(model)).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_text_that_is_all_padding_still_has_an_output() -> None:
    model = tiny_cogvideo.transformer()
    inputs = tiny_cogvideo.sequence(model)
    inputs["text_mask"][1] = 0
    assert model(**inputs).isfinite().all()


def test_padding_is_not_seen() -> None:
    model = tiny_cogvideo.transformer()
    inputs = tiny_cogvideo.sequence(model)
    before = model(**inputs)
    inputs["input_ids"][1, :2] = 7
    text = model.config.text
    assert torch.equal(model(**inputs)[1, text:], before[1, text:])


@pytest.mark.parametrize(("stage", "length"), [(1, 4), (1, 51), (2, 49), (2, 6)])
def test_other_lengths_are_refused(stage: int, length: int) -> None:
    model = tiny_cogvideo.transformer(stage=stage)
    ids = torch.zeros(1, length, dtype=torch.long)
    with pytest.raises(ModelError, match=f"{length} tokens are no text of 5 and up to 5 frames of 9"):
        model(ids, ids, torch.ones(1, 1, 1, 5))


def test_half_precision_and_other_devices_are_left_to_the_caller() -> None:
    model = tiny_cogvideo.transformer().to(torch.bfloat16)
    assert model(**tiny_cogvideo.sequence(model)).dtype is model.dtype is torch.bfloat16
    with torch.device("meta"):
        skeleton = CogVideoTransformer(model.config)
    inputs = {k: v.to("meta") for k, v in tiny_cogvideo.sequence(model).items()}
    assert skeleton(**inputs).is_meta
    assert skeleton.device.type == "meta"
