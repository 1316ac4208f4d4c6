"""The page of the compile matrix, written from its result file."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_page"]

Cell = dict[str, Any]
_REASON = 110


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write all cells as Markdown: a line per target, then a line per cell."""
    cells: list[Cell] = list(result["cells"].values())
    models, targets = ({cell[key] for cell in cells} for key in ("model", "target"))
    held = f"{len(cells)} cells of {len(models)} models and {len(targets)} targets so far."
    text = [_INTRODUCTION, held, _setting(result), "", "## Targets", "", *_targets(cells), ""]
    text += ["## Cells", "", _CELLS, "", *_cells(cells)]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


_INTRODUCTION = """\
# Compile matrix

Written by `benchmarks/compile/matrix.py`; do not edit. Each cell is one `edgessl compile` in a
process of its own, with a cache for each model; figures and messages in full are in
[benchmarks/results/compile_matrix.json](../benchmarks/results/compile_matrix.json). The timm models
have random weights with batch-norm statistics set from real images; the others are pretrained by
third parties. *compiled*: a bundle that passes the fidelity gate; *gate*: candidates run, none
passes; *refused*: one line says why, which is how `superres` (custom operators that no engine here
has) must end. Fidelity is that of the chosen candidate on held-out samples against float32, worst
output: cosine's 1st percentile, and signal-to-quantization-noise ratio. *device* means: measured
on the engine itself; *emulator* (the NPU vendor's) and *host* (another engine that computes
with the same integers) mean that no such device was there: bundles for Jetson and NPUs have not run
on hardware. Memory is the process tree's peak, an upper bound.
"""
_CELLS = "MB are 10^6 bytes; the model's size is that of the ONNX file."


def _setting(result: dict[str, Any]) -> str:
    settings, machine = result["settings"], result["environment"]
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items() if v)
    return (
        f"{settings['samples']} calibration samples and {settings['held_out']} held out (fewer "
        f"where the data are fewer), seed {settings['seed']}, {settings['threads']} thread(s) per "
        f"engine, on {machine['cpu']} ({machine['cores_usable']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB), Python {machine['python']}, {versions}."
    )


def _targets(cells: Sequence[Cell]) -> list[str]:
    rows = [
        "| target | compiled | gate | refused | other | median s | largest MB | least cosine p1 |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    for target in sorted({cell["target"] for cell in cells}):
        own = [c for c in cells if c["target"] == target]
        done = [c for c in own if c["status"] == "compiled"]
        counts = [sum(c["status"] == s for c in own) for s in ("compiled", "gate", "refused")]
        seconds = f"{statistics.median(c['seconds'] for c in done):.0f}" if done else ""
        memory = f"{max(c['peak_memory_bytes'] for c in own) / 1e6:.0f}"
        cosines = [c["fidelity"]["cosine_p1"] for c in done if c["fidelity"]]
        least = f"{min(cosines):.4f}" if cosines else ""
        row = [target, *counts, len(own) - sum(counts), seconds, memory, least]
        rows.append("| " + " | ".join(map(str, row)) + " |")
    return rows


def _cells(cells: Sequence[Cell]) -> list[str]:
    headers = ["model", "target", "result", "candidate", "on", "s", "peak MB", "model MB"]
    headers += ["bundle MB", "cosine p1", "SQNR dB", "why not"]
    rows = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    for c in cells:
        fidelity = c.get("fidelity") or {}
        size, sqnr = c.get("bundle_bytes"), fidelity.get("sqnr_db")
        row = [
            c["model"],
            c["target"],
            c["status"],
            c.get("chosen") or "",
            c.get("judged_on") if c.get("chosen") else "",
            f"{c['seconds']:.0f}",
            f"{c['peak_memory_bytes'] / 1e6:.0f}",
            f"{c['model_bytes'] / 1e6:.1f}",
            f"{size / 1e6:.1f}" if size else "",
            f"{fidelity['cosine_p1']:.4f}" if fidelity else "",
            f"{sqnr:.0f}" if sqnr is not None else "",
            _short(c["message"]),
        ]
        rows.append("| " + " | ".join(row) + " |")
    return rows


def _short(message: str) -> str:
    """A message that fits into a cell."""
    line = " ".join(message.split()).replace("|", "/").replace("<", "&lt;")
    return line if len(line) <= _REASON else line[: _REASON - 1] + "…"
