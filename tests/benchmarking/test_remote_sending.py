"""What goes to a device, and where to."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edgessl.benchmarking.remote import benchmark_on
from edgessl.benchmarking.remote.address import Address, parse_address
from edgessl.benchmarking.remote.needs import PACKAGES
from edgessl.benchmarking.remote.worker_file import worker_file
from edgessl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh://orin", Address("orin")),
        ("ssh://ann@orin.local:2222", Address("orin.local", "ann", 2222)),
        ("ssh://ann.b-c@10.0.0.7/", Address("10.0.0.7", "ann.b-c")),
        ("ssh://ann@[fe80::1]:22", Address("fe80::1", "ann", 22)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(str(expected)) == expected
    assert expected.arguments[-2:] == ["--", expected.host]


@pytest.mark.parametrize(
    "text",
    [
        "orin",
        "ssh://",
        "ssh://-oProxyCommand=touch${IFS}x",
        "ssh://-l@orin",
        "ssh://a b@orin",
        "ssh://orin/path",
        "ssh://orin -v",
        "ssh://orin\n",
        "ssh://ann:secret@orin",
        "ssh://orin:0",
        "ssh://orin:99999",
        "ssh://orin:٢٢",
        "ssh://[fe80::zz]",
        "ssh://[1:2:3]",
        "ssh://%h",
        "ssh://$(x)",
        "http://orin",
    ],
)
def test_what_is_no_address_is_refused(text: str, bundle: Path) -> None:
    with pytest.raises(UsageError):
        benchmark_on(text, [bundle])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("run", "on this machine only"),
        ("weights.safetensors", "on this machine only"),
        ("notes.txt", "neither a bundle"),
        ("absent.onnx", "no such file"),
    ],
)
def test_what_stays_here(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match=found):
        benchmark_on("ssh://device", [tmp_path / name])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"python": "-c"}, "interpreter"),
        ({"python": "a\nb"}, "interpreter"),
        ({"folder": "tmp"}, "folder"),
    ],
)
def test_wrong_arguments(bundle: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found):
        benchmark_on("ssh://device", [bundle], **changes)
    with pytest.raises(UsageError, match="nothing to measure"):
        benchmark_on("ssh://device", [])


def test_the_worker_file_is_whole_and_always_the_same(tmp_path: Path) -> None:
    data = worker_file()
    assert worker_file() == data
    with zipfile.ZipFile(BytesIO(data)) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import edgessl.benchmarking.remote.agent, edgessl.benchmarking.worker\n"
        "from edgessl.runtime.session import ENGINES\n"
        "from edgessl.targets import list_targets\n"
        "assert 'jetson-orin-nano' in list_targets()\n"
        "[ENGINES.get(name) for name in ENGINES.names()]\n"
        "ours = [m for n, m in sys.modules.items() if n.partition('.')[0] == 'edgessl']\n"
        f"assert all(m.__file__.startswith({str(tmp_path)!r}) for m in ours), ours\n"
        "assert not {'torch', 'onnx', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_what_a_device_needs_is_what_the_package_needs(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    for name, package in PACKAGES.items():
        assert f'"{name}>={package.least}' in text
