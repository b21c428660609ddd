"""MACs of the paper's two systems at their published sizes, before and after F3-Pruning, beside the paper's figures.

    python benchmarks/paper_macs.py [--output benchmarks/results]

Counted from configs, on the meta device with fvcore's handles; no weights. The paper's figures are those of its
Tables 2 and 4 (arXiv 2312.03459), which count something else, as benchmarks/results/paper_macs.md says.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from f3core import engine
from f3core.environment import machine, now
from f3core.job import resolve
from f3core.registry import installed
from f3core.sites import KINDS
from f3core.spec import load_spec

RATIOS = (0.25, 0.5, 0.75)
PASSES = {
    "full_cogvideo.yaml": "one row of a frame's forward, on average",
    "full_tune_a_video.yaml": "one forward of one row",
}
"""what a row of a step is, by spec"""
ABOUT = """\
MACs are multiply-adds of everything that the denoiser computes: projections, feed-forward layers and convolutions as
well as attention maps. The paper counts something else. In its Table 4 CogVideo loses the same 2086 PFLOPS with every
25 % of α, and pruning TA saves 5.0 times what pruning SA saves: that is N² : N for maps of N = 5 frames, so what falls
there are attention maps, of a count that cannot be derived again from the official code. Shares of the two counts
therefore differ. In its Table 2 Tune-A-Video saves 24.57 TFLOPS: what half of 50 steps × 2 rows save when SC-Attn
sees one frame of keys instead of two and attn_temp loses its maps (24.50 + 0.07 TMAC); below, ours stands beside it.

A CogVideo clip is counted frame by frame, each with the rows that it has: one for the first frame's own pass, which
is drawn without guidance and without the temporal channel, two for all others.
"""
PAPER_SAVING = {"Tune-A-Video, 8 frames": 24.57}
"""TFLOPS of maps that the paper's Table 2 saves at α = 50 %"""
SPECS = Path(__file__).resolve().parent.parent / "specs" / "paper"
CASES: tuple[tuple[str, str, tuple[str, ...], str, dict[float, float]], ...] = (
    ("CogVideo, stage 1", "full_cogvideo.yaml", (), "PFLOPS", {0: 9483, 0.25: 7397, 0.5: 5310, 0.75: 3224}),
    ("CogVideo, stage 1, drop", "full_cogvideo.yaml", ("prune.removal=drop",), "PFLOPS", {}),
    ("Tune-A-Video, 8 frames", "full_tune_a_video.yaml", (), "TFLOPS", {0: 379.8, 0.5: 355.23}),
    ("Tune-A-Video, 8 frames, drop", "full_tune_a_video.yaml", ("prune.removal=drop",), "TFLOPS", {}),
    ("Tune-A-Video, 24 frames", "full_tune_a_video.yaml", ("model.call.video_length=24",), "TFLOPS", {}),
)


def measure(name: str, spec: str, overrides: tuple[str, ...], unit: str, paper: dict[float, float]) -> dict[str, Any]:
    """MACs of one clip at every ratio, by kind; of one pass; parameters; and the seconds that counting took."""
    began = time.perf_counter()
    file = load_spec(SPECS / spec, overrides)
    plans = engine.plan_without_weights(file, (0.0, *RATIOS))
    seconds = time.perf_counter() - began
    job = resolve(file, installed(), check_output=False)
    denoisers = engine.adapter_for_source(job).skeletons(job.source)
    rows = []
    maps = sum(plans[0][1].counted.kinds.values())
    for ratio, (plan, macs) in zip((0.0, *RATIOS), plans, strict=True):
        rows.append(
            {
                "ratio": ratio,
                "macs": macs.counted.total,
                "share": macs.counted.total / plan.macs_before,
                "maps_saved": maps - sum(macs.counted.kinds.values()),
                "kinds": {str(kind): macs.counted.kinds[kind] for kind in KINDS},
                "paper": paper.get(ratio),
                "paper_share": paper[ratio] / paper[0] if ratio in paper else None,
            }
        )
    passes = sum(sum(rows) for kinds in plans[0][0].passes.values() for rows in kinds.values())
    return {
        "model": name,
        "unit": unit,
        "parameters": sum(p.numel() for d in denoisers.values() for p in d.parameters()),
        "pass": PASSES[spec],
        "pass_macs": plans[0][0].macs_before / passes,
        "passes": passes,
        "seconds": round(seconds, 1),
        "rows": rows,
    }


def to_markdown(found: list[dict[str, Any]]) -> str:
    """A table a model."""
    text = (
        "# MACs at published sizes\n\n"
        f"{now()}, {machine().cpu}. `python benchmarks/paper_macs.py`; counted on the meta device, no weights.\n\n"
        f"{ABOUT}"
    )
    for case in found:
        text += (
            f"\n## {case['model']}\n\n{case['parameters'] / 1e6:,.2f} M parameters; {case['pass']}: "
            f"{case['pass_macs'] / 1e12:.4g} TMAC, {case['passes']} of them a clip; counted in {case['seconds']} "
            "s.\n\n| α | TMAC a clip | share | CA maps | SA maps | TA maps | paper, "
            f"{case['unit']} | paper's share |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        )
        for row in case["rows"]:
            kinds = " | ".join(f"{macs / 1e12:,.4g}" for macs in row["kinds"].values())
            paper = (
                f"{row['paper']:,g} | {row['paper_share']:.3f}" if row["paper"] is not None else "not given | not given"
            )
            text += f"| {row['ratio']:.0%} | {row['macs'] / 1e12:,.4g} | {row['share']:.3f} | {kinds} | {paper} |\n"
        if case["model"] in PAPER_SAVING:
            half = next(row["maps_saved"] for row in case["rows"] if row["ratio"] == 0.5)
            text += (
                f"\nAttention maps alone save {half / 1e12:.2f} TMAC at α = 50 %; the paper saves "
                f"{PAPER_SAVING[case['model']]:.2f} TFLOPS.\n"
            )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for paper_macs.json and paper_macs.md")
    output = parser.parse_args().output
    found = [measure(*case) for case in CASES]
    print(to_markdown(found))
    if output:
        (output / "paper_macs.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (output / "paper_macs.md").write_text(to_markdown(found), encoding="utf-8")


if __name__ == "__main__":
    main()
