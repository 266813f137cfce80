"""Builds a release of the platform in memory: every object, its key, and the entry template stamped with
the keys (flow A).

Called by scripts/publish.py, which uploads what this returns. The same files give the same bytes and
therefore the same keys: zips are sorted and carry no times, and every key contains the hash of its content.
A manifest lists the SHA-256 of every object.
Nothing here speaks to AWS.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import compose

ROOT = Path(__file__).resolve().parent.parent
# the repository of each persona, and the whole: mapping key -> (folder, CodeCommit repository)
REPOSITORIES = {
    "PlatformArchive": (".", "aws-enterprise-mlops-platform"),
    "CfnArchive": ("mlops-cfn", "mlops-cfn"),
    "CicdArchive": ("mlops-cicd", "mlops-cicd"),
    "SeedcodeArchive": ("seedcode-repo", "seedcode-repo"),
}
PRODUCTS = {"ProjectTemplate": "2-smproject.yaml", "UserTemplate": "3-user.yaml"}
# what an unpacked source without git may contain beside the sources
NOT_SOURCE = {
    ".git",
    ".cache",
    "build",
    "__pycache__",
    ".pytest_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    "taskcat_outputs",
}


# Hex digits of a hash in a key: 128 bits, so that nobody finds other content for a key that is published.
HASH_LENGTH = 32


class ReleaseError(ValueError):
    """The sources do not make a release; the message says which file and why."""


@dataclass(frozen=True)
class Release:
    """A release that is ready to upload."""

    version: str
    bucket: str
    entry_key: str
    manifest_key: str
    keys: dict[str, str]
    objects: dict[str, bytes] = field(repr=False)

    @property
    def entry(self) -> bytes:
        """The packaged 1-infra.yaml."""
        return self.objects[self.entry_key]

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of every object of the release but the manifest, which says these."""
        return json.loads(self.objects[self.manifest_key])["sha256"]


def short_hash(data: bytes) -> str:
    """What makes a key immutable: other content, other key."""
    return hashlib.sha256(data).hexdigest()[:HASH_LENGTH]


def source_files(root: Path) -> list[str]:
    """Every source file of the repository, relative and sorted: what git knows, or all of an unpacked
    source.
    """
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        # a file that was deleted but not yet committed is still listed
        return sorted({name for name in listed if name and (root / name).is_file()})
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [n for n in subfolders if n not in NOT_SOURCE and not n.startswith(".venv")]
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    return sorted(found)


def read_under(root: Path, names: Iterable[str], folder: str) -> dict[str, bytes]:
    """The files of one folder, named relative to it."""
    prefix = "" if folder == "." else f"{folder}/"
    return {name[len(prefix) :]: (root / name).read_bytes() for name in names if name.startswith(prefix)}


def pascal(name: str) -> str:
    """job_tagger -> JobTagger"""
    return "".join(part.capitalize() for part in re.split(r"[-_]", name))


def mapping_of(name: str, root: yaml.Node) -> yaml.MappingNode:
    """Mappings.Release.Keys of a template of mlops-cfn."""
    node: Any = root
    for step in ("Mappings", "Release", "Keys"):
        node = next((value for key, value in node.value if key.value == step), None)
        if not isinstance(node, yaml.MappingNode):
            raise ReleaseError(f"mlops-cfn/{name}: Mappings.Release.Keys is missing ({step} was not found)")
    return node


def stamp(name: str, template: bytes, values: Mapping[str, str]) -> bytes:
    """A template of mlops-cfn with Mappings.Release.Keys filled in; tags such as !Sub stay as they are,
    comments go.
    """
    root = yaml.compose(template)
    node = mapping_of(name, root)
    declared = {key.value for key, _ in node.value}
    if declared != set(values):
        unknown, missing = sorted(declared - set(values)), sorted(set(values) - declared)
        raise ReleaseError(
            f"mlops-cfn/{name}: Mappings.Release.Keys does not match the sources: "
            f"nothing in the sources for {unknown or 'none'}, not declared {missing or 'none'}"
        )
    for key, value in node.value:
        value.value, value.style, value.tag = values[key.value], "'", "tag:yaml.org,2002:str"
    return yaml.serialize(root, width=130).encode()


