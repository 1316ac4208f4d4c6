"""What becomes of a hostile model: through the compile workers and the engines, judged."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.bundle_process import peak_memory_bytes
from contracts.hostile_onnx import Mutant
from edgessl.closing import Closing
from edgessl.compiler.fidelity import Gate, measure_fidelity
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.process import Worker, WorkerFailure
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import EdgeSSLError, ModelError
from edgessl.targets import load_target

__all__ = ["MEMORY_BYTES", "HostileTrial", "Outcome", "Undue"]

MEMORY_BYTES = 4 * 2**30
ENGINES = ("onnxruntime", "openvino")
_MAX_FEED_BYTES = 2**24
_GATE = Gate.of(0.98, neighbour_agreement=0.0)
_BY_SEVERITY = ("correct", "rejected", "failed", "too slow", "crashed")


class Undue(AssertionError):
    """An outcome that must not be: a traceback, a wrong result, a file where none belongs."""


@dataclass(frozen=True)
class Outcome:
    """How one case ended.

    Attributes:
        verdict: ``"refused"`` with a clear error, ``"correct"``, ``"not run"`` (its inputs are too
            large to make), or of the worse engine what compiling turns into a reason in its table:
            ``"rejected"`` by the fidelity gate, ``"failed"``, ``"too slow"`` or ``"crashed"``.
        reason: The error.
        seconds: All steps together.
    """

    verdict: str
    reason: str
    seconds: float


class HostileTrial(Closing):
    """Takes one model after the other through inspection, rewriting and both CPU engines.

    The worker lives on until a case kills it; nothing may be left outside the case's own folder.
    """

    def __init__(self, folder: Path, *, timeout_s: float = 5.0) -> None:
        self.folder = folder
        self._timeout_s = timeout_s
        self._worker: Worker | None = None

    def run(self, mutant: Mutant) -> Outcome:
        """Judge one case.

        Raises:
            Undue: It did not end as it must.
        """
        case = self.folder / "case"
        (case / "model").mkdir(parents=True)
        (case / "work").mkdir()
        secret = case / "secret.txt"
        secret.write_bytes(b"secret" * 100)
        start = time.monotonic()
        try:
            path = mutant.write(case / "model")
            before = sorted(p.name for p in path.parent.iterdir())
            verdict, reason = self._judge(path, case / "work")
            if sorted(p.name for p in path.parent.iterdir()) != before:
                raise Undue("a file was written beside the model")
            if secret.read_bytes() != b"secret" * 100 or len(list(case.iterdir())) != 3:
                raise Undue("something outside the work folder changed")
        finally:
            shutil.rmtree(case)
        return Outcome(verdict, reason, time.monotonic() - start)

    def memory_bytes(self) -> int:
        """Most that the worker which is alive now has held; 0 if none is."""
        return 0 if self._worker is None else peak_memory_bytes(self._worker._process.pid)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _judge(self, path: Path, work: Path) -> tuple[str, str]:
        try:
            values = self._ask("inspect", model=str(path), out=str(work / "o.onnx"), batch_size=1)
        except EdgeSSLError as error:
            return "refused", _clear(error)
        graph = GraphInfo.model_validate(values)
        samples = _samples(graph, work / "samples")
        if samples is None:
            return "not run", "its inputs are too large to make"
        wanted = self._outputs("onnxruntime", graph.path, samples, work / "wanted")
        if isinstance(wanted, tuple):
            # compile_model gives this as an error: the float32 reference cannot be computed.
            return wanted
        oracle = self._outputs("onnxruntime", str(path), samples, work / "oracle")
        if isinstance(oracle, Samples) and not _random(path):
            _compare(oracle, wanted)
        slim = self._safely(
            "rewrite",
            name="onnxslim",
            graph=values,
            original=graph.path,
            out=str(work / "s.onnx"),
            samples=str(samples.folder),
        )
        if not isinstance(slim, tuple):
            graph = GraphInfo.model_validate(slim["graph"])
        verdicts = [self._candidate(e, graph, samples, wanted, work / e) for e in ENGINES]
        return max(verdicts, key=lambda verdict: _BY_SEVERITY.index(verdict[0]))

    def _candidate(
        self, engine: str, graph: GraphInfo, samples: Samples, wanted: Samples, work: Path
    ) -> tuple[str, str]:
        work.mkdir()
        request = {
            "graph": graph.model_dump(mode="json"),
            "candidate": {"engine": engine, "precision": "fp32"},
            "target": load_target("host").model_dump(mode="json"),
            "here": True,
            "calibration": str(samples.folder),
            "folder": str(work),
            "threads": 1,
            "reduce_range": False,
        }
        built = self._safely("build", request=request)
        if isinstance(built, tuple):
            return built
        given = self._outputs(engine, str(work / built["model"]), samples, work / "out")
        if isinstance(given, tuple):
            return given
        try:
            with np.errstate(all="ignore"):  # outputs of 1e30 are possible here
                objection = _GATE.objection(measure_fidelity(wanted, given))
        except ModelError as error:
            objection = _clear(error)
        if objection is not None:
            return "rejected", objection
        return "correct", ""

    def _outputs(
        self, engine: str, model: str, samples: Samples, out: Path
    ) -> Samples | tuple[str, str]:
        answer = self._safely(
            "embed",
            engine=engine,
            model=model,
            options={"threads": 1},
            samples=str(samples.folder),
            out=str(out),
        )
        return answer if isinstance(answer, tuple) else Samples(out)

    def _safely(self, operation: str, **arguments: Any) -> Any:
        """The answer, or the verdict on a candidate that has none."""
        try:
            return self._ask(operation, **arguments)
        except EdgeSSLError as error:
            return "failed", _clear(error)
        except WorkerFailure as failure:
            if "crashed" in failure.summary:
                return "crashed", failure.summary
            if "was ended" in failure.summary:
                return "too slow", failure.summary
            return "failed", failure.summary

    def _ask(self, operation: str, **arguments: Any) -> Any:
        if self._worker is None:
            shutil.rmtree(self.folder / "worker", ignore_errors=True)
            (self.folder / "worker").mkdir(parents=True)
            self._worker = Worker(
                self.folder / "worker",
                threads=1,
                timeout_s=self._timeout_s,
                memory_bytes=MEMORY_BYTES,
            )
        try:
            return self._worker.request(operation, **arguments)
        except WorkerFailure as failure:
            gone = "crashed" in failure.summary or "was ended" in failure.summary
            if gone:
                self.close()
            if operation == "inspect":
                raise Undue(f"inspect: {failure}") from failure
            raise


def _clear(error: EdgeSSLError) -> str:
    text = str(error)
    if not text or not text.isprintable() or "Traceback" in text or len(text) > 2100:
        raise Undue(f"not a clear error: {text[:300]!r}")
    return text


def _samples(graph: GraphInfo, folder: Path) -> Samples | None:
    """Two samples of small numbers; None if they would be huge."""
    rng = np.random.default_rng(0)
    streams, arrays = [], {}
    for spec in graph.inputs:
        shape = tuple(d if isinstance(d, int) else 2 for d in spec.shape)
        batched = spec.name in graph.batched_inputs
        stream = Stream(name=spec.name, dtype=spec.dtype, shape=shape[batched:], batched=batched)
        size = float(np.prod([float(d) for d in shape])) * np.dtype(spec.dtype).itemsize
        if size > _MAX_FEED_BYTES:
            return None
        values = rng.uniform(0, 2, (2, *stream.shape))
        streams.append(stream)
        arrays[spec.name] = values.astype(spec.dtype)
    with SampleWriter(folder, tuple(streams), batch_size=1) as writer:
        writer.append(arrays)
    return Samples(folder)


def _random(path: Path) -> bool:
    data = path.read_bytes()
    return any(word in data for word in (b"Random", b"Multinomial", b"Bernoulli", b"Dropout"))


def _compare(oracle: Samples, given: Samples) -> None:
    """The prepared graph must compute what the file itself computes."""
    want, have = oracle.read(0, oracle.count), given.read(0, given.count)
    if {n: a.shape for n, a in want.items()} != {n: a.shape for n, a in have.items()}:
        raise Undue(f"prepared: outputs {given.streams} instead of {oracle.streams}")
    for name, values in want.items():
        a, b = values.astype(np.float64), have[name].astype(np.float64)
        if not np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise Undue(f"prepared: '{name}' differs by {np.abs(a - b).max()}")
