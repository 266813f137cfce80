"""Step Functions: tasks call as the machine's role, waits keep the cloud's time, definitions are checked.

The emulator interprets the Amazon States Language; what a task calls goes through the cloud's own port, under
credentials of the role, so that policies, keys and every service of the cloud answer as they answer anybody.
"""

from __future__ import annotations

import contextvars
import json
import re
import threading
import time as real_time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws import asl, clock
from localaws.errors import AwsError
from localaws.hooks.events import undelivered

if TYPE_CHECKING:
    from localaws.cloud import Cloud
    from localaws.permissions.access import Access

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "state_tasks": (
        "ministack.services.stepfunctions:_execute_task",
        "ministack.services.stepfunctions:_invoke_resource",
        "ministack.services.stepfunctions:_state_machines",
        "ministack.services.stepfunctions:_ExecutionError",
    ),
    "state_waits": (
        "ministack.services.stepfunctions:_scaled_sleep",
        "ministack.services.stepfunctions:_sleep_until",
        "ministack.services.stepfunctions:_register_sfn_jsonata_functions",
    ),
    "state_variables": (
        "ministack.services.stepfunctions:_apply_state_assign",
        "ministack.services.stepfunctions:_apply_jsonata_template",
        "ministack.services.stepfunctions:_state_query_language",
        "ministack.services.stepfunctions:_apply_output_path",
        "ministack.services.stepfunctions:_apply_jsonata_output",
    ),
    "state_definitions": (
        "ministack.services.cloudformation.provisioners:_sfn_definition",
        "ministack.services.stepfunctions:_validate_definition_jsonata",
    ),
    "state_records": (
        "ministack.services.stepfunctions:_run_execution",
        "ministack.services.stepfunctions:_emit_execution_status_event",
        "ministack.services.stepfunctions:_executions",
        "ministack.services.stepfunctions:_state_machines",
    ),
}
#: API's name of a member → its name in a state machine
Names = Callable[[str], str]
#: the machine whose task is being run
_machine: contextvars.ContextVar[str] = contextvars.ContextVar("localaws_state_machine", default="")
#: service in the ARN of an SDK integration → botocore's name, and what names of errors begin with
SDK_SERVICES = {
    "cloudwatchlogs": ("logs", "CloudWatchLogs"),
    "dynamodb": ("dynamodb", "DynamoDb"),
    "eventbridge": ("events", "EventBridge"),
    "s3": ("s3", "S3"),
    "sagemaker": ("sagemaker", "SageMaker"),
    "sfn": ("stepfunctions", "Sfn"),
    "sns": ("sns", "Sns"),
    "ssm": ("ssm", "Ssm"),
}
#: optimised integrations: service → botocore's name, what names of errors begin with, how an error is called
#: that the service's model does not name, and the operations
OPTIMISED = {
    "dynamodb": (
        "dynamodb",
        "DynamoDB",
        "AmazonDynamoDBException",
        ("getItem", "putItem", "updateItem", "deleteItem"),
    ),
    "sns": ("sns", "SNS", "AmazonSNSException", ("publish",)),
}
MOST = 256 * 1024  # bytes that a state may carry
SESSION_SECONDS = 900


