"""What a run or a baseline is asked to do: environment of the job, command line, options of the baseline."""

from __future__ import annotations

import csv
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from . import KINDS, Kind, MonitorError

if TYPE_CHECKING:
    import polars as pl

PROCESSING = Path("/opt/ml/processing")
MIN_RECORDS = 50
ROWS_AT_ONCE = 50_000
JOIN_SOURCES = ("None", "Input")
FOLDERS = ("capture", "batch_capture", "batch_output")
ADDRESSES = ("CAPTURE_URI", "BATCH_CAPTURE_URI", "BATCH_INPUT_URI", "BATCH_OUTPUT_URI")
LARGEST_MODEL = 4 << 30  # bytes, unpacked


@dataclass(frozen=True)
class Window:
    """The half-open time span [start, end) of one run, in UTC."""

    start: datetime
    end: datetime

    def hours(self) -> Iterator[str]:
        """Folders that can hold the window's records: a record lies in the hour of its writing."""
        hour = self.start.replace(minute=0, second=0, microsecond=0)
        while hour <= self.end:
            yield hour.strftime("%Y/%m/%d/%H")
            hour += timedelta(hours=1)

    def holds(self, moment: datetime) -> bool:
        """Whether a record of this time belongs to the window."""
        return self.start <= moment < self.end


@dataclass(frozen=True)
class Settings:
    """One run."""

    kind: str
    endpoint: str
    scheduled: datetime
    window_minutes: int = 60
    delay_minutes: int = 0  # the window ends this long before the scheduled time: ground truth needs time
    min_records: int = MIN_RECORDS  # fewer are not judged
    capture_uri: str = ""
    batch_capture_uri: str = ""  # destination of a transform job's data capture
    batch_input_uri: str = ""  # of a transform job without capture
    batch_output_uri: str = ""
    batch_join_source: str = "None"  # as in the job's DataProcessing
    batch_key_columns: int = 0  # columns before the features, which the job's InputFilter left out
    ground_truth_uri: str = ""
    reports_uri: str = ""
    include_simulated: bool = False
    model_package_arn: str = ""
    region: str = ""
    baseline: Path = PROCESSING / "input/baseline"
    model: Path = PROCESSING / "input/model"
    output: Path = PROCESSING / "output"
    capture: Path | None = None  # folders instead of the addresses
    batch_capture: Path | None = None
    batch_input: Path | None = None
    batch_output: Path | None = None
    ground_truth: Path | None = None
    publishes: bool = True  # metrics; not on a laptop, where no endpoint is named
    options: dict[str, Any] = field(default_factory=dict)  # options.json of the baseline

    @classmethod
    def from_env(cls, env: Mapping[str, str], **flags: Any) -> Settings:
        """Environment of the job; a flag that is not None comes before it."""
        given = {name: value for name, value in flags.items() if value is not None}
        kind = given.get("kind") or env.get("MONITOR_KIND", "")
        if kind not in KINDS:
            raise MonitorError(f"MONITOR_KIND is {kind!r}: it must be one of {', '.join(KINDS)}")
        endpoint = env.get("ENDPOINT_NAME", "")
        folders = any(given.get(name) is not None for name in FOLDERS)
        if not endpoint and not folders:
            raise MonitorError("ENDPOINT_NAME is not set: the schedule must say which endpoint to look at")
        text = env.get("SCHEDULED_TIME", "")
        values: dict[str, Any] = {
            "kind": kind,
            "endpoint": endpoint or "local",
            "publishes": bool(endpoint),
            "scheduled": parse_time(text) if text else datetime.now(UTC).replace(microsecond=0),
            "window_minutes": whole_number(env, "WINDOW_MINUTES", 60, 1),
            "delay_minutes": whole_number(env, "DELAY_MINUTES", 0, 0),
            "batch_join_source": env.get("BATCH_JOIN_SOURCE", "").strip() or "None",
            "batch_key_columns": whole_number(env, "BATCH_KEY_COLUMNS", 0, 0),
            "ground_truth_uri": env.get("GROUND_TRUTH_URI", ""),
            "reports_uri": env.get("REPORTS_URI", "").rstrip("/"),
            "include_simulated": env.get("INCLUDE_SIMULATED", "").strip().lower() == "true",
            "model_package_arn": env.get("MODEL_PACKAGE_ARN", ""),
            "region": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", ""),
        }
        if not folders:
            values |= {name.lower(): env.get(name, "").strip() for name in ADDRESSES}
        settings = cls(**values | given)
        settings.check_source()
        options = read_options(settings.baseline)
        default = int(options.get("settings", {}).get("min_records", MIN_RECORDS))
        asked = given.get("min_records") or whole_number(env, "MIN_RECORDS", default, 1)
        return replace(settings, options=options, min_records=asked)

    def check_source(self) -> None:
        """Raise unless exactly one source of rows is named, and wholly."""
        sources = {
            "CAPTURE_URI": self.capture or self.capture_uri,
            "BATCH_CAPTURE_URI": self.batch_capture or self.batch_capture_uri,
            "BATCH_OUTPUT_URI": self.batch_output or self.batch_output_uri,
        }
        if self.batch_capture:  # on a laptop the objects that the manifests name are in folders, too
            sources.pop("BATCH_OUTPUT_URI")
        named = [name for name, value in sources.items() if value]
        if len(named) != 1:
            raise MonitorError(
                "set exactly one of CAPTURE_URI (an endpoint), BATCH_CAPTURE_URI (a transform job with data "
                f"capture) and BATCH_OUTPUT_URI (one without); set: {' and '.join(named) or 'none'}"
            )
        if self.batch_join_source not in JOIN_SOURCES:
            raise MonitorError(f"BATCH_JOIN_SOURCE is {self.batch_join_source!r}: it must be None or Input")
        if self.joined and not self.batch:
            raise MonitorError("BATCH_JOIN_SOURCE is Input, but only batch jobs join")
        if self.batch_key_columns and not self.joined:
            raise MonitorError("BATCH_KEY_COLUMNS is set, but only joined lines have key columns")
        given = bool(self.batch_input or self.batch_input_uri)
        needed = self.batch and not self.joined and not self.batch_capture_uri
        if needed and not given:
            raise MonitorError(
                "BATCH_INPUT_URI is not set: outputs are compared with their inputs, unless the job joined "
                "them (BATCH_JOIN_SOURCE=Input)"
            )
        if given and not needed:
            raise MonitorError("BATCH_INPUT_URI is set, but the source of the inputs is another one already")
        if self.batch_capture and not self.batch_output:
            raise MonitorError("--batch-capture needs --batch-output: where the named objects are")

    @property
    def batch(self) -> bool:
        """Whether transform jobs are looked at, and not an endpoint."""
        folders = self.batch_capture or self.batch_output
        return bool(folders or self.batch_capture_uri or self.batch_output_uri)

    @property
    def joined(self) -> bool:
        """Whether each line of an output holds its input, too."""
        return self.batch_join_source == "Input"

    @property
    def on_disk(self) -> bool:
        """Whether folders are read, and not S3."""
        return any(getattr(self, name) is not None for name in FOLDERS)

    @property
    def window(self) -> Window:
        """The window that this run looks at."""
        end = self.scheduled - timedelta(minutes=self.delay_minutes)
        return Window(end - timedelta(minutes=self.window_minutes), end)

    @property
    def report_folder(self) -> str:
        """Where the report lies below the reports' prefix."""
        return f"{KINDS[self.kind].folder}/{self.scheduled:%Y/%m/%d/%H}"

    @property
    def block(self) -> dict[str, Any]:
        """The kind's block of mlops.yml."""
        return self.options.get("settings", {})

    @property
    def features(self) -> list[str]:
        """The features, in the order of a request's values."""
        return list(self.options.get("features", []))


