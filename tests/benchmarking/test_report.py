"""The report's page and figures, against the result that they show and the rules of HTML."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.benchmark_results import environment, recording, result
from edgessl.benchmarking.history import Entry, entry
from edgessl.benchmarking.options import GateOptions
from edgessl.benchmarking.recording import Recording
from edgessl.benchmarking.report import render_page, write_report
from edgessl.benchmarking.report.latency import pareto_front
from edgessl.benchmarking.report.words import change, headline
from edgessl.benchmarking.result import BenchmarkResult, OperatorTime, Reading
from edgessl.errors import OutputError, UnavailableError

go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("jinja2")

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028<b>&amp;%{x}\n\u202egnp"


class Page(HTMLParser):
    """What a browser would read: elements, scripts and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else self._inside
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif not self._inside:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def policy(self) -> str:
        return next(
            str(attributes["content"])
            for tag, attributes in self.elements
            if tag == "meta" and "http-equiv" in attributes
        )

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found

    def missing(self, key: str) -> bool:
        return key not in self.figures


def page(
    shown: BenchmarkResult, recorded: Recording | None = None, history: Sequence[Entry] = ()
) -> Page:
    return Page(render_page(shown, recorded or recording(), history=history))


def run(created_utc: str, p50_ms: float, **changes: Any) -> Entry:
    """A run of the past with one of the arms."""
    made = entry(result(), label="a commit")
    arm = made.arms[0].model_copy(update={"p50_ms": p50_ms})
    return made.model_copy(update={"created_utc": created_utc, "arms": (arm,), **changes})


HISTORY = [run("2026-11-20T12:00:00+00:00", 1.2), run("2026-11-19T12:00:00+00:00", 1.1)]


def test_it_holds_together_without_the_network(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(result(), recording(), path, history=HISTORY)
    found = Page(path.read_text(encoding="utf-8"))
    outside = [
        value
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data", "srcset", "style") and value != "data:,"
    ]
    assert outside == []
    assert [t for t, _ in found.elements if t in ("iframe", "img", "object", "form", "a")] == []
    assert "url(" not in path.read_text(encoding="utf-8").split("</style>")[0]


def test_only_its_own_scripts_may_run() -> None:
    found = page(result())
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in rules["script-src"]
    allowed = re.findall(r"'sha256-([^']+)'", rules["script-src"])
    kinds = [attributes.get("type") for tag, attributes in found.elements if tag == "script"]
    assert kinds == ["application/json", None, None]
    digests = [hashlib.sha256(script.encode()).digest() for script in found.scripts[1:]]
    assert [base64.b64encode(digest).decode() for digest in digests] == allowed


def renamed(shown: BenchmarkResult, name: str) -> tuple[BenchmarkResult, Recording]:
    """The first arm, its operators and its machine, under a name that somebody made up."""
    head = shown.arms[0]
    changes: dict[str, Any] = {
        "name": name,
        "engine": name,
        "operators": (OperatorTime(name=name, kind=name, time_ms=1.0, device=name),),
        "energy_j": Reading(reason=name),
    }
    comparison = shown.comparisons[0].model_copy(update={"arm": name, "against": name})
    arms = (head.model_copy(update=changes), *shown.arms[1:])
    facts: dict[str, Any] = {"cpu": name, "packages": {name: name}}
    changed = shown.model_copy(
        update={
            "arms": arms,
            "comparisons": (comparison,),
            "environment": environment(**facts),
            "remarks": (name,),
        }
    )
    recorded = recording()
    return changed, Recording({name: recorded.arms["head.edge"]})


def test_a_name_is_no_markup() -> None:
    harmless, hostile = page(*renamed(result(), "head")), page(*renamed(result(), HOSTILE))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(a) for _, a in hostile.elements] == [sorted(a) for _, a in harmless.elements]
    assert len(hostile.scripts) == 3
    assert "</script><img src=x onerror=alert(1)>" in hostile.text


def test_a_name_is_no_markup_and_no_template_for_plotly() -> None:
    """Plotly reads tags in texts, and `%{…}` in templates."""

    def texts(value: Any, key: str = "") -> list[tuple[str, str]]:
        if isinstance(value, dict):
            return [pair for k, inner in value.items() for pair in texts(inner, k)]
        if isinstance(value, list):
            return [pair for inner in value for pair in texts(inner, key)]
        return [(key, value)] if isinstance(value, str) else []

    for key, text in texts(page(*renamed(result(), HOSTILE)).figures):
        assert "<img" not in text
        assert "</script" not in text
        if "template" in key:
            assert "onerror" not in text


