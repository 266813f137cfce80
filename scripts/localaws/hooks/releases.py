"""Releases of functions: image functions really run, an alias splits its callers, CodeDeploy moves them."""

from __future__ import annotations

import contextvars
import copy
import random
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from localaws import refusals
from localaws.image_functions import Environments

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "image_functions": (
        "ministack.services.lambda_svc:_execute_function_docker",
        "ministack.core.lambda_runtime:execution_credentials",
    ),
    "alias_weights": (
        "ministack.services.lambda_svc:_invoke",
        "ministack.services.lambda_svc:_functions",
        "ministack.services.lambda_svc:_qp_first",
        "ministack.services.lambda_svc:_get_func_record_for_ref_in_scope",
        "ministack.services.lambda_svc:_execute_function_dispatch",
        "ministack.services.cloudwatch:record_metric",
    ),
    "function_networks": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.lambda_svc:_functions",
        "ministack.services.lambda_svc:_vpc_config_with_id",
    ),
    "alias_updates": (
        "ministack.services.cloudformation.provisioners:_RESOURCE_HANDLERS",
        "ministack.services.cloudformation.stacks:_resolve_refs",
        "ministack.services.cloudformation.stacks:_runs_on_worker_thread",
        "ministack.services.cloudformation.engine:_parse_template",
        "ministack.services.cloudformation:_stacks",
    ),
}

ALIAS = "AWS::Lambda::Alias"
#: stack → what references in it resolve to
_known: dict[str, tuple[Any, ...]] = {}
#: on behalf of whom API Gateway calls a function: the ARN of the method, "" when nobody does
calling_for: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_calling_for", default="")
#: the alias through which the running function is called
_alias: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_alias", default="")


class NotAllowed(RuntimeError):
    """API Gateway may not call the function: its policy does not say so."""


def run_images(cloud: Cloud) -> None:
    """Run a function of a container image as its container, under its role."""
    from ministack.core import lambda_runtime
    from ministack.services import lambda_svc

    environments = Environments(cloud)
    original = lambda_svc._execute_function_docker

    def execute(func: dict[str, Any], event: Any, request: str) -> dict[str, Any]:
        config = func.get("config") or func
        if config.get("PackageType") != "Image":
            return original(func, event, request)
        return environments.invoke(config, event, request, lambda_runtime.execution_credentials)

    lambda_svc._execute_function_docker = execute


def split_aliases() -> None:
    """Let an alias with weights send its share of the calls to the other version, and count by alias.

    https://docs.aws.amazon.com/lambda/latest/dg/configuring-alias-routing.html
    """
    from ministack.services import cloudwatch, lambda_svc

    invoke, find = lambda_svc._invoke, lambda_svc._get_func_record_for_ref_in_scope
    dispatch = lambda_svc._execute_function_dispatch

    async def split(
        name: str, event: Any, headers: dict[str, str], path_qualifier: str | None = None, query: Any = None
    ) -> Any:
        qualifier = path_qualifier or lambda_svc._qp_first(query or {}, "Qualifier") or None
        function = lambda_svc._functions.get(name)
        alias = ((function or {}).get("aliases") or {}).get(qualifier)
        if not alias:
            return await invoke(name, event, headers, path_qualifier, query)
        token = _alias.set(qualifier)
        try:
            return await invoke(name, event, headers, chosen(alias), query)
        finally:
            _alias.reset(token)

    def found(reference: str, **scope: Any) -> tuple[Any, Any, str]:
        record, config, name = find(reference, **scope)
        qualifier = reference.rpartition(":")[2]
        function = lambda_svc._functions.get(name)
        alias = ((function or {}).get("aliases") or {}).get(qualifier)
        if not calling_for.get() or not function:
            return record, config, name
        _may_call(function, reference, calling_for.get())
        _alias.set(qualifier if alias else "")
        if alias and (version := function["versions"].get(chosen(alias))):
            return version, {**version["config"], "FunctionArn": alias["AliasArn"]}, name
        return record, config, name

    def counted(func: Any, config: dict[str, Any], event: Any, request: str, started: float) -> Any:
        begun = time.perf_counter()
        result = dispatch(func, config, event, request, started)
        milliseconds, name = (time.perf_counter() - begun) * 1000, config["FunctionName"]
        places = [{"FunctionName": name}] if calling_for.get() else []  # Invoke itself counts by name
        if alias := _alias.get():
            by_alias = {"FunctionName": name, "Resource": f"{name}:{alias}"}
            places += [by_alias, {**by_alias, "ExecutedVersion": config.get("Version", "$LATEST")}]
        for place in places:
            failed = 1 if isinstance(result, dict) and result.get("error") else 0
            cloudwatch.record_metric("AWS/Lambda", "Invocations", 1, "Count", place)
            cloudwatch.record_metric("AWS/Lambda", "Errors", failed, "Count", place)
            cloudwatch.record_metric("AWS/Lambda", "Duration", milliseconds, "Milliseconds", place)
        return result

    lambda_svc._invoke = split
    lambda_svc._get_func_record_for_ref_in_scope = found
    lambda_svc._execute_function_dispatch = counted


