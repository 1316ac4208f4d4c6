"""A machine to measure on over SSH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.ssh_server import SshServer, server_or_skip
from contracts.tiny_bundle import write_bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    running = server_or_skip(tmp_path_factory.mktemp("ssh"))
    yield running
    running.stop()


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The folder that the device works in."""
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny.edge")
