"""What CloudFormation does for a stack's resources is done under the stack's permissions.

Those are the role's that the stack was given (and keeps for later operations), else those of who called. The
questions are in ``handlers``; here they are asked around the engine's own handlers.
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html
"""

from __future__ import annotations

import contextvars
import dataclasses
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from localaws.cloud import caller_key
from localaws.errors import AwsError
from localaws.hooks import policies, releases
from localaws.permissions import gate, handlers
from localaws.permissions.access import Access
from localaws.permissions.callers import Caller, caller_of, caller_of_role
from localaws.permissions.engine import AccessDenied
from localaws.permissions.handlers import Place, Resource

if TYPE_CHECKING:
    from localaws.cloud import Cloud

Questions = Callable[[Resource, Place], Iterable[Access]]
#: how a service of AWS signs for whoever called it
_FORWARDED = {
    "aws:ViaAWSService": "true",
    "aws:CalledVia": ["cloudformation.amazonaws.com"],
    "aws:CalledViaFirst": "cloudformation.amazonaws.com",
    "aws:CalledViaLast": "cloudformation.amazonaws.com",
}
#: who the running stack operation works for; its tasks and threads inherit it
_authority: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("localaws_stack", default=None)
_SSM = re.compile(r"\{\{resolve:ssm(?:-secure)?:([^:}]+)")
_SECRET = re.compile(r"\{\{resolve:secretsmanager:((?:arn:(?:[^:}]*:){6})?[^:}]+)")


