"""CodeDeploy for Lambda: applications, groups, and deployments that move an alias between two versions.

Hooks are called and waited for, callers are moved in the steps of the group's configuration, alarms are
looked at all the while, and what fails is taken back. Waits pass by the cloud's clock.
https://docs.aws.amazon.com/codedeploy/latest/userguide/deployment-steps-lambda.html
"""

from __future__ import annotations

import json
import random
import string
import threading
import time
from typing import Any

import yaml
from botocore.exceptions import ClientError

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Attributes, Context, ResourceType
from localaws.service import Service, page

Record = dict[str, Any]
PRINCIPAL = "codedeploy.amazonaws.com"
EVENTS = ("BeforeAllowTraffic", "AllowTraffic", "AfterAllowTraffic")
FAILURE, ON_ALARM, ON_REQUEST = (
    "DEPLOYMENT_FAILURE",
    "DEPLOYMENT_STOP_ON_ALARM",
    "DEPLOYMENT_STOP_ON_REQUEST",
)
DONE = ("Succeeded", "Failed", "Stopped")
#: seconds in which a hook must tell its outcome
#: https://docs.aws.amazon.com/codedeploy/latest/userguide/reference-appspec-file-structure-hooks.html
HOOK_SECONDS = 3600
_LEAST_SECONDS = 45  # real ones: a function needs them, however fast the cloud's time passes
#: https://docs.aws.amazon.com/codedeploy/latest/userguide/deployment-configurations.html
_MINUTES = {"LambdaCanary10Percent": (5, 10, 15, 30), "LambdaLinear10PercentEvery": (1, 2, 3, 10)}


def _configurations() -> dict[str, Record]:
    found: dict[str, Record] = {"CodeDeployDefault.LambdaAllAtOnce": {"type": "AllAtOnce"}}
    for stem, minutes in _MINUTES.items():
        kind = "TimeBasedCanary" if "Canary" in stem else "TimeBasedLinear"
        part = {"TimeBasedCanary": "canary", "TimeBasedLinear": "linear"}[kind]
        for n in minutes:
            name = f"CodeDeployDefault.{stem}{n}Minute{'' if n == 1 else 's'}"
            found[name] = {
                "type": kind,
                f"timeBased{part.title()}": {f"{part}Percentage": 10, f"{part}Interval": n},
            }
    return found


CONFIGURATIONS = _configurations()


class Stopped(Exception):
    """A deployment that does not go on: its status, an error code of CodeDeploy, and why."""

    def __init__(self, status: str, code: str, message: str, event: str) -> None:
        super().__init__(message)
        self.status, self.code, self.event = status, code, event