def whole_number(env: Mapping[str, str], name: str, default: int, least: int) -> int:
    """A whole number of the environment."""
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise MonitorError(f"{name} is {text!r}: it must be a whole number of at least {least}")
    return int(text)


def parse_time(text: str) -> datetime:
    """An ISO time, UTC where it names no zone."""
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise MonitorError(f"{text!r} is not a time like 2026-03-04T12:00:00Z") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def find(folder: Path, name: str) -> Path:
    """A baseline file, wherever below the folder the job has put it."""
    found = sorted(folder.rglob(name)) if folder.is_dir() else []
    if not found:
        raise MonitorError(f"no {name} below {folder}: mount the model package's baseline there")
    return found[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the baseline."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MonitorError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise MonitorError(f"{path} holds no JSON object")
    return content


def read_options(baseline: Path) -> dict[str, Any]:
    """options.json of a kind's baseline: what `run` must know of the training.

    {"kind", "settings": the kind's block of mlops.yml, "features": [names in order], "target",
    "positive_class", "problem_type"} and whatever else the kind's module adds.
    """
    return read_json(find(baseline, "options.json"))


@dataclass
class BaselineInputs:
    """What a baseline is made from; the data are read when they are asked for."""

    dataset: Path  # features of the training rows, CSV with a header
    train: Path | None = None  # folder of CSV with features and target
    holdout: list[Path] = field(default_factory=list)  # rows that training did not see
    model: Path | None = None  # folder with the model, or with its model.tar.gz
    target: str = ""
    positive_class: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # the monitoring part of mlops.yml

    @cached_property
    def dataset_frame(self) -> pl.DataFrame:
        """Features of the training rows, as text; null is missing."""
        frame = read_csv([self.dataset])
        return frame.drop(self.target) if self.target in frame.columns else frame

    @cached_property
    def train_frame(self) -> pl.DataFrame:
        """Features and target of the training rows, as text."""
        if self.train is None:
            raise MonitorError("--train is not given: the training rows with their target are needed")
        return self._with_target(read_csv([self.train]))

    @cached_property
    def holdout_frame(self) -> pl.DataFrame:
        """Features and target of the rows that training did not see, as text."""
        if not self.holdout:
            raise MonitorError("--holdout is not given: rows that training did not see are needed")
        return self._with_target(read_csv(self.holdout))

    @cached_property
    def model_folder(self) -> Path:
        """The unpacked model; a temporary folder that lives as long as these inputs."""
        if self.model is None:
            raise MonitorError("--model is not given: the trained model is needed")
        folder, self._unpacked = unpack_model(self.model)
        return folder

    @property
    def features(self) -> list[str]:
        """The features, in the order of a request's values."""
        return self.dataset_frame.columns

    def block(self, kind: str | Kind) -> dict[str, Any]:
        """The kind's block of mlops.yml."""
        name = kind if isinstance(kind, str) else kind.name
        return dict(self.options.get(name) or {})

    def enabled(self, kind: str) -> bool:
        """Whether the project wants this kind."""
        return kind in self.options and bool(self.block(kind).get("enabled", True))

    def run_options(self, kind: str) -> dict[str, Any]:
        """options.json of one kind."""
        block = self.block(kind)
        return {
            "kind": kind,
            "settings": block,
            "features": self.features,
            "target": self.target,
            "positive_class": self.positive_class,
            "problem_type": block.get("problem_type") or self._problem_type(),
        }

    def _problem_type(self) -> str:
        return (self.options.get("model_quality") or {}).get("problem_type", "BinaryClassification")

    def _with_target(self, frame: pl.DataFrame) -> pl.DataFrame:
        if self.target not in frame.columns:
            columns = ", ".join(frame.columns)
            raise MonitorError(f"--target {self.target!r}: no such column; there are {columns}")
        return frame


def unpack_model(path: Path) -> tuple[Path, TemporaryDirectory[str] | None]:
    """Folder of a model: path itself, or what the one model.tar.gz at or below it holds."""
    archives = [path] if path.is_file() else sorted(path.rglob("model.tar.gz"))
    if not archives:
        return path, None
    kept = TemporaryDirectory(prefix="model-")
    try:
        with tarfile.open(archives[0]) as archive:
            if sum(member.size for member in archive.getmembers()) > LARGEST_MODEL:
                raise MonitorError(f"{archives[0]} is larger than {LARGEST_MODEL >> 30} GiB when unpacked")
            archive.extractall(kept.name, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise MonitorError(f"{archives[0]} cannot be unpacked: {error}") from error
    return Path(kept.name), kept


def csv_files(path: Path) -> list[Path]:
    """A file, or all CSV files below a folder."""
    return sorted(path.rglob("*.csv")) if path.is_dir() else [path]


def read_csv(paths: list[Path]) -> pl.DataFrame:
    """CSV files with one header, as stripped text; null where nothing, or a word for nothing, stands."""
    import polars as pl

    from .payload import present

    files = [file for path in paths for file in csv_files(path)]
    if not files or not files[0].is_file():
        raise MonitorError(f"no CSV file at {', '.join(map(str, paths))}: put data with a header there")
    header: list[str] = []
    frames: list[pl.DataFrame] = []
    for file in files:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            try:
                rows = csv.reader(stream)
                names = [name.strip() for name in next(rows, [])]
                header = header or names
                check_header(file, names, header, files[0])
                while some := list(islice(checked_rows(file, rows, len(header)), ROWS_AT_ONCE)):
                    frames.append(pl.DataFrame(some, schema=dict.fromkeys(header, pl.String), orient="row"))
            except (csv.Error, UnicodeDecodeError) as error:
                raise MonitorError(f"{file} cannot be read as CSV: {error}") from error
    if not frames:
        raise MonitorError(f"{files[0]} has a header but no rows: a baseline needs the training data")
    return pl.concat(frames).select(present(pl.all()))


def check_header(file: Path, names: list[str], header: list[str], first: Path) -> None:
    """One header, with every name once."""
    if not names:
        raise MonitorError(f"{file} is empty: put data with a header there")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise MonitorError(f"{file} has column {twice[0]!r} twice")
    if names != header:
        raise MonitorError(f"{file} has other columns than {first}: one baseline needs one header")


def checked_rows(file: Path, rows: Any, width: int) -> Iterator[list[str]]:
    """Rows that are as wide as the header."""
    for row in rows:
        if not row:
            continue
        if len(row) != width:
            raise MonitorError(f"{file} line {rows.line_num} has {len(row)} values, its header has {width}")
        yield row
