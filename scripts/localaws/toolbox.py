"""The programs that a build finds first on its PATH: ``aws``, ``docker``, and a ``python`` with ``pip``.

``pip install`` is carried out by uv (the same packages, in a tenth of the time); pip's configuration (what
``aws codeartifact login`` wrote, ``PIP_INDEX_URL``, options) is translated. Every other pip command goes to
the real pip that Python ships. Run as a script, this file is that ``pip``; it imports nothing of the package
then.
"""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from localaws.cloud import Cloud

#: options of ``pip install`` that have no counterpart and change nothing here
_DROPPED = {
    "--no-cache-dir",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--progress-bar",
    "--root-user-action",
    "--prefer-binary",
    "--no-input",
    "-I",
    "--ignore-installed",
    "--user",
    "--isolated",
    "--retries",
    "--timeout",
    "--default-timeout",
    "--trusted-host",
    "--use-pep517",
    "--no-python-version-warning",
    "--require-virtualenv",
}
_DROPPED_WITH_VALUE = {
    "--progress-bar",
    "--root-user-action",
    "--retries",
    "--timeout",
    "--default-timeout",
    "--trusted-host",
}
_SHORT = {"-i": "--index-url", "-f": "--find-links", "-U": "--upgrade", "-q": "--quiet", "-v": "--verbose"}


class ToolError(RuntimeError):
    """A program that builds need and this machine lacks; the message says how to get it."""


def uv() -> str:
    """The path of uv. Raises ToolError."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise ToolError(
            f"uv is not installed beside {sys.executable}: make the environment of the local cloud again "
            "(make setup)"
        )
    return found


def aws_cli() -> str:
    """The path of an AWS CLI: LOCALAWS_AWS_CLI, beside this Python, or on PATH. Raises ToolError."""
    beside = Path(sys.executable).with_name("aws")
    found = os.environ.get("LOCALAWS_AWS_CLI") or (str(beside) if beside.exists() else shutil.which("aws"))
    if not found:
        raise ToolError("no AWS CLI was found: set LOCALAWS_AWS_CLI to the path of one")
    return found


def uv_environment(cache: Path) -> dict[str, str]:
    """Settings of uv that every use here shares: its cache, and no word with the network's outside."""
    return {
        "UV_CACHE_DIR": str(cache / "uv"),
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
    }


