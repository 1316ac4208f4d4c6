"""Budgets, families and the search, with a bench that knows what everything costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st

from edgessl.distillation.budget.bisection import largest_fitting
from edgessl.distillation.budget.families import (
    FAMILIES,
    Family,
    Student,
    candidates_of,
    in_order,
    open_family,
)
from edgessl.distillation.budget.figures import Latency
from edgessl.distillation.budget.limits import Budget, parse_budget, target_of
from edgessl.distillation.budget.search import HEADERS, NothingFitsError, rows, search
from edgessl.errors import ModelError, UnavailableError, UsageError
from edgessl.preprocessing import ImageInput
from edgessl.progress import ProgressEvent
from edgessl.stages import Distill

SPEC = ImageInput(channels=3, height=64, width=64, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize(
    ("text", "kind", "limit"),
    [
        ("5ms@cpu-x86-64", "latency", 5.0),
        ("500us@host", "latency", 0.5),
        ("0.1s@host", "latency", 100.0),
        ("1MB", "size", 1e6),
        ("1MiB", "size", 2**20),
        ("900kB@host", "size", 9e5),
        ("200MFLOPs", "flops", 2e8),
        ("2GFLOPs", "flops", 2e9),
        ("100MMACs", "flops", 2e8),  # a multiplication with its addition is two
        (" 1.5 GMACs ", "flops", 3e9),
    ],
)
def test_budgets_are_read(text: str, kind: str, limit: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.limit) == (kind, pytest.approx(limit))


def test_a_percentile_belongs_to_a_latency() -> None:
    latency = Latency(p50_ms=1, p90_ms=2, p99_ms=None, low_ms=1, high_ms=1, restarts=3)
    assert [latency.at(parse_budget(f"{p}=5ms@host").percentile) for p in ("p50", "p90")] == [1, 2]
    assert latency.at("p99") is None
    for text in ("p95=5ms@host", "p50=1MB"):
        with pytest.raises(UsageError, match="p50, p90 or p99"):
            parse_budget(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "ms",
        "fast",
        "-5ms@host",
        "0ms@host",
        "5 parsecs",
        "5ms@",
        "1e3MB",
        "9" * 400 + "MB",
    ],
)
def test_what_is_no_budget_is_said_in_a_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"budget|unit|nothing") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_budgets_are_about_one_target() -> None:
    def target(*texts: str, trained_for: str | None = None) -> str:
        return target_of([parse_budget(text) for text in texts], trained_for)

    assert target("1MB") == "host"
    assert target("1MB", "5ms@cpu-arm64") == "cpu-arm64"
    assert target("1MB", trained_for="cpu-arm64") == "cpu-arm64"
    assert target("5ms", trained_for="cpu-arm64") == "cpu-arm64"
    with pytest.raises(UsageError, match="one target"):
        target("1MB@host", "5ms@cpu-arm64")
    with pytest.raises(UsageError, match="one target"):
        target("5ms@host", trained_for="cpu-arm64")
    with pytest.raises(UsageError, match="on what"):
        target("5ms")
    with pytest.raises(UsageError, match="no budget"):
        target()


def test_families_come_by_name_list_and_file(tmp_path: Path) -> None:
    assert "resnet18@0.25" in open_family("resnet").students
    assert open_family("resnet18@0.5, test_vit").students == ("resnet18@0.5", "test_vit")
    assert open_family("timm:test_vit").students == ("timm:test_vit",)
    file = tmp_path / "family.toml"
    file.write_text('students = ["test_vit"]\nimage_sizes = [32]\n')
    assert open_family(str(file)) == Family(students=("test_vit",), image_sizes=(32,))
    with pytest.raises(UsageError, match="did you mean resnet"):
        open_family("resnets")
    with pytest.raises(UsageError, match="no student"):
        open_family(" , ")


def test_sizes_end_at_the_one_asked_for() -> None:
    family = Family(students=("a", "b/48"), image_sizes=(32, 64, 100, 128))
    found = [str(student) for student in candidates_of(family, 100)]
    assert found == ["a/32", "a/64", "a/100", "b/48"]
    assert [str(s) for s in candidates_of(family, (48, 96))] == ["a/48x96", "b/48"]
    with pytest.raises(UsageError, match="no image size"):
        candidates_of(Family(students=("a/big",)), 64)


def test_candidates_are_ordered_by_what_they_compute() -> None:
    names = ("resnet18@0.25", "mobilenetv3_small_050", "resnet18@0.125", "test_vit")
    students = candidates_of(Family(students=names, image_sizes=(32,)), 64)
    ordered = [str(student) for student in in_order(students, SPEC)]
    assert sorted(ordered) == sorted(map(str, students))
    for name in names:
        assert ordered.index(f"{name}/32") < ordered.index(f"{name}/64")
    assert ordered.index("resnet18@0.125/64") < ordered.index("resnet18@0.25/64")


def test_what_cannot_be_built_is_left_out_but_a_wrong_name_is_said() -> None:
    small = Student(name="efficientformer_l1", height=24, width=24)
    fine = Student(name="test_vit", height=32, width=32)
    assert in_order([small, fine], SPEC) == [fine]
    with pytest.raises(ModelError, match="image_size"):
        in_order([small], SPEC)
    with pytest.raises(ModelError, match="resnet18"):
        in_order([fine, Student(name="resnt18", height=32, width=32)], SPEC)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_families_name_models_that_exist(name: str) -> None:
    family = FAMILIES.get(name)
    assert all(timm.is_model(student.partition("@")[0]) for student in family.students)
    smallest = [Student(name=family.students[0], height=32, width=32)]
    assert in_order(smallest, SPEC) == smallest


@given(st.integers(0, 40), st.integers(0, 40))
def test_bisection_is_brute_force_where_cost_is_in_order(count: int, prefix: int) -> None:
    asked: Counter[int] = Counter()

    def fits(index: int) -> bool:
        asked[index] += 1
        return index < prefix

    brute = [index for index in range(count) if index < prefix]
    assert largest_fitting(count, fits) == (brute[-1] if brute else None)
    assert max(asked.values(), default=0) <= 1
    assert len(asked) <= count.bit_length() + 2


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 4))
def test_bisection_never_takes_what_does_not_fit(fitting: list[bool], reach: int) -> None:
    found = largest_fitting(len(fitting), fitting.__getitem__, reach=reach)
    if found is None:
        assert not any(fitting[: reach + 1])
    else:
        assert fitting[found]
        assert not any(fitting[found + 1 : found + 1 + reach])


class Bench:
    """Costs by candidate; latency may be noise around them."""

    def __init__(self, costs: list[float], first_reading: float = 1.0) -> None:
        self.costs = costs
        self.first_reading = first_reading
        self.asked: list[tuple[str, int]] = []

    def cost(self, question: str, student: Student) -> float:
        index = int(student.name)
        self.asked.append((question, index))
        return self.costs[index]

    def flops(self, student: Student) -> float:
        return self.cost("flops", student) * 1e6

    def size(self, student: Student) -> tuple[int, str]:
        return int(self.cost("size", student) * 1e6), "int8"

    def latency(self, student: Student, restarts: int) -> Latency:
        p50 = self.cost("latency", student) * (self.first_reading if restarts < 5 else 1.0)
        return Latency(
            p50_ms=p50, p90_ms=2 * p50, p99_ms=None, low_ms=p50, high_ms=p50, restarts=restarts
        )


def students(count: int) -> list[Student]:
    return [Student(name=str(index), height=8, width=8) for index in range(count)]


def budgets(*texts: str) -> list[Budget]:
    return [parse_budget(text) for text in texts]


@settings(max_examples=200)
@given(
    st.lists(st.floats(0.1, 10), min_size=1, max_size=25),
    st.booleans(),
    st.floats(0.1, 10),
)
def test_the_choice_is_measured_to_fit(costs: list[float], ordered: bool, limit: float) -> None:
    costs = sorted(costs) if ordered else costs
    limits = budgets(f"{limit:.6f}ms@host")
    brute = [index for index, cost in enumerate(costs) if cost <= limits[0].limit]
    try:
        found = search(students(len(costs)), limits, Bench(costs))
    except NothingFitsError:
        assert not ordered or not brute
        return
    chosen = int(found.student.name)
    assert chosen in brute
    assert not ordered or chosen == brute[-1]


def test_cheap_questions_come_first() -> None:
    bench = Bench([1.0, 2.0, 3.0])
    search(students(3), budgets("9ms@host", "2.5MB", "1.5MFLOPs"), bench)
    assert ("size", 1) not in bench.asked
    assert {index for question, index in bench.asked if question == "latency"} == {0}


def test_a_close_call_is_measured_again() -> None:
    bench = Bench([1.0, 4.99], first_reading=1.02)
    found = search(students(2), budgets("5ms@host"), bench)
    assert found.student.name == "1"
    assert found.tried[1].figures.latency is not None
    assert found.tried[1].figures.latency.restarts > 3
    assert [index for question, index in bench.asked if question == "latency"].count(0) == 1


def test_an_order_that_is_violated_is_said() -> None:
    found = search(students(4), budgets("5ms@host"), Bench([1.0, 6.0, 3.0, 7.0]))
    assert found.student.name == "2"
    assert any("computes more than 1/8 but costs less" in remark for remark in found.remarks)


def test_every_percentile_has_its_own_limit() -> None:
    found = search(students(3), budgets("5ms@host", "p90=5ms@host"), Bench([1.0, 2.4, 4.0]))
    assert found.student.name == "1"
    with pytest.raises(NothingFitsError, match="too few queries"):
        search(students(1), budgets("p99=5ms@host"), Bench([1.0]))


def test_the_nearest_miss_is_shown() -> None:
    with pytest.raises(
        NothingFitsError, match=r"nearest is 0/8: p50 2\.000 ms, 2\.0 times 1ms@host"
    ):
        search(students(5), budgets("1ms@host"), Bench([2.0, 3.0, 4.0, 5.0, 6.0]))
    with pytest.raises(NothingFitsError, match=r"nearest is 1/8.*20\.0 % over") as caught:
        search(students(3), budgets("1MB"), Bench([2.0, 1.2, 4.0]))
    assert caught.value.exit_code == 1
    assert len(rows(caught.value.tried)[0]) == len(HEADERS)


def test_a_candidate_that_cannot_be_built_does_not_end_the_search() -> None:
    class Fragile(Bench):
        def size(self, student: Student) -> tuple[int, str]:
            if student.name == "1":
                raise ModelError("its graph is odd")
            if student.name == "3":
                raise UnavailableError("no engine")
            return super().size(student)

    found = search(students(3), budgets("5MB"), Fragile([1.0, 2.0, 3.0]))
    assert found.student.name == "2"
    assert [tried.why for tried in found.tried if not tried.fits] == ["its graph is odd"]
    with pytest.raises(UnavailableError):
        search(students(4), budgets("5MB"), Fragile([1.0, 2.0, 3.0, 4.0]))


def test_what_was_tried_is_told_as_it_goes() -> None:
    events: list[ProgressEvent] = []
    search(students(4), budgets("2.5MB"), Bench([1.0, 2.0, 3.0, 4.0]), progress=events.append)
    assert any(event.message == "1/8 fits: 80 % of 2.5MB" for event in events)
    assert [event.table[0] for event in events if event.table] == [HEADERS] * 3


def test_a_recipe_knows_budgets_before_it_begins() -> None:
    stage, settings = Distill(), {"student": "resnet", "budget": ["1MB", "5ms@host"]}
    identity = stage.identity(settings, where="stage.small")
    assert identity["budget"] == settings["budget"]
    assert "machine" in identity, "another machine may choose another student"
    assert "machine" not in stage.identity({"student": "resnet18"}, where="stage.small")
    with pytest.raises(UsageError, match="unknown unit"):
        stage.identity({**settings, "budget": "5parsecs"}, where="stage.small")
