"""`python -m f3core_zoo.train.tuneavideo COMMAND`: makes the Tune-A-Video mini, from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..common import Workplace


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m f3core_zoo.train.tuneavideo", description=__doc__)
    parser.add_argument("command", choices=["vae", "images", "video", "evaluate"])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/tuneavideo"), help="folder for checkpoints (default: runs/tuneavideo)"
    )
    parser.add_argument("--steps", type=int, help="training steps in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=240, help="evaluate: clips to generate")
    parser.add_argument("--guidance", type=float, nargs="+", help="evaluate: guidance scales to try")
    parser.add_argument("--denoising-steps", type=int, nargs="+", help="evaluate: numbers of denoising steps to try")
    parser.add_argument("--as-is", action="store_true", help="evaluate: the shipped weights, not the last checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Workplace(options.work)
    extra = {} if options.steps is None else {"steps": options.steps}
    if options.command == "vae":
        from . import vae

        vae.train(work, seed=options.seed, **extra)
    elif options.command == "images":
        from . import images

        images.train(work, seed=options.seed, **extra)
    elif options.command == "video":
        from . import video

        video.train(work, seed=options.seed, **extra)
    else:
        from . import evaluate

        scales = options.guidance or [evaluate.CALL["guidance_scale"]]
        steps = options.denoising_steps or [evaluate.STEPS]
        evaluate.evaluate(work, options.clips, scales, steps, rebuild=not options.as_is)


if __name__ == "__main__":
    main()
