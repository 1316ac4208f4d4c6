"""What gets installed: one top-level name, every package on the disk, the TOML files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edgessl import __version__
from edgessl.config import read_toml

MAPPED = {"kernels": "edgessl.kernels", "targets": "edgessl.targets"}
EXTRAS = {
    *("adapt", "all", "compile", "deploy", "dev", "kernels", "mlperf", "openvino", "qnn"),
    *("report", "tensorrt", "track", "train", "transformers"),
}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return read_toml(root / "pyproject.toml")


@pytest.fixture(scope="module")
def distributions(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A wheel and an sdist, built from what git would hand out, not from what lies around."""
    pytest.importorskip("setuptools")
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the files of a distribution cannot be listed")
    for name in listed.stdout.splitlines():
        packaged = name.startswith(("edgessl/", "kernels/", "targets/")) or "/" not in name
        if packaged and (root / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((root / name).read_bytes())
    code = (
        "import sys; from setuptools import build_meta as b; out = sys.argv[1];"
        "b.build_sdist(out); b.build_wheel(out)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_listed_packages_are_those_on_the_disk(root: Path, project: dict[str, Any]) -> None:
    on_disk = {
        ".".join(path.parent.relative_to(root).parts)
        for path in (root / "edgessl").rglob("__init__.py")
    }
    for folder, package in MAPPED.items():
        for path in (root / folder).rglob("__init__.py"):
            rest = path.parent.relative_to(root / folder).parts
            on_disk.add(".".join((package, *rest)))
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == on_disk


def test_every_folder_with_modules_is_a_package(root: Path) -> None:
    for top in ("edgessl", *MAPPED):
        for path in (root / top).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_versions_agree(project: dict[str, Any]) -> None:
    assert project["project"]["version"] == __version__


def test_the_extras_are_those_of_the_design(project: dict[str, Any]) -> None:
    assert set(project["project"]["optional-dependencies"]) == EXTRAS


def test_constraints_are_exact_versions(root: Path) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition(";")[0].strip() for line in lines if line and line[0] != "#"]
    assert len(pins) > 50
    assert [pin for pin in pins if pin.count("==") != 1 or "@" in pin or "/" in pin] == []


def test_the_wheel_holds_one_top_level_name(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = wheel.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgessl"}


def test_the_wheel_holds_every_module_and_data_file(
    root: Path, distributions: tuple[Path, Path]
) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        names = set(wheel.namelist())
    folders = {"edgessl": "edgessl", "kernels": "edgessl/kernels", "targets": "edgessl/targets"}
    for folder, place in folders.items():
        for path in (root / folder).rglob("*"):
            if path.suffix in (".py", ".toml", ".typed"):
                assert f"{place}/{path.relative_to(root / folder).as_posix()}" in names


def test_the_sdist_holds_what_the_wheel_is_built_from(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "LICENSE", "targets/host.toml", "kernels/__init__.py"} <= names


def test_the_wheel_works_where_the_checkout_is_not(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    with zipfile.ZipFile(distributions[0]) as wheel:
        wheel.extractall(tmp_path / "site")
    code = "import edgessl; from edgessl.targets import load_target; load_target('host')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(edgessl.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "site" / "edgessl" / "__init__.py")