def test_every_figure_is_one_that_plotly_knows() -> None:
    """Plotly ignores misspelt properties in the browser; its Python package refuses them."""
    found = page(result((1.1, 0.9, 1.0)), recording((1.1, 0.9, 1.0)), HISTORY).figures
    assert set(found) == {
        *("ratios", "distribution", "drift", "fidelity", "trend"),
        *("operators-0", "operators-1", "operators-2", "cold-start", "memory", "size"),
    }
    for figure in found.values():
        go.Figure(json.loads(re.sub(r'"@[\w-]+"', '"red"', json.dumps(figure))))


def test_every_color_is_in_the_style_sheet() -> None:
    text = render_page(result(), recording(), history=HISTORY)
    light, _, dark = text.split("<style>")[1].split("</style>")[0].partition("@media screen")
    named = set(re.findall(r'"@([\w-]+)"', Page(text).scripts[0]))
    assert {"arm-0", "arm-1", "muted", "fail"} <= named
    for color in named:
        assert f"--{color}: #" in light
        assert f"--{color}: #" in dark


def test_all_axes_name_their_units() -> None:
    found = page(result(), history=HISTORY).figures
    for key, figure in found.items():
        title = figure["layout"]["xaxis"]["title"]["text"]
        assert re.search(r" in (ms|%|MB)|\(UTC\)|restart", title), key
    for key in ("distribution", "drift", "fidelity", "trend"):
        title = found[key]["layout"]["yaxis"]["title"]["text"]
        assert re.search(r" in (ms|%)|cosine", title), key


def test_the_distribution_is_that_of_the_queries() -> None:
    recorded = recording()
    for trace in page(result(), recorded).figures["distribution"]["data"]:
        name = ["head.edge", "base.edge"][trace["meta"]["arm"]]
        times = np.sort(recorded.arms[name].times_ms())
        for x, share in zip(trace["x"], trace["y"], strict=True):
            below = np.searchsorted(times, x, side="right") / times.size * 100
            assert below == pytest.approx(share, abs=100 / times.size + 1e-6)
        assert (min(trace["x"]), max(trace["x"])) == (times[0], times[-1])


def test_a_long_tail_gets_a_logarithmic_axis() -> None:
    shown = recording()
    assert page(result(), shown).figures["distribution"]["layout"]["xaxis"]["type"] == "linear"
    shown.arms["head.edge"].restarts[0].blocks[0][0] = 50.0
    assert page(result(), shown).figures["distribution"]["layout"]["xaxis"]["type"] == "log"


def test_drift_shows_each_block_where_it_was_measured() -> None:
    shown = result()
    blocks = [list(restart) for restart in shown.arms[0].block_p50_ms]
    blocks[2][1] = None
    arm = shown.arms[0].model_copy(update={"block_p50_ms": tuple(map(tuple, blocks))})
    shown = shown.model_copy(update={"arms": (arm, *shown.arms[1:])})
    first = page(shown).figures["drift"]["data"][0]
    by_place = dict(zip(first["x"], first["y"], strict=True))
    for restart, medians in enumerate(blocks):
        for block, median in enumerate(medians):
            found = by_place[restart + (block + 0.5) / len(medians)]
            if median is None:
                assert found is None
            else:
                assert found == pytest.approx((median / arm.latency_p50_ms - 1) * 100)
        assert by_place[restart + 1.0] is None


def test_the_front_is_what_no_other_beats() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 30):
        points = [(float(a), float(b)) for a, b in rng.integers(0, 8, (count, 2))]
        expected = {
            point
            for point in points
            if not any(o != point and o[0] <= point[0] and o[1] >= point[1] for o in points)
        }
        front = [points[index] for index in pareto_front(points)]
        assert set(front) == expected
        assert front == sorted(front)
        assert len(front) == len(expected)


def with_operators(shown: BenchmarkResult, count: int) -> BenchmarkResult:
    times = tuple(
        OperatorTime(name=f"node {i % 7}", kind="Conv", time_ms=1 / (i + 1), device="CPU")
        for i in range(count)
    )
    arm = shown.arms[0].model_copy(update={"operators": times})
    return shown.model_copy(update={"arms": (arm, *shown.arms[1:])})


@pytest.mark.parametrize(("count", "bars"), [(1, 1), (25, 25), (26, 26), (300, 26)])
def test_the_slowest_operators_and_the_rest_together(count: int, bars: int) -> None:
    figure = page(with_operators(result(), count)).figures["operators-0"]
    (trace,) = figure["data"]
    assert len(trace["x"]) == len(trace["marker"]["color"]) == bars
    assert sum(trace["x"]) == pytest.approx(sum(1 / (i + 1) for i in range(count)))
    # The axis grows upwards; the slowest is at the top, the rest at the bottom.
    assert trace["x"][-1] == 1.0
    assert (f"{count - 25} others" in figure["layout"]["yaxis"]["ticktext"][0]) is (count > 25)


