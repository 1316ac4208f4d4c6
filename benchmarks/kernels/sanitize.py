"""Contrastive losses under NVIDIA's compute-sanitizer: memcheck and racecheck at small sizes.

    python benchmarks/kernels/sanitize.py

Runs every loss forward and backward with Triton's kernels, at ragged sizes, in three dtypes, at a
temperature with a shared shift and one without, in a child process under each tool. Memory comes
from the driver without PyTorch's cache, so that each tensor has bounds of its own. Exit codes:
0 no errors, 1 errors were found (the tool's report is above), 4 no GPU or no compute-sanitizer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

TOOLS = ("memcheck", "racecheck")
FOUND = 99
"""What the sanitizer exits with if it found errors; a child that fails itself exits with 1."""
ROWS = {"memcheck": (2, 50, 254), "racecheck": (130,)}
"""Racecheck watches every access to shared memory, hundreds of times slower."""
DIMENSIONS = {
    "memcheck": (1, 24, 96, 128, 200, 256, 512, 768),
    "racecheck": (96, 128, 256, 512, 768),
}
TEMPERATURES = (0.1, 0.01)
DTYPES = ("bfloat16", "float16", "float32")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--child", choices=(*TOOLS, "tiny"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.child:
        return child(options.child)
    obstacle = obstacle_here()
    if obstacle is not None:
        print(f"sanitize.py: {obstacle}; nothing was checked", file=sys.stderr)
        return 4
    codes = [under(tool) for tool in options.tools]
    return int(any(codes))


def obstacle_here() -> str | None:
    """Why nothing can be checked here; None if it can."""
    if shutil.which("compute-sanitizer") is None:
        return "no compute-sanitizer on the path (it comes with the CUDA toolkit)"
    import torch

    return None if torch.cuda.is_available() else "no CUDA GPU"


def under(tool: str) -> int:
    """Run the child under a tool of the sanitizer and say how it went."""
    command = [
        "compute-sanitizer",
        f"--tool={tool}",
        f"--error-exitcode={FOUND}",
        "--target-processes=all",
        # A gap behind each allocation, so that a read past its end cannot fall into the next one.
        *(["--padding=256"] if tool == "memcheck" else []),
        sys.executable,
        str(Path(__file__).resolve()),
        f"--child={tool}",
    ]
    done = subprocess.run(
        command, env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, check=False
    )
    words = {0: "no errors", FOUND: "errors were found"}
    print(f"{tool}: {words.get(done.returncode, f'the run failed ({done.returncode})')}")
    return done.returncode


def child(tool: str) -> int:
    """All losses at all sizes; ``tiny`` is a rehearsal in the interpreter, on the CPU."""
    if tool == "tiny":
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import torch

    device = "cpu" if tool == "tiny" else "cuda"
    for rows in ROWS.get(tool, (18,)):
        for dimensions in DIMENSIONS.get(tool, (24,)):
            for temperature in TEMPERATURES:
                for dtype in DTYPES:
                    for name, run in losses(
                        rows, dimensions, temperature, getattr(torch, dtype), device
                    ):
                        run()
                        print(name, rows, dimensions, temperature, dtype, flush=True)
    return 0


def losses(
    rows: int, dimensions: int, temperature: float, dtype: Any, device: str
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each loss with its backward pass, as a function without arguments."""
    import torch

    from edgessl import kernels

    generator = torch.Generator(device).manual_seed(0)

    def matrix(count: int) -> Any:
        values = torch.randn(count, dimensions, generator=generator, device=device)
        return values.to(dtype).requires_grad_()

    z, image, text, key = matrix(rows), matrix(rows), matrix(rows), matrix(rows).detach()
    queue = matrix(2 * rows + 3).detach()
    labels = torch.arange(rows, device=device) % 3
    scale = torch.tensor(1 / temperature, device=device, requires_grad=True)
    bias = torch.tensor(-10.0, device=device, requires_grad=True)
    triton = {"implementation": "triton"}
    calls: dict[str, Callable[[], Any]] = {
        "nt_xent": lambda: kernels.nt_xent(z, temperature, **triton),
        "dcl": lambda: kernels.dcl(z, temperature, **triton),
        "supcon": lambda: kernels.supcon(z, labels, temperature, **triton),
        "clip_loss": lambda: kernels.clip_loss(image, text, scale, **triton),
        "siglip_loss": lambda: kernels.siglip_loss(image, text, scale, bias, **triton),
        "info_nce_queue": lambda: kernels.info_nce_queue(image, key, queue, temperature, **triton),
    }
    for name, call in calls.items():
        yield name, lambda call=call: call().backward()
        if device == "cuda":
            torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
