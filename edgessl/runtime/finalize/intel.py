"""OpenVINO: tune a CPU; on a GPU or an NPU compile once, and ship what was compiled."""

from __future__ import annotations

from pathlib import Path

from edgessl.config import build_options
from edgessl.errors import ModelError
from edgessl.runtime.engines.openvino import OpenVINO, OpenVINOOptions, one_line, the_core
from edgessl.runtime.finalize.builds import Job, Prepared
from edgessl.runtime.finalize.strategies import tune

__all__ = ["compile_blob", "finish"]

_BLOB = "model.blob"


def finish(job: Job) -> Prepared:
    """See `edgessl.runtime.finalize.builds.Strategy`."""
    manifest = job.build.manifest
    options = build_options(OpenVINOOptions, manifest.engine.options, where="openvino options")
    if options.device == "CPU":
        return tune(job)
    source = _representation(job)
    if source is None:
        return _measured_as_it_is(job)
    # A blob that another version compiled is compiled again.
    job.preflight(engine_version=None)
    version = OpenVINO.version()
    blob = source.parent / _BLOB
    blob.unlink(missing_ok=True)
    blob.write_bytes(compile_blob(source, options))
    member = (Path(manifest.model).parent / _BLOB).as_posix()
    return Prepared(
        build=job.build,
        model=member,
        members={member: blob},
        grid=[dict(manifest.engine.options)],
        version=version,
        requirements=manifest.requirements.model_copy(update={"engine_version": version}),
        stand_ins=manifest.stand_ins,
    )


def compile_blob(source: Path, options: OpenVINOOptions) -> bytes:
    """Compile for this machine's device and serialize the result.

    Raises:
        ModelError: The device's compiler refuses the graph.
    """
    core = the_core()
    settings: dict[str, str | int] = {"PERFORMANCE_HINT": options.performance_hint.upper()}
    if options.device != "NPU":
        settings["INFERENCE_PRECISION_HINT"] = options.precision
        settings["NUM_STREAMS"] = options.num_streams
    try:
        compiled = core.compile_model(core.read_model(str(source)), options.device, settings)
        exported = compiled.export_model()
    except RuntimeError as error:
        raise ModelError(
            f"{source.name}: openvino {OpenVINO.version()} does not compile it for this "
            f"{options.device} ({one_line(error)}); update the driver, or compile for another "
            "target"
        ) from error
    return bytes(exported.getvalue()) if hasattr(exported, "getvalue") else bytes(exported)


def _representation(job: Job) -> Path | None:
    manifest = job.build.manifest
    names = [manifest.model, *(stand_in.model for stand_in in manifest.stand_ins)]
    readable = [name for name in names if name.endswith((".xml", ".onnx"))]
    return job.folder / readable[0] if readable else None


def _measured_as_it_is(job: Job) -> Prepared:
    job.preflight()
    manifest = job.build.manifest
    return Prepared(
        build=job.build,
        model=manifest.model,
        members=job.build.files(job.folder),
        grid=[dict(manifest.engine.options)],
        version=OpenVINO.version(),
        requirements=manifest.requirements,
        stand_ins=manifest.stand_ins,
        remarks=(f"{job.name}: holds no graph to compile; the blob is measured as it is",),
    )
