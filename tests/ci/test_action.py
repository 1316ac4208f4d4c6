"""The GitHub action: its file, and its steps run here in a repository with a base and a head."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.ci_runner import Job, Runner, lines
from edgessl.benchmarking import history

from .conftest import BUILD, Project

QUICK = (
    "--gate size --looks 2 --blocks 2 --block-seconds 0.02\n--cold-starts 1"  # two lines of words
)


@pytest.fixture
def action(root: Path) -> dict[str, Any]:
    found = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


# --- the file -------------------------------------------------------------------------------------


def test_it_is_a_composite_action(action: dict[str, Any]) -> None:
    assert action["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "outputs", "runs"} == set(action)
    for spec in (*action["inputs"].values(), *action["outputs"].values()):
        assert spec["description"]
    for name, spec in action["inputs"].items():
        assert spec.get("required") or isinstance(spec["default"], str), name
    for step in action["runs"]["steps"]:
        kind = {"run", "shell"} if "run" in step else {"uses", "with"}
        assert kind <= set(step) <= kind | {"name", "id", "if", "env"}, step
        assert step.get("shell", "bash") == "bash"


def test_no_input_can_become_code(action: dict[str, Any]) -> None:
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), step["name"]


def test_actions_of_others_are_pinned_by_commit(root: Path) -> None:
    used = re.findall(r"uses: (.*)", (root / "action.yml").read_text(encoding="utf-8"))
    assert used
    for reference in used:
        assert re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", reference)


def test_every_input_is_used_and_every_used_one_exists(action: dict[str, Any]) -> None:
    text = json.dumps(action["runs"])
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])


def test_the_script_reads_what_the_steps_give(root: Path, action: dict[str, Any]) -> None:
    script = (root / "ci" / "benchmark.sh").read_text(encoding="utf-8")
    given = {name for step in action["runs"]["steps"] for name in step.get("env", {})}
    read = set(re.findall(r"\$\{(BENCHMARK_\w+)", script))
    assert given | {"BENCHMARK_CACHE"} == read
    documented = set(re.findall(r"^#   (BENCHMARK_\w+)", script, re.MULTILINE))
    assert documented == read


# --- the whole way, with the real edgessl ---------------------------------------------------------


def test_equal_bundles_pass_and_a_larger_one_fails(
    runner: Callable[..., tuple[Job, Runner]],
    project: Project,
    real_tools: Path,
    wheel: Path,
    tmp_path: Path,
) -> None:
    base = project.git("rev-parse", "HEAD")
    equal = project.commit("small", "nothing that matters")
    trend = tmp_path / "history.jsonl"
    install = f"--no-index {wheel}"
    job, made = runner(
        before=base, arguments=QUICK, install=install, history=str(trend), fail_on="FAIL,INVALID"
    )
    assert (job.code, job.outputs["verdict"]) == (0, "PASS"), job.log
    assert "### edgessl benchmark: PASS" in job.summary
    assert f"head {equal}, base {base}" in job.summary
    assert list(real_tools.glob("lib/python*/site-packages/marker.py"))
    result = json.loads((made.workspace / job.outputs["result"]).read_text())
    assert [arm["name"] for arm in result["arms"]] == ["head.edge", "base.edge"]
    assert float(job.outputs["ratio-p50"]) == result["comparisons"][0]["metrics"][0]["ratio"]
    hashes = {arm["artifact"]["sha256"] for arm in result["arms"]}
    assert len(hashes) == 1
    assert [p.name for p in (tmp_path / "cache").rglob("*.edge")] == [f"{hashes.pop()}.edge"]
    assert [entry.label for entry in history.read(trend)] == [equal]

    project.commit("large", "a better model")
    job, made = runner(before=base, arguments=QUICK, install=install)
    assert (job.code, job.failed, job.outputs["verdict"]) == (1, "Judge", "FAIL"), job.log
    assert "### edgessl benchmark: FAIL" in job.summary
    assert "::error title=edgessl benchmark::FAIL" in job.log
    uploaded = {p.name for p in (made.uploads / "edgessl-benchmark").iterdir()}
    assert {
        *("head.edge", "base.edge", "base-commit", "result.json"),
        *("result.samples.json.gz", "junit.xml"),
    } <= uploaded
    # The base was built once; the second job had it from the cache.
    assert lines(project.env["BUILDS"]) == [
        "small in workspace",
        "small in checkout",
        "large in workspace",
    ]
    assert "Keep the base's bundle" not in job.ran


@pytest.mark.usefixtures("real_tools")
def test_a_broken_bundle_has_no_verdict(
    runner: Callable[..., tuple[Job, Runner]], project: Project, wheel: Path
) -> None:
    project.commit("broken", "head")
    job, _ = runner(arguments=QUICK, install=f"--no-index {wheel}", fail_on="")
    assert (job.code, job.failed) == (2, "Measure"), job.log
    assert "head.edge" in job.log.splitlines()[-2]


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "fail_on", "code"),
    [
        ("PASS:0", "FAIL,INCONCLUSIVE,INVALID", 0),
        ("none:0", "FAIL,INCONCLUSIVE,INVALID", 0),
        ("FAIL:1", "FAIL", 1),
        ("FAIL:1", "", 0),
        ("INCONCLUSIVE:3", "FAIL", 0),
        ("INCONCLUSIVE:3", "FAIL, INCONCLUSIVE", 3),
        ("INVALID:4", "FAIL INCONCLUSIVE", 0),
        ("INVALID:4", "INVALID", 4),
    ],
)
@pytest.mark.usefixtures("fake_tools")
def test_the_verdicts_that_were_asked_for_fail_the_job(
    runner: Callable[..., tuple[Job, Runner]],
    project: Project,
    ended: str,
    fail_on: str,
    code: int,
) -> None:
    project.commit("small", "head")
    job, _ = runner(env={"VERDICT": ended}, fail_on=fail_on)
    verdict = ended.partition(":")[0]
    assert (job.code, job.outputs["verdict"]) == (code, verdict), job.log
    assert float(job.outputs["ratio-p50"]) == pytest.approx(1.1, rel=0.01)
    assert f"found {verdict}" in job.summary
    if verdict in ("PASS", "none"):
        assert "::" not in job.log
    else:
        assert f"::{'error' if code else 'warning'} title=edgessl benchmark::{verdict}" in job.log


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (":4", "ended with 4 and left no result"),
        ("INVALID:4:head.edge crashed", "ended with 4 and has no verdict"),
        ("none:4:head.edge crashed", "ended with 4 and has no verdict"),
        (":1", "ended with 1 and left no result"),
        ("PASS:2", "ended with 2 although it found PASS"),  # a report that cannot be written
        ("INVALID:1", "ended with 1 although it found INVALID"),
    ],
)
@pytest.mark.usefixtures("fake_tools")
def test_without_a_verdict_nothing_passes(
    runner: Callable[..., tuple[Job, Runner]], project: Project, ended: str, said: str
) -> None:
    project.commit("small", "head")
    job, made = runner(env={"VERDICT": ended}, fail_on="")
    assert (job.code, job.failed) == (2, "Measure")
    assert f"::error title=edgessl benchmark::edgessl benchmark {said}" in job.log
    reason = ended.split(":")[2:]
    assert all(f"the run ended early: {words}" in job.log for words in reason)
    assert "Judge" not in job.ran
    assert (made.uploads / "edgessl-benchmark" / "head.edge").is_file()


@pytest.mark.usefixtures("fake_tools")
def test_a_result_of_yesterday_is_no_verdict(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    project.commit("small", "head")
    left = "mkdir -p out; echo PASS >out/verdict; echo {} >out/result.json"
    job, _ = runner(env={"VERDICT": ":4"}, build=f"{BUILD}\n{left}", output="out")
    assert (job.code, job.failed) == (2, "Measure")


# --- what the inputs do ---------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_tools")
def test_words_reach_the_benchmark_as_they_are(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    head = project.commit("small", "head")
    job, made = runner(
        arguments="--looks 6,12\n  --label $(touch pwned)", history="trend.jsonl", output="out"
    )
    assert job.code == 0, job.log
    words = lines(project.env["WORDS"])
    assert words[:4] == ["benchmark", "out/head.edge", "--against", "out/base.edge"]
    assert words[-9:] == [
        *("--looks", "6,12", "--label", "$(touch", "pwned)"),
        *("--history", "trend.jsonl", "--label", head),
    ]
    assert not (made.workspace / "pwned").exists()
    assert job.outputs["result"] == "out/result.json"
    assert lines(project.env["INSTALLED"])[0].endswith(" marker")


@pytest.mark.usefixtures("fake_tools")
def test_without_a_wish_this_edgessl_is_installed(
    runner: Callable[..., tuple[Job, Runner]], project: Project, tools_of_this_edgessl: Path
) -> None:
    project.commit("small", "head")
    runner(install="")
    (asked,) = lines(project.env["INSTALLED"])
    assert asked.endswith(f" {tools_of_this_edgessl}[compile,report]")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"build": ""}, "no build command is set"),
        ({"artifact": "model.onnx"}, "the artifact is 'model.onnx'"),
        ({"artifact": "/absolute/model.edge"}, "the artifact is '/absolute/model.edge'"),
        ({"fail_on": "FAILED"}, "fail-on holds 'FAILED'; choose from FAIL, INCONCLUSIVE, INVALID"),
        ({"base_ref": "--upload-pack=touch pwned"}, "is not a commit here"),
        ({"base_ref": "$(touch pwned)"}, "is not a commit here"),
        ({"base_ref": "v9"}, "base 'v9' is not a commit here or on the remote"),
        ({"build": "exit 3"}, "the build command failed for head"),
        ({"build": "true"}, "the build command made no model.edge for head"),
        (
            {"build": f'{BUILD}\n[[ "$(cat note)" == head ]]'},
            "the build command failed for base",
        ),
        ({"build": f"false\n{BUILD}"}, "the build command failed for head"),
        ({"build": f'echo "$unset"\n{BUILD}'}, "the build command failed for head"),
    ],
)
@pytest.mark.usefixtures("fake_tools")
def test_mistakes_are_errors(
    runner: Callable[..., tuple[Job, Runner]],
    project: Project,
    inputs: dict[str, str],
    said: str,
) -> None:
    project.commit("small", "head")
    job, made = runner(**inputs)
    assert job.code == 2, job.log
    assert re.search(f"::error title=edgessl benchmark::.*{re.escape(said)}", job.log), job.log
    assert "Measure" not in job.ran
    assert not (made.workspace / "pwned").exists()


def test_a_message_is_one_annotation(
    runner: Callable[..., tuple[Job, Runner]], project: Project, fake_tools: Path
) -> None:
    project.commit("small", "head")
    job, _ = runner(base_ref="50%\n::error::made up")
    assert "::error title=edgessl benchmark::base '50%25%0A::error::made up' is not" in job.log
    assert job.log.count("\n") == 1


# --- which commit is the base ---------------------------------------------------------------------
