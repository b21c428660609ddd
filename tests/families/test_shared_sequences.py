"""Pruned models whose sequence several devices share: processes on the CPU stand for devices."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from diffusers import ContextParallelConfig
from test_composition import prune

from f3core.contract import tensors
from f3core.errors import ModelError


def _on_one_of_two(rank: int, port: int, family: str, folder: str, frames: list[int]) -> None:
    """Runs in a process of its own: pruned forwards whose sequence two processes share, on the CPU."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.accelerator.device_count = lambda: 1  # diffusers numbers devices by accelerators, of which there are none
    made = prune(family)
    torch.manual_seed(1)
    clips = [made.adapter.example_inputs(made.denoiser, frames=n, height=4, width=8, text=8) for n in frames]
    said = []
    with torch.no_grad():
        alone = [tensors(made.denoiser(**clip))[0] for clip in clips]
        made.denoiser.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        for clip, expected in zip(clips, alone, strict=True):
            try:
                said.append(str(float((tensors(made.denoiser(**clip))[0] - expected).abs().max())))
            except ModelError as error:
                said.append(str(error))
    Path(folder, f"{rank}.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_devices_share_a_sequence_of_whole_frames_and_torn_frames_are_refused(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_on_one_of_two, (port, "tiny_wan_t2v", str(tmp_path), [4, 3]), nprocs=2)
    for rank in range(2):
        off, refused = json.loads((tmp_path / f"{rank}.json").read_text())
        assert float(off) < 1e-5
        assert refused.startswith("enable_parallelism splits the sequence over devices")
        assert "self_only" in refused
