"""What an account holds, as JSON: its schema is ``docs/schemas/account-1.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from edgessl.config import Options
from edgessl.files import write_json

__all__ = [
    "Account",
    "AccountOptions",
    "Agreement",
    "Convergence",
    "Drift",
    "Interval",
    "Losses",
    "Part",
    "Role",
    "Shape",
    "Subject",
    "write_account_schema",
]

Role = Literal["teacher", "float", "integers", "bundle"]
Part = Literal["train", "held-out"]


class AccountOptions(Options):
    """Settings of an account.

    Attributes:
        samples: Samples of each part that are looked at, at most.
        neighbours: k of the neighbour agreement; fewer where there are fewer than 5 k samples.
        draws: Bootstrap draws.
        seed: Chooses samples and bootstrap draws.
        batch_size: Samples per forward pass.
    """

    samples: Annotated[int, Field(ge=16, le=10_000)] = 1000
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 10
    draws: Annotated[int, Field(ge=20, le=10_000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 64


class Interval(Options):
    """A figure with its 95 % bootstrap interval over samples."""

    value: float
    low: float
    high: float


class Subject(Options):
    """One of the models.

    Attributes:
        name: The run's or file's name, or the teachers' names.
        sha256: Of the weights or the file; None where it is not known.
    """

    role: Role
    name: str
    sha256: str | None


class Agreement(Options):
    """How alike two models see the same samples: 1 is the same, 0 is unrelated.

    Attributes:
        similarity: S, the mean of the other two.
        cka: Linear CKA without bias.
        neighbours: Neighbour agreement, beyond chance.
    """

    first: Role
    second: Role
    part: Part
    similarity: Interval
    cka: Interval
    neighbours: Interval


class Shape(Options):
    """The embedding of one model on the held-out part.

    Attributes:
        effective_rank: Directions in use, 1 to ``dim``.
        uniformity: Lower is more even.
        singular_values: Largest first, as shares of their sum; at most 256 of them.
    """

    role: Role
    dim: int
    effective_rank: float
    uniformity: float
    singular_values: tuple[float, ...]


class Losses(Options):
    """Where the similarity to the teacher went, up to one model; the parts add up to the total.

    Attributes:
        role: The model at the end of the chain.
        capacity: 1 − S(teacher, float) on the samples and views of the training.
        distillation: S(teacher, float) there − S(teacher, float) on the held-out part.
        quantization: S(teacher, float) − S(teacher, role) on the held-out part; None for the
            float student itself. Below 0 is a gain.
        total: 1 − S(teacher, role) on the held-out part.
        largest: The stage that lost most; None if no loss is above `LEAST` and above its error.
    """

    role: Role
    capacity: Interval
    distillation: Interval
    quantization: Interval | None
    total: Interval
    largest: Literal["capacity", "distillation", "quantization"] | None


class Drift(Options):
    """The integers against the float student, sample by sample, on the held-out part.

    Attributes:
        cosine_mean: Mean cosine.
        cosine_p1: Its 1st percentile.
        centred_cosine_mean: After subtracting the float student's mean embedding.
        worst: The samples with the smallest cosine: (name, cosine).
    """

    role: Role
    cosine_mean: float
    cosine_p1: float
    centred_cosine_mean: float
    worst: tuple[tuple[str, float], ...]


class Convergence(Options):
    """What the loss did in one phase.

    Attributes:
        first: Mean loss over the first tenth of the logged steps.
        last: Over the last tenth.
        recent_share: What it fell from the middle of the steps to the end, as a share of all that
            it fell.
        still_falling: That is more than a tenth, and more than twice its error.
    """

    phase: Literal["float", "integers"]
    steps: int
    first: float
    last: float
    recent_share: float
    still_falling: bool


class Account(Options):
    """Everything that one account found.

    Attributes:
        held_out: ``"declared"``: samples of the data's own validation or test part, which training
            never saw; ``"fresh views"``: views that training never drew, of samples that it saw.
        readable: Share of the teacher's variance that a linear map reads off the float student on
            the held-out part, cross-validated; None without a teacher.
        scores: Role → scores of `edgessl.evaluation`, if labels were given.
        advice: What to do next, in words.
        missing: What could not be looked at, and why.
        versions: Package → version.
    """

    schema_version: Literal[1] = 1
    run: str
    data: str
    data_sha256: str
    subjects: tuple[Subject, ...]
    samples: int
    held_out: Literal["declared", "fresh views"]
    neighbours: int
    draws: int
    seed: int
    agreements: tuple[Agreement, ...]
    losses: tuple[Losses, ...]
    readable: float | None
    shapes: tuple[Shape, ...]
    drifts: tuple[Drift, ...]
    convergence: tuple[Convergence, ...]
    labels: str | None
    scores: dict[str, dict[str, float]]
    advice: tuple[str, ...]
    missing: tuple[str, ...]
    versions: dict[str, str]

    def agreement(self, first: Role, second: Role, part: Part) -> Agreement | None:
        """One of the agreements; None if it was not measured."""
        wanted = (first, second, part)
        return next((a for a in self.agreements if (a.first, a.second, a.part) == wanted), None)

    def loss(self, role: Role) -> Losses | None:
        """The losses up to one model; None if they were not measured."""
        return next((loss for loss in self.losses if loss.role == role), None)

    def name(self, role: Role) -> str:
        """How a model is called."""
        return next(s.name for s in self.subjects if s.role == role)


def write_account_schema(path: str | Path) -> None:
    """Write the JSON schema of an account, draft 2020-12."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema: dict[str, Any] = {**dialect, **Account.model_json_schema(mode="serialization")}
    write_json(Path(path), schema)
