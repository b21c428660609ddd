"""`python -m f3core_zoo.train.tuneavideo COMMAND`: makes the Tune-A-Video mini, from scratch."""

from __future__ import annotations

import torch

from ..common import Workplace, command_line


def main() -> None:
    """Parse the command line and run one command."""
    parser = command_line(
        "f3core_zoo.train.tuneavideo", __doc__, ["vae", "images", "video", "evaluate"], work="runs/tuneavideo"
    )
    parser.add_argument("--denoising-steps", type=int, nargs="+", help="evaluate: numbers of denoising steps to try")
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
