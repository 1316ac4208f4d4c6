"""The kernels of the sigmoid loss and of the queue, compiled for GPUs that need not be here."""

from __future__ import annotations

import pytest
import torch

from contracts.compiled_kernel import ARCHITECTURES, Kernel, check, compile_kernels

pytest.importorskip("triton")

from edgessl.kernels.fused.finish import block_width, finishing_block
from edgessl.kernels.fused.row_owned import tiling

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
HALF, SINGLE = torch.bfloat16, torch.float32
FLOATS, COUNT = "*fp32", "i32"


def described(
    function: str,
    dtype: torch.dtype,
    width: int,
    arch: int,
    matrices: tuple[str, ...],
    arguments: dict[str, str],
    constants: dict[str, int | bool | None],
) -> Kernel:
    """A kernel as its launcher would call it, but for what the arguments say."""
    tiles = tiling(width, dtype, arch)
    blocks = {"BLOCK_M": tiles.rows, "BLOCK_N": tiles.columns, "STEP": tiles.step}
    return Kernel(
        f"edgessl.kernels.fused.{function}",
        {**dict.fromkeys(matrices, f"*{NAMES[dtype]}"), **arguments},
        {**blocks, "D": width, "BLOCK_D": block_width(width), **constants},
        arch,
        tiles.warps,
        tiles.stages,
    )


def sigmoid_kernel(dtype: torch.dtype, width: int, arch: int, result: str) -> Kernel:
    """``result``: "gradient", "part" of a gradient, or "losses"."""
    vectors = ("scale", "bias", "losses", "weight_sum", "inverse_norm", "column_weight", "along")
    counts = ("row_count", "column_count", "offset", "split_columns")
    arguments = {**dict.fromkeys(vectors, FLOATS), **dict.fromkeys(counts, COUNT)}
    matrices = ("values", "column_values", "out")
    missing: tuple[str, ...] = ()
    if result == "part":
        arguments["out"] = FLOATS
        missing = ("along",)
    if result == "losses":
        matrices = matrices[:2]
        missing = ("along", "out", "column_weight", "inverse_norm")
    present = {name: kind for name, kind in arguments.items() if name not in missing}
    return described(
        "sigmoid:_sigmoid", dtype, width, arch, matrices, present, dict.fromkeys(missing)
    )


def queue_kernel(
    dtype: torch.dtype, width: int, arch: int, *, bounded: bool, gradients: bool = True
) -> Kernel:
    vectors = ("scale", "highest", "totals", *(("sums",) if gradients else ()))
    counts = ("query_count", "queue_count", "split_columns")
    constants: dict[str, int | bool | None] = {"BOUNDED": bounded}
    if not gradients:
        constants["sums"] = None
    return described(
        "queue:_queue_sums",
        dtype,
        width,
        arch,
        ("query", "queue"),
        {**dict.fromkeys(vectors, FLOATS), **dict.fromkeys(counts, COUNT)},
        constants,
    )


def finishing_kernels(dtype: torch.dtype, width: int, arch: int, splits: int) -> list[Kernel]:
    pointer = f"*{NAMES[dtype]}"
    rows, parts = 16 // min(16, splits), finishing_block(splits)[1]
    constants = {"D": width, "BLOCK_D": block_width(width), "ROWS": rows, "PARTS": parts}
    both = {"inverse_norm": FLOATS, "along": FLOATS, "splits": COUNT, "out": pointer}
    added = {"partials": FLOATS, "values": pointer, "count": COUNT}
    vectors = ("scale", "highest", "totals", "losses", "pull", "sums")
    asked = {"query": pointer, "key": pointer, "query_count": COUNT}
    asked |= dict.fromkeys(vectors, FLOATS)
    name = "edgessl.kernels.fused."
    return [
        Kernel(name + "finish:_finish_splits", {**both, **added}, constants, arch, 4, 3),
        Kernel(name + "queue:_queue_finish", {**both, **asked}, constants, arch, 4, 3),
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_spills_and_tensor_cores(arch: int) -> None:
    # In one process: most of the time goes into starting it.
    passes = [
        sigmoid_kernel(HALF, 128, arch, "gradient"),
        sigmoid_kernel(HALF, 96, arch, "part"),
        sigmoid_kernel(HALF, 128, arch, "losses"),
        sigmoid_kernel(torch.float16, 200, arch, "gradient"),
        sigmoid_kernel(HALF, 256, arch, "gradient"),
        sigmoid_kernel(HALF, 512, arch, "gradient"),
        queue_kernel(HALF, 128, arch, bounded=True),
        queue_kernel(HALF, 128, arch, bounded=True, gradients=False),
        queue_kernel(HALF, 256, arch, bounded=False),
        queue_kernel(HALF, 512, arch, bounded=False),
    ]
    endings: list[Kernel] = []
    if arch != 87:  # an Orin has what an A100 has
        passes += [sigmoid_kernel(SINGLE, width, arch, "part") for width in (128, 256, 512)]
        passes += [queue_kernel(SINGLE, width, arch, bounded=False) for width in (128, 256, 512)]
        endings += finishing_kernels(SINGLE, 512, arch, splits=1)
        endings += finishing_kernels(HALF, 512, arch, splits=16)
    found = compile_kernels(passes + endings)
    for kernel, compiled in zip(passes, found, strict=False):
        # wgmma takes 64 rows; where no more than 32 fit, the older instruction is used.
        check(kernel, compiled, products=kernel.constants["BLOCK_M"] != 32)
        tensor_cores = ("wgmma.mma_async", "mma.sync")
        assert sum(compiled.instructions[name] for name in tensor_cores) > 0
    for kernel, compiled in zip(endings, found[len(passes) :], strict=True):
        check(kernel, compiled, products=False)

    # Per pair: 2^−|y| and σ; a logarithm or a division would be a third slow instruction.
    first = passes[0]
    pairs = int(first.constants["BLOCK_M"] or 0) * int(first.constants["BLOCK_N"] or 0)
    assert found[0].instructions["ex2"] == 2 * pairs // (32 * first.num_warps)
    assert found[0].instructions["lg2"] == 0
