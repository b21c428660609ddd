"""Specs: what is accepted round-trips, what is wrong is refused with its line."""

from __future__ import annotations

import math
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from f3core.budget import Budget
from f3core.errors import SpecError
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.spec import Spec, load_spec, parse_spec

VALID = """\
version: 1
model:
  source: zoo:digits-wan   # a comment
  adapter: wan
  dtype: bfloat16
  device: cpu
  call: {num_frames: 9, note: anything}
calibrate:
  prompts: zoo:digits
  num_prompts: 16
  steps: 20
  seed: 0
  batch_size: 2
  query_stride: 8
  impact_prompts: 2
prune:
  method: f3
  target: TA
  axis: layer
  criterion: aas
  ratio: 0.5
  budget: null
  removal: self_only
  branch: both
  step_ranges: 4
  seed: 7
evaluate:
  metrics: [text_accuracy, frechet_video]
  num_clips: 64
  batch_size: 4
  steps: 10
  seed: 3
  timing_pairs: 0
  timing_batch: 2
sweep:
  ratios: [0.0, 0.25, 1.0]
  targets: [TA, CA]
  seeds: [0, 5]
compare:
  seeds: [4]
  rows:
    - {name: PAB, source: null, prune: null, accelerate: [pab, {cache: {every: 2}}]}
distill:
  data: {folder: {path: clips}}
  losses: [task, {mca: {weight: 2.0}}]
  steps: 200
  batch_size: 4
  accumulate: 2
  optimiser: {learning_rate: 0.0005, betas: [0.9, 0.98], weight_decay: 0.0, warmup: 10, clip_norm: null}
  opponent: {learning_rate: 0.001, betas: [0.0, 0.9], weight_decay: 0.1, warmup: 5, clip_norm: 2.0}
  ema: 0.9
  mixed_precision: bf16
  gradient_checkpointing: true
  caption_dropout: 0.2
  keep_latents: false
  save_every: 50
  sample_every: 25
  samples: 2
  seed: 7
output: runs/quickstart
"""
LINES = VALID.splitlines()
SECTIONS = {"version", "model", "calibrate", "prune", "evaluate", "sweep", "compare", "distill", "output"}


def line_of(key: str) -> int:
    return next(i for i, line in enumerate(LINES, 1) if line.strip().startswith(f"{key}:"))


def changed(key: str, value: str) -> str:
    """VALID with the first line of ``key`` given another value."""
    lines = list(LINES)
    at = line_of(key) - 1
    lines[at] = f"{lines[at].partition(':')[0]}: {value}"
    return "\n".join(lines)


def refusal(text: str, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "s.yaml", overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_every_field_is_read() -> None:
    file = parse_spec(VALID)
    assert file.text == VALID
    assert file.spec.model_dump(mode="json") == yaml.safe_load(VALID)
    assert file.spec.prune.target is AttentionKind.TEMPORAL
    assert file.spec.prune.axis is PruningAxis.LAYER
    assert file.spec.prune.removal is Removal.SELF_ONLY
    assert set(yaml.safe_load(VALID)) == set(Spec.model_fields) == SECTIONS


counts = st.integers(1, 10**6)
names = st.text(string.ascii_letters + string.digits + "/:._- #'\"{[é✓", min_size=1, max_size=20)
# PyYAML leaves the text 1e3 unquoted, which YAML 1.2 reads as a number
names = names.filter(lambda name: not re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+", name))
shares = st.floats(0, 1) | st.sampled_from([0, 1])
budgets = [{"macs": 0.6}, {"parameters": 0.7}, {"speedup": 1.5}, {"milliseconds": 120}]
goals = st.sampled_from([{}, *({"budget": budget} for budget in budgets)]) | st.one_of(
    shares.map(lambda ratio: {"ratio": ratio}),
    shares.map(lambda drop: {"budget": {"metric": "m.all", "max_drop": drop}}),
)
specs = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "model": st.fixed_dictionaries(
            {"source": names},
            optional={
                "dtype": st.sampled_from(["float32", "bfloat16", "float16", None]),
                "call": st.dictionaries(names, st.integers() | names | st.booleans() | st.none(), max_size=3),
            },
        ),
        "calibrate": st.fixed_dictionaries({"prompts": names}, optional={"num_prompts": counts, "steps": counts}),
        "output": names,
    },
    optional={
        "prune": st.fixed_dictionaries(
            {},
            optional={
                "target": st.sampled_from(["CA", "SA", "TA"]),
                "axis": st.sampled_from(["layer", "timestep", "cell", None]),
                "removal": st.sampled_from(["self_only", "drop", "mask", None]),
                "step_ranges": counts | st.none(),
                "seed": st.integers(0, 2**40),
            },
        ).flatmap(lambda prune: goals.map(lambda goal: prune | goal)),
        "evaluate": st.none() | st.fixed_dictionaries({}, optional={"metrics": st.lists(names, max_size=3)}),
    },
)


