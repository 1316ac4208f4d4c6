"""Compile for an Intel NPU without one, where OpenVINO's NPU compiler is at hand.

OpenVINO's wheels for Linux hold the NPU plugin but not its compiler, and the plugin looks for that
beside itself only. A mirror of the installed package, made of links, with the compiler's libraries
beside the plugin, serves a process of its own; nothing that is installed changes.

Source: https://github.com/openvinotoolkit/openvino/issues/36374
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgessl.errors import ModelError, UnavailableError
from edgessl.optional import require

__all__ = ["LOADER", "compile_blob"]

LOADER = "libopenvino_intel_npu_compiler_loader.so"
_PATTERN = "libopenvino_intel_npu_compiler*.so*"
_LIBRARIES = "libs"
_PROGRAM = """
import sys
import openvino

model, out, platform = sys.argv[1:]
core = openvino.Core()
settings = {"NPU_PLATFORM": platform, "NPU_COMPILER_TYPE": "PLUGIN"}
compiled = core.compile_model(core.read_model(model), "NPU", settings)
with open(out, "wb") as file:
    file.write(compiled.export_model().getvalue())
"""


def compile_blob(model: Path, *, platform: str, compiler: Path) -> Path:
    """Compile an IR for an NPU that is not here.

    Args:
        model: The ``.xml``.
        platform: Generation of the NPU, ``"4000"``.
        compiler: The compiler's library or the folder that holds it, of the same OpenVINO release.

    Returns:
        The blob, beside the model.

    Raises:
        UnavailableError: The library is not there or does not load; the message says where it
            comes from.
        ModelError: The compiler refuses the model.
    """
    folder = compiler.parent if compiler.name == LOADER else compiler
    if not (folder / LOADER).is_file():
        raise UnavailableError(f"{folder}: holds no {LOADER}{_WAYS}")
    mirror = model.parent / "npu-compiler"
    _mirror(mirror, folder)
    out = model.with_suffix(".blob")
    environment = {**os.environ, "PYTHONPATH": str(mirror)}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(model), str(out), platform],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return out
    out.unlink(missing_ok=True)
    # The worker's log keeps all of it.
    sys.stderr.write(done.stderr)
    said = _reason(done.stderr, mirror)
    if "VCL" in done.stderr or "Cannot load library" in done.stderr:
        version = require("openvino", extra="openvino").__version__
        raise UnavailableError(
            f"{LOADER} of {folder} does not work with openvino {version} ({said}){_WAYS}"
        )
    raise ModelError(
        f"no blob for the NPU {platform}: {said}; leave npu_compiler out to compile on the device"
    )


_WAYS = (
    "; OpenVINO's wheels for Linux do not hold it: take it from runtime/lib/intel64 of OpenVINO's "
    "archive of the same version (storage.openvinotoolkit.org), or leave npu_compiler out and "
    "run edgessl finalize on the device, whose driver compiles"
)


def _mirror(mirror: Path, compiler: Path) -> None:
    """The installed package as links, one by one in the folder of libraries."""
    package = Path(require("openvino", extra="openvino").__file__).parent
    place = mirror / package.name
    (place / _LIBRARIES).mkdir(parents=True)
    for entry in package.iterdir():
        if entry.name != _LIBRARIES:
            (place / entry.name).symlink_to(entry)
    for entry in (package / _LIBRARIES).iterdir():
        (place / _LIBRARIES / entry.name).symlink_to(entry)
    for entry in compiler.glob(_PATTERN):
        target = place / _LIBRARIES / entry.name
        target.unlink(missing_ok=True)
        target.symlink_to(entry.resolve())


def _reason(text: str, mirror: Path) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wanted = [line for line in lines if "rror" in line or "annot" in line] or lines
    said = wanted[-1] if wanted else "the compiler said nothing"
    return said.replace(str(mirror), "…")[:300]
