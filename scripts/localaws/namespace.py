"""Enter a container without a container engine: a root of its own in a mount namespace, then the program.

Run by containers.py as a script with a file that describes the container. The new root is this machine's,
seen through overlays: the image's files lie over the machine's top-level folders, what the program writes
outside ``/opt/ml`` goes to memory and is gone with it, ``/tmp`` and ``/root`` are the container's own. Works
as root and, by a user namespace, as an ordinary user. Nothing here imports more than it must: it runs before
each job and each model server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sys
from pathlib import Path

NEWNS, NEWUSER = 0x00020000, 0x10000000
RDONLY, BIND, REC, PRIVATE = 1, 4096, 16384, 1 << 18
#: top-level folders that the program may write to as it likes, without the machine seeing it
_OVERLAID = ("etc", "opt", "usr", "var")
#: top-level folders that are the container's own
_PRIVATE = ("tmp", "root", "run")
_LEFT_OUT = ("boot", "lost+found")
_libc = ctypes.CDLL(None, use_errno=True)


def unshare() -> None:
    """Leave the machine's mount namespace, as an ordinary user by way of a user namespace. Raises OSError."""
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and _libc.unshare(NEWNS) == 0:
        return
    if _libc.unshare(NEWNS | NEWUSER):
        raise _error("unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def mount(source: str | Path, target: str | Path, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    words = [os.fsencode(str(w)) for w in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None):
        raise _error(f"mount {kind or 'bind'} of {source} on {target}")


def bind(source: str | Path, target: str | Path) -> None:
    """Show a folder or file, with what is mounted below it, at another place."""
    mount(source, target, "", BIND | REC)


def overlay(target: Path, scratch: Path, *layers: Path, upper: Path | None = None) -> None:
    """Mount the layers (topmost first) over each other on ``target``, writable in memory or in ``upper``."""
    work = (
        upper.with_name(f"{upper.name}.work") if upper else scratch / "work"
    )  # on the file system of the upper folder
    upper = upper or scratch / "upper"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    lower = ":".join(str(layer).replace("\\", "\\\\").replace(":", "\\:") for layer in layers)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    try:
        mount("overlay", target, "overlay", 0, options + ",userxattr")
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 5.11 do not know userxattr
            raise
        mount("overlay", target, "overlay", 0, options)


def build(spec: dict, scratch: Path) -> Path:
    """Make the container's root below ``scratch`` (a tmpfs); its path."""
    mount("none", "/", "", REC | PRIVATE)
    mount("tmpfs", scratch, "tmpfs", 0, "mode=0755")
    root, image = scratch / "root", Path(spec["rootfs"])
    root.mkdir()
    own = {entry.name: entry for entry in image.iterdir()}
    late = []  # of the image, and a link or a file on this machine: copied at the end
    for name in sorted({entry.name for entry in Path("/").iterdir()} | set(own) | set(_PRIVATE)):
        host, target = Path("/", name), root / name
        if name in _PRIVATE:
            _private(spec, name, target, own.get(name))
        elif host.is_symlink():
            target.symlink_to(host.readlink())
            late += [name] if name in own else []
        elif name in own and not own[name].is_dir():
            late.append(name)
        elif name in own or name in _OVERLAID:
            _overlaid(spec, name, target, scratch / "layers" / name, own.get(name))
        elif host.is_dir() and name not in _LEFT_OUT:
            target.mkdir()
            bind(host, target)
    for name in late:
        _copy(own[name], root / name)
    for path in map(Path, spec["keep"]):
        target = root / path.relative_to("/")
        if path.parts[1] in _PRIVATE:
            target.mkdir(parents=True, exist_ok=True)
            bind(path, target)
    environment = Path(spec["python_env"])
    if not spec.get("upper"):  # a build installs into it; what runs later must not change it
        overlay(root / environment.relative_to("/"), scratch / "environment", environment)
    bind(spec["ml"], root / "opt/ml")
    return root


def _private(spec: dict, name: str, target: Path, own: Path | None) -> None:
    target.mkdir(mode=0o1777 if name == "tmp" else 0o755)
    if name in spec["folders"]:
        bind(spec["folders"][name], target)
    if own is not None and own.is_dir():
        shutil.copytree(own, target, symlinks=True, dirs_exist_ok=True)


def _overlaid(spec: dict, name: str, target: Path, scratch: Path, own: Path | None) -> None:
    host = Path("/", name)
    target.mkdir()
    kept = Path(spec["upper"]) / name if spec.get("upper") else None
    upper = kept or scratch / "upper"
    upper.mkdir(parents=True)
    if name == "etc":  # often mounted one by one or linked to /run: an overlay would miss them
        (upper / "hosts").write_text(_text("/etc/hosts") + "".join(f"127.0.0.1 {h}\n" for h in spec["hosts"]))
        (upper / "resolv.conf").write_text(_text("/etc/resolv.conf"))
    if name == "opt":
        (upper / "ml").mkdir()
    overlay(target, scratch, *([own] if own else []), *([host] if host.is_dir() else []), upper=kept)
    if own is None:
        for below in _mounted_below(host):
            if below.is_dir() and (target.parent / below.relative_to("/")).is_dir():
                bind(below, target.parent / below.relative_to("/"))


def _mounted_below(host: Path) -> list[Path]:
    found = [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted({p for p in found if p != host and p.is_relative_to(host)})


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _text(path: str) -> str:
    try:
        text = Path(path).read_text()
    except OSError:
        return ""
    return text if text.endswith("\n") else text + "\n"


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def main(argv: list[str]) -> int:
    """Become the program that the file at ``argv[0]`` describes; 125 when its container cannot be made."""
    spec = json.loads(Path(argv[0]).read_text())
    try:
        unshare()
        root = build(spec, Path(spec["scratch"]))
        os.chroot(root)
        with contextlib.suppress(OSError):
            Path(spec["workdir"]).mkdir(parents=True, exist_ok=True)
        os.chdir(spec["workdir"])
    except OSError as error:
        print(f"the container cannot be made: {error.strerror or error}", file=sys.stderr, flush=True)
        return 125
    if not spec["argv"]:  # a trial
        return 0
    try:
        os.execvp(spec["argv"][0], spec["argv"])  # noqa: S606 - what the build asked for
    except OSError as error:
        print(f"exec: {spec['argv'][0]!r}: {error.strerror}", file=sys.stderr, flush=True)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
