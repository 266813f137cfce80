"""Traffic with a known drift, made from a project's data, and how often each monitor finds it.

    python -m rehearse.drifts --model DIR --baseline DIR [--project DIR] [--seeds 20] [--json]
    python -m rehearse.drifts --fresh [--project DIR] [--seeds 20] [--json]

The first form judges one model: traffic is drawn (with replacement, by the seed) from all rows of the data.
The model has learned from most of them and answers those a little better than others, so the first form
flatters model quality. (Rows that training has not seen, drawn with replacement, would be worse: their
differences to the training rows, which are chance, would be in every window, and look like evidence.)

The second form is honest about it, and takes longer: for each seed it splits the data anew in three, trains a
model on the first part, makes its baseline from the second, and takes traffic from the third, each row at
most once.

Every scenario is a pure function of rows and a seed. EXPECTED says which monitors rightly fire.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for folder in ("scripts", "mlops-cicd"):  # the monitor is a package of mlops-cicd; the seed code is composed
    if str(ROOT / folder) not in sys.path:
        sys.path.append(str(ROOT / folder))

SIZE = 400  # rows of a window
CHUNK = 10  # rows of a request
KINDS = ("data_quality", "model_quality", "model_bias", "model_explainability")
ENDPOINT = "drifts"
HOUR = datetime(2026, 12, 1, 10, tzinfo=UTC)

UNIT = ("residence_since", 31_536_000)  # years at the present address, sent in seconds
NEW_CATEGORY = ("purpose", "electric_vehicle", 0.15)  # of the rows
GROUP = ("personal_status", "female_not_single")
GROUP_SHARE = 0.75  # of the applicants with a bad outcome are of the group afterwards

EXPECTED: dict[str, frozenset[str]] = {
    "clean": frozenset(),
    # A feature that hardly mattered has numbers of another magnitude: its distribution is another one, it
    # decides every answer, and everybody gets the same. All three are right to say so, and bias is not larger
    # than before. (A feature that mattered most already would not do: it would decide even more, and the
    # ranking of the others stay as it was.)
    # No drift can be attribution's alone: the model is fixed, so its reasons change only where the inputs do.
    "unit_change": frozenset({"data_quality", "model_quality", "model_explainability"}),
    # The model ignores a value that it has never seen, and the other features still decide.
    "new_category": frozenset({"data_quality"}),
    # Inputs and answers are as before; what became of the applicants is not what it would have been.
    "label_shift": frozenset({"model_quality"}),
    # Every column has the values that it had, and as many applicants default as before. But now it is one
    # group that defaults.
    "group_change": frozenset({"model_bias"}),
}

Row = list[str]


@dataclass(frozen=True)
class Traffic:
    """Rows as an endpoint takes them, and what became of each."""

    rows: list[Row]
    labels: list[str]


@dataclass
class Source:
    """The data of a project, as traffic is made from it."""

    header: list[str]
    table: list[Row]  # all rows, target included
    target: str
    positive_class: str
    features: list[str] = field(init=False)
    rows: list[Row] = field(init=False)  # of the features
    labels: list[str] = field(init=False)

    def __post_init__(self) -> None:
        at = self.header.index(self.target)
        self.features = [name for name in self.header if name != self.target]
        self.rows = [[value for i, value in enumerate(row) if i != at] for row in self.table]
        self.labels = [row[at] for row in self.table]

    @classmethod
    def of_project(cls, folder: Path) -> Source:
        """The data that mlops.yml of a project names."""
        import yaml

        data = yaml.safe_load((folder / "mlops.yml").read_text(encoding="utf-8"))["data"]
        with (folder / data["source"]).open(newline="", encoding="utf-8") as stream:
            header, *table = csv.reader(stream)
        return cls(header, table, data["target"], data["positive_class"])

    def draw(self, seed: int, size: int) -> Traffic:
        """Rows, drawn with replacement."""
        chosen = random.Random(seed).choices(range(len(self.rows)), k=size)
        return Traffic([list(self.rows[i]) for i in chosen], [self.labels[i] for i in chosen])


# --- the drifts -------------------------------------------------------------------------------------------


def clean(source: Source, traffic: Traffic, seed: int) -> Traffic:
    """As it was."""
    return traffic


def unit_change(source: Source, traffic: Traffic, seed: int) -> Traffic:
    """A sender gives one number in another unit."""
    name, factor = UNIT
    at = source.features.index(name)
    rows = [
        [f"{round(float(v) * factor)}" if i == at else v for i, v in enumerate(row)] for row in traffic.rows
    ]
    return Traffic(rows, traffic.labels)


def new_category(source: Source, traffic: Traffic, seed: int) -> Traffic:
    """Some rows have a value that was never seen."""
    name, value, share = NEW_CATEGORY
    at = source.features.index(name)
    chosen = set(random.Random(seed).sample(range(len(traffic.rows)), round(share * len(traffic.rows))))
    rows = [
        [value if n in chosen and i == at else v for i, v in enumerate(row)]
        for n, row in enumerate(traffic.rows)
    ]
    return Traffic(rows, traffic.labels)


def label_shift(source: Source, traffic: Traffic, seed: int) -> Traffic:
    """Outcomes have no more to do with the inputs; in each group as many are bad as before."""
    at = source.features.index(GROUP[0])
    labels, rng = list(traffic.labels), random.Random(seed)
    for member in (True, False):
        places = [n for n, row in enumerate(traffic.rows) if (row[at] == GROUP[1]) is member]
        mixed = [labels[n] for n in places]
        rng.shuffle(mixed)
        for n, label in zip(places, mixed, strict=True):
            labels[n] = label
    return Traffic(traffic.rows, labels)


def group_change(source: Source, traffic: Traffic, seed: int) -> Traffic:
    """Who belongs to one group: as many as before, but most of those with a bad outcome.

    The rows exchange their values of one column, so that it has each value as often as before.
    """
    name, group = GROUP
    at, rng = source.features.index(name), random.Random(seed)
    bad = [n for n, label in enumerate(traffic.labels) if label == source.positive_class]
    good = [n for n, label in enumerate(traffic.labels) if label != source.positive_class]
    values = [row[at] for row in traffic.rows]
    size = values.count(group)
    many = min(size, round(GROUP_SHARE * len(bad)))
    members = {*rng.sample(bad, many), *rng.sample(good, size - many)}
    others = [value for value in values if value != group]
    rng.shuffle(others)
    rest = iter(others)
    rows = [
        [(group if n in members else next(rest)) if i == at else v for i, v in enumerate(row)]
        for n, row in enumerate(traffic.rows)
    ]
    return Traffic(rows, traffic.labels)


SCENARIOS: dict[str, Callable[[Source, Traffic, int], Traffic]] = {
    change.__name__: change for change in (clean, unit_change, new_category, label_shift, group_change)
}


def make(source: Source, name: str, seed: int, size: int = SIZE) -> Traffic:
    """A window's traffic with this drift; the same for the same seed."""
    return SCENARIOS[name](source, source.draw(seed, size), seed)


