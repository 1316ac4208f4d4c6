"""Which commit the GitHub action takes as the base, and when it builds it again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.ci_runner import Job, Runner, lines

from .conftest import BUILD, Project


def base_of(made: Runner) -> str:
    return (made.workspace / "edgessl-benchmark" / "base-commit").read_text().strip()


@pytest.mark.usefixtures("fake_tools")
def test_of_a_merge_commit_the_base_is_the_branch_as_it_was_merged(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    fork = project.git("rev-parse", "HEAD")
    project.commit("large", "main goes on")
    merged_into = project.git("rev-parse", "HEAD")
    project.git("checkout", "--quiet", "-b", "feature", fork)
    (project.origin / "other").write_text("x")
    project.git("add", ".")
    project.git("commit", "--quiet", "--message", "feature")
    project.git("checkout", "--quiet", "--detach", "main")
    project.git("merge", "--quiet", "--no-edit", "feature")
    project.git("update-ref", "refs/pull/1/merge", "HEAD")
    project.git("checkout", "--quiet", "main")
    project.commit("large", "and on")
    env = {"GITHUB_BASE_REF": "main"}
    job, made = runner("refs/pull/1/merge", env=env, before=fork)
    assert (job.code, base_of(made)) == (0, merged_into), job.log
    job, made = runner("feature", env=env)
    assert (job.code, base_of(made)) == (0, fork), job.log
    job, made = runner("feature", env=env, shallow=False)
    assert (job.code, base_of(made)) == (0, fork), job.log


@pytest.mark.parametrize("shallow", [True, False])
@pytest.mark.usefixtures("fake_tools")
def test_of_a_push_the_base_is_the_commit_before(
    runner: Callable[..., tuple[Job, Runner]], project: Project, shallow: bool
) -> None:
    first = project.git("rev-parse", "HEAD")
    second = project.commit("small", "second")
    project.commit("small", "third")
    for before, expected in ((first, first), ("0" * 40, second), ("", second)):
        job, made = runner(before=before, shallow=shallow)
        assert (job.code, base_of(made)) == (0, expected), job.log


@pytest.mark.parametrize("shallow", [True, False])
@pytest.mark.usefixtures("fake_tools")
def test_any_ref_can_be_the_base(
    runner: Callable[..., tuple[Job, Runner]], project: Project, shallow: bool
) -> None:
    first = project.git("rev-parse", "HEAD")
    project.git("tag", "v1")
    project.git("branch", "release/1", first)
    project.commit("small", "second")
    project.commit("small", "third")
    for ref in ("v1", "release/1", first):
        job, made = runner(base_ref=ref, shallow=shallow, env={"GITHUB_BASE_REF": "main"})
        assert (job.code, base_of(made)) == (0, first), job.log
        was = "true" if shallow else "false"
        found = project.git("rev-parse", "--is-shallow-repository", folder=made.workspace)
        assert found == was


@pytest.mark.usefixtures("fake_tools")
def test_the_first_commit_has_no_base(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    job, _ = runner()
    assert job.code == 2
    assert "base 'HEAD^' is not a commit" in job.log


# --- bundles of bases -----------------------------------------------------------------------------


@pytest.mark.usefixtures("fake_tools")
def test_a_base_is_built_again_only_where_it_may_differ(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    def builds_of_the_base(**changes: Any) -> int:
        Path(project.env["BUILDS"]).write_text("")
        job, _ = runner(shallow=False, **changes)
        assert job.code == 0, job.log
        return lines(project.env["BUILDS"]).count("small in checkout")

    project.commit("large", "head")
    assert builds_of_the_base() == 1
    assert builds_of_the_base() == 0
    project.commit("large", "another head")
    assert builds_of_the_base(base_ref="HEAD^^") == 0
    assert builds_of_the_base(base_ref="HEAD^^", env={"TOOLCHAIN": "newer"}) == 1
    assert builds_of_the_base(base_ref="HEAD^^", build=f"{BUILD} # changed") == 1
    # Another commit with the same files.
    project.git("revert", "--no-edit", "--no-commit", "HEAD", "HEAD^")
    project.git("commit", "--quiet", "--message", "back")
    project.commit("large", "head")
    assert builds_of_the_base() == 0


@pytest.mark.usefixtures("fake_tools")
def test_a_damaged_bundle_is_not_trusted(
    runner: Callable[..., tuple[Job, Runner]], project: Project, tmp_path: Path
) -> None:
    project.commit("small", "head")
    runner()
    (stored,) = (tmp_path / "cache").rglob("*.edge")
    content = stored.read_bytes()
    stored.write_bytes(content[:-1] + b"?")
    job, made = runner()
    assert job.code == 0, job.log
    assert (made.workspace / "edgessl-benchmark" / "base.edge").read_bytes() == content
    assert f"::warning title=edgessl benchmark::the cached bundle {stored.stem}" in job.log


@pytest.mark.usefixtures("fake_tools")
def test_the_checkout_of_the_base_goes_away(
    runner: Callable[..., tuple[Job, Runner]], project: Project
) -> None:
    project.commit("small", "head")
    _, made = runner()
    worktrees = project.git("worktree", "list", "--porcelain", folder=made.workspace)
    assert worktrees.count("worktree ") == 1
    assert list(made.temporary.glob("edgessl-base.*")) == []
