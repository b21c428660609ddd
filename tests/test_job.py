"""`resolve` refuses whatever can be refused before a model is loaded, at its line, and imports no torch for it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import f3core_diffusers
import f3core_f3
import pytest

from f3core.errors import F3Error, SpecError
from f3core.hookspecs import AdapterEntry, Entry, SourceEntry, hookimpl
from f3core.job import Job, resolve
from f3core.method import PromptSet
from f3core.registry import Registry
from f3core.spec import SpecFile, parse_spec

SPEC = """\
version: 1
model:
  source: wan
calibrate:
  prompts: prompts.txt
prune:
  method: f3
  target: TA
  removal: self_only
  criterion: aas
evaluate:
  metrics: []
output: run
"""
ROOT = Path(__file__).parents[1]


class Numbers(PromptSet):
    name = "numbers"

    def prompts(self, count: int, seed: int) -> list[str]:
        return [f"{seed}:{i}" for i in range(count)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry()
    made.register(f3core_f3, "f3")
    made.register(f3core_diffusers, "diffusers")
    shipped = SourceEntry("zoo:tiny", str(tmp_path / "wan"))
    numbers = Entry("numbers", f"{__name__}:Numbers")
    other = AdapterEntry("other", "nowhere:Other", model_classes=("OtherModel",), removals={})
    hooks = {"sources": [shipped], "prompts": [numbers], "adapters": [other]}
    made.register(
        types.SimpleNamespace(**{f"f3core_{k}": hookimpl(lambda found=v: found) for k, v in hooks.items()}), "mine"
    )
    return made


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model folder and a prompts file."""
    monkeypatch.chdir(tmp_path)
    index(tmp_path / "wan", transformer="WanTransformer3DModel")
    (tmp_path / "prompts.txt").write_text("a cat\n\n  a dog  \na bird\n")
    return tmp_path


def index(folder: Path, **components: str) -> None:
    folder.mkdir(exist_ok=True)
    found = {"_class_name": "P", "vae": ["diffusers", "AutoencoderKLWan"]}
    (folder / "model_index.json").write_text(json.dumps({**found, **{k: ["d", v] for k, v in components.items()}}))


def found(registry: Registry, old: str = "", new: str = "", **options: Any) -> Job:
    assert old in SPEC
    return resolve(parse_spec(SPEC.replace(old, new), "s.yaml"), registry, **options)


def refusal(registry: Registry, old: str = "", new: str = "", **options: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        found(registry, old, new, **options)
    return caught.value.problems


def test_a_right_spec_is_resolved(registry: Registry, here: Path) -> None:
    job = found(registry)
    assert (job.source, job.local, job.output) == ("wan", True, Path("run"))
    assert job.adapter is not None
    assert job.adapter.name == "wan"
    assert sorted(p.name for p in here.iterdir()) == ["prompts.txt", "wan"]  # nothing was written


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("method: f3", "method: f4", "7:3", "unknown method 'f4': allowed: f3"),
        ("criterion: aas", "criterion: ass", "10:3", "unknown criterion 'ass': did you mean 'aas'?"),
        ("metrics: []", "metrics: [fvd]", "12:13", "unknown metric 'fvd'"),
        ("prompts: prompts.txt", "prompts: nubmers", "5:3", "nor a prompt set; did you mean 'numbers'?"),
        ("prompts: prompts.txt", "prompts: wan", "5:3", "'wan' is neither a text file here nor a prompt set"),
        ("source: wan", "source: wan\n  adapter: wna", "4:3", "unknown adapter 'wna': did you mean 'wan'?"),
        ("source: wan", "source: zoo:tinny", "3:3", "did you mean 'zoo:tiny'? allowed: zoo:tiny"),
        ("source: wan", "source: ./nowhere", "3:3", "is no folder here, no hub id"),
        ("target: TA", "target: SA", "9:3", "cannot lose SA by self_only; allowed: mask"),
        ("removal: self_only", "removal: mask", "9:3", "cannot lose TA by mask; allowed: drop, self_only"),
    ],
)
def test_what_nobody_registered_is_refused_at_its_line(
    registry: Registry, old: str, new: str, where: str, says: str
) -> None:
    (problem,) = refusal(registry, old, new)
    assert problem.startswith(f"s.yaml:{where}: ")
    assert says in problem