class Stacks:
    """The roles of stacks and change sets, and the questions of their resources."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.roles: dict[str, str] = {}  # id of a stack or a change set → its role

    # -- whose permissions -------------------------------------------------------------------------------
    def authority(self, role: str) -> Caller:
        """Who an operation works for: the role, or without one who called.

        Raises AwsError ValidationError for a role that CloudFormation cannot assume.
        """
        if not role:
            caller = caller_of(self.cloud, caller_key.get())
            keys = {**caller.keys, **_FORWARDED}  # CloudFormation calls from outside the caller's network
            return dataclasses.replace(caller, keys=keys, network=None)
        found = policies.role(self.cloud.account, role.rpartition("/")[2])
        if found is None or found["Arn"] != role or not _trusts(found, "cloudformation.amazonaws.com"):
            raise AwsError("ValidationError", f"Role {role} is invalid or cannot be assumed")
        return caller_of_role(self.cloud, role, "AWSCloudFormation")

    def run(self, role: str, operation: Callable[[], Any]) -> Any:
        """Run a stack operation; what it schedules works for the same."""
        token = _authority.set(self.authority(role))
        try:
            return operation()
        finally:
            _authority.reset(token)

    # -- what is asked -----------------------------------------------------------------------------------
    def place(self, stack: str) -> Place:
        """Where a stack is, with the roles there are."""
        cloud = self.cloud

        def role_of(name: str) -> str:
            return (policies.role(cloud.account, name) or {}).get("Arn", "")

        def boundary_of(arn: str) -> str:
            found = policies.role(cloud.account, arn.rpartition("/")[2]) or {}
            boundary = found.get("PermissionsBoundary") or ""
            return boundary.get("PermissionsBoundaryArn", "") if isinstance(boundary, Mapping) else boundary

        return Place(stack, cloud.region, cloud.account, cloud.partition, role_of, boundary_of)

    def ask(
        self, questions: Callable[[Resource, Place], Iterable[Access]], resource: Resource, stack: str
    ) -> None:
        """Ask what a handler needs. Raises ValueError with CloudFormation's words for a denial."""
        if not self.restricted:
            return
        for access in questions(resource, self.place(stack)):
            self._answer(self._found(resource, access))

    def _found(self, resource: Resource, access: Access) -> Access:
        """The question with the ARNs that no property tells, of what is there already."""
        if not resource.type.startswith("AWS::ApplicationAutoScaling::"):
            return access
        scaled, services = handlers.scaled_id(resource), self.cloud.services
        if access.resource.endswith(":scalable-target/*"):
            target = services["application-autoscaling"].targets.get(scaled)
            return dataclasses.replace(access, resource=target["ScalableTargetARN"]) if target else access
        if access.resource.endswith(":endpoint-config/*"):
            endpoint = services["sagemaker"].endpoints.find([*scaled.split("/"), ""][1]) or {}
            name = endpoint.get("EndpointConfigName", "*")
            arn = self.cloud.arn("sagemaker", f"endpoint-config/{name}")
            return dataclasses.replace(access, resource=arn, context={})  # it has tags of its own
        return access

    def ask_references(self, text: str) -> None:
        """Ask for the parameters and secrets that a resource's properties refer to."""
        if not self.restricted:
            return
        for name in _SSM.findall(text):
            self._answer(self._parameter(name))
        for secret in _SECRET.findall(text):
            found = policies.secret_arn(secret)
            arn = self.cloud.arn("secretsmanager", f"secret:{found}") if found else "*"
            self._answer(Access("secretsmanager:GetSecretValue", arn))

    def ask_parameters(self, template: Mapping[str, Any], provided: Iterable[Mapping[str, str]]) -> None:
        """Ask for the SSM parameters from which a template's own parameters take their values."""
        if not self.restricted:
            return
        given = {p["Key"]: p["Value"] for p in provided if "Key" in p and "Value" in p}
        for name, parameter in (template.get("Parameters") or {}).items():
            if str(parameter.get("Type", "")).startswith("AWS::SSM::Parameter::Value"):
                source = given.get(name, parameter.get("Default"))
                try:
                    gate.authorize(self.cloud, self._now(), self._parameter(str(source)))
                except AccessDenied as denial:
                    raise ValueError(denial.message) from denial

    @property
    def restricted(self) -> bool:
        """Whether the running operation works for somebody whom policies bind."""
        caller = _authority.get()
        return caller is not None and not caller.unrestricted

    def _parameter(self, name: str) -> Access:
        return Access("ssm:GetParameters", self.cloud.arn("ssm", f"parameter/{name.lstrip('/')}"))

    def _now(self) -> Caller:
        """The authority with its policies as they are now: a stack may change the role it works under."""
        caller = _authority.get()
        assert caller is not None
        fresh = caller_of_role(self.cloud, caller.role_arn, "AWSCloudFormation")
        return dataclasses.replace(
            fresh, arn=caller.arn, session=caller.session, keys={**fresh.keys, **caller.keys}
        )

    def _answer(self, access: Access) -> None:
        try:
            gate.authorize(self.cloud, self._now(), access)
        except AccessDenied as denial:
            service = access.service.capitalize()
            raise ValueError(
                f'Resource handler returned message: "{denial.message} (Service: {service}, '
                f'Status Code: 403, Request ID: {uuid.uuid4()})" '
                f"(RequestToken: {uuid.uuid4()}, HandlerErrorCode: AccessDenied)"
            ) from denial

    # -- the engine's handlers ---------------------------------------------------------------------------
    def guarded(self, kind: str, handler: dict[str, Any]) -> None:
        """Let the engine's handlers of a type ask first; ``handler`` is changed in place."""
        make, change, remove = (handler.get(verb) for verb in ("create", "update", "delete"))
        change_named, remove_named = (handler.get(f"{verb}_with_logical_id") for verb in ("update", "delete"))

        def create(logical_id: str, props: dict, stack: str, *rest: Any) -> tuple[str, dict]:
            resource = Resource(kind, logical_id, props)
            self.ask(handlers.making, resource, stack)
            physical_id, attributes = make(logical_id, props, stack, *rest)
            try:
                self.ask(handlers.made, dataclasses.replace(resource, physical_id=str(physical_id)), stack)
            except (
                ValueError
            ):  # what a failed create leaves behind is removed, as the engine knows no id of it
                if remove:
                    remove(physical_id, props, *([logical_id] if remove_named else []))
                raise
            return physical_id, attributes

        def update(physical_id: str, old: dict, new: dict, stack: str, logical_id: str) -> tuple[str, dict]:
            policy = releases.update_policy(stack, logical_id) if kind == releases.ALIAS else {}
            resource = Resource(kind, logical_id or "", new, str(physical_id), old, policy)
            replaced = handlers.replaces(kind, old, new)
            if replaced:
                self.ask(handlers.making, Resource(kind, logical_id or "", new), stack)
            else:
                self.ask(handlers.updating, resource, stack)
            answer = change(physical_id, old, new, stack, *([logical_id] if change_named else []))
            if replaced:
                again = Resource(kind, logical_id or "", new, str(answer[0]))
                self.ask(handlers.made, again, stack)
            return answer

        def delete(physical_id: str, props: dict, logical_id: str = "") -> None:
            self.ask(handlers.deleting, Resource(kind, logical_id or "", props, str(physical_id)), "")
            remove(physical_id, props, *([logical_id] if remove_named else []))

        if make:
            handler["create"] = create
        if change:
            handler.update(update=update, update_with_logical_id=True)
        if remove:
            handler.update(delete=delete, delete_with_logical_id=True)

    def custom(self, handler: Callable[..., Any], properties: int = 1) -> Callable[..., Any]:
        """The engine's handler of custom resources; ``properties`` is the place of that argument."""

        def asked(*arguments: Any, **named: Any) -> Any:
            resource = Resource("Custom::Resource", "", arguments[properties])
            self.ask(handlers.making, resource, "")
            return handler(*arguments, **named)

        return asked


def _trusts(role: Mapping[str, Any], service: str) -> bool:
    """Whether a role's trust policy lets a service take it."""
    document = role["AssumeRolePolicyDocument"]
    statements = (json.loads(document) if isinstance(document, str) else document).get("Statement", [])
    for statement in [statements] if isinstance(statements, Mapping) else statements:
        principal = statement.get("Principal")
        services = principal.get("Service", []) if isinstance(principal, Mapping) else []
        if statement.get("Effect") == "Allow" and service in (
            [services] if isinstance(services, str) else services
        ):
            return True
    return False