@settings(deadline=None, max_examples=80)
@given(specs, st.booleans())
def test_specs_round_trip(data: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True)
    file = parse_spec(text)
    assert file.text == text
    assert Spec.model_validate_json(file.spec.model_dump_json()) == file.spec
    assert parse_spec(file.spec.model_dump_json()).spec == file.spec  # JSON is YAML
    dumped = file.spec.model_dump(mode="json")
    for section, value in data.items():
        for key, given_value in value.items() if isinstance(value, dict) else ():
            found = dumped[section][key]
            assert ({k: v for k, v in found.items() if v is not None} if key == "budget" else found) == given_value


def test_defaults_are_the_designs() -> None:
    spec = parse_spec("version: 1\nmodel: {source: a/b}\ncalibrate: {prompts: p}\noutput: o").spec
    prune = spec.prune
    assert (prune.method.name, prune.criterion.name, prune.ratio, prune.axis) == ("f3", "aas", 0.5, None)
    assert prune.target is AttentionKind.TEMPORAL
    with pytest.raises(ValidationError):
        prune.ratio = 0.1  # type: ignore[misc]


KEYS = [i for i, line in enumerate(LINES) if re.match(r" *\w+:", line)]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(KEYS), st.randoms(use_true_random=False))
def test_any_misspelt_key_is_refused_on_its_line(at: int, rng: random.Random) -> None:
    indent, key, rest = re.match(r"( *)(\w+)(:.*)", LINES[at]).groups()  # type: ignore[union-attr]
    i = rng.randrange(len(key))
    wrong = rng.choice([key[:i] + key[i + 1 :], key[:i] + rng.choice("qxzQ_7") + key[i:], key.upper() + "s"]) or "q"
    problems = refusal("\n".join([*LINES[:at], f"{indent}{wrong}{rest}", *LINES[at + 1 :]]))
    here = f"s.yaml:{at + 1}:{len(indent) + 1}: unknown key {wrong!r}"
    assert any(p.startswith(here) and "allowed: " in p for p in problems), problems


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ratio", "1.2", "less than or equal to 1, not 1.2"),
        ("ratio", "-0.1", "greater than or equal to 0, not -0.1"),
        ("ratio", ".nan", "finite number, not nan"),
        ("ratio", ".inf", "not inf"),
        ("ratio", "1e400", "not inf"),
        ("ratio", "'0.5'", "valid number, not '0.5'"),
        ("ratio", "true", "valid number, not True"),
        ("ratio", "[0.5]", "valid number"),
        ("num_prompts", "0", "greater than or equal to 1, not 0"),
        ("num_prompts", "2.0", "valid integer"),
        ("num_prompts", "yes", "valid integer, not True"),
        ("steps", "-3", "greater than or equal to 1"),
        ("query_stride", "0", "greater than or equal to 1"),
        ("axis", "layers", "did you mean 'layer'? allowed: cell, layer, timestep"),
        ("axis", "3", "allowed: cell, layer, timestep"),
        ("target", "ta", "allowed: CA, SA, TA"),
        ("target", "TX", "unknown 'TX': allowed: CA, SA, TA, block"),
        ("target", "[TA]", "allowed: CA, SA, TA"),
        ("removal", "self-only", "did you mean 'self_only'?"),
        ("dtype", "fp16", "'bfloat16'"),
        ("version", "2", "not 2"),
        ("version", "true", "not True"),
        ("version", "1.0", "not 1.0"),
        ("source", "''", "at least 1 character"),
        ("output", "3", "valid string, not 3"),
        ("call", "[1]", "valid dictionary"),
        ("metrics", "text_accuracy", "not 'text_accuracy'"),
        ("timing_pairs", "-1", "greater than or equal to 0"),
        ("ratios", "[0.5, 0.50]", "0.5 is given twice"),
        ("ratios", "[]", "give at least one"),
        ("ratios", "0.5", "not 0.5"),
        ("targets", "[TA, TA]", "TA is given twice"),
        ("seeds", "null", "not None"),
    ],
)
def test_impossible_values_are_refused_on_their_line(key: str, value: str, says: str) -> None:
    (problem,) = refusal(changed(key, value))
    column = len(LINES[line_of(key) - 1]) - len(LINES[line_of(key) - 1].lstrip()) + 1
    assert problem.startswith(f"s.yaml:{line_of(key)}:{column}: ")
    assert key in problem
    assert says in problem


