"""`python -m f3core_zoo.train.cogvideo COMMAND`: makes `digits_cogvideo` from scratch."""

from __future__ import annotations

import torch

from ..common import Workplace, command_line


def main() -> None:
    """Parse the command line and run one command."""
    parser = command_line("f3core_zoo.train.cogvideo", __doc__, ["vq", "tokens", "train", "evaluate"])
    parser.add_argument("--temperature", type=float, nargs="+", help="evaluate: temperatures to try")
    parser.add_argument("--top-k", type=int, nargs="+", help="evaluate: top-k to try")
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
