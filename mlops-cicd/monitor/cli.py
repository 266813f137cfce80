"""The command line: `baseline` in the pipeline, `run` on a schedule, both on a laptop too."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from . import KINDS, MonitorError, managed
from . import __doc__ as about
from .settings import JOIN_SOURCES, PROCESSING, BaselineInputs, Settings, read_json

LOG = logging.getLogger("monitor")
Client = Callable[[str], Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="monitor.pyz", description=(about or "").splitlines()[0])
    commands = root.add_subparsers(dest="command", required=True)
    inputs = PROCESSING / "input"
    make = commands.add_parser("baseline", help="training data and model -> statistics and constraints")
    make.add_argument(
        "--dataset", type=Path, default=inputs / "baseline", help="features of the training rows"
    )
    make.add_argument("--train", type=Path, help="training rows with their target")
    make.add_argument(
        "--holdout", type=Path, action="append", default=[], help="other rows with their target"
    )
    make.add_argument("--model", type=Path, help="folder of the model, or of its model.tar.gz")
    make.add_argument("--target", default="", help="column that the model predicts")
    make.add_argument("--positive-class", default="")
    make.add_argument("--options", default="", help="monitoring part of mlops.yml, as JSON or a file of it")
    make.add_argument("--output", type=Path, default=PROCESSING / "output")
    run = commands.add_parser("run", help="captured traffic -> report and metrics; what it needs is in env")
    run.add_argument("--kind", choices=KINDS)
    run.add_argument("--baseline", type=Path)
    run.add_argument("--model", type=Path)
    run.add_argument("--capture", type=Path, help="folder of captured files, in place of CAPTURE_URI")
    run.add_argument("--batch-capture", type=Path, help="folder in place of BATCH_CAPTURE_URI")
    run.add_argument("--batch-input", type=Path, help="folder of a batch job's inputs")
    run.add_argument("--batch-output", type=Path, help="folder of a batch job's outputs")
    run.add_argument("--batch-join-source", choices=JOIN_SOURCES, help="as in the job's DataProcessing")
    run.add_argument("--ground-truth", type=Path)
    run.add_argument("--output", type=Path)
    run.add_argument("--min-records", type=int)
    return root


def main(
    argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None, client: Client | None = None
) -> int:
    """Run one command; 0 also with violations, 1 when the input cannot be monitored."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    options = parser().parse_args(argv)
    environment = dict(os.environ if env is None else env)
    try:
        if options.command == "baseline":
            return baseline_command(options)
        return run_command(options, environment, client or make_client(environment))
    except (MonitorError, OSError, ValueError) as error:
        print(f"monitor.pyz {options.command}: {error}", file=sys.stderr)
        return 1


def module_of(kind: str) -> Any:
    """The module of a kind; imported when it is needed, for each brings libraries of its own."""
    return importlib.import_module(f".{KINDS[kind].module}", __package__)


# ------------------------------------------------------------ baseline


def baseline_command(options: argparse.Namespace) -> int:
    """Write the baseline of every enabled kind."""
    inputs = BaselineInputs(
        dataset=options.dataset,
        train=options.train,
        holdout=options.holdout,
        model=options.model,
        target=options.target,
        positive_class=options.positive_class,
        options=read_options(options.options),
    )
    for kind in KINDS:
        if not inputs.enabled(kind):
            continue
        files = module_of(kind).baseline(inputs)
        own = files.pop("options.json", {})
        files["options.json"] = inputs.run_options(kind) | own
        files |= managed.files(kind, files["options.json"], managed.job_output())
        folder = options.output / kind
        for name, content in files.items():
            text = (
                content if isinstance(content, str) else json.dumps(content, indent=1, allow_nan=False) + "\n"
            )
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        print(f"baseline of {KINDS[kind].folder} written to {folder}: {', '.join(sorted(files))}")
    return 0


def read_options(text: str) -> dict[str, Any]:
    """The monitoring part of mlops.yml, as JSON or the name of a file of it."""
    if not text:
        return {"data_quality": {}}
    if not text.lstrip().startswith("{"):
        return read_json(Path(text))
    try:
        return json.loads(text)
    except ValueError as error:
        raise MonitorError(f"--options is no JSON: {error}") from error


