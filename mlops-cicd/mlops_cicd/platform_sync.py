"""Last step of ModelRepoPipeline's build (flow A): fills the three persona repositories from the platform's.

Each repository gets the content of its folder as one commit, and only when it differs. History is kept:
what a persona committed there stays in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3

from .console import OK, Fault, say, script

REPOSITORIES = ("mlops-cfn", "mlops-cicd", "seedcode-repo")  # each the name of its folder
BRANCH = "main"
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "*.pyc", ".pytest_cache", ".ruff_cache", "*.env")
CREDENTIALS = (
    "-c",
    "credential.helper=!aws codecommit credential-helper $@",
    "-c",
    "credential.UseHttpPath=true",
)
AUTHOR = ("-c", "user.name=MLOps platform", "-c", "user.email=mlops-platform@invalid")
ATTEMPTS = 3
Run = Callable[..., Any]


def git(run: Run, folder: Path, *arguments: str, check: bool = True) -> Any:
    """Run git, with credentials from the role of the build; its complaint becomes the fault."""
    done = run(
        ["git", *CREDENTIALS, *AUTHOR, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )
    if check and done.returncode:
        raise Fault(f"git {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done


def replace_content(source: Path, clone: Path) -> None:
    """Make the working copy hold exactly the source folder."""
    for item in clone.iterdir():
        if item.name != ".git":
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    shutil.copytree(source, clone, symlinks=True, ignore=LEFT_OUT, dirs_exist_ok=True)


def sync(source: Path, url: str, message: str, run: Run = subprocess.run) -> str | None:
    """Bring one repository to the content of a folder; the new commit, or None when it had it already."""
    for attempt in range(1, ATTEMPTS + 1):
        with tempfile.TemporaryDirectory() as scratch:
            clone = Path(scratch) / "clone"
            git(run, Path(scratch), "clone", "--quiet", "--depth", "1", url, str(clone))
            git(run, clone, "checkout", "--quiet", "-B", BRANCH)
            replace_content(source, clone)
            git(run, clone, "add", "--all", "--force")  # a .gitignore in the folder must not hide a source
            if not git(run, clone, "status", "--porcelain").stdout.strip():
                return None
            git(run, clone, "commit", "--quiet", "-m", message)
            pushed = git(run, clone, "push", "--quiet", "origin", BRANCH, check=False)
            if not pushed.returncode:
                return git(run, clone, "rev-parse", "HEAD").stdout.strip()
            if attempt == ATTEMPTS:
                raise Fault(f"git push to {url} failed: {pushed.stderr.strip()}")
            say(f"push to {url} was refused, somebody else may have pushed: trying again")
    return None


@script
def main(argv: Sequence[str] | None = None, session: Any = None, run: Run = subprocess.run) -> int:
    """Synchronise the persona repositories."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.platform_sync", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--commit", default=os.environ.get("COMMIT_ID", ""))
    options = parser.parse_args(argv)
    codecommit = (session or boto3.Session()).client("codecommit")
    for name in REPOSITORIES:
        source = (options.root / name).resolve()
        if not source.is_dir():
            raise Fault(f"folder {name} is missing: run this in the root of the platform repository")
        url = codecommit.get_repository(repositoryName=name)["repositoryMetadata"]["cloneUrlHttp"]
        commit = sync(source, url, f"Platform at commit {options.commit[:12] or 'unknown'}", run)
        say(f"{name}: {'commit ' + commit[:12] if commit else 'has this content already'}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
