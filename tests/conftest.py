"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before numpy, torch or an engine starts its threads: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Without a GPU, Triton's interpreter runs the kernels; Triton reads this once, when it is imported,
# and processes that tests start inherit it. The device's node tells (server, Jetson, WSL): asking
# PyTorch would bring it into every session and, on a GPU, a context before a test wants one.
os.environ.setdefault(
    "TRITON_INTERPRET",
    str(int(not any(re.match(r"nvidia\d|nvhost-.*gpu|dxg", name) for name in os.listdir("/dev")))),
)

import numpy as np
import pytest

# A shell that starts a job in the background has it ignore Ctrl-C, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the repository; tests skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the real data folder ../shared is not on this machine")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this session's own, so that no test sees what another run left."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESSL_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seed every generator that may be used, and hold torch to one thread."""
    random.seed(0)
    np.random.seed(0)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