def test_a_ratio_far_out_is_drawn_at_the_edge() -> None:
    shown = result((9.0, 1.0))
    near, far = (page(s).figures["ratios"] for s in (result(), shown))
    assert far["data"][-1]["x"] == [50.0]
    ratio = shown.arms[0].latency_p50_ms / shown.arms[1].latency_p50_ms
    assert far["data"][-1]["text"] == [change(ratio)]
    assert near["data"][-1]["x"][0] == pytest.approx((1.1 - 1) * 100, abs=1.0)
    for figure in (near, far):
        low, high = figure["layout"]["xaxis"]["range"]
        assert all(low < trace["x"][0] < high for trace in figure["data"])


def test_the_trend_knows_other_environments_and_other_arms() -> None:
    other = [
        *HISTORY,
        run("2026-11-18T12:00:00+00:00", 3.0, env_hash="f" * 64),
        run("2026-11-17T12:00:00+00:00", 50.0, scenario="paced"),
    ]
    (trace,) = page(result(), history=other).figures["trend"]["data"]
    assert trace["y"] == [3.0, 1.1, 1.2]
    assert [symbol.endswith("-open") for symbol in trace["marker"]["symbol"]] == [
        True,
        False,
        False,
    ]
    named = [e.model_copy(update={"arms": ()}) for e in HISTORY]
    assert page(result(), history=named).missing("trend")


def test_what_is_not_finite_leaves_a_gap() -> None:
    shown = result()
    arm = shown.arms[0].model_copy(update={"fidelity": math.nan})
    found = page(shown.model_copy(update={"arms": (arm, *shown.arms[1:])}))
    points = [t for t in found.figures["fidelity"]["data"] if t.get("meta") == {"arm": 0}]
    assert points[0]["y"] == [None]


@pytest.mark.parametrize(
    ("key", "changes", "reason"),
    [
        ("operators-0", {"operators": (), "operators_reason": "tiny: no profiler"}, "no profiler"),
        ("fidelity", {"fidelity": None}, "no arm says its fidelity"),
        ("size", {"size_bytes": None}, "no arm runs a file"),
        (
            "memory",
            {"peak_memory_bytes": None, "peak_memory_by_restart": (None,) * 6},
            "does not tell",
        ),
        ("drift", {"block_p50_ms": ((None,) * 5,) * 6}, "no block counts"),
    ],
)
def test_a_section_without_data_says_why(key: str, changes: dict[str, Any], reason: str) -> None:
    shown = result()
    arms = tuple(arm.model_copy(update=changes) for arm in shown.arms)
    assert not page(shown).missing(key)
    found = page(shown.model_copy(update={"arms": arms}))
    assert found.missing(key)
    assert re.search(f"No data: [^.]*{reason}", found.text)


def test_without_bases_queries_and_history_it_says_so() -> None:
    shown = result((1.0,), verdict=None)
    found = page(shown, Recording())
    for key in ("ratios", "distribution", "trend"):
        assert found.missing(key)
    for reason in ("name a base with --against", "holds no queries", "--history F.jsonl"):
        assert reason in found.text


def test_readings_show_their_source_or_why_they_are_not_there() -> None:
    text = page(result()).text
    assert "0.012 J per sample, RAPL package-0" in text
    assert "not read: onnxruntime runs on the CPU" in text
    assert "0.4 µs median" in text


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "INCONCLUSIVE", "INVALID", None])
def test_the_verdict_and_its_words_are_on_the_page(verdict: Any) -> None:
    shown = result(verdict=verdict)
    words, text = headline(shown), page(shown).text
    assert f" {words.verdict} {words.title}" in text
    assert all(sentence in text for sentence in words.sentences)


def test_margins_are_those_of_the_gate() -> None:
    shown = result()
    gate = GateOptions(fail_above=1.1, pass_below=1.2)
    protocol = shown.protocol.model_copy(update={"gate": gate})
    figure = page(shown.model_copy(update={"protocol": protocol})).figures["ratios"]
    assert [line["x0"] for line in figure["layout"]["shapes"]] == pytest.approx([10.0, 20.0])


def test_what_it_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(UnavailableError, match=r"pip install 'edgessl\[report\]'"):
        render_page(result(), recording())


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_report(result(), recording(), tmp_path / "report.html")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
