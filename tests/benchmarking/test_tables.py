"""Rows, the verdict in one line, and Markdown that no name can break."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from contracts.benchmark_results import result
from edgessl.benchmarking.result import BenchmarkResult, Verdict
from edgessl.benchmarking.tables import (
    ARM_HEADERS,
    COMPARISON_HEADERS,
    arm_rows,
    comparison_rows,
    to_markdown,
    verdict_line,
)

HOSTILE = [
    "a|b.edge",
    "a\\|b",
    "<img src=x onerror=alert(1)>",
    "</code></td></table><script>x</script>",
    "`tick` *bold* _it_ ~~gone~~",
    "[text](http://evil.example) ![i](x) www.evil.example",
    "line\nbreak\r\n\n# heading",
    "&amp; &#124; &lt;b&gt;",
    "- item",
    "1. item",
    "\x1b[31mred\x07",
    "größe_模型.edge",
]


def renamed(name: str) -> BenchmarkResult:
    """A result whose first arm has this name, in remarks too."""
    made = result()
    first = made.arms[0].model_copy(update={"name": name})
    return made.model_copy(
        update={
            "arms": (first, *made.arms[1:]),
            "comparisons": (made.comparisons[0].model_copy(update={"arm": name}),),
            "remarks": (f"{name}: outputs hold NaN or infinity",),
        }
    )


def cells(markdown: str) -> list[list[list[str]]]:
    """Tables of a page as a CommonMark parser sees them: table, row, text of a cell."""
    tables: list[list[list[str]]] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type in ("td_open", "th_open"):
            children = tokens[place + 1].children or []
            tags = [c.content for c in children if c.type == "html_inline"]
            assert tags in ([], ["<code>", "</code>"]), tags
            assert {c.type for c in children} <= {"text", "html_inline", "text_special"}
            tables[-1][-1].append("".join(c.content for c in children if c.type != "html_inline"))
    return tables


def test_rows_have_a_cell_for_each_header() -> None:
    made = result((1.1, 1.2, 1.0))
    assert [len(row) for row in arm_rows(made)] == [len(ARM_HEADERS)] * 3
    rows = comparison_rows(made)
    assert [len(row) for row in rows] == [len(COMPARISON_HEADERS)] * 8
    assert [row[2] for row in rows[:4]] == ["p50", "p90", "size", "memory"]


def test_an_arm_s_figures() -> None:
    made = result()
    row = dict(zip(ARM_HEADERS, arm_rows(made)[0], strict=True))
    assert float(row["p50 ms"]) == pytest.approx(1.1, rel=0.01)
    assert row["peak MB"] == "100.0"
    assert row["file MB"] == "6.0"
    spread = made.arms[0].cold_start
    total = sum(s.median for s in (spread.import_ms, spread.load_ms, spread.first_inference_ms))
    assert float(row["cold start ms"]) == pytest.approx(total, rel=1e-3)


def test_what_is_not_known_is_empty() -> None:
    made = result()
    unknown = {"latency_p99_ms": None, "peak_memory_bytes": None, "size_bytes": None}
    first = made.arms[0].model_copy(update=unknown)
    row = arm_rows(made.model_copy(update={"arms": (first,)}))[0]
    assert [row[ARM_HEADERS.index(name)] for name in ("p99 ms", "peak MB", "file MB")] == [""] * 3


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("FAIL", ["FAIL: head.edge against base.edge", "p50 ratio 1.10", "above the 1.02"]),
        ("PASS", ["PASS: head.edge against base.edge", "memory 1.000", "under 1.05"]),
        ("INCONCLUSIVE", ["INCONCLUSIVE:", "neither", "1.02", "1.05", "6 restarts", "--looks"]),
        (None, ["not gated"]),
    ],
)
def test_the_verdict_says_why(verdict: Verdict | None, words: list[str]) -> None:
    line = verdict_line(result(verdict=verdict))
    assert "\n" not in line
    for word in words:
        assert word in line


def test_an_invalid_run_says_what_happened() -> None:
    made = result(verdict="INVALID")
    harness = made.harness.model_copy(update={"problems": ("the governor changed",)})
    line = verdict_line(made.model_copy(update={"harness": harness}))
    assert line.startswith("INVALID: the governor changed")
    assert "ratio" not in line


def test_an_invalid_comparison_shows_no_pass() -> None:
    made = result(verdict="PASS")
    invalid = made.comparisons[0].model_copy(update={"verdict": "INVALID"})
    rows = comparison_rows(made.model_copy(update={"comparisons": (invalid,)}))
    assert {row[COMPARISON_HEADERS.index("verdict")] for row in rows} == {"INVALID"}


def test_only_the_deciding_metrics_are_named() -> None:
    line = verdict_line(result(verdict="FAIL"))
    assert "p50" in line
    assert "p90" in line
    assert "size" not in line


def test_many_failures_are_counted() -> None:
    line = verdict_line(result((1.1, 1.2, 1.3, 1.0)))
    assert line.endswith("and 3 more")


def test_markdown_begins_with_the_verdict_and_holds_the_tables() -> None:
    made = result()
    page = to_markdown(made)
    assert page.splitlines()[0] == "### edgessl benchmark: FAIL"
    comparisons, arms = cells(page)
    assert comparisons == [list(COMPARISON_HEADERS), *comparison_rows(made)]
    assert arms == [list(ARM_HEADERS), *arm_rows(made)]
    assert "intervals cover 99.89 %" in page
    assert "Some CPU" in page
    assert "- arms use different numbers of threads" in page


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_acts_as_markdown_or_html(name: str) -> None:
    shown = " ".join(name.split()).replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    page = to_markdown(renamed(name))
    comparisons, arms = cells(page)
    assert comparisons[1][0] == shown
    assert arms[1][0] == shown
    assert len(arms) == 3
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    assert [t.tag for t in tokens if t.type == "heading_open"] == ["h3"]
    assert sum(t.type in ("bullet_list_open", "ordered_list_open") for t in tokens) == 1
    inline = [c.type for t in tokens for c in t.children or []]
    assert not {"link_open", "image", "em_open", "strong_open", "code_inline"} & set(inline)
    assert not any(t.type == "html_block" for t in tokens)


def test_nobody_is_mentioned() -> None:
    assert "@someone" not in MarkdownIt("commonmark").render(to_markdown(renamed("@someone")))
