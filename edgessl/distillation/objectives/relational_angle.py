"""``relational_angle``: the student keeps the teacher's angles among three samples (RKD-A)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from edgessl.config import Options
from edgessl.distillation.objectives.objective import (
    DistillationObjective,
    StudentFeatures,
    TeacherFeatures,
)
from edgessl.kernels import gather_rows
from edgessl.pretraining.method import StepContext

__all__ = ["RelationalAngle", "RelationalAngleOptions"]

_CHUNK_NUMBERS = 2**22


class RelationalAngleOptions(Options):
    """Settings of ``relational_angle``.

    Attributes:
        samples: Angles are compared among at most so many samples of the batch (per process as
            the vertex, of the whole batch as the ends): there are B³ of them.
    """

    samples: Annotated[int, Field(ge=3)] = 256


class RelationalAngle(DistillationObjective):
    """L = mean over triplets of Huber(cos ∠ s_i s_j s_k − cos ∠ t_i t_j t_k).

    i, j and k are all different; cos ∠ x_i x_j x_k = ⟨e_ij, e_kj⟩ with e_ij = (x_i − x_j) over its
    length. s is the student's own embedding. Triplets are those of the whole batch over all
    processes, each process taking its own samples as the vertex j. Vertices come in chunks that are
    computed again for the gradient, so memory is O(B²·D) at most, and B³ angles never stand side
    by side.

    Source: arXiv:1904.05068, section 3.2.2 (Huber with δ = 1).
    """

    Options: ClassVar[type[Options]] = RelationalAngleOptions
    compares: ClassVar[Literal["embedding", "projected", "maps"]] = "embedding"
    options: RelationalAngleOptions

    def forward(
        self, student: StudentFeatures, teacher: TeacherFeatures, context: StepContext
    ) -> Tensor:
        """Compare all angles at this process's samples."""
        size = 1 if context.group is None else context.group.size()
        rank = 0 if context.group is None else context.group.rank()
        share = max(1, self.options.samples // size)
        seen = gather_rows(student.embedding[:share], context.group)
        wanted = gather_rows(teacher.embedding[:share], context.group)
        count, own = len(seen), len(seen) // size
        if count < 3:
            return seen.sum() * 0
        step = max(1, _CHUNK_NUMBERS // (count * (count + seen.shape[1] + wanted.shape[1])))
        vertices = torch.arange(rank * own, (rank + 1) * own, device=seen.device)
        total = seen.new_zeros(())
        for chunk in vertices.split(step):
            total = total + checkpoint(_angle_losses, seen, wanted, chunk, use_reentrant=False)
        return total / (own * (count - 1) * (count - 2))


def _angle_losses(student: Tensor, teacher: Tensor, vertices: Tensor) -> Tensor:
    """Sum of the losses at some vertices; triplets that are none are 0 on both sides."""
    given, wanted = _cosines(student, vertices), _cosines(teacher, vertices)
    return F.smooth_l1_loss(given, wanted, reduction="sum")


def _cosines(rows: Tensor, vertices: Tensor) -> Tensor:
    """(V, B, B): at vertex j, the cosine between the ways to i and k; 0 where two coincide."""
    ways = rows[None] - rows[vertices, None]
    # Where two samples coincide there is no direction; the loss then asks for none.
    ways = F.normalize(ways, dim=2, eps=1e-8)
    cosines = ways @ ways.transpose(1, 2)
    diagonal = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return cosines.masked_fill(diagonal, 0.0)
