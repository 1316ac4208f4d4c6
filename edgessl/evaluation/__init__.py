"""Judge an embedding with a few labels: weighted kNN, linear probe, few-shot; and without any."""

from edgessl.evaluation.evaluate import EvaluationOptions, EvaluationReport, evaluate

__all__ = ["EvaluationOptions", "EvaluationReport", "evaluate"]
