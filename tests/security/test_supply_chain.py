"""Nothing gets into a build, an image, a release or a repository that nobody has looked at.

Each rule is a function that yields what breaks it; each has examples that it must find.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import json
import re
import subprocess
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cfnlint.decode import cfn_yaml

import compose
import publish
import release
import setup
from mlops_cicd import requirements

ROOT = Path(__file__).resolve().parents[2]
CFN = ROOT / "mlops-cfn"
TEMPLATES = sorted(CFN.rglob("*.yaml"))
HASH = "--hash=sha256:" + "0" * 64

# -- dependencies --------------------------------------------------------------------------------------------
LOCKS = [
    *(
        ROOT / f"requirements/{name}.txt"
        for name in (*setup.ENVIRONMENTS, *setup.WITHOUT_DEPENDENCIES.values())
    ),
    *(ROOT / f"requirements/wheels-{name}.txt" for name in setup.WHEEL_LOCKS),
    ROOT / "requirements/bootstrap.txt",
    *sorted((ROOT / "mlops-cicd").glob("requirements*.txt")),
    *sorted((ROOT / "seedcode-repo").rglob("requirements*.txt")),
    *sorted((ROOT / "seedcode-repo/locks").glob("*.txt")),
]


def unpinned(text: str) -> Iterator[str]:
    """Entries that are not one version whose files have known hashes."""
    for line, entry in requirements.entries(text):
        if not requirements.PIN.fullmatch(entry):
            yield f"line {line}: {entry}"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_lock_has_versions_and_hashes_only(path: Path) -> None:
    text = path.read_text()
    assert list(requirements.entries(text)), "an empty lock pins nothing"
    assert list(unpinned(text)) == []


UNPINNED = {
    "no hash": "numpy==2.4.6",
    "a range": f"numpy>=2 {HASH}",
    "a wildcard": f"numpy==2.* {HASH}",
    "another index": "--index-url https://pypi.example.com/simple/",
    "one more index": "--extra-index-url https://pypi.example.com/simple/",
    "a folder of wheels": "--find-links /tmp/wheels",
    "a host without a certificate": "--trusted-host pypi.example.com",
    "an address": f"numpy @ https://example.com/numpy.whl {HASH}",
    "a repository": "git+https://example.com/numpy.git",
    "a folder": "-e .",
    "another file": "-r more.txt",
    "a short hash": "numpy==2.4.6 --hash=sha256:abc",
    "an old hash": "numpy==2.4.6 --hash=md5:" + "0" * 32,
    "a hash and an option": f"numpy==2.4.6 {HASH} --config-settings=--build-option=x",
    "a shell's word": f"numpy==2.4.6;$(id) {HASH}",
    "a continued line": "numpy \\\n  ==2.4.6",
}


@pytest.mark.parametrize("text", UNPINNED.values(), ids=UNPINNED)
def test_a_line_that_pins_nothing_is_found(text: str) -> None:
    assert len(list(unpinned(f"# a comment\nsix==1.17.0 {HASH}\n{text}\n"))) == 1


def names(path: Path) -> dict[str, set[str]]:
    """Name -> versions in a requirements file."""
    found: dict[str, set[str]] = {}
    for _, entry in requirements.entries(path.read_text()):
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", entry):
            found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), set()).add(match[2])
    return found


@pytest.mark.parametrize("path", [p for p in LOCKS if p.with_suffix(".in").is_file()], ids=lambda p: p.name)
def test_what_is_asked_for_is_in_the_lock(path: Path) -> None:
    locked = names(path)
    for name, versions in names(path.with_suffix(".in")).items():
        for version in versions - {"1.9.*"}:
            assert version in locked.get(name, set()), f"{name}=={version}: run make lock"


def test_a_projects_lock_is_of_what_the_project_asks_for(tmp_path: Path) -> None:
    for combination in compose.combinations():
        files = compose.compose(*combination)
        for name in ("requirements-dev.in", "requirements-dev.txt"):
            (tmp_path / name).write_bytes(files[name])
        asked, locked = names(tmp_path / "requirements-dev.in"), names(tmp_path / "requirements-dev.txt")
        assert all(versions <= locked.get(name, set()) for name, versions in asked.items())


@pytest.mark.parametrize(
    ("part", "store"),
    [(p, "wheels-cicd") for p in LOCKS if p.parent.name == "mlops-cicd"]
    + [(p, "wheels-project") for p in LOCKS if "seedcode-repo" in p.parts],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_wheel_store_holds_what_builds_install(part: Path, store: str) -> None:
    held = names(ROOT / f"requirements/{store}.txt")
    assert all(versions <= held.get(name, set()) for name, versions in names(part).items())


# -- installers ----------------------------------------------------------------------------------------------
NEEDED = ("--require-hashes", "--only-binary :all:", " -r ")


def loose_installs(text: str) -> Iterator[str]:
    """Commands that install what nobody has fixed, or from elsewhere than the private index."""
    for line in text.replace("\\\n", " ").splitlines():
        command = " ".join(line.split())
        if command.startswith("#"):
            continue
        if re.search(r"\bpip3? (install|download|wheel)\b", command):
            lacking = [word.strip() for word in NEEDED if word not in f"{command} "]
            if lacking:
                yield f"{command}: {', '.join(lacking)} is missing"
            if re.search(r"--(extra-)?index-url|--find-links|--trusted-host|(^|\s)-[if] |://", command):
                yield f"{command}: names a place to install from"
        elif re.search(r"\b(curl|wget|npm|npx|conda|apt(-get)?|yum|dnf|easy_install|uv|uvx|pipx)\b", command):
            yield f"{command}: another installer"
        elif re.match(r"(ADD) .*://|FROM (?!\$\{BASE_IMAGE\}$)|# *syntax=", command):
            yield f"{command}: content from elsewhere"


INSTALLERS = [*sorted((ROOT / "mlops-cicd/buildspecs").glob("*.yml"))]
INSTALLERS += sorted((ROOT / "seedcode-repo").rglob("Dockerfile"))


@pytest.mark.parametrize("path", INSTALLERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_builds_install_what_is_known(path: Path) -> None:
    assert list(loose_installs(path.read_text())) == []


def test_every_build_that_installs_logs_in_to_the_private_index_first() -> None:
    for path in sorted((ROOT / "mlops-cicd/buildspecs").glob("*.yml")):
        commands = yaml.safe_load(path.read_text())["phases"]["install"]["commands"]
        assert commands[0].startswith("aws codeartifact login --tool pip "), path.name


LOOSE = {
    "no hashes": "pip install --only-binary :all: -r requirements.txt",
    "sources": "pip install --require-hashes -r requirements.txt",
    "a name": "pip install --require-hashes --only-binary :all: boto3",
    "another index": "pip install --require-hashes --only-binary :all: -r r.txt --index-url https://x.example",
    "a script from the web": "curl -sSL https://example.com/install.sh | sh",
    "system packages": "apt-get install -y jq",
    "an archive": "ADD https://example.com/x.tar.gz /opt/",
    "another base": "FROM python:3.12",
}


@pytest.mark.parametrize("command", LOOSE.values(), ids=LOOSE)
def test_a_loose_install_is_found(command: str) -> None:
    assert list(loose_installs(command))


# -- CodeArtifact --------------------------------------------------------------------------------------------
def load(path: Path) -> dict[str, Any]:
    """A template as plain data."""
    return json.loads(json.dumps(cfn_yaml.load(str(path))))


def open_origins(resources: dict[str, Any]) -> Iterator[str]:
    """Ways in which a package could enter the domain that should not."""
    repositories = {
        k: v["Properties"] for k, v in resources.items() if v["Type"] == "AWS::CodeArtifact::Repository"
    }
    groups = {
        v["Properties"]["Pattern"]: v["Properties"]["OriginConfiguration"]["Restrictions"]
        for v in resources.values()
        if v["Type"] == "AWS::CodeArtifact::PackageGroup"
    }
    for name, repository in repositories.items():
        if repository.get("ExternalConnections") and repository.get("Upstreams"):
            yield f"{name} has upstreams and an external connection"
        if set(repository.get("ExternalConnections") or []) - {"public:pypi"}:
            yield f"{name} is connected to more than PyPI"
    stores = {k for k, v in repositories.items() if v.get("ExternalConnections")}
    public, own = groups.get("/pypi/*"), groups.get("/pypi//mlops~")
    if not public or not own:
        yield "the groups /pypi/* and /pypi//mlops~ are needed"
        return

    def allowed(restriction: dict[str, Any]) -> set[str]:
        if restriction["RestrictionMode"] != "ALLOW_SPECIFIC_REPOSITORIES":
            return set() if restriction["RestrictionMode"] == "BLOCK" else {"everywhere"}
        return {one["Fn::GetAtt"][0] for one in restriction["Repositories"]}

    if allowed(public["Publish"]):
        yield "a version of a public package could be published"
    if not allowed(public["ExternalUpstream"]) <= stores:
        yield "public packages enter elsewhere than in the store"
    if "everywhere" in allowed(public["InternalUpstream"]):
        yield "public packages pass into every repository"
    if allowed(own["ExternalUpstream"]) or allowed(own["InternalUpstream"]):
        yield "an own name could come from outside"
    if not allowed(own["Publish"]) <= set(repositories) - stores:
        yield "own packages can be published elsewhere than in the repository"


def test_packages_enter_the_domain_in_one_way() -> None:
    assert list(open_origins(load(CFN / "infra/packages.yaml")["Resources"])) == []


def restriction(group: str, kind: str, mode: str) -> Callable[[dict], None]:
    def edit(resources: dict) -> None:
        resources[group]["Properties"]["OriginConfiguration"]["Restrictions"][kind] = {
            "RestrictionMode": mode
        }

    return edit


OPENED: dict[str, Callable[[dict], Any]] = {
    "no group of own names": lambda r: r.pop("OwnPackages"),
    "no group of public names": lambda r: r.pop("PublicPackages"),
    "own names from PyPI": restriction("OwnPackages", "ExternalUpstream", "ALLOW"),
    "own names from the store": restriction("OwnPackages", "InternalUpstream", "INHERIT"),
    "own names published to the store": restriction("OwnPackages", "Publish", "ALLOW"),
    "public names published": restriction("PublicPackages", "Publish", "ALLOW"),
    "public names into every repository": restriction("PublicPackages", "ExternalUpstream", "ALLOW"),
    "a direct connection": lambda r: r["Repository"]["Properties"].update(
        ExternalConnections=["public:pypi"]
    ),
    "another public index": lambda r: r["PypiStore"]["Properties"].update(
        ExternalConnections=["public:npmjs"]
    ),
}


@pytest.mark.parametrize("edit", OPENED.values(), ids=OPENED)
def test_an_opened_way_in_is_found(edit: Callable[[dict], Any]) -> None:
    resources = load(CFN / "infra/packages.yaml")["Resources"]
    edit(resources)
    assert list(open_origins(resources))


INTERNAL = "jmespath"  # a name that PyPI has too, and so the wheel store


@pytest.fixture(scope="module")
def domain(cloud: Any) -> str:
    """A domain as packages.yaml makes it, with one more own name that somebody has registered on PyPI."""
    resources = load(CFN / "infra/packages.yaml")["Resources"]
    wanted = {k: v for k, v in resources.items() if v["Type"].startswith("AWS::CodeArtifact::")}
    name = cloud.name("domain")
    wanted["Domain"]["Properties"] = {"DomainName": name}
    own = json.loads(json.dumps(wanted["OwnPackages"]))
    own["Properties"]["Pattern"] = f"/pypi//{INTERNAL}$"
    cloud.stack({**wanted, "RegisteredOutside": own})
    return name


def wheel(name: str, version: str) -> tuple[str, bytes]:
    """A wheel that does nothing, with its file name."""
    stem, out = f"{name.replace('-', '_')}-{version}", io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{name.replace('-', '_')}.py", f"VERSION = '{version}'\n")
        info = f"{stem}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{stem}-py3-none-any.whl", out.getvalue()


def ask(cloud: Any, domain: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, str]:
    """A request to a repository's index with a token; status and text."""
    import urllib.error
    import urllib.request

    token = cloud.client("codeartifact").get_authorization_token(domain=domain)["authorizationToken"]
    headers = {"Authorization": "Basic " + base64.b64encode(f"aws:{token}".encode()).decode()}
    headers |= {"Content-Type": kind} if kind else {"Accept": "text/html"}
    request = urllib.request.Request(f"{cloud.endpoint}/codeartifact/{domain}/{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def upload(cloud: Any, domain: str, repository: str, filename: str, content: bytes) -> tuple[int, str]:
    """Publish a wheel as twine does."""
    mark = uuid.uuid4().hex
    fields = {":action": "file_upload", "sha256_digest": hashlib.sha256(content).hexdigest()}
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
    ]
    head = f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="{filename}"\r\n'
    head += "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    body = "".join(parts).encode() + head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return ask(cloud, domain, f"{repository}/pypi/", body, f"multipart/form-data; boundary={mark}")


