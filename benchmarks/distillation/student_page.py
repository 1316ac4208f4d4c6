"""The page of the student benchmark, from its JSON and that of the peers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgessl.files import write_text

__all__ = ["PAGE", "PEERS", "RESULTS", "summarise", "write_page"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
PEERS = ROOT / "benchmarks" / "results" / "distillation_peers.json"
PAGE = ROOT / "docs" / "benchmark-distillation.md"

SCORES = {"knn": "kNN", "linear": "linear", "fewshot_5": "5-shot", "gallery": "gallery kNN"}
_LEAST_LOSS = 0.01
_GOAL = 0.8
_AGREES = 0.95

_HEAD = """\
# Students for integers: the proof

Written by `benchmarks/distillation/students.py` and `peers.py`; do not edit.

- *float*: `distill` without a target.
- *post-training*: that student, exported and quantized by `edgessl compile` for the target.
- *trained*: the same float student, trained on for the target's integers
  (`distill --for-target`), exported and compiled as it stands.

{data}

The teacher is a {backbone} of full width trained **from labels**
(`benchmarks/distillation/teachers.py`), because 990 photographs give no good self-supervised one;
students see no labels. Accuracies are in percent, mean ± standard deviation over {seeds} seeds of
the student; the samples, the teacher and the classifiers' draws are the same for all.
*cpu-x86-64* is scored in onnxruntime on this CPU. *npu-qualcomm-qcs6490* (8-bit weights and
activations) is scored in onnxruntime, which computes with the same integers, and compared with
Qualcomm's emulator on {emulated} test samples: a simulator, no device. *jetson-agx-orin-dla* (every
tensor in symmetric integers) is scored in onnxruntime on the graph that TensorRT would build from;
no engine was built. *Gallery kNN* asks for the
neighbours of the integers' test embeddings among the float student's training embeddings, as a
device does that asks an index made on a server; the other scores embed both sides with the
integers. Gallery kNN was added after a look at first results: random weights reach 33 to 47 % kNN
on these photographs, so that an embedding that has nothing to do with the float student's any more
(mean cosine 0.5) still does not fall below half of its accuracy. efficientvit_b0 was taken for the
same reason, after mobilenetv3, repvit, tinynet, lcnet and a rescaled resnet had lost little.
Fidelity is to the float student, on the test samples. The default of `integer_learning_rate` was
raised from 0.1 to 0.3 of `learning_rate` when one seed of efficientvit_b0 (trashnet, cpu-x86-64)
had won back only half; all trained cells are with 0.3, with no further choice.

{date}; {cpu}, one thread per process, other work on the machine; edgessl {edgessl},
{versions}.
"""


def write_page(result: dict[str, Any], page: Path, peers: Path = PEERS) -> None:
    """Write the page; the peers are left out where they have not been run yet."""
    text = _head(result)
    summary = summarise(result["cells"])
    text += _verdict(summary)
    text += _disagreements(result)
    text += "\n## What training wins back\n\n" + _recovery(summary)
    for name in result["data_sets"]:
        text += f"\n## {name}\n\n{_teacher(result, name)}\n{_accuracies(result, name)}"
        text += f"\n{_fidelity(result, name)}"
    if peers.exists():
        text += _peers(json.loads(peers.read_text("utf-8")))
    text += (
        "\nEverything, cell by cell, with settings, sample counts and versions, stands in\n"
        "[benchmarks/results/distillation.json](../benchmarks/results/distillation.json).\n"
    )
    write_text(page, text)


def summarise(cells: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per data set, student, target and score that has all three arms for some seed.

    ``recovery`` is the share of what post-training quantization loses that training wins back,
    from the means; None where the loss is at most a point. ``not_below`` says whether the trained
    student is no further below the post-training one than the larger of their deviations.
    """
    rows = []
    for data_set, student, target in _combinations(cells):
        where = f"{data_set}/{student}"
        seeds = [
            seed
            for seed in _seeds(cells, where)
            if f"{where}/{seed}/post-training/{target}" in cells
            and f"{where}/{seed}/trained/{target}" in cells
        ]
        if not seeds:
            continue
        for score in SCORES:
            values = {
                arm: [cells[f"{where}/{seed}/{end}"]["scores"][score] for seed in seeds]
                for arm, end in (
                    ("float", "float"),
                    ("post-training", f"post-training/{target}"),
                    ("trained", f"trained/{target}"),
                )
            }
            mean = {arm: statistics.fmean(numbers) for arm, numbers in values.items()}
            lost = mean["float"] - mean["post-training"]
            won = mean["trained"] - mean["post-training"]
            deviation = max(_deviation(values[arm]) for arm in ("post-training", "trained"))
            rows.append(
                {
                    "data_set": data_set,
                    "student": student,
                    "target": target,
                    "score": score,
                    "seeds": len(seeds),
                    **mean,
                    "deviation": deviation,
                    "recovery": won / lost if lost > _LEAST_LOSS else None,
                    "not_below": won >= -deviation,
                    "collapsed": mean["post-training"] < mean["float"] / 2,
                }
            )
    return rows


