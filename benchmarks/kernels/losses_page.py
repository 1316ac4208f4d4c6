"""Put the stored figures into docs/losses.md, between its marks.

python benchmarks/kernels/losses_page.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["CPU", "GPU", "PAGE", "with_figures"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "losses.md"
CPU = ROOT / "benchmarks" / "results" / "kernels_cpu.json"
GPU = ROOT / "benchmarks" / "results" / "kernels_gpu.json"
NAMES = {"nt_xent": "NT-Xent", "clip": "CLIP", "siglip": "SigLIP"}
OURS, THEIRS = "edgessl chunked", "eager PyTorch"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path, table in ((CPU, cpu_figures), (GPU, gpu_figures)):
        if path.exists():
            text = with_figures(text, path.name, table(json.loads(path.read_text("utf-8"))))
    PAGE.write_text(text, encoding="utf-8")


def with_figures(text: str, name: str, figures: str) -> str:
    """The page with new figures from the result of this name."""
    marks = re.compile(
        rf"(<!-- figures: benchmarks/results/{re.escape(name)} -->\n).*?(<!-- end of figures -->)",
        re.DOTALL,
    )
    if len(marks.findall(text)) != 1:
        raise SystemExit(f"the page has no marks for {name}, or several")
    return marks.sub(lambda found: found[1] + figures + found[2], text)


def cpu_figures(result: dict[str, Any]) -> str:
    """Time and memory of each loss beside eager PyTorch."""
    lines = [
        f"M = {result['rows']:,} rows (and of each of two towers), "
        f"D = {result['width']}, float32, forward and backward together; {result['cpu']}, "
        f"{result['threads']} thread{'s' * (result['threads'] != 1)}, "
        f"torch {result['versions']['torch']}; "
        f"{result['repeats']} pairs of runs in turns, median [95 % interval]; "
        f"{result['created_utc'][:10]}.",
        "",
        "| loss | chunked, ms | eager, ms | times as fast | chunked, extra MB | eager, extra MB | "
        "memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["results"]:
        ratio, ours, theirs = row["speed_ratio"], row[OURS], row[THEIRS]
        lines.append(
            f"| {NAMES[row['loss']]} | {ours['median_seconds'] * 1e3:.0f} | "
            f"{theirs['median_seconds'] * 1e3:.0f} | "
            f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] | "
            f"{ours['peak_extra_bytes'] / 1e6:.1f} | {theirs['peak_extra_bytes'] / 1e6:.1f} | "
            f"1/{row['memory_ratio']:.1f} |"
        )
    goals = [
        f"{name}: {'reached' if met else '**missed**'}" for name, met in result["goals"].items()
    ]
    return "\n".join([*lines, "", f"Goals of all three: {'; '.join(goals)}.", ""])


def gpu_figures(result: dict[str, Any]) -> str:
    """Forward and backward together of each case, and the goals; or that nothing was measured."""
    if not result["results"]:
        return f"**Nothing has been run or measured on a GPU**: {result['why']}.\n"
    before = result["conditions_before"]
    card = (before["cards"] or [{"name": "unknown"}])[0]
    ceiling = max(found["flops"] for found in result["ceilings"])
    lines = [
        f"{card['name']}, driver {card.get('driver_version')}, "
        f"torch {before['versions']['torch']}, triton {before['versions']['triton']}; "
        f"{result['dtype']}; matrix products reach "
        f"{ceiling / 1e12:.0f} TFLOP/s; {result['created_utc'][:10]}.",
        "",
        "| case | rival | forward, ms | backward, ms | both, ms | extra MB | exact |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_gpu_row(row) for row in result["results"]]
    lines += ["", "| goal | case | found | set | |", "|---|---|---|---|---|"]
    words = {True: "met", False: "**missed**", None: "not measured"}
    for goal in result["goals"]:
        bound = f"≤ {goal['at_most']:.4g}" if "at_most" in goal else f"≥ {goal['at_least']:.4g}"
        found = "" if goal["found"] is None else f"{goal['found']:.4g}"
        met = words[goal["met"]]
        lines.append(f"| {goal['goal']} | {goal['case']} | {found} | {bound} | {met} |")
    return "\n".join([*lines, ""])


def _gpu_row(row: dict[str, Any]) -> str:
    case = f"| {row['case']['name']} | {row['rival']} "
    if "why" in row:
        return case + f"| {row['why']} | | | | |"
    times = [
        f"{timed['p50_ms']:.3g}" if "p50_ms" in (timed := row["passes"].get(name, {})) else ""
        for name in ("forward", "backward", "both")
    ]
    extra = row.get("peak_extra_bytes")
    memory = "" if extra is None else f"{extra / 1e6:.0f}"
    return case + f"| {' | '.join(times)} | {memory} | {'yes' if row['exact'] else 'no'} |"


if __name__ == "__main__":
    main()