def test_a_metric_is_asked_for_once(registry: Registry) -> None:
    registry.register(types.SimpleNamespace(f3core_metrics=hookimpl(lambda: [Entry("m", "x:Y")])), "m")
    (problem,) = refusal(registry, "metrics: []", "metrics: [m, {m: {a: 1}}]")
    assert problem.startswith("s.yaml:12:16: metric 'm' is asked for twice")


def test_every_problem_is_listed(registry: Registry) -> None:
    text = SPEC.replace("f3", "f4").replace("aas", "ass").replace("prompts.txt", "none.txt").replace("[]", "[a, b]")
    with pytest.raises(SpecError) as caught:
        resolve(parse_spec(text.replace("source: wan", "source: zoo"), "s.yaml"), registry)
    places = {problem.partition(": ")[0] for problem in caught.value.problems}
    assert places == {f"s.yaml:{p}" for p in ("3:3", "5:3", "7:3", "10:3", "12:13", "12:16")}


def test_a_wrong_override_is_blamed_itself(registry: Registry) -> None:
    file = parse_spec(SPEC, "s.yaml", ["prune.criterion=ass"])
    with pytest.raises(SpecError, match=r"^--set prune\.criterion=ass: unknown criterion"):
        resolve(file, registry)


def test_targets_of_a_sweep_are_checked_but_not_against_the_removal(registry: Registry) -> None:
    found(registry, "output: run", "output: run\nsweep: {targets: [CA, SA, TA]}")
    options = "model.adapter=wan", "sweep.targets=[TA]"
    wan = next(r.entry for r in registry.registered("adapter") if r.entry.name == "wan")
    narrow = dataclasses.replace(wan, name="narrow", removals={k: v for k, v in wan.removals.items() if k != "CA"})
    registry.register(types.SimpleNamespace(f3core_adapters=hookimpl(lambda: [narrow])), "narrow")
    text = SPEC + "sweep: {targets: [TA, CA]}\n"
    resolve(parse_spec(text, "s.yaml", options), registry)
    with pytest.raises(SpecError, match=r"^s\.yaml:14:23: no site of adapter 'narrow' can lose CA; allowed: TA, SA"):
        resolve(parse_spec(text, "s.yaml", ["model.adapter=narrow"]), registry)


def test_a_target_that_no_site_can_lose(registry: Registry) -> None:
    (problem,) = refusal(registry, "source: wan", "source: wan\n  adapter: other")
    assert problem.startswith("s.yaml:9:3: no site of adapter 'other' can lose TA")


def test_model_folders_that_no_adapter_takes(registry: Registry, here: Path) -> None:
    (here / "empty").mkdir()
    assert "s.yaml:3:3: empty holds no model" in refusal(registry, "source: wan", "source: empty")[0]
    index(here / "foreign", transformer="FluxTransformer2DModel")
    assert "no adapter matches FluxTransformer2DModel" in refusal(registry, "source: wan", "source: foreign")[0]
    index(here / "mixed", transformer="WanTransformer3DModel", transformer_2="OtherModel")
    (problem,) = refusal(registry, "source: wan", "source: mixed")
    assert "transformer: wan, transformer_2: other" in problem
    index(here / "pruned", transformer="PrunedWanTransformer3DModel")
    pruned = found(registry, "source: wan", "source: pruned").adapter
    assert pruned is not None
    assert pruned.name == "wan"


def test_sources(registry: Registry, here: Path) -> None:
    shipped = found(registry, "source: wan", "source: zoo:tiny")
    assert (shipped.source, shipped.local) == (str(here / "wan"), True)
    hub = found(registry, "source: wan", "source: owner/model")
    assert (hub.source, hub.local, hub.adapter) == ("owner/model", False, None)
    given = found(registry, "source: wan", "source: in memory", given_model=True)
    assert (given.source, given.local, given.adapter) == ("in memory", False, None)


