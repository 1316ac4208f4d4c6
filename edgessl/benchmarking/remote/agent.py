"""What runs on the device: takes the files, measures, and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, NoReturn

import psutil
import pydantic

from edgessl.benchmarking.benchmark import Measurement, benchmark
from edgessl.benchmarking.recording import save_recording
from edgessl.benchmarking.remote.channel import Sender, read_data, read_message
from edgessl.benchmarking.remote.lock import DeviceLock, acquire
from edgessl.benchmarking.remote.messages import (
    LARGEST_ANSWER_BYTES,
    Job,
    ProgressMessage,
    SentFile,
    Told,
)
from edgessl.benchmarking.result import Workload
from edgessl.errors import DataError, EdgeSSLError, UnavailableError
from edgessl.progress import ProgressEvent

__all__ = ["serve"]

_PROGRESS_EVERY_S = 0.5
"""Sending takes the device's own processor, between blocks but close to them."""
_CHECKPOINT_EVERY_S = 10.0
_TICKS_PER_LIMIT = 6
_FREE_BYTES = 64 << 20
_COPIES = 2
"""Engines read a model out of its bundle."""


def serve(stdin: BinaryIO, answers: BinaryIO, work: str) -> NoReturn:
    """Do one job and end the process.

    The process, all that it started, its folder and its lock go when the job is done, when
    ``stdin`` ends, or when the host was silent for too long.

    Args:
        stdin: What the host says.
        answers: What the host hears.
        work: This process's own folder.
    """
    message = read_message(stdin)
    if message is None:
        raise SystemExit("the host went away")
    try:
        job = Job.model_validate(message)
    except pydantic.ValidationError as error:
        raise SystemExit("the host sent no job") from error
    _Agent(job, stdin, Sender(answers), Path(work)).run()


