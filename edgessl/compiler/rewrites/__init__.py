"""Rewrites of a float graph that leave what it computes as it is: one small function each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Literal

from edgessl.config import Options
from edgessl.errors import UsageError, nearest

__all__ = [
    "INTEGER_SEQUENCE",
    "REWRITES",
    "SEQUENCE",
    "Rewrite",
    "RewriteRemark",
    "load_rewrite",
]

Rewrite = Callable[[Any], "Any | None"]
"""Takes an ``onnx.ModelProto``, which it may change; gives the result, None if nothing changed."""

REWRITES: dict[str, str] = {
    "as-strided": "edgessl.compiler.rewrites.as_strided:rewrite_as_strided",
    "fold-batch-norm": "edgessl.compiler.rewrites.batch_norm:fold_batch_norm",
    "fold-constants": "edgessl.compiler.rewrites.constants:fold_constants",
    "fuse-branches": "edgessl.compiler.rewrites.branches:fuse_branches",
    "inline-if": "edgessl.compiler.rewrites.conditions:inline_conditions",
    "onnxslim": "edgessl.compiler.rewrites.onnxslim:simplify",
    "opset": "edgessl.compiler.rewrites.opset:raise_opset",
    "remove-copies": "edgessl.compiler.rewrites.copies:remove_copies",
}
"""Name → where its function is."""

SEQUENCE = (
    "opset",
    "fold-constants",
    "inline-if",
    # What a condition hid may be constant now.
    "fold-constants",
    "as-strided",
    "remove-copies",
    "fold-batch-norm",
    "fuse-branches",
    # A sum of branches may have had a normalisation after it.
    "fold-batch-norm",
    "onnxslim",
    # onnxslim brings back neither copies nor constants, but merges that leave some.
    "fold-constants",
    "remove-copies",
)
"""Names in the order in which they are applied."""

INTEGER_SEQUENCE = (
    "fold-constants",
    "inline-if",
    "fold-constants",
    "as-strided",
    "remove-copies",
    "fold-constants",
    "remove-copies",
)
"""The same for a graph that holds its integers already: shapes alone, no weights."""


class RewriteRemark(Options):
    """What became of one rewrite.

    Attributes:
        name: Key of `REWRITES`.
        outcome: ``"applied"``; ``"unchanged"``: there was nothing to do; ``"broke"``: the outputs
            differed; ``"failed"``: it raised, or gave no valid graph; ``"crashed"``: the process
            died; ``"unverified"``: the original does not run on the samples, so that nothing can be
            compared. The last four leave the graph as it was.
        nodes_before: Nodes of the main graph.
        nodes_after: The same afterwards.
        reason: Why it was not kept; else empty.
    """

    name: str
    outcome: Literal["applied", "unchanged", "broke", "failed", "crashed", "unverified"]
    nodes_before: int
    nodes_after: int
    reason: str = ""

    def describe(self) -> str:
        """One line for a person."""
        if self.outcome == "applied":
            return f"{self.name}: {self.nodes_before} → {self.nodes_after} nodes"
        return f"{self.name}: {self.outcome}" + (f" ({self.reason})" if self.reason else "")


def load_rewrite(name: str) -> Rewrite:
    """Find a rewrite by its name.

    Raises:
        UsageError: There is none; the message suggests the nearest.
    """
    if name not in REWRITES:
        raise UsageError(f"unknown rewrite '{name}'; {nearest(name, REWRITES)}")
    module, _, function = REWRITES[name].partition(":")
    loaded: Rewrite = getattr(importlib.import_module(module), function)
    return loaded
