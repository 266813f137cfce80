"""The ``docker`` that builds find on their PATH.

No engine, but a Dockerfile really built and really pushed to ECR.

``build`` carries out each instruction. FROM takes the stand-in of an AWS image (base_images.py) or an image
of ECR; COPY copies; RUN runs in a mount namespace in which the image's files lie over this machine's, with
the image's own Python environment, so ``RUN pip install`` installs into the image; what cannot be done here
(an operating system's packages, USER) is skipped and said. RUN results are kept between builds like Docker's
layer cache. ``push`` puts an OCI image into the registry of ECR.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from localaws import base_images, containers, dockerfile, images, toolbox  # noqa: E402
from localaws.dockerfile import DockerfileError, Instruction  # noqa: E402

_KEPT_DAYS = 3
_SYSTEM_TOOLS = (
    "apt-get",
    "apt",
    "apt-key",
    "yum",
    "dnf",
    "microdnf",
    "apk",
    "groupadd",
    "useradd",
    "adduser",
    "addgroup",
)


class BuildError(RuntimeError):
    """A build that fails; the message is what Docker prints."""


@dataclass
class Place:
    """What images.py needs of the cloud, handed over by the build that found this program."""

    endpoint: str
    account: str
    region: str
    cache: Path
    home: Path

    @classmethod
    def here(cls) -> Place:
        """From the variable that toolbox.py sets. Raises SystemExit outside of a build."""
        words = os.environ.get("LOCALAWS_PLACE", "").split("|")
        if len(words) != 5:
            raise SystemExit(
                "docker: this stand-in works in builds of the local cloud only (LOCALAWS_PLACE is not set)"
            )
        return cls(words[0], words[1], words[2], Path(words[3]), Path(words[4]))

    @property
    def store(self) -> Path:
        """Where images that were built or pulled here are kept until the cloud ends.

        This machine's Docker.
        """
        return self.home / "docker"

    def password_of(self, registry: str) -> str:
        """What ``docker login`` was given for a registry."""
        return _logins(self).get(registry, "")


@dataclass
class Build:
    """The image while it is being made."""

    place: Place
    context: Path
    arguments: dict[str, str]
    secrets: dict[str, Path]
    rootfs: Path
    work: Path
    global_args: dict[str, str] = field(default_factory=dict)
    args: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    ports: dict[str, dict] = field(default_factory=dict)
    workdir: str = "/"
    python_env: Path = Path()
    key: str = ""
    stages: dict[str, Path] = field(default_factory=dict)

    def run(self, instructions: list[Instruction]) -> None:
        """Carry out the instructions in order. Raises BuildError, DockerfileError."""
        for number, instruction in enumerate(instructions, 1):
            say(f"[{number}/{len(instructions)}] {instruction.text}")
            handler = getattr(self, "do_" + instruction.name.lower(), None)
            if handler is None:
                self.skipped(instruction, "has no effect in the local cloud")
                continue
            if not self.key and instruction.name not in ("ARG", "FROM"):
                raise DockerfileError(f"line {instruction.line}: {instruction.name} stands before FROM")
            handler(instruction)

    def skipped(self, instruction: Instruction, why: str) -> None:
        """Say what was not done."""
        say(f"    skipped: {instruction.name} (line {instruction.line}) {why}")

    def grow(self, *parts: str | bytes) -> None:
        """Extend the key of all that has been done so far."""
        digest = hashlib.sha256(self.key.encode())
        for part in parts:
            content = part if isinstance(part, bytes) else part.encode()
            digest.update(f"{len(content)} ".encode() + content)
        self.key = digest.hexdigest()

    def value(self, text: str) -> str:
        """ARG and ENV put into a value."""
        return dockerfile.substitute(text, {**self.args, **self.env})

    # -- instructions ---------------------------------------------------------------------------------------
    def do_arg(self, instruction: Instruction) -> None:
        name, _, default = instruction.value.partition("=")
        scope = self.args if self.key else self.global_args
        inherited = self.global_args.get(name, "") if self.key else ""
        scope[name] = self.arguments.get(name) or self.value(default.strip("\"'")) or inherited

    def do_from(self, instruction: Instruction) -> None:
        words = dockerfile.substitute(instruction.value, self.global_args).split()
        if not words or not words[0]:
            raise BuildError(
                f"line {instruction.line}: base name ({instruction.value}) should not be blank: give it "
                "with --build-arg"
            )
        if self.key:
            raise BuildError(
                f"line {instruction.line}: a second FROM: builds of several stages are not done by the "
                "local cloud"
            )
        uri = words[0]
        with suppress(images.ImageError):
            base = base_images.find(uri)
            if base:
                say(
                    f"    substituted: {uri} by a Python environment with its packages; not there: "
                    f"{'; '.join(base.missing)}"
                )
        try:
            image = images.pull(self.place, uri)
        except (images.ImageError, base_images.BaseImageError, toolbox.ToolError) as error:
            raise BuildError(f"failed to resolve source metadata for {uri}: {error}") from error
        shutil.copytree(image.rootfs, self.rootfs, symlinks=True, dirs_exist_ok=True)
        self.env, self.labels, self.workdir = dict(image.env), dict(image.labels), image.workdir
        self.entrypoint, self.command, self.python_env = (
            list(image.entrypoint),
            list(image.command),
            image.python_env,
        )
        self.grow(image.digest, str(image.python_env))

    def do_env(self, instruction: Instruction) -> None:
        self.env |= {
            k: self.value(v) for k, v in dockerfile.pairs(instruction.value, instruction.line).items()
        }
        self.grow("env", json.dumps(self.env, sort_keys=True))

    def do_label(self, instruction: Instruction) -> None:
        self.labels |= {
            k: self.value(v) for k, v in dockerfile.pairs(instruction.value, instruction.line).items()
        }

    def do_workdir(self, instruction: Instruction) -> None:
        self.workdir = str(PurePosixPath(self.workdir, self.value(instruction.value)))
        self.inside(self.workdir).mkdir(parents=True, exist_ok=True)
        self.grow("workdir", self.workdir)

    def do_entrypoint(self, instruction: Instruction) -> None:
        self.entrypoint, self.command = (
            instruction.exec_form() or ["/bin/sh", "-c", self.value(instruction.value)],
            [],
        )

    def do_cmd(self, instruction: Instruction) -> None:
        self.command = instruction.exec_form() or ["/bin/sh", "-c", self.value(instruction.value)]

    def do_expose(self, instruction: Instruction) -> None:
        for port in self.value(instruction.value).split():
            self.ports[port if "/" in port else f"{port}/tcp"] = {}

    def do_copy(self, instruction: Instruction) -> None:
        if "from" in instruction.flags:
            raise BuildError(
                f"line {instruction.line}: COPY --from: builds of several stages are not done by the local "
                "cloud"
            )
        *sources, target = [self.value(word) for word in instruction.words()]
        if not sources:
            raise DockerfileError(
                f"line {instruction.line}: {instruction.name} requires at least two arguments"
            )
        found = [path for source in sources for path in self._sources(source, instruction)]
        into = target.endswith("/") or len(found) > 1 or found[0].is_dir() or self.inside(target).is_dir()
        if len(found) > 1 and not target.endswith("/"):
            raise BuildError(
                f"line {instruction.line}: when using {instruction.name} with more than one source file, "
                "the destination "
                "must be a directory and end with a /"
            )
        self.grow("copy", target, json.dumps(instruction.flags, sort_keys=True))
        for path in found:
            destination = self.inside(target)
            if path.is_dir():
                shutil.copytree(
                    path,
                    destination,
                    symlinks=True,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", ".git"),
                )
            else:
                destination = destination / path.name if into else destination
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, destination)
                for mode in instruction.flags.get("chmod", []):
                    destination.chmod(int(mode, 8))
            for file in sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()):
                self.grow(
                    str(file.relative_to(self.context)), file.read_bytes(), oct(file.stat().st_mode & 0o777)
                )

    def do_add(self, instruction: Instruction) -> None:
        remote = [w for w in instruction.words()[:-1] if "://" in w or w.startswith("git@")]
        if remote:
            raise BuildError(
                f"line {instruction.line}: ADD {remote[0]}: there is no way to the internet from here"
            )
        self.do_copy(instruction)

    def _sources(self, source: str, instruction: Instruction) -> list[Path]:
        relative = source.lstrip("/")
        found = (
            sorted(self.context.glob(relative))
            if any(c in relative for c in "*?[")
            else [self.context / relative]
        )
        for path in found:
            if not path.resolve().is_relative_to(self.context.resolve()):
                raise BuildError(f"line {instruction.line}: {source} is outside of the build context")
        if not found or not found[0].exists():
            raise BuildError(
                f'line {instruction.line}: failed to compute cache key: "/{relative}": not found in the '
                "build context"
            )
        return found

    def inside(self, path: str) -> Path:
        """Where a path of the image lies on this machine."""
        return self.rootfs / os.path.normpath(PurePosixPath(self.workdir, path)).lstrip("/")

    # -- RUN ------------------------------------------------------------------------------------------------
    def do_run(self, instruction: Instruction) -> None:
        exec_form = instruction.exec_form()
        shown = " ".join(exec_form) if exec_form else f"/bin/sh -c {instruction.value}"
        self.grow("run", instruction.text, json.dumps(self.args, sort_keys=True))
        layer = self.place.cache / "images" / f"layer-{self.key[:16]}"
        environment = self.place.cache / "images" / f"env-{self.key[:16]}"
        with images.locked(layer.with_suffix(".lock")):
            if (layer / "complete").exists() and (environment / "bin/python").exists():
                say("    CACHED")
                (layer / "complete").touch()
            else:
                self._execute(
                    exec_form or ["/bin/sh", "-c", instruction.value], instruction, shown, layer, environment
                )
        shutil.copytree(layer / "files", self.rootfs, symlinks=True, dirs_exist_ok=True)
        self.python_env = environment

    def _execute(
        self, argv: list[str], instruction: Instruction, shown: str, layer: Path, environment: Path
    ) -> None:
        for folder in (layer, environment):
            shutil.rmtree(folder, ignore_errors=True)
        clone_environment(self.place.cache, self.python_env, environment)
        folder = Path(tempfile.mkdtemp(dir=self.work))
        upper = layer / "files"
        upper.mkdir(parents=True)
        secrets = self._mount_secrets(instruction, folder)
        shims = folder / "tmp" / ".tools"
        shims.mkdir(parents=True)
        for tool in _SYSTEM_TOOLS:
            shim = shims / tool
            shim.write_text(
                f"#!/bin/sh\necho \"    skipped: {tool} $*: an operating system's packages cannot be "
                'installed by the local cloud"\n'
            )
            shim.chmod(0o755)
        image = images.Image(
            "", "", self.rootfs, {**self.env, **self.args}, [], [], self.workdir, environment
        )
        env = containers.environment_of(image, {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        env["PATH"] = f"/tmp/.tools:{env['PATH']}"  # noqa: S108 - within the container
        with subprocess.Popen(
            containers.build_argv(self.place.cache, image, folder, self._keeping_folders(argv), upper),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                say("    " + line.rstrip())
        for (
            secret
        ) in secrets:  # an overlay's upper folder must not keep what was mounted for the command only
            secret.unlink(missing_ok=True)
        self._tidy(upper, folder)
        if process.returncode:
            for made in (layer, environment):
                shutil.rmtree(made, ignore_errors=True)
            raise BuildError(
                f'line {instruction.line}: process "{shown}" did not complete successfully: exit code: '
                f"{process.returncode}"
            )
        (layer / "complete").touch()

    def _keeping_folders(self, argv: list[str]) -> list[str]:
        """The command, and after it a copy of the top-level folders that it made.

        Only those that exist before are overlaid.
        """
        known = (
            {p.name for p in Path("/").iterdir()}
            | {p.name for p in self.rootfs.iterdir()}
            | {"tmp", "root", "run"}
        )
        script = (
            '"$@" || exit $?; '
            'for d in /*; do case " $KNOWN " in *" ${d#/} "*) ;; *) cp -a "$d" /tmp/.new/ ;; esac; done'
        )
        return [
            "/bin/sh",
            "-c",
            f"KNOWN='{' '.join(sorted(known))}'; mkdir /tmp/.new; {script}",
            "run",
            *argv,
        ]

    @staticmethod
    def _tidy(upper: Path, folder: Path) -> None:
        """Take what the namespace itself put into the upper folder out, and what the command made at the top
        level in.
        """
        for name in ("etc/hosts", "etc/resolv.conf"):
            (upper / name).unlink(missing_ok=True)
        for work in upper.glob("*.work"):
            shutil.rmtree(work, ignore_errors=True)
        for made in (folder / "tmp" / ".new").glob("*"):
            shutil.move(made, upper / made.name)
        for empty in [upper / "opt/ml", *upper.glob("*")]:
            with suppress(OSError):
                empty.rmdir()

    def _mount_secrets(self, instruction: Instruction, folder: Path) -> list[Path]:
        """Put the secrets of ``--mount=type=secret`` where the command looks for them.

        The files to remove afterwards.
        """
        made = []
        for mount in instruction.flags.get("mount", []):
            options = dict(part.split("=", 1) for part in mount.split(",") if "=" in part)
            if options.get("type") == "cache":
                continue  # only makes it faster
            if options.get("type") != "secret":
                raise BuildError(
                    f"line {instruction.line}: --mount={mount}: only type=secret and type=cache are done by "
                    "the local cloud"
                )
            name = options.get("id", "")
            if name not in self.secrets:
                if options.get("required") == "true":
                    raise BuildError(
                        f"line {instruction.line}: secret {name}: not found: give it with --secret "
                        f"id={name},src=…"
                    )
                continue
            target = Path(options.get("target") or options.get("dst") or f"/run/secrets/{name}")
            place = {"root": folder / "home", "tmp": folder / "tmp"}.get(target.parts[1])
            if place is None:
                raise BuildError(
                    f"line {instruction.line}: the local cloud mounts secrets below /root and /tmp only, "
                    f"not at {target}"
                )
            path = place.joinpath(*target.parts[2:])
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.secrets[name], path)
            made.append(path)
        return made

    # -- result ---------------------------------------------------------------------------------------------
    def config(self) -> dict:
        """The OCI configuration."""
        labels = {**self.labels, images.ENVIRONMENT_LABEL: self.python_env.name}
        return {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": [f"{k}={v}" for k, v in sorted(self.env.items())],
                "Entrypoint": self.entrypoint,
                "Cmd": self.command,
                "WorkingDir": self.workdir,
                "Labels": labels,
                "ExposedPorts": self.ports,
            },
            "rootfs": {"type": "layers", "diff_ids": []},
        }


def clone_environment(cache: Path, source: Path, target: Path) -> None:
    """A copy of a virtual environment that shares its files until one is replaced (installers replace, they
    do not edit).
    """
    shutil.copytree(
        source, target, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns("bin", ".complete")
    )
    (target / "bin").mkdir()
    for program in (source / "bin").iterdir():
        copy = target / "bin" / program.name
        if program.is_symlink() or program.is_dir():
            copy.symlink_to(program.readlink()) if program.is_symlink() else shutil.copytree(program, copy)
            continue
        shutil.copy2(program, copy)
        content = copy.read_bytes()
        if str(source).encode() in content[:4096] and b"\0" not in content[:4096]:
            copy.write_bytes(content.replace(str(source).encode(), str(target).encode()))
    toolbox.add_pip(cache, target, internet=False)


def _link(source: str, target: str) -> None:
    if source.endswith("__main__.py") and "/pip/" in source:  # is written anew for each environment
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def pack(rootfs: Path) -> bytes:
    """The image's files as a tar archive that is the same for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted(rootfs.rglob("*")):
            if not (path.is_file() or path.is_dir() or path.is_symlink()):
                continue  # what an overlay marks as deleted
            info = archive.gettarinfo(path, str(path.relative_to(rootfs)))
            info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
            if info.isfile():
                with path.open("rb") as handle:
                    archive.addfile(info, handle)
            else:
                archive.addfile(info)
    return out.getvalue()