class Roles:
    """Clients under roles of state machines; a session serves many tasks, as in AWS."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._made: dict[tuple[str, str, str], tuple[Any, float]] = {}
        self._lock = threading.Lock()

    def client(self, service: str, role: str, principal: str, source: str) -> Any:
        """A client under a role that ``principal`` assumes for the resource ``source``."""
        key = (service, role, source)
        with self._lock:
            found = self._made.get(key)
            if found and real_time.monotonic() - found[1] < SESSION_SECONDS:
                return found[0]
        self.cloud.check_trust(role, principal, source)
        made = self.cloud.client(service, role=role, session=principal.partition(".")[0])
        with self._lock:
            self._made[key] = made, real_time.monotonic()
        return made


def run_tasks_under_roles(cloud: Cloud) -> None:
    """Let a task call the cloud as the role of its machine; what the cloud does not run fails by name."""
    from ministack.services import stepfunctions

    roles, original = Roles(cloud), stepfunctions._execute_task

    def execute(state: dict, raw_input: Any, execution: dict, context: dict) -> Any:
        token = _machine.set(execution["stateMachineArn"])
        try:
            return original(state, raw_input, execution, context)
        finally:
            _machine.reset(token)

    def invoke(resource: str, arguments: Any) -> Any:
        failed = stepfunctions._ExecutionError
        machine = stepfunctions._state_machines[_machine.get()]
        sdk, optimised = asl.SDK_TASK.fullmatch(resource), asl.OPTIMISED_TASK.fullmatch(resource)
        if sdk and sdk["service"] in SDK_SERVICES:
            service, prefix = SDK_SERVICES[sdk["service"]]
            operation, unnamed = sdk["operation"], f"{prefix}Exception"
        elif (
            optimised
            and optimised["operation"] in OPTIMISED.get(optimised["service"], ((),))[-1]
            and not optimised["wait"]
        ):
            service, prefix, unnamed, _ = OPTIMISED[optimised["service"]]
            operation = optimised["operation"]
        else:
            raise failed("States.Runtime", f"the local cloud does not run {resource}")
        try:
            client = roles.client(
                service, machine["roleArn"], "states.amazonaws.com", machine["stateMachineArn"]
            )
        except AwsError as error:
            raise failed("States.Permissions", error.message) from error
        # an SDK integration names members as the SDK for Java does, an optimised one as the API does
        names = sdk_name if sdk else str
        result = call(client, operation, arguments, prefix, unnamed, names)
        if len(json.dumps(result)) > MOST:
            why = f"The result of {resource} is longer than the {MOST} bytes that a state may carry."
            raise failed("States.DataLimitExceeded", why)
        return result

    stepfunctions._execute_task, stepfunctions._invoke_resource = execute, invoke


def sdk_name(member: str) -> str:
    """An API's name of a member as the SDK for Java writes it, with a capital: SSEKMSKeyId is SsekmsKeyId.

    Capitals at its beginning become one word; others stay (VolumeSizeInGB). That is ``Utils.unCapitalize`` of
    the code generator in github.com/aws/aws-sdk-java-v2.
    """
    word = re.match(r"[A-Z]+(?![a-z])|[A-Z]", member)
    return (
        member[0].upper() + word[0][1:].lower() + member[word.end() :]
        if word
        else member[0].upper() + member[1:]
    )


def call(client: Any, operation: str, arguments: Any, prefix: str, unnamed: str, names: Names = str) -> Any:
    """The result of an API call; ``names`` gives a member's name in the state machine."""
    from botocore import xform_name
    from botocore.exceptions import ClientError, ParamValidationError
    from ministack.services import stepfunctions

    failed, name = stepfunctions._ExecutionError, operation[0].upper() + operation[1:]
    model = client.meta.service_model
    if name not in model.operation_names:
        raise failed("States.Runtime", f"{prefix} has no operation {operation}")
    shapes = model.operation_model(name)
    try:
        parameters = _given(arguments or {}, shapes.input_shape, names, "") if shapes.input_shape else {}
        answer = getattr(client, xform_name(name))(**parameters)
    except ParamValidationError as error:
        raise failed("States.Runtime", f"{operation}: {error}") from error
    except ClientError as error:
        raise failed(*_worded(error, model, prefix, unnamed)) from error
    answer.pop("ResponseMetadata", None)
    return _told(answer, shapes.output_shape, names) if shapes.output_shape else {}


