"""One safetensors file that holds all that an exact resume needs; no pickle.

Weights, buffers (queues and moving targets are among them), optimizer, weight average, loss
scaler and step. Random numbers need no state: views, masks and order are functions of the seed
and the step, and torch's own generator is seeded anew at every step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from edgessl.errors import RunError
from edgessl.models.weights import write_tensors

__all__ = ["load_checkpoint", "save_checkpoint"]

_VERSION = "1"


def save_checkpoint(
    path: Path,
    *,
    step: int,
    modules: dict[str, nn.Module],
    optimizer: Optimizer,
    scaler: dict[str, Any],
) -> None:
    """Write the state after ``step`` optimizer steps, atomically.

    Args:
        path: The file.
        step: Optimizer steps done.
        modules: Name → module; all their parameters and buffers are kept.
        optimizer: The optimizer itself, not a wrapper.
        scaler: State of the fp16 loss scaler; empty without one.
    """
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[int, tuple[int, ...]], str] = {}
    for prefix, module in modules.items():
        for name, tensor in module.state_dict().items():
            key = f"{prefix}.{name}"
            identity = (tensor.data_ptr(), tuple(tensor.shape))
            if tensor.numel() and identity in seen:
                aliases[key] = seen[identity]
                continue
            seen[identity] = key
            tensors[key] = tensor
    state = optimizer.state_dict()
    scalars: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            key = f"optimizer.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            else:
                scalars[key] = value
    facts = {
        "version": _VERSION,
        "step": step,
        "aliases": aliases,
        "scalars": scalars,
        "groups": state["param_groups"],
        "scaler": scaler,
    }
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    write_tensors(path, tensors, {"edgessl.checkpoint": json.dumps(facts)})


def load_checkpoint(
    path: Path, *, modules: dict[str, nn.Module], optimizer: Optimizer
) -> tuple[int, dict[str, Any]]:
    """Put a saved state back.

    Returns:
        Optimizer steps done, and the loss scaler's state.

    Raises:
        RunError: The file is damaged, or holds other modules than those given.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("edgessl.checkpoint", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(
            f"{path}: the checkpoint cannot be read ({error}); start again with --overwrite"
        ) from error
    if facts.get("version") != _VERSION:
        raise RunError(
            f"{path}: checkpoint version {facts.get('version')!r}, this edgessl reads {_VERSION}; "
            "resume with the version that wrote it"
        )
    tensors |= {key: tensors[original] for key, original in facts["aliases"].items()}
    for prefix, module in modules.items():
        own = {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            line = str(error).splitlines()[-1].strip()
            raise RunError(f"{path}: does not fit this run ({line})") from error
    optimizer.load_state_dict(
        {"state": _optimizer_state(tensors, facts), "param_groups": _groups(facts)}
    )
    return int(facts["step"]), dict(facts["scaler"])


def _optimizer_state(tensors: dict[str, Tensor], facts: dict[str, Any]) -> dict[int, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **facts["scalars"]}.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    return state


def _groups(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """JSON turned tuples (Adam's betas) into lists."""
    return [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}
        for group in facts["groups"]
    ]
