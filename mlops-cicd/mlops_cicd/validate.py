"""Stage Validate of the build pipeline (flow E): mlops.yml, the files it needs, the project's own fast tests.

CodeBuild calls it twice: first without --tests, which needs only this package; then, after the project's
requirements-dev.txt is installed, with --tests.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .config import data_file, load_config
from .console import FAULT, OK, Fault, quoted, say, script
from .requirements import check_requirements
from .settings import IMAGES

TEST_FOLDERS = ("tests/code", "tests/data")
NO_TESTS_COLLECTED = 5  # pytest's exit code
MOST_COLUMNS = 40  # that a sentence lists


def check_files(project: Path, config: dict[str, Any]) -> None:
    """The files that the pipelines will open, before anything is built."""
    needed = ["pipeline.py", *(f"containers/{name}/Dockerfile" for name in IMAGES)]
    needed += ["containers/api/Dockerfile"] if "api" in config["deployment"] else []
    missing = [name for name in needed if not (project / name).is_file()]
    if missing:
        raise Fault(f"the repository has no {', '.join(missing)}: restore it from the project template")
    check_requirements(project)
    source, target = config["data"]["source"], config["data"]["target"]
    if source.startswith("s3://"):
        return
    try:
        with data_file(project, source).open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
    except (csv.Error, UnicodeDecodeError) as error:
        raise Fault(f"{source} is no CSV file in UTF-8 ({error}): save it as one") from error
    if target not in header:
        columns = ", ".join(map(quoted, header[:MOST_COLUMNS])) + (", …" if header[MOST_COLUMNS:] else "")
        raise Fault(f"data.target is {quoted(target)}; {source} has the columns {columns}")


def run_tests(project: Path, run: Callable[..., Any] = subprocess.run) -> int:
    """Run tests/code and tests/data with pytest, in a process of their own; its exit code."""
    folders = [folder for folder in TEST_FOLDERS if (project / folder).is_dir()]
    if not folders:
        raise Fault(
            f"the repository has neither {' nor '.join(TEST_FOLDERS)}: the project template brings both"
        )
    say(f"running {' and '.join(folders)}")
    # The project's tests import the project, not these scripts.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders]
    code = run(command, cwd=project, env=env, check=False).returncode
    if code == NO_TESTS_COLLECTED:
        raise Fault(f"{' and '.join(folders)} hold no test: a project is not trained untested")
    if code:
        raise Fault(f"the project's tests failed (pytest ended with {code}); the output above names them")
    return OK


@script
def main(argv: Sequence[str] | None = None, run: Callable[..., Any] = subprocess.run) -> int:
    """Validate a project's working copy."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.validate", description=__doc__)
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--tests", action="store_true", help="run tests/code and tests/data")
    options = parser.parse_args(argv)
    if not options.project_dir.is_dir():
        raise Fault(f"--project-dir {options.project_dir} is no folder")
    config = load_config(options.project_dir / "mlops.yml")
    check_files(options.project_dir, config)
    say("mlops.yml is valid and the files it names are there")
    if options.tests and run_tests(options.project_dir, run) != OK:
        return FAULT
    return OK


if __name__ == "__main__":
    sys.exit(main())
