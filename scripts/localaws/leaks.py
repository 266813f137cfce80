"""Looks for secrets in all that somebody could read later.

That is logs, stacks, parameters, pipelines, builds, jobs, objects and archives, repositories, images, mail.
Searched for are values that were planted (a secret, rows of personal data) and all that the cloud itself
handed out: credentials of sessions and tokens of CodeArtifact; each also as a URL or base64 would show it.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from localaws import images
from localaws.hooks import keys

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_RUN = re.compile(rb"[A-Za-z0-9+/=_%.~\\-]{12,}")
_START = 12
_DEPTH = 5
_BETWEEN = rb"[\s,;|:\"'\[\]()]+"


class Finder:
    """Finds which of some values stand in some bytes, archives in archives included.

    ``secrets`` are single words (of at least 16 characters), ``rows`` lists of words, which are found with
    whatever stands between them in a table, a list or a CSV.
    """

    def __init__(self, secrets: Mapping[str, str], rows: Mapping[str, list[str]] | None = None) -> None:
        self.starts: dict[bytes, list[tuple[bytes, str]]] = {}
        for name, value in secrets.items():
            if len(value) < 16:
                raise ValueError(f"{name} is too short to be told from other text")
            for form in _forms(value.encode()):
                self.starts.setdefault(form[:_START], []).append((form, name))
        self.rows = {
            name: (words[0].encode(), re.compile(_BETWEEN.join(re.escape(w.encode()) for w in words)))
            for name, words in (rows or {}).items()
        }

    def find(self, data: bytes, name: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, str]]:
        """(what, where): the values found, and the path through archives below ``name``."""
        seen = set()
        for run in _RUN.finditer(data):
            text = run[0]
            for at in range(len(text) - _START + 1):
                for form, what in self.starts.get(text[at : at + _START], ()):
                    if text.startswith(form, at):
                        seen.add(what)
        seen |= {what for what, (first, row) in self.rows.items() if first in data and row.search(data)}
        yield from ((what, name) for what in sorted(seen))
        if depth:
            for inner, content in _unpacked(data):
                yield from self.find(content, f"{name}!{inner}", depth - 1)


def _forms(value: bytes) -> set[bytes]:
    """The value itself, in a URL, and within base64 at each of the three places where it may begin."""
    found = {value, quote(value, safe="").encode(), quote(value, safe="/").encode()}
    for before, cut in ((0, 0), (1, 2), (2, 3)):
        text = base64.b64encode(b"\0" * before + value).rstrip(b"=")[cut:]
        found.add(text[:-1])  # the last sign depends on what follows
        found.add(text[:-1].replace(b"+", b"-").replace(b"/", b"_"))
    return found


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is packed in some bytes: members of a zip or tar, the content of a gzip."""
    try:
        if data[:2] == b"\x1f\x8b":
            yield "gz", gzip.decompress(data)
        elif data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for entry in archive.infolist():
                    yield entry.filename, archive.read(entry)
        elif data[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for entry in archive:
                    if entry.isfile() and (file := archive.extractfile(entry)):
                        yield entry.name, file.read()
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, RuntimeError):
        return  # it only looked like an archive; as bytes it was searched


def issued(cloud: Cloud) -> dict[str, str]:
    """All secrets that the cloud handed out: name → value."""
    found = keys.session_secrets()
    tokens = [t for a in cloud.accounts for t in list(cloud.at(a).services["codeartifact"].tokens)]
    for number, token in enumerate(tokens):
        found[f"token {number} of CodeArtifact"] = token
    return found


def look(cloud: Cloud, secrets: Mapping[str, str], rows: Mapping[str, list[str]]) -> dict[str, Any]:
    """Search everything for these and for what was issued.

    The answer has what was ``searched`` (places by kind), ``found`` ([{"what", "where"}]) and the ``values``,
    so that what lies outside of the cloud can be searched as well.
    """
    values = {**issued(cloud), **secrets}
    finder, found, searched = Finder(values, rows), [], dict[str, int]()
    for where, data in places(cloud):
        kind = where.partition(":")[0]
        searched[kind] = searched.get(kind, 0) + 1
        found += [{"what": what, "where": at} for what, at in finder.find(data, where)]
    return {"searched": searched, "found": found, "values": values}


