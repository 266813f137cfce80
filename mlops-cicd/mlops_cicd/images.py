"""Stage Images of the build pipeline (flow E): the project's three images, built only where content changed.

An image's tag is the hash of everything it is built from, so a tag that ECR already has is never built again.
What the other stages get is the digest: whatever happens to a tag, they run the image that was built. One
CodeBuild run builds all three: a new account has one concurrent build.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
from botocore.exceptions import ClientError

from . import sdk
from .api import TAG as API_TAG
from .batch import batch_settings
from .config import load_config
from .console import OK, Fault, quoted, say, script, write_json
from .settings import IMAGES, Project, load_project

TAG_LENGTH = 16
LAST_LINES = 25
# What a project's image may be built on; other images would come from registries that nobody has looked at.
BASE = re.compile(r"\$(\{BASE_IMAGE\}|BASE_IMAGE)( +AS +\w+)?", re.IGNORECASE | re.ASCII)
IGNORED = {"__pycache__", ".git", ".pytest_cache", ".ipynb_checkpoints"}


# ------------------------------------------------------------ content hash


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Instructions of a Dockerfile as (name, rest), comments dropped and continued lines joined."""
    pending = ""
    for line in dockerfile.splitlines():
        if line.lstrip().startswith("#"):
            continue
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        if pending:
            name, _, rest = pending.partition(" ")
            yield name.upper(), rest.strip()
        pending = ""
    if pending:
        name, _, rest = pending.partition(" ")
        yield name.upper(), rest.strip()


def sources(dockerfile: str) -> list[str]:
    """What COPY and ADD take from the build context; copies from other stages and downloads are not in it."""
    found: list[str] = []
    for name, rest in instructions(dockerfile):
        if name not in ("COPY", "ADD"):
            continue
        flags = re.match(r"((?:--\S+\s+)*)(.*)", rest, re.S)
        options, body = (flags.group(1), flags.group(2)) if flags else ("", rest)
        if "--from=" in options:
            continue
        try:
            words = json.loads(body) if body.startswith("[") else body.split()
        except ValueError as error:
            raise Fault(f"{name} {quoted(body)} in a Dockerfile is not a JSON list: {error}") from error
        found += [word for word in words[:-1] if "://" not in word]
    return found


def context_files(project: Path, pattern: str, dockerfile: str) -> list[Path]:
    """The files that a COPY source stands for."""
    relative = pattern.lstrip("/")
    relative = relative.removeprefix("./") or "."
    if ".." in Path(relative).parts:
        raise Fault(f"{dockerfile} copies {quoted(pattern)}; allowed: files of the repository, without ..")
    matches = [project] if relative == "." else sorted(project.glob(relative))
    if not matches:
        raise Fault(
            f"{dockerfile} copies {pattern}; the repository has no such file: correct one or add the other"
        )
    files: list[Path] = []
    inside = project.resolve()
    for match in matches:
        below = sorted(match.rglob("*")) if match.is_dir() else [match]
        files += [
            path
            for path in below
            if path.is_file() and not IGNORED & set(path.relative_to(project).parts) and path.suffix != ".pyc"
        ]
    for path in files:
        if not path.resolve().is_relative_to(inside):
            raise Fault(
                f"{dockerfile} copies {path.relative_to(project)}, a link that leads out of the repository: "
                "commit the file itself"
            )
    return files


def content_tag(project: Path, name: str, build_args: Mapping[str, str]) -> str:
    """Hash of the Dockerfile, of every file it copies (path, mode, content) and of the build arguments."""
    dockerfile = f"containers/{name}/Dockerfile"
    path = project / dockerfile
    if not path.is_file():
        raise Fault(f"{dockerfile} is missing: it says how the {name} image is built")
    text = path.read_text(encoding="utf-8")
    bases = [rest for instruction, rest in instructions(text) if instruction == "FROM"]
    if not bases or any(not BASE.fullmatch(base) for base in bases):
        raise Fault(
            f"{dockerfile} builds on {', '.join(map(quoted, bases)) or 'nothing'}; allowed: "
            "FROM ${BASE_IMAGE}, the SageMaker image that framework in mlops.yml names"
        )
    stages = {str(number) for number in range(len(bases))}
    stages |= {word.lower() for base in bases for word in re.findall(r"(?i: AS +(\w+))", base)}
    for _, rest in instructions(text):
        if foreign := [one for one in re.findall(r"\bfrom=([^\s,]+)", rest) if one.lower() not in stages]:
            raise Fault(
                f"{dockerfile} copies from {quoted(foreign[0])}; allowed: a stage of this Dockerfile, for "
                "nobody has looked at other images"
            )
    digest = hashlib.sha256()

    def add(label: str, content: bytes) -> None:
        digest.update(f"{label}\0{len(content)}\0".encode())
        digest.update(content)

    add("dockerfile", text.encode())
    for argument, value in sorted(build_args.items()):
        add(f"arg {argument}", value.encode())
    files = {one for pattern in sources(text) for one in context_files(project, pattern, dockerfile)}
    for one in sorted(files):
        executable = "x" if one.stat().st_mode & 0o100 else "-"
        add(f"{one.relative_to(project).as_posix()} {executable}", one.read_bytes())
    return digest.hexdigest()[:TAG_LENGTH]


