"""How the builds of each engine are finished on the device; engines without an entry are tuned."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from edgessl.bundle.manifest import EngineSpec, OptionValue
from edgessl.errors import UsageError
from edgessl.registry import Registry
from edgessl.runtime.finalize.builds import Job, Prepared, Strategy
from edgessl.runtime.session import ENGINES
from edgessl.runtime.threads import physical_cores

__all__ = ["STRATEGIES", "prepare", "thread_counts", "tune"]

STRATEGIES: Registry[Strategy] = Registry(
    "way to finalize",
    {
        "openvino": "edgessl.runtime.finalize.intel:finish",
        "qnn": "edgessl.runtime.finalize.qualcomm:finish",
        "tensorrt": "edgessl.runtime.finalize.nvidia:finish",
    },
    group="edgessl.strategies",
)
_INTEGER = ("int8", "w8", "w4")


def prepare(job: Job) -> Prepared:
    """Finish one build with its engine's strategy."""
    engine = job.build.manifest.engine.name
    if engine != "tensorrt" and (job.options.dla_core, job.options.workspace_mib) != (None, None):
        raise UsageError(
            f"{job.where}: --dla-core and --workspace belong to tensorrt, this build is for "
            f"{engine}; leave them out"
        )
    return (STRATEGIES.get(engine) if engine in STRATEGIES.names() else tune)(job)


def tune(job: Job) -> Prepared:
    """Choose threads and settings of an engine on the CPU; the files stay as they are."""
    job.preflight()
    manifest = job.build.manifest
    counts = job.options.threads or thread_counts(physical_cores())
    return Prepared(
        build=job.build,
        model=manifest.model,
        members=job.build.files(job.folder),
        grid=_grid(manifest.engine, manifest.precision, counts),
        version=ENGINES.get(manifest.engine.name).version(),
        requirements=manifest.requirements,
        stand_ins=manifest.stand_ins,
    )


def thread_counts(cores: int) -> tuple[int, ...]:
    """The powers of two up to the cores, and their number."""
    powers = itertools.takewhile(lambda n: n < cores, (2**k for k in itertools.count()))
    return (*powers, cores)


def _grid(
    engine: EngineSpec, precision: str, threads: Sequence[int]
) -> list[dict[str, OptionValue]]:
    """Options to try.

    Waiting by spinning matters only where there are threads to wait for. Beside integers OpenVINO
    may compute the rest in bfloat16; the canaries decide whether that is near enough.
    """
    from edgessl.targets import detect  # here: its schema would delay every start

    half = engine.name == "openvino" and precision in _INTEGER and detect().has_bf16
    grid: list[dict[str, OptionValue]] = []
    for count in sorted(set(threads)):
        options = {**engine.options, "threads": count}
        grid.append(options)
        if engine.name == "onnxruntime":
            spins = (True, False) if count > 1 else (False,)
            grid[-1:] = [{**options, "intra_op_spinning": spin} for spin in spins]
        elif half and options.get("inference_precision") == "f32":
            grid.append({**options, "inference_precision": "bf16"})
    return grid