# ------------------------------------------------------------ run


def run_command(options: argparse.Namespace, env: Mapping[str, str], client: Client) -> int:
    """Judge one window of captured traffic."""
    flags = {name: value for name, value in vars(options).items() if name != "command"}
    settings = Settings.from_env(env, **flags)
    from .shards import WAIT_SECONDS, Hosts, Meeting

    hosts = Hosts.read(Path(env.get("MONITOR_CONFIG_DIR") or "/opt/ml/config"))
    run_id = run_id_of(settings, env)
    if len(hosts.names) == 1:
        monitor, intake = scan(settings, client, hosts.share)
        return conclude(settings, monitor, intake, client, run_id)
    meeting = Meeting(client("s3"), settings.reports_uri, run_id)
    if hosts.share.index:
        try:
            monitor, intake = scan(settings, client, hosts.share)
        except Exception as error:
            meeting.give_up(hosts.current, f"{type(error).__name__}: {error}"[:1000])
            raise
        meeting.deliver(hosts.current, {"monitor": monitor.partial(), "intake": intake.partial()})
        print(f"{hosts.current} of {len(hosts.names)}: {intake.records} records for {hosts.names[0]}")
        return 0
    monitor, intake = scan(settings, client, hosts.share)
    for part in meeting.collect(hosts.others, float(env.get("MONITOR_WAIT_SECONDS") or WAIT_SECONDS)):
        monitor.merge(part["monitor"])
        intake.merge(part["intake"])
    return conclude(settings, monitor, intake, client, run_id)


def scan(settings: Settings, client: Client, share: Any) -> tuple[Any, Any]:
    """Read this host's share of the window."""
    from .capture import batches
    from .intake import Intake
    from .lines import Wanted

    monitor = module_of(settings.kind).Monitor(settings.baseline, settings)
    names = settings.features
    if not names:
        raise MonitorError(f"options.json of {settings.baseline} names no features: make the baseline again")
    wanted = Wanted(
        tuple(names),
        settings.window,
        outputs=monitor.needs_outputs,
        simulated=settings.include_simulated,
        counted=getattr(monitor, "counted", False),
        keys=settings.batch_key_columns,
    )
    intake = Intake()
    s3 = None if settings.on_disk else client("s3")
    for batch in batches(settings, wanted, s3, share, intake, monitor.needs_truth):
        (monitor.add_counted if wanted.counted else monitor.add)(batch)
    return monitor, intake


def conclude(settings: Settings, monitor: Any, intake: Any, client: Client, run_id: str) -> int:
    """Judge what was read, and publish it."""
    from . import publish

    if hasattr(monitor, "see_columns"):
        monitor.see_columns(intake.lacking, intake.surplus)
    result = monitor.finish()
    if not result.records:
        window = settings.window
        span = f"{window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC"
        without = " with ground truth" if monitor.needs_truth and intake.requests else ""
        result.notes.insert(0, f"no records{without} of {settings.endpoint} from {span}: nothing to compare")
    summary = publish.summarize(settings, result, intake, run_id)
    history = publish.read_history(lambda: client("s3"), settings)
    publish.write_files(settings, result, intake, summary, history)
    if settings.publishes:
        publish.put_metrics(client("cloudwatch"), settings, publish.metrics_of(settings, result, intake))
    publish.tell(settings, result, intake, summary)
    return 0


def run_id_of(settings: Settings, env: Mapping[str, str]) -> str:
    """The same on all instances of a run: the job's name, else kind and time."""
    folder = Path(env.get("MONITOR_CONFIG_DIR") or "/opt/ml/config")
    path = folder / "processingjobconfig.json"
    name = ""
    if path.is_file():
        name = str(read_json(path).get("ProcessingJobName") or "")
    name = name or f"{KINDS[settings.kind].part}-{settings.scheduled:%Y%m%d%H%M}"
    return re.sub(r"[^A-Za-z0-9-]", "-", name)


def make_client(env: Mapping[str, str]) -> Client:
    """AWS clients of the job's region; imported late because a baseline needs none."""

    @cache
    def client(service: str) -> Any:
        import boto3
        from botocore.config import Config

        region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None
        config = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=20)
        return boto3.client(service, region_name=region, config=config)

    return client
