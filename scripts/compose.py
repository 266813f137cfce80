"""Compose a project's repository from the layers of seedcode-repo: base + framework + inference mode.

Called by scripts/publish.py (an archive a combination, in the release) and by the tests.

    python scripts/compose.py --framework sklearn --inference realtime --out build/project      a folder
    python scripts/compose.py --framework sklearn --inference realtime --out build/seed.zip     a zip

A file may come from one layer only; the same file in two layers is an error that names both. Where a file
must have something from each layer (mlops.yml), each layer has a part: `mlops.part.yml` of base, framework
and inference, joined in this order. What the joined `requirements-dev.in` resolves to lies in `locks/`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

SEEDCODE = Path(__file__).resolve().parents[1] / "seedcode-repo"
# What running the code leaves behind never belongs to a project.
IGNORED_FOLDERS = {"__pycache__", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints", "build"}
IGNORED_SUFFIXES = {".pyc", ".pyo"}
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


class ComposeError(ValueError):
    """The layers do not fit together; the message names the files."""


def combinations(seedcode: Path = SEEDCODE) -> list[tuple[str, str]]:
    """Return every (framework, inference mode) that can be composed, sorted."""
    return [(f, i) for f in _choices(seedcode / "frameworks") for i in _choices(seedcode / "inference")]


def compose(framework: str, inference: str, seedcode: Path = SEEDCODE) -> dict[str, bytes]:
    """Return the files of the composed project: path with forward slashes -> content, sorted by path."""
    for kind, name in (("frameworks", framework), ("inference", inference)):
        choices = _choices(seedcode / kind)
        if name not in choices:
            raise ComposeError(f"{kind}: there is no {name!r}; choose one of {', '.join(choices)}")
    files: dict[str, bytes] = {}
    owner: dict[str, str] = {}
    parts: dict[str, list[tuple[str, bytes]]] = {}
    for layer in ("base", f"frameworks/{framework}", f"inference/{inference}"):
        for path, content in _files(seedcode / layer):
            whole = _whole(path)
            if whole:
                parts.setdefault(whole, []).append((layer, content))
            elif path in owner:
                raise ComposeError(f"{path} is in two layers: {owner[path]} and {layer}")
            else:
                files[path], owner[path] = content, layer
    for whole, pieces in parts.items():
        if whole in owner:
            layers = ", ".join(layer for layer, _ in pieces)
            raise ComposeError(f"{whole} is in two layers: {owner[whole]} has all of it, {layers} a part")
        files[whole] = b"\n".join(content.rstrip(b"\n") + b"\n" for _, content in pieces)
    lock = seedcode / "locks" / f"{framework}-{inference}.txt"
    if lock.is_file():  # what requirements-dev.in resolves to, with hashes; made by `make lock`
        files["requirements-dev.txt"] = lock.read_bytes()
    return dict(sorted(files.items()))


def write_folder(files: dict[str, bytes], folder: Path) -> None:
    """Write the project into a new or empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise ComposeError(f"{folder}: the folder is not empty")
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """Return the project as a zip; the same files give the same bytes on every machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in sorted(files.items()):
            entry = zipfile.ZipInfo(path, ZIP_TIME)
            entry.create_system = 3  # Unix, also when made on Windows
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 done, 1 the layers do not fit, 2 wrong usage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", help="a folder of seedcode-repo/frameworks")
    parser.add_argument("--inference", help="a folder of seedcode-repo/inference")
    parser.add_argument("--out", type=Path, help="a new or empty folder, or a file that ends in .zip")
    parser.add_argument("--seedcode", type=Path, default=SEEDCODE, help="the folder with the layers")
    parser.add_argument("--list", action="store_true", help="print the combinations as JSON and stop")
    args = parser.parse_args(argv)
    if args.list:
        print(json.dumps([{"framework": f, "inference": i} for f, i in combinations(args.seedcode)]))
        return 0
    if not (args.framework and args.inference and args.out):
        parser.error("--framework, --inference and --out are needed (or --list)")
    try:
        files = compose(args.framework, args.inference, args.seedcode)
        if args.out.suffix == ".zip":
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_bytes(zip_bytes(files))
        else:
            write_folder(files, args.out)
    except ComposeError as error:
        print(f"compose: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"out": str(args.out), "files": len(files)}))
    return 0


def _choices(folder: Path) -> list[str]:
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name not in IGNORED_FOLDERS
    )


def _files(layer: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(layer.rglob("*")):
        relative = path.relative_to(layer)
        if (
            path.is_file()
            and path.suffix not in IGNORED_SUFFIXES
            and not IGNORED_FOLDERS.intersection(relative.parts)
        ):
            yield relative.as_posix(), path.read_bytes()


def _whole(path: str) -> str | None:
    """mlops.part.yml -> mlops.yml; None for a file that is no part."""
    name = PurePosixPath(path)
    return (
        str(name.with_name(name.stem.removesuffix(".part") + name.suffix))
        if name.stem.endswith(".part")
        else None
    )


if __name__ == "__main__":
    sys.exit(main())
