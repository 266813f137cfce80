"""What CodePipeline refuses of a pipeline's declaration when it is created or updated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from localaws.errors import AwsError

VARIABLE = re.compile(r"#\{([A-Za-z0-9@_-]+)\.([A-Za-z0-9@_.-]+)\}")
BUILT_IN = ("codepipeline", "variables")


@dataclass(frozen=True)
class Provider:
    """What an action of a provider takes."""

    category: tuple[str, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    inputs: tuple[int, int] = (0, 0)
    outputs: tuple[int, int] = (0, 0)


#: the providers whose actions the local cloud carries out
PROVIDERS = {
    "CodeCommit": Provider(
        ("Source",),
        ("RepositoryName", "BranchName"),
        ("PollForSourceChanges", "OutputArtifactFormat"),
        (0, 0),
        (1, 1),
    ),
    "S3": Provider(
        ("Source",),
        ("S3Bucket", "S3ObjectKey"),
        ("PollForSourceChanges", "AllowOverrideForS3ObjectKey"),
        (0, 0),
        (1, 1),
    ),
    "CodeBuild": Provider(
        ("Build", "Test"),
        ("ProjectName",),
        ("PrimarySource", "EnvironmentVariables", "BatchEnabled", "CombineArtifacts", "BuildspecOverride"),
        (1, 5),
        (0, 5),
    ),
    "CloudFormation": Provider(
        ("Deploy",),
        ("ActionMode", "StackName"),
        (
            "ChangeSetName",
            "Capabilities",
            "OutputFileName",
            "ParameterOverrides",
            "RoleArn",
            "TemplateConfiguration",
            "TemplatePath",
        ),
        (0, 10),
        (0, 1),
    ),
    "Manual": Provider(("Approval",), (), ("NotificationArn", "CustomData", "ExternalEntityLink")),
    "Lambda": Provider(("Invoke",), ("FunctionName",), ("UserParameters",), (0, 5), (0, 5)),
}
_MODES = ("CREATE_UPDATE", "DELETE_ONLY", "REPLACE_ON_FAILURE", "CHANGE_SET_REPLACE", "CHANGE_SET_EXECUTE")
_OPERATORS = ("EQ", "NE", "MATCHES", "CONTAINS")


def refuse(declaration: dict[str, Any]) -> None:
    """Raise AwsError, worded as AWS's, for the first thing that is wrong with a declaration."""
    if bool(declaration.get("artifactStore")) == bool(declaration.get("artifactStores")):
        raise _structure("Exactly one of artifactStore or artifactStores must be specified in the pipeline")
    newer = declaration.get("pipelineType", "V1") == "V2"
    if declaration.get("executionMode", "SUPERSEDED") != "SUPERSEDED" and not newer:
        raise _structure(
            f"Execution mode {declaration['executionMode']} is only supported for V2 pipeline types"
        )
    if declaration.get("variables") and not newer:
        raise _structure("Pipeline variables are only supported for V2 pipeline types")
    if declaration.get("triggers"):
        raise _structure(
            "Triggers are for connections only (ProviderType CodeStarSourceConnection), which the local "
            "cloud does not have; "
            "CodeCommit and S3 sources are triggered by EventBridge rules"
        )
    stages = declaration["stages"]
    if len(stages) < 2:
        raise _structure("Pipeline has only 1 stage(s). There should be a minimum of 2 stages in a pipeline")
    _unique((s["name"] for s in stages), "Stage names must be unique within a pipeline: {}")
    _unique(
        (v["name"] for v in declaration.get("variables", [])),
        "Variable names must be unique within a pipeline: {}",
    )
    for number, stage in enumerate(stages):
        _stage(number, stage, newer)
    _artifacts(stages)
    _namespaces(declaration)


