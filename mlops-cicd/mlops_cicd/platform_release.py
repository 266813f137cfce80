"""Build stage of ModelRepoPipeline (flow A): check the platform's sources, publish them as a release.

Runs in the root of the platform repository. The output folder becomes the artifact from which the pipeline's
CloudFormation action updates 1-infra, after a person's approval.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.exceptions import SchemaError

from .console import OK, Fault, say, script

COMMIT = re.compile(r"[0-9a-f]{7,64}")
# cfn-lint has no `python -m`; its command need not be on the PATH of this interpreter.
CFN_LINT = (sys.executable, "-c", "import sys; from cfnlint.runner import main; sys.exit(main())")
Run = Callable[..., Any]


def templates(root: Path) -> list[str]:
    """Every CloudFormation template: by the repository's rule, what ends in .yaml."""
    found = sorted(path.relative_to(root).as_posix() for path in (root / "mlops-cfn").rglob("*.yaml"))
    if not found:
        raise Fault(
            f"{root / 'mlops-cfn'} holds no template: run this in the root of the platform repository"
        )
    return found


def check_templates(root: Path, run: Run) -> None:
    """cfn-lint, with its warnings as faults."""
    found = templates(root)
    done = run([*CFN_LINT, "--non-zero-exit-code", "warning", *found], cwd=root, check=False)
    if done.returncode:
        raise Fault("cfn-lint found mistakes in the templates; the output above names file and line")
    say(f"{len(found)} templates are valid")


def check_schema(root: Path) -> None:
    """The schema of mlops.yml is itself a valid schema."""
    path = root / "mlops-cicd/schema/mlops.schema.json"
    try:
        Draft7Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, SchemaError) as error:
        raise Fault(f"{path.relative_to(root)} is no JSON schema: {error}") from error


def publish(root: Path, out: Path, bucket: str, commit: str, run: Run) -> str:
    """Call the repository's own publish script; the version that it published."""
    command = [sys.executable, "scripts/publish.py", "--out", str(out)]
    if bucket:
        command += ["--bucket", bucket]
    env = dict(os.environ)
    if COMMIT.fullmatch(commit):
        # A pipeline's source has no .git; the version is named after the commit that the pipeline runs for.
        env["CODEBUILD_RESOLVED_SOURCE_VERSION"] = commit
    done = run(command, cwd=root, env=env, check=False)
    if done.returncode:
        raise Fault("scripts/publish.py failed; the output above says why")
    release = out / "release.json"
    if not release.is_file() or not (out / "1-infra.yaml").is_file():
        raise Fault(f"scripts/publish.py wrote no release.json or 1-infra.yaml to {out}")
    return json.loads(release.read_text(encoding="utf-8"))["version"]


@script
def main(argv: Sequence[str] | None = None, run: Run = subprocess.run) -> int:
    """Validate, then publish unless --check-only."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.platform_release", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path("build/release"))
    parser.add_argument("--bucket", default=os.environ.get("RELEASE_BUCKET", ""))
    parser.add_argument("--commit", default=os.environ.get("COMMIT_ID", ""))
    parser.add_argument("--check-only", action="store_true")
    options = parser.parse_args(argv)
    root = options.root.resolve()
    check_templates(root, run)
    check_schema(root)
    if not options.check_only:
        version = publish(root, (root / options.out).resolve(), options.bucket, options.commit, run)
        say(f"release {version} is published; {options.out} holds what updates the platform")
    return OK


if __name__ == "__main__":
    sys.exit(main())
