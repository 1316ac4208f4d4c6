"""Triton kernels compiled for a GPU that need not be here, and what the binary says of itself.

`compile_kernels` works in a process of its own, because a process in which Triton's interpreter
runs the kernels (see tests/conftest.py) cannot compile them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ARCHITECTURES", "SHARED_BYTES", "Compiled", "Kernel", "check", "compile_kernels"]

ARCHITECTURES = (80, 87, 90)
"""Compute capabilities: A100, Jetson Orin, H100 and H200."""

SHARED_BYTES = {80: 163 * 1024, 87: 163 * 1024, 90: 227 * 1024}
"""Shared memory that one program can have (CUDA C++ Programming Guide, compute capabilities)."""


@dataclass(frozen=True)
class Kernel:
    """One kernel as a launcher would call it.

    Attributes:
        name: ``"module:function"``.
        arguments: Triton type of each argument that is no constexpr: ``"*bf16"``, ``"i32"``,
            ``"fp32"``. Pointers are taken to be aligned to 16 bytes, as tensors are.
        constants: Value of each constexpr (and of pointers that are None).
        arch: Compute capability, 90 for 9.0.
        num_warps: As at the launch.
        num_stages: As at the launch.
        remarks: Whether to ask ptxas what it has to say, which compiles once more.
    """

    name: str
    arguments: Mapping[str, str]
    constants: Mapping[str, int | float | str | bool | None]
    arch: int
    num_warps: int
    num_stages: int
    remarks: bool = False


@dataclass(frozen=True)
class Compiled:
    """What ptxas made of a kernel.

    Attributes:
        error: Why it does not compile; empty if it does.
        registers: Per thread.
        spilled_bytes: Stack and local memory per thread.
        shared_bytes: Of one program.
        instructions: How often each instruction that counts here occurs in the PTX, by its
            first words: ``"wgmma.mma_async"`` (tensor cores of 90), ``"mma.sync"`` (of 80 and 87),
            ``"ex2"``, ``"lg2"``, ``"atom"``, ``"red"``.
        code_bytes: Size of the binary.
        remarks: Of ptxas, where they were asked for: losses of performance.
    """

    error: str = ""
    registers: int = 0
    spilled_bytes: int = 0
    shared_bytes: int = 0
    instructions: Mapping[str, int] = field(default_factory=dict)
    code_bytes: int = 0
    remarks: Sequence[str] = ()


def check(kernel: Kernel, compiled: Compiled, *, products: bool = True) -> None:
    """Assert: it compiles, without spills or atomics, within shared memory, on tensor cores.

    ``products=False`` is for kernels that multiply no matrices.
    """
    about = f"{kernel} gives {compiled}"
    assert not compiled.error, about
    assert compiled.spilled_bytes == 0, about
    assert compiled.shared_bytes <= SHARED_BYTES[kernel.arch], about
    assert compiled.registers <= 255, about
    assert compiled.instructions["atom"] == compiled.instructions["red"] == 0, about
    if products:
        assert compiled.instructions["wgmma.mma_async" if kernel.arch >= 90 else "mma.sync"] > 0, (
            about
        )


def compile_kernels(kernels: Sequence[Kernel]) -> list[Compiled]:
    """Compile all of them, in one process that Triton's interpreter does not run in."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        input=json.dumps([dataclasses.asdict(kernel) for kernel in kernels]),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [Compiled(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def _compile(kernel: Kernel) -> Compiled:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, name = kernel.name.partition(":")
    function = getattr(importlib.import_module(module), name)
    named = {**kernel.arguments, **kernel.constants}
    if set(named) != set(function.arg_names):
        wrong = sorted(set(named) ^ set(function.arg_names))
        return Compiled(error=f"arguments that only one side has: {wrong}")
    signature = {
        argument: kernel.arguments.get(argument, "constexpr") for argument in function.arg_names
    }
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    source = ASTSource(function, signature, constexprs=dict(kernel.constants), attrs=aligned)
    options = {"num_warps": kernel.num_warps, "num_stages": kernel.num_stages}
    options["enable_fp_fusion"] = True
    try:
        built = triton.compile(source, target=GPUTarget("cuda", kernel.arch, 32), options=options)
    except Exception as reason:  # whatever stage fails, the test shows it
        return Compiled(error=f"{type(reason).__name__}: {reason}"[:2000])
    usage = _usage(built.asm["cubin"])
    ptx = built.asm["ptx"]
    counts = {
        word: len(re.findall(rf"^\s*(?:@\S+ )?{word}\.", ptx, re.MULTILINE))
        for word in ("wgmma.mma_async", "mma.sync", "ex2", "lg2", "atom", "red")
    }
    return Compiled(
        registers=usage["REG"],
        spilled_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=built.metadata.shared,
        instructions=counts,
        code_bytes=len(built.asm["cubin"]),
        remarks=_remarks(ptx, kernel.arch) if kernel.remarks else (),
    )


def _remarks(ptx: str, arch: int) -> list[str]:
    """What ptxas says of performance that is lost: products of Hopper that wait for each other."""
    import tempfile

    import triton

    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    said = ""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        # Triton brings two; the older one may not know the version of this PTX.
        for tool in sorted(folder.glob("ptxas*")):
            name = f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"
            done = subprocess.run(
                [str(tool), "-v", name, file.name, "-o", "/dev/null"],
                capture_output=True,
                text=True,
                check=False,
            )
            said = done.stdout + done.stderr
            if done.returncode == 0:
                return [line for line in said.splitlines() if "Performance Loss" in line]
    raise RuntimeError(said)


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL … of the only function of a cubin, by NVIDIA's cuobjdump."""
    import tempfile

    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", shown)}


if __name__ == "__main__":
    asked = [Kernel(**one) for one in json.load(sys.stdin)]
    print(json.dumps([dataclasses.asdict(_compile(kernel)) for kernel in asked]))
