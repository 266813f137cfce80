"""CodeArtifact: domains and repositories by API, and the packages themselves as pip's index over HTTP.

The packages are the wheels of the store (``<cache>/wheels``), which the project's set-up fills; they are what
``public:pypi`` holds here. A repository serves them when it, or one of its upstreams, has that external
connection, and own packages that were uploaded to it (as twine does). Either only as far as the package's
group lets its versions enter.
"""

from __future__ import annotations

import base64
import email
import email.policy
import hashlib
import html
import json
import re
import secrets
import threading
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import (
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from localaws import clock, package_groups
from localaws.cloud import caller_key
from localaws.errors import AwsError
from localaws.permissions import callers, gate
from localaws.permissions.access import Access
from localaws.resource import Context, ResourceType
from localaws.service import Response, Service, moment, page

if TYPE_CHECKING:
    from localaws.cloud import Cloud

_CONNECTIONS = {
    "public:pypi": "pypi",
    "public:npmjs": "npm",
    "public:maven-central": "maven",
    "public:nuget-org": "nuget",
}
_SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
MIRROR = "X-Localaws-Mirror"


class CodeArtifact(Service):
    """The API; repositories are keyed by (domain, name)."""

    name = "codeartifact"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.domains: dict[str, dict[str, Any]] = {}
        self.repositories: dict[tuple[str, str], dict[str, Any]] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.tokens: dict[str, tuple[str, Any, str]] = {}  # token → domain, end, who asked
        self.lock = threading.RLock()
        self.store = WheelStore(cloud.cache / "wheels")
        self.groups: dict[str, dict[str, package_groups.Group]] = {}  # domain → pattern → group
        self.published: dict[tuple[str, str], WheelStore] = {}

    # -- domains --------------------------------------------------------------------------------------------
    def create_domain(self, p: dict) -> dict:
        with self.lock:
            if p["domain"] in self.domains:
                raise self._conflict(
                    f"Domain with name '{p['domain']}' owned by account '{self.cloud.account}' already "
                    "exists."
                )
            domain = {
                "name": p["domain"],
                "owner": self.cloud.account,
                "arn": self.cloud.arn("codeartifact", f"domain/{p['domain']}"),
                "status": "Active",
                "createdTime": moment(),
                "assetSizeBytes": 0,
                "encryptionKey": p.get("encryptionKey") or self.cloud.arn("kms", "alias/aws/codeartifact"),
                "s3BucketArn": f"arn:{self.cloud.partition}:s3:::assets-{self.cloud.account}",
            }
            self.domains[p["domain"]] = domain
            self.groups[p["domain"]] = {
                package_groups.ROOT: package_groups.root(p["domain"], domain["createdTime"])
            }
            self._tag(domain["arn"], p)
        return {"domain": self._count(domain)}

    def describe_domain(self, p: dict) -> dict:
        return {"domain": self._count(self._domain(p))}

    def delete_domain(self, p: dict) -> dict:
        with self.lock:
            domain = self.domains.get(p["domain"])
            if domain is None:
                return {}
            left = sorted(name for owner, name in self.repositories if owner == p["domain"])
            if left:
                raise self._conflict(
                    f"Domain '{p['domain']}' cannot be deleted because it contains repositories: "
                    f"{', '.join(left)}."
                )
            self.groups.pop(p["domain"], None)
            return {"domain": self._count(self.domains.pop(p["domain"]))}

    def list_domains(self, p: dict) -> dict:
        found, token = page(
            sorted(self.domains.values(), key=lambda d: d["name"]), p, "maxResults", "nextToken"
        )
        return {"domains": found, "nextToken": token}

    # -- repositories ---------------------------------------------------------------------------------------
    def create_repository(self, p: dict) -> dict:
        domain = self._domain(p)
        key = (p["domain"], p["repository"])
        with self.lock:
            if key in self.repositories:
                raise self._conflict(f"Repository with name '{key[1]}' in domain '{key[0]}' already exists.")
            repository = {
                "name": key[1],
                "administratorAccount": self.cloud.account,
                "domainName": key[0],
                "domainOwner": domain["owner"],
                "arn": self.cloud.arn("codeartifact", f"repository/{key[0]}/{key[1]}"),
                "description": p.get("description"),
                "upstreams": self._upstreams(p),
                "externalConnections": [],
                "createdTime": moment(),
            }
            self.repositories[key] = repository
            self._tag(repository["arn"], p)
        return {"repository": repository}

    def describe_repository(self, p: dict) -> dict:
        return {"repository": self._repository(p)}

    def update_repository(self, p: dict) -> dict:
        with self.lock:
            repository = self._repository(p)
            if "description" in p:
                repository["description"] = p["description"]
            if "upstreams" in p:
                if p["upstreams"] and repository["externalConnections"]:
                    raise AwsError(
                        "ValidationException",
                        f"Repository '{p['repository']}' has an external connection; it cannot have "
                        "upstreams too.",
                    )
                repository["upstreams"] = self._upstreams(p)
        return {"repository": repository}

    def delete_repository(self, p: dict) -> dict:
        with self.lock:
            self._domain(p)
            repository = self.repositories.pop((p["domain"], p["repository"]), None)
            self.published.pop((p["domain"], p["repository"]), None)
        return {"repository": repository} if repository else {}

    def list_repositories(self, p: dict) -> dict:
        prefix = p.get("repositoryPrefix") or ""
        found = sorted(
            (r for r in self.repositories.values() if r["name"].startswith(prefix)),
            key=lambda r: (r["domainName"], r["name"]),
        )
        part, token = page(found, p, "maxResults", "nextToken")
        return {"repositories": part, "nextToken": token}

    def list_repositories_in_domain(self, p: dict) -> dict:
        self._domain(p)
        prefix = p.get("repositoryPrefix") or ""
        found = sorted(
            (r for (d, n), r in self.repositories.items() if d == p["domain"] and n.startswith(prefix)),
            key=lambda r: r["name"],
        )
        part, token = page(found, p, "maxResults", "nextToken")
        return {"repositories": part, "nextToken": token}

    def associate_external_connection(self, p: dict) -> dict:
        name = p["externalConnection"]
        if name not in _CONNECTIONS:
            raise AwsError(
                "ValidationException",
                f"Invalid external connection '{name}'; allowed: {', '.join(sorted(_CONNECTIONS))}",
            )
        with self.lock:
            repository = self._repository(p)
            if repository["externalConnections"]:
                raise self._conflict(
                    f"Repository '{p['repository']}' already has an external connection; one is the maximum."
                )
            repository["externalConnections"] = [
                {"externalConnectionName": name, "packageFormat": _CONNECTIONS[name], "status": "Available"}
            ]
        return {"repository": repository}

    def disassociate_external_connection(self, p: dict) -> dict:
        with self.lock:
            repository = self._repository(p)
            kept = [
                c
                for c in repository["externalConnections"]
                if c["externalConnectionName"] != p["externalConnection"]
            ]
            repository["externalConnections"] = kept
        return {"repository": repository}

    # -- use ------------------------------------------------------------------------------------------------
    def get_repository_endpoint(self, p: dict) -> dict:
        repository = self._repository(p)
        if p["format"] != "pypi":
            raise AwsError(
                "ValidationException", f"The local cloud serves the format pypi; {p['format']} was asked for"
            )
        return {
            "repositoryEndpoint": "/".join(
                (self.cloud.endpoint, "codeartifact", repository["domainName"], repository["name"], "pypi/")
            )
        }

    def get_authorization_token(self, p: dict) -> dict:
        self._domain(p)
        seconds = p.get("durationSeconds") or 43_200
        if not 900 <= seconds <= 43_200:
            raise AwsError(
                "ValidationException", f"durationSeconds is {seconds}; 0, or 900 to 43200, is allowed"
            )
        token, expires = secrets.token_hex(32), moment() + timedelta(seconds=seconds)
        self.tokens[token] = (p["domain"], expires, caller_key.get())
        return {"authorizationToken": token, "expiration": expires}

    def list_packages(self, p: dict) -> dict:
        repository = self._repository(p)
        names = [n for n in self.names(repository) if self.files(repository, n)]
        prefix = p.get("packagePrefix") or ""
        part, token = page(
            [{"format": "pypi", "package": n} for n in names if n.startswith(prefix)],
            p,
            "maxResults",
            "nextToken",
        )
        return {"packages": part, "nextToken": token}

    def list_package_versions(self, p: dict) -> dict:
        files = self.files(self._repository(p), p["package"])
        if not files:
            raise self._missing(f"Package '{p['package']}' not found.")
        versions = sorted({f.version for f in files})
        return {
            "format": "pypi",
            "package": p["package"],
            "versions": [{"version": v, "status": "Published"} for v in versions],
        }

    # -- package groups -------------------------------------------------------------------------------------
    def create_package_group(self, p: dict) -> dict:
        self._domain(p)
        pattern = package_groups.check(p["packageGroup"])
        with self.lock:
            if pattern in self.groups[p["domain"]]:
                raise self._conflict(f"Package group '{pattern}' already exists in domain '{p['domain']}'.")
            group = package_groups.Group(
                pattern, p["domain"], moment(), p.get("contactInfo", ""), p.get("description", "")
            )
            self.groups[p["domain"]][pattern] = group
            self._tag(self._group_arn(group), p)
        return {"packageGroup": self._shown(group)}

    def describe_package_group(self, p: dict) -> dict:
        return {"packageGroup": self._shown(self._group(p))}

    def update_package_group(self, p: dict) -> dict:
        group = self._group(p)
        group.contact = p.get("contactInfo", group.contact)
        group.description = p.get("description", group.description)
        return {"packageGroup": self._shown(group)}

    def delete_package_group(self, p: dict) -> dict:
        with self.lock:
            group = self._group(p)
            if group.pattern == package_groups.ROOT:
                raise AwsError("ValidationException", "The root package group cannot be deleted.")
            del self.groups[p["domain"]][group.pattern]
        return {"packageGroup": self._shown(group, alone=True)}

    def list_package_groups(self, p: dict) -> dict:
        self._domain(p)
        prefix = p.get("prefix") or ""
        found = [g for k, g in sorted(self.groups[p["domain"]].items()) if k.startswith(prefix)]
        part, token = page(found, p, "maxResults", "nextToken")
        return {"packageGroups": [self._shown(g) for g in part], "nextToken": token}

    def update_package_group_origin_configuration(self, p: dict) -> dict:
        group = self._group(p)
        with self.lock:
            for kind, mode in (p.get("restrictions") or {}).items():
                group.modes[kind] = mode
                if mode != "ALLOW_SPECIFIC_REPOSITORIES":
                    group.allowed[kind].clear()
            for one in p.get("addAllowedRepositories") or []:
                self._repository({"domain": p["domain"], "repository": one["repositoryName"]})
                if group.modes[one["originRestrictionType"]] != "ALLOW_SPECIFIC_REPOSITORIES":
                    raise AwsError(
                        "ValidationException",
                        f"{one['originRestrictionType']} of '{group.pattern}' is "
                        f"{group.modes[one['originRestrictionType']]}; repositories can be added to "
                        "ALLOW_SPECIFIC_REPOSITORIES only",
                    )
                group.allowed[one["originRestrictionType"]].add(one["repositoryName"])
            for one in p.get("removeAllowedRepositories") or []:
                group.allowed[one["originRestrictionType"]].discard(one["repositoryName"])
        return {"packageGroup": self._shown(group)}

    def list_allowed_repositories_for_group(self, p: dict) -> dict:
        found = sorted(self._group(p).allowed[p["originRestrictionType"]])
        part, token = page(found, p, "maxResults", "nextToken")
        return {"allowedRepositories": part, "nextToken": token}

    def get_associated_package_group(self, p: dict) -> dict:
        self._domain(p)
        path = f"/{p['format']}/{p.get('namespace') or ''}/{p['package']}"
        found = package_groups.group_of(self.groups[p["domain"]].values(), path)
        return {"packageGroup": self._shown(found), "associationType": "STRONG"}

    # -- policies, tags -------------------------------------------------------------------------------------
    def put_domain_permissions_policy(self, p: dict) -> dict:
        return {"policy": self._put_policy(self._domain(p)["arn"], p["policyDocument"])}

    def get_domain_permissions_policy(self, p: dict) -> dict:
        return {"policy": self._policy(self._domain(p)["arn"])}

    def delete_domain_permissions_policy(self, p: dict) -> dict:
        return {"policy": self.policies.pop(self._domain(p)["arn"], None)}

    def put_repository_permissions_policy(self, p: dict) -> dict:
        return {"policy": self._put_policy(self._repository(p)["arn"], p["policyDocument"])}

    def get_repository_permissions_policy(self, p: dict) -> dict:
        return {"policy": self._policy(self._repository(p)["arn"])}

    def delete_repository_permissions_policy(self, p: dict) -> dict:
        return {"policy": self.policies.pop(self._repository(p)["arn"], None)}

    def tag_resource(self, p: dict) -> dict:
        self._tag(p["resourceArn"], p)
        return {}

    def untag_resource(self, p: dict) -> dict:
        for key in p["tagKeys"]:
            self.tags.get(p["resourceArn"], {}).pop(key, None)
        return {}

    def list_tags_for_resource(self, p: dict) -> dict:
        return {"tags": [{"key": k, "value": v} for k, v in self.tags.get(p["resourceArn"], {}).items()]}

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of a domain or repository by its ARN, for conditions of policies."""
        return self.tags.get(arn, {})

    # -- inside ---------------------------------------------------------------------------------------------
    def serves(self, repository: dict[str, Any]) -> bool:
        """Whether the repository, or one of its upstreams, is connected to public:pypi."""
        seen, todo = set(), [repository]
        while todo:
            one = todo.pop()
            if any(c["externalConnectionName"] == "public:pypi" for c in one["externalConnections"]):
                return True
            seen.add(one["name"])
            above = (
                self.repositories.get((one["domainName"], u["repositoryName"])) for u in one["upstreams"]
            )
            todo += [r for r in above if r and r["name"] not in seen]
        return False

    def permits(self, repository: dict[str, Any], project: str, kind: str) -> bool:
        """Whether the package's group lets its versions enter the repository in this way."""
        groups, path = self.groups[repository["domainName"]].values(), f"/pypi//{canonicalize_name(project)}"
        return package_groups.permits(groups, path, kind, repository["name"])

    def own(self, repository: dict[str, Any]) -> WheelStore:
        """What was uploaded to the repository."""
        key = (repository["domainName"], repository["name"])
        if key not in self.published:
            folder = self.cloud.home / "codeartifact" / key[0] / key[1]
            folder.mkdir(parents=True, exist_ok=True)
            self.published[key] = WheelStore(folder)
        return self.published[key]

    def _above(self, repository: dict[str, Any]) -> list[dict[str, Any]]:
        names = [u["repositoryName"] for u in repository["upstreams"]]
        found = (self.repositories.get((repository["domainName"], name)) for name in names)
        return [r for r in found if r]

    def names(self, repository: dict[str, Any]) -> list[str]:
        """Packages of which the repository or an upstream may have a version."""
        found = set(self.own(repository).projects())
        if repository["externalConnections"]:
            found |= set(self.store.projects())
        for upstream in self._above(repository):
            found |= set(self.names(upstream))
        return sorted(found)

    def origins(self, repository: dict[str, Any], project: str) -> list[WheelStore]:
        """Where the repository's versions of a package come from: uploads, or what may enter from above.

        A package that was uploaded here takes nothing from above: CodeArtifact blocks the upstreams of a
        package at its first direct publication.
        """
        if self.own(repository).files(project):
            return [self.own(repository)]
        found: list[WheelStore] = []
        if self.permits(repository, project, package_groups.INTERNAL):
            found += [o for upstream in self._above(repository) for o in self.origins(upstream, project)]
        connected = "public:pypi" in (c["externalConnectionName"] for c in repository["externalConnections"])
        if connected and self.permits(repository, project, package_groups.EXTERNAL):
            found.append(self.store)
        return found

    def files(self, repository: dict[str, Any], project: str) -> list[File]:
        """The files of a package that the repository serves."""
        found: dict[str, File] = {}
        for origin in self.origins(repository, project):
            for file in origin.files(project):
                found.setdefault(file.path.name, file)
        return sorted(found.values(), key=lambda f: f.path.name)

    def mirrors(self, repository: dict[str, Any]) -> bool:
        """Whether the repository serves exactly what the wheel store holds."""
        projects = self.store.projects()
        return set(self.names(repository)) <= set(projects) and all(
            self.origins(repository, project) == [self.store] for project in projects
        )

    def _group(self, p: dict) -> package_groups.Group:
        self._domain(p)
        found = self.groups[p["domain"]].get(p["packageGroup"])
        if found is None:
            raise self._missing(f"Package group '{p['packageGroup']}' in domain '{p['domain']}' not found.")
        return found

    def _group_arn(self, group: package_groups.Group) -> str:
        return self.cloud.arn("codeartifact", f"package-group/{group.domain}{group.pattern}")

    def _shown(self, group: package_groups.Group, alone: bool = False) -> dict[str, Any]:
        groups = list(self.groups.get(group.domain, {}).values())
        above = None if alone else package_groups.parent_of(groups, group)

        def reference(one: package_groups.Group) -> dict[str, str]:
            return {"arn": self._group_arn(one), "pattern": one.pattern}

        restrictions = {}
        for kind in package_groups.KINDS:
            decides = group if alone else package_groups.effective(groups, group, kind)
            restrictions[kind] = {
                "mode": group.modes[kind],
                "effectiveMode": decides.modes[kind],
                "inheritedFrom": reference(decides) if decides is not group else None,
                "repositoriesCount": len(group.allowed[kind]),
            }
        return {
            **reference(group),
            "domainName": group.domain,
            "domainOwner": self.cloud.account,
            "createdTime": group.created,
            "contactInfo": group.contact,
            "description": group.description,
            "originConfiguration": {"restrictions": restrictions},
            "parent": reference(above) if above else None,
        }

    def allows(self, domain: str, authorization: str) -> bool:
        """Whether an HTTP Basic header carries a token that is valid for the domain."""
        owner, expires, _ = self.tokens.get(_token(authorization), ("", None, ""))
        return owner == domain and expires is not None and clock.now() < expires

    def authorize(self, repository: dict[str, Any], authorization: str, publishes: str = "") -> None:
        """A token carries the permissions of who asked for it. Raises AccessDenied for a repository that is
        not theirs to read, or to publish this package to."""
        caller = callers.caller_of(self.cloud, self.tokens[_token(authorization)][2])
        service = "codeartifact.repositories"
        endpoint = None if caller.unrestricted else gate.way_in(self.cloud, caller, service)
        access = Access("codeartifact:ReadFromRepository", repository["arn"])
        if publishes:
            place = f"package/{repository['domainName']}/{repository['name']}/pypi//{publishes}"
            access = Access("codeartifact:PublishPackageVersion", self.cloud.arn("codeartifact", place))
        gate.authorize(self.cloud, caller, access, endpoint)

    def _domain(self, p: dict) -> dict[str, Any]:
        if (
            p["domain"] not in self.domains
            or (p.get("domainOwner") or self.cloud.account) != self.cloud.account
        ):
            raise self._missing(
                f"Domain not found. Domain with name '{p['domain']}' owned by account "
                f"'{p.get('domainOwner') or self.cloud.account}' not found."
            )
        return self.domains[p["domain"]]

    def _repository(self, p: dict) -> dict[str, Any]:
        self._domain(p)
        found = self.repositories.get((p["domain"], p["repository"]))
        if found is None:
            raise self._missing(
                f"Repository not found. Repository with name '{p['repository']}' in domain '{p['domain']}' "
                "not found."
            )
        return found

    def _upstreams(self, p: dict) -> list[dict[str, str]]:
        wanted = p.get("upstreams") or []
        for upstream in wanted:
            if (p["domain"], upstream["repositoryName"]) not in self.repositories:
                raise self._missing(
                    f"Upstream repository '{upstream['repositoryName']}' in domain '{p['domain']}' not found."
                )
        return wanted

    def _count(self, domain: dict[str, Any]) -> dict[str, Any]:
        return {
            **domain,
            "repositoryCount": sum(1 for owner, _ in self.repositories if owner == domain["name"]),
        }

    def _put_policy(self, arn: str, document: str) -> dict[str, Any]:
        try:
            json.loads(document)
        except ValueError as error:
            raise AwsError("ValidationException", f"The policy document is not JSON: {error}") from None
        self.policies[arn] = {"resourceArn": arn, "revision": secrets.token_hex(8), "document": document}
        return self.policies[arn]

    def _policy(self, arn: str) -> dict[str, Any]:
        if arn not in self.policies:
            raise self._missing(f"There is no resource policy on {arn}.")
        return self.policies[arn]

    def _tag(self, arn: str, p: dict) -> None:
        self.tags.setdefault(arn, {}).update({t["key"]: t["value"] for t in p.get("tags") or []})

    @staticmethod
    def _conflict(message: str) -> AwsError:
        return AwsError("ConflictException", message, 409)

    @staticmethod
    def _missing(message: str) -> AwsError:
        return AwsError("ResourceNotFoundException", message, 404)


# -- the packages ----------------------------------------------------------------------------------------
class File:
    """One distribution file of the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix == ".whl":
            project, version, *_ = parse_wheel_filename(path.name)
        else:
            project, version = parse_sdist_filename(path.name)
        self.project, self.version = str(project), str(version)
        self._digest = ""
        self._metadata: bytes | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the file, computed once."""
        if not self._digest:
            with self.path.open("rb") as handle:
                self._digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return self._digest

    def metadata(self) -> bytes:
        """The wheel's METADATA (PEP 658), empty for a source distribution."""
        if self._metadata is None:
            self._metadata = b""
            if self.path.suffix == ".whl":
                with zipfile.ZipFile(self.path) as archive:
                    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
                    self._metadata = archive.read(name)
        return self._metadata


class WheelStore:
    """The folder of distributions, read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, File] = {}
        self._lock = threading.Lock()

    def _files(self) -> dict[str, File]:
        with self._lock:
            names = {p.name: p for p in self.folder.glob("*") if p.suffix in (".whl", ".gz", ".zip")}
            for name in names.keys() - self._known.keys():
                try:
                    self._known[name] = File(names[name])
                except (InvalidWheelFilename, ValueError):
                    continue
            for name in self._known.keys() - names.keys():
                del self._known[name]
            return dict(self._known)

    def projects(self) -> list[str]:
        """Normalised names of all that is there."""
        return sorted({f.project for f in self._files().values()})

    def files(self, project: str) -> list[File]:
        """The files of a project, by any spelling of its name."""
        wanted = canonicalize_name(project)
        return sorted((f for f in self._files().values() if f.project == wanted), key=lambda f: f.path.name)

    def file(self, name: str) -> File | None:
        """The file of that name."""
        return self._files().get(name)


def _token(authorization: str) -> str:
    """The token in an HTTP Basic header, "" when it has none."""
    try:
        return base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")[2]
    except ValueError:
        return ""


def index(cloud: Cloud, method: str, path: str, headers: dict[str, str], query: str, body: bytes) -> Response:
    """pip's index (PEP 503, 691, 658) of a repository.

    ``/codeartifact/<domain>/<repository>/pypi/simple/…``.
    """
    token = _token(headers.get("authorization", ""))
    service: CodeArtifact = next(
        (s for a in cloud.accounts if token in (s := cloud.at(a).services["codeartifact"]).tokens),
        cloud.services["codeartifact"],
    )
    match = re.fullmatch(r"/codeartifact/([^/]+)/([^/]+)/pypi/(simple|files)(?:/(.*))?", path)
    upload = re.fullmatch(r"/codeartifact/([^/]+)/([^/]+)/pypi/()()", path) if method == "POST" else None
    match = match or upload
    if not match:
        return _text(404, f"{path} is no address of a package index\n")
    domain, name, kind, rest = match[1], match[2], match[3], (match[4] or "").strip("/")
    if not service.allows(domain, headers.get("authorization", "")):
        status, sent, content = _text(
            401, "A token of CodeArtifact is needed: aws codeartifact login --tool pip …\n"
        )
        return status, {**sent, "WWW-Authenticate": f'Basic realm="{domain}"'}, content
    repository = service.repositories.get((domain, name))
    if repository is None:
        return _text(404, f"Repository {name} not found in domain {domain}\n")
    try:
        if upload:
            return _upload(service, repository, headers, body)
        service.authorize(repository, headers.get("authorization", ""))
    except AwsError as error:
        return _text(403, f"{error.message}\n")
    if not service.serves(repository) and not service.own(repository).projects():
        return _text(404, f"Repository {name} has no upstream with the external connection public:pypi\n")
    if kind == "files":
        return _file(service, repository, rest)
    as_json = _SIMPLE_JSON in headers.get("accept", "")
    if not rest:
        status, sent, content = _listing(service.names(repository), as_json)
        # pip of the local cloud may then take the files from the store itself
        return status, {**sent, **({MIRROR: "true"} if service.mirrors(repository) else {})}, content
    found = service.files(repository, rest)
    if not found and rest and service.store.files(rest):
        return _text(
            404, f"{rest}: the origin controls of its package group let no version of it into {name}\n"
        )
    if not found:
        cloud.log.warning(
            "CodeArtifact: no package %s in the wheel store %s; add it to the requirements and run the "
            "set-up again",
            rest,
            service.store.folder,
        )
        return _text(
            404,
            f"{rest}: not in the local cloud's copy of public:pypi; add it to the requirements and run "
            "`make setup` again\n",
        )
    base = f"/codeartifact/{domain}/{name}/pypi/files/"
    return _project(canonicalize_name(rest), found, base, as_json)


def _listing(projects: list[str], as_json: bool) -> Response:
    if as_json:
        document = {"meta": {"api-version": "1.0"}, "projects": [{"name": p} for p in projects]}
        return 200, {"Content-Type": _SIMPLE_JSON}, json.dumps(document).encode()
    return _html("".join(f'<a href="{p}/">{p}</a><br>\n' for p in projects))


def _project(name: str, files: list[File], base: str, as_json: bool) -> Response:
    if as_json:
        entries = [
            {
                "filename": f.path.name,
                "url": base + f.path.name,
                "hashes": {"sha256": f.digest},
                "size": f.path.stat().st_size,
                "core-metadata": {"sha256": hashlib.sha256(f.metadata()).hexdigest()}
                if f.metadata()
                else False,
            }
            for f in files
        ]
        document = {"meta": {"api-version": "1.0"}, "name": name, "files": entries}
        return (
            200,
            {"Content-Type": _SIMPLE_JSON, "Cache-Control": "max-age=600"},
            json.dumps(document).encode(),
        )
    links = [
        f'<a href="{base}{html.escape(f.path.name)}#sha256={f.digest}"'
        + (f' data-core-metadata="sha256={hashlib.sha256(f.metadata()).hexdigest()}"' if f.metadata() else "")
        + f">{html.escape(f.path.name)}</a><br>\n"
        for f in files
    ]
    return _html("".join(links))


def _upload(
    service: CodeArtifact, repository: dict[str, Any], headers: dict[str, str], body: bytes
) -> Response:
    """The upload API of package indexes, as twine speaks it: one file in a form."""
    head = f"Content-Type: {headers.get('content-type', '')}\r\n\r\n".encode()
    form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
    fields: dict[str, bytes] = {}
    filename = ""
    for part in form.iter_parts():
        fields[part.get_param("name", header="content-disposition") or ""] = part.get_payload(decode=True)
        filename = part.get_filename() or filename
    try:
        project, version, *_ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return _text(400, f"{filename[:100]!r} is not the name of a wheel; this index takes wheels\n")
    service.authorize(repository, headers.get("authorization", ""), str(project))
    if not service.permits(repository, project, package_groups.PUBLISH):
        return _text(
            403,
            f"{project} cannot be published to {repository['name']}: the origin controls of its package "
            "group do not allow it\n",
        )
    content = fields.get("content", b"")
    if hashlib.sha256(content).hexdigest() != fields.get("sha256_digest", b"").decode():
        return _text(400, f"{filename}: the content is not what sha256_digest says\n")
    with service.lock:
        store = service.own(repository)
        if store.file(filename):
            return _text(409, f"{project} {version} exists already; a published version does not change\n")
        (store.folder / filename).write_bytes(content)
    return _text(200, "")


def _file(service: CodeArtifact, repository: dict[str, Any], name: str) -> Response:
    wants_metadata = name.endswith(".metadata")
    name = name.removesuffix(".metadata")
    project = name.partition("-")[0] if name.endswith(".whl") else name.rpartition("-")[0]
    found = next((f for f in service.files(repository, project) if f.path.name == name), None)
    if found is None:
        return _text(404, f"{name} not found\n")
    content = found.metadata() if wants_metadata else found.path.read_bytes()
    kind = "text/plain" if wants_metadata else "application/octet-stream"
    return 200, {"Content-Type": kind, "Cache-Control": "max-age=365000000, immutable"}, content


def _html(text: str) -> Response:
    return (
        200,
        {"Content-Type": "text/html; charset=utf-8"},
        f"<!DOCTYPE html><html><body>\n{text}</body></html>\n".encode(),
    )


def _text(status: int, text: str) -> Response:
    return status, {"Content-Type": "text/plain; charset=utf-8"}, text.encode()


# -- CloudFormation --------------------------------------------------------------------------------------
def _tags(props: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"key": t["Key"], "value": t["Value"]}
        for t in props.get("Tags") or []
        if not t["Key"].startswith("aws:")
    ]


class Domain(ResourceType):
    """AWS::CodeArtifact::Domain; Ref is its ARN."""

    type_name = "AWS::CodeArtifact::Domain"
    name_property = "DomainName"

    def create(self, context: Context, props: dict) -> tuple[str, dict]:
        client = context.client("codeartifact")
        key = {"encryptionKey": props["EncryptionKey"]} if props.get("EncryptionKey") else {}
        made = client.create_domain(domain=props["DomainName"], tags=_tags(props), **key)["domain"]
        self._policy(client, props)
        return made["arn"], {
            "Arn": made["arn"],
            "Name": made["name"],
            "Owner": made["owner"],
            "EncryptionKey": made["encryptionKey"],
        }

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict:
        client = context.client("codeartifact")
        self._policy(client, new)
        if old.get("PermissionsPolicyDocument") and not new.get("PermissionsPolicyDocument"):
            client.delete_domain_permissions_policy(domain=new["DomainName"])
        client.tag_resource(resourceArn=physical_id, tags=_tags(new))
        return {}

    def delete(self, context: Context, physical_id: str, props: dict) -> None:
        context.client("codeartifact").delete_domain(domain=props["DomainName"])

    @staticmethod
    def _policy(client: Any, props: dict) -> None:
        if props.get("PermissionsPolicyDocument"):
            client.put_domain_permissions_policy(
                domain=props["DomainName"], policyDocument=json.dumps(props["PermissionsPolicyDocument"])
            )


class Repository(ResourceType):
    """AWS::CodeArtifact::Repository; Ref is its ARN."""

    type_name = "AWS::CodeArtifact::Repository"
    name_property = "RepositoryName"

    def create(self, context: Context, props: dict) -> tuple[str, dict]:
        client = context.client("codeartifact")
        where = self._where(props)
        text = {"description": props["Description"]} if props.get("Description") else {}
        upstreams = [{"repositoryName": u} for u in props.get("Upstreams") or []]
        made = client.create_repository(**where, upstreams=upstreams, tags=_tags(props), **text)["repository"]
        for connection in props.get("ExternalConnections") or []:
            client.associate_external_connection(**where, externalConnection=connection)
        self._policy(client, props)
        return made["arn"], {
            "Arn": made["arn"],
            "Name": made["name"],
            "DomainName": made["domainName"],
            "DomainOwner": made["domainOwner"],
        }

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict:
        client = context.client("codeartifact")
        where = self._where(new)
        before, after = set(old.get("ExternalConnections") or []), set(new.get("ExternalConnections") or [])
        for connection in before - after:
            client.disassociate_external_connection(**where, externalConnection=connection)
        upstreams = [{"repositoryName": u} for u in new.get("Upstreams") or []]
        client.update_repository(**where, description=new.get("Description") or "", upstreams=upstreams)
        for connection in after - before:
            client.associate_external_connection(**where, externalConnection=connection)
        self._policy(client, new)
        if old.get("PermissionsPolicyDocument") and not new.get("PermissionsPolicyDocument"):
            client.delete_repository_permissions_policy(**where)
        client.tag_resource(resourceArn=physical_id, tags=_tags(new))
        return {}

    def delete(self, context: Context, physical_id: str, props: dict) -> None:
        client = context.client("codeartifact")
        try:
            client.delete_repository(**self._where(props))
        except client.exceptions.ResourceNotFoundException:
            return  # its domain is gone, and the repository with it

    @staticmethod
    def _where(props: dict) -> dict[str, str]:
        return {"domain": props["DomainName"], "repository": props["RepositoryName"]}

    def _policy(self, client: Any, props: dict) -> None:
        if props.get("PermissionsPolicyDocument"):
            client.put_repository_permissions_policy(
                **self._where(props), policyDocument=json.dumps(props["PermissionsPolicyDocument"])
            )


class PackageGroup(ResourceType):
    """AWS::CodeArtifact::PackageGroup; Ref is its ARN."""

    type_name = "AWS::CodeArtifact::PackageGroup"
    _KINDS = {
        "Publish": package_groups.PUBLISH,
        "ExternalUpstream": package_groups.EXTERNAL,
        "InternalUpstream": package_groups.INTERNAL,
    }

    def create(self, context: Context, props: dict) -> tuple[str, dict]:
        client = context.client("codeartifact")
        where = {"domain": props["DomainName"], "packageGroup": props["Pattern"]}
        made = client.create_package_group(**where, **self._texts(props), tags=_tags(props))["packageGroup"]
        self._restrict(client, where, {}, props)
        return made["arn"], {"Arn": made["arn"]}

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict:
        client = context.client("codeartifact")
        where = {"domain": new["DomainName"], "packageGroup": new["Pattern"]}
        client.update_package_group(**where, **self._texts(new))
        self._restrict(client, where, old, new)
        client.tag_resource(resourceArn=physical_id, tags=_tags(new))
        return {}

    def delete(self, context: Context, physical_id: str, props: dict) -> None:
        client = context.client("codeartifact")
        try:
            client.delete_package_group(domain=props["DomainName"], packageGroup=props["Pattern"])
        except client.exceptions.ResourceNotFoundException:
            return  # its domain is gone, and the group with it

    @staticmethod
    def _texts(props: dict) -> dict[str, str]:
        return {"contactInfo": props.get("ContactInfo") or "", "description": props.get("Description") or ""}

    def _restrict(self, client: Any, where: dict, old: dict, new: dict) -> None:
        def given(props: dict) -> dict[str, dict]:
            restrictions = (props.get("OriginConfiguration") or {}).get("Restrictions") or {}
            return {self._KINDS[kind]: value for kind, value in restrictions.items()}

        def listed(props: dict) -> set[tuple[str, str]]:
            lists = {kind: value.get("Repositories") or [] for kind, value in given(props).items()}
            return {(kind, name) for kind, names in lists.items() for name in names}

        def named(some: set[tuple[str, str]]) -> list[dict[str, str]]:
            return [{"originRestrictionType": kind, "repositoryName": name} for kind, name in sorted(some)]

        # what the template no longer says is inherited again
        modes = dict.fromkeys(given(old), "INHERIT")
        modes |= {kind: value["RestrictionMode"] for kind, value in given(new).items()}
        gone = {(kind, name) for kind, name in listed(old) - listed(new) if modes[kind] != "INHERIT"}
        if modes:
            client.update_package_group_origin_configuration(
                **where,
                restrictions=modes,
                addAllowedRepositories=named(listed(new) - listed(old)),
                removeAllowedRepositories=named(gone),
            )


SERVICES = (CodeArtifact,)
TYPES = (Domain, Repository, PackageGroup)
RAW = {"/codeartifact/": index}