def _worded(error: Any, model: Any, prefix: str, unnamed: str) -> tuple[str, str]:
    """Name and cause of an error: that of the class in AWS's SDK for Java, which has one for each shape."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    shape = next((s.name for s in model.error_shapes if s.error_code == code or s.name == code), "")
    name = shape.removesuffix("Fault") if shape else unnamed
    name += "" if name.endswith("Exception") else "Exception"
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 400)
    why = message if shape else f"{message} (Error Code: {code})"
    return f"{prefix}.{name}", f"{why} (Service: {prefix}, Status Code: {status})"


def _given(value: Any, shape: Any, names: Names, where: str) -> Any:
    """Arguments of a state as botocore takes them. Raises States.Runtime for a member that there is not."""
    from ministack.services import stepfunctions

    if shape.type_name == "structure" and isinstance(value, dict):
        known = {names(member): member for member in shape.members}
        for name in value:
            if name not in known:
                reason = f"The field {name!r} is not supported by Step Functions at {where or '/'}"
                raise stepfunctions._ExecutionError("States.Runtime", reason)
        return {known[n]: _given(v, shape.members[known[n]], names, f"{where}/{n}") for n, v in value.items()}
    if shape.type_name == "list" and isinstance(value, list):
        return [_given(v, shape.member, names, f"{where}/{i}") for i, v in enumerate(value)]
    if shape.type_name == "map" and isinstance(value, dict):
        return {k: _given(v, shape.value, names, f"{where}/{k}") for k, v in value.items()}
    if shape.type_name == "blob":
        return value.encode() if isinstance(value, str) else json.dumps(value).encode()
    return value


def _told(value: Any, shape: Any, names: Names) -> Any:
    """An answer of botocore as a state gets it."""
    if shape.type_name == "structure":
        members = {k: v for k, v in value.items() if k in shape.members and v is not None}
        return {names(k): _told(v, shape.members[k], names) for k, v in members.items()}
    if shape.type_name == "list":
        return [_told(v, shape.member, names) for v in value]
    if shape.type_name == "map":
        return {k: _told(v, shape.value, names) for k, v in value.items()}
    if shape.type_name == "blob":
        return (value.read() if hasattr(value, "read") else value).decode()
    if shape.type_name == "timestamp" and hasattr(value, "astimezone"):
        return value.astimezone(clock.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    return value


def keep_the_clouds_time(cloud: Cloud) -> None:
    """Let waits pass as all time passes here: scaled, and at once when the clock moves past their end.

    ``$millis()`` and ``$now()`` are the cloud's clock, which leases and the like are made of.
    """
    from ministack.services import stepfunctions

    register = stepfunctions._register_sfn_jsonata_functions

    def sleep(seconds: float) -> None:
        due, real = clock.time() + seconds, real_time.monotonic() + seconds * cloud.time_scale
        while real_time.monotonic() < real and clock.time() < due and not cloud.stopping:
            real_time.sleep(min(0.05, max(0.001, real - real_time.monotonic())))

    def until(moment: str) -> None:
        parsed = clock.datetime.fromisoformat(moment.replace("Z", "+00:00"))
        sleep(max(0.0, parsed.timestamp() - clock.time()))

    def functions(expression: Any) -> None:
        register(expression)
        expression.register_lambda("millis", lambda: int(clock.time() * 1000))
        expression.register_lambda("now", lambda: clock.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z")

    stepfunctions._scaled_sleep, stepfunctions._sleep_until = sleep, until
    stepfunctions._register_sfn_jsonata_functions = functions


def assign_together() -> None:
    """Evaluate all of a state's Assign on the variables as they were, and let Succeed have an Output.

    https://docs.aws.amazon.com/step-functions/latest/dg/workflow-variables.html ("evaluation order")
    """
    from ministack.services import stepfunctions

    output = stepfunctions._apply_output_path

    def assign(
        state: dict, raw_input: Any, context: Any, result: Any = None, error_output: Any = None
    ) -> None:
        if context is None or stepfunctions._state_query_language(state, context) != "JSONata":
            return
        made = {
            name: stepfunctions._apply_jsonata_template(template, raw_input, context, result, error_output)
            for name, template in (state.get("Assign") or {}).items()
        }
        context.setdefault("variables", {}).update(made)

    def succeed(state: dict, data: Any, context: Any = None) -> Any:
        if stepfunctions._state_query_language(state, context) == "JSONata":
            return stepfunctions._apply_jsonata_output(state, data, context, default=data)
        return output(state, data, context)

    stepfunctions._apply_state_assign, stepfunctions._apply_output_path = assign, succeed


def read_definitions() -> None:
    """Take a definition in S3 as YAML too, as CloudFormation does: JSON is tried first.

    DefinitionProcessor of github.com/aws-cloudformation/aws-cloudformation-resource-providers-stepfunctions
    """
    import yaml
    from ministack.services.cloudformation import provisioners

    original = provisioners._sfn_definition

    def definition(properties: dict[str, Any]) -> str:
        substitutions = properties.get("DefinitionSubstitutions") or {}
        text = original({**properties, "DefinitionSubstitutions": {}})
        try:
            json.loads(text)
        except ValueError:
            text = json.dumps(yaml.safe_load(text))
        for name, value in substitutions.items():
            text = text.replace(f"${{{name}}}", str(value))
        return text

    provisioners._sfn_definition = definition


def refuse_definitions() -> None:
    """Refuse what Step Functions refuses when a machine is made or changed, not only broken expressions."""
    from ministack.services import stepfunctions

    original = stepfunctions._validate_definition_jsonata

    def validate(text: Any) -> str | None:
        try:
            definition = json.loads(text)
        except (TypeError, ValueError) as error:
            return f"INVALID_JSON_DESCRIPTION: {error}"
        found = asl.problems(definition)
        return f"SCHEMA_VALIDATION_FAILED: {'; '.join(found)}" if found else original(text)

    stepfunctions._validate_definition_jsonata = validate


def refused(properties: dict[str, Any]) -> str:
    """Why Step Functions refuses a template's definition; "" when it does not."""
    from ministack.services import stepfunctions
    from ministack.services.cloudformation import provisioners

    return stepfunctions._validate_definition_jsonata(provisioners._sfn_definition(properties)) or ""


