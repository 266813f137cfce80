"""`python -m rehearse [scenario]`: what `make rehearse` runs."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from rehearse import engine, progress
from rehearse.cloud import ROOT, LocalCloud


def keep_up(cloud: LocalCloud) -> None:
    """Leave the cloud to the person until Ctrl-C."""
    print("\nThe cloud stays up. In another shell:\n", file=sys.stderr)
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
    ):
        print(f"export {name}={cloud.environment()[name]}", file=sys.stderr)
    print(f"\n{ROOT / '.venv-localaws/bin/aws'} is an AWS CLI. Ctrl-C here ends the cloud.", file=sys.stderr)
    while cloud.is_healthy():
        time.sleep(2)


def main(argv: list[str] | None = None) -> int:
    """Run one scenario; exit 0 passed, 1 failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="rehearse", description=engine.__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="?", default="full")
    parser.add_argument("--list", action="store_true", help="show the scenarios")
    parser.add_argument("--json", action="store_true", help='one JSON object a line; the last has "passed"')
    parser.add_argument("--keep", action="store_true", help="skip the teardown and leave the cloud up")
    parser.add_argument(
        "--without", metavar="STATEMENT", default="", help="a policy statement that the templates lack"
    )
    parser.add_argument(
        "--seeds", type=int, default=engine.SEEDS, help="how often scenario drift makes each hour anew"
    )
    parser.add_argument("--port", type=int, help="port of the cloud; default any free one")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build/rehearsal", help="report, logs and working copies"
    )
    arguments = parser.parse_args(argv)
    if arguments.list:
        scenarios = engine.available()
        if arguments.json:
            print(json.dumps(scenarios, indent=2))
        else:
            for name, description in scenarios.items():
                print(f"{name:18} {description}")
        return 0
    shown = progress.choose(arguments.json)
    # a terminal that is closed, or a `kill`, ends like Ctrl-C: in order
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        result = engine.rehearse(
            arguments.scenario,
            shown,
            arguments.folder.resolve(),
            arguments.port,
            keep_up if arguments.keep else None,
            arguments.without,
            arguments.seeds,
        )
    except LookupError as error:
        print(f"rehearse: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if isinstance(shown, progress.LiveProgress):
            shown.close()
        print("rehearse: stopped; the cloud is down", file=sys.stderr)
        return 130
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
