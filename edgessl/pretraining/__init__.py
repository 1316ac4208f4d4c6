"""Self-supervised pretraining: `pretrain()`, one trainer, one module per method."""

from edgessl.pretraining.method import METHODS, Method, Objective, StepContext, StepOutput
from edgessl.pretraining.options import ExecutionOptions, TrainerOptions
from edgessl.pretraining.pretrain import pretrain

__all__ = [
    "METHODS",
    "ExecutionOptions",
    "Method",
    "Objective",
    "StepContext",
    "StepOutput",
    "TrainerOptions",
    "pretrain",
]
