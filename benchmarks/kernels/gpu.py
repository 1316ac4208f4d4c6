"""Contrastive losses on a CUDA GPU: edgessl beside all rivals, in one run.

    python benchmarks/kernels/gpu.py

For NT-Xent, CLIP's and SigLIP's loss at four sizes in bfloat16 it measures forward, backward and
both (20/50/80 quantiles, rivals in turns) and the peak of extra memory, checks every rival's loss
and gradients against float64 in the same run, measures the matmul ceiling, and judges the goals.
Rivals that are not installed are rows with the reason; to have them all:

    pip install lightly open_clip_torch inf-cl siglip-kernel

``--small --out FILE`` runs the same code in seconds without a GPU (Triton in its interpreter).
Exit codes: 0 measured, 2 bad usage, 4 no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "kernels_gpu.json"
CARD_FACTS = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.sm")
WHY = "no CUDA GPU was at hand"
DTYPE = "bfloat16"
SHORTEST_PASS_ROUNDS = 7


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on the CPU; needs --out")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each case, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--losses", nargs="+", choices=("nt_xent", "clip", "siglip"))
    parser.add_argument("--without", nargs="+", default=[], metavar="RIVAL", help="leave these out")
    options = parser.parse_args(words)
    if options.small:
        if options.out is None:
            parser.error("--small needs --out: it never writes over measured figures")
        # Before anything imports triton.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # Rivals need blocks of different sizes: memory that is mapped once serves all of them.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    if not options.small and not torch.cuda.is_available():
        without_gpu(options.out or RESULTS)
        print(f"gpu.py: {WHY}; nothing was measured", file=sys.stderr)
        return 4
    measure_all(options, options.out or RESULTS)
    return 0


def without_gpu(out: Path) -> None:
    """Say that nothing was measured, unless figures are there."""
    if out.exists() and json.loads(out.read_text(encoding="utf-8")).get("results"):
        return
    write(out, {"why": WHY, "results": [], "goals": []})


def write(path: Path, value: Any) -> None:
    text = json.dumps(_plain(value), indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become words."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def measure_all(options: argparse.Namespace, out: Path) -> None:
    """Each case in turn; the file is written after each, so that a crash loses one case."""
    import torch
    from cases import CASES, SMALL_CASES
    from goals import judge
    from rivals import OURS
    from timing import CudaClock, WallClock, matmul_flops

    device = "cpu" if options.small else "cuda"
    torch.set_float32_matmul_precision("high")
    clock = WallClock() if options.small else CudaClock()
    sizes = (64,) if options.small else (4096, 8192, 16384)
    dtype = getattr(torch, DTYPE)
    result: dict[str, Any] = {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "why": "--small: a rehearsal on a CPU, no figures" if options.small else None,
        "dtype": DTYPE,
        "seed": options.seed,
        "seconds_per_case": options.seconds,
        "conditions_before": conditions(),
        "ceilings": [matmul_flops(clock, dtype, device, sizes=sizes, seed=options.seed)],
        "results": [],
    }
    for case in SMALL_CASES if options.small else CASES:
        if options.losses and case.loss not in options.losses:
            continue
        result["results"] += measure(case, clock, device, options)
        write(out, result)
    result["ceilings"].append(matmul_flops(clock, dtype, device, sizes=sizes, seed=options.seed))
    result["conditions_after"] = conditions()
    # The clocks may change over a run: the higher ceiling is the harder one to reach.
    ceiling = max(found["flops"] for found in result["ceilings"])
    result["goals"] = judge(result["results"], ceiling, OURS)
    write(out, result)
    for goal in result["goals"]:
        print(json.dumps(goal))


def conditions() -> dict[str, Any]:
    """The card and the software."""
    import torch
    from rivals import PACKAGES

    query = f"--query-gpu={','.join(CARD_FACTS)}"
    try:
        said = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        said = ""
    cards = [dict(zip(CARD_FACTS, line.split(", "), strict=False)) for line in said.splitlines()]
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return {
        "cards": cards,
        "capability": capability,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(
    case: Any, clock: Any, device: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each rival of a case."""
    import torch
    from cases import exact, make_inputs
    from rivals import rivals
    from timing import in_turns, reason

    torch._dynamo.reset()
    inputs = make_inputs(case, getattr(torch, DTYPE), device, options.seed)
    expected = exact(case, inputs)
    if device == "cuda":
        torch.cuda.empty_cache()
    rows, timed = [], {}
    for rival in rivals(case, small=options.small):
        print(f"{case.name}: {rival.name}", file=sys.stderr, flush=True)
        row: dict[str, Any] = {
            "case": facts(case),
            "rival": rival.name,
            "ours": rival.ours,
            "remark": rival.remark,
        }
        rows.append(row)
        if rival.name in options.without:
            row["why"] = "left out with --without"
            continue
        try:
            timed.update(prepare(row, rival, case, inputs, expected, clock, options))
        # What a rival raises is the answer to whether it can do this case.
        except Exception as error:
            row["why"] = reason(error)
        if device == "cuda":
            torch.cuda.empty_cache()
    quantiles = in_turns(
        {f"{row}|{name}": timer for (row, name), timer in timed.items()},
        seconds=options.seconds,
        least=SHORTEST_PASS_ROUNDS,
        seed=options.seed,
    )
    for key, found in quantiles.items():
        index, name = key.split("|")
        next(r for r in rows if r["rival"] == index).setdefault("passes", {})[name] = found
    return rows


