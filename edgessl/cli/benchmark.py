"""``edgessl benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgessl.cli import terminal

if TYPE_CHECKING:
    from edgessl.benchmarking import BenchmarkOptions, BenchmarkResult, Measurement
    from edgessl.progress import Progress

__all__ = ["benchmark", "end_as_judged"]

_STDOUT = Path("-")


def benchmark(
    arms: Annotated[
        list[Path],
        typer.Argument(help="Bundles (.edge), models (.onnx, .xml), runs.", metavar="ARM…"),
    ],
    against: Annotated[
        list[Path] | None, typer.Option(help="Base to judge every arm by; repeat for more.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="Measure there: ssh://user@host[:port].", metavar="DEVICE")
    ] = None,
    on_python: Annotated[
        str, typer.Option(help="The device's Python, like venv/bin/python.", metavar="PATH")
    ] = "python3",
    on_wait: Annotated[
        float, typer.Option(help="Seconds to wait while another benchmark runs there.")
    ] = 0.0,
    scenario: Annotated[
        str, typer.Option(help="SingleStream, MultiStream, Offline or paced.")
    ] = "SingleStream",
    period_ms: Annotated[float, typer.Option(help="Of paced: a query every so often.")] = 50.0,
    samples_per_query: Annotated[
        int | None, typer.Option(help="1; MultiStream 8, Offline 32.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every arm; 0: all physical cores.")
    ] = None,
    affinity: Annotated[
        str, typer.Option(help="CPUs that every arm is bound to, like 0,1.", metavar="CPUS")
    ] = "",
    restarts: Annotated[int, typer.Option(help="Fresh processes, where nothing is gated.")] = 6,
    blocks: Annotated[int, typer.Option(help="Blocks of each arm and restart.")] = 5,
    block_seconds: Annotated[float, typer.Option(help="Length of a block.")] = 0.1,
    warm_up: Annotated[float, typer.Option(help="Least seconds of warm-up.")] = 0.5,
    cold_starts: Annotated[int, typer.Option(help="Fresh processes for cold-start times.")] = 10,
    sustained: Annotated[
        float, typer.Option(help="Seconds of a pass that shows throttling; 0: none.")
    ] = 0.0,
    energy: Annotated[
        float, typer.Option(help="Seconds of a pass that reads power sensors; 0: none.")
    ] = 0.0,
    operators: Annotated[bool, typer.Option(help="Time every operator, in a pass.")] = False,
    start_temperature: Annotated[
        float | None, typer.Option(help="Wait until the device is cooler, in °C.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds that an arm may take to load, or over a block.")
    ] = 300.0,
    seed: Annotated[int, typer.Option(help="Of the order and of synthetic inputs.")] = 0,
    gate: Annotated[
        str, typer.Option(help="What --against gates: these, or none.")
    ] = "p50,p90,size,memory",
    fail_above: Annotated[float, typer.Option(help="Largest ratio that is no loss.")] = 1.02,
    pass_below: Annotated[float, typer.Option(help="Ratio that is as good as equal.")] = 1.05,
    alpha: Annotated[float, typer.Option(help="Probability of a false FAIL.")] = 0.01,
    looks: Annotated[
        str, typer.Option(help="Restarts after which the data is judged.")
    ] = "6,12,24",
    json: Annotated[
        Path | None, typer.Option(help="Write everything here, samples beside it; - prints it.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Append the tables here.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page here (.html).")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    github_benchmark: Annotated[
        Path | None, typer.Option(help="Write github-action-benchmark's JSON here.")
    ] = None,
    bencher: Annotated[
        Path | None, typer.Option(help="Write Bencher's metric format here.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(help="Append a line to this JSONL, for trends.")
    ] = None,
    label: Annotated[str, typer.Option(help="Of that line, like a commit.")] = "",
    mlperf: Annotated[
        Path | None, typer.Option(help="Write MLPerf LoadGen's logs into this folder.")
    ] = None,
) -> None:
    """Measure latency, memory and size side by side, and judge them by a base.

    Fresh processes, blocks in turns, paired ratios. Exit code with --against: 0 PASS, 1 FAIL,
    3 INCONCLUSIVE, 4 the machine changed meanwhile.
    """
    from edgessl.benchmarking import BenchmarkOptions
    from edgessl.config import build_options
    from edgessl.optional import require

    values = {
        "scenario": scenario,
        "period_ms": period_ms,
        "samples_per_query": samples_per_query,
        "threads": threads,
        "affinity": _words(affinity),
        "restarts": restarts,
        "blocks": blocks,
        "block_seconds": block_seconds,
        "warm_up_seconds": warm_up,
        "cold_starts": cold_starts,
        "sustained_seconds": sustained,
        "energy_seconds": energy,
        "operators": operators or report is not None,
        "start_temperature_c": start_temperature,
        "timeout_s": timeout,
        "seed": seed,
        "gate": {
            "metrics": [] if gate == "none" else _words(gate),
            "fail_above": fail_above,
            "pass_below": pass_below,
            "alpha": alpha,
            "looks": _words(looks),
        },
    }
    options = build_options(BenchmarkOptions, values, where="benchmark")
    if report is not None:
        require("plotly", extra="report")  # before minutes are spent on measuring
    with terminal.progress() as progress:
        if mlperf is not None:
            _mlperf(arms, on, mlperf, options, progress)
        measurement = _measure(arms, against or [], on, on_python, on_wait, options, progress)
    if json != _STDOUT:
        _show(measurement.result)
    _write(
        measurement,
        json=json,
        markdown=markdown,
        report=report,
        junit=junit,
        github_benchmark=github_benchmark,
        bencher=bencher,
        history=history,
        label=label,
    )
    end_as_judged(measurement.result)


def end_as_judged(result: BenchmarkResult) -> None:
    """End with the exit code of the verdict.

    Raises:
        GateError: FAIL.
        InconclusiveError: INCONCLUSIVE.
        UnavailableError: INVALID, or the run ended early.
    """
    from edgessl.benchmarking.tables import verdict_line
    from edgessl.errors import GateError, InconclusiveError, UnavailableError

    errors = {
        "FAIL": GateError,
        "INCONCLUSIVE": InconclusiveError,
        "INVALID": UnavailableError,
    }
    if result.failure is not None:
        raise UnavailableError(f"the run ended early: {result.failure}")
    if result.verdict in errors:
        raise errors[result.verdict](verdict_line(result))


def _measure(
    arms: list[Path],
    against: list[Path],
    on: str | None,
    on_python: str,
    on_wait: float,
    options: BenchmarkOptions,
    progress: Progress,
) -> Measurement:
    from edgessl.benchmarking import benchmark as measure
    from edgessl.compiler.workload import workload_of
    from edgessl.optional import is_available

    counting = workload_of if is_available("onnx") else None
    if on is not None:
        from edgessl.benchmarking.remote import benchmark_on

        return benchmark_on(
            on,
            arms,
            against=against,
            options=options,
            workload_of=counting,
            progress=progress,
            python=on_python,
            lock_wait_s=on_wait,
        )
    return measure(arms, against=against, options=options, workload_of=counting, progress=progress)


def _mlperf(
    arms: list[Path], on: str | None, out: Path, options: BenchmarkOptions, progress: Progress
) -> None:
    from edgessl.benchmarking.benchmark import mlperf_logs
    from edgessl.errors import UsageError

    if on is not None:
        raise UsageError("--mlperf writes the logs of this machine; leave --on out")
    mlperf_logs(arms, out, options=options, progress=progress)


def _write(
    measurement: Measurement,
    *,
    json: Path | None,
    markdown: Path | None,
    report: Path | None,
    junit: Path | None,
    github_benchmark: Path | None,
    bencher: Path | None,
    history: Path | None,
    label: str,
) -> None:
    from edgessl.benchmarking import exports
    from edgessl.benchmarking import history as trend

    result = measurement.result
    if json == _STDOUT:
        terminal.print_json(result.model_dump(mode="json"))
    elif json is not None:
        result = measurement.write(json)
    for place, write in (
        (junit, exports.write_junit),
        (github_benchmark, exports.write_github_benchmark),
        (bencher, exports.write_bencher),
        (markdown, exports.append_step_summary),
    ):
        if place is not None:
            write(result, place)
    if history is not None:
        trend.append(result, history, label=label)
    if report is not None:
        from edgessl.benchmarking.report import write_report

        remark = terminal.plain_progress(terminal.note)
        entries = [] if history is None else trend.read(history, progress=remark)
        write_report(result, measurement.recording, report, history=entries)


def _show(result: BenchmarkResult) -> None:
    from edgessl.benchmarking import tables

    terminal.table(tables.ARM_HEADERS, tables.arm_rows(result))
    if result.comparisons:
        terminal.table(tables.COMPARISON_HEADERS, tables.comparison_rows(result))
    for remark in result.remarks:
        terminal.note(remark)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
