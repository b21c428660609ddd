"""Prompts to clips, and folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_cogvideo
import torch
from f3core_cogvideo import CogVideoPipeline
from f3core_cogvideo.pipeline import skeletons

from f3core.errors import ModelError

PROMPTS = ["a red cat runs left", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cogvideo")
    tiny_cogvideo.pipeline(stage_2=True).save_pretrained(path)
    return path


def test_clips_are_pictures_and_a_folder_gives_the_same(folder: Path) -> None:
    made = tiny_cogvideo.pipeline(stage_2=True)(PROMPTS, seeds=[1, 2])
    assert made.shape == (2, 5, 3, 6, 6)
    assert made.dtype is torch.float32
    assert 0 <= made.min() < made.max() <= 1
    loaded = CogVideoPipeline.from_pretrained(folder)
    assert torch.equal(loaded(PROMPTS, seeds=[1, 2]), made)
    assert torch.equal(loaded(PROMPTS[1:], seeds=[2])[0], made[1])
    assert not torch.equal(loaded(PROMPTS, seeds=[3, 4]), made)


@pytest.mark.parametrize(("rounds", "frames"), [(0, 3), (1, 5), (2, 9)])
def test_interpolations(rounds: int, frames: int) -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True, layers=1)
    assert pipe(PROMPTS, seeds=[1, 2], interpolations=rounds).shape[1] == frames


def test_replay_repeats_every_frame_of_every_transformer_and_changes_nothing() -> None:
    pipe = tiny_cogvideo.pipeline(stage_2=True, layers=1)
    plain = pipe(PROMPTS, seeds=[1, 2])
    seen = []
    for part in (pipe.transformer, pipe.transformer_2):
        part.register_forward_hook(lambda m, _a, kwargs, _o: seen.append((m.config.stage, kwargs)), with_kwargs=True)
    assert torch.equal(pipe(PROMPTS, seeds=[1, 2], replay=True), plain)
    assert [stage for stage, kwargs in seen if kwargs["cache"].replay] == [1] * 4 + [2, 2] * 2


def test_skeletons_have_no_weights(folder: Path) -> None:
    found = skeletons(folder)
    assert list(found) == ["transformer", "transformer_2"]
    assert all(p.is_meta for model in found.values() for p in model.parameters())


def test_weights_lie_under_their_published_names(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "transformer" / "model.safetensors", "pt") as file:
        assert "mixins.attention_plus.query_key_value.1.weight" in file.keys()  # noqa: SIM118 - not a mapping


def test_dtype(folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    pipe = CogVideoPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    assert pipe.transformer.dtype is pipe.vq.dtype is torch.bfloat16
    assert not pipe.vq.training
    assert not caplog.text
    assert "float32" not in "".join(capfd.readouterr())
    assert pipe(PROMPTS, seeds=[1, 2]).dtype is torch.float32


def test_a_pipeline_outlives_the_files_it_was_loaded_from(tmp_path: Path) -> None:
    tiny_cogvideo.pipeline(layers=2).save_pretrained(tmp_path)
    pipe = CogVideoPipeline.from_pretrained(tmp_path)
    made = pipe(PROMPTS, seeds=[1, 2])
    tiny_cogvideo.pipeline(layers=1).save_pretrained(tmp_path)
    assert torch.equal(pipe(PROMPTS, seeds=[1, 2]), made)
    pipe.save_pretrained(tmp_path)
    assert torch.equal(CogVideoPipeline.from_pretrained(tmp_path)(PROMPTS, seeds=[1, 2]), made)
    assert sorted(path.name for path in (tmp_path / "transformer").iterdir()) == ["config.json", "model.safetensors"]


def test_the_first_frame_is_unguided_unless_told() -> None:
    pipe = tiny_cogvideo.pipeline(layers=1)
    calls = ({}, {"first_guidance_scale": 1.0}, {"guidance_scale": 1.0}, {"first_guidance_scale": 3.0})
    plain, told, free, guided = (pipe(PROMPTS, seeds=[1, 2], **call) for call in calls)
    assert torch.equal(plain, told)
    assert torch.equal(plain[:, 0], free[:, 0])
    assert not torch.equal(plain[:, 1:], free[:, 1:])
    assert not torch.equal(plain[:, 0], guided[:, 0])


def change(name: str, **values: object) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return do


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("model_index.json"), "no model_index.json in it"),
        (change("model_index.json", _class_name="WanPipeline"), "holds a WanPipeline, not a CogVideoPipeline"),
        (change("model_index.json", vq=None), "component 'vq' is missing"),
        (remove("transformer/config.json"), "cannot be read"),
        (remove("transformer/model.safetensors"), "model.safetensors"),
        (change("transformer/config.json", _class_name="Wan"), "is of a Wan, not of a CogVideoTransformer"),
        (change("transformer/config.json", depth=3), "unknown size 'depth'"),
        (change("transformer/config.json", layers=3), "does not hold the weights that config.json beside it calls for"),
        (change("transformer/config.json", f3core={"plan": {}}), r"the plan in .*config\.json is damaged"),
        (change("transformer/config.json", stage=2), "transformer must be of stage 1"),
        (remove("vq/config.json"), "vq or tokenizer could not be loaded"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "is no JSON"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "holds no JSON object"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    tiny_cogvideo.pipeline(layers=1).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        CogVideoPipeline.from_pretrained(tmp_path)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        CogVideoPipeline.from_pretrained(tmp_path / "nothing")


def test_arguments_that_make_no_sense_are_named() -> None:
    pipe = tiny_cogvideo.pipeline(layers=1)
    with pytest.raises(ModelError, match="2 prompts and 1 seeds"):
        pipe(PROMPTS, seeds=[1])
    with pytest.raises(ModelError, match="interpolations 1: this pipeline has no transformer_2"):
        pipe(PROMPTS, seeds=[1, 2], interpolations=1)


def test_components_must_fit_together() -> None:
    pipe = tiny_cogvideo.pipeline(layers=1)
    with pytest.raises(ModelError, match="20 picture tokens, but vq knows 18"):
        CogVideoPipeline(tiny_cogvideo.transformer(), pipe.vq, pipe.tokenizer)
    with pytest.raises(ModelError, match="frames of 8 tokens are not square"):
        CogVideoPipeline(tiny_cogvideo.transformer(tokens=8), pipe.vq, pipe.tokenizer)
