"""ONNX's own node tests through `compile --precision fp32` and the runtime, on the CPU engines.

Each test of ``onnx.backend.test`` is one small model with inputs and expected outputs. It takes the
way of a compiled model: inspected in a compile worker (with the inputs' shapes given, as with
``--shape``), built for the engine, run by the runtime's session. A worker lives on until a test
kills it.

    python benchmarks/compile/backend_tests.py [--json benchmarks/results/onnx_backend_tests.json]

Needs the extra compile. Takes a few minutes. Every test that does not pass is listed with the
reason; exit code 1 if the calling process meets anything but an error of edgessl.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgessl.closing import Closing
from edgessl.compiler.graph_info import GraphInfo
from edgessl.compiler.process import Worker, WorkerFailure
from edgessl.compiler.samples import Samples, SampleWriter, Stream
from edgessl.errors import EdgeSSLError
from edgessl.targets import load_target

ENGINES = ("onnxruntime", "openvino")
RESULTS = Path(__file__).parents[1] / "results" / "onnx_backend_tests.json"
RTOL, ATOL = 1e-3, 1e-5
_LIMITS: dict[str, Any] = {"threads": 1, "timeout_s": 30.0, "memory_bytes": 6 * 2**30}


def main() -> None:
    """Run all tests and write how they ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the result goes")
    parser.add_argument("--first", type=int, default=None, help="only so many tests")
    arguments = parser.parse_args()
    start = time.monotonic()
    tests = load_tests()[: arguments.first]
    ended: dict[str, dict[str, tuple[str, str]]] = {engine: {} for engine in ENGINES}
    with tempfile.TemporaryDirectory() as name, NodeTests(Path(name)) as runner:
        for test in tests:
            for engine, result in runner.run(test).items():
                ended[engine][test.name] = result
    result = {
        "schema_version": 1,
        "what": "onnx.backend.test node tests through compile --precision fp32 and the runtime",
        "tests": len(tests),
        "rtol": RTOL,
        "atol": ATOL,
        "seconds": round(time.monotonic() - start, 1),
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("edgessl", "onnx", "onnxruntime", "openvino")},
        "engines": {engine: summary(results) for engine, results in ended.items()},
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for engine, results in ended.items():
        counts = Counter(verdict for verdict, _ in results.values())
        print(engine, {verdict: counts[verdict] for verdict in sorted(counts)})


def load_tests() -> list[Any]:
    """The node tests of the installed onnx."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        # The tests divide by zero on purpose while they are made.
        warnings.simplefilter("ignore")
        return sorted(load_model_tests(kind="node"), key=lambda test: str(test.name))


def summary(results: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Counts, and each test that did not pass with its reason."""
    counts = Counter(verdict for verdict, _ in results.values())
    others = [verdict for verdict in counts if verdict != "passed"]
    return {
        "passed": counts["passed"],
        "pass_rate": round(counts["passed"] / max(1, len(results)), 4),
        "counts": dict(counts.most_common()),
        **{
            verdict: {n: reason for n, (v, reason) in results.items() if v == verdict}
            for verdict in sorted(others)
        },
    }