def _stage(number: int, stage: dict[str, Any], newer: bool) -> None:
    actions = stage["actions"]
    if not actions:
        raise _structure(f"Stage {stage['name']} has no actions")
    _unique(
        (a["name"] for a in actions), f"Action names must be unique within a stage: {{}} in {stage['name']}"
    )
    kinds = {a["actionTypeId"]["category"] for a in actions}
    if number == 0 and kinds != {"Source"}:
        raise _structure("Pipeline should start with a stage that only contains source actions")
    if number and "Source" in kinds:
        raise _structure(f"Only the first stage may contain source actions; {stage['name']} has one")
    conditions = [
        (kind, c)
        for kind in ("beforeEntry", "onSuccess", "onFailure")
        for c in (stage.get(kind) or {}).get("conditions", [])
    ]
    if (conditions or stage.get("onFailure")) and not newer:
        raise _structure("Stage conditions are only supported for V2 pipeline types")
    if number == 0 and (
        stage.get("beforeEntry") or (stage.get("onFailure") or {}).get("result") == "ROLLBACK"
    ):
        raise _structure(
            f"Entry conditions and rollback are not supported for the source stage {stage['name']}"
        )
    for kind, condition in conditions:
        _condition(stage["name"], kind, condition)
    for action in actions:
        _action(stage["name"], action)


def _condition(stage: str, kind: str, condition: dict[str, Any]) -> None:
    if kind == "onFailure":
        raise _structure(
            f"{stage}: onFailure conditions are not carried out by the local cloud; onFailure.result RETRY "
            "and ROLLBACK are"
        )
    allowed = ("FAIL", "SKIP") if kind == "beforeEntry" else ("FAIL", "ROLLBACK")
    if condition.get("result") not in allowed:
        raise _structure(
            f"{stage}: the result of a {kind} condition is {condition.get('result')!r}; it must be one of "
            f"{', '.join(allowed)}"
        )
    _unique(
        (r["name"] for r in condition.get("rules", [])),
        f"Rule names must be unique within a condition: {{}} in {stage}",
    )
    for rule in condition.get("rules", []):
        provider, given = rule["ruleTypeId"]["provider"], rule.get("configuration") or {}
        if provider != "VariableCheck":
            raise _structure(
                f"{stage}: rule provider {provider} is not carried out by the local cloud; VariableCheck is"
            )
        missing = [k for k in ("Variable", "Value", "Operator") if not given.get(k)]
        if missing:
            raise _structure(
                f"Rule configuration for rule '{rule['name']}' is missing required configuration "
                f"'{missing[0]}'"
            )
        if given["Operator"] not in _OPERATORS:
            raise _structure(
                f"Rule '{rule['name']}': Operator is {given['Operator']!r}; it must be one of "
                f"{', '.join(_OPERATORS)}"
            )


def _action(stage: str, action: dict[str, Any]) -> None:
    kind, name, given = action["actionTypeId"], action["name"], action.get("configuration") or {}
    provider = PROVIDERS.get(kind["provider"])
    if provider is None or kind["category"] not in provider.category or kind["owner"] != "AWS":
        raise _action_error(
            f"ActionType (Category: '{kind['category']}', Provider: '{kind['provider']}', Owner: "
            f"'{kind['owner']}', Version: "
            f"'{kind['version']}') in action '{name}' is not available in the local cloud; there are "
            f"{', '.join(PROVIDERS)}"
        )
    for key in provider.required:
        if not given.get(key):
            raise _action_error(
                f"Action configuration for action '{name}' is missing required configuration '{key}'"
            )
    for key in given:
        if key not in provider.required + provider.optional:
            raise _action_error(
                f"Action configuration for action '{name}' contains unknown configuration '{key}'"
            )
    for what, limits in (("inputArtifacts", provider.inputs), ("outputArtifacts", provider.outputs)):
        count, words = (
            len(action.get(what, [])),
            {"inputArtifacts": "input artifact", "outputArtifacts": "output artifact"}[what],
        )
        if not limits[0] <= count <= limits[1]:
            raise _action_error(
                f"Action type '{kind['provider']}' in action '{name}' takes {limits[0]} to {limits[1]} "
                f"{words}s, found {count}"
            )
    timeout = action.get("timeoutInMinutes")
    if timeout and kind["category"] != "Approval":
        raise _action_error(
            f"TimeoutInMinutes of action '{name}' is only supported for manual approval actions"
        )
    if kind["provider"] == "CodeBuild" and len(action.get("inputArtifacts", [])) > 1:
        inputs = [a["name"] for a in action["inputArtifacts"]]
        if given.get("PrimarySource") not in inputs:
            raise _action_error(
                f"Action configuration for action '{name}' needs PrimarySource, one of {', '.join(inputs)}: "
                "it has more than one input"
            )
    if kind["provider"] == "CodeCommit" and given.get("OutputArtifactFormat", "CODE_ZIP") != "CODE_ZIP":
        raise _action_error(
            f"OutputArtifactFormat of action '{name}' is {given['OutputArtifactFormat']}; the local cloud "
            "has CODE_ZIP"
        )
    if kind["provider"] == "CloudFormation":
        _cloudformation(name, given)