def keep_records(cloud: Cloud) -> None:
    """Write the log of executions, and keep what a customer's key encrypts out of status events.

    https://docs.aws.amazon.com/step-functions/latest/dg/encryption-at-rest.html
    """
    from ministack.services import stepfunctions

    run, emit = stepfunctions._run_execution, stepfunctions._emit_execution_status_event
    secret = ("input", "output", "error", "cause")

    def tell(execution: dict) -> None:
        kind = (execution.get("encryptionConfiguration") or {}).get("type")
        if kind == "CUSTOMER_MANAGED_KMS_KEY":
            execution = {**execution, **dict.fromkeys(secret)}
        emit(execution)

    def logged(execution_arn: str) -> None:
        run(execution_arn)
        execution = stepfunctions._executions.get(execution_arn)
        machine = stepfunctions._state_machines.get(execution["stateMachineArn"]) if execution else None
        if machine:
            try:
                _log(cloud, machine, execution)
            except Exception as error:
                undelivered(cloud, execution_arn, f"log of the execution: {error}")

    stepfunctions._run_execution, stepfunctions._emit_execution_status_event = logged, tell


def _log(cloud: Cloud, machine: dict[str, Any], execution: dict[str, Any]) -> None:
    settings = {k[0].lower() + k[1:]: v for k, v in (machine.get("loggingConfiguration") or {}).items()}
    level, data = settings.get("level", "OFF"), settings.get("includeExecutionData") in (True, "true")
    lines = []
    for event in execution["events"]:
        bad = any(word in event["type"] for word in ("Failed", "TimedOut", "Aborted"))
        if (
            level == "ALL"
            or bad
            and (level == "ERROR" or level == "FATAL" and event["type"].startswith("Execution"))
        ):
            details = next((v for k, v in event.items() if k.endswith("EventDetails")), {})
            shown = {
                k: v for k, v in details.items() if data or k not in ("input", "output", "cause", "error")
            }
            line = {"id": str(event["id"]), "type": event["type"], "details": shown}
            lines.append(json.dumps({**line, "execution_arn": execution["executionArn"]}))
    for destination in settings.get("destinations") or [] if lines else []:
        found = next(iter(destination.values()))
        arn = found.get("LogGroupArn") or found.get("logGroupArn")
        group = arn.partition(":log-group:")[2].removesuffix(":*")
        _put(cloud, group, f"states/{machine['name']}/{clock.now():%Y-%m-%d-%H}-00", lines)


def _put(cloud: Cloud, group: str, stream: str, lines: list[str]) -> None:
    import contextlib

    logs, stamp = cloud.client("logs"), int(clock.time() * 1000)
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
    for start in range(0, len(lines), 1000):
        events = [{"timestamp": stamp, "message": line} for line in lines[start : start + 1000]]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def machine_of(arn: str) -> str:
    """The ARN of the machine of an execution, or the machine's own."""
    return ":".join(arn.split(":")[:7]).replace(":execution:", ":stateMachine:")


def machine_key(arn: str) -> str:
    """The customer's key that encrypts a machine, "" when there is none."""
    from ministack.services import stepfunctions

    return ((stepfunctions._state_machines.get(arn) or {}).get("encryptionConfiguration") or {}).get(
        "kmsKeyId", ""
    )


def key_questions(cloud: Cloud, key: str, arn: str, logs: bool) -> list[Access]:
    """What a machine's role asks of the key that encrypts the machine and its log deliveries."""
    from localaws.hooks import keys
    from localaws.permissions.access import Access

    found = keys.key_arn(key)
    if found is None:
        return []
    account = {"kms:CallerAccount": cloud.account}
    via = {"kms:ViaService": f"states.{cloud.region}.amazonaws.com"}
    own = account | via | {"kms:EncryptionContext:aws:states:stateMachineArn": arn}
    delivered = account | {"kms:EncryptionContext:SourceArn": cloud.arn("logs", "*")}
    asked = [Access("kms:Decrypt", found, own), Access("kms:GenerateDataKey", found, own)]
    return [*asked, Access("kms:GenerateDataKey", found, delivered)] if logs else asked