class NodeTests(Closing):
    """Runs node tests in one worker after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._worker: Worker | None = None

    def run(self, test: Any) -> dict[str, tuple[str, str]]:
        """Engine → verdict and reason.

        The verdict is ``"passed"``, ``"wrong"``, ``"refused"`` (when inspected, the same for all
        engines), ``"unsupported"`` (by the engine), or ``"crashed"``.
        """
        case = self.folder / "case"
        case.mkdir(parents=True)
        try:
            return self._run(test, case)
        finally:
            shutil.rmtree(case)

    def _run(self, test: Any, case: Path) -> dict[str, tuple[str, str]]:
        model = case / "model.onnx"
        onnx.save(test.model, model)
        inputs, expected = ([_array(v) for v in values] for values in test.data_sets[0])
        names = [value.name for value in test.model.graph.input]
        feeds = dict(zip(names, inputs, strict=False))
        numeric = {n: v for n, v in feeds.items() if isinstance(v, np.ndarray | np.generic)}
        try:
            answer = self._ask(
                "inspect",
                model=str(model),
                out=str(case / "prepared.onnx"),
                batch_size=1,
                # An empty input keeps the shape that the graph gives it.
                shapes={n: list(np.shape(v)) for n, v in numeric.items() if np.size(v)},
            )
        except (EdgeSSLError, WorkerFailure) as error:
            kind = "refused" if isinstance(error, EdgeSSLError) else "crashed"
            return dict.fromkeys(ENGINES, (kind, _without_path(error, case)))
        graph = GraphInfo.model_validate(answer)
        samples = _store(graph, numeric, case / "samples")
        return {e: self._engine(e, graph, samples, expected, case) for e in ENGINES}

    def _engine(
        self, engine: str, graph: GraphInfo, samples: Samples, expected: Sequence[Any], case: Path
    ) -> tuple[str, str]:
        folder = case / engine
        folder.mkdir()
        request = {
            "graph": graph.model_dump(mode="json"),
            "candidate": {"engine": engine, "precision": "fp32"},
            "target": load_target("host").model_dump(mode="json"),
            "here": True,
            "calibration": str(samples.folder),
            "folder": str(folder),
            "threads": 1,
            "reduce_range": False,
        }
        try:
            built = self._ask("build", request=request)
            self._ask(
                "embed",
                engine=engine,
                model=str(folder / built["model"]),
                options=built["options"],
                samples=str(samples.folder),
                out=str(folder / "outputs"),
            )
        except (EdgeSSLError, WorkerFailure) as error:
            crashed = isinstance(error, WorkerFailure) and _is_gone(error)
            return "crashed" if crashed else "unsupported", _without_path(error, case)
        wrong = _difference(Samples(folder / "outputs"), graph, expected)
        return ("passed", "") if wrong is None else ("wrong", wrong)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _ask(self, operation: str, **arguments: Any) -> Any:
        if self._worker is None:
            (self.folder / "worker").mkdir(exist_ok=True)
            self._worker = Worker(self.folder / "worker", **_LIMITS)
        try:
            return self._worker.request(operation, **arguments)
        except WorkerFailure as failure:
            if _is_gone(failure):
                self.close()
            raise


def _array(value: Any) -> Any:
    """Types that numpy lacks come as tensors of ONNX."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


def _is_gone(failure: WorkerFailure) -> bool:
    return "crashed" in failure.summary or "was ended" in failure.summary


def _without_path(error: Exception, case: Path) -> str:
    return str(error).replace(f"{case}/", "")[:300]


def _store(graph: GraphInfo, feeds: dict[str, Any], folder: Path) -> Samples:
    """One sample: the test's inputs."""
    streams, arrays = [], {}
    for spec in graph.inputs:
        value = np.asarray(feeds[spec.name])
        batched = spec.name in graph.batched_inputs
        shape = value.shape[1:] if batched else value.shape
        streams.append(Stream(name=spec.name, dtype=spec.dtype, shape=shape, batched=batched))
        arrays[spec.name] = value.reshape(1, *shape)
    with SampleWriter(folder, tuple(streams), batch_size=1) as writer:
        writer.append(arrays)
    return Samples(folder)


def _difference(given: Samples, graph: GraphInfo, expected: Sequence[Any]) -> str | None:
    """Where the outputs differ from the test's; None if nowhere."""
    outputs = given.feeds(0)
    for spec, want in zip(graph.outputs, expected, strict=True):
        have, want = outputs[spec.name], np.asarray(want)
        if have.shape != want.shape:
            return f"'{spec.name}' has shape {have.shape} instead of {want.shape}"
        if have.dtype != want.dtype:
            return f"'{spec.name}' is {have.dtype} instead of {want.dtype}"
        a, b = have.astype(np.float64), want.astype(np.float64)
        if not np.allclose(a, b, rtol=RTOL, atol=ATOL, equal_nan=True):
            with np.errstate(invalid="ignore"):
                return f"'{spec.name}' differs by up to {np.nanmax(np.abs(a - b)):.3g}"
    return None


if __name__ == "__main__":
    main()
