"""Checks a SageMaker pipeline definition offline, before UpdatePipeline accepts nearly anything (flow E).

SageMaker looks into a step's arguments only when the step starts, half an hour into a run. botocore ships
the same API model, so it is asked now: pipeline functions are replaced by values of the expected type, then
required and unknown members, types, ranges, enumerations and patterns are checked, and every reference is
followed. A pipeline parameter is judged by its default, which is what runs unless somebody says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape
from botocore.validate import ParamValidator

STEP_NAME = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,63}")
# Step type -> operation, the name that SageMaker gives, the operation that properties are read from.
STEPS = {
    "Training": ("CreateTrainingJob", "TrainingJobName", "DescribeTrainingJob"),
    "Processing": ("CreateProcessingJob", "ProcessingJobName", "DescribeProcessingJob"),
    "Transform": ("CreateTransformJob", "TransformJobName", "DescribeTransformJob"),
    "Tuning": (
        "CreateHyperParameterTuningJob",
        "HyperParameterTuningJobName",
        "DescribeHyperParameterTuningJob",
    ),
    "Model": ("CreateModel", "ModelName", "DescribeModel"),
    "RegisterModel": ("CreateModelPackage", "", "DescribeModelPackage"),
}
OTHERS = {
    "Condition",
    "Fail",
    "Lambda",
    "Callback",
    "EMR",
    "QualityCheck",
    "ClarifyCheck",
    "AutoML",
    "NotebookJob",
    "ForEach",
    "EndpointConfig",
    "Endpoint",
    "InferenceComponent",
}
PARAMETER_TYPES = {"String": str, "Integer": int, "Float": (int, float), "Boolean": bool}
EXECUTION = {
    "CurrentDateTime",
    "PipelineArn",
    "PipelineExecutionArn",
    "PipelineExecutionId",
    "PipelineName",
    "StartDateTime",
    "TrainingJobName",
    "ProcessingJobName",
}
FUNCTIONS = {"Get", "Std:Join", "Std:JsonGet"}


def is_function(value: Any) -> bool:
    """Whether a value is computed when the pipeline runs."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in FUNCTIONS