def places(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    """(kind: name, content) of all that somebody could read."""
    yield from (place for account in cloud.accounts for place in _kept(cloud.at(account)))
    for number, mail in enumerate(cloud.outbox):
        yield f"mail: {number} to {mail['to']}", _text(mail)
    yield "calls: all", _text(list(cloud.calls))
    yield "questions: all", _text(list(cloud.evidence.questions.values()))
    yield "losses: all", _text([*cloud.undelivered, *cloud.faults])


def _kept(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    """What one account keeps."""
    for look_at in (
        _logs,
        _stacks,
        _parameters,
        _functions,
        _pipelines,
        _builds,
        _sagemaker,
        _objects,
        _git,
        _images,
    ):
        yield from look_at(cloud)


def _text(value: Any) -> bytes:
    """A value as text; a line break in it stays one, so that a row ends where it ended."""
    return (
        json.dumps(value, default=str, ensure_ascii=False)
        .encode()
        .replace(b"\\n", b"\n")
        .replace(b'\\"', b'"')
    )


def _pages(client: Any, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
    for page in client.get_paginator(operation).paginate(**arguments):
        yield from page[key]


def _logs(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    logs = cloud.client("logs")
    for group in _pages(logs, "describe_log_groups", "logGroups"):
        name = group["logGroupName"]
        events = _pages(logs, "filter_log_events", "events", logGroupName=name)
        yield f"log: {name}", "\n".join(e["message"] for e in events).encode()


def _stacks(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    cloudformation = cloud.client("cloudformation")
    for stack in _pages(cloudformation, "describe_stacks", "Stacks"):
        events = cloudformation.describe_stack_events(StackName=stack["StackId"])["StackEvents"]
        template = cloudformation.get_template(StackName=stack["StackId"])["TemplateBody"]
        yield f"stack: {stack['StackName']}", _text([stack, events, template])


def _parameters(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    pages = _pages(cloud.client("ssm"), "get_parameters_by_path", "Parameters", Path="/", Recursive=True)
    for parameter in pages:
        yield f"parameter: {parameter['Name']}", _text(parameter)


def _functions(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    for function in _pages(cloud.client("lambda"), "list_functions", "Functions"):
        yield f"function: {function['FunctionName']}", _text(function)


def _pipelines(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    client = cloud.client("codepipeline")
    for name in (p["name"] for p in _pages(client, "list_pipelines", "pipelines")):
        actions = list(_pages(client, "list_action_executions", "actionExecutionDetails", pipelineName=name))
        runs = [
            client.get_pipeline_execution(pipelineName=name, pipelineExecutionId=i)["pipelineExecution"]
            for i in sorted({action["pipelineExecutionId"] for action in actions})
        ]
        yield f"pipeline: {name}", _text([client.get_pipeline(name=name), runs, actions])


def _builds(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    client = cloud.client("codebuild")
    for project in _pages(client, "list_projects", "projects"):
        yield f"build: {project}", _text(client.batch_get_projects(names=[project])["projects"])
        for identifier in _pages(client, "list_builds_for_project", "ids", projectName=project):
            yield f"build: {identifier}", _text(client.batch_get_builds(ids=[identifier])["builds"])


def _sagemaker(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    """What SageMaker's Describe shows: jobs with their environment, pipelines, versions, endpoints."""
    for collection in cloud.services["sagemaker"].collections:
        for number, record in enumerate(collection.all()):
            yield (
                f"sagemaker: {collection.noun} {number}",
                _text({k: v for k, v in record.items() if not k.startswith("_")}),
            )


def _objects(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    s3 = cloud.client("s3")
    for bucket in (b["Name"] for b in s3.list_buckets()["Buckets"]):
        for version in _pages_of_versions(s3, bucket):
            which = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
            yield f"object: {bucket}/{version['Key']}", s3.get_object(**which)["Body"].read()


def _pages_of_versions(s3: Any, bucket: str) -> Iterator[dict[str, Any]]:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        yield from page.get("Versions", [])


def _git(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    for name, repository in cloud.services["codecommit"].repositories.items():
        command = [
            "git",
            "-C",
            str(repository.path),
            "cat-file",
            "--batch-all-objects",
            "--batch",
            "--unordered",
        ]
        yield f"repository: {name}", subprocess.run(command, capture_output=True, check=True).stdout


def _images(cloud: Cloud) -> Iterator[tuple[str, bytes]]:
    ecr = cloud.client("ecr")
    for repository in _pages(ecr, "describe_repositories", "repositories"):
        name = repository["repositoryName"]
        for image in _pages(ecr, "list_images", "imageIds", repositoryName=name):
            uri = f"{repository['repositoryUri']}@{image['imageDigest']}"
            reference = images.parse(uri)
            try:
                _, manifest, config = images.read(cloud, reference)
            except images.ImageError:  # put there without a push: what ECR itself has of it is all there is
                found = ecr.batch_get_image(repositoryName=name, imageIds=[image])["images"]
                yield f"image: {uri} manifest", _text(found)
                continue
            yield f"image: {uri} configuration", _text([manifest, config])
            for layer in manifest["layers"]:
                yield (
                    f"image: {uri} layer",
                    images.call(cloud, reference, "GET", f"blobs/{layer['digest']}")[2],
                )
