"""A pipeline's definition: what SageMaker refuses of it, and what its values mean during an execution.

The JSON schema that AWS publishes is stale (it rejects what AWS's own SDK writes), so the arguments of each
step are checked against botocore's model of the call that the step makes, pipeline functions standing for any
value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from localaws.service import findings_of, model

FUNCTIONS = ("Get", "Std:Join", "Std:JsonGet")
#: step type → the call it makes, the parameter that SageMaker names itself, the call that gives its
#: properties
CALLS = {
    "Processing": ("CreateProcessingJob", "ProcessingJobName", "DescribeProcessingJob"),
    "Training": ("CreateTrainingJob", "TrainingJobName", "DescribeTrainingJob"),
    "Tuning": (
        "CreateHyperParameterTuningJob",
        "HyperParameterTuningJobName",
        "DescribeHyperParameterTuningJob",
    ),
    "Transform": ("CreateTransformJob", "TransformJobName", "DescribeTransformJob"),
    "Model": ("CreateModel", "ModelName", "DescribeModel"),
    "RegisterModel": ("CreateModelPackage", "ModelPackageName", "DescribeModelPackage"),
}
_OTHERS = ("Condition", "Fail", "Lambda")
_NOT_RUN = {
    "QualityCheck": "Model Monitor is closed to new customers since 2026-07-30; use a Processing step",
    "ClarifyCheck": "Clarify is closed to new customers since 2026-07-30; use a Processing step",
    "Callback": "the local cloud does not run it",
    "EMR": "the local cloud does not run it",
    "EMRServerless": "the local cloud does not run it",
    "AutoML": "the local cloud does not run it",
    "ForEach": "the local cloud does not run it",
    "Endpoint": "the local cloud does not run it",
    "EndpointConfig": "the local cloud does not run it",
    "InferenceComponent": "the local cloud does not run it",
    "MonitorBatchTransform": "the local cloud does not run it",
    "NotebookJob": "the local cloud does not run it",
}
EXECUTION_VARIABLES = (
    "StartDateTime",
    "CurrentDateTime",
    "PipelineName",
    "PipelineArn",
    "PipelineExecutionId",
    "PipelineExecutionArn",
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": lambda a, b: a == b,
    "GreaterThan": lambda a, b: a > b,
    "GreaterThanOrEqualTo": lambda a, b: a >= b,
    "LessThan": lambda a, b: a < b,
    "LessThanOrEqualTo": lambda a, b: a <= b,
}
_TYPES: dict[str, tuple[type, ...]] = {
    "String": (str,),
    "Integer": (int,),
    "Float": (float, int),
    "Boolean": (bool,),
}
_PART = re.compile(r"\.?([A-Za-z0-9_]+)|\['([^']*)'\]|\[\"([^\"]*)\"\]|\[(\d+)\]")


class DefinitionError(ValueError):
    """A definition that CreatePipeline refuses; the message holds every finding."""


class EvaluationError(ValueError):
    """A value that cannot be had during the execution; the message becomes the step's failure reason."""


@dataclass
class Step:
    """One step; ``branch`` is the condition step above it and the outcome under which it runs."""

    name: str
    type: str
    body: dict[str, Any]
    branch: tuple[str, bool] | None = None
    needs: set[str] = field(default_factory=set)

    @property
    def arguments(self) -> dict[str, Any]:
        """The step's arguments, as written."""
        return self.body.get("Arguments") or {}


@dataclass
class Definition:
    """A definition that was accepted."""

    parameters: dict[str, dict[str, Any]]
    steps: dict[str, Step]

    def values(self, given: dict[str, str]) -> dict[str, Any]:
        """The parameters of an execution, typed. Raises DefinitionError."""
        unknown = sorted(set(given) - set(self.parameters))
        if unknown:
            raise DefinitionError(
                f"Unknown pipeline parameters: [{', '.join(unknown)}]; the definition has "
                f"[{', '.join(self.parameters)}]"
            )
        out = {}
        for name, parameter in self.parameters.items():
            if name not in given and "DefaultValue" not in parameter:
                raise DefinitionError(f"Parameter {name} has no default value and was not given")
            value = (
                _convert(name, parameter["Type"], given[name]) if name in given else parameter["DefaultValue"]
            )
            allowed = parameter.get("EnumValues")
            if allowed and value not in allowed:
                raise DefinitionError(
                    f"Parameter {name}: {value!r} is not one of {', '.join(map(str, allowed))}"
                )
            out[name] = value
        return out


def _convert(name: str, kind: str, text: str) -> Any:
    try:
        if kind == "Integer":
            return int(text)
        if kind == "Float":
            return float(text)
    except ValueError:
        raise DefinitionError(f"Parameter {name}: {text!r} is not of type {kind}") from None
    if kind == "Boolean":
        if text.lower() not in ("true", "false"):
            raise DefinitionError(f"Parameter {name}: {text!r} is not of type Boolean")
        return text.lower() == "true"
    return text


