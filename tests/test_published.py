"""Published models, counted: equal to what their adapters and torch's own counter say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from f3core.published import PublishedCount, published_counts
from f3core.published_text import published_markdown
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal


@pytest.fixture(scope="module")
def wan() -> dict[str, PublishedCount]:
    return {count.name: count for count in published_counts(installed(), ["wan"])}


def test_a_forward_costs_what_torch_counts(wan: dict[str, PublishedCount]) -> None:
    (small,) = (p for p in installed().make("adapter", "wan").published() if "1.3B" in p.name)
    sketch = small.sketch()
    with FlopCounterMode(display=False) as torchs:
        sketch.denoisers["transformer"](**sketch.inputs["transformer"]["forward"])
    assert wan[small.name].forward == torchs.get_total_flops() // 2


def test_drop_removes_the_module_and_self_only_nothing(wan: dict[str, PublishedCount]) -> None:
    (small,) = (count for count in wan.values() if "1.3B" in count.name)
    gone = {(p.removal, p.ratio): p.parameters_removed for p in small.prunings}
    width, layers = 1536, 30
    assert gone[Removal.SELF_ONLY, 0.5] == 0
    assert gone[Removal.DROP, 0.5] == (4 * width * width + 4 * width + 2 * width) * layers // 2  # W and b, two norms
    macs = [p.macs for p in small.prunings if p.removal is Removal.SELF_ONLY]
    steps = [before - after for before, after in zip([small.macs, *macs], macs, strict=False)]
    assert steps[0] // 8 == steps[1] // 7 == steps[2] // 8, "8, 15 and 23 of 30 equal layers"
    assert small.macs == small.forward * 2 * small.steps
    assert small.kinds[AttentionKind.TEMPORAL] == small.kinds[AttentionKind.SELF] * 20, "21 frames"


def test_the_command_prints_and_writes_a_table(f3core_cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    code, out, _ = f3core_cli("plan", "--published", "--adapter", "cogvideox", "--ratios", "0.5", "-o", page)
    assert code == 0
    assert "CogVideoX" in out
    assert "α = 50%" in page.read_text()
    rows = [line for line in page.read_text().splitlines() if line.startswith("| CogVideoX")]
    assert len(rows) == len(installed().make("adapter", "cogvideox").published())
    code, out, _ = f3core_cli("plan", "--published", "--adapter", "cogvideox", "--ratios", "0.5", "--json")
    found = json.loads(out)
    assert [count["name"] for count in found] == [row.split(" | ")[0].removeprefix("| ") for row in rows]


def test_a_model_without_temporal_attention_says_so() -> None:
    counts = published_counts(installed(), ["sana-video"])
    assert counts
    assert "| no TA |" in published_markdown(counts, "")


def test_a_page_says_how_it_was_made(wan: dict[str, PublishedCount]) -> None:
    assert "made today" in published_markdown(list(wan.values()), "made today")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--published", "spec.yaml"], "without a spec"),
        (["--published", "--set", "prune.ratio=0.1"], "without a spec"),
        (["--published", "--adapter", "nobody"], "unknown adapter 'nobody'"),
        (["--published", "--adapter", "cogvideo"], "no adapter of cogvideo knows a published model"),
        (["--adapter", "wan"], "give a SPEC to plan, or --published"),
        ([], "give a SPEC to plan, or --published"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, f3core_cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, said = f3core_cli("plan", *words)
    assert code != 0
    assert message in said


def test_a_page_is_not_overwritten(f3core_cli: Callable[..., Any], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("mine")
    code, _, said = f3core_cli("plan", "--published", "--adapter", "wan", "-o", page)
    assert (code, page.read_text()) == (2, "mine")
    assert "not overwritten" in said
