"""The docker of builds: Dockerfiles really built, images really in ECR, failures and substitutions said."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import urllib.request

import pytest

REGISTRY = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
BASE = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
LOGIN = f"aws ecr get-login-password | docker login --username AWS --password-stdin {REGISTRY}"


@pytest.fixture(scope="module")
def repository(cloud) -> str:
    """An ECR repository with immutable tags."""
    name = cloud.name("project/training")
    cloud.client("ecr").create_repository(repositoryName=name, imageTagMutability="IMMUTABLE")
    return name


def image_of(cloud, repository: str, tag: str) -> tuple[dict, dict[str, bytes]]:
    """Configuration and files of an image, read from the registry as any client reads them."""

    def get(what: str) -> bytes:
        kind = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{cloud.endpoint}/v2/{repository}/{what}", headers=kind), timeout=30
        ) as answer:
            return answer.read()

    manifest = json.loads(get(f"manifests/{tag}"))
    content = get(f"blobs/{manifest['layers'][0]['digest']}")
    assert "sha256:" + hashlib.sha256(content).hexdigest() == manifest["layers"][0]["digest"]
    config = json.loads(get(f"blobs/{manifest['config']['digest']}"))
    plain = gzip.decompress(content)
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(plain).hexdigest()]
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    return config["config"], files


def test_build_and_push(cloud, repository, shell):
    dockerfile = f"""
# made for a test
ARG BASE_IMAGE={BASE}
FROM ${{BASE_IMAGE}}
ARG VERSION=1
LABEL made.by="a test" version=$VERSION
ENV PROGRAM=/opt/program \\
    PYTHONUNBUFFERED=1
WORKDIR $PROGRAM
COPY --chown=root:root src/ ./
COPY one.txt two.txt /opt/data/
RUN --mount=type=secret,id=pip,target=/root/.config/pip/pip.conf \\
    cat /root/.config/pip/pip.conf && echo built-$VERSION > /opt/data/built.txt
