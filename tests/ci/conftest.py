"""A project in git with a base and a head commit, and the programs that its jobs find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.ci_runner import Job, Runner
from contracts.tiny_bundle import write_bundle

BUILD = """\
echo "$(cat size) in $(basename "$PWD")" >>"$BUILDS"
cp "$BUNDLES/$(cat size).edge" model.edge"""
"""Makes the bundle that the file ``size`` of the checkout names, and notes that it was asked."""

# Real ones, except that a machine which is busy with other tests may look like two machines.
EDGESSL = """
from importlib import import_module

from edgessl.cli.main import main

benchmark = import_module("edgessl.benchmarking.benchmark")
assert benchmark.control_problems
benchmark.control_problems = lambda milliseconds, gate: (1.0, [])
sys.exit(main())
"""

# Ends as $VERDICT says, with a result of that verdict, and notes its words.
FAKE_EDGESSL = """
import os
from pathlib import Path

sys.path.insert(0, os.environ["CONTRACTS"])
from contracts.benchmark_results import result

words = sys.argv[1:]
Path(os.environ["WORDS"]).write_text("\\n".join(words))
verdict, code, *failure = os.environ["VERDICT"].split(":")
if verdict:
    made = result(verdict=None if verdict == "none" else verdict)
    made = made.model_copy(update={"failure": failure[0] if failure else None})
    Path(words[words.index("--json") + 1]).write_text(made.model_dump_json())
    Path(words[words.index("--markdown") + 1]).write_text(f"found {verdict}\\n")
sys.exit(int(code))
"""

# pip notes its words, the toolchain is $TOOLCHAIN, everything else is Python.
FAKE_PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m pip install "*) echo "$*" >>"$INSTALLED" ;;
    */toolchain.py) echo "${TOOLCHAIN-same}" ;;
    *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@dataclass(frozen=True)
class Project:
    """A repository whose branch ``main`` builds a small bundle."""

    origin: Path
    env: dict[str, str]

    def git(self, *words: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *words],
            cwd=folder or self.origin,
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, size: str, message: str) -> str:
        """Commit what says which bundle is built."""
        (self.origin / "size").write_text(f"{size}\n")
        (self.origin / "note").write_text(message)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def checkout(self, place: Path, ref: str, *, shallow: bool = True) -> Path:
        """A checkout as CI makes it: one ref, detached, without history if shallow."""
        place.mkdir()
        self.git("init", "--quiet", folder=place)
        self.git("remote", "add", "origin", f"file://{self.origin}", folder=place)
        depth = ["--depth", "1"] if shallow else ["+refs/heads/*:refs/remotes/origin/*"]
        self.git("fetch", "--quiet", "origin", *depth, ref, folder=place)
        commit = self.git("rev-parse", ref, folder=self.origin)
        self.git("checkout", "--quiet", "--detach", commit, folder=place)
        return place


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of the same model, the large one with more canaries; and a file that is none."""
    folder = tmp_path_factory.mktemp("bundles")
    write_bundle(folder / "small.edge")
    write_bundle(folder / "large.edge", canary_count=64)
    (folder / "broken.edge").write_bytes(b"no bundle")
    return folder


@pytest.fixture
def project(tmp_path: Path, bundles: Path) -> Project:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\nname = a\nemail = a@example.org\n[init]\ndefaultBranch = main\n"
        "[advice]\ndetachedHead = false\n[uploadpack]\nallowAnySHA1InWant = true\n"
    )
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "BUNDLES": str(bundles),
        "BUILDS": str(tmp_path / "builds"),
        "OMP_NUM_THREADS": "1",
        "EDGESSL_CACHE": os.environ["EDGESSL_CACHE"],
    }
    origin = tmp_path / "origin"
    origin.mkdir()
    made = Project(origin, env)
    made.git("init", "--quiet")
    made.commit("small", "base")
    return made


@pytest.fixture
def real_tools(tmp_path: Path, project: Project) -> Path:
    """An environment of its own that sees this one's packages, with pip and edgessl."""
    folder = tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    _program(folder / "bin" / "edgessl", folder / "bin" / "python", EDGESSL)
    project.env["PATH"] = f"{folder / 'bin'}{os.pathsep}{project.env['PATH']}"
    return folder


@pytest.fixture
def fake_tools(tmp_path: Path, root: Path, project: Project) -> Path:
    """A pip and an edgessl that only note what they were asked."""
    folder = tmp_path / "fake"
    folder.mkdir()
    _program(folder / "edgessl", Path(sys.executable), FAKE_EDGESSL)
    (folder / "python").write_text(FAKE_PYTHON)
    (folder / "python").chmod(0o755)
    project.env.update(
        PATH=f"{folder}{os.pathsep}{project.env['PATH']}",
        REAL_PYTHON=sys.executable,
        CONTRACTS=str(root / "tests"),
        INSTALLED=str(tmp_path / "installed"),
        WORDS=str(tmp_path / "words"),
        VERDICT="PASS:0",
    )
    return folder


@pytest.fixture
def tools_of_this_edgessl(tmp_path: Path, root: Path) -> Path:
    """The action's files as a runner downloads them."""
    folder = tmp_path / "edgessl"
    shutil.copytree(root / "ci", folder / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "action.yml", folder)
    return folder


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package to install."""
    path = tmp_path / "marker-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("marker.py", "")
        archive.writestr(
            "marker-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: marker\nVersion: 1.0\n"
        )
        archive.writestr(
            "marker-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: a\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("marker-1.0.dist-info/RECORD", "")
    return path


def _program(path: Path, python: Path, code: str) -> None:
    path.write_text(f"#!{python}\nimport sys\n{code}")
    path.chmod(0o755)


@pytest.fixture
def runner(
    tmp_path: Path, project: Project, tools_of_this_edgessl: Path
) -> Callable[..., tuple[Job, Runner]]:
    """Runs the action in a fresh checkout, as one job; the cache lives on."""
    jobs = 0

    def run(
        ref: str = "main",
        *,
        shallow: bool = True,
        env: dict[str, str] | None = None,
        before: str = "",
        **inputs: str,
    ) -> tuple[Job, Runner]:
        nonlocal jobs
        jobs += 1
        place = tmp_path / f"job-{jobs}"
        place.mkdir()
        made = Runner(
            action=tools_of_this_edgessl,
            workspace=project.checkout(place / "workspace", ref, shallow=shallow),
            env={**project.env, **(env or {})},
            cache=tmp_path / "cache",
            uploads=place / "uploads",
            temporary=place / "temporary",
            github={"event.before": before},
        )
        defaults = {"build": BUILD, "artifact": "model.edge", "install": "marker"}
        return made.run(**(defaults | inputs)), made

    return run
