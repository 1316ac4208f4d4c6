"""What the Triton path allocates on an H200, counted without one: kernels are left out."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

pytest.importorskip("triton")

from edgessl.kernels import fused, nt_xent

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="test_loss_operators.py measures it on the card"
)


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launchers do all but launch, as if for 132 multiprocessors of sm_90."""
    stand_ins = {
        "launch": lambda *arguments, **options: None,
        "architecture": lambda tensor: 90,
        "processors": lambda tensor: 132,
    }
    for found in pkgutil.iter_modules(fused.__path__):
        module = importlib.import_module(f"edgessl.kernels.fused.{found.name}")
        for name, stand_in in stand_ins.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)


def peak_bytes(work: Any) -> int:
    """Most that PyTorch held beyond what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    held = highest = 0
    kineto: Any = recorded.profiler
    for event in sorted(kineto.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("temperature", [0.1, 0.02, torch.tensor(0.1)], ids=str)
@pytest.mark.parametrize(
    ("rows", "width"), [(8192, 128), (16384, 768), (65536, 256), (131072, 512)]
)
def test_nt_xent_stays_within_the_limit(
    rows: int, width: int, temperature: float | torch.Tensor
) -> None:
    z = torch.ones(rows, width, dtype=torch.bfloat16, requires_grad=True)
    peak = peak_bytes(lambda: nt_xent(z, temperature, implementation="triton").backward())
    # Unit rows and the gradient are there, and a tenth more with the vectors.
    least = 2 * z.numel() * z.element_size()
    assert least < peak <= 1.1 * (least + 16 * rows)