@dataclass
class Linter:
    """One pass over one definition."""

    definition: dict[str, Any]
    model: ServiceModel
    problems: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)  # name -> default
    needs: dict[str, set[str]] = field(default_factory=dict)

    def run(self) -> list[str]:
        """Every problem as a sentence that names the step."""
        self.check_parameters()
        for step in walk(self.definition.get("Steps") or []):
            name = str(step.get("Name"))
            if name in self.steps:
                self.problems.append(f"step {name}: there are two steps of this name")
            if not STEP_NAME.fullmatch(name):
                self.problems.append(f"step {name}: a name has letters, digits and inner hyphens, at most 64")
            self.steps[name] = step
        if not self.steps:
            self.problems.append("the pipeline has no steps")
        for name, step in self.steps.items():
            self.check_step(name, step)
        self.check_cycles()
        return self.problems

    def check_parameters(self) -> None:
        """Names are unique, types known, defaults of their type."""
        for parameter in self.definition.get("Parameters") or []:
            name, kind = parameter.get("Name"), parameter.get("Type")
            if name in self.parameters:
                self.problems.append(f"parameter {name}: there are two parameters of this name")
            self.parameters[name] = parameter.get("DefaultValue")
            if kind not in PARAMETER_TYPES:
                self.problems.append(f"parameter {name}: type {kind}; allowed: {', '.join(PARAMETER_TYPES)}")
            elif "DefaultValue" in parameter and not isinstance(
                parameter["DefaultValue"], PARAMETER_TYPES[kind]
            ):
                default = parameter["DefaultValue"]
                self.problems.append(f"parameter {name}: the default {default!r} is no {kind}")

    def check_step(self, name: str, step: dict[str, Any]) -> None:
        """Type, arguments, references and dependencies of one step."""
        kind, arguments = step.get("Type"), step.get("Arguments") or {}
        self.needs[name] = set()
        if kind not in STEPS and kind not in OTHERS:
            allowed = ", ".join(sorted(OTHERS | set(STEPS)))
            self.problems.append(f"step {name}: type {kind} is unknown; allowed: {allowed}")
        inner = {"IfSteps", "ElseSteps"} if kind == "Condition" else set()
        for reference in functions({key: value for key, value in arguments.items() if key not in inner}):
            self.check_reference(name, reference)
        for other in step.get("DependsOn") or []:
            if other not in self.steps:
                self.problems.append(f"step {name}: DependsOn names {other}; there is no such step")
            self.needs[name].add(other)
        if kind == "Condition":
            # What a branch does waits for the condition; the condition waits for what it compares.
            for branch in ("IfSteps", "ElseSteps"):
                for child in arguments.get(branch) or []:
                    self.needs.setdefault(str(child.get("Name")), set()).add(name)
        elif kind in STEPS:
            self.check_arguments(name, *STEPS[kind][:2], arguments)
        if kind == "Processing":
            self.check_names(name, arguments)

    def check_names(self, name: str, arguments: dict[str, Any]) -> None:
        """The inputs and outputs of a processing job have names of their own, all together."""
        inputs = arguments.get("ProcessingInputs") or []
        outputs = (arguments.get("ProcessingOutputConfig") or {}).get("Outputs") or []
        names = [one.get("InputName") for one in inputs] + [one.get("OutputName") for one in outputs]
        for twice in sorted({str(one) for one in names if names.count(one) > 1}):
            self.problems.append(
                f"step {name}: more than one input or output is named {twice}; allowed: one of each name"
            )

    def check_arguments(self, name: str, operation: str, job_name: str, arguments: dict[str, Any]) -> None:
        """The arguments of a job step against the API model."""
        shape = self.model.operation_model(operation).input_shape
        content = {key: value for key, value in arguments.items() if value is not None}
        if job_name:
            content.setdefault(job_name, "name")
        where = f"step {name} ({operation})"
        filled = self.fill(shape, content, where, "")
        report = ParamValidator().validate(filled, shape).generate_report()
        self.problems += [f"{where}: {line}" for line in report.splitlines() if line]

    def fill(self, shape: Shape | None, value: Any, where: str, path: str) -> Any:
        """The value with functions replaced by samples; checks sizes, enums and patterns too."""
        if shape is None or value is None:
            return value
        if is_function(value):
            self.fill(shape, self.default(value), where, path)
            return sample(shape)
        self.check_size(shape, value, where, path)
        if isinstance(shape, StructureShape) and isinstance(value, dict):
            return {
                key: self.fill(shape.members.get(key), one, where, f"{path}.{key}")
                for key, one in value.items()
                if one is not None
            }
        if isinstance(shape, ListShape) and isinstance(value, list):
            return [self.fill(shape.member, one, where, f"{path}[{i}]") for i, one in enumerate(value)]
        if isinstance(shape, MapShape) and isinstance(value, dict):
            return {key: self.fill(shape.value, one, where, f"{path}.{key}") for key, one in value.items()}
        if shape.type_name == "string" and isinstance(value, str):
            allowed, pattern = getattr(shape, "enum", []), shape.metadata.get("pattern")
            if allowed and value not in allowed:
                near = ", ".join(allowed[:12]) + (", …" if len(allowed) > 12 else "")
                self.problems.append(f"{where}: {path[1:]} is {value!r}; allowed: {near}")
            elif pattern and not matches(pattern, value):
                self.problems.append(f"{where}: {path[1:]} is {value!r}; it must match {pattern}")
        return value

    def default(self, function: dict[str, Any]) -> Any:
        """What a pipeline parameter is unless a run says otherwise; None for other functions."""
        scope, _, name = str(function.get("Get", "")).partition(".")
        return self.parameters.get(name) if scope == "Parameters" else None

    def check_size(self, shape: Shape, value: Any, where: str, path: str) -> None:
        """Upper limits; botocore itself looks at the lower ones alone."""
        most = shape.metadata.get("max")
        if most is None or isinstance(value, bool):
            return
        number = isinstance(value, (int, float))
        size = value if number else len(value) if isinstance(value, (str, list, dict)) else 0
        if size > most:
            has = "" if number else "of length "
            self.problems.append(f"{where}: {path[1:]} is {has}{size}; allowed: at most {most}")

    def check_reference(self, name: str, function: dict[str, Any]) -> None:
        """A Get or Std:JsonGet names something that exists."""
        if "Std:JsonGet" in function:
            target = (function["Std:JsonGet"].get("PropertyFile") or {}).get("Get", "")
            match = re.fullmatch(r"Steps\.([^.]+)\.PropertyFiles\.(.+)", target)
            if not match:
                self.problems.append(
                    f"step {name}: JsonGet reads {target!r}, which is no property file of a step"
                )
                return
            step = self.need(name, match[1])
            files = [one.get("PropertyFileName") for one in (step or {}).get("PropertyFiles") or []]
            if step is not None and match[2] not in files:
                self.problems.append(f"step {name}: step {match[1]} has no property file {match[2]}")
            return
        target = function.get("Get", "")
        scope, _, rest = str(target).partition(".")
        if scope == "Parameters":
            if rest not in self.parameters:
                self.problems.append(f"step {name}: parameter {rest} is used but not declared")
        elif scope == "Execution":
            if rest not in EXECUTION:
                self.problems.append(
                    f"step {name}: Execution.{rest}; allowed: {', '.join(sorted(EXECUTION))}"
                )
        elif scope == "Steps":
            other, _, path = rest.partition(".")
            step = self.need(name, other)
            if step is not None and not path.startswith(("PropertyFiles", "OutputParameters", "Outcome")):
                self.check_property(name, other, step, path)
        elif scope not in ("Loop",):
            self.problems.append(
                f"step {name}: {target!r} reads neither a parameter, the execution nor a step"
            )

    def need(self, name: str, other: str) -> dict[str, Any] | None:
        """Note that a step waits for another one."""
        if other not in self.steps:
            self.problems.append(f"step {name}: reads step {other}; there is no such step")
            return None
        self.needs.setdefault(name, set()).add(other)
        return self.steps[other]

    def check_property(self, name: str, other: str, step: dict[str, Any], path: str) -> None:
        """A property path exists in what Describe… answers."""
        if step.get("Type") not in STEPS:
            return
        shape: Shape | None = self.model.operation_model(STEPS[step["Type"]][2]).output_shape
        outputs = (step.get("Arguments") or {}).get("ProcessingOutputConfig", {}).get("Outputs") or []
        for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
            if part.startswith("["):
                key = part[1:-1].strip("'\"")
                if isinstance(shape, ListShape):
                    names = [one.get("OutputName") for one in outputs]
                    if not key.isdigit() and key not in names and step["Type"] == "Processing":
                        found = ", ".join(map(str, names))
                        self.problems.append(f"step {name}: step {other} has no output {key}; it has {found}")
                    shape = shape.member
                elif isinstance(shape, MapShape):
                    shape = shape.value
                continue
            if not isinstance(shape, StructureShape) or part not in shape.members:
                self.problems.append(f"step {name}: step {other} has no property {path} (no {part})")
                return
            shape = shape.members[part]

    def check_cycles(self) -> None:
        """No step waits for itself."""
        done: set[str] = set()
        for start in self.needs:
            trail: list[str] = []
            cycle = self.cycle_from(start, trail, done)
            if cycle:
                self.problems.append(f"steps wait for each other: {' -> '.join(cycle)}")
                return

    def cycle_from(self, name: str, trail: list[str], done: set[str]) -> list[str] | None:
        """The cycle that is reached from a step, or None."""
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        trail.append(name)
        for other in sorted(self.needs.get(name, ())):
            cycle = self.cycle_from(other, trail, done)
            if cycle:
                return cycle
        trail.pop()
        done.add(name)
        return None


