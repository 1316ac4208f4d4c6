"""Puts the page together: one file, no request, no name that could become markup."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgessl.benchmarking.history import Entry
from edgessl.benchmarking.recording import Recording
from edgessl.benchmarking.report import costs, facts, latency
from edgessl.benchmarking.report.chart import Chart
from edgessl.benchmarking.report.ratios import ratios
from edgessl.benchmarking.report.words import headline
from edgessl.benchmarking.result import BenchmarkResult
from edgessl.errors import printable
from edgessl.files import write_text
from edgessl.optional import require

__all__ = ["render_page", "write_report"]

_HARMLESS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def write_report(
    result: BenchmarkResult, recording: Recording, path: Path, *, history: Sequence[Entry] = ()
) -> None:
    """Write the report of a run as one HTML file.

    Args:
        result: What was measured.
        recording: Its queries.
        path: The file; one that exists is replaced.
        history: Earlier runs, for the trend.

    Raises:
        UnavailableError: plotly or jinja2 is not installed; they come with ``edgessl[report]``.
        OutputError: The file cannot be written.
    """
    write_text(path, render_page(result, recording, history=history))


def render_page(
    result: BenchmarkResult, recording: Recording, *, history: Sequence[Entry] = ()
) -> str:
    """The report as HTML; see `write_report`."""
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["line"] = printable
    environment.filters["minute"] = _minute
    library = _one_kind_of_line(require("plotly.offline", extra="report").get_plotlyjs())
    script = _asset("page.js")
    operators = costs.operators(result)
    charts = {chart.key: chart for chart in _charts(result, recording, history)}
    safe = jinja2.utils.markupsafe.Markup
    return str(
        environment.from_string(_asset("page.html")).render(
            policy=_policy(library, script),
            style=safe(_asset("page.css")),
            library=safe(library),
            script=safe(script),
            figures=safe(_json_in_html([*charts.values(), *operators])),
            result=result,
            headline=headline(result),
            charts=charts,
            operators=operators,
            arm_rows=facts.arm_rows(result),
            comparison_rows=facts.comparison_rows(result),
            arm_facts=[(arm, facts.arm_facts(arm)) for arm in result.arms],
            environment=facts.environment_facts(result),
            protocol=facts.protocol_facts(result),
        )
    )


def _charts(
    result: BenchmarkResult, recording: Recording, history: Sequence[Entry]
) -> Iterator[Chart]:
    yield ratios(result)
    yield latency.distribution(result, recording)
    yield latency.drift(result)
    yield latency.fidelity(result)
    yield costs.cold_start(result)
    yield costs.memory(result)
    yield costs.size(result)
    yield costs.trend(result, history)


def _minute(created_utc: str) -> str:
    try:
        return datetime.fromisoformat(created_utc).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return created_utc


def _asset(name: str) -> str:
    text = (files("edgessl.benchmarking.report") / name).read_text(encoding="utf-8")
    return _one_kind_of_line(text)


def _one_kind_of_line(text: str) -> str:
    """Browsers hash a script as they read it, with line feeds only."""
    return str(text).replace("\r\n", "\n").replace("\r", "\n")


def _policy(*scripts: str) -> str:
    """A content security policy: these scripts run, no other, and nothing is fetched.

    Plotly sets styles and makes images of its figures as data or blobs.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json_in_html(charts: Sequence[Chart]) -> str:
    """Figures as JSON that cannot end the element it stands in."""
    value: dict[str, Any] = {c.key: c.figure() for c in charts if c.missing is None}
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for character, escape in _HARMLESS.items():
        text = text.replace(character, escape)
    return text


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; Plotly leaves a gap for null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