@pytest.mark.parametrize("content", [b"", b"\n  \n", b"\xff\xfe"])
def test_prompt_files_without_prompts(registry: Registry, here: Path, content: bytes) -> None:
    (here / "prompts.txt").write_bytes(content)
    (problem,) = refusal(registry)
    assert problem.startswith("s.yaml:5:3: prompts.txt")
    assert ("holds no prompt" if not content.strip() else "cannot be read as text") in problem


def test_prompts_are_drawn_by_seed(registry: Registry) -> None:
    job = found(registry)
    lines = {"a cat", "a dog", "a bird"}
    assert set(job.prompts(3, 0)) == lines
    assert job.prompts(8, 5) == job.prompts(8, 5)
    assert job.prompts(8, 5)[:4] == job.prompts(4, 5)
    assert [job.prompts(9, 1).count(line) for line in sorted(lines)] == [3, 3, 3]
    assert len({tuple(job.prompts(3, seed)) for seed in range(60)}) == 6  # every order comes up
    assert found(registry, "prompts: prompts.txt", "prompts: numbers").prompts(2, 7) == ["7:0", "7:1"]


def test_an_output_that_holds_something_is_refused(registry: Registry, here: Path) -> None:
    (here / "run").mkdir()
    assert found(registry).output == Path("run")  # an empty folder is fine
    (here / "run" / "report.json").write_text("{}")
    assert refusal(registry)[0].startswith("s.yaml:13:1: run is there already and is not overwritten")
    assert refusal(registry, output="wan")[0].startswith("--output wan is there already")
    assert refusal(registry, output="prompts.txt")[0].startswith("--output prompts.txt is there already")
    assert found(registry, output="elsewhere").output == Path("elsewhere")
    assert found(registry, check_output=False).output == Path("run")
    assert (here / "run" / "report.json").read_text() == "{}"


def test_call_arguments_of_the_folder_yield_to_the_specs(registry: Registry, here: Path) -> None:
    (here / "wan" / "f3core.json").write_text('{"call": {"height": 16, "width": 16}}')
    assert found(registry).call == {"height": 16, "width": 16}
    job = found(registry, "source: wan", "source: wan\n  call: {width: 32, n: 1}")
    assert job.call == {"height": 16, "width": 32, "n": 1}
    for broken in ("{", "[]", "{}", '{"call": 3}'):
        (here / "wan" / "f3core.json").write_text(broken)
        with pytest.raises(F3Error, match=r"f3core\.json: must be JSON of the form"):
            found(registry)


def test_jobs_are_frozen(registry: Registry) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        found(registry).source = "x"  # type: ignore[misc]


def test_resolving_imports_no_torch(here: Path) -> None:
    (here / "spec.yaml").write_text(SPEC)
    code = """
import sys
import f3core_diffusers, f3core_f3
from f3core.errors import SpecError
from f3core.job import resolve
from f3core.registry import Registry
from f3core.spec import load_spec

registry = Registry()
registry.register(f3core_f3, "f3")
registry.register(f3core_diffusers, "diffusers")
assert resolve(load_spec("spec.yaml"), registry).adapter.name == "wan"
for wrong in ("prune.criterion=x", "prune.removal=mask", "prune.target=SA", "model.source=x", "calibrate.prompts=x"):
    try:
        resolve(load_spec("spec.yaml", [wrong]), registry)
    except SpecError:
        continue
    raise SystemExit(f"{wrong} was not refused")
heavy = {"torch", "diffusers", "fvcore", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    paths = f"{ROOT}:{ROOT / 'plugins'}"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


COMPARE = """\
compare:
  rows:
    - {name: a, prune: {method: f4}, accelerate: [qux, {quz: {}}]}
    - {name: b, prune: {removal: reduce}}
    - {name: c, accelerate: quz}
    - {name: d, prune: {budget: {speedup: 2}}}
