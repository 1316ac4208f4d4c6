"""One benchmark at a time on a device."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgessl.benchmarking.remote.benchmark import LOCK_NAME
from edgessl.benchmarking.remote.lock import acquire
from edgessl.errors import UnavailableError


def lock(device: Path, **changes: Any) -> Any:
    values = {"owner": "ann", "limit_s": 600.0, "wait_s": 0.0, "remark": lambda text: None}
    work = device / "edgessl-mine"
    work.mkdir(exist_ok=True)
    return acquire(device / LOCK_NAME, work=work, **{**values, **changes})


def test_a_lock_is_given_back(device: Path) -> None:
    with lock(device), pytest.raises(UnavailableError, match="in use by ann"):
        lock(device, owner="bob")
    lock(device, owner="bob").close()
    assert not (device / LOCK_NAME).exists()


def test_a_lock_runs_out_unless_it_is_refreshed(device: Path) -> None:
    remarks: list[str] = []
    first = lock(device, limit_s=0.01)
    first.refresh()
    time.sleep(0.05)
    with lock(device, owner="bob", remark=remarks.append):
        assert remarks == ["took over the lock of ann: its time is over"]
        with pytest.raises(UnavailableError, match="taken over"):
            first.refresh()
        first.close()
        assert (device / LOCK_NAME).exists()  # it is bob's now
    assert (device / "edgessl-mine").exists()  # its owner lives


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("boot_id", "another", "restarted"), ("start_time", 1, "gone"), ("pid", 1 << 22, "gone")],
)
def test_an_abandoned_lock_is_taken_over(
    device: Path, field: str, value: object, reason: str
) -> None:
    lock(device)
    text = json.loads((device / LOCK_NAME).read_text())
    (device / LOCK_NAME).write_text(json.dumps({**text, field: value, "work": "../elsewhere"}))
    elsewhere = device.parent / "elsewhere"
    elsewhere.mkdir()
    remarks: list[str] = []
    with lock(device, owner="bob", remark=remarks.append):
        assert reason in remarks[0]
    assert elsewhere.exists()


def test_only_one_takes_an_abandoned_lock_over(device: Path) -> None:
    for _ in range(20):
        lock(device)
        text = json.loads((device / LOCK_NAME).read_text())
        (device / LOCK_NAME).write_text(json.dumps({**text, "boot_id": "another", "work": ""}))
        winners: list[Any] = []
        start = threading.Barrier(8)

        def take(start: threading.Barrier = start, winners: list[Any] = winners) -> None:
            start.wait()
            try:
                winners.append(lock(device))
            except UnavailableError:
                return

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        winners[0].close()
        assert not (device / LOCK_NAME).exists()


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "link", "pipe"])
def test_what_is_no_lock_is_left_alone(device: Path, kind: str) -> None:
    path = device / LOCK_NAME
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(device / "target")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("mine" if kind == "text" else "")
    with pytest.raises(UnavailableError, match="is no lock of edgessl"):
        lock(device)
    assert path.is_symlink() or path.exists()
