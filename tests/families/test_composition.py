"""Pruned models under what else users do to a model in diffusers: caches, LoRA, offloading, casting, quantisation.

Each is tried on the unpruned model too, by the same call: what works there works on the pruned one.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
)
from torch import Tensor, nn

from f3core.adapter import Adapter
from f3core.contract import example_plan, tensors
from f3core.meta import share_copy
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_

TA = AttentionKind.TEMPORAL
FAMILIES = ["tiny_wan_t2v", "tiny_cogvideox", "tiny_hunyuan_video", "tiny_animatediff"]
STEPS = 4


@dataclass
class Pruned:
    """A pipeline whose first layer lost TA, and the unpruned one of the same weights."""

    tiny: Any
    adapter: Adapter
    plain: Any
    pipeline: Any
    component: str

    @property
    def denoiser(self) -> Any:
        return getattr(self.pipeline, self.component)

    def inputs(self) -> dict[str, Any]:
        torch.manual_seed(1)
        return self.adapter.example_inputs(self.denoiser, frames=3, height=4, width=8, batch=2, text=8)

    def output(self) -> Tensor:
        with torch.no_grad():
            return tensors(self.denoiser(**self.inputs()))[0].float()

    def clip(self, pipeline: Any = None, steps: int = STEPS) -> Tensor:
        call = {"steps": steps, "seeds": [3], "call": self.tiny.CALL}
        return self.adapter.generate(pipeline or self.pipeline, ["a red cat runs"], **call)


def prune(family: str, removal: Removal = Removal.SELF_ONLY) -> Pruned:
    tiny = importlib.import_module(family)
    plain = tiny.pipeline()
    plain.set_progress_bar_config(disable=True)
    known = installed()
    name = next(c for c in ("transformer", "unet") if hasattr(plain, c))
    adapter = known.make("adapter", known.match_adapter([type(getattr(plain, name)).__name__]).name)
    copy = share_copy(getattr(plain, name))
    apply_plan_(copy, example_plan(adapter.name, adapter.sites(copy, name), (TA, removal), chosen=(0,)), adapter, name)
    return Pruned(tiny, adapter, plain, adapter.with_denoisers(plain, {name: copy}), name)


@pytest.fixture(params=FAMILIES)
def pruned(request: pytest.FixtureRequest) -> Pruned:
    return prune(request.param)


def now(pipeline: Any) -> Callable[[], int]:
    return lambda: pipeline._current_timestep


CACHES: dict[str, Callable[[Pruned, Any], Any]] = {
    "pyramid": lambda made, pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        cross_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1001),
        cross_attention_timestep_skip_range=(0, 1001),
        current_timestep_callback=now(pipe),
    ),
    "first-block": lambda made, pipe: FirstBlockCacheConfig(threshold=10.0),
    "faster": lambda made, pipe: FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(0, 1001),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(0, 1001),
        attention_weight_callback=lambda _: 0.3,
        tensor_format="BFCHW" if made.adapter.name == "cogvideox" else "BCFHW",
        is_guidance_distilled=len(made.adapter.branches(pipe, made.component, made.tiny.CALL)) == 1,
        current_timestep_callback=now(pipe),
    ),
}


UNCACHED = {
    ("animatediff", "pyramid"): AttributeError,  # its U-Net has no enable_cache
    ("animatediff", "first-block"): AttributeError,
    ("animatediff", "faster"): AttributeError,
    ("wan", "faster"): IndexError,  # which takes what an attention returns for a tuple
    ("hunyuan-video", "faster"): IndexError,
}
"""What diffusers' caches raise on these models unpruned."""


def cached(made: Pruned, pipeline: Any, cache: str) -> Tensor:
    """A clip with a cache on."""
    denoiser = getattr(pipeline, made.component)
    denoiser.enable_cache(CACHES[cache](made, pipeline))
    try:
        return made.clip(pipeline)
    finally:
        denoiser.disable_cache()


@pytest.mark.parametrize("cache", CACHES)
def test_diffusers_caches_work_on_a_pruned_model(cache: str, pruned: Pruned) -> None:
    before = pruned.clip()
    if (raised := UNCACHED.get((pruned.adapter.name, cache))) is not None:
        with pytest.raises(raised):
            cached(pruned, pruned.plain, cache)
        pytest.skip("diffusers cannot cache the unpruned model so")
    plain = cached(pruned, pruned.plain, cache)
    found = cached(pruned, pruned.pipeline, cache)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, before), "nothing was cached"
    assert not torch.equal(found, plain), "nothing is pruned"
    assert torch.equal(pruned.clip(), before), "the cache left something behind"


def cached_by_cache_dit(made: Pruned, pipeline: Any) -> Tensor:
    cache_dit = pytest.importorskip("cache_dit")
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=1, residual_diff_threshold=10.0
    )
    cache_dit.enable_cache(pipeline, cache_config=config)
    try:
        return made.clip(pipeline)
    finally:
        cache_dit.disable_cache(pipeline)


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_cache_dit_works_on_a_pruned_model(family: str) -> None:
    made = prune(family)
    before, plain = made.clip(), made.clip(made.plain)
    if torch.equal(cached_by_cache_dit(made, made.plain), plain):
        pytest.skip("it caches nothing of two blocks of the unpruned model either")
    found = cached_by_cache_dit(made, made.pipeline)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, before), "nothing was cached"
    assert torch.equal(made.clip(), before)