# -- the commands ----------------------------------------------------------------------------------------
def build(place: Place, options: argparse.Namespace) -> int:
    """docker build"""
    context = Path(options.context).resolve()
    if not context.is_dir():
        raise BuildError(f"unable to prepare context: path {options.context!r} not found")
    file = Path(options.file) if options.file else context / "Dockerfile"
    if not file.is_file():
        raise BuildError(f"failed to read dockerfile: open {file}: no such file or directory")
    arguments = {
        k: v if sep else os.environ.get(k, "") for k, sep, v in (a.partition("=") for a in options.build_arg)
    }
    secrets = {}
    for given in options.secret:
        parts = dict(p.split("=", 1) for p in given.split(",") if "=" in p)
        source = Path(parts.get("src") or parts.get("source") or "")
        if not source.is_file():
            raise BuildError(f"failed to stat {source}: no such file or directory (--secret {given})")
        secrets[parts["id"]] = source
    place.store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.store) as name:
        work = Path(name)
        (work / "rootfs").mkdir()
        one = Build(place, context, arguments, secrets, work / "rootfs", work)
        one.run(dockerfile.read(file.read_text()))
        layer, config = pack(one.rootfs), one.config()
    config["rootfs"]["diff_ids"] = ["sha256:" + hashlib.sha256(layer).hexdigest()]
    identity = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    folder = place.store / identity[:24]
    folder.mkdir(exist_ok=True)
    (folder / "layer.tar").write_bytes(layer)
    (folder / "config.json").write_text(json.dumps(config, sort_keys=True))
    for tag in options.tag:
        _tags(place, {_full(tag): folder.name})
        say(f"naming to {_full(tag)}")
    say(f"writing image sha256:{identity}")
    prune(place)
    return 0