def make_environment(cache: Path, folder: Path) -> None:
    """A fresh, empty virtual environment of this Python's own kind, in milliseconds. Raises ToolError."""
    done = subprocess.run(
        [uv(), "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(cache), **uv_environment(cache)},
    )
    if done.returncode:
        raise ToolError(f"the Python environment {folder} could not be made: {done.stderr.strip()}")


def furnish(cloud: Cloud, folder: Path, internet: bool) -> dict[str, str]:
    """Make the environment in ``folder`` with its programs; the variables that a build needs to use them.

    ``internet``: whether the build reaches PyPI where no index is configured (the wheel store stands in for
    it).
    """
    from localaws.layers import Layers

    make_environment(cloud.cache, folder)
    Layers(cloud.cache, folder).begin()
    programs = folder / "bin"
    package = Path(__file__).parent.parent
    add_pip(cloud.cache, folder, internet)
    _program(programs / "aws", f'exec "{aws_cli()}" "$@"')
    _program(
        programs / "docker",
        f'LOCALAWS_PLACE="{cloud.endpoint}|{cloud.account}|{cloud.region}|{cloud.cache}|{cloud.home}" '
        f'exec "{sys.executable}" -P "{package / "localaws" / "docker.py"}" "$@"',
    )
    return {"VIRTUAL_ENV": str(folder)}


def add_pip(cache: Path, folder: Path, internet: bool) -> None:
    """Give a virtual environment ``pip`` (and ``python -m pip``)."""
    for name in ("pip", "pip3"):
        _program(folder / "bin" / name, f'exec "{folder / "bin" / "python"}" -m pip "$@"')
    site = next((folder / "lib").glob("python3*")) / "site-packages"
    (site / "pip").mkdir(exist_ok=True)
    (site / "pip" / "__init__.py").write_text(
        '"""pip, carried out by uv; see toolbox.py of the local cloud."""\n'
    )
    (site / "pip" / "__main__.py").write_text(
        f"import runpy, sys\nsys.argv[0:1] = [{str(Path(__file__))!r}, {uv()!r}, {str(cache)!r}, "
        f"{'internet' if internet else 'isolated'!r}]\n"
        f"runpy.run_path({str(Path(__file__))!r}, run_name='__main__')\n"
    )


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


# -- pip, by uv ------------------------------------------------------------------------------------------
def configuration(environ: dict[str, str]) -> dict[str, str]:
    """pip's settings for ``install``.

    The user's files, then ``PIP_*`` variables, the later over the earlier.
    """
    home = Path(environ.get("HOME", "/"))
    files = [
        home / ".pip/pip.conf",
        Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
    ]
    files += [Path(environ["VIRTUAL_ENV"], "pip.conf")] if environ.get("VIRTUAL_ENV") else []
    files += [Path(environ["PIP_CONFIG_FILE"])] if environ.get("PIP_CONFIG_FILE") else []
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        if file.is_file():
            parser.read(file)
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= dict(parser.items(section))
    settings |= {k[4:].lower().replace("_", "-"): v for k, v in environ.items() if k.startswith("PIP_") and v}
    return settings


def translate(arguments: list[str], settings: dict[str, str], cache: str, internet: bool) -> list[str]:
    """uv's arguments for those of ``pip install`` or ``pip uninstall``.

    Raises ToolError where no package index is configured and the build has no way to the internet.
    """
    command, *rest = arguments
    if command == "uninstall":
        return ["pip", "uninstall", *(a for a in rest if a not in ("-y", "--yes"))]
    out = ["pip", "install"]
    given: set[str] = set()
    skip = False
    for argument in rest:
        name, has_value, value = argument.partition("=")
        if skip:
            skip = False
        elif name in _DROPPED:
            skip = name in _DROPPED_WITH_VALUE and not has_value
        else:
            name = _SHORT.get(name, name)
            given.add(name)
            out.append(
                f"{name}={value}" if has_value and name.startswith("--") else _SHORT.get(argument, argument)
            )
    indexed = given & {"--index-url", "--no-index", "--find-links"}
    if not indexed:
        if settings.get("index-url"):
            out += ["--index-url", settings["index-url"]]
        elif internet:
            out += ["--no-index", "--find-links", str(Path(cache) / "wheels")]
        else:
            raise ToolError(
                "Could not reach https://pypi.org/simple/: the build runs in a VPC without a way to the "
                "internet, and no other "
                "package index is configured (aws codeartifact login --tool pip …)"
            )
    for url in settings.get("extra-index-url", "").split():
        out += ["--extra-index-url", url, "--index-strategy", "unsafe-best-match"]
    for place in settings.get("find-links", "").split():
        out += ["--find-links", place]
    for file in (f for option in ("constraint", "requirement") for f in settings.get(option, "").split()):
        out += ["--constraint", file]
    return out


def pip(uv_path: str, cache: str, reach: str, arguments: list[str]) -> int:
    """Be pip: install and uninstall by uv, anything else by the pip that Python ships."""
    python = sys.executable
    if arguments[:2] == ["config", "set"] and len(arguments) == 4 and "." in arguments[2]:
        return _configure(arguments[2], arguments[3], dict(os.environ))
    if not arguments or arguments[0] not in ("install", "uninstall"):
        return _real_pip(python, Path(cache), arguments)
    try:
        words = translate(arguments, configuration(dict(os.environ)), cache, reach == "internet")
    except ToolError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    layers = _layers(Path(cache))
    key = layers.key(words[2:]) if words[1] == "install" else ""
    if key and layers.restore(key, words):
        if "--quiet" not in words:
            print("Installed as in an earlier build (layer of the local cloud).", flush=True)
        return 0
    layers.forget()
    code = _run(uv_path, python, words, Path(cache), layers.answers(words))
    if code == 0 and key:
        layers.save(key)
    return code


def _run(uv_path: str, python: str, words: list[str], cache: Path, answers: bool) -> int:
    """Run uv. What CodeArtifact serves is taken from the wheel store itself once the index has answered.

    uv keeps packages by the index's address, which has another port in each cloud: it would keep them again
    and again. Where the store cannot satisfy the request, the index is asked, for its own words.
    """
    env = {**os.environ, **uv_environment(cache)}
    options = ["--python", python, "--no-progress"]
    if answers and "--index-url" in words and "--extra-index-url" not in words:
        place = words.index("--index-url")
        if "/codeartifact/" in words[place + 1]:
            near = [*words[:place], "--no-index", "--find-links", str(cache / "wheels"), *words[place + 2 :]]
            done = subprocess.run([uv_path, *near[:2], *options, *near[2:]], env=env, capture_output=True)
            if done.returncode == 0:
                sys.stderr.buffer.write(done.stderr)
                sys.stdout.buffer.write(done.stdout)
                return 0
    return subprocess.run([uv_path, *words[:2], *options, *words[2:]], env=env).returncode


def _layers(cache: Path) -> Any:
    """The layers of this environment.

    Layers.py lies beside this file, which may run outside of the package.
    """
    import importlib.util

    spec = importlib.util.spec_from_file_location("localaws_layers", Path(__file__).with_name("layers.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Layers(cache, Path(sys.prefix))


def _configure(name: str, value: str, environ: dict[str, str]) -> int:
    """``pip config set``, which every build runs by ``aws codeartifact login``, without pip's two seconds."""
    home = Path(environ.get("HOME", "/"))
    legacy = home / ".pip/pip.conf"
    folder = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    file = legacy if legacy.is_file() else folder / "pip/pip.conf"
    section, _, key = name.partition(".")
    parser = configparser.RawConfigParser()
    parser.read(file)
    if not parser.has_section(section):
        parser.add_section(section)
    parser.set(section, key.lower().replace("_", "-"), value)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        parser.write(handle)
    print(f"Writing to {file}")
    return 0


def _real_pip(python: str, cache: Path, arguments: list[str]) -> int:
    """Run the pip that ensurepip bundles, unpacked once so that its bytecode is kept."""
    import ensurepip

    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    wheels = bundled or sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not wheels:
        print("ERROR: this Python has no pip to run", file=sys.stderr)
        return 1
    folder = cache / "pip" / wheels[-1].stem
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        with zipfile.ZipFile(wheels[-1]) as archive:
            archive.extractall(partial)
        try:
            partial.rename(folder)
        except OSError:  # another build was faster
            shutil.rmtree(partial, ignore_errors=True)
    return subprocess.run([python, str(folder / "pip"), *arguments]).returncode


if __name__ == "__main__":
    sys.exit(pip(*sys.argv[1:4], sys.argv[4:]))
