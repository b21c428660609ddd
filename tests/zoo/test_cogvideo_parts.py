"""The CogVideo mini's tokenizers: frames to picture codes and back, captions to ids."""

from __future__ import annotations

from pathlib import Path

import f3core_zoo
import pytest
import torch
from diffusers import VQModel
from f3core_zoo import digits, judge
from f3core_zoo.train.cogvideo import text, vq
from transformers import PreTrainedTokenizerFast

FOLDER = Path(f3core_zoo.__file__).parent / "digits_cogvideo"


@pytest.fixture(scope="module")
def codec() -> VQModel:
    return VQModel.from_pretrained(FOLDER / "vq").float().eval()


def test_held_out_clips_survive_the_tokens(codec: VQModel) -> None:
    prompts = digits.prompts(240, 0)
    clips = digits.render(prompts, seed=4, split="held_out", frames=vq.FRAMES)
    tokens = vq.encode(codec, clips)
    assert tokens.shape == (240, 80)
    rebuilt = vq.decode(codec, tokens)
    assert vq.psnr(4 * (rebuilt - clips).square().mean().item()) >= 32
    accuracy = judge.text_accuracy(rebuilt, prompts)
    assert accuracy.digit >= 0.93
    assert accuracy.colour >= 0.99
    assert accuracy.direction >= 0.99
    # The codebook is used: no collapse onto a few codes.
    assert len(tokens.unique()) >= 0.9 * codec.config.num_vq_embeddings


def test_tokens_are_row_by_row_and_decode_as_diffusers_does(codec: VQModel) -> None:
    clips = digits.render(["a red three moving left"], seed=1, frames=vq.FRAMES)
    tokens = vq.encode(codec, clips)
    with torch.no_grad():
        stock = codec(vq.to_model(clips)).sample
    torch.testing.assert_close(vq.decode(codec, tokens)[0], (stock / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    # Rows 0 to 3 of the picture are the first four tokens: darkening all below leaves most of them as they are.
    above = torch.zeros(1, 1, 3, 16, 16)
    above[..., :4, :] = 1.0
    blank = vq.encode(codec, torch.zeros(1, 1, 3, 16, 16))[0]
    changed = (vq.encode(codec, above)[0] != blank).view(4, 4)
    assert changed[0].all()


def test_words_follow_the_codes_and_come_back() -> None:
    tokenizer = text.build_tokenizer(512)
    ids, mask = text.tokenize(tokenizer)
    assert ids.shape == mask.shape == (121, text.LENGTH)
    assert ids.min() == 512
    assert ids.max() == 512 + text.words() - 1
    # Padding is on the left: the last text token, which predicts the first picture token, is always `<frames>`.
    assert (ids[:, -1] == tokenizer.eos_token_id).all()
    assert mask[:, -1].all()
    assert (mask[:-1].sum(1) == 6).all()
    assert mask[-1].sum() == 1
    decoded = tokenizer.batch_decode(ids[:-1], skip_special_tokens=True)
    assert decoded == list(digits.PROMPTS)


def test_shipped_tokenizer_is_the_trained_one(codec: VQModel) -> None:
    shipped = PreTrainedTokenizerFast.from_pretrained(FOLDER / "tokenizer")
    built = text.build_tokenizer(codec.config.num_vq_embeddings)
    for ours, theirs in zip(text.tokenize(built), text.tokenize(shipped), strict=True):
        assert torch.equal(ours, theirs)