def chosen(alias: dict[str, Any]) -> str:
    """The version that answers one call of an alias."""
    weights = (alias.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    for version, weight in weights.items():
        if random.random() < float(weight):
            return version
    return alias["FunctionVersion"]


def _may_call(function: dict[str, Any], reference: str, source: str) -> None:
    """Raise NotAllowed when a function's policy does not let API Gateway call it for a method."""
    statements = [s for s in function["policy"]["Statement"] if s.get("Resource") == reference]
    policy = {"Statement": [{**s, "Condition": _lower_keys(s.get("Condition") or {})} for s in statements]}
    context = {"aws:sourcearn": source, "aws:sourceaccount": source.split(":")[4]}
    if not refusals.policy_allows(policy, "apigateway.amazonaws.com", "lambda:InvokeFunction", context):
        raise NotAllowed(f"the policy of {reference} does not let API Gateway call it for {source}")


def _lower_keys(conditions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {operator: {k.lower(): v for k, v in block.items()} for operator, block in conditions.items()}


def keep_networks() -> None:
    """Put a stack's function into the VPC that it names; the emulator's handler leaves it outside."""
    from ministack.services import lambda_svc
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::Lambda::Function"]
    make, change = handler["create"], handler["update"]

    def put(answer: tuple[str, dict], props: dict[str, Any]) -> tuple[str, dict]:
        if function := lambda_svc._functions.get(answer[0]):
            function["config"]["VpcConfig"] = lambda_svc._vpc_config_with_id(props.get("VpcConfig"))
        return answer

    handler["create"] = lambda logical_id, props, stack: put(make(logical_id, props, stack), props)
    handler["update"] = lambda physical_id, old, new, *rest: put(change(physical_id, old, new, *rest), new)


def update_aliases(cloud: Cloud) -> None:
    """Have CodeDeploy move an alias of a stack whose UpdatePolicy says so.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-updatepolicy.html
    """
    from ministack.services.cloudformation import provisioners, stacks

    handler = provisioners._RESOURCE_HANDLERS[ALIAS]
    change, named = handler["update"], handler.get("update_with_logical_id")
    resolve, blocking = stacks._resolve_refs, stacks._runs_on_worker_thread

    def resolved(value: Any, resources: Any, params: Any, conditions: Any, mappings: Any, *rest: Any) -> Any:
        if rest:
            _known[rest[0]] = (resources, params, conditions, mappings, *rest)
        return resolve(value, resources, params, conditions, mappings, *rest)

    def update(physical_id: str, old: dict, new: dict, stack: str, logical_id: str) -> tuple[str, dict]:
        policy = update_policy(stack, logical_id).get("CodeDeployLambdaAliasUpdate")
        same_alias = all(old.get(k) == new.get(k) for k in ("Name", "FunctionName"))
        if policy and same_alias and old.get("FunctionVersion") != new.get("FunctionVersion"):
            _deploy(cloud, policy, new)
        return change(physical_id, old, new, stack, *([logical_id] if named else []))

    stacks._resolve_refs = resolved
    stacks._runs_on_worker_thread = lambda resource_type: resource_type == ALIAS or blocking(resource_type)
    handler.update(update=update, update_with_logical_id=True)


def update_policy(stack: str, logical_id: str) -> dict[str, Any]:
    """The UpdatePolicy of a resource as its stack's template has it now, with its references resolved."""
    from ministack.services.cloudformation import _stacks, engine, stacks

    body = (_stacks.get(stack) or {}).get("_template_body")
    template = engine._parse_template(body) if body else {}
    found = template.get("Resources", {}).get(logical_id, {}).get("UpdatePolicy")
    return stacks._resolve_refs(copy.deepcopy(found), *_known[stack]) if found else {}


def _deploy(cloud: Cloud, policy: dict[str, Any], props: dict[str, Any]) -> None:
    """Make a deployment and wait for its end. Raises ValueError with CloudFormation's words when it fails."""
    function, alias = props["FunctionName"], props["Name"]
    live = cloud.client("lambda").get_alias(FunctionName=function, Name=alias)["FunctionVersion"]
    if live == str(props["FunctionVersion"]):
        return  # a rollback of CodeDeploy moved it back already
    name = function.split(":")[6] if function.startswith("arn:") else function
    moved = {
        "Name": name,
        "Alias": alias,
        "CurrentVersion": live,
        "TargetVersion": str(props["FunctionVersion"]),
    }
    hooks = [
        {event: policy[f"{event}Hook"]}
        for event in ("BeforeAllowTraffic", "AfterAllowTraffic")
        if policy.get(f"{event}Hook")
    ]
    content = {"version": 0.0, "Resources": [{name: {"Type": "AWS::Lambda::Function", "Properties": moved}}]}
    codedeploy = cloud.client("codedeploy")
    try:
        made = codedeploy.create_deployment(
            applicationName=policy["ApplicationName"],
            deploymentGroupName=policy["DeploymentGroupName"],
            revision={
                "revisionType": "AppSpecContent",
                "appSpecContent": {"content": _json({**content, "Hooks": hooks})},
            },
        )
    except ClientError as error:
        raise ValueError(f"CodeDeploy: {error.response['Error']['Message']}") from error
    service = cloud.services["codedeploy"]
    service.wait(made["deploymentId"])
    found = codedeploy.get_deployment(deploymentId=made["deploymentId"])["deploymentInfo"]
    if found["status"] != "Succeeded":
        why = (found.get("errorInformation") or {}).get("message", "")
        raise ValueError(
            f"CodeDeploy deployment {made['deploymentId']} failed with status {found['status']}: {why}"
        )


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
