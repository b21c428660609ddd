"""What a distill section may ask for: refused with its line, before a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from distilling import BLOCKS, registry, run, write

from f3core.distillation.choices import dataset_of, losses_of, section_of
from f3core.errors import SpecError
from f3core.job import Job, resolve
from f3core.spec import load_spec

LINE = 6
"""of the distill section in the specs that `write` writes"""


def job_of(spec: Path, *overrides: str) -> Job:
    return resolve(load_spec(spec, overrides), registry())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"losses": ["task", "tusk"]}, "unknown loss 'tusk': did you mean 'task'?"),
        ({"data": "strips"}, "unknown data set 'strips': did you mean 'stripes'?"),
        ({"losses": [{"task": {"wait": 1}}]}, "loss 'task' does not take {'wait': 1}: .*its options: weight"),
        ({"losses": [{"task": {"weight": "heavy"}}]}, "the weight of loss 'task' must be .* 0 or more, not 'heavy'"),
        (
            {"losses": [{"task": {"weight": -1}}]},
            "the weight of loss 'task' .* a finite number, 0 or more, not -1",
        ),
        ({"losses": ["task", {"icd": {"blocks": "blocks.1"}}]}, "`blocks` of loss 'icd' is a list of paths, not '"),
        ({"losses": [{"mca": {"blocks": "blocks.1"}}]}, "`blocks` of loss 'mca' is a list of paths, not 'blocks.1'"),
        ({"data": {"stripes": {"count": 1}}}, "data set 'stripes' does not take {'count': 1}: .*its options: number"),
        ({"data": {"stripes": {"number": -1}}}, "there are no fewer clips than none"),
        ({"data": {"stripes": {"number": 0}}}, "data set 'stripes' has no clip to train on"),
        ({"data": {"folder": {"path": "/nowhere/at/all"}}}, "/nowhere/at/all: no such folder"),
    ],
)
def test_losses_and_data_are_refused_with_their_line(
    tiny_folder: Path, tmp_path: Path, section: dict[str, Any], said: str
) -> None:
    spec = write(tmp_path, tiny_folder, **section)
    with pytest.raises(SpecError, match=rf"{re.escape(str(spec))}:{LINE}:\d+: {said}"):
        run(spec)
    assert not (tmp_path / "run.partial").exists()


@pytest.mark.parametrize(
    ("prune", "key", "said"),
    [
        ({"target": "TA", "axis": "timestep"}, "axis", "a batch of training mixes rows of all steps"),
        ({"target": "TA", "axis": "cell", "step_ranges": 2}, "axis", "axis cell"),
        ({"target": "TA", "branch": "unconditional"}, "branch", "distil with branch: both"),
    ],
)
def test_what_is_pruned_in_some_forwards_only_is_not_trained(
    tiny_folder: Path, tmp_path: Path, prune: dict[str, Any], key: str, said: str
) -> None:
    spec = write(tmp_path, tiny_folder, prune=prune)
    column = spec.read_text().splitlines()[3].index(f'"{key}"') + 1
    with pytest.raises(SpecError, match=rf":4:\d+: .*{said}") as refused:
        run(spec)
    assert f":4:{column}:" in str(refused.value)


def test_a_spec_without_a_section_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs a distill section"):
        run(write(tmp_path, tiny_folder), "distill=null")


def test_an_override_is_blamed_for_what_it_asks(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--set distill.losses=\[tusk\]: unknown loss"):
        run(write(tmp_path, tiny_folder), "distill.losses=[tusk]")


def test_losses_and_data_are_made_with_their_options(tiny_folder: Path, tmp_path: Path) -> None:
    job = job_of(
        write(tmp_path, tiny_folder, losses=["icd", {"task": {"weight": 2.0}}], data={"stripes": {"number": 7}})
    )
    assert [(loss.name, loss.weight) for loss in losses_of(job)] == [("icd", 0.1), ("task", 2.0)]
    assert len(dataset_of(job)) == 7
    assert section_of(job) is job.file.spec.distill


def test_blocks_go_at_every_step_whatever_axis_the_adapter_has(tmp_path: Path) -> None:
    """Tune-A-Video's own axis is that of steps, by which attention would go."""
    spec = write(tmp_path, "zoo:digits-tune-a-video", prune=BLOCKS)
    assert section_of(job_of(spec)).steps == 3
    with pytest.raises(SpecError, match="axis: layer"):
        section_of(job_of(spec, "prune={target: TA, ratio: 0.5}"))
