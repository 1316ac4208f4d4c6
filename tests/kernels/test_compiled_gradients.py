"""The fused backward kernel compiled for GPUs that need not be here, as its launcher cuts it."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from contracts.compiled_kernel import Kernel, check, compile_kernels
from edgessl.kernels.passes import FUSED_DIM
from edgessl.kernels.problem import PEAK_CELL, PairKind

pytest.importorskip("triton")

from edgessl.kernels.fused.gradient_blocks import gradient_blocks

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
WIDTHS = (64, 128, 256, 512)


@dataclasses.dataclass(frozen=True)
class Variant:
    kind: PairKind = "views"
    bounded: bool = True
    skipping: bool = False
    split: bool = False
    few: bool = False


# The most and the fewest registers and the most shared memory, of all combinations.
VARIANTS = (
    Variant(),
    Variant("views", bounded=False, skipping=True),
    Variant("labels", bounded=False),
    Variant("towers", bounded=False, split=True, few=True),
)


def kernel(width: int, dtype: str, arch: int, variant: Variant) -> Kernel:
    """`gradient_kernel` as `row_gradient` launches it."""
    blocks = gradient_blocks(width, DTYPES[dtype], arch, bounded=variant.bounded, few=variant.few)
    given = {
        "row_labels": ("*i64", variant.kind == "labels"),
        "column_labels": ("*i64", variant.kind == "labels"),
        "row_shifts": ("*fp32", not variant.bounded),
        "column_shifts": ("*fp32", not variant.bounded),
        "inverse_norm": ("*fp32", not variant.split),
        "kept_cells": ("*i32", variant.skipping),
        "kept_numbers": ("*i32", variant.skipping),
        "along": ("*fp32", not variant.split),
    }
    vectors = ("row_factors", "row_pull", "column_factors", "column_pull", "scale", "factor")
    return Kernel(
        "edgessl.kernels.fused.gradient_kernel:gradient_kernel",
        {
            "rows": f"*{dtype}",
            "columns": f"*{dtype}",
            "out": "*fp32" if variant.split else f"*{dtype}",
            **dict.fromkeys(vectors, "*fp32"),
            **dict.fromkeys(("row_count", "column_count", "cell_count", "offset"), "i32"),
            **{name: kind for name, (kind, present) in given.items() if present},
        },
        {
            **{name: None for name, (_, present) in given.items() if not present},
            "KIND": variant.kind,
            "BOUNDED": variant.bounded,
            "SKIPPING": variant.skipping,
            "SPLIT": variant.split,
            "CELL": PEAK_CELL,
            "D": width,
            "BLOCK_M": blocks.rows,
            "BLOCK_N": blocks.columns,
            "BLOCK_D": max(16, 1 << (width - 1).bit_length()),
            "STEP": blocks.step,
            "PRECISION": "tf32x3",
        },
        arch,
        blocks.warps,
        blocks.stages,
    )


@pytest.mark.parametrize(
    ("dtype", "arch", "variants"),
    [
        ("bf16", 90, VARIANTS),
        # float16 differs by one addition, and what fits on 80 fits on 87: the tightest are enough.
        ("bf16", 80, (VARIANTS[1], VARIANTS[3])),
        ("bf16", 87, VARIANTS[1:2]),
        ("fp16", 90, VARIANTS[1:2]),
        ("fp32", 80, VARIANTS[1:2]),
        ("fp32", 90, VARIANTS[1:2]),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value),
)
def test_no_spills_within_shared_memory_on_tensor_cores(
    dtype: str, arch: int, variants: tuple[Variant, ...]
) -> None:
    # In one process: starting it takes as long as compiling a kernel.
    kernels = [kernel(width, dtype, arch, one) for width in WIDTHS for one in variants]
    for one, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        # Float32 at D = 512 keeps 32 rows, which products of four warps (64 rows) do not fit.
        by_warp = dtype == "fp32" and one.constants["D"] == 512
        check(one, compiled, products=not by_warp)
        if by_warp:
            assert compiled.instructions["mma.sync"] > 0, f"{one} gives {compiled}"


def test_widths_that_are_no_powers_of_two() -> None:
    pairs = itertools.product((24, 200, 384), (80, 90))
    kernels = [kernel(width, "bf16", arch, Variant()) for width, arch in pairs]
    for one, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        check(one, compiled)


def test_products_of_hopper_overlap() -> None:
    kernels = [
        dataclasses.replace(kernel(width, "bf16", 90, one), remarks=True)
        for width in (128, 256, 512)
        for one in VARIANTS[:2]
    ]
    for one, compiled in zip(kernels, compile_kernels(kernels), strict=True):
        assert not compiled.remarks, one


def test_one_exponential_per_pair_if_bounded() -> None:
    one, two = compile_kernels(
        [kernel(256, "bf16", 90, Variant(bounded=bounded)) for bounded in (True, False)]
    )
    blocks = gradient_blocks(256, torch.bfloat16, 90, bounded=True, few=False)
    each = blocks.rows * blocks.columns // (32 * blocks.warps)
    assert one.instructions["ex2"] == each
    assert two.instructions["ex2"] == 2 * each


def test_every_cut_divides_the_cells_of_skipping() -> None:
    for dtype, arch, bounded, few in itertools.product(
        DTYPES.values(), (0, 80, 86, 87, 89, 90, 100, 120), (True, False), (True, False)
    ):
        for width in range(1, FUSED_DIM + 1):
            blocks = gradient_blocks(width, dtype, arch, bounded=bounded, few=few)
            assert PEAK_CELL % blocks.rows == PEAK_CELL % blocks.columns == 0