class CodeDeploy(Service):
    """``codedeploy`` for the compute platform Lambda."""

    name = "codedeploy"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.applications: dict[str, Record] = {}
        self.groups: dict[tuple[str, str], Record] = {}
        self.deployments: dict[str, Record] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._changed = threading.Condition()

    # -- applications ----------------------------------------------------------------------------------------
    def create_application(self, params: Record) -> Record:
        name = params["applicationName"]
        if name in self.applications:
            raise AwsError("ApplicationAlreadyExistsException", f"Application {name} already exists")
        platform = params.get("computePlatform", "Server")
        if platform != "Lambda":
            raise AwsError(
                "NotImplemented", f"compute platform {platform}: the local cloud deploys Lambda", 501
            )
        made = {
            "applicationId": self.cloud.new_id(length=32),
            "applicationName": name,
            "computePlatform": platform,
            "createTime": clock.now(),
            "linkedToGitHub": False,
        }
        self.applications[name] = made
        self._tag(self._application_arn(name), params.get("tags"))
        return {"applicationId": made["applicationId"]}

    def get_application(self, params: Record) -> Record:
        return {"application": self._application(params["applicationName"])}

    def list_applications(self, params: Record) -> Record:
        items, token = page(sorted(self.applications), params, default=100)
        return {"applications": items, "nextToken": token}

    def delete_application(self, params: Record) -> Record:
        name = params["applicationName"]
        self.applications.pop(name, None)
        for key in [k for k in self.groups if k[0] == name]:
            del self.groups[key]
        return {}

    def _application(self, name: str) -> Record:
        if name not in self.applications:
            raise AwsError("ApplicationDoesNotExistException", f"No application found for name: {name}")
        return self.applications[name]

    # -- groups ----------------------------------------------------------------------------------------------
    def create_deployment_group(self, params: Record) -> Record:
        key = params["applicationName"], params["deploymentGroupName"]
        self._application(key[0])
        if key in self.groups:
            raise AwsError(
                "DeploymentGroupAlreadyExistsException", f"Deployment group {key[1]} already exists"
            )
        style = params.get("deploymentStyle") or {}
        wanted = {"deploymentType": "BLUE_GREEN", "deploymentOption": "WITH_TRAFFIC_CONTROL"}
        if style != wanted:
            raise AwsError(
                "InvalidDeploymentStyleException",
                "For AWS Lambda compute platform, the deployment type must be BLUE_GREEN and the deployment "
                "option WITH_TRAFFIC_CONTROL",
            )
        group = {"deploymentGroupId": self.cloud.new_id(length=32), "computePlatform": "Lambda"}
        self.groups[key] = self._checked_group({**group, **params})
        self._tag(self._group_arn(*key), params.get("tags"))
        return {"deploymentGroupId": group["deploymentGroupId"]}

    def update_deployment_group(self, params: Record) -> Record:
        key = params["applicationName"], params["currentDeploymentGroupName"]
        old = self._group(*key)
        kept = {
            k: v
            for k, v in params.items()
            if k not in ("currentDeploymentGroupName", "newDeploymentGroupName")
        }
        new = self._checked_group({**old, **kept})
        name = params.get("newDeploymentGroupName") or key[1]
        del self.groups[key]
        self.groups[key[0], name] = {**new, "deploymentGroupName": name}
        return {"hooksNotCleanedUp": []}

    def get_deployment_group(self, params: Record) -> Record:
        found = self._group(params["applicationName"], params["deploymentGroupName"])
        return {"deploymentGroupInfo": {k: v for k, v in found.items() if k != "tags"}}

    def list_deployment_groups(self, params: Record) -> Record:
        self._application(params["applicationName"])
        names = sorted(n for a, n in self.groups if a == params["applicationName"])
        return {"applicationName": params["applicationName"], "deploymentGroups": names}

    def delete_deployment_group(self, params: Record) -> Record:
        self.groups.pop((params["applicationName"], params["deploymentGroupName"]), None)
        return {"hooksNotCleanedUp": []}

    def _checked_group(self, group: Record) -> Record:
        try:
            self.cloud.check_trust(group["serviceRoleArn"], PRINCIPAL)
        except AwsError as error:
            raise AwsError(
                "InvalidRoleException",
                f"AWS CodeDeploy does not have the permissions required to assume the role: {error.message}",
            ) from error
        group.setdefault("deploymentConfigName", "CodeDeployDefault.LambdaAllAtOnce")
        self._configuration(group["deploymentConfigName"])
        alarms = group.get("alarmConfiguration") or {}
        if len(alarms.get("alarms") or []) > 10:
            raise AwsError("AlarmsLimitExceededException", "A deployment group can have 10 alarms at most")
        return group

    def _group(self, application: str, name: str) -> Record:
        self._application(application)
        if (application, name) not in self.groups:
            raise AwsError(
                "DeploymentGroupDoesNotExistException", f"No Deployment Group found for name: {name}"
            )
        return self.groups[application, name]

    # -- configurations --------------------------------------------------------------------------------------
    def get_deployment_config(self, params: Record) -> Record:
        name = params["deploymentConfigName"]
        found = {"deploymentConfigName": name, "trafficRoutingConfig": self._configuration(name)}
        return {"deploymentConfigInfo": {**found, "computePlatform": "Lambda"}}

    def list_deployment_configs(self, params: Record) -> Record:
        return {"deploymentConfigsList": sorted(CONFIGURATIONS)}

    @staticmethod
    def _configuration(name: str) -> Record:
        if name not in CONFIGURATIONS:
            raise AwsError(
                "DeploymentConfigDoesNotExistException", f"No deployment configuration found for name: {name}"
            )
        return CONFIGURATIONS[name]

    # -- deployments -----------------------------------------------------------------------------------------
    def create_deployment(self, params: Record) -> Record:
        """Begin to move the alias that the revision names."""
        group = self._group(params["applicationName"], params.get("deploymentGroupName", ""))
        running = [
            d
            for d in self.deployments.values()
            if (d["applicationName"], d["deploymentGroupName"])
            == (group["applicationName"], group["deploymentGroupName"])
            and d["status"] not in DONE
        ]
        if running:
            raise AwsError(
                "DeploymentLimitExceededException",
                f"The Deployment Group '{group['deploymentGroupName']}' already has an active Deployment "
                f"'{running[0]['deploymentId']}'",
            )
        move, hooks = _revision(params.get("revision") or {})
        made = self._new(group, params.get("deploymentConfigName") or group["deploymentConfigName"], "user")
        made |= {"revision": params["revision"], "move": move, "hooks": hooks}
        made["rollback"] = (
            params.get("autoRollbackConfiguration") or group.get("autoRollbackConfiguration") or {}
        )
        self.cloud.spawn(self._run, made, group, name=f"deployment-{made['deploymentId']}")
        return {"deploymentId": made["deploymentId"]}

    def _new(self, group: Record, configuration: str, creator: str) -> Record:
        self._configuration(configuration)
        identity = "d-" + "".join(random.choices(string.ascii_uppercase + string.digits, k=9))
        made = {
            "deploymentId": identity,
            "applicationName": group["applicationName"],
            "deploymentGroupName": group["deploymentGroupName"],
            "deploymentConfigName": configuration,
            "deploymentStyle": group["deploymentStyle"],
            "status": "Created",
            "creator": creator,
            "createTime": clock.now(),
            "computePlatform": "Lambda",
            "events": {name: {"lifecycleEventName": name, "status": "Pending"} for name in EVENTS},
            "told": {},
            "weight": 0.0,
        }
        self.deployments[identity] = made
        return made

    def get_deployment(self, params: Record) -> Record:
        return {"deploymentInfo": self._shown(self._deployment(params["deploymentId"]))}

    def list_deployments(self, params: Record) -> Record:
        asked = params.get("includeOnlyStatuses")
        found = [
            d["deploymentId"]
            for d in self.deployments.values()
            if d["applicationName"] == params.get("applicationName", d["applicationName"])
            and d["deploymentGroupName"] == params.get("deploymentGroupName", d["deploymentGroupName"])
            and (not asked or d["status"] in asked)
        ]
        items, token = page(found[::-1], params, default=100)
        return {"deployments": items, "nextToken": token}

    def stop_deployment(self, params: Record) -> Record:
        found = self._deployment(params["deploymentId"])
        if found["status"] in DONE:
            raise AwsError(
                "DeploymentAlreadyCompletedException",
                f"The deployment {found['deploymentId']} can't be stopped because it is already complete",
            )
        found["stop"] = {"rollback": params.get("autoRollbackEnabled")}
        return {"status": "Pending", "statusMessage": "Stopping the deployment"}

    def list_deployment_targets(self, params: Record) -> Record:
        move = self._deployment(params["deploymentId"])["move"]
        return {"targetIds": [f"{move['Name']}:{move['Alias']}"]}

    def get_deployment_target(self, params: Record) -> Record:
        found = self._deployment(params["deploymentId"])
        if params["targetId"] not in self.list_deployment_targets(params)["targetIds"]:
            raise AwsError("DeploymentTargetDoesNotExistException", f"No target {params['targetId']}")
        move = found["move"]
        return {
            "deploymentTarget": {
                "deploymentTargetType": "LambdaFunction",
                "lambdaTarget": {
                    "deploymentId": found["deploymentId"],
                    "targetId": params["targetId"],
                    "targetArn": self.cloud.arn("lambda", f"function:{params['targetId']}"),
                    "status": found["status"] if found["status"] in DONE[:2] else "InProgress",
                    "lastUpdatedAt": clock.now(),
                    "lifecycleEvents": [dict(found["events"][name]) for name in EVENTS],
                    "lambdaFunctionInfo": {
                        "functionName": move["Name"],
                        "functionAlias": move["Alias"],
                        "currentVersion": move["CurrentVersion"],
                        "targetVersion": move["TargetVersion"],
                        "targetVersionWeight": found["weight"],
                    },
                },
            }
        }

    def batch_get_deployment_targets(self, params: Record) -> Record:
        identity = params["deploymentId"]
        targets = params.get("targetIds") or self.list_deployment_targets(params)["targetIds"]
        asked = [self.get_deployment_target({"deploymentId": identity, "targetId": one}) for one in targets]
        return {"deploymentTargets": [one["deploymentTarget"] for one in asked]}

    def put_lifecycle_event_hook_execution_status(self, params: Record) -> Record:
        """What a hook says of its check."""
        found, execution = self._deployment(params["deploymentId"]), params["lifecycleEventHookExecutionId"]
        if params.get("status") not in ("Succeeded", "Failed"):
            raise AwsError(
                "InvalidLifecycleEventHookExecutionStatusException", "The status must be Succeeded or Failed"
            )
        if found["told"].get(execution, "") is not None:
            raise AwsError(
                "InvalidLifecycleEventHookExecutionIdException",
                f"{execution} is no lifecycle event hook of {found['deploymentId']} that is waited for",
            )
        with self._changed:
            found["told"][execution] = params["status"]
            self._changed.notify_all()
        return {"lifecycleEventHookExecutionId": execution}

    def wait(self, deployment: str) -> None:
        """Until a deployment has ended, what was taken back included."""
        found = self.deployments[deployment]
        with self._changed:
            while not (found["status"] in DONE and found.get("over")) and not self.cloud.stopping:
                self._changed.wait(0.2)

    def _deployment(self, identity: str) -> Record:
        if identity not in self.deployments:
            raise AwsError("DeploymentDoesNotExistException", f"The deployment {identity} could not be found")
        return self.deployments[identity]

    @staticmethod
    def _shown(found: Record) -> Record:
        hidden = ("events", "told", "weight", "move", "hooks", "rollback", "stop", "over")
        return {k: v for k, v in found.items() if k not in hidden}

    # -- how a deployment goes -------------------------------------------------------------------------------
    def _run(self, found: Record, group: Record) -> None:
        self._become(found, "InProgress", "START")
        found["startTime"] = clock.now()
        try:
            self._look(found, group)
            self._hook(found, group, "BeforeAllowTraffic")
            with _Event(found, "AllowTraffic"):
                self._move(found, group)
            self._hook(found, group, "AfterAllowTraffic")
            self._look(found, group)
        except Stopped as stopped:
            found["errorInformation"] = {"code": stopped.code, "message": str(stopped)}
            if stopped.event in (found["rollback"].get("events") or []) and found["rollback"].get("enabled"):
                self._take_back(found, group, str(stopped))
            found["completeTime"] = clock.now()
            self._become(found, stopped.status, "STOP" if stopped.status == "Stopped" else "FAILURE")
        else:
            found["completeTime"] = clock.now()
            self._become(found, "Succeeded", "SUCCESS")
        with self._changed:
            found["over"] = True
            self._changed.notify_all()

    def _become(self, found: Record, status: str, state: str) -> None:
        with self._changed:
            found["status"] = status
            self._changed.notify_all()
        detail = {
            "region": self.cloud.region,
            "deploymentId": found["deploymentId"],
            "application": found["applicationName"],
            "deploymentGroup": found["deploymentGroupName"],
            "state": state,
        }
        group = self._group_arn(found["applicationName"], found["deploymentGroupName"])
        resources = [group, self._application_arn(found["applicationName"])]
        self.cloud.emit(
            "aws.codedeploy", "CodeDeploy Deployment State-change Notification", detail, resources
        )

    def _client(self, group: Record, service: str) -> Any:
        return self.cloud.client(
            service, role=group["serviceRoleArn"], principal=PRINCIPAL, session="CodeDeploy"
        )

    def _look(self, found: Record, group: Record) -> None:
        """Raise Stopped when somebody wants an end, or an alarm of the group is on."""
        if found.get("stop"):
            raise Stopped("Stopped", "MANUAL_STOP", "The deployment was stopped on request", ON_REQUEST)
        settings = group.get("alarmConfiguration") or {}
        names = [one["name"] for one in settings.get("alarms") or []]
        if not settings.get("enabled") or not names:
            return
        try:
            answer = self._client(group, "cloudwatch").describe_alarms(AlarmNames=names)
        except ClientError as error:
            if settings.get("ignorePollAlarmFailure"):
                return
            raise Stopped("Failed", "IAM_ROLE_PERMISSIONS", str(error), FAILURE) from error
        on = [a["AlarmName"] for a in answer["MetricAlarms"] if a["StateValue"] == "ALARM"]
        if on:
            raise Stopped(
                "Stopped",
                "ALARM_ACTIVE",
                f"One or more alarms have been activated: {', '.join(on)}",
                ON_ALARM,
            )

    def _hook(self, found: Record, group: Record, name: str) -> None:
        function = found["hooks"].get(name)
        if not function:
            found["events"][name]["status"] = "Skipped"
            return
        with _Event(found, name):
            execution = json.dumps({"d": found["deploymentId"], "e": name, "n": self.cloud.new_id(length=12)})
            with self._changed:
                found["told"][execution] = None
            payload = {"DeploymentId": found["deploymentId"], "LifecycleEventHookExecutionId": execution}
            try:
                self._client(group, "lambda").invoke(
                    FunctionName=function, InvocationType="Event", Payload=json.dumps(payload).encode()
                )
            except ClientError as error:
                raise Stopped("Failed", "LAMBDA_FUNCTION_FAILED", f"{name}: {error}", FAILURE) from error
            until = time.monotonic() + max(HOOK_SECONDS * self.cloud.time_scale, _LEAST_SECONDS)
            while found["told"][execution] is None:
                if time.monotonic() > until or self.cloud.stopping:
                    why = f"{name}: the function {function} told nothing within an hour"
                    raise Stopped("Failed", "HOOK_EXECUTION_FAILURE", why, FAILURE)
                self._look(found, group)
                with self._changed:
                    self._changed.wait(0.2)
            if found["told"][execution] != "Succeeded":
                why = f"{name}: the validation function {function} failed the deployment"
                raise Stopped("Failed", "HOOK_EXECUTION_FAILURE", why, FAILURE)

    def _move(self, found: Record, group: Record) -> None:
        move, settings = found["move"], self._configuration(found["deploymentConfigName"])
        client = self._client(group, "lambda")
        alias = {"FunctionName": move["Name"], "Name": move["Alias"]}
        try:
            live = client.get_alias(**alias)["FunctionVersion"]
            if live != move["CurrentVersion"]:
                why = f"alias {move['Alias']} is at version {live}, not at {move['CurrentVersion']}"
                raise Stopped("Failed", "INVALID_LAMBDA_CONFIGURATION", why, FAILURE)
            for weight, seconds in _steps(settings):
                found["weight"] = weight
                shares = {move["TargetVersion"]: weight}
                client.update_alias(
                    **alias, FunctionVersion=live, RoutingConfig={"AdditionalVersionWeights": shares}
                )
                self._wait(found, group, seconds)
            found["weight"] = 1.0
            client.update_alias(
                **alias, FunctionVersion=move["TargetVersion"], RoutingConfig={"AdditionalVersionWeights": {}}
            )
        except ClientError as error:
            raise Stopped("Failed", "LAMBDA_FUNCTION_FAILED", str(error), FAILURE) from error

    def _wait(self, found: Record, group: Record, seconds: float) -> None:
        """Let time pass, with an eye on the alarms."""
        until = clock.time() + seconds
        passed = 0.0
        while passed < seconds and clock.time() < until:
            self._look(found, group)
            self.cloud.pause(10)
            passed += 10
        self._look(found, group)

    def _take_back(self, found: Record, group: Record, why: str) -> None:
        move, back = (
            found["move"],
            self._new(group, "CodeDeployDefault.LambdaAllAtOnce", "codeDeployRollback"),
        )
        back |= {
            "revision": found["revision"],
            "hooks": {},
            "rollback": {},
            "move": {
                **move,
                "CurrentVersion": move["TargetVersion"],
                "TargetVersion": move["CurrentVersion"],
            },
            "rollbackInfo": {"rollbackTriggeringDeploymentId": found["deploymentId"], "rollbackMessage": why},
        }
        self._become(back, "InProgress", "START")
        self._client(group, "lambda").update_alias(
            FunctionName=move["Name"],
            Name=move["Alias"],
            FunctionVersion=move["CurrentVersion"],
            RoutingConfig={"AdditionalVersionWeights": {}},
        )
        back["completeTime"], back["over"] = clock.now(), True
        self._become(back, "Succeeded", "SUCCESS")
        found["rollbackInfo"] = {"rollbackDeploymentId": back["deploymentId"], "rollbackMessage": why}

    # -- tags ------------------------------------------------------------------------------------------------
    def _application_arn(self, name: str) -> str:
        return self.cloud.arn("codedeploy", f"application:{name}")

    def _group_arn(self, application: str, name: str) -> str:
        return self.cloud.arn("codedeploy", f"deploymentgroup:{application}/{name}")

    def _tag(self, arn: str, tags: list[Record] | None) -> None:
        self._tags.setdefault(arn, {}).update({t["Key"]: t.get("Value", "") for t in tags or []})

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of an application or a group."""
        return self._tags.get(arn, {})

    def list_tags_for_resource(self, params: Record) -> Record:
        found = self.resource_tags(params["ResourceArn"])
        return {"Tags": [{"Key": k, "Value": v} for k, v in sorted(found.items())]}

    def tag_resource(self, params: Record) -> Record:
        self._tag(params["ResourceArn"], params["Tags"])
        return {}

    def untag_resource(self, params: Record) -> Record:
        for key in params["TagKeys"]:
            self._tags.get(params["ResourceArn"], {}).pop(key, None)
        return {}


class _Event:
    """One lifecycle event: in progress while it is entered, then succeeded or failed."""

    def __init__(self, found: Record, name: str) -> None:
        self.event = found["events"][name]

    def __enter__(self) -> None:
        self.event |= {"status": "InProgress", "startTime": clock.now()}

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.event |= {"status": "Failed" if kind else "Succeeded", "endTime": clock.now()}


def _steps(settings: Record) -> list[tuple[float, float]]:
    """Shares of the new version before it has all callers, each with the seconds that it lasts."""
    if settings["type"] == "TimeBasedCanary":
        canary = settings["timeBasedCanary"]
        return [(canary["canaryPercentage"] / 100, canary["canaryInterval"] * 60)]
    if settings["type"] == "TimeBasedLinear":
        linear = settings["timeBasedLinear"]
        share = linear["linearPercentage"]
        return [(n / 100, linear["linearInterval"] * 60) for n in range(share, 100, share)]
    return []


def _revision(revision: Record) -> tuple[Record, dict[str, str]]:
    """The move and the hooks that an AppSpec names. Raises AwsError for one that is none."""
    content = (revision.get("appSpecContent") or revision.get("string") or {}).get("content", "")
    try:
        document = yaml.safe_load(content)
        ((_, resource),) = document["Resources"][0].items()
        move = {
            k: str(resource["Properties"][k]) for k in ("Name", "Alias", "CurrentVersion", "TargetVersion")
        }
        hooks = {name: function for one in document.get("Hooks") or [] for name, function in one.items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise AwsError(
            "InvalidRevisionException", f"The AppSpec is not one of a Lambda deployment: {error}"
        ) from error
    if resource.get("Type") != "AWS::Lambda::Function" or set(hooks) - {EVENTS[0], EVENTS[2]}:
        raise AwsError("InvalidRevisionException", "The AppSpec is not one of a Lambda deployment")
    return move, hooks


def _lowered(value: Any) -> Any:
    """Properties of CloudFormation in the API's spelling."""
    if isinstance(value, dict):
        return {k[0].lower() + k[1:]: _lowered(v) for k, v in value.items()}
    return [_lowered(v) for v in value] if isinstance(value, list) else value