"""


def test_rows_of_a_comparison_are_looked_up_each_at_its_place(registry: Registry) -> None:
    qux = Entry("qux", "nowhere:Qux")
    registry.register(types.SimpleNamespace(f3core_accelerators=hookimpl(lambda: [qux])), "caches")
    text = SPEC.replace("metrics: []", "timing_pairs: 0") + COMPARE
    with pytest.raises(SpecError) as caught:
        resolve(parse_spec(text, "s.yaml"), registry)
    told = [problem.partition("; allowed")[0] for problem in caught.value.problems]
    assert [problem.partition(": ")[0] for problem in told] == [
        "s.yaml:16:25", "s.yaml:16:56", "s.yaml:17:25", "s.yaml:18:17", "s.yaml:19:25"
    ]  # fmt: skip
    assert "unknown method 'f4'" in told[0]
    assert "unknown accelerator 'quz': did you mean 'qux'?" in told[1]
    assert "cannot lose TA by reduce" in told[2]
    assert "unknown accelerator 'quz'" in told[3]
    assert "is timed; it needs evaluate.timing_pairs" in told[4]


def test_rows_do_not_repeat_what_is_wrong_in_the_section_they_take_over(registry: Registry) -> None:
    text = SPEC.replace("method: f3", "method: f4") + "compare: {rows: [{name: a, prune: {}}]}\n"
    with pytest.raises(SpecError) as caught:
        resolve(parse_spec(text, "s.yaml"), registry)
    (problem,) = caught.value.problems
    assert problem.startswith("s.yaml:7:3: unknown method 'f4'")


def with_rows(*rows: str, old: str = "", new: str = "") -> SpecFile:
    lines = "".join(f"    - {row}\n" for row in rows)
    return parse_spec(f"{SPEC.replace(old, new)}compare:\n  rows:\n{lines}", "s.yaml")


def test_models_of_rows_are_looked_up_each_at_its_place(registry: Registry, here: Path) -> None:
    index(here / "student", transformer="WanTransformer3DModel")
    index(here / "other", transformer="OtherModel")
    index(here / "new", transformer="NewModel")
    (here / "empty").mkdir()
    sources = ("student", "zoo:tinny", "other", "new", "empty", "a/b", "zoo:tiny")
    file = with_rows(*(f"{{name: {name}, source: '{name}'}}" for name in sources))
    with pytest.raises(SpecError) as caught:
        resolve(file, registry)
    told = caught.value.problems
    assert [problem.partition(": ")[0] for problem in told] == [
        f"s.yaml:{line}:{len('    - {name: , ') + len(name) + 1}"
        for line, name in enumerate(sources, 16)
        if name in sources[1:5]
    ]
    assert "did you mean 'zoo:tiny'?" in told[0]
    assert "other is of adapter 'other', the spec's model of 'wan'; rows are called as" in told[1]
    assert "no adapter matches NewModel" in told[2]
    assert "empty holds no model that a plugin knows" in told[3]


def test_the_job_of_a_row_is_of_its_model(registry: Registry, here: Path) -> None:
    index(here / "student", transformer="WanTransformer3DModel")
    (here / "student" / "f3core.json").write_text('{"call": {"height": 999}}')
    (here / "wan" / "f3core.json").write_text('{"call": {"height": 16}}')
    file = with_rows("{name: a, source: student}", "{name: b, source: c/d, prune: {}}", "{name: c, prune: {}}")
    job = resolve(file, registry)
    student, far, own = map(job.of_row, range(3))
    assert [(each.source, each.local, each.call) for each in (student, far, own)] == [
        ("student", True, job.call), ("c/d", False, job.call), ("wan", True, job.call)
    ]  # fmt: skip
    assert job.call == {"height": 16}
    assert (student.adapter, far.adapter) == (job.adapter, None)
    named = resolve(with_rows("{name: b, source: c/d}", old="source: wan", new="source: wan\n  adapter: wan"), registry)
    assert named.of_row(0).adapter == named.adapter == job.adapter
    with pytest.raises(SpecError) as caught:
        resolve(with_rows("{name: a, source: student, prune: {removal: reduce}}"), registry)
    (problem,) = caught.value.problems
    assert problem.startswith("s.yaml:16:42: sites of adapter 'wan' cannot lose TA by reduce")
