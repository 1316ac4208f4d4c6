"""Run a benchmark on another machine and bring its result back."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pydantic

import edgessl.errors
from edgessl.benchmarking.benchmark import Measurement, WorkloadOf
from edgessl.benchmarking.options import BenchmarkOptions
from edgessl.benchmarking.recording import Recording, load_recording
from edgessl.benchmarking.remote import bootstrap
from edgessl.benchmarking.remote.address import Address, parse_address
from edgessl.benchmarking.remote.messages import LARGEST_ANSWER_BYTES, Job, Told
from edgessl.benchmarking.remote.needs import Facts, missing, request_of
from edgessl.benchmarking.remote.sending import Artifacts, collect
from edgessl.benchmarking.remote.ssh import Message, SshChannel
from edgessl.benchmarking.remote.worker_file import worker_file
from edgessl.benchmarking.result import BenchmarkResult
from edgessl.config import describe_validation
from edgessl.errors import DataError, EdgeSSLError, UnavailableError, UsageError
from edgessl.progress import Progress, ProgressEvent, silent

__all__ = ["LOCK_NAME", "benchmark_on"]

LOCK_NAME = "edgessl-benchmark.lock"
"""In the folder of the device where the work is done."""

_GREETING_S = 60.0
"""A small device takes a while to start Python and to import numpy."""
_BEATS_PER_LIMIT = 6
# Quoted alike by every shell; the rest comes through the pipe.
_BOOT = 'import json,sys;exec(json.loads(sys.stdin.buffer.readline())["code"])'


def benchmark_on(
    address: str,
    paths: Sequence[str | Path],
    *,
    against: Sequence[str | Path] = (),
    options: BenchmarkOptions | None = None,
    workload_of: WorkloadOf | None = None,
    progress: Progress = silent,
    python: str = "python3",
    folder: str = "/tmp",
    ssh_config: Path | None = None,
    lock_limit_s: float = 3600.0,
    lock_wait_s: float = 0.0,
    silence_s: float = 30.0,
) -> Measurement:
    """Measure bundles and model files on another machine, as `benchmark` does on this one.

    The files and the code that measures go there over SSH; the clock is the device's. When the
    connection breaks, the device ends everything and removes what it got; what it had measured
    comes back as the result of a run that ended early.

    Args:
        address: ``ssh://user@host:port``; user, port, keys and jump hosts may come from
            ``~/.ssh/config``.
        paths: ``.edge`` bundles, ``.onnx`` files, ``.xml`` files with their ``.bin``.
        against: The same kinds; every arm of ``paths`` is compared with each of these.
        options: How to measure.
        workload_of: Counts the operations of an ``.onnx`` file, here; bundles bring their count.
        progress: Told after blocks, and what it waits for.
        python: Interpreter on the device, with what a bundle needs; a relative path begins in the
            login folder.
        folder: Absolute path of a folder on the device for the work and for the lock; all who
            share a device name the same.
        ssh_config: Instead of ``~/.ssh/config``.
        lock_limit_s: Another may take the lock over when it was not refreshed for so long.
        lock_wait_s: How long to wait while another holds it.
        silence_s: Either side gives up when it heard nothing for so long.

    Raises:
        UsageError: A wrong address, or a file that cannot go.
        UnavailableError: The device does not answer, lacks something, is in use by another, or
            the connection broke before there was anything to keep.
        DataError: What came back is not a result of this benchmark.
        EdgeSSLError: What measuring raised there.
    """
    where = parse_address(address)
    options = options or BenchmarkOptions()
    _check_names(python, folder)
    artifacts = collect(paths, against, workload_of)
    job = Job(
        owner=f"{getpass.getuser()}@{socket.gethostname()} pid {os.getpid()}"[:300],
        options=options,
        files=artifacts.files,
        arms=artifacts.arms,
        against=artifacts.against,
        lock=f"{folder.rstrip('/')}/{LOCK_NAME}",
        lock_limit_s=lock_limit_s,
        lock_wait_s=lock_wait_s,
        silence_s=silence_s,
    )
    command = f"exec {shlex.quote(python)} -u -c {shlex.quote(_BOOT)}"
    with SshChannel(
        where, command, ssh_config=ssh_config, largest_data_bytes=LARGEST_ANSWER_BYTES
    ) as channel:
        _begin(channel, where, artifacts, python, folder)
        channel.send(job.model_dump(mode="json"))
        with _beats(channel, silence_s / _BEATS_PER_LIMIT):
            return _Run(channel, where, artifacts, silence_s, progress).measurement()


def _check_names(python: str, folder: str) -> None:
    if not python or not python.isprintable() or python.startswith("-"):
        raise UsageError(f"{python!r} is no path of a Python interpreter; name it like python3")
    if not folder.startswith("/") or not folder.isprintable():
        raise UsageError(f"{folder!r} is no folder of a device; name one like /tmp")


def _begin(
    channel: SshChannel,
    where: Address,
    artifacts: Artifacts,
    python: str,
    folder: str,
) -> None:
    """Start the agent, if the device has what it takes."""
    code = worker_file()
    source = Path(bootstrap.__file__).read_text(encoding="utf-8")
    channel.send({"code": source})
    channel.send({"folder": folder, **request_of(artifacts.needs)})
    try:
        line = channel.greeting(bootstrap.MARK, _GREETING_S)
    except UnavailableError:
        if channel.exit_code in (126, 127):
            raise UnavailableError(
                f"{where}: {python} cannot be run there; install Python 3.10 or later, or name "
                "its path"
            ) from None
        raise
    try:
        facts = Facts.model_validate_json(line)
    except pydantic.ValidationError as error:
        raise _nonsense(where, describe_validation(error)) from error
    problem = missing(facts, artifacts.needs, python)
    if problem is not None:
        raise UnavailableError(f"{where}: {problem}")
    channel.send({"sha256": hashlib.sha256(code).hexdigest()}, code)


class _Run:
    """What happens after the agent was told what to do."""

    def __init__(
        self,
        channel: SshChannel,
        where: Address,
        artifacts: Artifacts,
        silence_s: float,
        progress: Progress,
    ) -> None:
        self._channel = channel
        self._where = where
        self._artifacts = artifacts
        self._silence_s = silence_s
        self._progress = progress
        self._during = "before it began to measure"
        self._patience_s = max(silence_s, _GREETING_S)

    def measurement(self) -> Measurement:
        """Answer what the device asks for until it has said everything."""
        result: BenchmarkResult | None = None
        kept: Measurement | None = None
        error: EdgeSSLError | None = None
        while True:
            try:
                message = self._channel.receive(self._patience_s, during=self._during)
            except UnavailableError as lost:
                if kept is not None:
                    return kept.ended_early(str(error or lost))
                raise error or lost from None
            self._patience_s = self._silence_s
            told = self._told(message)
            if told.say == "ready":
                self._send_files()
            elif told.say == "progress" and told.event is not None:
                self._show(told.event.event())
            elif told.say == "result":
                result = self._result(message.data)
            elif told.say == "recording":
                kept = self._measured(result, self._recording(message.data))
            elif told.say == "error":
                error = error or self._error(told)  # what follows the first comes from it
            elif told.say == "bye":
                break
        if error is not None and kept is not None:
            return kept.ended_early(str(error))
        if error is not None:
            raise error
        if kept is None:
            raise _nonsense(self._where, "an end without a result")
        return kept

    def _measured(self, result: BenchmarkResult | None, recording: Recording) -> Measurement:
        if result is None:
            raise _nonsense(self._where, "samples without a result")
        if set(recording.arms) != {arm.name for arm in result.arms}:
            raise _nonsense(self._where, "samples of other arms than the result has")
        return Measurement(result, recording)

    def _told(self, message: Message) -> Told:
        try:
            return Told.model_validate(message.value)
        except pydantic.ValidationError as error:
            raise _nonsense(self._where, describe_validation(error)) from error

    def _send_files(self) -> None:
        total = len(self._artifacts.paths)
        self._during = "while files were copied"
        for number, path in enumerate(self._artifacts.paths, start=1):
            self._channel.send({"do": "file"}, path)
            self._progress(ProgressEvent("copy", number, total, unit="files"))

    def _show(self, event: ProgressEvent) -> None:
        if event.message is None and event.total is not None:
            self._during = f"after {event.completed} of {event.total} {event.unit}"
        self._progress(event)

    def _result(self, data: bytes) -> BenchmarkResult:
        try:
            result = BenchmarkResult.model_validate_json(data)
        except pydantic.ValidationError as error:
            raise _nonsense(self._where, describe_validation(error)) from error
        sent = {file.sha256 for file in self._artifacts.files}
        for arm in result.arms:
            if arm.artifact is None or arm.artifact.sha256 not in sent:
                raise _nonsense(self._where, f"a result of a file that was not sent, {arm.name}")
        return result

    def _recording(self, data: bytes) -> Recording:
        with tempfile.TemporaryDirectory(prefix="edgessl-") as scratch:
            place = Path(scratch) / "samples.json.gz"
            place.write_bytes(data)
            try:
                return load_recording(place)
            except DataError as error:
                raise _nonsense(self._where, f"samples that cannot be read, {error}") from error

    def _error(self, told: Told) -> EdgeSSLError:
        kind = getattr(edgessl.errors, told.error, None)
        if not (isinstance(kind, type) and issubclass(kind, EdgeSSLError)):
            kind = EdgeSSLError
        error: EdgeSSLError = kind(f"{self._where}: {told.text}")
        return error


@contextmanager
def _beats(channel: SshChannel, every_s: float) -> Iterator[None]:
    """Give the device a sign of life now and then."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every_s):
            channel.send({"do": "beat"})

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        # A device that reads no more may hold it in a write; closing the channel ends that.
        thread.join(every_s)


def _nonsense(where: Address, what: str) -> DataError:
    return DataError(f"{where}: the device sent {what}; check what runs there")
