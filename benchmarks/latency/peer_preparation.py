"""What each peer runs for one model: files made by its own tools, and the arms that run them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peer_environments import PeerError, run
from peer_files import default_int8, fix_batch, nncf_int8

from edgessl.benchmarking import ArmSpec
from edgessl.compiler import compile_model
from edgessl.compiler.calibration import split_indices
from edgessl.files import write_json

__all__ = ["HELD_OUT", "OURS", "REFERENCE", "SAMPLES", "SEED", "Preparation", "prepare"]

OURS = "edgessl"
REFERENCE = "onnxruntime fp32"
SAMPLES, HELD_OUT, SEED = 180, 120, 0
_FILES = {
    "onnxruntime int8 default": "default.onnx",
    "openvino nncf int8": "nncf.xml",
    "executorch fp32": "fp32.pte",
    "executorch int8": "int8.pte",
    "litert fp32": "fp32.tflite",
    "litert int8": "int8.tflite",
    "olive optimize": "optimize/model.onnx",
    "olive auto-opt int8": "auto-opt/model.onnx",
}


@dataclass(frozen=True)
class Preparation:
    """One model, ready to be measured.

    Attributes:
        specs: Our arm and the peers' that have a file.
        missing: Arm → why there is none.
        held_out: ``(120, 3, size, size)`` float32, which calibrated nothing.
    """

    specs: list[ArmSpec]
    missing: dict[str, str]
    held_out: NDArray[np.float32]


def prepare(
    model: Path, threads: int, folder: Path, pythons: dict[str, Path], broken: dict[str, str]
) -> Preparation:
    """Make the files of one model that are not there yet.

    Args:
        model: ``NAME.onnx``; ``NAME.safetensors`` and ``images.npy`` lie beside it.
        threads: Of every arm; our bundle is compiled for them.
        folder: Where the files are kept.
        pythons: Environment → its interpreter.
        broken: Environment → why it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = np.load(model.with_name("images.npy"))
    chosen, held = split_indices(len(images), samples=SAMPLES, held_out=HELD_OUT, seed=SEED)
    calibration = folder / "calibration.npy"
    np.save(calibration, images[chosen])
    fixed = fix_batch(model, folder / "fixed.onnx")
    bundle = folder / f"ours-{threads}.edge"
    if not bundle.exists():
        settings = {"threads": threads, "samples": SAMPLES, "held_out": HELD_OUT, "seed": SEED}
        compile_model(model, target="host", calibration=images, out=bundle, overrides=settings)
    reasons = _make_files(model, fixed, images[chosen], calibration, folder, pythons, broken)
    size = int(images.shape[-1])
    specs = _specs(model, fixed, bundle, folder, size, threads, pythons)
    return Preparation(
        specs=[spec for spec in specs if spec.name not in reasons],
        missing=reasons,
        held_out=images[held],
    )


def _make_files(
    model: Path,
    fixed: Path,
    images: NDArray[np.float32],
    calibration: Path,
    folder: Path,
    pythons: dict[str, Path],
    broken: dict[str, str],
) -> dict[str, str]:
    """Arm → why its file could not be made; remembered, as a second try would fail alike."""
    notes = folder / "problems.json"
    reasons: dict[str, str] = json.loads(notes.read_text("utf-8")) if notes.exists() else {}
    weights = str(model.with_suffix(".safetensors"))

    def attempt(arms: tuple[str, ...], make: Callable[[], object]) -> None:
        missing = [a for a in arms if not (folder / _FILES[a]).exists() and a not in reasons]
        environment = arms[0].split()[0]
        if missing and environment in broken:
            reasons.update(dict.fromkeys(missing, broken[environment]))
        elif missing:
            try:
                make()
            except (PeerError, RuntimeError, ValueError) as error:
                line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
                reasons.update({a: line for a in missing if not (folder / _FILES[a]).exists()})
        write_json(notes, {k: v for k, v in reasons.items() if k.split()[0] not in broken})

    def export(peer: str, suffix: str) -> Callable[[], object]:
        script = Path(__file__).with_name(f"peer_{peer}.py")
        files = [str(folder / f"{precision}.{suffix}") for precision in ("fp32", "int8")]
        command = [str(script), weights, str(calibration), *files]
        return lambda: run([str(pythons[peer]), *command], cwd=folder)

    def olive(verb: str, precision: str) -> Callable[[], object]:
        # It reads and writes a cache where it is called.
        command = [verb, "-m", str(fixed), "-o", str(folder / verb), "--precision", precision]
        command += ["--provider", "CPUExecutionProvider", "--device", "cpu", "--disable_telemetry"]
        return lambda: run([str(pythons["olive"].with_name("olive")), *command], cwd=folder)

    attempt(("onnxruntime int8 default",), lambda: default_int8(fixed, images, folder))
    attempt(
        ("openvino nncf int8",),
        lambda: nncf_int8(fixed, images, folder, transformer=model.name.startswith("vit_")),
    )
    attempt(("executorch fp32", "executorch int8"), export("executorch", "pte"))
    attempt(("litert fp32", "litert int8"), export("litert", "tflite"))
    attempt(("olive optimize",), olive("optimize", "fp32"))
    attempt(("olive auto-opt int8",), olive("auto-opt", "int8"))
    return reasons


def _specs(
    model: Path,
    fixed: Path,
    bundle: Path,
    folder: Path,
    size: int,
    threads: int,
    pythons: dict[str, Path],
) -> list[ArmSpec]:
    def arm(name: str, factory: str, path: Path, **arguments: str | int | bool) -> ArmSpec:
        python = pythons.get(name.split()[0])
        return ArmSpec(
            name=name,
            factory=factory if ":" in factory else f"edgessl.benchmarking.arms:{factory}",
            arguments={"path": str(path), **arguments},
            threads=threads,
            python=python and str(python),
        )

    def made(name: str) -> Path:
        return folder / _FILES[name]

    weights = model.with_suffix(".safetensors")
    by_onnxruntime = [n for n in _FILES if n.startswith(("onnxruntime", "olive"))]
    onnx_files = {REFERENCE: fixed, **{name: made(name) for name in by_onnxruntime}}
    mobile = [("executorch", {"size": size}), ("litert", {})]
    return [
        arm(OURS, "bundle_arm", bundle),
        *(arm(n, "model_arm", f, engine="onnxruntime") for n, f in onnx_files.items()),
        arm("openvino fp32", "model_arm", fixed, engine="openvino"),
        arm("openvino default", "peer_arms:openvino_arm", fixed),
        arm("openvino nncf int8", "peer_arms:openvino_arm", made("openvino nncf int8")),
        arm("pytorch eager", "peer_torch:torch_arm", weights, size=size, compiled=False),
        arm("torch.compile", "peer_torch:torch_arm", weights, size=size, compiled=True),
        *(
            arm(
                f"{peer} {precision}",
                f"peer_{peer}:{peer}_arm",
                made(f"{peer} {precision}"),
                precision=precision,
                **extra,
            )
            for peer, extra in mobile
            for precision in ("fp32", "int8")
        ),
    ]