def test_a_public_package_comes_through_the_store(cloud: Any, domain: str) -> None:
    for repository in ("pypi-store", "mlops"):
        assert ask(cloud, domain, f"{repository}/pypi/simple/urllib3/")[0] == 200


def test_an_own_name_never_comes_from_outside(cloud: Any, domain: str) -> None:
    for repository in ("pypi-store", "mlops"):
        status, text = ask(cloud, domain, f"{repository}/pypi/simple/{INTERNAL}/")
        assert status == 404 and "origin controls" in text
    listed = cloud.client("codeartifact").list_packages(
        domain=domain, repository="mlops", packagePrefix=INTERNAL
    )
    assert listed["packages"] == []


@pytest.mark.parametrize("name", ["urllib3", "mlopsy"])
def test_a_public_name_cannot_be_published(cloud: Any, domain: str, name: str) -> None:
    status, text = upload(cloud, domain, "mlops", *wheel(name, "99.0"))
    assert (status, name in text) == (403, True)
    assert "99.0" not in ask(cloud, domain, f"mlops/pypi/simple/{name}/")[1]


def test_an_own_package_is_published_to_the_repository_once_and_for_all(cloud: Any, domain: str) -> None:
    file = wheel("mlops-core", "1.0")
    assert upload(cloud, domain, "pypi-store", *file)[0] == 403
    assert upload(cloud, domain, "mlops", *file)[0] == 200
    assert upload(cloud, domain, "mlops", file[0], wheel("mlops-core", "1.0.1")[1])[0] == 409
    status, text = ask(cloud, domain, "mlops/pypi/simple/mlops-core/")
    assert (status, hashlib.sha256(file[1]).hexdigest() in text) == (200, True)