def walk(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All steps, those in branches too."""
    for step in steps:
        yield step
        if step.get("Type") == "Condition":
            for branch in ("IfSteps", "ElseSteps"):
                yield from walk((step.get("Arguments") or {}).get(branch) or [])


def functions(value: Any) -> Iterator[dict[str, Any]]:
    """Every Get and Std:JsonGet in a value; what a Std:Join holds too."""
    if is_function(value):
        if "Std:Join" in value:
            yield from functions(value["Std:Join"].get("Values"))
        else:
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from functions(one)
    elif isinstance(value, list):
        for one in value:
            yield from functions(one)


def sample(shape: Shape) -> Any:
    """A value that a validator accepts in the place of a function."""
    low = shape.metadata.get("min", 1)
    if isinstance(shape, StructureShape):
        return {name: sample(shape.members[name]) for name in shape.required_members}
    if isinstance(shape, ListShape):
        return [sample(shape.member) for _ in range(low if isinstance(low, int) else 0)]
    if isinstance(shape, MapShape):
        return {}
    values = {"integer": low, "long": low, "float": 1.0, "double": 1.0, "boolean": True}
    if shape.type_name == "timestamp":
        return datetime(2026, 1, 1, tzinfo=UTC)
    return values.get(shape.type_name, "x" * max(1, int(low)))


def matches(pattern: str, value: str) -> bool:
    """Whether a value matches an API pattern; one that Python cannot read accepts everything."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\w"), (r"\p{Z}", r"\s")):
        pattern = pattern.replace(java, python)
    pattern = re.sub(r"\$\{\d+,\d+\}$", "$", pattern)  # an end that is repeated: of customer metadata
    try:
        return re.fullmatch(pattern, value) is not None
    except re.error:
        return True


def lint(definition: dict[str, Any], model: ServiceModel) -> list[str]:
    """Problems of a definition; model is the sagemaker client's `meta.service_model`."""
    return Linter(definition, model).run()
