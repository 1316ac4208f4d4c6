"""Passes whose kernels depend on how wide rows are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

from edgessl.kernels.fused.gradients import gradients as narrow_gradients
from edgessl.kernels.fused.gradients import mutual_gradients as narrow_mutual_gradients
from edgessl.kernels.fused.queue import queue as narrow_queue
from edgessl.kernels.fused.sigmoid import mutual_sigmoid as narrow_mutual_sigmoid
from edgessl.kernels.fused.sigmoid import sigmoid as narrow_sigmoid
from edgessl.kernels.fused.wide import WideEngine
from edgessl.kernels.passes import FUSED_DIM
from edgessl.kernels.problem import Rows

__all__ = ["gradients", "mutual_gradients", "mutual_sigmoid", "queue", "sigmoid"]

_Arguments = ParamSpec("_Arguments")
_Found = TypeVar("_Found")


def _by_width(
    narrow: Callable[_Arguments, _Found], wide: Callable[_Arguments, _Found]
) -> Callable[_Arguments, _Found]:
    """``narrow`` where a block of rows, the first argument, stays on the chip; else ``wide``."""

    @wraps(narrow)
    def run(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Found:
        rows = cast(Rows, arguments[0])
        stays = rows.values.shape[1] <= FUSED_DIM
        return (narrow if stays else wide)(*arguments, **keywords)

    return run


_WIDE = WideEngine()

gradients = _by_width(narrow_gradients, _WIDE.gradients)
mutual_gradients = _by_width(narrow_mutual_gradients, _WIDE.mutual_gradients)
sigmoid = _by_width(narrow_sigmoid, _WIDE.sigmoid)
mutual_sigmoid = _by_width(narrow_mutual_sigmoid, _WIDE.mutual_sigmoid)
queue = _by_width(narrow_queue, _WIDE.queue)