RUN apt-get update && apt-get install -y nginx
RUN ["python", "-c", "import sklearn; print('scikit-learn', sklearn.__version__)"]
USER nobody
EXPOSE 8080
ENTRYPOINT ["python3", "/opt/program/main.py"]
CMD ["serve"]
"""
    files = {
        "Dockerfile": dockerfile,
        "src/main.py": "print()",
        "one.txt": "1",
        "two.txt": "2",
        "secret": "the-secret",
    }
    uri = f"{REGISTRY}/{repository}:v1"
    version = cloud.name("v")  # another one each time, so that nothing comes from the cache
    build = (
        f"docker build --pull --platform linux/amd64 --build-arg VERSION={version} --secret id=pip,src=secret"
    )
    build += f" -t {uri} ."
    record, log = shell(LOGIN, build, f"docker push {uri}", f"docker image inspect {uri}", files=files)
    assert record["buildStatus"] == "SUCCEEDED", log
    config, found = image_of(cloud, repository, "v1")
    assert config["Entrypoint"] == ["python3", "/opt/program/main.py"]
    assert config["Cmd"] == ["serve"]
    assert config["WorkingDir"] == "/opt/program"
    assert "PROGRAM=/opt/program" in config["Env"]
    assert config["Labels"]["version"] == version
    assert config["Labels"]["made.by"] == "a test"
    expected = {
        "opt/program/main.py": b"print()",
        "opt/data/one.txt": b"1",
        "opt/data/built.txt": f"built-{version}\n".encode(),
    }
    assert expected.items() <= found.items()
    assert not [name for name, content in found.items() if b"the-secret" in content]
    tagged = [{"imageTag": "v1"}]
    details = cloud.client("ecr").describe_images(repositoryName=repository, imageIds=tagged)["imageDetails"]
    assert details[0]["imageSizeInBytes"] > 0
    # what was not done as Docker does it is said
    assert f"substituted: {BASE}" in log
    assert "skipped: apt-get" in log
    assert "skipped: USER" in log
    assert "scikit-learn 1.9.0" in log


def test_same_context_comes_from_the_cache(repository, shell):
    files = {"Dockerfile": f"FROM {BASE}\nCOPY a /opt/a\nRUN cat /opt/a > /opt/b\n", "a": repository}
    record, log = shell("docker build -t one . && docker build -t two .", files=files)
    assert record["buildStatus"] == "SUCCEEDED", log
    assert log.count("CACHED") == 1
    images = [line for line in log.splitlines() if line.startswith("writing image")]
    assert len(images) == 2 and images[0] == images[1]


def test_pushed_image_can_be_built_upon(cloud, repository, shell):
    first, second = (f"{REGISTRY}/{repository}:{t}" for t in ("base", "upon"))
    files = {
        "first/Dockerfile": f"FROM {BASE}\nRUN mkdir -p /opt/x && echo first > /opt/x/first\nENV A=1\n",
        "second/Dockerfile": f"FROM {first}\nRUN cat /opt/x/first > /opt/x/second\n",
    }
    record, log = shell(
        LOGIN,
        f"docker build -t {first} first && docker push {first}",
        f"docker build -t {second} second && docker push {second}",
        files=files,
    )
    assert record["buildStatus"] == "SUCCEEDED", log
    config, found = image_of(cloud, repository, "upon")
    assert found["opt/x/second"] == b"first\n"
    assert "A=1" in config["Env"]


FAILING = [
    (
        "command",
        "FROM {base}\n\nRUN echo x && exit 3\n",
        'ERROR: line 3: process "/bin/sh -c echo x && exit 3" did not complete successfully: exit code: 3',
    ),
    ("missing file", "FROM {base}\nCOPY nothing /opt/\n", '"/nothing": not found in the build context'),
    ("outside of the context", "FROM {base}\nCOPY ../../x /opt/\n", "outside of the build context"),
    ("unknown instruction", "FROM {base}\nRUNN true\n", "line 2: unknown instruction: RUNN"),
    ("no FROM", "RUN true\n", "no FROM instruction"),
    ("image without a name", "ARG BASE\nFROM ${{BASE}}\n", "should not be blank"),
    ("image that nobody knows", "FROM docker.io/library/python:3.13\n", "is not an ECR image"),
    (
        "secret that was not given",
        "FROM {base}\nRUN --mount=type=secret,id=pip,required=true true\n",
        "secret pip: not found",
    ),
    (
        "package that is missing",
        "FROM {base}\nRUN pip install no-such-package-at-all\n",
        "did not complete successfully",
    ),
]


def test_failing_builds_say_why(shell):
    files = {f"{n}/Dockerfile": text.format(base=BASE) for n, (_, text, _) in enumerate(FAILING)}
    commands = [f"echo begin-{n}; docker build -t x {n} && echo built-{n}" for n in range(len(FAILING))]
    _, log = shell("; ".join(commands) + "; true", files=files)
    for number, (case, _, words) in enumerate(FAILING):
        part = log.partition(f"\nbegin-{number}\n")[2].partition("\nbegin-")[0]
        assert words in part, case
        assert f"built-{number}" not in part, case


def test_push_is_refused(cloud, repository, shell):
    uri, nowhere = f"{REGISTRY}/{repository}:taken", f"{REGISTRY}/no/such:tag"
    files = {"Dockerfile": f"FROM {BASE}\nARG N\nLABEL n=$N\nRUN true\n"}
    record, log = shell(
        f"docker build -t {uri} --build-arg N=1 .",
        f"docker push {uri} || echo before-login",
        LOGIN,
        f"docker push {uri} && docker push {uri} && echo the-same-again-is-fine",
        f"docker build -t {uri} --build-arg N=2 . && (docker push {uri} || echo refused-as-immutable)",
        f"docker tag {uri} {nowhere} && (docker push {nowhere} || echo refused-as-unknown)",
        files=files,
    )
    assert record["buildStatus"] == "SUCCEEDED", log
    for words in ("before-login", "the-same-again-is-fine", "refused-as-immutable", "refused-as-unknown"):
        assert f"\n{words}\n" in log
    assert "no basic auth credentials" in log
    assert "cannot be overwritten because the tag is immutable" in log
    assert "The repository with name 'no/such' does not exist" in log