# -- what is refused ---
def parse(text: str) -> Definition:
    """The definition in a JSON text. Raises DefinitionError naming everything that is wrong with it."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DefinitionError(
            f"Unable to parse pipeline definition. The definition is not valid JSON: {error}"
        ) from error
    if not isinstance(document, dict) or document.get("Version") != "2020-12-01":
        raise DefinitionError("Unable to parse pipeline definition. Version must be '2020-12-01'")
    found: list[str] = []
    parameters = _parameters(document.get("Parameters") or [], found)
    steps: dict[str, Step] = {}
    _collect(document.get("Steps"), None, steps, found)
    if not steps and not found:
        found.append("Steps must hold at least one step")
    for step in steps.values():
        found += (f"step {step.name}: {finding}" for finding in _check_step(step, steps, parameters))
    found += _cycles(steps)
    if found:
        raise DefinitionError("Unable to parse pipeline definition. " + "; ".join(found))
    return Definition(parameters, steps)


def _parameters(items: list[dict[str, Any]], found: list[str]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for item in items:
        name, kind = item.get("Name"), item.get("Type")
        if not name or name in out:
            found.append(f"parameter name {name!r} is missing or used twice")
            continue
        if kind not in _TYPES:
            found.append(f"parameter {name}: Type {kind!r} is not one of {', '.join(_TYPES)}")
            continue
        default = item.get("DefaultValue")
        if "DefaultValue" in item and (
            not isinstance(default, _TYPES[kind]) or kind != "Boolean" and isinstance(default, bool)
        ):
            found.append(f"parameter {name}: DefaultValue {default!r} is not of type {kind}")
        if item.get("EnumValues") and "DefaultValue" in item and default not in item["EnumValues"]:
            found.append(f"parameter {name}: DefaultValue {default!r} is not in EnumValues")
        out[name] = item
    return out


def _collect(items: Any, branch: tuple[str, bool] | None, steps: dict[str, Step], found: list[str]) -> None:
    if not isinstance(items, list):
        found.append("Steps must be a list")
        return
    for item in items:
        name, kind = item.get("Name"), item.get("Type")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            found.append(f"step name {name!r} must match [A-Za-z0-9_-]{{1,64}}")
            continue
        if name in steps:
            found.append(f"step name {name} is used twice")
            continue
        if kind in _NOT_RUN:
            found.append(f"step {name}: type {kind} is not available: {_NOT_RUN[kind]}")
            continue
        if kind not in CALLS and kind not in _OTHERS:
            found.append(f"step {name}: unknown step type {kind!r}")
            continue
        steps[name] = Step(name, kind, item, branch)
        if kind == "Condition":
            for outcome, key in ((True, "IfSteps"), (False, "ElseSteps")):
                _collect((item.get("Arguments") or {}).get(key) or [], (name, outcome), steps, found)


def _check_step(step: Step, steps: dict[str, Step], parameters: dict[str, Any]) -> Iterator[str]:
    body: Any = step.body
    if step.type == "Condition":
        body = {**step.body, "Arguments": {"Conditions": step.arguments.get("Conditions")}}
        yield from _check_conditions(step.arguments.get("Conditions"))
    for name in step.body.get("DependsOn") or []:
        base = name.partition(".")[0].removeprefix("Steps.")
        if base not in steps:
            yield f"DependsOn names the unknown step {name!r}"
        step.needs.add(base)
    for reference, in_json_get in _references(body):
        problem = _check_reference(reference, in_json_get, step, steps, parameters)
        if problem:
            yield problem
    if step.branch:
        step.needs.add(step.branch[0])
    step.needs &= set(steps)
    if step.type in CALLS:
        call, own_name, _ = CALLS[step.type]
        yield from _check_shape(
            model("sagemaker").operation_model(call).input_shape, step.arguments, "Arguments", own_name
        )
    if step.type == "Lambda" and not step.body.get("FunctionArn"):
        yield "FunctionArn is required"
    if step.type == "Fail" and "ErrorMessage" not in step.arguments:
        yield "Arguments.ErrorMessage is required"
    outputs = {
        o.get("OutputName") for o in (step.arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    }
    for file in step.body.get("PropertyFiles") or []:
        if file.get("OutputName") not in outputs:
            name = file.get("PropertyFileName")
            yield f"property file {name} reads the unknown output {file.get('OutputName')!r}"


def _check_conditions(conditions: Any) -> Iterator[str]:
    if not isinstance(conditions, list) or not conditions:
        yield "Arguments.Conditions must hold at least one condition"
        return
    for condition in conditions:
        kind = condition.get("Type")
        wanted = {"In": ("QueryValue", "Values"), "Not": ("Expression",), "Or": ("Conditions",)}.get(kind)
        if kind in _COMPARISONS:
            wanted = ("LeftValue", "RightValue")
        if wanted is None:
            yield f"unknown condition type {kind!r}"
            continue
        missing = [key for key in wanted if key not in condition]
        if missing:
            yield f"condition {kind} lacks {', '.join(missing)}"
        elif kind == "Not":
            yield from _check_conditions([condition["Expression"]])
        elif kind == "Or":
            yield from _check_conditions(condition["Conditions"])


def is_function(value: Any) -> bool:
    """Whether a value is a pipeline function and not itself."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in FUNCTIONS