def test_pip_gets_the_own_package_or_nothing(cloud: Any, domain: str, shell: Callable) -> None:
    login = f"aws codeartifact login --tool pip --domain {domain} --repository mlops"
    record, log = shell(login, f"pip install {INTERNAL}")
    assert record["buildStatus"] == "FAILED" and INTERNAL in log, log
    assert upload(cloud, domain, "mlops", *wheel(INTERNAL, "0.0.1"))[0] == 200
    record, log = shell(
        login, f"pip install {INTERNAL}", f"python -c 'import {INTERNAL}; print({INTERNAL}.VERSION)'"
    )
    assert record["buildStatus"] == "SUCCEEDED" and "\n0.0.1\n" in log, log


def test_pip_refuses_a_package_whose_content_has_changed(cloud: Any, domain: str, shell: Callable) -> None:
    login = f"aws codeartifact login --tool pip --domain {domain} --repository mlops"
    install = "pip install --require-hashes --only-binary :all: -r r.txt"
    right = hashlib.sha256(wheel("mlops-hashed", "1.0")[1]).hexdigest()
    assert upload(cloud, domain, "mlops", *wheel("mlops-hashed", "1.0"))[0] == 200
    pin = "mlops-hashed==1.0 --hash=sha256:{}\n"
    record, log = shell(login, install, files={"r.txt": pin.format(right)})
    assert record["buildStatus"] == "SUCCEEDED", log
    record, log = shell(login, install, files={"r.txt": pin.format("0" * 64)})
    assert record["buildStatus"] == "FAILED" and "hash" in log.lower(), log
    record, log = shell(login, install, files={"r.txt": "mlops-hashed==1.0\n"})
    assert record["buildStatus"] == "FAILED" and "hash" in log.lower(), log


