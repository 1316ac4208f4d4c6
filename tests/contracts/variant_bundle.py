"""A portable bundle of the tiny encoder with several builds of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.tiny_bundle import expected, samples, write_model
from edgessl.bundle.archive import pack
from edgessl.bundle.arrays import save_arrays
from edgessl.bundle.manifest import (
    Canaries,
    Candidate,
    EngineSpec,
    Manifest,
    Provenance,
    TensorSpec,
)

__all__ = ["write_variants"]


def write_variants(
    path: Path,
    builds: Mapping[str, dict[str, Any]],
    *,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Pack builds: the first is the bundle's own, the others are variants.

    Args:
        path: Where the bundle goes.
        builds: Candidate → fields of its manifest or variant; ``wrong`` flips its references.
        files: Beside every model: name → content.
    """
    model = write_model(path.with_suffix(".onnx")).read_bytes()
    inputs = samples(4)
    members: dict[str, Path | bytes] = {"canaries/inputs.npz": save_arrays({"image": inputs})}
    entries: list[dict[str, Any]] = []
    for index, (name, given) in enumerate(builds.items()):
        fields = dict(given)
        place = "" if index == 0 else f"variants/{name}/"
        sign = -1 if fields.pop("wrong", False) else 1
        outputs = sign * expected(inputs).astype(np.float32)
        members[f"{place}model.onnx"] = model
        members[f"{place}canaries/outputs.npz"] = save_arrays({"embedding": outputs})
        members |= {place + file: content for file, content in (files or {}).items()}
        engine = fields.pop("engine", "onnxruntime")
        options = fields.pop("options", {"threads": 1} if engine == "onnxruntime" else {})
        entries.append(
            {
                "precision": "fp32",
                "engine": EngineSpec(name=engine, version="", options=options),
                "model": f"{place}model.onnx",
                "fidelity": None,
                "canaries": Canaries(
                    inputs="canaries/inputs.npz",
                    outputs=f"{place}canaries/outputs.npz",
                    samples=4,
                    min_cosine=0.99,
                ),
                **fields,
            }
        )
    names = list(builds)
    manifest = {
        "kind": "portable",
        "target": "host",
        "inputs": (TensorSpec(name="image", dtype="float32", shape=(1, 3, 8, 8)),),
        "outputs": (TensorSpec(name="embedding", dtype="float32", shape=(1, 4)),),
        "batch_size": 1,
        "embedding_dim": 4,
        "preprocessing": None,
        "provenance": Provenance(
            edgessl_version="0",
            model_sha256="0" * 64,
            calibration_sha256=None,
            calibration_samples=0,
            seed=0,
            toolchain={},
        ),
        "candidates": tuple(
            Candidate(
                name=name,
                engine=entry["engine"].name,
                precision=entry["precision"],
                status="chosen" if name == names[0] else "passed",
                reason="",
            )
            for name, entry in zip(names, entries, strict=True)
        ),
        "variants": tuple({"name": n, **e} for n, e in zip(names[1:], entries[1:], strict=True)),
        **entries[0],
    }
    pack(path, Manifest.model_validate(manifest), members)
    path.with_suffix(".onnx").unlink()
    return path
