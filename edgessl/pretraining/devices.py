"""Start Fabric on what this machine has, in one process or in those that torchrun started."""

from __future__ import annotations

import os
import warnings

import psutil
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from edgessl.errors import UnavailableError
from edgessl.pretraining.options import ExecutionOptions

__all__ = ["start_fabric"]

_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def start_fabric(execution: ExecutionOptions, precision: str) -> Fabric:
    """Pick the device, join the process group if there is one, and set thread counts.

    Args:
        execution: Device and threads.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UnavailableError: The device is not here, or it cannot compute in that precision.
    """
    has_gpu = torch.cuda.is_available()
    if execution.device == "cuda" and not has_gpu:
        raise UnavailableError("device=cuda: no GPU is visible here; use device=cpu or auto")
    on_gpu = has_gpu and execution.device != "cpu"
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "fp16" and not on_gpu:
        raise UnavailableError("precision=fp16 needs a GPU; use bf16 or fp32 on a CPU")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    torch.set_num_threads(execution.threads or max(1, cores // local))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        fabric = Fabric(
            accelerator="cuda" if on_gpu else "cpu",
            devices=local,
            num_nodes=max(1, world // local),
            strategy=_data_parallel(on_gpu) if world > 1 else "auto",
            precision=_PRECISIONS[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


def _data_parallel(on_gpu: bool) -> DDPStrategy:
    """DDP without buffer broadcasts: synchronized batch norms keep buffers equal already."""
    return DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo", broadcast_buffers=False)
