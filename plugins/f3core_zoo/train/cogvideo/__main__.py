"""`python -m f3core_zoo.train.cogvideo COMMAND`: makes `digits_cogvideo` from scratch."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..common import Workplace


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m f3core_zoo.train.cogvideo", description=__doc__)
    parser.add_argument("command", choices=["vq", "tokens", "train", "evaluate"])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/zoo"), help="folder for checkpoints (default: runs/zoo)"
    )
    parser.add_argument("--steps", type=int, help="training steps in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=240, help="evaluate: clips to generate")
    parser.add_argument("--guidance", type=float, nargs="+", help="evaluate: guidance scales to try")
    parser.add_argument("--temperature", type=float, nargs="+", help="evaluate: temperatures to try")
    parser.add_argument("--top-k", type=int, nargs="+", help="evaluate: top-k to try")
    parser.add_argument("--as-is", action="store_true", help="evaluate: the shipped weights, not the last checkpoint")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = Workplace(options.work)
    extra = {} if options.steps is None else {"steps": options.steps}
    if options.command == "vq":
        from . import vq

        vq.train(work, seed=options.seed, **extra)
    elif options.command == "tokens":
        from . import data

        data.prepare(work)
    elif options.command == "train":
        from . import transformer

        transformer.train(work, seed=options.seed, **extra)
    else:
        from . import evaluate

        evaluate.evaluate(
            work,
            options.clips,
            options.guidance or [evaluate.CALL["guidance_scale"]],
            options.temperature or [evaluate.CALL["temperature"]],
            options.top_k or [evaluate.CALL["top_k"]],
            rebuild=not options.as_is,
        )


if __name__ == "__main__":
    main()
