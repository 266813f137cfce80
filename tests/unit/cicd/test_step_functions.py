"""A pipeline as a state machine: every value arrives, and what cannot be driven this way is named."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from mlops_cicd import step_functions
from mlops_cicd.console import Fault
from mlops_cicd.settings import load_project

from .conftest import KEY, NAME, PROJECT_ID, REGION, ROLE

TRAINING = f"arn:aws:states:{REGION}:123456789012:stateMachine:{NAME}-training"
REPORT = {"PropertyFileName": "Report", "OutputName": "out", "FilePath": "e.json"}
SCORE = {
    "Std:JsonGet": {
        "PropertyFile": {"Get": "Steps.Evaluate.PropertyFiles.Report"},
        "Path": "m.auc['v'].value",
    }
}


def step(name: str, kind: str = "Processing", **arguments: Any) -> dict[str, Any]:
    return {"Name": name, "Type": kind, "Arguments": arguments}


def branching(*steps: dict[str, Any]) -> dict[str, Any]:
    return step("C", "Condition", Conditions=[], IfSteps=list(steps), ElseSteps=[])


def pipeline(*steps: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    declared = [{"Name": n, "Type": "String", "DefaultValue": v} for n, v in parameters.items()]
    return {"Version": "2020-12-01", "Parameters": declared, "Steps": list(steps)}


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ({"Get": "Parameters.A"}, "$parameters.`A`"),
        ({"Get": "Execution.PipelineExecutionId"}, "$run"),
        (
            {"Get": "Steps.Train-1.ModelArtifacts.S3ModelArtifacts"},
            "$steps.`Train-1`.`ModelArtifacts`.`S3ModelArtifacts`",
        ),
        (
            {"Get": "Steps.P.ProcessingOutputConfig.Outputs['a-b'].S3Output.S3Uri"},
            '$steps.`P`.`ProcessingOutputConfig`.`Outputs`[OutputName="a-b"].`S3Output`.`S3Uri`',
        ),
        ({"Get": "Steps.P.ProcessingInputs[0].InputName"}, "$steps.`P`.`ProcessingInputs`[0].`InputName`"),
        (SCORE, "$files.`Evaluate`.`Report`.`m`.`auc`.`v`.`value`"),
        (
            {"Std:Join": {"On": "/", "Values": ["s3://b", {"Get": "Parameters.A"}, 3]}},
            '$join([$string("s3://b"), $string($parameters.`A`), $string(3)], "/")',
        ),
        ('a "quoted" text', '"a \\"quoted\\" text"'),
    ],
)
def test_a_value_becomes_an_expression(value: Any, expression: str) -> None:
    assert step_functions.code(value) == expression


def test_only_functions_become_expressions() -> None:
    value = {"a": [1, True, "text", {"b": {"Get": "Parameters.P"}}], "c": "{% not an expression %}"}
    assert step_functions.template(value) == {
        "a": [1, True, "text", {"b": "{% $parameters.`P` %}"}],
        "c": '{% "{% not an expression %}" %}',
    }


@pytest.mark.parametrize(
    ("condition", "expression"),
    [
        (
            {"Type": "GreaterThanOrEqualTo", "LeftValue": 1, "RightValue": {"Get": "Parameters.T"}},
            "(1 >= $parameters.`T`)",
        ),
        ({"Type": "Not", "Expression": {"Type": "Equals", "LeftValue": 1, "RightValue": 2}}, "$not((1 = 2))"),
        (
            {"Type": "In", "QueryValue": {"Get": "Parameters.T"}, "Values": ["a", "b"]},
            '($parameters.`T` in ["a", "b"])',
        ),
        (
            {
                "Type": "Or",
                "Conditions": [
                    {"Type": "LessThan", "LeftValue": 1, "RightValue": 2},
                    {"Type": "Equals", "LeftValue": 1, "RightValue": 2},
                ],
            },
            "((1 < 2) or (1 = 2))",
        ),
    ],
)
def test_a_condition_becomes_an_expression(condition: dict[str, Any], expression: str) -> None:
    assert step_functions._condition(condition) == expression


def test_steps_run_after_what_they_need() -> None:
    later = step("Later", RoleArn={"Get": "Steps.First.RoleArn"})
    waits = {**step("Waits"), "DependsOn": ["Later"]}
    made = step_functions.translate(pipeline(waits, later, step("First")), "mlops-p-1")["States"]
    assert made["Begin"]["Next"] == "First"
    ends = {name: made[f"{name}: ended"]["Choices"][0]["Next"] for name in ("First", "Later", "Waits")}
    assert ends == {"First": "Later", "Later": "Waits", "Waits": "Done"}


def test_a_condition_leads_into_its_branches() -> None:
    check = step("Check", "Condition", Conditions=[{"Type": "Equals", "LeftValue": SCORE, "RightValue": 1}],
                 IfSteps=[step("Register", "RegisterModel", ModelPackageGroupName="g")],
                 ElseSteps=[step("Low", "Fail", ErrorMessage="too low")])  # fmt: skip
    evaluate = {**step("Evaluate"), "PropertyFiles": [REPORT]}
    made = step_functions.translate(pipeline(check, evaluate), "mlops-p-1")["States"]
    assert made["Evaluate: ended"]["Choices"][0]["Next"] == "Evaluate: read Report"
    assert made["Evaluate: read Report"]["Next"] == "Check"
    assert (made["Check"]["Choices"][0]["Next"], made["Check"]["Default"]) == ("Register", "Low")
    assert made["Register"]["Next"] == "Done" and made["Low"]["Cause"] == "too low"


def test_the_names_of_jobs_fit_and_tell_the_project_and_the_execution() -> None:
    stem, name = "mlops-p-abcdefghijklmnopqr", "A-very-long-name-of-a-step-that-goes-on-and-on"
    made = step_functions.translate(pipeline(step(name)), stem)["States"]
    job = made[name]["Arguments"]["ProcessingJobName"]
    assert job == "{% 'mlops-p-abcdefghijklmnopqr-' & $run & '-A-very-long-name-of-a-s' %}"
    assert len("mlops-p-abcdefghijklmnopqr-") + 12 + len("-A-very-long-name-of-a-s") <= 63
    assert made[f"{name}: look"]["Arguments"] == {"ProcessingJobName": job}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step("Tune", "Tuning")], "step Tune: a step of type Tuning runs in SageMaker Pipelines only"),
        ([step("A", X={"Get": "Execution.TrainingJobName"})], "TrainingJobName is known to SageMaker"),
        ([step("S" * 73)], "its name is too long for a state"),
        (
            [step("Prepare-the-data-of-all-customers-1"), step("Prepare-the-data-of-all-customers-2")],
            "its jobs would be named like those of Prepare-the-data-of-all-customers-1",
        ),
        (
            [branching(step("In")), {**step("After"), "DependsOn": ["In"]}],
            "step After: it waits for In, which is a condition or behind one",
        ),
        (
            [branching(), {**step("After"), "DependsOn": ["C"]}],
            "step After: it waits for C, which is a condition or behind one",
        ),
        (
            [{**step("A"), "DependsOn": ["B"]}, {**step("B"), "DependsOn": ["A"]}],
            "steps A, B wait for each other",
        ),
    ],
    ids=["type", "variable", "long", "alike", "behind a condition", "after a condition", "circle"],
)  # fmt: skip
def test_what_cannot_be_driven_is_named(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(Fault, match=message):
        step_functions.translate(pipeline(*steps), "mlops-p-abcdefghijklmnopqr")


def test_the_machine_is_made_with_role_key_and_tags_then_updated(aws: None) -> None:
    project = load_project(boto3.client("ssm"), PROJECT_ID, REGION)
    states = boto3.client("stepfunctions", region_name=REGION)
    machine = {"Resource": "arn:${Partition}:states:::x"}
    text = json.dumps({"Resource": "arn:aws:states:::x"})
    change = {"stateMachineArn": TRAINING, "definition": text, "roleArn": ROLE}
    with Stubber(states) as stubber:
        stubber.add_client_error("update_state_machine", "StateMachineDoesNotExist", expected_params=change)
        stubber.add_response(
            "create_state_machine",
            {"stateMachineArn": TRAINING, "creationDate": 0},
            {
                "name": f"{NAME}-training",
                "definition": text,
                "roleArn": ROLE,
                "encryptionConfiguration": {
                    "type": "CUSTOMER_MANAGED_KMS_KEY",
                    "kmsKeyId": KEY,
                    "kmsDataKeyReusePeriodSeconds": 900,
                },
                "tags": [{"key": t["Key"], "value": t["Value"]} for t in project.tags],
            },
        )
        stubber.add_response("update_state_machine", {"updateDate": 0}, change)
        assert step_functions.upsert(states, project, machine) == TRAINING
        assert step_functions.upsert(states, project, machine) == TRAINING
        stubber.assert_no_pending_responses()


def test_an_execution_is_told_step_by_step() -> None:
    def event(kind: str, name: str, **output: str) -> dict[str, Any]:
        details = {"name": name, "output": json.dumps(output)} if kind.endswith("Exited") else {"name": name}
        return {
            "type": kind,
            f"state{'Exited' if output or kind.endswith('Exited') else 'Entered'}EventDetails": details,
        }

    names = {"Train": "Training", "Check": "Condition", "Register": "RegisterModel", "Low": "Fail"}
    train = [event("TaskStateEntered", "Train"), event("TaskStateExited", "Train", TrainingJobArn="arn:t")]
    running = {"status": "RUNNING"}
    (one,) = step_functions.steps_of(train, names, running)
    assert (one["StepStatus"], one["Metadata"]) == ("Executing", {"TrainingJob": {"Arn": "arn:t"}})
    done = [*train, event("ChoiceStateEntered", "Check"), event("TaskStateEntered", "Register")]
    done += [event("TaskStateExited", "Register", ModelPackageArn="arn:g/3")]
    steps = step_functions.steps_of(done, names, {"status": "SUCCEEDED"})
    assert [s["StepStatus"] for s in steps] == ["Succeeded"] * 3
    assert steps[-1]["Metadata"]["RegisterModel"]["Arn"] == "arn:g/3"
    low = [*train, event("ChoiceStateEntered", "Check"), event("FailStateEntered", "Low")]
    *_, last = step_functions.steps_of(low, names, {"status": "FAILED", "cause": "auc is 0.6"})
    assert (last["StepStatus"], last["Metadata"]) == ("Failed", {"Fail": {"ErrorMessage": "auc is 0.6"}})
    broken = [*train, event("FailStateEntered", "Train: failed")]
    (one,) = step_functions.steps_of(broken, names, {"status": "FAILED", "cause": "no capacity"})
    assert (one["StepStatus"], one["FailureReason"]) == ("Failed", "no capacity")