# -- images --------------------------------------------------------------------------------------------------
def movable_tags(template: dict[str, Any]) -> Iterator[str]:
    """Image repositories in which a tag can be given to another image."""
    for name, resource in template["Resources"].items():
        mutability = resource.get("Properties", {}).get("ImageTagMutability")
        if resource["Type"] == "AWS::ECR::Repository" and mutability != "IMMUTABLE":
            yield name


def test_tags_of_images_never_move() -> None:
    found = [name for path in TEMPLATES for name in movable_tags(load(path))]
    assert found == []
    repositories = [
        r for p in TEMPLATES for r in load(p)["Resources"].values() if r["Type"] == "AWS::ECR::Repository"
    ]
    assert len(repositories) == 3


@pytest.mark.parametrize("setting", [{}, {"ImageTagMutability": "MUTABLE"}], ids=["default", "mutable"])
def test_a_movable_tag_is_found(setting: dict[str, str]) -> None:
    assert list(
        movable_tags({"Resources": {"R": {"Type": "AWS::ECR::Repository", "Properties": setting}}})
    ) == ["R"]


# -- release -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def built() -> release.Release:
    return release.build(ROOT, "1.0.0", "a-bucket")


def test_the_manifest_has_every_object(built: release.Release) -> None:
    objects = {key: hashlib.sha256(data).hexdigest() for key, data in built.objects.items()}
    manifest = objects.pop(built.manifest_key)
    assert built.checksums == objects
    assert manifest.startswith(built.manifest_key.split(".")[-2])