@pytest.fixture
def lora(tmp_path: Path) -> Callable[[nn.Module], dict[str, Any]]:
    """Saves a LoRA for every attention projection of an unpruned denoiser; gives the arguments that load it."""
    peft = pytest.importorskip("peft")

    def save(denoiser: Any) -> dict[str, Any]:
        trained = share_copy(denoiser)
        trained.add_adapter(
            peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
        )
        trained.save_lora_adapter(tmp_path)
        file = next(tmp_path.glob("*.safetensors")).name
        return {"pretrained_model_name_or_path_or_dict": str(tmp_path), "weight_name": file, "prefix": None}

    return save


def test_a_lora_loads_fuses_and_goes(pruned: Pruned, lora: Callable[..., dict[str, Any]]) -> None:
    before = pruned.output()
    pruned.denoiser.load_lora_adapter(**lora(getattr(pruned.plain, pruned.component)))
    loaded = pruned.output()
    assert not torch.allclose(loaded, before, atol=1e-3)
    pruned.denoiser.fuse_lora()
    assert torch.allclose(pruned.output(), loaded, atol=1e-4)
    pruned.denoiser.unfuse_lora()
    pruned.denoiser.unload_lora()
    assert torch.allclose(pruned.output(), before, atol=1e-4)


@pytest.mark.parametrize("family", ["tiny_wan_t2v", "tiny_animatediff"])
def test_a_lora_for_a_removed_module_is_reported_and_the_rest_loads(
    family: str, lora: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture, propagated: None
) -> None:
    made = prune(family, Removal.DROP)
    before = made.output()
    arguments = lora(getattr(made.plain, made.component))
    with caplog.at_level(logging.WARNING):
        made.denoiser.load_lora_adapter(**arguments)
    gone = [site.path for site in made.adapter.sites(getattr(made.plain, made.component), made.component)]
    gone = [path for path in gone if path not in dict(made.denoiser.named_modules()) or _empty(made, path)]
    assert gone
    for path in gone:
        assert f"{path}.to_q.lora_A" in caplog.text
    assert not torch.allclose(made.output(), before, atol=1e-3)


def _empty(made: Pruned, path: str) -> bool:
    return not list(made.denoiser.get_submodule(path).parameters())


@pytest.fixture
def propagated() -> Iterator[None]:
    """diffusers' log reaches pytest."""
    log = logging.getLogger("diffusers")
    was, log.propagate = log.propagate, True
    yield
    log.propagate = was


def test_group_offloading_changes_nothing(pruned: Pruned) -> None:
    before = pruned.output()
    cpu = torch.device("cpu")
    pruned.denoiser.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")
    assert torch.equal(pruned.output(), before)


def test_layerwise_casting_stores_less_and_stays_near(pruned: Pruned) -> None:
    before = pruned.output()
    pruned.denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(p.dtype is torch.float8_e4m3fn for p in pruned.denoiser.parameters())
    off = (pruned.output() - before).abs().mean() / before.abs().mean()
    assert 0 < off < 0.2


def test_int8_weights_stay_near(pruned: Pruned) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    before = pruned.output()
    quantization.quantize_(pruned.denoiser, quantization.Int8WeightOnlyConfig())
    off = (pruned.output() - before).abs().mean() / before.abs().mean()
    assert 0 < off < 0.1


def test_gradient_checkpointing_gives_the_same_gradients(pruned: Pruned) -> None:
    gradients = []
    denoiser = pruned.denoiser.train()
    for switch in (denoiser.disable_gradient_checkpointing, denoiser.enable_gradient_checkpointing):
        switch()
        denoiser.zero_grad()
        tensors(denoiser(**pruned.inputs()))[0].square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None})
    without, checkpointed = gradients
    assert without.keys() == checkpointed.keys()
    assert all(torch.allclose(without[name], checkpointed[name], atol=1e-6) for name in without)


def test_another_attention_backend_runs_the_restricted_call(pruned: Pruned) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    before, name = pruned.output(), AttentionBackendName._NATIVE_MATH
    kernel, keys = _AttentionBackendRegistry._backends[name], []

    def counted(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        keys.append(key.shape[1])
        return kernel(query, key, *rest, **options)

    _AttentionBackendRegistry._backends[name] = counted
    try:
        pruned.denoiser.set_attention_backend(name.value)
        after = pruned.output()
        pruned.denoiser.reset_attention_backend()
    finally:
        _AttentionBackendRegistry._backends[name] = kernel
        _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)
    assert torch.allclose(after, before, atol=1e-4)
    if not keys:
        pytest.skip("its attention processors know no backends")
    layout = pruned.adapter.layout(pruned.denoiser, (), pruned.inputs())
    assert layout is not None
    assert min(keys) < layout.frames * layout.tokens <= max(keys), "one layer of two attends inside frames"
