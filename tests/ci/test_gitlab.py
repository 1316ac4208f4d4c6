"""The GitLab template, extended as the page shows it, run here in a repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import BUILD, Project

# Keywords of a job; https://docs.gitlab.com/ci/yaml/
KEYWORDS = {
    *("allow_failure", "artifacts", "cache", "extends", "image", "interruptible", "rules"),
    *("script", "variables"),
}


def pages_blocks(root: Path) -> list[dict[str, Any]]:
    """The YAML that docs/ci.md shows."""
    text = (root / "docs" / "ci.md").read_text(encoding="utf-8")
    found = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(block) for block in found]


@pytest.fixture
def template(root: Path) -> dict[str, Any]:
    text = (root / "ci" / "gitlab" / "edgessl-benchmark.yml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def page_job(root: Path) -> dict[str, Any]:
    (found,) = (block["benchmark"] for block in pages_blocks(root) if "include" in block)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def tools_repository(tools_of_this_edgessl: Path, project: Project) -> Path:
    project.git("init", "--quiet", folder=tools_of_this_edgessl)
    project.git("add", ".", folder=tools_of_this_edgessl)
    project.git("commit", "--quiet", "--message", "tools", folder=tools_of_this_edgessl)
    project.git("tag", "v0.1.0", folder=tools_of_this_edgessl)
    return tools_of_this_edgessl


def run(
    template: dict[str, Any],
    variables: dict[str, Any],
    project: Project,
    workspace: Path,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """All lines of the script in one bash, as GitLab's runner does."""
    job = template[".edgessl-benchmark"]
    values = {
        name: value["value"] if isinstance(value, dict) else value
        for name, value in {**job["variables"], **variables}.items()
    }
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])],
        cwd=workspace,
        env={**project.env, **values, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_template_is_one_hidden_job_with_known_keywords(template: dict[str, Any]) -> None:
    assert list(template) == [".edgessl-benchmark"]
    job = template[".edgessl-benchmark"]
    assert set(job) <= KEYWORDS
    assert all(isinstance(line, str) for line in job["script"])
    assert all(isinstance(value, str) for value in job["variables"].values())


def test_what_is_kept_is_what_the_script_writes(template: dict[str, Any]) -> None:
    job = template[".edgessl-benchmark"]
    out, cache = job["variables"]["BENCHMARK_OUT"], job["variables"]["BENCHMARK_CACHE"]
    assert job["artifacts"]["paths"] == [f"{out}/"]
    assert job["artifacts"]["reports"] == {"junit": f"{out}/junit.xml"}
    assert job["cache"]["paths"] == [f"{cache}/"]
    # A verdict that is no FAIL warns; a job without a verdict, which ends with 2, never passes.
    assert job["allow_failure"] == {"exit_codes": [3, 4]}


def test_the_page_extends_the_template_with_variables_that_are_read(
    root: Path, template: dict[str, Any], page_job: dict[str, Any]
) -> None:
    assert page_job["extends"] in template
    script = (root / "ci" / "benchmark.sh").read_text(encoding="utf-8")
    lines = "\n".join(template[".edgessl-benchmark"]["script"])
    for name in {**page_job["variables"], **template[".edgessl-benchmark"]["variables"]}:
        assert name == "GIT_DEPTH" or f"${{{name}" in script or f"${name}" in lines, name


def test_the_pages_workflows_use_inputs_that_exist(root: Path) -> None:
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    workflows = [block for block in pages_blocks(root) if "jobs" in block]
    steps = [s for w in workflows for job in w["jobs"].values() for s in job["steps"]]
    ours = [step["with"] for step in steps if step.get("uses", "").startswith("OWNER/edgessl@")]
    assert len(ours) == len(workflows) == 2
    required = {name for name, spec in action["inputs"].items() if spec.get("required")}
    for given in ours:
        assert required <= set(given) <= set(action["inputs"])


def test_the_page_names_every_input(root: Path) -> None:
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    page = (root / "docs" / "ci.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE) == list(action["inputs"])
    for name in action["outputs"]:
        assert f"`{name}`" in page


@pytest.mark.parametrize(
    ("ended", "code"),
    [("PASS:0", 0), ("FAIL:1", 1), ("INCONCLUSIVE:3", 3), ("INVALID:4", 4), (":4", 2)],
)
@pytest.mark.usefixtures("fake_tools")
def test_a_merge_request_ends_as_its_verdict_says(
    template: dict[str, Any],
    page_job: dict[str, Any],
    project: Project,
    tools_repository: Path,
    tmp_path: Path,
    ended: str,
    code: int,
) -> None:
    fork = project.git("rev-parse", "HEAD")
    project.git("checkout", "--quiet", "-b", "feature")
    head = project.commit("large", "feature")
    project.git("checkout", "--quiet", "main")
    project.commit("small", "main goes on")
    workspace = project.checkout(tmp_path / "workspace", "feature")
    variables = {
        **page_job["variables"],
        "EDGESSL_REPOSITORY": f"file://{tools_repository}",
        "BENCHMARK_BUILD": {"value": BUILD, "expand": False},
    }
    done = run(
        template,
        variables,
        project,
        workspace,
        VERDICT=ended,
        CI_MERGE_REQUEST_TARGET_BRANCH_NAME="main",
    )
    assert done.returncode == code, done.stderr
    out = workspace / "edgessl-benchmark"
    assert (out / "base-commit").read_text().strip() == fork
    words = Path(project.env["WORDS"]).read_text().splitlines()
    assert words[words.index("--markdown") + 1] == "edgessl-benchmark/summary.md"
    assert words[-6:-2] == ["--threads", "2", "--gate", "p50,size,memory"]
    assert words[-2:] == ["--report", "edgessl-benchmark/report.html"]
    if ended != ":4":
        summary = (out / "summary.md").read_text()
        assert summary.startswith(f"found {ended.partition(':')[0]}\n")
        assert f"head {head}, base {fork}" in summary
    assert "::" not in done.stderr + done.stdout
    (asked,) = Path(project.env["INSTALLED"]).read_text().splitlines()
    assert asked.endswith("[compile,report]")


@pytest.mark.usefixtures("fake_tools")
def test_the_cache_keeps_the_bundles_that_were_used_last(
    template: dict[str, Any], project: Project, tools_repository: Path, tmp_path: Path
) -> None:
    project.commit("small", "head")
    workspace = project.checkout(tmp_path / "workspace", "main")
    old = [workspace / ".edgessl-cache" / f"{number:02}" for number in range(12)]
    for number, folder in enumerate(old):
        folder.mkdir(parents=True)
        subprocess.run(["touch", "-d", f"2026-01-{number + 1:02}", folder], check=True)
    variables = {
        "EDGESSL_REPOSITORY": f"file://{tools_repository}",
        "EDGESSL_REF": "v0.1.0",
        "BENCHMARK_BUILD": BUILD,
        "BENCHMARK_ARTIFACT": "model.edge",
    }
    for _ in range(2):
        done = run(template, variables, project, workspace, CI_COMMIT_BEFORE_SHA="0" * 40)
        assert done.returncode == 0, done.stderr
    builds = Path(project.env["BUILDS"]).read_text()
    assert builds.count("small in checkout") == 1
    kept = sorted(folder.name for folder in (workspace / ".edgessl-cache").iterdir())
    assert len(kept) == 10
    assert [f"{number:02}" for number in range(3, 12)] == kept[:9]
