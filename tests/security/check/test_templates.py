"""What a launch makes of a template: functions, parameters and conditions become values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from check.templates import (
    PSEUDO,
    SETS,
    Resolver,
    Template,
    described_launches,
    load,
    parameter_sets,
    resolve,
    resolved,
)

TEMPLATES = load()
PARAMETERS = {"Name": "churn", "Zones": ["a", "b"], "Empty": "", "Count": 2}
DATA: dict[str, Any] = {
    "Conditions": {
        "HasName": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Name"}, ""]}]},
        "IsEmpty": {"Fn::Equals": [{"Ref": "Empty"}, ""]},
        "IsBoth": {"Fn::And": [{"Condition": "HasName"}, {"Condition": "IsEmpty"}]},
        "IsTwo": {"Fn::Equals": [{"Ref": "Count"}, "2"]},
        "IsEither": {"Fn::Or": [{"Fn::Equals": ["a", "b"]}, {"Condition": "IsEmpty"}]},
    },
    "Mappings": {"Sizes": {"small": {"cpu": 1}}},
    "Resources": {
        "Bucket": {"Type": "AWS::S3::Bucket"},
        "Role": {"Type": "AWS::IAM::Role"},
        "Topic": {"Type": "AWS::SNS::Topic"},
        "Nested": {"Type": "AWS::CloudFormation::Stack"},
    },
}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"Ref": "Name"}, "churn"),
        ({"Ref": "AWS::Region"}, "eu-west-1"),
        ({"Ref": "Bucket"}, "bucket"),
        ({"Ref": "Topic"}, "arn:aws:sns:eu-west-1:123456789012:topic"),
        ({"Fn::GetAtt": ["Bucket", "Arn"]}, "arn:aws:s3:::bucket"),
        ({"Fn::GetAtt": "Role.Arn"}, "arn:aws:iam::123456789012:role/role"),
        ({"Fn::GetAtt": ["Nested", "Outputs.KeyArn"]}, described_launches()["values"]["KeyArn"]),
        ({"Fn::Sub": "${Name}-${Bucket.Arn}-${!literal}"}, "churn-arn:aws:s3:::bucket-${literal}"),
        ({"Fn::Sub": ["${Local}/${Name}", {"Local": {"Ref": "Bucket"}}]}, "bucket/churn"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Name"}]]}, "a-churn"),
        ({"Fn::Join": [",", {"Ref": "Zones"}]}, "a,b"),
        ({"Fn::Select": [1, {"Ref": "Zones"}]}, "b"),
        ({"Fn::Split": [".", "1.2"]}, ["1", "2"]),
        ({"Fn::FindInMap": ["Sizes", "small", "cpu"]}, 1),
        ({"Fn::Base64": "x"}, "eA=="),
        ({"Fn::Cidr": ["10.0.0.0/16", 2, 8]}, ["10.0.0.0/24", "10.0.1.0/24"]),
        ({"Fn::If": ["IsBoth", "yes", "no"]}, "yes"),
        ({"Fn::If": ["IsTwo", "yes", "no"]}, "yes"),
        ({"Fn::If": ["IsEither", "yes", "no"]}, "yes"),
        ([{"Fn::If": ["IsEmpty", {"Ref": "AWS::NoValue"}, "x"]}, "y"], ["y"]),
        ({"Key": {"Ref": "AWS::NoValue"}, "Other": True}, {"Other": True}),
        ({"Condition": {"StringEquals": {"a": "b"}}}, {"Condition": {"StringEquals": {"a": "b"}}}),
        ("{{resolve:ssm:/mlops/projects/p-1/key-arn}}", described_launches()["values"]["KeyArn"]),
    ],
)
def test_value(node: Any, value: Any) -> None:
    assert Resolver(DATA, PARAMETERS).value(node) == value


def test_what_is_not_known_is_no_value() -> None:
    with pytest.raises(NotImplementedError, match="Transform"):
        Resolver(DATA, PARAMETERS).value({"Fn::Transform": {}})


def test_a_resource_whose_condition_fails_is_gone() -> None:
    data = {
        "Conditions": {"No": {"Fn::Equals": ["a", "b"]}},
        "Resources": {
            "Here": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain"},
            "Gone": {"Type": "AWS::S3::Bucket", "Condition": "No"},
        },
    }
    assert resolve(data, {})["Resources"] == {
        "Here": {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {}}
    }


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_launches_make_every_value_literal(template: Template) -> None:
    for _, literal in resolved(template):
        for resource in literal["Resources"].values():
            # the rule of a launch constraint is text that holds functions of its own
            text = json.dumps({key: value for key, value in resource["Properties"].items() if key != "Rules"})
            assert '"Fn::' not in text
            assert '"Ref"' not in text


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_launches_see_both_sides_of_every_condition(template: Template) -> None:
    for name in template.data.get("Conditions", {}):
        sides = {
            Resolver(template.data, values).condition(name) for values in parameter_sets(template).values()
        }
        assert sides == {True, False}, f"{SETS.name}: no launch of {template.name} makes {name} the other way"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_launches_know_every_parameter(template: Template) -> None:
    known = described_launches()["values"]
    for name, parameter in template.data.get("Parameters", {}).items():
        told = name in known or "AllowedValues" in parameter
        assert told or ("Default" in parameter and not parameter["Type"].startswith("AWS::SSM::")), name


def test_launches_are_of_templates_and_parameters_that_exist() -> None:
    by_name = {template.name: template for template in TEMPLATES}
    for name, launches in described_launches()["launches"].items():
        for given in launches.values():
            assert given.keys() - PSEUDO.keys() <= by_name[name].data["Parameters"].keys(), name


def test_a_template_is_loaded_by_folder_or_by_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.yaml").write_text("Resources: {}")
    assert [template.name for template in load(tmp_path)] == ["a/b.yaml"]
    assert [template.name for template in load(tmp_path / "a/b.yaml")] == ["b.yaml"]
