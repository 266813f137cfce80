"""CodeBuild: projects, and builds that really run (builds.py), alone or for a pipeline."""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

from localaws import builds, clock
from localaws.builds import Build, BuildFailed, GitSource, Inputs, Source, ZipSource
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import ApiResource, Attributes, Context
from localaws.service import Service, page

PRINCIPAL = builds.PRINCIPAL
_RUNNING = "IN_PROGRESS"


class CodeBuild(Service):
    """Projects and builds."""

    name = "codebuild"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.projects: dict[str, dict[str, Any]] = {}
        self.builds: dict[str, dict[str, Any]] = {}
        self.numbers: dict[str, int] = {}
        self.running: dict[str, Build] = {}
        #: what a pipeline prepared for the StartBuild that it makes next, by its idempotency token
        self.prepared: dict[str, Inputs] = {}
        self.lock = threading.RLock()

    # -- projects ---------------------------------------------------------------------------------------
    def create_project(self, params: dict[str, Any]) -> dict[str, Any]:
        name = params["name"]
        self._check(params)
        with self.lock:
            if name in self.projects:
                raise AwsError(
                    "ResourceAlreadyExistsException",
                    f"Project already exists: {self.cloud.arn('codebuild', f'project/{name}')}",
                )
            project = {
                "arn": self.cloud.arn("codebuild", f"project/{name}"),
                "created": clock.now(),
                "timeoutInMinutes": 60,
                "queuedTimeoutInMinutes": 480,
                "encryptionKey": self.cloud.arn("kms", "alias/aws/s3"),
                "secondarySources": [],
                "secondaryArtifacts": [],
                "tags": [],
                "badge": {"badgeEnabled": False},
                "cache": {"type": "NO_CACHE"},
                "projectVisibility": "PRIVATE",
                **{k: v for k, v in params.items() if k != "badgeEnabled"},
                "lastModified": clock.now(),
            }
            self.projects[name] = project
        return {"project": project}

    def update_project(self, params: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            project = self._project(params["name"])
            merged = {**project, **{k: v for k, v in params.items() if k != "badgeEnabled"}}
            if "vpcConfig" in params and not params["vpcConfig"].get("vpcId"):
                merged.pop("vpcConfig")
            self._check(merged)
            merged["lastModified"] = clock.now()
            self.projects[project["name"]] = merged
        return {"project": merged}

    def update_project_visibility(self, params: dict[str, Any]) -> dict[str, Any]:
        project = self._project(params["projectArn"].rpartition("/")[2])
        project["projectVisibility"] = params["projectVisibility"]
        return {"projectArn": project["arn"], "projectVisibility": project["projectVisibility"]}

    def _check(self, params: dict[str, Any]) -> None:
        """What AWS refuses of a project."""
        role = params["serviceRole"]
        arn = (
            role
            if role.startswith("arn:")
            else f"arn:{self.cloud.partition}:iam::{self.cloud.account}:role/{role}"
        )
        try:
            self.cloud.check_trust(arn, PRINCIPAL)
        except AwsError as error:
            raise AwsError(
                "InvalidInputException",
                "CodeBuild is not authorized to perform: sts:AssumeRole on service role. Please verify "
                "that: "
                "1) The provided service role exists, 2) The role name is case-sensitive and matches "
                "exactly, "
                f"and 3) The role has the necessary trust policy configured. ({error.message})",
            ) from error
        kinds = params["source"]["type"], params["artifacts"]["type"]
        if ("CODEPIPELINE" in kinds) and kinds != ("CODEPIPELINE", "CODEPIPELINE"):
            raise AwsError(
                "InvalidInputException",
                "Invalid artifacts: artifact type and source type must both be CODEPIPELINE when one of "
                "them is: "
                f"source type {kinds[0]}, artifact type {kinds[1]}",
            )
        if kinds[0] == "NO_SOURCE" and "\n" not in (params["source"].get("buildspec") or ""):
            raise AwsError(
                "InvalidInputException",
                "Invalid project source: source type NO_SOURCE requires a valid buildspec that is inline",
            )
        if kinds[0] in ("S3", "CODECOMMIT") and not params["source"].get("location"):
            raise AwsError(
                "InvalidInputException",
                f"Invalid project source: location must be set for source type {kinds[0]}",
            )
        if kinds[1] == "S3" and not params["artifacts"].get("location"):
            raise AwsError(
                "InvalidInputException", "Invalid artifacts: location must be set for artifact type S3"
            )
        names = [v["name"] for v in params["environment"].get("environmentVariables", [])]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise AwsError(
                "InvalidInputException", f"Invalid environment variables: duplicate names {', '.join(twice)}"
            )
        vpc = params.get("vpcConfig") or {}
        if vpc.get("vpcId"):
            self._check_network(vpc)

    def _check_network(self, vpc: dict[str, Any]) -> None:
        if not vpc.get("subnets") or not vpc.get("securityGroupIds"):
            raise AwsError(
                "InvalidInputException",
                "Invalid vpc config: vpcId, subnets and securityGroupIds must all be given",
            )
        ec2 = self.cloud.client("ec2")
        try:
            found = (
                ec2.describe_subnets(SubnetIds=vpc["subnets"])["Subnets"]
                + ec2.describe_security_groups(GroupIds=vpc["securityGroupIds"])["SecurityGroups"]
            )
        except Exception as error:
            raise AwsError("InvalidInputException", f"Invalid vpc config: {error}") from error
        strange = [x.get("SubnetId") or x.get("GroupId") for x in found if x["VpcId"] != vpc["vpcId"]]
        if strange:
            raise AwsError(
                "InvalidInputException", f"Invalid vpc config: {', '.join(strange)} is not in {vpc['vpcId']}"
            )

    def _project(self, name: str) -> dict[str, Any]:
        name = name.rpartition("/")[2] if name.startswith("arn:") else name
        if name not in self.projects:
            raise AwsError(
                "ResourceNotFoundException",
                f"Project cannot be found: {self.cloud.arn('codebuild', f'project/{name}')}",
            )
        return self.projects[name]

    def batch_get_projects(self, params: dict[str, Any]) -> dict[str, Any]:
        names = [n.rpartition("/")[2] if n.startswith("arn:") else n for n in params["names"]]
        return {
            "projects": [self.projects[n] for n in names if n in self.projects],
            "projectsNotFound": [n for n in names if n not in self.projects],
        }

    def list_projects(self, params: dict[str, Any]) -> dict[str, Any]:
        items, token = page(
            sorted(self.projects, reverse=params.get("sortOrder") == "DESCENDING"),
            params,
            token_key="nextToken",
        )
        return {"projects": items, "nextToken": token}

    def delete_project(self, params: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.projects.pop(params["name"], None)  # AWS: deleting what is not there succeeds
        return {}

    # -- builds -----------------------------------------------------------------------------------------
    def start_build(self, params: dict[str, Any]) -> dict[str, Any]:
        project = copy.deepcopy(self._project(params["projectName"]))
        prepared = self.prepared.pop(params.get("idempotencyToken", ""), None)
        source = project["source"]
        for key, override in (
            ("type", "sourceTypeOverride"),
            ("location", "sourceLocationOverride"),
            ("buildspec", "buildspecOverride"),
            ("gitCloneDepth", "gitCloneDepthOverride"),
        ):
            if params.get(override) is not None:
                source[key] = params[override]
        if source["type"] == "CODEPIPELINE" and prepared is None:
            raise AwsError(
                "InvalidInputException",
                f"Project {project['name']} has source type CODEPIPELINE: its builds are started by a "
                "pipeline "
                "(or override the source: sourceTypeOverride)",
            )
        environment = project["environment"]
        for key, override in (
            ("image", "imageOverride"),
            ("computeType", "computeTypeOverride"),
            ("privilegedMode", "privilegedModeOverride"),
        ):
            if params.get(override) is not None:
                environment[key] = params[override]
        variables = {v["name"]: v for v in environment.get("environmentVariables", [])}
        variables |= {v["name"]: v for v in params.get("environmentVariablesOverride", [])}
        environment["environmentVariables"] = list(variables.values())
        with self.lock:
            self.numbers[project["name"]] = number = self.numbers.get(project["name"], 0) + 1
        identifier = str(uuid.uuid4())
        logs = self._logs(
            project, params.get("logsConfigOverride") or project.get("logsConfig") or {}, identifier
        )
        record: dict[str, Any] = {
            "id": f"{project['name']}:{identifier}",
            "arn": self.cloud.arn("codebuild", f"build/{project['name']}:{identifier}"),
            "buildNumber": number,
            "startTime": clock.now(),
            "currentPhase": "SUBMITTED",
            "buildStatus": _RUNNING,
            "projectName": project["name"],
            "sourceVersion": params.get("sourceVersion") or project.get("sourceVersion") or "",
            "phases": [],
            "source": source,
            "secondarySources": params.get("secondarySourcesOverride") or project["secondarySources"],
            "artifacts": {"location": ""},
            "environment": environment,
            "logs": logs,
            "buildComplete": False,
            "cache": project["cache"],
            "serviceRole": params.get("serviceRoleOverride") or project["serviceRole"],
            "timeoutInMinutes": params.get("timeoutInMinutesOverride") or project["timeoutInMinutes"],
            "queuedTimeoutInMinutes": project["queuedTimeoutInMinutes"],
            "encryptionKey": params.get("encryptionKeyOverride") or project["encryptionKey"],
            "initiator": self._initiator(),
            "exportedEnvironmentVariables": [],
            "secondaryArtifacts": [],
        }
        if project.get("vpcConfig"):
            record["vpcConfig"] = project["vpcConfig"]
        artifacts = params.get("artifactsOverride") or project["artifacts"]
        inputs = prepared or self._inputs(record, artifacts)
        build = Build(self.cloud, record, inputs, self._tell)
        with self.lock:
            self.builds[record["id"]] = record
            self.running[record["id"]] = build
        self.cloud.spawn(self._run, build, name=f"build-{project['name']}")
        return {"build": record}

    def _run(self, build: Build) -> None:
        try:
            build.run()
        finally:
            self.running.pop(build.record["id"], None)

    def _initiator(self) -> str:
        from localaws import hooks

        arn = hooks.caller_arn(self.cloud)
        name = arn.rpartition("/")[2]
        return (
            f"codepipeline/{name.removeprefix('codepipeline-')}"
            if name.startswith("codepipeline-")
            else arn.split(":", 5)[5]
        )

    def _logs(self, project: dict[str, Any], config: dict[str, Any], identifier: str) -> dict[str, Any]:
        watch = {"status": "ENABLED", **(config.get("cloudWatchLogs") or {})}
        group = watch.get("groupName") or f"/aws/codebuild/{project['name']}"
        stream = f"{watch['streamName']}/{identifier}" if watch.get("streamName") else identifier
        return {
            "groupName": group,
            "streamName": stream,
            "cloudWatchLogs": watch,
            "cloudWatchLogsArn": self.cloud.arn("logs", f"log-group:{group}:log-stream:{stream}"),
            "s3Logs": {"status": "DISABLED"},
            "deepLink": f"https://console.aws.amazon.com/cloudwatch/home?region={self.cloud.region}#logsV2:log-groups",
        }

    def _inputs(self, record: dict[str, Any], artifacts: dict[str, Any]) -> Inputs:
        """Sources and artifacts of a build that no pipeline started."""
        sources = [self._source("", record["source"], record["sourceVersion"])]
        sources += [self._source(s["sourceIdentifier"], s, "") for s in record["secondarySources"]]

        def deliver(build: Build) -> None:
            if artifacts["type"] != "S3" or "" not in build.outputs:
                return
            name = artifacts.get("name") or record["projectName"]
            folder = "/".join(
                p
                for p in (
                    artifacts.get("path", "").strip("/"),
                    record["id"].rpartition(":")[2] if artifacts.get("namespaceType") == "BUILD_ID" else "",
                )
                if p
            )
            key = "/".join(p for p in (folder, name) if p)
            client = build._client("s3")
            try:
                if artifacts.get("packaging") == "ZIP":
                    client.put_object(Bucket=artifacts["location"], Key=key, Body=build.outputs[""])
                else:
                    import io
                    import zipfile

                    with zipfile.ZipFile(io.BytesIO(build.outputs[""])) as archive:
                        for entry in archive.namelist():
                            client.put_object(
                                Bucket=artifacts["location"], Key=f"{key}/{entry}", Body=archive.read(entry)
                            )
            except Exception as error:
                raise BuildFailed("CLIENT_ERROR", f"Error in UPLOAD_ARTIFACTS phase: {error}") from error
            record["artifacts"] = {
                "location": f"arn:{self.cloud.partition}:s3:::{artifacts['location']}/{key}",
                "sha256sum": builds.checksum(build.outputs[""]),
            }

        return Inputs(sources, {""} if artifacts["type"] == "S3" else set(), deliver)

    def _source(self, identifier: str, source: dict[str, Any], version: str) -> Source:
        if source["type"] == "CODECOMMIT":
            return GitSource(identifier, source["location"], version, source.get("gitCloneDepth") or 0)
        if source["type"] == "S3":
            bucket, _, key = (
                source["location"].removeprefix(f"arn:{self.cloud.partition}:s3:::").partition("/")
            )
            return ZipSource(identifier, bucket, key, version)
        if source["type"] == "NO_SOURCE":
            nothing = Source()
            nothing.identifier = identifier
            return nothing
        raise AwsError(
            "InvalidInputException",
            f"source type {source['type']} is not run by the local cloud; there are CODEPIPELINE, "
            "CODECOMMIT, S3 and NO_SOURCE",
        )

    def _tell(self, record: dict[str, Any], phase: str) -> None:
        """Announce a phase's end, and the build's."""
        environment = {k: record["environment"].get(k) for k in ("image", "type", "computeType")}
        detail = {
            "build-id": record["arn"],
            "project-name": record["projectName"],
            "version": "1",
            "additional-information": {
                "artifact": record["artifacts"],
                "environment": environment,
                "timeout-in-minutes": record["timeoutInMinutes"],
                "build-complete": record["buildComplete"],
                "initiator": record["initiator"],
                "build-number": float(record["buildNumber"]),
                "build-start-time": record["startTime"].strftime("%b %-d, %Y %-I:%M:%S %p"),
                "source": {"type": record["source"]["type"]},
                "source-version": record["sourceVersion"],
                "logs": {
                    "group-name": record["logs"]["groupName"],
                    "stream-name": record["logs"]["streamName"],
                    "deep-link": record["logs"]["deepLink"],
                },
                "phases": [_event_phase(p) for p in record["phases"]],
            },
        }
        if phase and phase not in ("SUBMITTED",):
            last = record["phases"][-1]
            self.cloud.emit(
                "aws.codebuild",
                "CodeBuild Build Phase Change",
                {
                    **detail,
                    "completed-phase": phase,
                    "completed-phase-status": last.get("phaseStatus"),
                    "completed-phase-context": str([c["message"] for c in last.get("contexts", [])]),
                },
                [record["arn"]],
            )
        if not phase or phase == "SUBMITTED":
            self.cloud.emit(
                "aws.codebuild",
                "CodeBuild Build State Change",
                {
                    **detail,
                    "build-status": record["buildStatus"],
                    "current-phase": record["currentPhase"],
                    "current-phase-context": "[]",
                },
                [record["arn"]],
            )

    def _build(self, identifier: str) -> dict[str, Any]:
        identifier = identifier.rpartition("build/")[2] if identifier.startswith("arn:") else identifier
        if identifier not in self.builds:
            raise AwsError("ResourceNotFoundException", f"Build {identifier} cannot be found")
        return self.builds[identifier]

    def stop_build(self, params: dict[str, Any]) -> dict[str, Any]:
        record = self._build(params["id"])
        build = self.running.get(record["id"])
        if build:
            build.stopping.set()
        return {"build": record}

    def retry_build(self, params: dict[str, Any]) -> dict[str, Any]:
        record = self._build(params["id"])
        if record["source"]["type"] == "CODEPIPELINE":
            raise AwsError(
                "InvalidInputException", "A build that a pipeline started is retried in the pipeline"
            )
        return self.start_build(
            {
                "projectName": record["projectName"],
                "sourceVersion": record["sourceVersion"],
                "environmentVariablesOverride": record["environment"]["environmentVariables"],
            }
        )

    def batch_get_builds(self, params: dict[str, Any]) -> dict[str, Any]:
        names = [n.rpartition("build/")[2] if n.startswith("arn:") else n for n in params["ids"]]
        return {
            "builds": [copy.copy(self.builds[n]) for n in names if n in self.builds],
            "buildsNotFound": [n for n in names if n not in self.builds],
        }

    def batch_delete_builds(self, params: dict[str, Any]) -> dict[str, Any]:
        deleted = [
            n
            for n in params["ids"]
            if self.builds.pop(n.rpartition("build/")[2] if n.startswith("arn:") else n, None)
        ]
        return {"buildsDeleted": deleted, "buildsNotDeleted": []}

    def list_builds(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._listed(lambda _: True, params)

    def list_builds_for_project(self, params: dict[str, Any]) -> dict[str, Any]:
        name = self._project(params["projectName"])["name"]
        return self._listed(lambda r: r["projectName"] == name, params)

    def _listed(self, chosen: Callable[[dict], bool], params: dict[str, Any]) -> dict[str, Any]:
        names = [n for n, r in self.builds.items() if chosen(r)]
        items, token = page(
            names if params.get("sortOrder") == "ASCENDING" else names[::-1], params, token_key="nextToken"
        )
        return {"ids": items, "nextToken": token}


def _event_phase(phase: dict[str, Any]) -> dict[str, Any]:
    out = {
        "phase-type": phase["phaseType"],
        "start-time": phase["startTime"].strftime("%b %-d, %Y %-I:%M:%S %p"),
    }
    if "endTime" in phase:
        out |= {
            "end-time": phase["endTime"].strftime("%b %-d, %Y %-I:%M:%S %p"),
            "duration-in-seconds": phase["durationInSeconds"],
            "phase-status": phase["phaseStatus"],
            "phase-context": [f"{c['statusCode']}: {c['message']}" for c in phase["contexts"]],
        }
    return out


def _start(cloud: Cloud) -> Callable[[dict[str, Any], str], None]:
    """EventBridge target: start a build; an input that the target makes may hold StartBuild's parameters."""

    def run(target: dict[str, Any], payload: str) -> None:
        import json

        made = {"Input", "InputPath", "InputTransformer"} & set(target)
        given = json.loads(payload) if made else {}
        known = set(cloud.services["codebuild"].model.operation_model("StartBuild").input_shape.members)
        name = target["Arn"].rpartition("/")[2]
        try:
            client = cloud.client(
                "codebuild", role=target["RoleArn"], principal="events.amazonaws.com", session="events"
            )
            client.start_build(projectName=name, **{k: v for k, v in given.items() if k in known})
        except Exception as error:
            cloud.log.error("UndeliveredEvent: %s: %s", target["Arn"], error)
            cloud.undelivered.append(f"{target['Arn']}: {error}")

    return run


class ProjectType(ApiResource):
    """AWS::CodeBuild::Project."""

    type_name = "AWS::CodeBuild::Project"
    service, create_call, update_call, delete_call = (
        "codebuild",
        "create_project",
        "update_project",
        "delete_project",
    )
    id_parameter, physical_id = "name", "project.name"
    name_property = "Name"
    lower_camel = True
    drop = ("Triggers", "Visibility", "ResourceAccessRole", "FileSystemLocations")
    attributes = {"Arn": "project.arn"}

    def request(self, context: Context, props: dict[str, Any]) -> dict[str, Any]:
        if props.get("Triggers"):
            raise ValueError("AWS::CodeBuild::Project Triggers (webhooks) are not served by the local cloud")
        out = super().request(context, props)
        for source in (out.get("source"), *out.get("secondarySources", [])):
            if source and "buildSpec" in source:
                source["buildspec"] = source.pop("buildSpec")
        return out

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, Attributes]:
        # CloudFormation makes this name without the stack's, so policies cannot tell a stack's builds by it
        name = props.get("Name") or f"{context.logical_id}-{context.cloud.new_id(length=12)}"
        return super().create(context, {**props, "Name": name})

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> Attributes:
        emptied = {
            k: [] for k in ("SecondarySources", "SecondaryArtifacts", "Tags") if k in old and k not in new
        }
        if "VpcConfig" in old and "VpcConfig" not in new:
            emptied["VpcConfig"] = {}  # type: ignore[assignment]
        super().update(context, physical_id, old, {**emptied, **new})
        return {"Arn": context.cloud.arn("codebuild", f"project/{physical_id}")}


def role_name(value: str) -> str:
    """The name at the end of a role's ARN."""
    match = re.search(r"([\w+=,.@-]+)$", value)
    return match[1] if match else value


SERVICES = (CodeBuild,)
TYPES = (ProjectType,)
TARGETS = {"codebuild": _start}
