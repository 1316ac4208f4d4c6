"""The fused forward kernels compiled for GPUs that need not be here, as launchers cut them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from contracts.compiled_kernel import ARCHITECTURES, Kernel, check, compile_kernels
from edgessl.kernels.problem import PairKind

pytest.importorskip("triton")

from edgessl.kernels.fused.logits import forward_blocks

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CASES = {
    90: (*((width, "bf16") for width in (48, 128, 200, 256, 512)), (256, "fp16"), (256, "fp32")),
    80: (*((width, "bf16") for width in (128, 256, 512)), (256, "fp32")),
    87: ((256, "bf16"),),
}


def of_rows(
    width: int, dtype: str, arch: int, kind: PairKind, *, bounded: bool, peaks: bool
) -> Kernel:
    """The kernel of `statistics`."""
    blocks = forward_blocks(width, DTYPES[dtype], arch, mutual=False, peaks=peaks)
    given = {
        "row_labels": ("*i64", kind == "labels"),
        "column_labels": ("*i64", kind == "labels"),
        "positives": ("*fp32", kind == "labels"),
        "maxima": ("*fp32", not bounded),
        "peaks": ("*fp32", peaks),
    }
    return Kernel(
        "edgessl.kernels.fused.statistics:_row_sums",
        {
            "rows": f"*{dtype}",
            "columns": f"*{dtype}",
            **dict.fromkeys(("scale", "sums", "positive"), "*fp32"),
            **dict.fromkeys(("A", "B", "offset", "split"), "i32"),
            **{name: kind for name, (kind, present) in given.items() if present},
        },
        {
            **{name: None for name, (_, present) in given.items() if not present},
            "KIND": kind,
            "BOUNDED": bounded,
            "PEAKS": peaks,
            "ROWS": blocks.rows,
            "COLUMNS": blocks.columns,
            "D": width,
            "PART": blocks.part,
            "PRECISION": "tf32x3",
        },
        arch,
        blocks.warps,
        blocks.stages,
    )


def of_strips(width: int, dtype: str, arch: int, *, triangle: bool, peaks: bool) -> Kernel:
    """The kernel of `mutual_statistics` that multiplies."""
    blocks = forward_blocks(width, DTYPES[dtype], arch, mutual=True, peaks=peaks)
    numbers = ("A", "B", "strip", "strip_rows", "part_rows", "first_block", "shift")
    vectors = ("scale", "row_parts", "slots", "positive", "column_positive")
    return Kernel(
        "edgessl.kernels.fused.strips:strip_sums",
        {
            "rows": f"*{dtype}",
            "columns": f"*{dtype}",
            **dict.fromkeys(vectors, "*fp32"),
            **dict.fromkeys(numbers, "i32"),
            **({"peaks": "*fp32"} if peaks else {}),
        },
        {
            **({} if peaks else {"peaks": None}),
            "TRIANGLE": triangle,
            "PEAKS": peaks,
            "AHEAD": blocks.ahead,
            "ROWS": blocks.rows,
            "COLUMNS": blocks.columns,
            "D": width,
            "PART": blocks.part,
            "PRECISION": "tf32x3",
        },
        arch,
        blocks.warps,
        blocks.stages,
    )


def variants(width: int, dtype: str, arch: int) -> list[Kernel]:
    return [
        of_rows(width, dtype, arch, "views", bounded=True, peaks=True),
        of_rows(width, dtype, arch, "towers", bounded=False, peaks=False),
        of_rows(width, dtype, arch, "labels", bounded=False, peaks=True),
        of_strips(width, dtype, arch, triangle=True, peaks=False),
        of_strips(width, dtype, arch, triangle=True, peaks=True),
        of_strips(width, dtype, arch, triangle=False, peaks=True),
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tiles_use_tensor_cores_and_do_not_spill(arch: int) -> None:
    # In one process: starting it takes as long as compiling a kernel.
    kernels = [kernel for width, dtype in CASES[arch] for kernel in variants(width, dtype, arch)]
    for kernel, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        check(kernel, compiled)


def test_products_of_hopper_overlap() -> None:
    kernels = [of_strips(width, "bf16", 90, triangle=True, peaks=True) for width in (128, 256, 512)]
    kernels += [of_rows(256, "bf16", 90, "views", bounded=False, peaks=True)]
    kernels = [dataclasses.replace(kernel, remarks=True) for kernel in kernels]
    for kernel, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        assert not compiled.remarks, kernel


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_without_products_do_not_spill(arch: int) -> None:
    sums = Kernel(
        "edgessl.kernels.fused.strips:add_row_parts",
        {"row_parts": "*fp32", "row_sums": "*fp32"}
        | dict.fromkeys(("A", "B", "strip", "strip_rows"), "i32"),
        {"TRIANGLE": True, "ROWS": 128, "COLUMNS": 128, "BLOCK": 32, "STEP": 64},
        arch,
        4,
        3,
    )
    unit = Kernel(
        "edgessl.kernels.fused.unit_rows:_unit_rows",
        {"z": "*bf16", "unit": "*bf16", "inverse_norm": "*fp32", "count": "i32"},
        {"D": 768, "BLOCK_D": 1024, "ROWS": 4},
        arch,
        4,
        3,
    )
    for kernel, compiled in zip((sums, unit), compile_kernels((sums, unit)), strict=True):
        check(kernel, compiled, products=False)