def prune(place: Place) -> None:
    """Remove the results of RUN that no build has used for some days."""
    oldest = time.time() - _KEPT_DAYS * 86_400
    for layer in (place.cache / "images").glob("layer-*/complete"):
        if layer.stat().st_mtime < oldest:
            key = layer.parent.name.removeprefix("layer-")
            with images.locked(layer.parent.with_suffix(".lock")):
                shutil.rmtree(layer.parent, ignore_errors=True)
                shutil.rmtree(place.cache / "images" / f"env-{key}", ignore_errors=True)


def push(place: Place, options: argparse.Namespace) -> int:
    """docker push"""
    uri = _full(options.image)
    folder = _found(place, uri)
    config = json.loads((folder / "config.json").read_text())
    reference = images.parse(uri)
    if reference.registry not in _logins(place):
        raise BuildError(
            f"denied: no basic auth credentials for {reference.registry}: docker login comes first "
            "(aws ecr get-login-password | docker login --username AWS --password-stdin …)"
        )
    say(f"The push refers to repository [{reference.registry}/{reference.repository}]")
    digest = images.push(place, reference, config, (folder / "layer.tar").read_bytes())
    say(f"{reference.tag}: digest: {digest}")
    return 0


def pull(place: Place, options: argparse.Namespace) -> int:
    """docker pull"""
    image = images.pull(place, _full(options.image))
    say(f"Digest: {image.digest}\nStatus: Image is up to date for {image.uri}")
    return 0


