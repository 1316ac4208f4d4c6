"""The similarity loss against its definition, and the queue."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgessl.data.loader import Batch
from edgessl.distillation.feature_table import FeatureTable
from edgessl.distillation.objective import Distillation, DistillationOptions, TaughtBy
from edgessl.models import build_encoder
from edgessl.preprocessing import ImageInput
from edgessl.pretraining import StepContext


def make(**weights: float) -> tuple[Distillation, torch.Tensor]:
    spec = ImageInput(channels=1, height=32, width=32, mean=(0.0,), std=(1.0,))
    features = torch.randn(2, 40, 12).half()
    similarity = {"queue_size": 16, "weight": weights.get("similarity", 1.0)}
    objectives = {"similarity": similarity, "cosine": weights.get("cosine", 1.0)}
    options = DistillationOptions.model_validate({"objectives": objectives})
    table = FeatureTable(list(features.numpy()), dim=12)
    student = build_encoder("test_efficientnet", spec)
    return Distillation(student, [TaughtBy(table)], options), features


def queue_of(objective: Distillation) -> torch.Tensor:
    return objective.get_buffer("teachers.0.objectives.similarity.queue")


def context(epoch: int) -> StepContext:
    return StepContext(step=0, total_steps=10, epoch=epoch, seed=0)


def test_loss_is_the_definition() -> None:
    objective, features = make(similarity=0.7, cosine=1.3)
    objective.eval()
    batch = Batch((torch.randn(6, 1, 32, 32),), torch.arange(6) + 3)
    loss, _ = objective(batch, context(epoch=3))
    teacher = F.normalize(features[1, 3:9].double(), dim=1)
    student = F.normalize(
        objective.teachers[0].projector(objective.encoder(batch.views[0])).double(), dim=1
    )
    queue = queue_of(objective).double()
    wanted = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=False):
        anchors = torch.cat([t[None], queue])
        p = (anchors @ t / 0.05).softmax(0)
        wanted += -(p * (anchors @ s / 0.1).log_softmax(0)).sum() * 0.7 + 1.3 * (1 - s @ t)
    torch.testing.assert_close(loss.double(), wanted / 6, rtol=1e-4, atol=1e-4)


def test_queue_is_first_in_first_out() -> None:
    objective, features = make()
    for step, rows in enumerate((range(10), range(10, 20))):
        batch = Batch((torch.randn(10, 1, 32, 32),), torch.tensor(list(rows)))
        objective(batch, context(epoch=0))
        objective.after_step(context(epoch=0))
        newest = F.normalize(features[0, list(rows)].float(), dim=1)
        places = [(10 * step + i) % 16 for i in range(10)]
        torch.testing.assert_close(queue_of(objective)[places], newest)
    assert int(objective.get_buffer("teachers.0.objectives.similarity.cursor")) == 4


def test_all_parts_of_a_step_reach_the_queue() -> None:
    objective, features = make()
    for rows in ([0, 1, 2], [3, 4, 5]):
        objective(Batch((torch.randn(3, 1, 32, 32),), torch.tensor(rows)), context(epoch=0))
    objective.after_step(context(epoch=0))
    torch.testing.assert_close(queue_of(objective)[:6], F.normalize(features[0, :6].float(), dim=1))