# --- the monitors on it -----------------------------------------------------------------------------------


def write_window(folder: Path, traffic: Traffic, scores: Sequence[float]) -> None:
    """Capture and ground truth as the platform has them."""
    capture, truth = [], []
    for number, start in enumerate(range(0, len(traffic.rows), CHUNK)):
        end = start + CHUNK
        body = io.StringIO()
        csv.writer(body, lineterminator="\n").writerows(traffic.rows[start:end])
        answer = "".join(f"{score:.6f}\n" for score in scores[start:end])
        moment = HOUR + timedelta(seconds=number)
        identity = {"eventId": f"event-{number:05d}", "inferenceId": f"applicants-{number:05d}"}
        capture.append(
            {
                "captureData": {
                    "endpointInput": side("INPUT", body.getvalue()),
                    "endpointOutput": side("OUTPUT", answer),
                },
                "eventMetadata": identity | {"inferenceTime": f"{moment:%Y-%m-%dT%H:%M:%SZ}"},
                "eventVersion": "0",
            }
        )
        truth.append(
            {
                "groundTruthData": {"data": "\n".join(traffic.labels[start:end]), "encoding": "CSV"},
                "eventMetadata": {"eventId": identity["inferenceId"]},
                "eventVersion": "0",
            }
        )
    hour = f"{HOUR:%Y/%m/%d/%H}"
    for path, lines in (
        (folder / "capture" / ENDPOINT / "AllTraffic" / hour / "capture.jsonl", capture),
        (folder / "ground-truth" / hour / "truth.jsonl", truth),
    ):
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def side(mode: str, data: str) -> dict[str, str]:
    """One side of a captured request."""
    return {"observedContentType": "text/csv", "mode": mode, "data": data, "encoding": "CSV"}


