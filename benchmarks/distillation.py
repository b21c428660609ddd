"""Which losses make a pruned model good again: VDMini's ablation, on a mini, over several seeds.

    python benchmarks/distillation.py specs/vdmini/wan.yaml --name wan [--seeds 0,1,2] [--runs runs/vdmini/wan]

Per seed (of training, prompts and noise) and per arm, `f3core distill` trains the same student for the same number of
steps; finished arms are kept, so that the same command goes on after an interruption. Teacher, untrained student and
every trained one then make the same clips. Writes benchmarks/results/vdmini/NAME.json, .md and .png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture

from f3core import evaluate
from f3core.clips import INK
from f3core.distillation.distill import distill
from f3core.engine import load, prune, silent
from f3core.environment import library_versions, machine, now
from f3core.figures import tidy_
from f3core.footprint import model_size
from f3core.plan import PruningPlan
from f3core.report_text import markdown_table
from f3core.seeds import seeded
from f3core.spec import SpecFile, load_spec
from f3core.stats import Figure
from f3core.trial import Trial

ARMS = {
    "task": ["task"],
    "task + ICD": ["task", "icd"],
    "task + MCA": ["task", "mca"],
    "task + ICD + MCA": ["task", "icd", "mca"],
}
TEACHER, UNTRAINED = "teacher", "no training"
RESULTS = Path(__file__).parent / "results" / "vdmini"


def train(file: SpecFile, arm: str, seed: int, runs: Path) -> Path:
    """The folder of an arm's student; trained unless it is there, or gone on with."""
    assert file.spec.distill is not None
    folder = runs / f"seed-{seed}" / arm.replace(" + ", "_").lower()
    given = {loss.name: loss.options for loss in file.spec.distill.losses}
    losses = json.dumps([{name: given.get(name, {})} for name in ARMS[arm]])
    settings = [f"distill.losses={losses}", f"distill.seed={seed}", f"output={folder}"]
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        distill(file, overrides=["evaluate=null", *settings], resume=partial.exists(), listener=silent)
    return folder


def measure(file: SpecFile, seed: int, folders: dict[str, Path], kept: Path) -> dict[str, dict[str, float]]:
    """Figures of the teacher and of every student under one seed, each measured once."""
    found: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [name for name in (TEACHER, UNTRAINED, *folders) if name not in found]
    if not missing:
        return found
    job = seeded(file, seed, kept.parent / "unused")
    model = load(job)
    trial = Trial.of(job, model)
    reference = trial.unpruned()
    for name in missing:
        pipeline = model.pipeline
        if name == UNTRAINED:
            plan = PruningPlan.load(next(iter(folders.values())) / "plan.json")
            pipeline = prune(model, plan)
        elif name != TEACHER:
            source = str(folders[name] / "model")
            pipeline = model.adapter.load(source, dtype=torch.float32, device=torch.device("cpu"))
        clips = reference if name == TEACHER else trial.clips(pipeline)
        figures = {key: value for group in trial.quality(clips).values() for key, value in group.items()}
        figures |= {"damage": evaluate.damage(reference, clips), "parameters": model_size(model.adapter, pipeline)}
        found[name] = figures
        kept.write_text(json.dumps(found, indent=2), encoding="utf-8")
        print(f"seed {seed}, {name}: {figures}", flush=True)
    return found


def table(by_seed: dict[int, dict[str, dict[str, float]]], figures: list[str]) -> str:
    """Means over seeds with standard deviations, one row a model."""
    head, rows = ["", "parameters", *figures], []
    for name in next(iter(by_seed.values())):
        cells = []
        for figure in figures:
            value = Figure.of(one[name][figure] for one in by_seed.values())
            cells.append(f"{value.mean:.3g} ± {value.sd:.2g}")
        size = next(iter(by_seed.values()))[name]["parameters"]
        rows.append([name, f"{size / 1e6:.3g} M", *cells])
    return markdown_table(head, rows)


def draw(by_seed: dict[int, dict[str, dict[str, float]]], figures: list[str], path: Path) -> None:
    """A panel a figure: bars are means over seeds, dots the seeds."""
    names = list(next(iter(by_seed.values())))
    picture = Picture(figsize=(4.2 * len(figures), 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(picture)
    for place, figure in enumerate(figures, 1):
        axes = picture.add_subplot(1, len(figures), place)
        means = [Figure.of(one[name][figure] for one in by_seed.values()).mean for name in names]
        colours = ["#BBBBBB", "#BBBBBB", *["#004488"] * (len(names) - 2)]
        axes.barh(range(len(names)), means, color=colours, height=0.65)
        for one in by_seed.values():
            axes.plot([one[name][figure] for name in names], range(len(names)), "o", color=INK, markersize=3)
        axes.set_yticks(range(len(names)), names if place == 1 else [""] * len(names), fontsize=9)
        axes.invert_yaxis()
        axes.set_title(figure, fontsize=10, color=INK)
        tidy_(axes)
    picture.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--arms", default=",".join(ARMS), help="those to train, with commas")
    parser.add_argument("--set", action="append", default=[], help="overrides of the spec, as f3core's")
    parser.add_argument("--figures", default="frechet_video,all,damage", help="those to show, with commas")
    asked = parser.parse_args()
    file, runs = load_spec(asked.spec, asked.set), asked.runs or Path("runs/vdmini") / asked.name
    shutil.rmtree(runs / "unused", ignore_errors=True)
    by_seed: dict[int, dict[str, dict[str, float]]] = {}
    trained: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, asked.seeds.split(",")):
        folders = {arm: train(file, arm, seed, runs) for arm in asked.arms.split(",")}
        for arm, folder in folders.items():
            told = json.loads((folder / "distill.json").read_text())["training"]
            trained.setdefault(arm, []).append(told)
        by_seed[seed] = measure(file, seed, folders, runs / f"seed-{seed}" / "figures.json")
    RESULTS.mkdir(parents=True, exist_ok=True)
    assert file.spec.distill is not None
    assert file.spec.evaluate is not None
    told = {
        "date": now(),
        "machine": machine().model_dump(mode="json"),
        "versions": library_versions(),
        "command": "python " + " ".join(sys.argv),
        "spec": file.spec.model_dump(mode="json"),
        "training": trained,
        "figures": by_seed,
    }
    figures = asked.figures.split(",")
    (RESULTS / f"{asked.name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    draw(by_seed, figures, RESULTS / f"{asked.name}.png")
    seconds = [f"{arm} {Figure.of(one['seconds'] for one in of).mean:.0f} s" for arm, of in trained.items()]
    text = (
        f"{table(by_seed, figures)}\n\nMeans and standard deviations over seeds {asked.seeds}; "
        f"{file.spec.evaluate.num_clips} clips each, the same prompts and noise for all. "
        f"{file.spec.distill.steps} steps of {file.spec.distill.batch_size} clips for every arm: {', '.join(seconds)}. "
        f"{machine().cpu}, {machine().cores} logical cores.\n\n![as bars, dots are seeds]({asked.name}.png)\n\n"
        f"    {told['command']}\n"
    )
    (RESULTS / f"{asked.name}.md").write_text(
        f"# VDMini's losses on {file.spec.model.source}\n\n{text}", encoding="utf-8"
    )
    print(text)


if __name__ == "__main__":
    main()