def tag(place: Place, options: argparse.Namespace) -> int:
    """docker tag"""
    _tags(place, {_full(options.target): _found(place, _full(options.source)).name})
    return 0


def login(place: Place, options: argparse.Namespace) -> int:
    """docker login"""
    password = sys.stdin.read().strip() if options.password_stdin else options.password
    if options.username != "AWS" or not password:
        raise BuildError(
            f"Error response from daemon: login attempt to https://{options.registry}/v2/ failed with "
            "status: 401 Unauthorized"
        )
    place.store.mkdir(parents=True, exist_ok=True)
    logins = _logins(place) | {options.registry.removeprefix("https://").rstrip("/"): password}
    file = place.store / f"logins-{_session()}.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(logins))
    say("Login Succeeded")
    return 0


def logout(place: Place, options: argparse.Namespace) -> int:
    """docker logout"""
    (place.store / f"logins-{_session()}.json").unlink(missing_ok=True)
    return 0


def image(place: Place, options: argparse.Namespace) -> int:
    """docker image inspect|ls"""
    if options.action == "ls":
        return listing(place, options)
    found = []
    for name in options.names:
        folder = _found(place, _full(name))
        config = json.loads((folder / "config.json").read_text())
        found.append({"Id": f"sha256:{folder.name}", "RepoTags": [name], "Config": config["config"]})
    say(json.dumps(found, indent=4))
    return 0


