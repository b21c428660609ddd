"""What calibration costs, against plain inference on the same prompts: scoring, and trying removals out.

    python benchmarks/calibration_cost.py [--rounds 2] [--json FILE]

Each round generates the calibration prompts of every spec in specs/ranking plainly, scores them, and measures what
`propagated_drift` needs beyond that, one after the other; figures are medians over rounds. The trials' own generations,
one a step range on a few prompts, are told apart: the share of plain inference that they are is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from f3core.engine import load, silent
from f3core.environment import machine, now
from f3core.evaluate import generate, noise_seeds
from f3core.job import resolve
from f3core.registry import installed
from f3core.scoring import completed, inputs_of, score
from f3core.spec import load_spec

SPECS = sorted((Path(__file__).parents[1] / "specs" / "ranking").glob("*.yaml"))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def one_round(spec: Path) -> dict[str, float]:
    job = resolve(load_spec(spec), installed(), check_output=False)
    model, asked = load(job), job.file.spec.calibrate
    prompts, inputs = job.prompts(asked.num_prompts, asked.seed), inputs_of(job, model)
    seeds = noise_seeds(asked.seed, len(prompts))

    def plain() -> None:
        options = {"steps": asked.steps, "seeds": seeds, "call": model.call, "batch_size": asked.batch_size}
        generate(model.adapter, model.pipeline, prompts, **options)

    inference, _ = seconds(plain)
    heard: list[float] = []

    def hear(task: str, done: int, total: int) -> None:
        if task == "Scoring prompts":
            heard.append(time.perf_counter())

    whole, scores = seconds(lambda: score(job, model, inputs, hear))
    scoring = heard[-1] - heard[0]
    trying, tried_out = seconds(lambda: completed(job, model, scores, silent))
    impact = tried_out.impact
    ranges, tried = impact.damage.shape
    return {
        "plain": inference,
        "counting": (whole - scoring) / inference,
        "scoring": scoring / inference,
        "trying": trying / inference,
        "generations": ranges * tried / len(prompts),
        "sites": len(impact.sites),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json")
    options = parser.parse_args()
    rounds = [{spec.stem: one_round(spec) for spec in SPECS} for _ in range(options.rounds)]
    found = {}
    for name in rounds[0]:
        figures = {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        figures["beyond"] = figures["scoring"] + figures["trying"] - figures["generations"]
        found[name] = figures
        print(
            f"{name}: plain inference {figures['plain']:.1f} s; counting MACs (whatever the prompts) "
            f"{figures['counting']:.2f} ×, scoring {figures['scoring']:.2f} ×, trying removals "
            f"{figures['trying']:.2f} × of it, of which {figures['generations']:.2f} × are one generation a range: "
            f"{figures['beyond']:.2f} × and those generations"
        )
    if options.json:
        written = {"date": now(), "machine": machine().model_dump(), "rounds": rounds, "medians": found}
        Path(options.json).write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
