"""``edgessl compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgessl.cli import terminal

if TYPE_CHECKING:
    from edgessl.benchmarking.result import BenchmarkResult
    from edgessl.benchmarking.stored import StoredComparison

__all__ = ["compare"]


def compare(
    result: Annotated[
        Path, typer.Argument(help="What benchmark --json wrote.", metavar="RESULT.json")
    ],
    base: Annotated[
        Path | None,
        typer.Argument(help="Another: shown beside it, without a verdict.", metavar="BASE.json"),
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="Metrics to judge by, like p50,size; none: no verdict.")
    ] = None,
    fail_above: Annotated[float | None, typer.Option(help="Largest ratio that is no loss.")] = None,
    pass_below: Annotated[
        float | None, typer.Option(help="Ratio that is as good as equal.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a stored benchmark again under other margins, or set two of them side by side.

    With one result the exit code is that of benchmark: 0 PASS, 1 FAIL, 3 INCONCLUSIVE, 4 INVALID.
    Two results get no verdict: between sessions machines drift.
    """
    changes: dict[str, Any] = {}
    if gate is not None:
        changes["metrics"] = [] if gate == "none" else [name.strip() for name in gate.split(",")]
    margins = {"fail_above": fail_above, "pass_below": pass_below}
    changes |= {name: value for name, value in margins.items() if value is not None}
    if base is None:
        _judge_again(result, changes, as_json=as_json)
    else:
        _side_by_side(result, base, changes, as_json=as_json)


def _judge_again(path: Path, changes: dict[str, Any], *, as_json: bool) -> None:
    from edgessl.benchmarking import tables
    from edgessl.benchmarking.options import GateOptions
    from edgessl.benchmarking.stored import load_result, load_samples, rejudge
    from edgessl.cli.benchmark import end_as_judged
    from edgessl.config import build_options
    from edgessl.errors import UsageError

    stored = load_result(path)
    values = {**stored.protocol.gate.model_dump(), **changes}
    if not values["metrics"] and changes.keys() - {"metrics"}:
        raise UsageError("margins without metrics judge nothing; name some: --gate p50,p90")
    judged = rejudge(
        stored, load_samples(stored, path), build_options(GateOptions, values, where="compare")
    )
    if as_json:
        terminal.print_json(judged.model_dump(mode="json"))
    else:
        terminal.table(tables.COMPARISON_HEADERS, tables.comparison_rows(judged))
        terminal.note(_origin(judged))
    end_as_judged(judged)


def _side_by_side(path: Path, base: Path, changes: dict[str, Any], *, as_json: bool) -> None:
    from edgessl.benchmarking.stored import compare_stored, load_result
    from edgessl.errors import UsageError

    if changes:
        raise UsageError(
            "two stored results get no verdict, so --gate and margins mean nothing; measure both "
            "artifacts in one job: edgessl benchmark HEAD --against BASE"
        )
    found = compare_stored(load_result(path), load_result(base))
    if as_json:
        terminal.print_json(found.model_dump(mode="json"))
        return
    terminal.table(("arm", "base", "metric", "ratio", "interval", "remark"), _rows(found))
    terminal.note(
        f"the control arm's ratio is {found.control_ratio:.3f}; p50 and p90 are in its units, "
        f"intervals cover {100 * found.confidence:g} %"
    )
    terminal.note(f"no verdict: {found.remark}")


def _rows(found: StoredComparison) -> list[list[str]]:
    from edgessl.benchmarking import tables

    return [
        [
            pair.arm,
            pair.base,
            metric.metric,
            tables.ratio(metric.ratio),
            tables.interval(metric),
            metric.reason or "",
        ]
        for pair in found.pairs
        for metric in pair.metrics
    ]


def _origin(result: BenchmarkResult) -> str:
    protocol = result.protocol
    return (
        f"measured {result.created_utc}, {protocol.restarts} restarts, seed {protocol.seed}; "
        "judged again"
    )
