"""The Tune-A-Video mini's training runs from one stage to the next, and a stopped run goes on as an unbroken one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from f3core_zoo.train.common import Workplace
from f3core_zoo.train.tuneavideo import diffusion, images, loop, video
from f3core_zoo.train.tuneavideo.vae import FRAMES


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    """A workplace with latents of sixteen clips that show nothing."""
    work = Workplace(tmp_path)
    latents = torch.randn(16, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    work.save("latents.pt", {"latents": latents, "captions": torch.arange(16)})
    return work


def test_stages_follow_each_other(work: Workplace) -> None:
    with pytest.raises(FileNotFoundError, match=r"no images\.pt"):
        video.train(work, steps=1, agree_steps=1)
    images.train(work, steps=1)
    video.train(work, steps=1, agree_steps=1)
    model, step = video.load(work)
    assert step == 1
    assert {path.name for path in work.root.iterdir()} == {"latents.pt", "images.pt", "agree.pt", "order.pt"}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_stopped_run_goes_on(work: Workplace) -> None:
    latents, captions = diffusion.clip_latents(work)

    def run(name: str, *stops: int) -> list[torch.Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            model = images.build()
            loss = diffusion.Loss(model, latents[:, :, 0], captions, batch=4, power=1.0)
            loop.run(work, name, model, loss, stop, seed=0, curve=3)
        state = work.load(f"{name}.pt")
        assert state is not None
        return state["parameters"]

    for unbroken, resumed in zip(run("unbroken", 3), run("resumed", 1, 3), strict=True):
        torch.testing.assert_close(unbroken, resumed)


def test_sampling_starts_where_training_ends() -> None:
    scheduler = diffusion.scheduler()
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999
    clean, noise = torch.ones(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(scheduler.add_noise(clean, noise, torch.tensor([999])), noise, atol=1e-5, rtol=0)