# ------------------------------------------------------------ ECR and docker


def digest_of(ecr: Any, repository: str, tag: str) -> str:
    """The digest of the image in ECR; empty when there is none."""
    try:
        found = ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])["imageDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ImageNotFoundException":
            return ""
        raise
    return found[0]["imageDigest"]


def registry_of(uri: str) -> str:
    """Host of an image address."""
    return uri.partition("/")[0]


def login(ecr: Any, registries: Sequence[str], run: Callable[..., Any]) -> None:
    """Log docker in to the project's registry and to AWS's: one token serves all that the role may read."""
    token = ecr.get_authorization_token()["authorizationData"][0]["authorizationToken"]
    user, _, password = base64.b64decode(token).decode().partition(":")
    for registry in registries:
        done = run(
            ["docker", "login", "--username", user, "--password-stdin", registry],
            input=password,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise Fault(f"docker login to {registry} failed: {(done.stderr or done.stdout).strip()}")


def pip_configuration(codeartifact: Any, domain: str, repository: str, account: str) -> str:
    """pip.conf for `docker build`: the private index with a token. A build secret, so no layer holds it."""
    token = codeartifact.get_authorization_token(domain=domain, domainOwner=account, durationSeconds=3600)
    endpoint = codeartifact.get_repository_endpoint(
        domain=domain, domainOwner=account, repository=repository, format="pypi"
    )["repositoryEndpoint"]
    parts = urlsplit(endpoint.rstrip("/") + "/simple/")
    address = urlunsplit(parts._replace(netloc=f"aws:{token['authorizationToken']}@{parts.netloc}"))
    return f"[global]\nindex-url = {address}\n"


def stream(command: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, list[str]]:
    """Run a command with its output in the build log as it comes; exit code and last lines."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with subprocess.Popen(
        list(command),
        cwd=cwd,
        env=dict(env) if env is not None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe, as asked for
        for line in process.stdout:
            say("    " + line.rstrip())
            last.append(line.rstrip())
        code = process.wait()
    return code, list(last)


def build_and_push(
    project: Path,
    name: str,
    uri: str,
    build_args: Mapping[str, str],
    secret: Path | None,
    execute: Callable[..., tuple[int, list[str]]],
) -> None:
    """Build one image in the project's root and push it."""
    dockerfile = f"containers/{name}/Dockerfile"
    command = ["docker", "build", "-f", dockerfile, "-t", uri]
    # An image with an attestation is a list of images, which Lambda does not take:
    # https://docs.aws.amazon.com/lambda/latest/dg/images-create.html
    alone = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    for argument, value in sorted(build_args.items()):
        command += ["--build-arg", f"{argument}={value}"]
    if secret:
        command += ["--secret", f"id=pip,src={secret}"]
    code, last = execute([*command, "."], project, {**os.environ, **alone})
    if code:
        raise Fault(failure(f"{dockerfile} does not build (docker build ended with {code})", last))
    code, last = execute(["docker", "push", uri], project, None)
    if code:
        raise Fault(failure(f"{uri} was built but not pushed (docker push ended with {code})", last))


def failure(sentence: str, last: Sequence[str]) -> str:
    """A sentence and the end of the log that explains it."""
    return "\n  | ".join([f"{sentence}; its last lines:", *last])


# ------------------------------------------------------------ the stage


def instance_type(config: dict[str, Any], name: str) -> str:
    """The instance type that an image will run on; it decides between CPU and GPU base images."""
    if name == "inference":  # a batch project has jobs instead of an endpoint, a serverless one no instances
        deployment = config["deployment"]
        if config["inference"]["mode"] == "batch":
            return batch_settings(config)["instance_type"]
        return deployment.get("production", config["training"])["instance_type"]
    return config[name if name == "training" else "processing"]["instance_type"]


def api_plan(project_dir: Path, project: Project, inference: str) -> dict[str, dict[str, Any]]:
    """The image of the API's function: on the project's own inference image, in the same repository."""
    build_args = {"BASE_IMAGE": inference}
    tag = f"{API_TAG}{content_tag(project_dir, 'api', build_args)}"
    repository = project.repository_uri("inference")
    return {"api": {"uri": f"{repository}:{tag}", "tag": tag, "repository": repository, "args": build_args}}


def plan(project_dir: Path, project: Project, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each image its repository, tag, address and build arguments."""
    planned: dict[str, dict[str, Any]] = {}
    for name in IMAGES:
        base = sdk.base_image(config["framework"], name, project.region, instance_type(config, name))
        build_args = {"BASE_IMAGE": base}
        tag = content_tag(project_dir, name, build_args)
        repository = project.repository_uri(name)
        planned[name] = {
            "uri": f"{repository}:{tag}",
            "tag": tag,
            "repository": repository,
            "args": build_args,
        }
    return planned


class Builder:
    """Builds what is not in ECR yet."""

    def __init__(
        self,
        session: Any,
        project: Project,
        options: argparse.Namespace,
        run: Callable[..., Any],
        execute: Callable[..., tuple[int, list[str]]],
    ) -> None:
        self.session, self.project, self.options = session, project, options
        self.run, self.execute = run, execute
        self.ecr = session.client("ecr")
        self.built = 0

    def make(self, planned: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
        """Build what is new of these; the address of each, by its digest."""
        to_build: list[str] = []
        for name, image in planned.items():
            known = self._digest(image)
            state = "is in ECR: nothing to build" if known else "is new: it will be built"
            say(f"{name}: {image['uri']} {state}")
            if not known:
                to_build.append(name)
        if to_build:
            self._build({name: planned[name] for name in to_build})
        addresses = {}
        for name, image in planned.items():
            digest = self._digest(image)
            if not digest:
                raise Fault(f"{image['uri']} was pushed and is gone from ECR: run stage Images again")
            addresses[name] = f"{image['repository']}@{digest}"
        return addresses

    def _digest(self, image: Mapping[str, Any]) -> str:
        return digest_of(self.ecr, image["repository"].partition("/")[2], image["tag"])

    def _build(self, images: Mapping[str, Mapping[str, Any]]) -> None:
        hosts = {registry_of(image["repository"]) for image in images.values()}
        hosts |= {registry_of(image["args"]["BASE_IMAGE"]) for image in images.values()}
        login(self.ecr, sorted(hosts), self.run)
        with tempfile.TemporaryDirectory() as folder:
            secret = self._secret(Path(folder))
            for name, image in images.items():
                say(f"{name}: building on {image['args']['BASE_IMAGE']}")
                try:
                    build_and_push(
                        self.options.project_dir, name, image["uri"], image["args"], secret, self.execute
                    )
                except Fault:
                    # Tags are immutable: a build of the same content may have pushed it meanwhile.
                    if not self._digest(image):
                        raise
                    say(f"{name}: another build pushed the same content first")
                self.built += 1

    def _secret(self, folder: Path) -> Path | None:
        """pip's configuration, if there is a package index."""
        domain, repository = self.options.domain, self.options.repository
        if not (domain and repository):
            return None
        secret = folder / "pip.conf"
        secret.touch(mode=0o600)
        secret.write_text(
            pip_configuration(self.session.client("codeartifact"), domain, repository, self.project.account),
            encoding="utf-8",
        )
        return secret


@script
def main(
    argv: Sequence[str] | None = None,
    session: Any = None,
    run: Callable[..., Any] = subprocess.run,
    execute: Callable[..., tuple[int, list[str]]] = stream,
) -> int:
    """Build what changed and write images.json."""
    parser = argparse.ArgumentParser(prog="mlops_cicd.images", description=__doc__)
    parser.add_argument("--project-id", default=os.environ.get("PROJECT_ID", ""))
    parser.add_argument("--project-dir", type=Path, required=True)
    parser.add_argument("--domain", default=os.environ.get("CODEARTIFACT_DOMAIN", ""))
    parser.add_argument("--repository", default=os.environ.get("CODEARTIFACT_REPOSITORY", ""))
    parser.add_argument("--out", type=Path, required=True, help="images.json: image name -> address")
    options = parser.parse_args(argv)
    session = session or boto3.Session()
    config = load_config(options.project_dir / "mlops.yml")
    project = load_project(session.client("ssm"), options.project_id, session.region_name)
    project.check(config)
    planned = plan(options.project_dir, project, config)
    made = Builder(session, project, options, run, execute)
    addresses = made.make(planned)
    if "api" in config["deployment"]:
        further = api_plan(options.project_dir, project, addresses["inference"])
        planned, addresses = planned | further, addresses | made.make(further)
    write_json(options.out, addresses)
    say(f"{made.built} of {len(planned)} images built; addresses in {options.out}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
