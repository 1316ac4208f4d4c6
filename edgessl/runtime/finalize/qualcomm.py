"""Qualcomm: keep the context if this device's runtime made it, else compile it again here."""

from __future__ import annotations

from pathlib import Path

from edgessl.config import build_options
from edgessl.errors import ModelError
from edgessl.optional import require
from edgessl.runtime.engines.onnxruntime import error_types, one_line
from edgessl.runtime.engines.qnn import Qnn, QnnOptions, session_options
from edgessl.runtime.finalize.builds import Job, Prepared

__all__ = ["finish", "installed_qairt"]

_CONTEXT = "ctx-here.onnx"


def finish(job: Job) -> Prepared:
    """See `edgessl.runtime.finalize.builds.Strategy`."""
    manifest = job.build.manifest
    here, made_with = installed_qairt(), manifest.requirements.qairt
    members = job.build.files(job.folder)
    model = manifest.model
    remarks: tuple[str, ...] = ()
    requirements = manifest.requirements
    source = _quantized(job)
    if made_with is not None and here != made_with and source is not None:
        job.preflight(qairt=None, engine_version=None)
        place = source.parent / _CONTEXT
        place.unlink(missing_ok=True)
        _compile(source, place, build_options(QnnOptions, manifest.engine.options, where="qnn"))
        old, model = manifest.model, (Path(manifest.model).parent / _CONTEXT).as_posix()
        members = {name: file for name, file in members.items() if name != old} | {model: place}
        requirements = requirements.model_copy(update={"qairt": here})
        remarks = (f"{job.name}: compiled again, from QAIRT {made_with} to {here}",)
    else:
        job.preflight()
    return Prepared(
        build=job.build,
        model=model,
        members=members,
        grid=[dict(manifest.engine.options)],
        version=Qnn.version(),
        requirements=requirements,
        stand_ins=tuple(s for s in manifest.stand_ins if s.model in members),
        versions={"qairt": here},
        remarks=remarks,
    )


def installed_qairt() -> str:
    """Version of Qualcomm's AI runtime that onnxruntime-qnn brings."""
    facts = require("onnxruntime_qnn.build_and_package_info", extra="qnn")
    return str(facts.qnn_version)


def _quantized(job: Job) -> Path | None:
    """The Q/DQ graph that the context was compiled from."""
    names = [s.model for s in job.build.manifest.stand_ins if s.model.endswith(".onnx")]
    names = [name for name in names if name != job.build.manifest.model]
    return job.folder / names[0] if names else None


def _compile(source: Path, place: Path, options: QnnOptions) -> None:
    ort = require("onnxruntime", extra="qnn")
    try:
        compiler = ort.ModelCompiler(
            session_options(options), source.read_bytes(), embed_compiled_data_into_model=True
        )
        place.write_bytes(compiler.compile_to_bytes())
    except error_types(ort) as error:
        raise ModelError(
            f"{source.name}: no context binary for this device ({one_line(error)}); compile the "
            "bundle again with the onnxruntime-qnn that is installed here"
        ) from error
