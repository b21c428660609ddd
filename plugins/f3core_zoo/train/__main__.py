"""`python -m f3core_zoo.train COMMAND`: makes the Wan mini and the judge, from scratch."""

from __future__ import annotations

import torch

from .common import Workplace, command_line


def main() -> None:
    """Parse the command line and run one command."""
    parser = command_line("f3core_zoo.train", __doc__, ["vae", "judge", "denoiser", "evaluate"], threads=2)
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
    else:
        from . import evaluate

        scales = options.guidance or [evaluate.CALL["guidance_scale"]]
        evaluate.evaluate(work, options.clips, scales, rebuild=not options.as_is)


if __name__ == "__main__":
    main()
