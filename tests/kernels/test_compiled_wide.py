"""The kernels for D > 512 as binaries: tensor cores, no spills, within shared memory."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from contracts.compiled_kernel import ARCHITECTURES, Kernel, check, compile_kernels
from edgessl.kernels.fused.wide import ADD_BLOCKS, ADD_LAUNCH, FINISH_BLOCKS, wide_blocks

MODULE = "edgessl.kernels.fused.wide_kernels"
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def tile(width: int, kind: str, arch: int) -> dict[str, int | str]:
    blocks = wide_blocks(width, TYPES[kind], arch)
    return {
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "D": width,
        "PART": blocks.part,
        "PRECISION": "tf32x3",
    }


def launch(width: int, kind: str, arch: int) -> dict[str, int]:
    blocks = wide_blocks(width, TYPES[kind], arch)
    return {"arch": arch, "num_warps": blocks.warps, "num_stages": blocks.stages}


def softmax(width: int, kind: str, arch: int, pairs: str, bounded: bool) -> Kernel:
    vectors = {
        f"{side}_{name}": "*fp32" for side in ("row", "column") for name in ("weight", "pull")
    }
    shifts = {f"{side}_shift": "*fp32" for side in ("row", "column")}
    labels = {f"{side}_labels": "*i64" for side in ("row", "column")}
    missing = (shifts if bounded else {}) | ({} if pairs == "labels" else labels)
    matrices = {"x": f"*{kind}", "y": f"*{kind}", "out": f"*{kind}", "scale": "*fp32"}
    sizes = ("rows", "columns", "first_row", "first_column", "half", "offset")
    given = matrices | vectors | shifts | labels | dict.fromkeys(sizes, "i32")
    return Kernel(
        f"{MODULE}:softmax_weights",
        {name: what for name, what in given.items() if name not in missing},
        {
            **dict.fromkeys(missing),
            "KIND": pairs,
            "BOUNDED": bounded,
            **tile(width, kind, arch),
        },
        **launch(width, kind, arch),
    )


def sigmoid(width: int, kind: str, arch: int) -> Kernel:
    matrices = {"x": f"*{kind}", "y": f"*{kind}", "out": f"*{kind}"}
    vectors = ("scale", "bias", "column_weight", "losses", "weight_sum")
    sizes = ("rows", "columns", "first_row", "first_column", "offset")
    return Kernel(
        f"{MODULE}:sigmoid_weights",
        matrices
        | dict.fromkeys(vectors, "*fp32")
        | dict.fromkeys(sizes, "i32")
        | {"multiple": "fp32"},
        tile(width, kind, arch),
        **launch(width, kind, arch),
    )


def add(width: int, kind: str, arch: int) -> Kernel:
    high, wide, step = ADD_BLOCKS
    return Kernel(
        f"{MODULE}:add_products",
        {"weights": f"*{kind}", "y": f"*{kind}", "sums": "*fp32", "rows": "i32", "columns": "i32"},
        {"D": width, "ROWS": high, "WIDTH": wide, "STEP": step, "PRECISION": "tf32x3"},
        arch=arch,
        **ADD_LAUNCH,
    )


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels(arch: int) -> None:
    kernels = [softmax(768, kind, arch, "views", True) for kind in TYPES]
    kernels += [softmax(768, kind, arch, "labels", False) for kind in ("fp32", "bf16")]
    kernels += [sigmoid(768, kind, arch) for kind in ("fp32", "bf16")]
    kernels += [add(768, "bf16", arch)]
    kernels += [softmax(1000, "fp16", arch, "towers", True), add(1000, "fp16", arch)]
    for kernel, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        check(kernel, compiled)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_end_of_a_gradient(arch: int) -> None:
    high, part = FINISH_BLOCKS
    vectors = dict.fromkeys(("sums", "inverse_norm", "factor", "along"), "*fp32")
    kernel = Kernel(
        f"{MODULE}:finish_strip",
        {**vectors, "values": "*bf16", "out": "*bf16", "rows": "i32"},
        {"D": 1000, "ROWS": high, "PART": part},
        arch,
        4,
        3,
    )
    check(kernel, compile_kernels([kernel])[0], products=False)
