"""What a user calls a teacher, and what is opened for it."""

from __future__ import annotations

from pathlib import Path

from edgessl.distillation.options import TeacherOptions
from edgessl.distillation.teachers.teacher import Teacher
from edgessl.errors import ModelError, UsageError

__all__ = ["open_teacher"]

_LARGEST = 224


def open_teacher(options: TeacherOptions) -> Teacher:
    """Open a teacher by what it is called.

    A folder with a ``config.json`` is a model of `transformers`, another folder a run; a file is
    ONNX or an ``encoder.safetensors``; ``hf:NAME`` is fetched from the hub, and any other name is a
    timm model.

    Raises:
        ModelError: It cannot be used, or there is no such model.
        RunError: The folder is no finished run.
        UsageError: A setting that this kind of teacher does not take.
        UnavailableError: Published weights cannot be fetched.
    """
    name = options.name
    path = Path(name)
    local = path.exists() and not name.startswith(("timm:", "hf:"))
    onnx = local and path.suffix == ".onnx"
    _refuse_others(options, onnx=onnx, named=not local and not name.startswith("hf:"))
    if onnx:
        from edgessl.distillation.teachers.onnx_file import OnnxTeacher

        return OnnxTeacher(path, preprocess=options.preprocess, output=options.output)
    if name.startswith("hf:") or (local and (path / "config.json").is_file()):
        from edgessl.distillation.teachers.transformers_model import TransformersTeacher

        return TransformersTeacher(name, image_size=options.image_size, largest=_LARGEST)
    from edgessl.distillation.teachers.encoder import EncoderTeacher
    from edgessl.models import load_encoder, load_teacher

    if local:
        return EncoderTeacher(load_encoder(path)[0], path.name)
    if not name.startswith("timm:") and ("/" in name or name.endswith((".onnx", ".safetensors"))):
        raise ModelError(
            f"teacher {name}: no such file or folder; give a run, a .onnx, a folder of "
            "transformers, timm:NAME or hf:NAME"
        )
    encoder = load_teacher(
        name, weights=options.weights_file, image_size=options.image_size, largest=_LARGEST
    )
    return EncoderTeacher(encoder, encoder.name)


def _refuse_others(options: TeacherOptions, *, onnx: bool, named: bool) -> None:
    """Settings that would be passed over in silence."""
    where = f"teacher {options.name}"
    if options.weights_file is not None and not named:
        raise UsageError(f"{where}: weights from a file are for timm:NAME; leave them out")
    if not onnx and (options.preprocess is not None or options.output is not None):
        setting = "preprocess" if options.preprocess is not None else "output"
        raise UsageError(f"{where}: '{setting}' is for ONNX files; leave it out")
