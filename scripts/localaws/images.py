"""Container images without a container engine: what ECR holds, as a folder of files and a Python environment.

An image of the local cloud is an OCI image in ECR like any other: a configuration and layers of files. Where
a real image carries an operating system and Python packages, this one names, by the label
``localaws.python-env``, a virtual environment in the cache that holds the packages. ``pull`` gives both to
whoever runs the container (docker.py makes such images from a Dockerfile; SageMaker jobs and endpoints run
them).
"""

from __future__ import annotations

import base64
import fcntl
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ENVIRONMENT_LABEL = "localaws.python-env"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
#: Python before 3.11.4 has no filters, and keeps everything
_KEEP_LINKS: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
_URI = re.compile(
    r"(?P<registry>(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/"
    r"(?P<repository>[a-z0-9][a-z0-9._/-]*?)(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class Place(Protocol):
    """What this module needs of the cloud: where it answers, whose it is, and where files may be kept."""

    endpoint: str
    account: str
    cache: Path
    home: Path


class ImageError(RuntimeError):
    """An image that cannot be found, pushed or run.

    The message is what Docker or ECR would say, and the cause.
    """


@dataclass(frozen=True)
class Image:
    """A pulled image, ready to run.

    ``rootfs`` holds the image's own files (``opt/program/…``), to be laid over the machine's in a mount
    namespace; it is shared by all who pull the image, so treat it as read-only. ``python_env`` is the virtual
    environment whose ``bin`` comes first on the container's PATH.
    """

    uri: str
    digest: str
    rootfs: Path
    env: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    workdir: str
    python_env: Path
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The parts of an ECR image URI."""

    registry: str
    account: str
    region: str
    repository: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        """What the registry's API calls the version: the digest when there is one, else the tag."""
        return self.digest or self.tag


def parse(uri: str) -> Reference:
    """The parts of an ECR image URI; without tag and digest it means ``latest``, as everywhere.

    Raises ImageError for anything that is not the URI of an image in ECR.
    """
    match = _URI.fullmatch(uri)
    if not match:
        raise ImageError(
            f"{uri!r} is not an ECR image: <account>.dkr.ecr.<region>.amazonaws.com/<repository>:<tag> is "
            "expected"
        )
    tag = match["tag"] or ("" if match["digest"] else "latest")
    return Reference(
        match["registry"], match["account"], match["region"], match["repository"], tag, match["digest"] or ""
    )


def pull(cloud: Place, uri: str) -> Image:
    """The image at an ECR URI: one that was pushed here, or one of AWS's own (base_images.py knows which).

    Raises ImageError when there is none, naming the repository and the tag.
    """
    from localaws import base_images

    reference = parse(uri)
    base = base_images.find(uri) if reference.account != cloud.account else None
    if base:
        empty = cloud.cache / "images" / "rootfs-empty"
        empty.mkdir(parents=True, exist_ok=True)
        return Image(
            uri,
            base.digest,
            empty,
            dict(base.env),
            list(base.entrypoint),
            list(base.command),
            "/",
            base_images.environment(cloud, base),
        )
    digest, manifest, config = read(cloud, reference)
    settings = config.get("config", {})
    labels = settings.get("Labels") or {}
    if ENVIRONMENT_LABEL not in labels:
        raise ImageError(
            f"{uri} was not built by the local cloud's docker (label {ENVIRONMENT_LABEL} is missing): "
            "without a container engine it cannot be run"
        )
    python_env = cloud.cache / "images" / labels[ENVIRONMENT_LABEL]
    if not (python_env / "bin" / "python").exists():
        raise ImageError(
            f"{uri}: its Python environment {python_env} is gone from the cache; build the image again"
        )
    rootfs = _unpack(cloud, reference, digest, manifest)
    env = dict(pair.split("=", 1) for pair in settings.get("Env") or [])
    return Image(
        uri,
        digest,
        rootfs,
        env,
        settings.get("Entrypoint") or [],
        settings.get("Cmd") or [],
        settings.get("WorkingDir") or "/",
        python_env,
        labels,
    )


def read(cloud: Place, reference: Reference) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Digest, manifest and configuration of an image in this account's registry."""
    status, headers, body = call(
        cloud, reference, "GET", f"manifests/{reference.name}", headers={"Accept": MANIFEST}
    )
    if status == 404 and reference.account != cloud.account and b"NAME_UNKNOWN" in body:
        from localaws import base_images

        raise ImageError(
            f"{reference.registry}/{reference.repository}: account {reference.account} is not this one "
            f"({cloud.account}) and has no such repository, and the image is none of AWS's that the local "
            f"cloud knows: {', '.join(base_images.names())}"
        )
    if status == 404:
        raise ImageError(
            f"manifest for {reference.registry}/{reference.repository}{'@' if reference.digest else ':'}"
            f"{reference.name} not found: "
            f"{_message(body)}"
        )
    _expect(status, body, (200,), reference)
    manifest = json.loads(body)
    if "digest" not in manifest.get("config", {}):
        raise ImageError(
            f"{reference.registry}/{reference.repository}: the manifest of {reference.name} names no config"
        )
    status, _, content = call(cloud, reference, "GET", f"blobs/{manifest['config']['digest']}")
    _expect(status, content, (200,), reference)
    return headers["docker-content-digest"], manifest, json.loads(content)


def push(cloud: Place, reference: Reference, config: dict[str, Any], layer: bytes) -> str:
    """Put an image of one layer under the reference's tag; its digest.

    Raises ImageError in ECR's words when the repository is unknown or the tag is immutable and taken.
    """
    packed = _gzip(layer)
    document = json.dumps(config, sort_keys=True).encode()
    for content in (packed, document):
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        status, _, body = call(cloud, reference, "POST", f"blobs/uploads/?digest={digest}", content)
        if status == 404:
            raise ImageError(
                f"name unknown: The repository with name '{reference.repository}' does not exist in the "
                "registry "
                f"with id '{reference.account}'"
            )
        _expect(status, body, (201, 202), reference)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG,
                "size": len(document),
                "digest": "sha256:" + hashlib.sha256(document).hexdigest(),
            },
            "layers": [
                {
                    "mediaType": LAYER,
                    "size": len(packed),
                    "digest": "sha256:" + hashlib.sha256(packed).hexdigest(),
                }
            ],
        },
        sort_keys=True,
    ).encode()
    status, headers, body = call(
        cloud, reference, "PUT", f"manifests/{reference.name}", manifest, {"Content-Type": MANIFEST}
    )
    if status == 400 and b"immutable" in body:
        raise ImageError(
            f"tag invalid: The image tag '{reference.tag}' already exists in the '{reference.repository}' "
            "repository "
            "and cannot be overwritten because the tag is immutable."
        )
    _expect(status, body, (200, 201), reference)
    return headers["docker-content-digest"]


