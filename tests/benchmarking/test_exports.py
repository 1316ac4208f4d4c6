"""Files for CI services, each read back as its reader reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest

from contracts.benchmark_results import recording, result
from edgessl.benchmarking.exports import (
    append_step_summary,
    write_bencher,
    write_github_benchmark,
    write_junit,
    write_result_schema,
)
from edgessl.benchmarking.result import BenchmarkResult, Verdict
from edgessl.errors import OutputError

HOSTILE = "a<b>&\"'|\x00\x1b\ud800\ufffe]]>\nline é"

BMF = {
    "$schema": "http://json-schema.org/draft-07/schema",
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "lower_value": {"type": "number"},
                        "upper_value": {"type": "number"},
                    },
                    "required": ["value"],
                }
            },
        }
    },
}
"""Source: https://bencher.dev/docs/reference/bencher-metric-format"""

# Element → required attributes, optional ones, children; as in junit-10.xsd, which Jenkins uses.
JUNIT: dict[str, tuple[set[str], set[str], set[str]]] = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {"group", "time", "skipped", "timestamp", "hostname", "id", "package", "file"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def named(made: BenchmarkResult, name: str) -> BenchmarkResult:
    first = made.arms[0].model_copy(update={"name": name})
    comparison = made.comparisons[0].model_copy(update={"arm": name})
    return made.model_copy(update={"arms": (first, *made.arms[1:]), "comparisons": (comparison,)})


def without_figures(made: BenchmarkResult) -> BenchmarkResult:
    """Arms of which neither size nor memory is known, and whose blocks were dropped."""
    unknown: dict[str, Any] = {
        "size_bytes": None,
        "peak_memory_bytes": None,
        "peak_memory_by_restart": (None,),
        "artifact": None,
        "block_p50_ms": ((None,),),
    }
    return made.model_copy(update={"arms": tuple(a.model_copy(update=unknown) for a in made.arms)})


def junit(made: BenchmarkResult, folder: Path) -> ElementTree.Element:
    """Write, parse and check against the schema."""
    write_junit(made, folder / "junit.xml")
    root = ElementTree.parse(folder / "junit.xml").getroot()
    for element in root.iter():
        required, optional, children = JUNIT[element.tag]
        assert required <= set(element.attrib) <= required | optional, element.tag
        assert {child.tag for child in element} <= children, element.tag
    for suite in root:
        cases = suite.findall("testcase")
        counts = {"tests": len(cases)} | {
            name: len(suite.findall(f"testcase/{tag}"))
            for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped"))
        }
        assert {name: int(suite.attrib[name]) for name in counts} == counts
    return root


def read_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_github_benchmark_has_what_the_action_reads(tmp_path: Path) -> None:
    made = result()
    write_github_benchmark(made, tmp_path / "g.json")
    entries = read_json(tmp_path / "g.json")
    assert [e["name"] for e in entries[:4]] == [
        "head.edge p50",
        "head.edge p90",
        "head.edge size",
        "head.edge peak memory",
    ]
    assert len(entries) == 8
    for entry in entries:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert {"name", "unit", "value"} <= set(entry)
        assert isinstance(entry["value"], (int, float))
        assert all(isinstance(entry.get(key, ""), str) for key in ("range", "extra"))
    by_name = {e["name"]: e for e in entries}
    assert by_name["head.edge p50"]["value"] == made.arms[0].latency_p50_ms
    assert by_name["head.edge p50"]["unit"] == "ms"
    assert by_name["base.edge size"]["value"] == 6.0
    assert by_name["base.edge size"]["unit"] == "MB"
    blocks = recording().arms["head.edge"].restarts
    medians = [np.median([np.median(b) for b in r.blocks]) for r in blocks]
    found = re.fullmatch(r"± (\S+)", by_name["head.edge p50"]["range"])
    assert found
    assert float(found[1]) == pytest.approx((max(medians) - min(medians)) / 2, rel=1e-3)


def test_bencher_s_format_and_units(tmp_path: Path) -> None:
    made = result()
    write_bencher(made, tmp_path / "b.json")
    found = read_json(tmp_path / "b.json")
    jsonschema.Draft7Validator(BMF).validate(found)
    assert list(found) == ["base.edge", "head.edge"]
    measures = found["head.edge"]
    assert measures["latency"]["value"] == pytest.approx(1.1e6, rel=0.01)  # nanoseconds
    assert measures["file-size"] == {"value": 6_000_000}
    assert measures["peak-memory"] == {
        "value": 100_000_000,
        "lower_value": 100_000_000,
        "upper_value": 100_000_005,
    }
    assert measures["throughput"]["value"] == made.arms[0].throughput_per_s
    latency = measures["latency"]
    assert latency["lower_value"] < latency["value"] < latency["upper_value"]
    for slug in measures:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
        assert len(slug) <= 64


def test_unknown_figures_are_left_out(tmp_path: Path) -> None:
    made = without_figures(result())
    write_bencher(made, tmp_path / "b.json")
    assert set(read_json(tmp_path / "b.json")["head.edge"]) == {
        "latency",
        "latency-p90",
        "throughput",
    }
    write_github_benchmark(made, tmp_path / "g.json")
    entries = read_json(tmp_path / "g.json")
    assert [e["name"] for e in entries] == [
        f"{arm} {p}" for arm in ("head.edge", "base.edge") for p in ("p50", "p90")
    ]
    assert not any("range" in e for e in entries)
    junit(made, tmp_path)


@pytest.mark.parametrize(
    ("verdict", "tag", "cases"),
    [
        ("FAIL", "failure", ["p50", "p90"]),
        ("INCONCLUSIVE", "skipped", ["p50", "p90"]),
        ("INVALID", "error", ["p50", "p90", "size", "memory"]),
        ("PASS", None, []),
    ],
)
def test_verdicts_in_junit(
    verdict: Verdict, tag: str | None, cases: list[str], tmp_path: Path
) -> None:
    root = junit(result(verdict=verdict), tmp_path)
    (suite,) = root
    assert suite.attrib["name"] == "head.edge against base.edge"
    found = {
        case.attrib["name"]: child.tag
        for case in suite.findall("testcase")
        for child in case
        if child.tag != "system-out"
    }
    assert found == {name: tag for name in cases}
    assert [c.attrib["name"] for c in suite.findall("testcase")] == ["p50", "p90", "size", "memory"]
    properties = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert properties["verdict"] == verdict
    assert properties["arm.sha256"] == "0" * 64


def test_a_failure_holds_its_figures(tmp_path: Path) -> None:
    root = junit(result(verdict="FAIL"), tmp_path)
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.attrib["type"] == "FAIL"
    assert re.search(r"1\.10\d \(1\.0\d+ to 1\.1\d+\)", failure.attrib["message"])


def test_an_invalid_run_never_looks_passed(tmp_path: Path) -> None:
    made = result(verdict="PASS")
    invalid = made.comparisons[0].model_copy(update={"verdict": "INVALID"})
    harness = made.harness.model_copy(update={"problems": ("it throttled",)})
    changes = {"comparisons": (invalid,), "verdict": "INVALID", "harness": harness}
    root = junit(made.model_copy(update=changes), tmp_path)
    errors = root.findall(".//error")
    assert len(errors) == 4
    assert "it throttled" in errors[0].attrib["message"]


def test_a_gated_metric_that_could_not_be_taken_is_skipped(tmp_path: Path) -> None:
    made = result(verdict="PASS")
    metrics = [
        m.model_copy(update={"ratio": None, "verdict": None, "reason": "only 40 queries"})
        if m.metric == "p90"
        else m
        for m in made.comparisons[0].metrics
    ]
    comparison = made.comparisons[0].model_copy(update={"metrics": tuple(metrics)})
    root = junit(made.model_copy(update={"comparisons": (comparison,)}), tmp_path)
    (skipped,) = root.findall(".//skipped")
    assert skipped.attrib["message"] == "only 40 queries"


def test_only_gated_metrics_are_cases(tmp_path: Path) -> None:
    made = result()
    gate = made.protocol.gate.model_copy(update={"metrics": ("size",)})
    protocol = made.protocol.model_copy(update={"gate": gate})
    root = junit(made.model_copy(update={"protocol": protocol}), tmp_path)
    assert [c.attrib["name"] for c in root.iter("testcase")] == ["size"]


def test_a_run_that_compares_nothing_has_no_suite(tmp_path: Path) -> None:
    made = result().model_copy(update={"comparisons": (), "verdict": None})
    assert len(junit(made, tmp_path)) == 0


def test_any_name_gives_well_formed_files(tmp_path: Path) -> None:
    made = named(result(), HOSTILE)
    junit(made, tmp_path)
    write_bencher(made, tmp_path / "b.json")
    jsonschema.Draft7Validator(BMF).validate(read_json(tmp_path / "b.json"))
    write_github_benchmark(made, tmp_path / "g.json")
    assert len(read_json(tmp_path / "g.json")) == 8
    append_step_summary(made, tmp_path / "s.md")
    assert "\x00" not in (tmp_path / "s.md").read_text(encoding="utf-8")


def test_the_summary_is_appended(tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    page.write_text("# Before\nno line end", encoding="utf-8")
    append_step_summary(result(), page)
    append_step_summary(result(verdict="PASS"), page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Before\nno line end\n\n### edgessl benchmark: FAIL\n")
    assert "\n\n### edgessl benchmark: PASS\n" in text


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    for write in (append_step_summary, write_bencher, write_github_benchmark, write_junit):
        with pytest.raises(OutputError, match="path is a folder"):
            write(result(), tmp_path)


def test_the_published_schema_is_current(root: Path, tmp_path: Path) -> None:
    write_result_schema(tmp_path / "schema.json")
    published = root / "docs/schemas/benchmark-result-2.json"
    assert published.read_text(encoding="utf-8") == (tmp_path / "schema.json").read_text(
        encoding="utf-8"
    ), "write_result_schema('docs/schemas/benchmark-result-2.json')"


def test_results_validate_against_the_schema(root: Path) -> None:
    schema = read_json(root / "docs/schemas/benchmark-result-2.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for made in (result(), result(verdict=None), without_figures(result())):
        value = json.loads(json.dumps(made.model_dump(mode="json"), allow_nan=False))
        validator.validate(value)


@pytest.mark.parametrize(
    "damage",
    [
        {"schema_version": 1},
        {"arms": None},
        {"surplus": 1},
        {"verdict": "MAYBE"},
        {"harness": {"null_p50_us": "fast"}},
    ],
)
def test_the_schema_refuses_what_is_no_result(damage: dict[str, Any], root: Path) -> None:
    schema = read_json(root / "docs/schemas/benchmark-result-2.json")
    value = {**result().model_dump(mode="json"), **damage}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(value)
