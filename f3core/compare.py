"""`compare`: methods, settings and accelerators side by side on one model, with the same prompts, seeds and noise."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from f3core import compare_figure, compare_text
from f3core.adapter import Model
from f3core.compare_models import RowModels, Weights
from f3core.compare_rows import Comparison, Outcome, rows_of
from f3core.compare_seed import Bench, scores_of
from f3core.engine import SPEC, command, silent
from f3core.environment import now
from f3core.identity import digest
from f3core.job import Job
from f3core.measure import Listener
from f3core.seeds import each_seed, seeded
from f3core.spec import SpecFile
from f3core.workspace import workspace


def compare(
    file: SpecFile, *, output: Path | None = None, resume: bool = False, listener: Listener = silent
) -> Comparison:
    """Run the rows of the spec's compare section, and write compare.json, compare.md, compare.csv, compare.png and the
    scores that were used to the output folder.

    All rows of a seed meet the same prompts and noise, those too that bring a model of their own. Every finished row is
    kept, so that an interrupted comparison goes on with ``resume``, with other rows too. Raises `SpecError` when there
    is nothing to compare or to measure with, or a row asks for what its model cannot lose, `ModelError` where an
    accelerator does not bear the model, and `OutputError` where a row's model is another one than in finished seeds.
    """
    section = file.spec.compare
    if section is None:
        raise file.error(("compare",), "a comparison needs a compare section, with rows")
    if file.spec.evaluate is None:
        raise file.error(("evaluate",), "a comparison measures quality; it needs an evaluate section")
    jobs = {seed: seeded(file, seed, output) for seed in section.seeds}
    spec = file.spec.model_dump(mode="json", exclude={"output": True, "compare": {"rows"}})
    identity = {"run": "compare", "spec": spec}
    with workspace(jobs[section.seeds[0]].output, identity, resume=resume) as work:
        done, models = work.scratch / f"seeds-{digest(section.rows)}", RowModels(listener)

        def one(job: Job, model: Model, seed: int) -> dict[str, Any]:
            bench = Bench(job, model, models, seed, work.scratch, listener, first=seed == section.seeds[0])
            bench.check()
            for finished in sorted(done.glob("seed-*.json")):
                models.check_kept(json.loads(finished.read_text(encoding="utf-8"))["result"], work.folder)
            return bench.run()

        parts = each_seed(jobs, done, listener, one)
        outcomes = tuple(Outcome.model_validate(found) for part in parts for found in part.pop("outcomes"))
        kept = [(work.scratch / part.pop("folder"), part.pop("sources")) for part in parts]
        versions = {name: version for part in parts for name, version in part.pop("versions").items()}
        telling, rows = rows_of(outcomes, parts[0]["higher_is_better"])
        found = Comparison(
            date=now(),
            versions=versions,
            command=command("compare", file),
            spec=file.name,
            source=file.spec.model.source,
            seeds=section.seeds,
            calibrated=file.spec.calibrate.steps,
            timed_clips=next((o.timing.clips for o in outcomes if o.timing), None),
            telling=telling,
            rows=tuple(rows),
            outcomes=outcomes,
            **parts[0],
        )
        _write(found, file, work.folder)
        _copy_scores(dict(zip(section.seeds, kept, strict=True)), work.folder / "scores")
        work.finish()
    return found


def _write(found: Comparison, file: SpecFile, folder: Path) -> None:
    compare_figure.draw(found, folder / "compare.png")
    for name, text in (
        (SPEC, file.text),
        ("compare.md", compare_text.to_markdown(found)),
        ("compare.csv", compare_text.to_csv(found)),
        ("compare.json", found.model_dump_json(indent=2) + "\n"),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def _copy_scores(kept: Mapping[int, tuple[Path, Mapping[str, Weights]]], folder: Path) -> None:
    """Scores of the spec's model into ``folder``, those of every other into a folder in it that is named after it."""
    for seed, (place, sources) in kept.items():
        names = dict(zip(sources, _told_apart(sources), strict=True))
        places = {folder: place} | {folder / names[s]: scores_of(place, weights) for s, weights in sources.items()}
        for target, origin in places.items():
            for scores in sorted(origin.glob("scores-*.safetensors")):
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(scores, target / scores.name.replace("scores", f"seed-{seed}", 1))


def _told_apart(sources: Iterable[str]) -> list[str]:
    """Names of folders for sources, each other than the rest: the last part of a path or an id."""
    names: list[str] = []
    for source in sources:
        name = re.sub(r"[^\w.-]+", "-", source.rstrip("/").rpartition("/")[2]).strip(".") or "model"
        numbered = (f"{name}-{n}" for n in itertools.count(2))
        names.append(next(each for each in itertools.chain([name], numbered) if each not in names))
    return names