@pytest.mark.parametrize(
    ("key", "value", "column", "says"),
    [
        ("ratios", "[0.5, 1.5]", 17, "sweep.ratios.1: input should be less than or equal to 1, not 1.5"),
        ("targets", "[TX]", 13, "sweep.targets.0: unknown 'TX': allowed: CA, SA, TA, block"),
        ("optimiser", "{betas: [0.9, 1.5]}", 28, "distill.optimiser.betas.1: input should be less than 1, not 1.5"),
        ("seeds", "[0, -1]", 14, "sweep.seeds.1: input should be greater than or equal to 0, not -1"),
        ("seeds", "[true]", 11, "sweep.seeds.0: input should be a valid integer, not True"),
    ],
)
def test_a_wrong_item_is_refused_at_its_place(key: str, value: str, column: int, says: str) -> None:
    assert refusal(changed(key, value)) == [f"s.yaml:{line_of(key)}:{column}: {says}"]


@settings(deadline=None, max_examples=100)
@given(st.floats() | st.integers())
def test_a_ratio_is_a_number_from_0_to_1(value: float) -> None:
    text = changed("ratio", yaml.safe_dump(value).splitlines()[0])
    if math.isfinite(value) and 0 <= value <= 1:
        assert parse_spec(text).spec.prune.ratio == value
    else:
        assert refusal(text)[0].startswith(f"s.yaml:{line_of('ratio')}:3: prune.ratio: ")


def test_all_problems_are_listed_at_once() -> None:
    text = changed("ratio", "7").replace("criterion:", "criterium:").replace("num_clips: 64", "num_clips: 0")
    problems = refusal(text.replace("output: runs/quickstart", ""))
    expected = {f"s.yaml:{line_of(key)}:3" for key in ("ratio", "criterion", "num_clips")} | {"s.yaml:1:1"}
    assert {p.partition(": ")[0] for p in problems} == expected
    assert "s.yaml:1:1: output is missing" in problems
    assert any("unknown key 'criterium' in prune; did you mean 'criterion'?" in p for p in problems)


def test_a_list_item_has_its_own_place() -> None:
    (problem,) = refusal(changed("metrics", "[ok, 3]"))
    assert problem.startswith(f"s.yaml:{line_of('metrics')}:17: evaluate.metrics.1: ")


@pytest.mark.parametrize("text", ["", "3", "- a", "~"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert refusal(text)[0].startswith("s.yaml:1:1: a spec is a mapping with the keys version, model,")


def test_yaml_problems_carry_file_line_and_column() -> None:
    assert refusal(VALID + "prune: {}\n") == ["s.yaml:61:1: duplicate key 'prune'; first given on line 16"]
    assert refusal(changed("source", "!!python/name:os.system x"))[0].startswith("s.yaml:3:11: ")
    assert refusal(VALID + "x: [")[0].startswith("s.yaml:61:5: not valid YAML")


def test_overrides_change_values_and_leave_the_text() -> None:
    overrides = ("prune.ratio=0.25", "model.call.num_frames=17", "evaluate=null", "output=elsewhere")
    file = parse_spec(VALID, "s.yaml", overrides)
    assert (file.spec.prune.ratio, file.spec.evaluate, file.spec.output) == (0.25, None, "elsewhere")
    assert file.spec.model.call == {"num_frames": 17, "note": "anything"}
    assert (file.text, file.overrides) == (VALID, overrides)
    assert parse_spec(VALID, overrides=["prune.ratio=0.1", "prune.ratio=0.9"]).spec.prune.ratio == 0.9
    short = "version: 1\nmodel: {source: a/b}\ncalibrate: {prompts: p}\noutput: o"
    assert parse_spec(short, overrides=["prune.seed=4"]).spec.prune.seed == 4


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("{macs: 0}", "budget.macs: input should be greater than 0, not 0"),
        ("{macs: 1.2}", "budget.macs: input should be less than or equal to 1, not 1.2"),
        ("{parameters: 1.2}", "budget.parameters: input should be less than or equal to 1, not 1.2"),
        ("{milliseconds: 0}", "budget.milliseconds: input should be greater than 0, not 0"),
        ("{speedup: 0.9}", "budget.speedup: input should be greater than or equal to 1, not 0.9"),
        ("{metric: m, max_drop: -1}", "budget.max_drop: input should be greater than or equal to 0, not -1"),
        (
            "{macs: 0.5, speedup: 2}",
            "give exactly one of macs, parameters, speedup, milliseconds, and metric with max_drop; found macs and "
            "speedup",
        ),
        ("{}", "found none"),
        ("{max_drop: 0.1}", "found none"),
        ("{metric: m}", "metric and max_drop go together; max_drop is missing"),
        ("{macs: 0.5, max_drop: 0.1}", "metric and max_drop go together; metric is missing"),
        (
            "{mac: 0.5}",
            "unknown key 'mac' in prune.budget; did you mean 'macs'? allowed: macs, max_drop, metric, milliseconds, "
            "parameters, speedup",
        ),
        ("0.5", "prune.budget"),
    ],
)
def test_impossible_budgets_are_refused_on_their_line(budget: str, says: str) -> None:
    text = changed("budget", budget).replace("  ratio: 0.5\n", "")
    (problem,) = refusal(text)
    assert problem.startswith(f"s.yaml:{line_of('budget') - 1}:")
    assert says in problem


