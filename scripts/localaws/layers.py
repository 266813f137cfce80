"""Keeps what ``pip install`` made of a build's environment, so that the next build has it in a moment.

A layer is an environment after a chain of installs; its key is made of all that decides its content (the
chain, the requirement files' text, what the wheel store holds, this Python). It is laid into a build's
environment by hard links. The bytecode that a build's imports compile is kept too: compiling costs more than
running. Imports the standard library only: the ``pip`` of builds uses it (toolbox.py).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_STATE = ".localaws-state"
_HERE = "@ENVIRONMENT@"
_KEPT = 12
#: options under which the same words always install the same
_PLAIN = {"--quiet", "--verbose", "--upgrade", "--no-deps", "--require-hashes", "--pre", "--no-index"}
_WITH_VALUE = {"--requirement", "--constraint", "--index-url", "--find-links", "--only-binary", "-r", "-c"}


class Layers:
    """The layers of one cache, seen from one environment."""

    def __init__(self, cache: Path, environment: Path) -> None:
        self.folder, self.wheels, self.environment = cache / "layers", cache / "wheels", environment

    # -- what an environment holds ----------------------------------------------------------------------
    def begin(self) -> None:
        """Note that the environment is new and empty."""
        self._note(hashlib.sha256(f"{sys.version}|{sys.executable}".encode()).hexdigest())

    def forget(self) -> None:
        """Note that nobody knows any more what the environment holds."""
        (self.environment / _STATE).unlink(missing_ok=True)

    def _note(self, key: str) -> None:
        (self.environment / _STATE).write_text(key)

    @property
    def state(self) -> str:
        """The key of what the environment holds, "" when it is not known."""
        with contextlib.suppress(OSError):
            return (self.environment / _STATE).read_text()
        return ""

    def key(self, words: list[str]) -> str:
        """The key of the environment after ``uv pip install`` with these words.

        "" when they say too little.
        """
        if not self.state:
            return ""
        digest = hashlib.sha256(self.state.encode())
        digest.update("\n".join(sorted(p.name for p in self.wheels.glob("*.whl"))).encode())
        option = ""
        for word in words:
            name, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
            if option:
                name, value, option = option, word, ""
            elif name in _WITH_VALUE and not has_value:
                option = name
                continue
            if name in ("--requirement", "--constraint", "-r", "-c"):
                text = self._text(Path(value))
                if text is None:
                    return ""
                digest.update(f"{name}\n{text}".encode())
            elif name == "--index-url":
                if "/codeartifact/" not in value:
                    return ""
                digest.update(_without_credentials(value).encode())
            elif name == "--only-binary":
                digest.update(f"{name} {value}".encode())
            elif name in _PLAIN or name == "--find-links":
                digest.update(name.encode())
            elif word.startswith("-") or _is_path(word):
                return ""
            else:
                digest.update(f"package {word}\n".encode())
        return digest.hexdigest()[:24]

    def _text(self, file: Path) -> str | None:
        """A requirements file with those that it includes; None when it names files or indexes of its own."""
        out = []
        try:
            lines = file.read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            word, _, rest = line.strip().partition(" ")
            if word in ("-r", "-c", "--requirement", "--constraint"):
                included = self._text(file.parent / rest.strip())
                if included is None:
                    return None
                out.append(included)
            elif (word.startswith("-") and not word.startswith("--hash")) or _is_path(word) or " @ " in line:
                return None
            else:
                out.append(line)
        return "\n".join(out)

    # -- layers -----------------------------------------------------------------------------------------
    def restore(self, key: str, words: list[str]) -> bool:
        """Lay a layer into the environment, if there is one and the package index would have answered."""
        layer = self.folder / key
        if not (layer / "complete").exists() or not self.answers(words):
            return False
        files = layer / "files"
        for path in files.iterdir():
            if path.name == "bin":
                self._programs(path)
            else:
                shutil.rmtree(self.environment / path.name, ignore_errors=True)
                _link_tree(path, self.environment / path.name)
        self._note(key)
        os.utime(layer / "complete")
        return True

    @staticmethod
    def answers(words: list[str]) -> bool:
        """Whether the package index answers with these credentials.

        A layer must not hide that a login is missing.
        """
        for number, word in enumerate(words):
            if word == "--index-url" or word.startswith("--index-url="):
                url = word.partition("=")[2] or words[number + 1]
                parts = urlsplit(url)
                login = base64.b64encode(f"{parts.username or ''}:{parts.password or ''}".encode()).decode()
                plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
                try:
                    request = urllib.request.Request(plain, headers={"Authorization": f"Basic {login}"})
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        # not where origin controls or own packages make it other than the wheel store
                        return answer.status == 200 and "X-Localaws-Mirror" in answer.headers
                except (urllib.error.URLError, OSError):
                    return False
        return True

    def save(self, key: str) -> None:
        """Keep the environment as it is now under a key."""
        self._note(key)
        layer = self.folder / key
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (layer / "complete").exists():
                return
            shutil.rmtree(layer, ignore_errors=True)
            (layer / "files" / "bin").mkdir(parents=True)
            for path in self.environment.iterdir():
                if path.is_dir() and not path.is_symlink() and path.name != "bin":
                    _link_tree(path, layer / "files" / path.name)
            for program in (self.environment / "bin").iterdir():
                if program.is_file() and not program.is_symlink() and not _is_ours(program):
                    self._copy(program, layer / "files" / "bin" / program.name, str(self.environment), _HERE)
            (layer / "complete").touch()
        self._prune()

    def _prune(self) -> None:
        """Keep the layers that were used last; what was laid into an environment stays there."""
        found = sorted(self.folder.glob("*/complete"), key=lambda p: p.stat().st_mtime, reverse=True)
        for old in found[_KEPT:]:
            old.unlink(missing_ok=True)
            shutil.rmtree(old.parent, ignore_errors=True)

    def keep_bytecode(self) -> None:
        """Add the bytecode that imports have made to the environment's layer."""
        files = self.folder / (self.state or "-") / "files"
        if not files.is_dir():
            return
        for name, folders, found in os.walk(self.environment / "lib"):
            if Path(name).name != "__pycache__":
                continue
            folders.clear()
            target = files / Path(name).relative_to(self.environment)
            for file in found:
                if file.endswith(".pyc") and target.parent.is_dir() and not (target / file).exists():
                    target.mkdir(exist_ok=True)
                    with contextlib.suppress(OSError):
                        os.link(Path(name, file), target / file)

    def _programs(self, source: Path) -> None:
        for program in source.iterdir():
            self._copy(program, self.environment / "bin" / program.name, _HERE, str(self.environment))

    @staticmethod
    def _copy(source: Path, target: Path, old: str, new: str) -> None:
        content = source.read_bytes()
        target.write_bytes(
            content.replace(old.encode(), new.encode()) if b"\0" not in content[:4096] else content
        )
        target.chmod(source.stat().st_mode & 0o777)


def _is_ours(program: Path) -> bool:
    """The programs that toolbox.py puts into each environment differ from build to build."""
    return program.name in ("pip", "pip3", "aws", "docker") or program.name.startswith(
        ("python", "activate", "deactivate")
    )


def _is_path(word: str) -> bool:
    return word.startswith((".", "/", "~", "file:", "git+", "http")) or word.endswith(
        (".whl", ".tar.gz", ".zip")
    )


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc="", scheme=""))


def _link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links; by content where it lies on another file system."""
    for how in ("-al", "-a"):
        done = subprocess.run(["cp", how, str(source), str(target)], capture_output=True)
        if done.returncode == 0:
            return
        shutil.rmtree(target, ignore_errors=True)
    raise OSError(f"{source} could not be copied to {target}: {done.stderr.decode(errors='replace')}")