def _references(value: Any, in_json_get: bool = False) -> Iterator[tuple[str, bool]]:
    if isinstance(value, dict):
        if set(value) == {"Get"}:
            yield str(value["Get"]), in_json_get
        elif set(value) == {"Std:JsonGet"}:
            inside = value["Std:JsonGet"]
            for key, part in inside.items():
                yield from _references(part, key == "PropertyFile")
        else:
            for part in value.values():
                yield from _references(part, in_json_get)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part, in_json_get)


def _check_reference(
    text: str, in_json_get: bool, step: Step, steps: dict[str, Step], parameters: dict[str, Any]
) -> str | None:
    root, _, rest = text.partition(".")
    if root == "Parameters":
        return None if rest in parameters else f"unknown parameter reference '{text}'"
    if root == "Execution":
        return None if rest in EXECUTION_VARIABLES else f"unknown execution variable '{text}'"
    if root != "Steps":
        return f"unknown reference '{text}'"
    match = re.match(r"([A-Za-z0-9_-]+)(.*)", rest)
    name, path = (match[1], match[2]) if match else ("", "")
    if name not in steps:
        return f"reference '{text}' names an unknown step"
    step.needs.add(name)
    target = steps[name]
    if in_json_get:
        known = [f.get("PropertyFileName") for f in target.body.get("PropertyFiles") or []]
        return (
            None
            if path.removeprefix(".PropertyFiles.") in known
            else f"reference '{text}' names an unknown property file of step {name}"
        )
    if target.type == "Lambda":
        known = [o.get("OutputName") for o in target.body.get("OutputParameters") or []]
        wanted = re.fullmatch(r"\.OutputParameters\['([^']*)'\]", path)
        return None if wanted and wanted[1] in known else f"unknown property reference '{text}'"
    if target.type == "Condition":
        return None if path == ".Outcome" else f"unknown property reference '{text}'"
    if target.type not in CALLS:
        return f"step {name} of type {target.type} has no properties (reference '{text}')"
    outputs = [
        o.get("OutputName")
        for o in (target.arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    ]
    return None if _has_path(target.type, path, outputs) else f"unknown property reference '{text}'"


def _has_path(kind: str, path: str, outputs: list[Any]) -> bool:
    shape = model("sagemaker").operation_model(CALLS[kind][2]).output_shape
    if kind == "Tuning" and path.startswith(".TrainingJobSummaries"):
        shape = model("sagemaker").operation_model("ListTrainingJobsForHyperParameterTuningJob").output_shape
    before = ""
    for part in _parts(path):
        if shape is None:
            return False
        if shape.type_name == "structure" and part in shape.members:
            shape = shape.members[part]
        elif (
            shape.type_name == "list"
            and isinstance(part, int)
            or shape.type_name == "list"
            and before in ("Outputs", "ProcessingInputs")
        ):
            if before == "Outputs" and isinstance(part, str) and part not in outputs:
                return False
            shape = shape.member
        elif shape.type_name == "map":
            shape = shape.value
        else:
            return False
        before = str(part)
    return bool(path)


def _parts(path: str) -> Iterator[str | int]:
    """The parts of ``.A.B['name'][0]``. Raises EvaluationError for text that is none."""
    position = 0
    while position < len(path):
        match = _PART.match(path, position)
        if not match:
            raise EvaluationError(f"'{path}' is not a path")
        plain, single, double, number = match.groups()
        if number is not None:
            yield int(number)
        else:
            yield next(p for p in (plain, single, double) if p is not None)
        position = match.end()


def _check_shape(shape: Any, value: Any, path: str, own_name: str = "") -> Iterator[str]:
    """How a step's arguments break the call's model, functions standing for any scalar or list."""
    if is_function(value) or value is None:
        return
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in shape.required_members:
            if name not in value and name != own_name:
                yield f"{path}.{name} is required"
        for name, member in value.items():
            if name not in shape.members:
                yield f"{path} has no member {name}; it has {', '.join(sorted(shape.members))}"
            else:
                yield from _check_shape(shape.members[name], member, f"{path}.{name}")
    elif shape.type_name == "list" and isinstance(value, list):
        for number, item in enumerate(value):
            yield from _check_shape(shape.member, item, f"{path}[{number}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        for key, item in value.items():
            yield from _check_shape(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string" and isinstance(value, int | float):
        return  # a number where a text is wanted is written out
    elif shape.type_name not in ("blob", "timestamp"):
        yield from findings_of(shape, value, path)


def _cycles(steps: dict[str, Step]) -> list[str]:
    left = dict(steps)
    while left:
        free = [n for n, s in left.items() if not s.needs & set(left)]  # nothing left before it
        free += [n for n in left if not any(n in s.needs for s in left.values())]  # nothing left after it
        if not free:
            return [f"steps depend on one another in a circle: {', '.join(left)}"]
        left = {n: s for n, s in left.items() if n not in free}
    return []


# -- what values mean ---
@dataclass
class Scope:
    """Where the functions of a definition find their values during an execution."""

    parameters: dict[str, Any]
    variables: dict[str, Any]
    properties: dict[str, dict[str, Any]]
    steps: dict[str, Step]
    read: Callable[[str], bytes]  # an S3 object by URI

    def value(self, written: Any) -> Any:
        """What a written value is now. Raises EvaluationError."""
        if is_function(written):
            ((function, argument),) = written.items()
            if function == "Get":
                return self._get(argument)
            if function == "Std:Join":
                return str(self.value(argument["On"])).join(plain(self.value(v)) for v in argument["Values"])
            return self._json_get(argument)
        if isinstance(written, dict):
            return {k: self.value(v) for k, v in written.items() if v is not None}
        return [self.value(v) for v in written] if isinstance(written, list) else written

    def holds(self, condition: dict[str, Any]) -> bool:
        """Whether a condition is true. Raises EvaluationError."""
        kind = condition["Type"]
        if kind == "Not":
            return not self.holds(condition["Expression"])
        if kind == "Or":
            return any(self.holds(c) for c in condition["Conditions"])
        if kind == "In":
            return self.value(condition["QueryValue"]) in self.value(condition["Values"])
        left, right = self.value(condition["LeftValue"]), self.value(condition["RightValue"])
        try:
            return _COMPARISONS[kind](left, right)
        except TypeError:
            raise EvaluationError(f"Condition {kind} cannot compare {left!r} with {right!r}") from None

    def _get(self, reference: str) -> Any:
        root, _, rest = reference.partition(".")
        if root == "Parameters":
            return self.parameters[rest]
        if root == "Execution":
            found = self.variables[rest]
            return found() if callable(found) else found
        match = re.match(r"([A-Za-z0-9_-]+)(.*)", rest)
        assert match  # the definition was checked
        if match[1] not in self.properties:
            raise EvaluationError(f"'{reference}': step {match[1]} was not executed")
        return dig(self.properties[match[1]], match[2], reference)

    def _json_get(self, argument: dict[str, Any]) -> Any:
        if "S3Uri" in argument:
            uri = self.value(argument["S3Uri"])
        else:
            _, name, _, file_name = argument["PropertyFile"]["Get"].split(".", 3)
            if name not in self.properties:
                raise EvaluationError(f"property file {file_name}: step {name} was not executed")
            file = next(
                f for f in self.steps[name].body["PropertyFiles"] if f["PropertyFileName"] == file_name
            )
            folder = dig(
                self.properties[name],
                f".ProcessingOutputConfig.Outputs['{file['OutputName']}'].S3Output.S3Uri",
                file_name,
            )
            uri = f"{folder.rstrip('/')}/{file['FilePath']}"
        try:
            document = json.loads(self.read(uri))
        except ValueError as error:
            raise EvaluationError(f"Failed to read property file {uri}: {error}") from error
        return dig(
            document,
            "." + argument["Path"] if not argument["Path"].startswith("[") else argument["Path"],
            f"{argument['Path']} in {uri}",
        )


def dig(value: Any, path: str, what: str) -> Any:
    """The value at a path; a list of named items is entered by name. Raises EvaluationError."""
    for part in _parts(path):
        try:
            if isinstance(value, list) and isinstance(part, str):
                value = next(
                    v for v in value if part in (v.get("OutputName"), v.get("InputName"), v.get("MetricName"))
                )
            else:
                value = value[part]
        except (KeyError, IndexError, TypeError, StopIteration):
            raise EvaluationError(f"{what}: there is no {part!r}") from None
    return value


def plain(value: Any) -> str:
    """A value as text, as Std:Join writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        value
        if isinstance(value, str)
        else json.dumps(value)
        if isinstance(value, dict | list)
        else str(value)
    )