class Application(ResourceType):
    """AWS::CodeDeploy::Application."""

    type_name, name_property = "AWS::CodeDeploy::Application", "ApplicationName"

    def create(self, context: Context, props: Record) -> tuple[str, Attributes]:
        name = props.get("ApplicationName") or context.name(100)
        context.client("codedeploy").create_application(
            applicationName=name,
            computePlatform=props.get("ComputePlatform", "Server"),
            tags=props.get("Tags") or [],
        )
        return name, {}

    def update(self, context: Context, physical_id: str, old: Record, new: Record) -> Attributes:
        _retag(context, context.cloud.arn("codedeploy", f"application:{physical_id}"), old, new)
        return {}

    def delete(self, context: Context, physical_id: str, props: Record) -> None:
        context.client("codedeploy").delete_application(applicationName=physical_id)


class DeploymentGroup(ResourceType):
    """AWS::CodeDeploy::DeploymentGroup."""

    type_name, name_property = "AWS::CodeDeploy::DeploymentGroup", "DeploymentGroupName"
    _refused = (
        "Deployment",
        "Ec2TagFilters",
        "Ec2TagSet",
        "ECSServices",
        "AutoScalingGroups",
        "LoadBalancerInfo",
    )

    def create(self, context: Context, props: Record) -> tuple[str, Attributes]:
        name = props.get("DeploymentGroupName") or context.name(100)
        request = self._request(props)
        context.client("codedeploy").create_deployment_group(
            **request, deploymentGroupName=name, tags=props.get("Tags") or []
        )
        return name, {}

    def update(self, context: Context, physical_id: str, old: Record, new: Record) -> Attributes:
        context.client("codedeploy").update_deployment_group(
            **self._request(new), currentDeploymentGroupName=physical_id
        )
        arn = context.cloud.arn("codedeploy", f"deploymentgroup:{new['ApplicationName']}/{physical_id}")
        _retag(context, arn, old, new)
        return {}

    def delete(self, context: Context, physical_id: str, props: Record) -> None:
        context.client("codedeploy").delete_deployment_group(
            applicationName=props["ApplicationName"], deploymentGroupName=physical_id
        )

    def _request(self, props: Record) -> Record:
        for name in self._refused:
            if props.get(name):
                raise ValueError(f"{name}: the local cloud deploys Lambda functions only")
        return _lowered({k: v for k, v in props.items() if k not in ("Tags", "DeploymentGroupName")})


def _retag(context: Context, arn: str, old: Record, new: Record) -> None:
    before, after = ({t["Key"]: t["Value"] for t in p.get("Tags") or []} for p in (old, new))
    client = context.client("codedeploy")
    if gone := sorted(before.keys() - after.keys()):
        client.untag_resource(ResourceArn=arn, TagKeys=gone)
    if after:
        client.tag_resource(ResourceArn=arn, Tags=[{"Key": k, "Value": v} for k, v in after.items()])


SERVICES = [CodeDeploy]
TYPES = [Application, DeploymentGroup]
