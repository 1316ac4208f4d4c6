"""What it can mean that a student agrees with its teacher: `OBJECTIVES`, one class per module."""

from edgessl.distillation.objectives.objective import (
    OBJECTIVES,
    DistillationObjective,
    Shapes,
    StudentFeatures,
    TeacherFeatures,
)

__all__ = [
    "OBJECTIVES",
    "DistillationObjective",
    "Shapes",
    "StudentFeatures",
    "TeacherFeatures",
]
