"""`python -m f3core_zoo.train COMMAND`: makes everything this package ships, from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .common import Workplace


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m f3core_zoo.train", description=__doc__)
    parser.add_argument("command", choices=["vae", "judge", "denoiser", "evaluate"])
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder for checkpoints (default: runs/zoo)")
    parser.add_argument("--steps", type=int, help="training steps in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Workplace(options.work)
    extra = {} if options.steps is None else {"steps": options.steps}
    if options.command == "vae":
        from . import vae

        vae.train(work, seed=options.seed, **extra)
    elif options.command == "judge":
        from . import judge

        judge.train(work, seed=options.seed, **extra)
    elif options.command == "denoiser":
        from . import denoiser

        denoiser.train(work, seed=options.seed, ranks=options.threads, **extra)


if __name__ == "__main__":
    main()