def listing(place: Place, options: argparse.Namespace) -> int:
    """docker images"""
    for name, folder in sorted(_known(place).items()):
        say(folder if options.quiet else f"{name}\t{folder}")
    return 0


def version(place: Place, options: argparse.Namespace) -> int:
    """docker version"""
    say("Docker stand-in of the local cloud: no engine; see docker.py")
    return 0


def _session() -> str:
    """Each build has its own home and so its own logins, as each build container has."""
    return hashlib.sha256(os.environ.get("HOME", "").encode()).hexdigest()[:16]


def _logins(place: Place) -> dict[str, str]:
    file = place.store / f"logins-{_session()}.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _known(place: Place) -> dict[str, str]:
    file = place.store / "tags.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _tags(place: Place, new: dict[str, str]) -> None:
    with images.locked(place.store / "tags.lock"):
        (place.store / "tags.json").write_text(json.dumps({**_known(place), **new}))


def _found(place: Place, uri: str) -> Path:
    name = _known(place).get(uri)
    if name is None:
        raise BuildError(f"An image does not exist locally with the tag: {uri}")
    return place.store / name


def _full(name: str) -> str:
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last else f"{name}:latest"


def say(text: str) -> None:
    """Print at once, in order with what commands print."""
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="docker", description="The docker of the local cloud's builds.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, function, **options) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=function.__doc__, **options)
        one.set_defaults(function=function)
        return one

    one = command("build", build)
    one.add_argument("context")
    one.add_argument("-t", "--tag", action="append", default=[])
    one.add_argument("-f", "--file")
    one.add_argument("--build-arg", action="append", default=[])
    one.add_argument("--secret", action="append", default=[])
    one.add_argument("-q", "--quiet", action="store_true")
    for flag in ("--pull", "--no-cache", "--load", "--rm"):
        one.add_argument(flag, action="store_true")
    for option in (
        "--platform",
        "--provenance",
        "--progress",
        "--sbom",
        "--network",
        "--cache-from",
        "--cache-to",
    ):
        one.add_argument(option)
    command("push", push).add_argument("image")
    command("pull", pull).add_argument("image")
    one = command("tag", tag)
    one.add_argument("source")
    one.add_argument("target")
    one = command("login", login)
    one.add_argument("registry")
    one.add_argument("-u", "--username", default="")
    one.add_argument("-p", "--password", default="")
    one.add_argument("--password-stdin", action="store_true")
    command("logout", logout).add_argument("registry", nargs="?")
    one = command("image", image)
    one.add_argument("action", choices=["inspect", "ls"])
    one.add_argument("names", nargs="*")
    one.add_argument("-q", "--quiet", action="store_true")
    command("images", listing).add_argument("-q", "--quiet", action="store_true")
    command("version", version)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Be docker; 0 when done, 1 with Docker's kind of message when not."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["buildx"]:
        words = words[1:]
    if words[:1] == ["--version"]:
        words = ["version"]
    options = _parser().parse_args(words)
    try:
        return options.function(Place.here(), options)
    except (
        BuildError,
        DockerfileError,
        images.ImageError,
        base_images.BaseImageError,
        toolbox.ToolError,
        containers.ContainersUnavailable,
    ) as error:
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