def monitor(*arguments: object, env: dict[str, str] | None = None) -> None:
    """The monitor's command line, in this process: a process a run would take most of the time."""
    from monitor.cli import main

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main([str(argument) for argument in arguments], env or {}, lambda service: Silent())
    if code:
        raise RuntimeError(f"the monitor ended with {code}: {said.getvalue()}")


class Silent:
    """Stands for CloudWatch: the metrics of an experiment are nobody's."""

    def put_metric_data(self, **request: Any) -> None:
        """Nothing."""


def fired(folder: Path, model: Path, baseline: Path) -> frozenset[str]:
    """The monitors that find violations in a window."""
    found = set()
    for kind in KINDS:
        env = {
            "MONITOR_KIND": kind,
            "ENDPOINT_NAME": ENDPOINT,
            "SCHEDULED_TIME": f"{HOUR + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
            "WINDOW_MINUTES": "60",
        }
        output = folder / "reports"
        given = {"baseline": baseline / kind, "model": model, "output": output}
        given |= {"capture": folder / "capture", "ground-truth": folder / "ground-truth"}
        monitor("run", *(part for name, value in given.items() for part in (f"--{name}", value)), env=env)
        report = output / kind.replace("_", "-") / f"{HOUR + timedelta(hours=1):%Y/%m/%d/%H}"
        if json.loads((report / "constraint_violations.json").read_text(encoding="utf-8"))["violations"]:
            found.add(kind)
    return frozenset(found)


def seeds_table(
    model: Path, baseline: Path, program: Path, seeds: int, source: Source, size: int = SIZE
) -> dict[str, Any]:
    """Which monitors fire on which drift, with one model."""
    os.environ["PROGRAM_DIR"] = str(program)
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in SCENARIOS:
            for seed in range(seeds):
                folder = Path(scratch) / f"{name}-{seed}"
                window(folder, make(source, name, seed, size), source, model)
                outcomes.append((name, fired(folder, model, baseline)))
    return table_of(outcomes, seeds)


def window(folder: Path, traffic: Traffic, source: Source, model: Path) -> None:
    """Write a window's files, with the model's answers."""
    import polars as pl

    from monitor.predictor import Predictor

    schema = dict.fromkeys(source.features, pl.String)
    rows = pl.DataFrame(traffic.rows, schema=schema, orient="row")
    write_window(folder, traffic, Predictor(model).scores(rows).tolist())


def fresh_table(project: Path, seeds: int) -> dict[str, Any]:
    """Which monitors fire on which drift, with a model, a baseline and traffic of own rows for each seed."""
    import yaml

    os.environ["PROGRAM_DIR"] = str(project / "src")
    source = Source.of_project(project)
    options = yaml.safe_load((project / "mlops.yml").read_text(encoding="utf-8"))["monitoring"]
    outcomes = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            traffic = three_parts(project, source, seed, root)
            monitor(
                *("baseline", "--dataset", root / "dataset.csv", "--train", root / "train"),
                *("--holdout", root / "validation", "--model", root / "model", "--target", source.target),
                *("--positive-class", source.positive_class, "--options", json.dumps(options)),
                *("--output", root / "baseline"),
            )
            for name, change in SCENARIOS.items():
                folder = root / name
                window(folder, change(source, traffic, seed), source, root / "model")
                outcomes.append((name, fired(folder, root / "model", root / "baseline")))
    return table_of(outcomes, seeds)


