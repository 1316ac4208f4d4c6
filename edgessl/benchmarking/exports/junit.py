"""JUnit XML, as Jenkins, GitLab and GitHub's test reporters read it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from edgessl.benchmarking import tables
from edgessl.benchmarking.result import BenchmarkResult, Comparison, MetricRatio, Verdict
from edgessl.errors import printable
from edgessl.files import write_text

__all__ = ["to_junit", "write_junit"]

_OUTCOMES: dict[Verdict, str] = {"FAIL": "failure", "INCONCLUSIVE": "skipped"}
_TYPES = {"failure": "FAIL", "error": "INVALID", "skipped": "INCONCLUSIVE"}
_COUNTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def write_junit(result: BenchmarkResult, path: str | Path) -> None:
    """Write a suite per comparison with a case per gated metric.

    Raises:
        OutputError: The folder cannot be written or the disk is full.
    """
    write_text(Path(path), to_junit(result))


def to_junit(result: BenchmarkResult) -> str:
    """FAIL is a failure, INVALID an error; INCONCLUSIVE and what could not be taken is skipped.

    Source: junit-10.xsd of the Jenkins xUnit plugin.
    """
    root = ElementTree.Element("testsuites", name="edgessl benchmark")
    suites = [_suite(root, comparison, result) for comparison in result.comparisons]
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(
    root: ElementTree.Element, comparison: Comparison, result: BenchmarkResult
) -> ElementTree.Element:
    name = f"{printable(comparison.arm)} against {printable(comparison.against)}"
    suite = ElementTree.SubElement(root, "testsuite", name=name, timestamp=result.created_utc)
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(comparison, result).items():
        ElementTree.SubElement(properties, "property", name=key, value=printable(value))
    gate = result.protocol.gate
    counts = dict.fromkeys(_COUNTS.values(), 0)
    metrics = [metric for metric in comparison.metrics if metric.metric in gate.metrics]
    for metric in metrics:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=metric.metric)
        tag, message = _outcome(comparison, metric, result)
        if tag is not None:
            ElementTree.SubElement(case, tag, type=_TYPES[tag], message=printable(message))
            counts[_COUNTS[tag]] += 1
        ElementTree.SubElement(case, "system-out").text = printable(_figures(metric))
    suite.set("tests", str(len(metrics)))
    for count, number in counts.items():
        suite.set(count, str(number))
    return suite


def _outcome(
    comparison: Comparison, metric: MetricRatio, result: BenchmarkResult
) -> tuple[str | None, str]:
    gate = result.protocol.gate
    if comparison.verdict == "INVALID":
        return "error", tables.verdict_line(result)
    if metric.verdict is None:
        return "skipped", metric.reason or "not gated"
    messages = {
        "FAIL": f"ratio {_figures(metric)}: surely above {gate.fail_above:g}",
        "INCONCLUSIVE": f"ratio {_figures(metric)}: neither surely above {gate.fail_above:g} nor "
        f"surely under {gate.pass_below:g}",
    }
    return _OUTCOMES.get(metric.verdict), messages.get(metric.verdict, "")


def _figures(metric: MetricRatio) -> str:
    if metric.ratio is None:
        return f"not taken: {metric.reason}"
    return f"{tables.ratio(metric.ratio)} ({tables.interval(metric)}), {metric.restarts} restarts"


def _properties(comparison: Comparison, result: BenchmarkResult) -> dict[str, str]:
    gate, protocol = result.protocol.gate, result.protocol
    found = {
        "verdict": comparison.verdict or "not gated",
        "confidence": f"{comparison.confidence:.6g}",
        "fail_above": f"{gate.fail_above:g}",
        "pass_below": f"{gate.pass_below:g}",
        "scenario": protocol.scenario.scenario,
        "restarts": str(protocol.restarts),
        "seed": str(protocol.seed),
        "cpu": result.environment.cpu,
        "env_hash": result.env_hash,
        "edgessl": result.edgessl_version,
    }
    for role, name in (("arm", comparison.arm), ("against", comparison.against)):
        arm = result.arm(name)
        found[f"{role}.p50_ms"] = f"{arm.latency_p50_ms:.6g}"
        if arm.artifact is not None:
            found[f"{role}.sha256"] = arm.artifact.sha256
    return found
