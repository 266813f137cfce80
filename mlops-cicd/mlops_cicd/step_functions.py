"""The SageMaker pipeline of a project as a state machine (flow E): `training.orchestrator: step_functions`.

The same definition that SageMaker Pipelines would run is translated into the Amazon States Language, so a
project changes who drives its training in one line of mlops.yml. Steps run one after another, in an order in
which each has what it needs. Jobs are made and watched by Step Functions itself; what a step left is read
where another refers to it. Steps are not cached: there is no such thing in Step Functions.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from .console import Fault, say
from .definition_lint import FUNCTIONS
from .settings import Project

# Step type -> (call that makes the job, call that looks at it, what SageMaker calls it)
JOBS = {
    "Processing": ("createProcessingJob", "describeProcessingJob", "ProcessingJob"),
    "Training": ("createTrainingJob", "describeTrainingJob", "TrainingJob"),
    "Transform": ("createTransformJob", "describeTransformJob", "TransformJob"),
}
LONGEST_JOB_NAME, LONGEST_STATE_NAME = 63, 80
EXECUTION_ID = 12  # characters, as SageMaker Pipelines has them
FIRST_POLL, LAST_POLL = 1.0, 15.0  # seconds
# How lists of an answer are looked up by name: Outputs['train'] is the one whose OutputName is train.
NAMED_BY = {
    "Outputs": "OutputName",
    "ProcessingInputs": "InputName",
    "InputDataConfig": "ChannelName",
    "FinalMetricDataList": "MetricName",
}
# what tells an execution's jobs and files from those of another
RUN = f"{{% $substring($hash($states.context.Execution.Id, 'SHA-256'), 0, {EXECUTION_ID}) %}}"
COMPARISONS = {
    "Equals": "=",
    "GreaterThan": ">",
    "GreaterThanOrEqualTo": ">=",
    "LessThan": "<",
    "LessThanOrEqualTo": "<=",
}
VARIABLES = {
    "PipelineExecutionId": "$run",
    "PipelineName": "$states.context.StateMachine.Name",
    "PipelineArn": "$states.context.StateMachine.Id",
    "PipelineExecutionArn": "$states.context.Execution.Id",
    "StartDateTime": "$states.context.Execution.StartTime",
    "CurrentDateTime": "$now()",
}
CONVERSIONS = {"String": "$string", "Integer": "$number", "Float": "$number", "Boolean": "$boolean"}
# What AWS asks to try again: throttling, a full account, a fault of its own
RETRY = [
    {
        "ErrorEquals": ["States.ALL"],
        "IntervalSeconds": 5,
        "MaxAttempts": 6,
        "BackoffRate": 2,
        "MaxDelaySeconds": 120,
        "JitterStrategy": "FULL",
    }
]
_PART = re.compile(r"\.?([A-Za-z0-9_-]+)|\[['\"]([^'\"]*)['\"]\]|\[(\d+)\]")


def translate(definition: dict[str, Any], stem: str) -> dict[str, Any]:
    """The state machine of a pipeline; its jobs are named `<stem>-<execution>-<step>`.

    Raises Fault with everything in it that cannot be translated.
    """
    problems = list(_problems(definition, stem))
    if problems:
        raise Fault(
            "\n  ".join(
                ["training.orchestrator is step_functions, which cannot drive this pipeline", *problems]
            )
        )
    parameters = {p["Name"]: _parameter(p) for p in definition.get("Parameters", [])}
    steps = _ordered(definition["Steps"])
    states: dict[str, Any] = {
        "Begin": {
            "Type": "Pass",
            "Assign": {
                "parameters": parameters,
                "run": RUN,
                "steps": {},
                "files": {},
                "model": "",
            },
            "Next": _first(steps),
        },
        **_chain(steps, stem),
        "Done": {"Type": "Succeed", "Output": {"model_package_arn": "{% $model %}", "run": "{% $run %}"}},
    }
    return {
        "Comment": f"Training of {stem}, translated from its SageMaker pipeline",
        "QueryLanguage": "JSONata",
        "TimeoutSeconds": 432_000,
        "StartAt": "Begin",
        "States": states,
    }


def step_names(definition: dict[str, Any]) -> dict[str, str]:
    """Names of the steps with their types, those of conditions' branches too."""
    return {step["Name"]: step["Type"] for step in _all(definition.get("Steps", []))}


