"""AWS's own container images, as this machine can have them.

A Python environment with the packages AWS lists.

The image itself is in AWS's registry and needs a container engine. What a project builds on it, and what runs
in it, needs its Python packages; those come from the wheel store, by a lock of requirements/.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from localaws import toolbox

if TYPE_CHECKING:
    from localaws.images import Place

_LOCKS = Path(__file__).resolve().parents[2] / "requirements"


class BaseImageError(RuntimeError):
    """The environment that stands in for an AWS image cannot be made; the message says why."""


@dataclass(frozen=True)
class BaseImage:
    """An image of AWS that the local cloud can stand in for."""

    name: str
    pattern: re.Pattern[str]
    lock: str
    missing: tuple[str, ...]  # what the real image has and this one has not, in words
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Identifies what the stand-in is made of: its packages and this Python."""
        content = (_LOCKS / self.lock).read_bytes() + f"{sys.version_info[:3]} {sys.executable}".encode()
        return "sha256:" + hashlib.sha256(content).hexdigest()


_TABLE = (
    BaseImage(
        "sagemaker-scikit-learn:1.9-0",
        re.compile(
            r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?/sagemaker-scikit-learn:1\.9-0(?:-cpu-py3)?"
        ),
        "wheels-image-sklearn.txt",
        (
            "its operating system and nginx",
            "Python 3.12 (this machine's Python is used)",
            "the SageMaker training and inference toolkits",
        ),
    ),
)


def find(uri: str) -> BaseImage | None:
    """The stand-in for an image of AWS, None when there is none."""
    return next((base for base in _TABLE if base.pattern.fullmatch(uri)), None)


def names() -> list[str]:
    """Names of the images of AWS that the local cloud can stand in for."""
    return [base.name for base in _TABLE]


def environment(cloud: Place, base: BaseImage) -> Path:
    """The base image's Python environment, made at first use (some seconds) and kept in the cache.

    Raises BaseImageError when the wheel store lacks a package.
    """
    from localaws import images

    folder = cloud.cache / "images" / f"env-{base.digest[7:23]}"
    with images.locked(folder.with_suffix(".lock")):
        if not (folder / ".complete").exists():
            _make(cloud.cache, folder, base)
    return folder


def _make(cache: Path, folder: Path, base: BaseImage) -> None:
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    toolbox.make_environment(cache, folder)
    done = subprocess.run(
        # Compiled once here: what a container compiles is gone with it, and importing pandas would cost
        # seconds in each job.
        [
            toolbox.uv(),
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--python",
            str(folder / "bin/python"),
            "--no-index",
            "--find-links",
            str(cache / "wheels"),
            "--requirement",
            str(_LOCKS / base.lock),
        ],
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(cache), **toolbox.uv_environment(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BaseImageError(
            f"the packages of {base.name} could not be installed from the wheel store {cache / 'wheels'}; "
            f"run `make setup` again:\n{done.stderr.strip()}"
        )
    toolbox.add_pip(cache, folder, internet=False)
    (folder / ".complete").touch()