def version_of(root: Path) -> str:
    """The git tag of the commit, or the last tag with the commit behind it, as S3 keys and catalog versions
    may hold it.
    """

    is_repository = (root / ".git").exists()  # a folder inside somebody else's repository has not its version

    def git(*arguments: str) -> str:
        if not is_repository:
            return ""
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    # CodePipeline hands CodeBuild a source without .git, and says the commit in the environment
    commit = commit or os.environ.get("CODEBUILD_RESOLVED_SOURCE_VERSION", "")
    if not re.fullmatch(r"[0-9a-f]{12,64}", commit):
        raise ReleaseError(
            "the commit is not known here (no git repository): pass --version, for example --version 1.2.0"
        )
    if tag := git("describe", "--tags", "--exact-match", "--match", "v[0-9]*"):
        version = tag[1:]
    else:
        last = git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*")
        version = f"{last[1:] if last else '0.1.0'}-{commit[:12]}"
    if not git("status", "--porcelain"):
        return version
    # a version of the catalog never changes, so other changes to the same commit are another version
    content = b"".join(name.encode() + (root / name).read_bytes() for name in source_files(root))
    return f"{version}-dirty-{short_hash(content)[:6]}"


def build(root: Path, version: str, bucket: str) -> Release:
    """Read the sources once and make every object of the release."""
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}", version):
        raise ReleaseError(
            f"version {version!r}: letters, digits, dots, hyphens and underscores only, for example 1.2.0"
        )
    names = source_files(root)
    objects: dict[str, bytes] = {}
    keys: dict[str, str] = {}

    def add(name: str, kind: str, stem: str, suffix: str, data: bytes) -> None:
        keys[name] = f"{version}/{kind}/{stem}.{short_hash(data)}.{suffix}"
        objects[keys[name]] = data

    def add_folder(name: str, kind: str, files: Mapping[str, bytes]) -> None:
        """A folder that is found by its prefix, which holds one hash of all of it."""
        together = b"".join(file.encode() + files[file] for file in sorted(files))
        keys[name] = f"{version}/{kind}/{short_hash(together)}"
        objects.update({f"{keys[name]}/{file}": data for file, data in files.items()})

    cfn = read_under(root, names, "mlops-cfn")
    if "1-infra.yaml" not in cfn:
        raise ReleaseError(f"{root}/mlops-cfn/1-infra.yaml is missing")
    for name, data in cfn.items():
        if match := re.fullmatch(r"infra/([a-z-]+)\.yaml", name):
            add(f"{pascal(match[1])}Template", "templates", match[1], "yaml", data)
    for file in PRODUCTS.values():
        if file not in cfn:
            raise ReleaseError(f"{root}/mlops-cfn/{file} is missing")
    # a project is updated with the version it was made from, long after the next release: that version must
    # find its own nested templates, so where they lie is stamped and not read from SSM
    nested = "ProjectTemplatePrefix"
    add_folder(nested, "templates/project", read_under(root, names, "mlops-cfn/project"))
    for folder in sorted(
        {name.split("/")[1] for name in cfn if name.startswith("lambda/") and name.count("/") >= 2}
    ):
        source = read_under(root, names, f"mlops-cfn/lambda/{folder}")
        add(f"{pascal(folder)}Function", "functions", folder, "zip", compose.zip_bytes(source))
    # likewise the functions of a project: those that the product declares
    product = PRODUCTS["ProjectTemplate"]
    declared = {key.value for key, _ in mapping_of(product, yaml.compose(cfn[product])).value}
    own = {name for name in keys if name == nested or name.endswith("Function") and name in declared}
    cfn[product] = stamp(product, cfn[product], {name: keys.pop(name) for name in sorted(own)})
    for name, file in PRODUCTS.items():
        add(name, "templates", Path(file).stem, "yaml", cfn[file])
    for name, (folder, repository) in REPOSITORIES.items():
        add(name, "repositories", repository, "zip", compose.zip_bytes(read_under(root, names, folder)))

    # launched in other accounts by prepare_account.py, which finds them by name: no stack refers to them
    for name, data in cfn.items():
        if match := re.fullmatch(r"accounts/([a-z-]+)\.yaml", name):
            objects[f"{version}/accounts/{match[1]}.{short_hash(data)}.yaml"] = data

    seedcode = root / "seedcode-repo"
    seeds = {
        f"{framework}-{inference}.zip": compose.zip_bytes(compose.compose(framework, inference, seedcode))
        for framework, inference in compose.combinations(seedcode)
    }
    add_folder("SeedPrefix", "seeds", seeds)

    stamped = {**keys, "Bucket": bucket, "Version": version}
    entry = stamp("1-infra.yaml", cfn["1-infra.yaml"], stamped)
    entry_key = f"{version}/1-infra.{short_hash(entry)}.yaml"
    objects[entry_key] = entry
    checksums = {key: hashlib.sha256(data).hexdigest() for key, data in sorted(objects.items())}
    manifest = json.dumps({"version": version, "entry": entry_key, "sha256": checksums}, indent=1) + "\n"
    manifest_key = f"{version}/manifest.{short_hash(manifest.encode())}.json"
    objects[manifest_key] = manifest.encode()
    return Release(version, bucket, entry_key, manifest_key, keys, objects)