def _combinations(cells: dict[str, Any]) -> list[tuple[str, str, str]]:
    found = {
        (parts[0], parts[1], parts[4])
        for parts in (key.split("/") for key in cells)
        if len(parts) == 5
    }
    return sorted(found)


def _seeds(cells: dict[str, Any], where: str) -> list[int]:
    depth = where.count("/") + 1
    return sorted({int(key.split("/")[depth]) for key in cells if key.startswith(f"{where}/")})


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _head(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    teacher = result["teacher"]
    data = "\n".join(
        f"- *{name}*: {says}, {result['settings'][name]['image_size']} pixels (teacher "
        f"{teacher['size'][name]}); {result['settings'][name]['epochs']} epochs."
        for name, says in result["data_sets"].items()
    )
    return _HEAD.format(
        data=data,
        backbone=teacher["backbone"],
        seeds=len(result["seeds"]),
        emulated=result["emulated_samples"],
        date=result["created_utc"][:10],
        cpu=result["environment"]["cpu"],
        edgessl=result["edgessl"],
        versions=versions,
    )


def _verdict(rows: list[dict[str, Any]]) -> str:
    several = [row for row in rows if row["seeds"] > 1]
    own = [row for row in several if row["score"] != "gallery"]
    gallery = [row for row in several if row["score"] == "gallery"]
    single = len(rows) - len(several)
    note = f" {single} rows of one seed stand in the table and are not counted." if single else ""
    counted = _counted(own, "kNN, linear and 5-shot") + note
    return f"\n{counted}\n\n{_counted(gallery, 'Gallery kNN')}\n"


def _counted(rows: list[dict[str, Any]], scores: str) -> str:
    hurt = [row for row in rows if row["recovery"] is not None]
    won = [row for row in hurt if row["recovery"] >= _GOAL]
    low = [row for row in rows if not row["not_below"]]
    collapsed = [row for row in rows if row["collapsed"]]
    rescued = [row for row in collapsed if row["trained"] >= row["float"] / 2]
    return (
        f"{scores}: {len(rows)} comparisons (data set × student × target × score). Post-training "
        f"INT8 loses more than 1 point in {len(hurt)}; training for the target wins back at least "
        f"80 % of that in {len(won)}. It is below post-training by more than the deviation in "
        f"{len(low)}. Post-training collapses (below half of the float accuracy) in "
        f"{len(collapsed)}, of which {len(rescued)} are above half after training."
    )


def _disagreements(result: dict[str, Any]) -> str:
    """Which students the emulator computes otherwise than onnxruntime, and by how much."""
    found: dict[str, list[float]] = {}
    for key, cell in result["cells"].items():
        if "emulator" in cell:
            data_set, student, _, arm, target = key.split("/")
            where = f"{student} on {data_set}, {arm}, {target}"
            found.setdefault(where, []).append(cell["emulator"]["against_host"]["cosine"])
    means = {where: statistics.fmean(values) for where, values in found.items()}
    bad = [f"- {where}: {mean:.3f}" for where, mean in means.items() if mean < _AGREES]
    if not bad:
        return ""
    return (
        f"\n**Where the emulator disagrees** with onnxruntime (mean cosine below {_AGREES}), the "
        "scores are those of the graph and not of the NPU, in either arm; `compile` with its "
        "usual gate refuses such a bundle:\n\n" + "\n".join(bad) + "\n"
    )


def _recovery(rows: list[dict[str, Any]]) -> str:
    head = [
        *("data set", "student", "target", "score", "seeds"),
        *("float", "post-training", "trained", "won back", "not below"),
    ]
    lines = [
        (
            *(row["data_set"], row["student"], row["target"], SCORES[row["score"]], row["seeds"]),
            *(f"{100 * row[arm]:.1f}" for arm in ("float", "post-training", "trained")),
            "" if row["recovery"] is None else f"{100 * row['recovery']:.0f} %",
            "yes" if row["not_below"] else "**no**",
        )
        for row in rows
    ]
    note = "*Won back* is empty where post-training quantization loses 1 point or less.\n\n"
    return note + _table(head, lines)


def _teacher(result: dict[str, Any], data_set: str) -> str:
    for key, cell in result["cells"].items():
        if key.startswith(f"{data_set}/") and key.endswith("/float"):
            scores = ", ".join(
                f"{says} {100 * cell['teacher'][score]:.1f}" for score, says in SCORES.items()
            )
            return f"The teacher: {scores}; {cell['test_samples']} test samples.\n"
    return ""


def _accuracies(result: dict[str, Any], data_set: str) -> str:
    lines = []
    for student, arm, cells in _arms(result, data_set):
        scores = [_spread([100 * cell["scores"][score] for cell in cells]) for score in SCORES]
        rank = _spread([cell["scores"]["effective_rank"] for cell in cells])
        lines.append((student, arm, *scores, rank, len(cells)))
    return _table(["student", "arm", *SCORES.values(), "effective rank", "seeds"], lines)


def _fidelity(result: dict[str, Any], data_set: str) -> str:
    lines = []
    for student, arm, cells in _arms(result, data_set):
        if "fidelity" not in cells[0]:
            continue
        row = [
            statistics.fmean(cell["fidelity"][key] for cell in cells)
            for key in ("cosine", "centred_cosine", "neighbour_agreement")
        ]
        emulated = [cell["emulator"]["against_host"] for cell in cells if "emulator" in cell]
        agreement = f"{statistics.fmean(e['cosine'] for e in emulated):.4f}" if emulated else ""
        lines.append((student, arm, *(f"{value:.4f}" for value in row), agreement))
    head = ["student", "arm", "cosine to float", "centred cosine", "neighbours", "emulator cosine"]
    return _table(head, lines)


def _arms(result: dict[str, Any], data_set: str) -> Iterable[tuple[str, str, list[Any]]]:
    """Student, arm and the cells of all seeds."""
    found: dict[tuple[str, str], list[Any]] = {}
    for key, cell in result["cells"].items():
        name, student, _, *arm = key.split("/")
        if name == data_set:
            found.setdefault((student, ", ".join(arm)), []).append(cell)
    for (student, arm), cells in found.items():
        yield student, arm, cells


def _peers(result: dict[str, Any]) -> str:
    own = {score: says for score, says in SCORES.items() if score != "gallery"}
    lines = []
    for arm, runs in result["arms"].items():
        first, later = ([run[key] for run in runs if key in run] for key in ("first_s", "later_s"))
        scores = [_spread([100 * run["scores"][score] for run in runs]) for score in own]
        lines.append((arm, *scores, _spread(first), _spread(later), len(runs)))
    head = ["arm", *own.values(), "first run, s", "later run, s", "seeds"]
    return f"\n## Against peers\n\n{result['says']}\n\n{_table(head, lines)}\n{result['verdict']}\n"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f} ± {_deviation(values):.1f}"


def _table(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + "\n"
