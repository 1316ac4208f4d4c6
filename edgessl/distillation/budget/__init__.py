"""A student for a budget: the largest of a family that fits, found by measuring."""

from edgessl.distillation.budget.choice import StudentChoice, choose_student
from edgessl.distillation.budget.families import FAMILIES, Family, Student
from edgessl.distillation.budget.limits import Budget, parse_budget
from edgessl.distillation.budget.search import HEADERS, NothingFitsError, Tried, rows

__all__ = [
    "FAMILIES",
    "HEADERS",
    "Budget",
    "Family",
    "NothingFitsError",
    "Student",
    "StudentChoice",
    "Tried",
    "choose_student",
    "parse_budget",
    "rows",
]