def unhashed(keys: dict[str, str], objects: dict[str, bytes]) -> Iterator[str]:
    """Keys that would stay the same when their content changed."""
    for key, data in objects.items():
        folder = next((f"{p}/" for p in keys.values() if key.startswith(f"{p}/")), "")
        if folder:
            files = sorted(k for k in objects if k.startswith(folder))
            data = b"".join(k.removeprefix(folder).encode() + objects[k] for k in files)
        if hashlib.sha256(data).hexdigest()[: release.HASH_LENGTH] not in key:
            yield key


def test_every_key_holds_the_hash_of_its_content(built: release.Release) -> None:
    (nested,) = {key.rpartition("/")[0] for key in built.objects if "/templates/project/" in key}
    keys = built.keys | {"nested": nested}
    assert list(unhashed(keys, built.objects)) == []
    assert list(unhashed(keys, built.objects | {built.keys["CfnArchive"]: b"changed"})) == [
        built.keys["CfnArchive"]
    ]
    assert release.HASH_LENGTH * 4 >= 128


class Bucket:
    """S3 with what a release is made of; some of it changed."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if Key not in self.objects:
            from botocore.exceptions import ClientError

            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}


def test_a_changed_or_missing_object_stops_a_publication(built: release.Release) -> None:
    publish.verify(Bucket(built.objects), "b", built.checksums)
    function = built.keys["ProjectCleanupFunction"]
    with pytest.raises(
        publish.PublishError, match=rf"{function} is not what this release holds .*changed it"
    ):
        publish.verify(Bucket(built.objects | {function: b"other code"}), "b", built.checksums)
    missing = {key: data for key, data in built.objects.items() if key != function}
    with pytest.raises(
        publish.PublishError, match=rf"{function} of the release cannot be read \(NoSuchKey\)"
    ):
        publish.verify(Bucket(missing), "b", built.checksums)


@pytest.fixture
def enforced(cloud: Any) -> Iterator[None]:
    """Policies decide while a test runs."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


def session(cloud: Any, keys: dict[str, str]) -> boto3.Session:
    return boto3.Session(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
        region_name=cloud.region,
    )


def role(cloud: Any, *statements: dict[str, Any]) -> dict[str, str]:
    """Credentials of a new role with these statements."""
    iam, name = cloud.client("iam"), cloud.name("person")
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{cloud.account}:root"},
        "Action": "sts:AssumeRole",
    }
    made = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    )["Role"]["Arn"]
    policy = {"Version": "2012-10-17", "Statement": list(statements)}
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    return cloud.client("sts").assume_role(RoleArn=made, RoleSessionName="jane")["Credentials"]