def _cloudformation(name: str, given: dict[str, str]) -> None:
    mode = given["ActionMode"]
    if mode not in _MODES:
        raise _action_error(
            f"ActionMode of action '{name}' is {mode!r}; it must be one of {', '.join(_MODES)}"
        )
    needed = []
    if mode.startswith("CHANGE_SET"):
        needed.append("ChangeSetName")
    if mode != "CHANGE_SET_EXECUTE":
        needed.append("RoleArn")
    if mode in ("CREATE_UPDATE", "REPLACE_ON_FAILURE", "CHANGE_SET_REPLACE"):
        needed.append("TemplatePath")
    for key in needed:
        if not given.get(key):
            raise _action_error(
                f"Action configuration for action '{name}' is missing required configuration '{key}' "
                f"(ActionMode {mode})"
            )
    if len(given.get("ParameterOverrides", "")) > 1024:
        raise _action_error(f"ParameterOverrides of action '{name}' is longer than 1 KB")


def _artifacts(stages: list[dict[str, Any]]) -> None:
    made: dict[str, tuple[int, int]] = {}
    for number, stage in enumerate(stages):
        for action in stage["actions"]:
            for artifact in action.get("outputArtifacts", []):
                if artifact["name"] in made:
                    raise _structure(
                        f"Output Artifact Bundle name must be unique within a pipeline: {artifact['name']} "
                        f"(action {action['name']})"
                    )
                made[artifact["name"]] = number, action.get("runOrder", 1)
    for number, stage in enumerate(stages):
        for action in stage["actions"]:
            for artifact in action.get("inputArtifacts", []):
                if artifact["name"] not in made or made[artifact["name"]] >= (
                    number,
                    action.get("runOrder", 1),
                ):
                    raise _structure(
                        f"Input Artifact Bundle {artifact['name']} in action {action['name']} is not "
                        "declared as Output Artifact Bundle "
                        "in any of the preceding actions"
                    )


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(namespace, key) of each variable reference in a configuration."""
    if isinstance(value, str):
        yield from VARIABLE.findall(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)


def _namespaces(declaration: dict[str, Any]) -> None:
    made: dict[str, tuple[int, int]] = {}
    for number, stage in enumerate(declaration["stages"]):
        for action in stage["actions"]:
            name = action.get("namespace")
            if name:
                if name in made or name in BUILT_IN:
                    raise _action_error(
                        f"Namespace {name} of action '{action['name']}' is taken: namespaces must be unique "
                        "within a pipeline"
                    )
                made[name] = number, action.get("runOrder", 1)
    variables = {v["name"] for v in declaration.get("variables", [])}

    def check(where: tuple[int, int], stage: str, label: str, configuration: dict[str, str]) -> None:
        for key, text in configuration.items():
            for space, name in references(text):
                known = (
                    name in variables
                    if space == "variables"
                    else name == "PipelineExecutionId"
                    if space == "codepipeline"
                    else (space in made and made[space] < where)
                )
                if not known:
                    raise _action_error(
                        "Valid format for a pipeline execution variable reference is a namespace and a key "
                        "separated by a period (.). The following "
                        "pipeline execution variables are referencing a namespace that does not exist. "
                        f"StageName=[{stage}], {label}, ActionConfigurationKey=[{key}], "
                        f"VariableReferenceText=[{space}.{name}]"
                    )

    for number, stage in enumerate(declaration["stages"]):
        for action in stage["actions"]:
            check(
                (number, action.get("runOrder", 1)),
                stage["name"],
                f"ActionName=[{action['name']}]",
                action.get("configuration") or {},
            )
        for kind, order in (("beforeEntry", 0), ("onSuccess", 1000)):
            for condition in (stage.get(kind) or {}).get("conditions", []):
                for rule in condition.get("rules", []):
                    check(
                        (number, order),
                        stage["name"],
                        f"RuleName=[{rule['name']}]",
                        rule.get("configuration") or {},
                    )


def _unique(names: Iterator[str], message: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise _structure(message.format(name))
        seen.add(name)


def _structure(message: str) -> AwsError:
    return AwsError("InvalidStructureException", message)


def _action_error(message: str) -> AwsError:
    return AwsError("InvalidActionDeclarationException", message)