# ---- what can be translated ------------------------------------------------------------------------------


def _all(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield step
        for branch in ("IfSteps", "ElseSteps"):
            yield from _all(_branch(step, branch))


def _problems(definition: dict[str, Any], stem: str) -> Iterator[str]:
    jobs: dict[str, str] = {}
    for step in _all(definition["Steps"]):
        name, kind = step["Name"], step["Type"]
        if kind not in (*JOBS, "Condition", "Fail", "RegisterModel"):
            yield f"step {name}: a step of type {kind} runs in SageMaker Pipelines only"
        if len(f"{name}: failed") > LONGEST_STATE_NAME:
            yield f"step {name}: its name is too long for a state"
        other = jobs.setdefault(_job_name(stem, "", name), name) if kind in JOBS else name
        if other != name:
            yield f"step {name}: its jobs would be named like those of {other}, whose name begins alike"
        for path in _gets(step.get("Arguments", {})):
            if path.startswith("Execution.") and path.partition(".")[2] not in VARIABLES:
                yield f"step {name}: {path} is known to SageMaker Pipelines only"
    yield from _left_out(definition["Steps"], set())


def _left_out(steps: list[dict[str, Any]], known: set[str]) -> Iterator[str]:
    """Steps that need one which a condition may leave out, and those that need a condition's end."""
    known = known | {step["Name"] for step in steps if step["Type"] != "Condition"}
    for step in steps:
        for needed in _needs(step):
            if needed not in known:
                yield f"step {step['Name']}: it waits for {needed}, which is a condition or behind one"
        for branch in ("IfSteps", "ElseSteps"):
            yield from _left_out(_branch(step, branch), known)


def _branch(step: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return step.get("Arguments", {}).get(name, []) if step["Type"] == "Condition" else []


def _gets(value: Any) -> Iterator[str]:
    """Every reference in a value; those of a condition's branches belong to the steps there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "Get":
                yield inner
            elif key not in ("IfSteps", "ElseSteps"):
                yield from _gets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _gets(inner)


def _needs(step: dict[str, Any]) -> list[str]:
    """The steps that must be over before one: those it names, and those it refers to."""
    referred = (re.match(r"Steps\.([A-Za-z0-9-]+)", path) for path in _gets(step.get("Arguments", {})))
    return list(dict.fromkeys([*step.get("DependsOn", []), *(m[1] for m in referred if m)]))


def _ordered(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps in an order in which each comes after what it needs; conditions come last, they branch."""
    here, done, order = {s["Name"]: s for s in steps}, set(), []
    inner = {
        s["Name"]: {n for i in _all([s]) for n in _needs(i)} - {i["Name"] for i in _all([s])} for s in steps
    }
    while len(order) < len(steps):
        ready = [s for s in steps if s["Name"] not in done and not (inner[s["Name"]] & set(here)) - done]
        if not ready:
            raise Fault(f"steps {', '.join(sorted(set(here) - done))} wait for each other")
        step = min(ready, key=lambda s: s["Type"] == "Condition")
        done.add(step["Name"])
        order.append(step)
    return order


# ---- states ----------------------------------------------------------------------------------------------


def _parameter(parameter: dict[str, Any]) -> str:
    """The value that an execution gives a parameter, or its default."""
    given = f"$states.input.parameters.`{parameter['Name']}`"
    default = json.dumps(parameter.get("DefaultValue", ""))
    return f"{{% $exists({given}) ? {CONVERSIONS[parameter['Type']]}({given}) : {default} %}}"


def _first(steps: list[dict[str, Any]], following: str = "Done") -> str:
    return steps[0]["Name"] if steps else following


def _chain(steps: list[dict[str, Any]], stem: str, following: str = "Done") -> dict[str, Any]:
    states: dict[str, Any] = {}
    for index, step in enumerate(steps):
        behind = steps[index + 1]["Name"] if index + 1 < len(steps) else following
        states |= _states(step, stem, behind)
    return states


def _states(step: dict[str, Any], stem: str, following: str) -> dict[str, Any]:
    name, kind, arguments = step["Name"], step["Type"], step.get("Arguments", {})
    if kind == "Fail":
        return {name: {"Type": "Fail", "Error": "FailStep", "Cause": template(arguments["ErrorMessage"])}}
    if kind == "Condition":
        yes, no = (_ordered(_branch(step, branch)) for branch in ("IfSteps", "ElseSteps"))
        met = " and ".join(_condition(c) for c in arguments["Conditions"])
        choice = {"Condition": f"{{% {met} %}}", "Next": _first(yes, following)}
        return {
            name: {"Type": "Choice", "Choices": [choice], "Default": _first(no, following)},
            **_chain(yes, stem, following),
            **_chain(no, stem, following),
        }
    if kind == "RegisterModel":
        # a repeated call registers nothing twice
        token = f"{{% $substring($hash($run & '{name}', 'SHA-256'), 0, 36) %}}"
        return {
            name: {
                "Type": "Task",
                "Resource": _task("createModelPackage"),
                "Arguments": {**template(arguments), "ClientToken": token},
                "Assign": {"model": "{% $states.result.ModelPackageArn %}", "steps": _kept(name)},
                "Retry": RETRY,
                "Next": following,
            }
        }
    return _job(step, stem, following)


def _job(step: dict[str, Any], stem: str, following: str) -> dict[str, Any]:
    name, arguments = step["Name"], step["Arguments"]
    create, describe, kind = JOBS[step["Type"]]
    wait, look, ended, failed = (f"{name}: {part}" for part in ("wait", "look", "ended", "failed"))
    before, after_run = _job_name(stem, "\0", name).split("\0")
    job = f"{{% '{before}' & $run & '{after_run}' %}}"
    reason = "$exists($look.FailureReason) ? $look.FailureReason : $look." + f"{kind}Status"
    files = step.get("PropertyFiles", [])
    after = f"{name}: read {files[0]['PropertyFileName']}" if files else following
    states: dict[str, Any] = {
        name: {
            "Type": "Task",
            "Resource": _task(create),
            "Arguments": {**template(arguments), f"{kind}Name": job},
            "Retry": RETRY,
            "Next": wait,
        },
        wait: {"Type": "Wait", "Seconds": 15, "Next": look},
        look: {
            "Type": "Task",
            "Resource": _task(describe),
            "Arguments": {f"{kind}Name": job},
            "Assign": {"look": "{% $states.result %}"},
            "Retry": RETRY,
            "Next": ended,
        },
        ended: {
            "Type": "Choice",
            "Choices": [
                {
                    "Condition": f"{{% $look.{kind}Status = 'Completed' %}}",
                    "Assign": {"steps": f"{{% $merge([$steps, {{'{name}': $look}}]) %}}"},
                    "Next": after,
                },
                {"Condition": f"{{% $look.{kind}Status in ['Failed', 'Stopped'] %}}", "Next": failed},
            ],
            "Default": wait,
        },
        failed: {"Type": "Fail", "Error": "StepFailed", "Cause": f"{{% {reason} %}}"},
    }
    for index, file in enumerate(files):
        behind = (
            f"{name}: read {files[index + 1]['PropertyFileName']}" if index + 1 < len(files) else following
        )
        states[f"{name}: read {file['PropertyFileName']}"] = _property_file(name, file, behind)
    return states


def _property_file(step: str, file: dict[str, str], following: str) -> dict[str, Any]:
    """The state that reads a JSON file which a job left, so that a condition can look into it."""
    uri = f"$steps.`{step}`.ProcessingOutputConfig.Outputs[OutputName='{file['OutputName']}'].S3Output.S3Uri"
    place = f"$substringAfter({uri}, 's3://')"
    content = f"{{'{file['PropertyFileName']}': $parse($states.result.Body)}}"
    return {
        "Type": "Task",
        "Resource": _task("getObject", "s3"),
        "Arguments": {
            "Bucket": f"{{% $substringBefore({place}, '/') %}}",
            "Key": f"{{% $substringAfter({place}, '/') & '/{file['FilePath']}' %}}",
        },
        "Assign": {"files": f"{{% $merge([$files, {{'{step}': $merge([$files.`{step}`, {content}])}}]) %}}"},
        "Output": {},
        "Retry": RETRY,
        "Next": following,
    }


def _task(operation: str, service: str = "sagemaker") -> str:
    return f"arn:${{Partition}}:states:::aws-sdk:{service}:{operation}"


def _kept(name: str) -> str:
    return f"{{% $merge([$steps, {{'{name}': $states.result}}]) %}}"


def _job_name(stem: str, run: str, step: str) -> str:
    """`<stem>-<execution>-<step>`; the step is cut so that the name fits."""
    longest = LONGEST_JOB_NAME - len(stem) - EXECUTION_ID - 2
    return f"{stem}-{run}-{step[:longest].rstrip('-')}"


# ---- values ----------------------------------------------------------------------------------------------


def template(value: Any) -> Any:
    """A value of a definition as a state machine holds it: expressions where it has pipeline functions."""
    if isinstance(value, dict):
        if set(value) & set(FUNCTIONS):
            return f"{{% {code(value)} %}}"
        return {key: template(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [template(inner) for inner in value]
    if isinstance(value, str) and value.startswith("{%"):
        return f"{{% {json.dumps(value)} %}}"  # a text that would be taken for an expression
    return value


def code(value: Any) -> str:
    """A value of a definition as a JSONata expression."""
    if isinstance(value, dict) and "Get" in value:
        return _reference(value["Get"])
    if isinstance(value, dict) and "Std:Join" in value:
        join = value["Std:Join"]
        parts = ", ".join(f"$string({code(part)})" for part in join["Values"])
        return f"$join([{parts}], {json.dumps(join['On'])})"
    if isinstance(value, dict) and "Std:JsonGet" in value:
        get = value["Std:JsonGet"]
        _, step, _, file = get["PropertyFile"]["Get"].split(".")
        return f"$files.`{step}`.`{file}`" + _path(get["Path"].removeprefix("$"))
    return json.dumps(value)


def _reference(path: str) -> str:
    kind, _, rest = path.partition(".")
    if kind == "Parameters":
        return f"$parameters.`{rest}`"
    if kind == "Execution":
        return VARIABLES[rest]
    return "$steps" + _path(rest)


def _path(path: str) -> str:
    """`Train.Outputs['a'].S3Uri` as JSONata."""
    out, before = "", ""
    for name, key, index in _PART.findall(path):
        if name:
            out += f".`{name}`"
        elif index:
            out += f"[{index}]"
        else:
            out += f"[{NAMED_BY[before]}={json.dumps(key)}]" if before in NAMED_BY else f".`{key}`"
        before = name
    return out


def _condition(condition: dict[str, Any]) -> str:
    kind = condition["Type"]
    if kind == "Not":
        return f"$not({_condition(condition['Expression'])})"
    if kind == "Or":
        return f"({' or '.join(_condition(c) for c in condition['Conditions'])})"
    if kind == "In":
        values = ", ".join(code(v) for v in condition["Values"])
        return f"({code(condition['QueryValue'])} in [{values}])"
    return f"({code(condition['LeftValue'])} {COMPARISONS[kind]} {code(condition['RightValue'])})"


# ---- make it, follow it ----------------------------------------------------------------------------------


def upsert(states: Any, project: Project, machine: dict[str, Any]) -> str:
    """Create or update the project's training machine; its ARN."""
    text = json.dumps(machine).replace("${Partition}", project.partition)
    arn = project.training_state_machine_arn
    try:
        states.update_state_machine(stateMachineArn=arn, definition=text, roleArn=project.execution_role_arn)
        say(f"state machine {project.name}-training updated")
    except states.exceptions.StateMachineDoesNotExist:
        states.create_state_machine(
            name=f"{project.name}-training",
            definition=text,
            roleArn=project.execution_role_arn,
            encryptionConfiguration={
                "type": "CUSTOMER_MANAGED_KMS_KEY",
                "kmsKeyId": project.key_arn,
                "kmsDataKeyReusePeriodSeconds": 900,
            },
            tags=[{"key": tag["Key"], "value": tag["Value"]} for tag in project.tags],
        )
        say(f"state machine {project.name}-training created")
    return arn


def follow(
    states: Any,
    execution: str,
    names: dict[str, str],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Wait for the end of an execution and tell every change of a step.

    The execution and its steps, in the words of SageMaker Pipelines, so that they are explained alike.
    """
    started, pause = clock(), FIRST_POLL
    told: dict[str, str] = {}
    while True:
        described = states.describe_execution(executionArn=execution)
        steps = steps_of(_events(states, execution), names, described)
        for step in steps:
            name, status = step["StepName"], step["StepStatus"]
            if told.get(name) != status:
                told[name] = status
                say(f"  {clock() - started:6.0f} s  {name}: {status}")
                pause = FIRST_POLL
        if described["status"] != "RUNNING":
            ends = {"SUCCEEDED": "Succeeded", "ABORTED": "Stopped"}
            status = ends.get(described["status"], "Failed")
            return {"PipelineExecutionStatus": status, "FailureReason": described.get("cause", "")}, steps
        sleep(pause)
        pause = min(LAST_POLL, pause * 1.5)


def _events(states: Any, execution: str) -> list[dict[str, Any]]:
    pages = states.get_paginator("get_execution_history").paginate(executionArn=execution)
    return [event for page in pages for event in page["events"]]


def steps_of(
    events: list[dict[str, Any]], names: dict[str, str], described: dict[str, Any]
) -> list[dict[str, Any]]:
    """The steps that have begun, as ListPipelineExecutionSteps would give them."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        details = event.get("stateEnteredEventDetails") or event.get("stateExitedEventDetails") or {}
        name, _, part = details.get("name", "").partition(": ")
        if name not in names:
            continue
        step = found.setdefault(name, {"StepName": name, "StepStatus": "Executing", "Metadata": {}})
        exited = event["type"].endswith("Exited")
        output = json.loads(details.get("output") or "{}") if exited and not part else {}
        for kind in ("ProcessingJob", "TrainingJob", "TransformJob"):
            if isinstance(output, dict) and f"{kind}Arn" in output:
                step["Metadata"] = {kind: {"Arn": output[f"{kind}Arn"]}}
        if isinstance(output, dict) and "ModelPackageArn" in output:
            step |= {
                "StepStatus": "Succeeded",
                "Metadata": {"RegisterModel": {"Arn": output["ModelPackageArn"]}},
            }
        if names[name] == "Condition":
            step["StepStatus"] = "Succeeded"
        if names[name] == "Fail":
            message = described.get("cause", "")
            step |= {
                "StepStatus": "Failed",
                "Metadata": {"Fail": {"ErrorMessage": message}},
                "FailureReason": message,
            }
        if part == "failed":
            step |= {"StepStatus": "Failed", "FailureReason": described.get("cause", "")}
    order = list(found.values())
    for step in order[:-1]:  # they run one after another
        if step["StepStatus"] == "Executing":
            step["StepStatus"] = "Succeeded"
    if order and order[-1]["StepStatus"] == "Executing" and described["status"] != "RUNNING":
        good = described["status"] == "SUCCEEDED"
        reason = {} if good else {"FailureReason": described.get("cause") or described["status"]}
        order[-1] |= {"StepStatus": "Succeeded" if good else "Failed", **reason}
    return order