def test_nobody_overwrites_what_is_published(cloud: Any, enforced: None) -> None:
    bucket = cloud.name("releases")
    publish.ensure_bucket(cloud.client("s3"), bucket, cloud.region, "aws")
    keys = role(cloud, {"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    s3 = cloud.client(
        "s3",
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    assert publish.upload(s3, bucket, {"1.0.0/x.yaml": b"first"}) == 1
    with pytest.raises(s3.exceptions.ClientError, match=r"AccessDenied.*s3:PutObject"):
        s3.put_object(Bucket=bucket, Key="1.0.0/x.yaml", Body=b"second")
    with pytest.raises(s3.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket=bucket, Key="1.0.0/x.yaml", Body=b"second", IfNoneMatch="*")
    assert s3.get_object(Bucket=bucket, Key="1.0.0/x.yaml")["Body"].read() == b"first"


# -- what a stack runs ---------------------------------------------------------------------------------------
NETWORK = {
    "urllib",
    "http",
    "socket",
    "ssl",
    "subprocess",
    "ftplib",
    "requests",
    "urllib3",
    "importlib",
    "ctypes",
}


# what speaks HTTP: the answer to CloudFormation, and the question of the function that tries a project's API
SPEAKS = {"api_check": "call"}
HARMLESS = ("urllib.error", "urllib.parse", "urllib.request")  # the last one's use is looked at below


def downloads(source: str, speaks: str = "send") -> Iterator[str]:
    """Whatever a function's code could fetch and run; the function that speaks is the exception."""
    tree = ast.parse(source)
    answers = {
        id(n) for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == speaks for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            for module in modules:
                if module.split(".")[0] in NETWORK and module not in HARMLESS:
                    yield f"line {node.lineno}: imports {module}"
        elif (
            isinstance(node, ast.Attribute)
            and ast.unparse(node).startswith("urllib.")
            and id(node) not in answers
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "exec",
            "eval",
            "compile",
            "__import__",
            "os.system",
        ):
            yield f"line {node.lineno}: {ast.unparse(node.func)}"


@pytest.mark.parametrize(
    "path", sorted((CFN / "lambda").glob("*/index.py")), ids=lambda path: path.parent.name
)
def test_functions_fetch_nothing(path: Path) -> None:
    assert list(downloads(path.read_text(), SPEAKS.get(path.parent.name, "send"))) == []


FETCHING = {
    "a download": "import urllib.request\ndef on_event(e):\n    urllib.request.urlopen('https://example.com')",
    "beside the answer": "import urllib.request\ndef handler(e, c):\n    urllib.request.urlopen(e['Url'])",
    "a client": "import http.client",
    "a socket": "from socket import create_connection",
    "pip": "import subprocess",
    "code in the event": "def on_event(e):\n    exec(e['code'])",
    "a module by name": "def on_event(e):\n    return __import__(e['m'])",
}


@pytest.mark.parametrize("source", FETCHING.values(), ids=FETCHING)
def test_a_function_that_fetches_is_found(source: str) -> None:
    assert list(downloads(source))


def strings(node: Any) -> Iterator[str]:
    """Every text in a template's resources."""
    if isinstance(node, dict):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


# what a resource may name by address: a template or archive of the release, and texts for people
FROM_THE_RELEASE = re.compile(
    r"https://\$\{(Bucket|ReleaseBucketName|ReleaseBucket)\}\.s3\.\$\{AWS::Region\}\.\$\{AWS::URLSuffix\}/"
)


def foreign_code(template: dict[str, Any]) -> Iterator[str]:
    """Code and templates that come from elsewhere than the release."""
    for name, resource in template.get("Resources", {}).items():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Lambda::Function":
            code = properties["Code"]
            if code == {"ImageUri": {"Ref": "ImageUri"}}:
                continue  # an image of the project's own registry: stage Select refuses any other
            if set(code) != {"S3Bucket", "S3Key"} or code["S3Bucket"] != {"Ref": "ReleaseBucketName"}:
                yield f"{name}: its code is not of the release"
            elif not code["S3Key"].get("Ref", "").endswith("FunctionKey"):
                yield f"{name}: its key is not stamped"
        seed = properties.get("Code", {}) if resource["Type"] == "AWS::CodeCommit::Repository" else {}
        if seed and seed["S3"]["Bucket"] != {"Ref": "ReleaseBucketName"}:
            yield f"{name}: its first commit is not of the release"
        for text in strings(properties):
            if re.search(r"(https?|ftp|git|ssh)://", FROM_THE_RELEASE.sub("", text)):
                yield f"{name}: {text[:80]}"
            if re.search(r"\b(curl|wget|pip3? install|npm install|apt-get|yum)\b", text):
                yield f"{name}: installs something: {text[:80]}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.relative_to(CFN).as_posix())
def test_stacks_take_code_from_the_release_only(path: Path) -> None:
    assert list(foreign_code(load(path))) == []


FUNCTION = {"Type": "AWS::Lambda::Function", "Properties": {"Code": {}}}
CODE = {"S3Bucket": {"Ref": "ReleaseBucketName"}, "S3Key": {"Ref": "XFunctionKey"}}
STACK = "AWS::CloudFormation::Stack"
FOREIGN = {
    "inline code": {"Type": "AWS::Lambda::Function", "Properties": {"Code": {"ZipFile": "x"}}},
    "another bucket": {"Type": "AWS::Lambda::Function", "Properties": {"Code": CODE | {"S3Bucket": "other"}}},
    "a foreign image": {
        "Type": "AWS::Lambda::Function",
        "Properties": {"Code": {"ImageUri": "public.ecr.aws/lambda/python:3.12"}},
    },
    "a fixed key": {
        "Type": "AWS::Lambda::Function",
        "Properties": {"Code": CODE | {"S3Key": {"Ref": "Latest"}}},
    },
    "a template from the web": {
        "Type": STACK,
        "Properties": {"TemplateURL": "https://s3.amazonaws.com/samples/x.yaml"},
    },
    "another seed": {
        "Type": "AWS::CodeCommit::Repository",
        "Properties": {"Code": {"S3": {"Bucket": "samples", "Key": "main.zip"}}},
    },
    "a start script": {
        "Type": "X",
        "Properties": {"Script": {"Fn::Base64": "curl -s example.com/setup | bash"}},
    },
    "a package at start": {"Type": "X", "Properties": {"Script": "pip install something"}},
}


@pytest.mark.parametrize("resource", FOREIGN.values(), ids=FOREIGN)
def test_foreign_code_is_found(resource: dict[str, Any]) -> None:
    assert list(foreign_code({"Resources": {"R": resource}}))


# -- reviews -------------------------------------------------------------------------------------------------
OWNERS = [
    ("project/identity.yaml", "DataScientistRole"),
    ("infra/identity.yaml", "FullStackDeveloperPolicy"),
    ("infra/identity.yaml", "MlEngineerPolicy"),
]
PAST_REVIEW = {"CreateCommit", "DeleteBranch", "DeleteFile", "GitPush", "MergeBranches*", "PutFile"}


def statements_of(template: dict[str, Any], resource: str) -> list[dict[str, Any]]:
    """The statements of a policy; of a role those of its own and of the policies that name it."""
    properties = template["Resources"][resource]["Properties"]
    documents = [one["PolicyDocument"] for one in properties.get("Policies", [])]
    documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
    for other in template["Resources"].values():
        if {"Ref": resource} in other["Properties"].get("Roles", []):
            documents.append(other["Properties"]["PolicyDocument"])
    return [one for document in documents for one in document["Statement"] if "Sid" in one]


def unreviewed(statements: list[dict[str, Any]]) -> set[str]:
    """Actions that change main past a pull request, though the role may write to repositories."""
    denied: set[str] = set()
    for one in statements:
        condition = {
            "StringEqualsIfExists": {"codecommit:References": ["refs/heads/main"]},
            "Null": {"codecommit:References": "false"},
        }
        if one["Effect"] == "Deny" and one.get("Condition") == condition:
            denied |= {action.removeprefix("codecommit:") for action in one["Action"]}
    return PAST_REVIEW - denied


@pytest.mark.parametrize(("path", "resource"), OWNERS, ids=[resource for _, resource in OWNERS])
def test_people_reach_main_by_pull_requests_only(path: str, resource: str) -> None:
    statements = statements_of(load(CFN / path), resource)
    assert unreviewed(statements) == set()
    without = [one for one in statements if one["Sid"] != "MainOnlyByPullRequest"]
    assert unreviewed(without) == PAST_REVIEW


def test_nobody_else_writes_to_repositories_of_the_platform() -> None:
    """Buildspecs and templates run with the roles of every project."""
    writers = []
    for path in TEMPLATES:
        for name, resource in load(path)["Resources"].items():
            if resource["Type"] not in ("AWS::IAM::Role", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
                continue
            if (
                name.endswith("Boundary") or "Deploy" in name
            ):  # grants nothing; makes the repositories of a release
                continue
            properties = resource["Properties"]
            documents = [p["PolicyDocument"] for p in properties.get("Policies", [])]
            documents += [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
            for statement in (s for d in documents for s in d["Statement"] if isinstance(s, dict)):
                text = json.dumps([statement.get("Action"), statement.get("Resource")])
                if statement.get("Effect") == "Allow" and re.search(
                    r"codecommit:(GitPush|PutFile|Merge|\*)", text
                ):
                    writers.append(
                        (
                            f"{path.relative_to(CFN)} {name}",
                            set(re.findall(r":(mlops-cfn|mlops-cicd)\"", text)),
                        )
                    )
    allowed = {
        "infra/identity.yaml FullStackDeveloperPolicy": {"mlops-cfn"},
        "infra/identity.yaml MlEngineerPolicy": {"mlops-cicd"},
    }
    assert {name: repositories for name, repositories in writers if repositories} == allowed


def test_a_push_to_main_is_refused_and_a_pull_request_is_not(
    cloud: Any, enforced: None, tmp_path: Path
) -> None:
    identity = "p-" + uuid.uuid4().hex[:12]
    name = f"mlops-{identity}"
    values = {"Partition": "aws", "Region": cloud.region, "AccountId": cloud.account, "ProjectId": identity}
    chosen = [
        s
        for s in statements_of(load(CFN / "project/identity.yaml"), "DataScientistRole")
        if isinstance(s, dict)
    ]
    chosen = [s for s in chosen if "codecommit:" in json.dumps(s.get("Action", ""))]
    keys = role(cloud, *(resolved(one, values) for one in chosen))
    root = cloud.client("codecommit")
    root.create_repository(repositoryName=name)
    root.put_file(
        repositoryName=name, branchName="main", fileContent=b"1\n", filePath="a", commitMessage="first"
    )
    helper = f"!f() {{ echo username={keys['AccessKeyId']}%{keys['SessionToken']}; echo password=x; }}; f"
    url = f"{cloud.endpoint}/v1/repos/{name}"
    cloud.git("-c", f"credential.helper={helper}", "clone", "-q", url, "clone", cwd=tmp_path, signs=False)
    clone = tmp_path / "clone"
    cloud.git("config", "credential.helper", helper, cwd=clone, signs=False)
    (clone / "a").write_text("2\n")
    cloud.git("commit", "-qam", "second", cwd=clone, signs=False)
    refused = cloud.git("push", "origin", "HEAD:main", cwd=clone, check=False, signs=False)
    assert refused.returncode and "403" in refused.stderr
    cloud.git("push", "-q", "origin", "HEAD:work", cwd=clone, signs=False)
    both = cloud.git("push", "origin", "HEAD:other", "HEAD:main", cwd=clone, check=False, signs=False)
    assert both.returncode
    client = session(cloud, keys).client("codecommit", endpoint_url=cloud.endpoint)
    tip = client.get_branch(repositoryName=name, branchName="main")["branch"]["commitId"]
    for call, arguments in (
        ("put_file", {"fileContent": b"3\n", "filePath": "a", "parentCommitId": tip}),
        ("create_commit", {"putFiles": [{"filePath": "a", "fileContent": b"3\n"}], "parentCommitId": tip}),
        ("delete_branch", {}),
    ):
        with pytest.raises(client.exceptions.ClientError, match="explicit deny"):
            getattr(client, call)(repositoryName=name, branchName="main", **arguments)
    with pytest.raises(client.exceptions.ClientError, match="explicit deny"):
        client.merge_branches_by_fast_forward(
            repositoryName=name,
            sourceCommitSpecifier="work",
            destinationCommitSpecifier="main",
            targetBranch="main",
        )
    targets = [{"repositoryName": name, "sourceReference": "work", "destinationReference": "main"}]
    request = client.create_pull_request(title="Second", targets=targets)["pullRequest"]["pullRequestId"]
    client.merge_pull_request_by_three_way(pullRequestId=request, repositoryName=name)
    content = client.get_file(repositoryName=name, commitSpecifier="main", filePath="a")["fileContent"]
    assert content == b"2\n"


def resolved(node: Any, values: dict[str, str]) -> Any:
    """A statement with its !Sub filled in."""
    if isinstance(node, dict):
        if set(node) == {"Fn::Sub"}:
            return re.sub(r"\$\{(?:AWS::)?(\w+)\}", lambda match: values[match[1]], node["Fn::Sub"])
        return {key: resolved(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [resolved(value, values) for value in node]
    return node


def test_every_folder_that_ships_has_an_owner_who_reviews_it() -> None:
    owners = (ROOT / ".github/CODEOWNERS").read_text()
    for folder in ("mlops-cfn", "mlops-cicd", "seedcode-repo", "scripts"):
        assert re.search(rf"^/{folder}/ +@\S+", owners, re.MULTILINE), folder
    assert re.search(r"^\* +@\S+", owners, re.MULTILINE)


def test_commits_are_made_from_files_that_are_looked_at() -> None:
    """No archive, wheel or compiled file hides in the sources: what is published can be read."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    opaque = [
        name
        for name in listed
        if re.search(r"\.(zip|tar|gz|tgz|whl|egg|jar|so|pyc|exe|bin|pkl|joblib)$", name)
    ]
    assert opaque == []