def test_a_ratio_or_a_budget() -> None:
    (problem,) = refusal(changed("budget", "{macs: 0.5}"))
    assert problem.startswith(f"s.yaml:{line_of('budget')}:3: prune.budget: stands instead of a ratio")
    short = "version: 1\nmodel: {source: a/b}\ncalibrate: {prompts: p}\noutput: o"
    assert parse_spec(short).spec.prune.ratio == 0.5
    found = parse_spec(VALID, overrides=["prune.ratio=null", "prune.budget={macs: 0.5}"]).spec.prune
    assert (found.ratio, found.budget) == (None, Budget(macs=0.5))
    assert parse_spec(VALID, overrides=["prune.ratio=null"]).spec.prune.ratio == 0.5
    (problem,) = refusal(VALID, ("prune.budget={macs: 0.5}",))
    assert problem.startswith("--set prune.budget={macs: 0.5}: prune.budget: stands instead of a ratio")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("prune.ratio=1.5", "prune.ratio: input should be less than or equal to 1"),
        ("prune.raito=0.5", "unknown key 'raito' in prune; did you mean 'ratio'?"),
        ("prune={ratio: 2}", "prune.ratio: input should be less than or equal to 1"),
        ("evaluate.metrics=[a, 3]", "evaluate.metrics.1"),
        ("prune.ratio", "write it as section.key=value"),
        ("prune..ratio=1", "write it as section.key=value"),
        ("model.source.x=1", "'source' is a value, not a section"),
        ("prune.ratio=[", "not valid YAML"),
        ("prune.ratio=!!python/name:os.system x", "tags and dates"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str) -> None:
    (problem,) = refusal(VALID, (override,))
    assert problem.startswith(f"--set {override}: ")
    assert says in problem


def test_the_override_that_won_is_named() -> None:
    assert refusal(VALID, ("prune.ratio=2", "prune.ratio=3"))[0].startswith("--set prune.ratio=3: ")
    # one that did not touch what is wrong is not blamed
    assert refusal(changed("ratio", "2"), ("prune.seed=3",))[0].startswith(f"s.yaml:{line_of('ratio')}:3: ")


def test_later_findings_point_at_the_nearest_place() -> None:
    file = parse_spec(VALID, "s.yaml", ["prune.criterion=drift"])
    assert str(file.error(("prune", "method"), "no")) == f"s.yaml:{line_of('method')}:3: no"
    assert str(file.error(("prune", "criterion"), "no")) == "--set prune.criterion=drift: no"
    assert str(file.error(("calibrate", "nothing"), "no")) == f"s.yaml:{line_of('calibrate')}:1: no"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    with pytest.raises(SpecError, match=r"s\.yaml: cannot be read: No such file"):
        load_spec(path)
    with pytest.raises(SpecError, match="cannot be read"):
        load_spec(tmp_path)
    path.write_bytes(b"version: \xff")
    with pytest.raises(SpecError, match=r"s\.yaml: not UTF-8 text \(byte 9\)"):
        load_spec(path)
    path.write_text("\ufeff" + VALID, encoding="utf-8")
    assert load_spec(path).spec.version == 1
    assert load_spec(path).name == str(path)


def test_the_schema_offers_words_and_refuses_other_keys() -> None:
    prune = Spec.model_json_schema()["$defs"]["PruneSpec"]
    assert prune["additionalProperties"] is False
    assert prune["properties"]["target"]["enum"] == ["CA", "SA", "TA", "block"]