def facts(case: Any) -> dict[str, Any]:
    """A case as the goals read it."""
    import torch

    return {
        "name": case.name,
        "loss": case.loss,
        "rows": case.rows,
        "dimensions": case.dimensions,
        "temperature": case.temperature,
        "unit_flop": case.unit,
        "input_rows": case.input_rows,
        "element_bytes": getattr(torch, DTYPE).itemsize,
    }


def prepare(
    row: dict[str, Any],
    rival: Any,
    case: Any,
    inputs: Any,
    expected: Any,
    clock: Any,
    options: argparse.Namespace,
) -> dict[tuple[str, str], Any]:
    """Check a rival's figures and memory; what remains to be timed, by rival and pass."""
    import torch
    from cases import checks, exact, make_inputs
    from timing import Passes, captured, peak_extra_bytes, reason

    passes = Passes(rival.make(case), inputs)
    loss, gradients = passes.both()  # compiles, too
    row["errors"] = {"measured": expected.errors(loss.detach(), gradients)}
    row["exact"] = is_exact(row["errors"]["measured"])
    del loss, gradients
    if inputs[0].is_cuda:
        row["peak_extra_bytes"] = peak_extra_bytes(passes.both)
        row["peak_extra_bytes_forward"] = peak_extra_bytes(passes.forward)
    for name, small in checks(case, options.small).items() if rival.checked else ():
        given = make_inputs(small, getattr(torch, DTYPE), inputs[0].device.type, options.seed + 1)
        try:
            loss, gradients = Passes(rival.make(small), given).both()
            row["errors"][name] = exact(small, given).errors(loss.detach(), gradients)
        # As above: what it raises at this size is a figure too.
        except Exception as error:
            row["errors"][name] = {"why": reason(error)}
    timed = {
        (rival.name, name): lambda name=name: passes.milliseconds(name, clock)
        for name in Passes.names
    }
    if rival.capturable and inputs[0].is_cuda:
        try:
            replay = captured(passes)
        # Whatever keeps it out of a graph is the answer; the other passes are measured.
        except Exception as error:
            row["why_no_graph"] = reason(error)
        else:
            timed[rival.name, "both_in_graph"] = lambda: clock.milliseconds(lambda: None, replay)
    return timed


def is_exact(errors: dict[str, float]) -> bool:
    """Errors of a rounding to the dtype, not of rounded logits; NaN is not exact."""
    import torch

    eps = torch.finfo(getattr(torch, DTYPE)).eps
    return errors["loss"] <= eps / 2 and errors["gradient"] <= eps


if __name__ == "__main__":
    sys.exit(main())
