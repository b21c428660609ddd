"""Names of calls: noted while they run, with what a class caches by them, and gone afterwards."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import tiny_wan
import torch
from diffusers import FirstBlockCacheConfig
from f3core_diffusers.named_calls import NamedCalls, names_calls, naming_calls, unconditional_rows
from f3core_diffusers.wan import WanAdapter
from f3core_tuneavideo.pipeline import TuneAVideoPipeline
from torch import nn

from f3core.meta import share_copy


def told(model: nn.Module, batch: int = 4) -> list[int] | None:
    rows = unconditional_rows(model, batch)
    return None if rows is None else list(rows)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("cond", []), ("uncond", [0, 1, 2, 3]), ("uncond_cond", [0, 1]), ("cond_uncond", None), ("other", None)],
)
def test_what_names_tell(name: str, rows: list[int] | None) -> None:
    model = tiny_wan.transformer(1)
    assert told(model) is None
    with naming_calls(model):
        assert told(model) is None
        with model.cache_context(name):
            assert told(model) == rows
        assert told(model) is None
    assert type(model) is type(tiny_wan.transformer(1))


def test_a_name_is_gone_after_an_error_and_contexts_nest() -> None:
    class Plain(NamedCalls):
        pass

    def fail(model: Any) -> None:
        with model.cache_context("uncond"):
            with model.cache_context("cond"):
                assert told(model) == []
            assert told(model) == [0, 1, 2, 3]
            raise KeyError

    model = Plain()
    with pytest.raises(KeyError):
        fail(model)
    assert told(model) is None


def test_an_observed_generation_tells_its_branches_and_stays_the_same() -> None:
    adapter, pipe = WanAdapter(), tiny_wan.pipeline(1)
    seen: list[list[int] | None] = []
    pipe.transformer.register_forward_pre_hook(lambda model, _args: seen.append(told(model, 1)))

    def clip() -> torch.Tensor:
        return adapter.generate(pipe, ["a cat"], steps=2, seeds=[1], call=tiny_wan.CALL)

    before = clip()
    assert seen == [None] * 4
    seen.clear()
    with adapter.observable(pipe):
        assert torch.equal(clip(), before)
    assert seen == [[], [0]] * 2


def test_what_a_class_caches_by_a_name_goes_on() -> None:
    """First-block caching refuses calls without a context."""
    model = share_copy(tiny_wan.transformer(3))
    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    inputs = WanAdapter().example_inputs(model, frames=3, height=4, width=6, text=5)
    with naming_calls(model), torch.no_grad():
        with pytest.raises(ValueError, match="cache context"):
            model(**inputs)
        with model.cache_context("cond"):
            model(**inputs)


def test_pipelines_of_one_denoiser_may_or_may_not_name_their_calls() -> None:
    assert names_calls(diffusers.HunyuanVideoPipeline)
    assert not names_calls(diffusers.HunyuanVideoImageToVideoPipeline)
    assert names_calls(TuneAVideoPipeline)
