"""A process that knows nothing of f3core and loads saved pipelines with diffusers alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

SERVER = """
import json, operator, sys, torch
from diffusers import DiffusionPipeline
from diffusers.utils import load_image, load_video
from safetensors.torch import load_file, save_file

assert not any(name.startswith("f3core") for name in sys.modules)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        pipe = DiffusionPipeline.from_pretrained(asked["folder"], dtype=getattr(torch, asked["dtype"]))
        pipe.set_progress_bar_config(disable=True)
        for path in asked["ready"]:
            operator.attrgetter(path)(pipe)()
        call = asked["call"]
        generator = [torch.Generator().manual_seed(seed) for seed in asked["seeds"]]
        if "image" in call:
            call["image"] = [load_image(call["image"])] * len(asked["seeds"])
        for name in asked["videos"]:
            call[name] = [frame.convert("RGB") for frame in load_video(call[name])]
        for name, given in call.items():
            if isinstance(given, str) and given.endswith(".safetensors"):
                held = load_file(given)
                call[name] = list(held.values()) if len(held) > 1 else held["0"]
        if asked["alone"]:
            generator = generator[0]
            call.update((name, call[name][0]) for name in ("image", "prompt") if name in call)
        torch.manual_seed(asked["seeds"][0])
        clip = pipe(generator=generator, output_type="pt", **call).frames
        save_file({"clip": clip.float().clamp(0, 1).contiguous()}, asked["out"])
        print("done", flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), flush=True)
"""


@pytest.fixture(scope="session")
def loaded_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., torch.Tensor]]:
    """Clips [B, F, 3, H, W] of a saved pipeline, by plain `DiffusionPipeline.from_pretrained` in a fresh process.

    ``ready``: paths of methods that a pipeline's user must call before it can generate; ``videos``: arguments that are
    paths of videos; ``alone``: it makes one clip a call.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    (root / "server.py").write_text(SERVER)
    here = str(Path(__file__).parent)  # components that stand in for what is too large, such as a guardrail
    environment = {**os.environ, "PYTHONPATH": here}
    with subprocess.Popen(
        [sys.executable, root / "server.py"],
        env=environment,
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:

        def clips(
            folder: Path,
            seeds: list[int],
            call: dict[str, Any],
            *,
            dtype: str = "float32",
            ready: tuple[str, ...] = (),
            videos: tuple[str, ...] = (),
            alone: bool = False,
        ) -> torch.Tensor:
            out = root / "clip.safetensors"
            asked = {"folder": str(folder), "seeds": seeds, "call": call, "dtype": dtype, "out": str(out)}
            asked |= {"ready": ready, "videos": videos, "alone": alone}
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps(asked) + "\n")
            server.stdin.flush()
            said = server.stdout.readline().strip()
            assert said == "done", said
            return load_file(out)["clip"]

        yield clips
        server.stdin.close()