def three_parts(project: Path, source: Source, seed: int, root: Path) -> Traffic:
    """Train on half of the rows, keep a fifth for the baseline; traffic is the rest, unseen by both."""
    numbers = list(range(len(source.table)))
    random.Random(seed).shuffle(numbers)
    half, kept = len(numbers) // 2, len(numbers) * 7 // 10
    parts = {"train": numbers[:half], "validation": numbers[half:kept]}
    for name, chosen in parts.items():
        (root / name).mkdir()
        write_csv(root / name / f"{name}.csv", source.header, [source.table[i] for i in chosen])
    write_csv(root / "dataset.csv", source.features, [source.rows[i] for i in parts["train"]])
    with importable(project / "src"):
        import pandas as pd
        import preprocess
        import train

        everything = pd.DataFrame(source.table, columns=source.header)
        described = preprocess.describe(source.target, source.positive_class, everything)
        (root / "train" / "features.json").write_text(json.dumps(described), encoding="utf-8")
        train.train(root / "train", root / "validation", root / "model", {})
    rest = numbers[kept:]
    return Traffic([list(source.rows[i]) for i in rest], [source.labels[i] for i in rest])


def write_csv(path: Path, header: Row, rows: Sequence[Row]) -> None:
    """A CSV file with a header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules of a folder be imported by name."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


# --- the table --------------------------------------------------------------------------------------------


def table_of(outcomes: Sequence[tuple[str, frozenset[str]]], seeds: int) -> dict[str, Any]:
    """Rows of kind x scenario, and the two rates.

    A false alarm: a monitor fires on traffic without the drift that it looks for. A miss: it does not fire on
    a drift that it should find. Each is a share of the runs in which it could have happened.
    """
    rows, wrong, quiet, missed, due = [], 0, 0, 0, 0
    for name, expected in EXPECTED.items():
        found = [kinds for scenario, kinds in outcomes if scenario == name]
        counts = {kind: sum(kind in kinds for kinds in found) for kind in KINDS}
        exactly = sum(kinds == expected for kinds in found)
        rows.append(
            {
                "scenario": name,
                "expected": sorted(expected),
                "seeds": len(found),
                "fired": counts,
                "exact": exactly,
            }
        )
        due += len(found) * len(expected)
        missed += sum(len(found) - counts[kind] for kind in expected)
        quiet += len(found) * (len(KINDS) - len(expected))
        wrong += sum(counts[kind] for kind in KINDS if kind not in expected)
    return {
        "seeds": seeds,
        "rows": rows,
        "false_alarm_rate": wrong / quiet if quiet else 0.0,
        "miss_rate": missed / due if due else 0.0,
        "runs_that_should_be_quiet": quiet,
        "runs_that_should_fire": due,
    }


def printed(table: dict[str, Any]) -> str:
    """The table for people; * marks who should fire."""
    lines = [f"{'':14}" + "".join(f"{kind:>22}" for kind in KINDS) + f"{'exactly right':>16}"]
    for row in table["rows"]:
        cells = [
            f"{row['fired'][kind]} of {row['seeds']}{' *' if kind in row['expected'] else '  '}"
            for kind in KINDS
        ]
        right = f"{row['exact']} of {row['seeds']}"
        lines.append(f"{row['scenario']:14}" + "".join(f"{cell:>22}" for cell in cells) + f"{right:>16}")
    lines.append(
        f"false alarms {table['false_alarm_rate']:.2%} of {table['runs_that_should_be_quiet']} runs,"
        f" misses {table['miss_rate']:.2%} of {table['runs_that_should_fire']}; * should fire"
    )
    return "\n".join(lines)


def composed(folder: Path) -> Path:
    """A project as it comes from the catalog."""
    import compose

    compose.write_folder(compose.compose("sklearn", "realtime"), folder)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="rehearse.drifts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of the model, or of its model.tar.gz")
    parser.add_argument("--baseline", type=Path, help="folder with a folder for each kind of monitor")
    parser.add_argument("--project", type=Path, help="a project's folder; default: one newly composed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--fresh", action="store_true", help="for each seed own rows, model and baseline")
    parser.add_argument("--json", action="store_true", help="one line for programs instead of the table")
    options = parser.parse_args(argv)
    if not options.fresh and not (options.model and options.baseline):
        parser.error("--model and --baseline, or --fresh")
    with tempfile.TemporaryDirectory() as scratch:
        project = options.project or composed(Path(scratch) / "project")
        table = (
            fresh_table(project, options.seeds)
            if options.fresh
            else seeds_table(
                options.model,
                options.baseline,
                project / "src",
                options.seeds,
                Source.of_project(project),
            )
        )
    print(json.dumps(table) if options.json else printed(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