class _Agent:
    def __init__(self, job: Job, stdin: BinaryIO, sender: Sender, work: Path) -> None:
        self._job = job
        self._stdin = stdin
        self._sender = sender
        self._work = work
        self._lock: DeviceLock | None = None
        self._heard = time.monotonic()
        self._told = 0.0
        self._beaten = 0.0
        self._kept = -_CHECKPOINT_EVERY_S
        self._arrived: queue.Queue[OSError | EdgeSSLError | None] = queue.Queue()
        self._ending = threading.Lock()

    def run(self) -> NoReturn:
        for task in (self._listen, self._watch):
            threading.Thread(target=task, daemon=True).start()
        try:
            self._measure()
        except EdgeSSLError as error:
            self._fail(error)
        except BrokenPipeError:
            self._end()
        except OSError as error:
            self._fail(UnavailableError(f"{self._work}: {error.strerror}; free some space there"))
        finally:
            self._ending.acquire()  # from here on nobody else ends this process
            self._clean()
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
                os._exit(1)  # another thread still reads stdin
        with suppress(OSError):
            self._say(Told(say="bye"))
        os._exit(0)

    def _measure(self) -> None:
        self._lock = acquire(
            Path(self._job.lock),
            owner=self._job.owner,
            work=self._work,
            limit_s=self._job.lock_limit_s,
            wait_s=self._job.lock_wait_s,
            remark=lambda text: self._progress(ProgressEvent("device", message=text)),
        )
        self._check_space()
        self._say(Told(say="ready"))
        for _ in self._job.files:
            problem = self._arrived.get()
            if problem is not None:
                raise problem
        workloads = {self._place(file): file.workload for file in self._job.files}

        def workload_of(path: Path) -> Workload | None:
            return workloads[path]

        self._send(
            benchmark(
                [self._place(self._job.files[index]) for index in self._job.arms],
                against=[self._place(self._job.files[index]) for index in self._job.against],
                options=self._job.options,
                workload_of=workload_of,
                progress=self._progress,
                checkpoint=self._checkpoint,
            )
        )

    def _checkpoint(self, measurement: Measurement) -> None:
        """Let the host keep what there is, between two restarts."""
        now = time.monotonic()
        if now - self._kept >= _CHECKPOINT_EVERY_S:
            self._kept = now
            self._send(measurement)

    def _send(self, measurement: Measurement) -> None:
        samples = self._work / "samples.json.gz"
        save_recording(measurement.recording, samples)
        if samples.stat().st_size > LARGEST_ANSWER_BYTES:
            raise UnavailableError(
                f"more than {LARGEST_ANSWER_BYTES >> 20} MiB of samples; measure shorter"
            )
        result = measurement.result.model_dump_json().encode()
        self._sender.send({"say": "result"}, result)
        self._sender.send({"say": "recording"}, samples)

    def _check_space(self) -> None:
        wanted = _COPIES * sum(file.size_bytes for file in self._job.files) + _FREE_BYTES
        free = shutil.disk_usage(self._work).free
        if free < wanted:
            raise UnavailableError(
                f"{self._work.parent}: {free >> 20} MiB are free, {wanted >> 20} MiB are needed; "
                "free some space there or name another folder"
            )

    def _progress(self, event: ProgressEvent) -> None:
        now = time.monotonic()
        last = event.total is not None and event.completed >= event.total
        if event.message is None and not last and now - self._told < _PROGRESS_EVERY_S:
            return
        self._told = now
        self._say(Told(say="progress", event=_message(event)))

    def _say(self, told: Told) -> None:
        self._sender.send(told.model_dump(mode="json", exclude_unset=True))

    def _fail(self, error: EdgeSSLError) -> None:
        with suppress(OSError):
            self._say(Told(say="error", error=type(error).__name__, text=str(error)))

    def _place(self, file: SentFile) -> Path:
        return self._work / "files" / file.folder / file.name

    def _listen(self) -> None:
        """Take files and signs of life until the host is gone."""
        files = iter(self._job.files)
        try:
            while (message := read_message(self._stdin)) is not None:
                self._heard = time.monotonic()
                if message.get("do") == "file":
                    self._arrived.put(self._receive(next(files)))
                else:
                    self._beat()
        except (OSError, EdgeSSLError, StopIteration):
            pass  # a host that talks nonsense is as good as gone
        self._end()

    def _beat(self) -> None:
        """Give a sign of life, as often as the host does."""
        now = time.monotonic()
        if now - self._beaten >= self._job.silence_s / (2 * _TICKS_PER_LIMIT):
            self._beaten = now
            self._say(Told(say="beat"))

    def _receive(self, file: SentFile) -> OSError | EdgeSSLError | None:
        place = self._place(file)
        digest = hashlib.sha256()
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "xb") as target:

                def take(chunk: bytes) -> None:
                    self._heard = time.monotonic()
                    self._beat()
                    digest.update(chunk)
                    target.write(chunk)

                if not read_data(self._stdin, file.size_bytes, take):
                    return DataError(f"{file.name}: did not arrive")
        except OSError as error:
            return error
        if digest.hexdigest() != file.sha256:
            return DataError(f"{file.name}: arrived damaged, or changed meanwhile; run again")
        return None

    def _watch(self) -> None:
        """End everything when the host is silent, and keep the lock. Never writes to the host."""
        job = self._job
        refreshed = time.monotonic()
        tick_s = min(job.silence_s, job.lock_limit_s) / _TICKS_PER_LIMIT
        while time.monotonic() - self._heard < job.silence_s:
            time.sleep(tick_s)
            now = time.monotonic()
            if self._lock is None or now - refreshed < job.lock_limit_s / _TICKS_PER_LIMIT:
                continue
            refreshed = now
            try:
                self._lock.refresh()
            except (EdgeSSLError, OSError) as error:
                lost = UnavailableError(str(error))
                # A host that does not read must not keep this process alive.
                telling = threading.Thread(target=self._fail, args=(lost,), daemon=True)
                telling.start()
                telling.join(job.silence_s)
                break
        self._end()

    def _end(self) -> NoReturn:
        """Kill everything that this process started, clean up, and end it."""
        self._ending.acquire()
        self._clean()
        os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def _clean(self) -> None:
        for _ in range(2):  # one that was started meanwhile
            started = _started_here()
            for process in started:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(started, timeout=5)
        os.chdir("/")
        shutil.rmtree(self._work, ignore_errors=True)
        if self._lock is not None:
            with suppress(OSError):
                self._lock.close()


def _started_here() -> list[psutil.Process]:
    """Descendants of this process, and those of its group whose parent has ended."""
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == os.getpgrp() and process.pid != os.getpid():
                found.add(process)
    return list(found)


def _message(event: ProgressEvent) -> ProgressMessage:
    return ProgressMessage.model_validate(asdict(event))