def call(
    cloud: Place,
    reference: Reference,
    method: str,
    what: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request of the registry's HTTP API; the registry's host name stands in for ``localhost:<port>``.

    Docker sends what it logged in with; the cloud's own pulls (of a job's image) need no login.
    """
    login = cloud.password_of(reference.registry) if hasattr(cloud, "password_of") else ""
    basic = base64.b64encode(f"AWS:{login}".encode()).decode()
    request = urllib.request.Request(
        f"{cloud.endpoint}/v2/{reference.repository}/{what}",
        data=body,
        method=method,
        headers={
            "Host": reference.registry,
            **({"Authorization": f"Basic {basic}"} if login else {}),
            **(headers or {}),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two builds do not make the same thing at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _unpack(cloud: Place, reference: Reference, digest: str, manifest: dict[str, Any]) -> Path:
    target = cloud.home / "images" / digest.removeprefix("sha256:")[:24]
    with locked(target.with_suffix(".lock")):
        if target.is_dir():
            return target
        partial = target.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for layer in manifest["layers"]:
            status, _, body = call(cloud, reference, "GET", f"blobs/{layer['digest']}")
            _expect(status, body, (200,), reference)
            with tarfile.open(fileobj=io.BytesIO(gzip.decompress(body))) as archive:
                archive.extractall(partial, **_KEEP_LINKS)  # noqa: S202 - a layer that a build here pushed
        partial.rename(target)
    return target


def _gzip(content: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as handle:
        handle.write(content)
    return out.getvalue()


def _message(body: bytes) -> str:
    try:
        return json.loads(body)["errors"][0]["message"]
    except (ValueError, LookupError, TypeError):
        return body[:300].decode(errors="replace")


def _expect(status: int, body: bytes, wanted: tuple[int, ...], reference: Reference) -> None:
    if status not in wanted:
        raise ImageError(
            f"{reference.registry}/{reference.repository}: the registry answered {status}: {_message(body)}"
        )
