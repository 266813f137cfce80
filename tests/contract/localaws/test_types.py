"""Every resource type that the platform's templates use is one that the local cloud creates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

TEMPLATES = Path(__file__).resolve().parents[3] / "mlops-cfn"
TYPE = re.compile(r"^\s+Type: '?(AWS::[A-Za-z0-9]+::[A-Za-z0-9]+)'?\s*$", re.MULTILINE)
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "vpc-flow-logs.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


def validate(cloud: Any, types: list[str]) -> None:
    """ValidateTemplate, which names the resource types that there are not."""
    resources = {f"Resource{n}": {"Type": t} for n, t in enumerate(types)}
    cloud.client("cloudformation").validate_template(TemplateBody=json.dumps({"Resources": resources}))


def used() -> set[str]:
    """The types that the templates name; parameters of types such as AWS::EC2::VPC::Id do not match."""
    return {t for f in TEMPLATES.rglob("*.yaml") for t in TYPE.findall(f.read_text())}


def test_every_type_of_the_templates_is_known(cloud: Any) -> None:
    assert len(used()) > 30
    validate(cloud, sorted(used()))


def test_an_unknown_type_is_refused_by_name(cloud: Any) -> None:
    with pytest.raises(Exception, match="AWS::SageMaker::Nonsense"):
        validate(cloud, ["AWS::SNS::Topic", "AWS::SageMaker::Nonsense"])


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        pytest.param({"DomainNam": "x"}, "DomainNam", id="misspelt"),
        pytest.param({"AuthMode": "IAM"}, "DomainName", id="required"),
        pytest.param({"AuthMode": "LDAP"}, "LDAP", id="value"),
    ],
)
def test_properties_that_break_the_schema_are_refused(cloud: Any, properties: dict, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        cloud.stack({"Domain": {"Type": "AWS::SageMaker::Domain", "Properties": properties}})


def test_small_types_are_created_updated_and_deleted(cloud: Any) -> None:
    topic = {"Ref": "Topic"}
    resources: dict[str, Any] = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.9.0.0/16"}},
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {"GroupDescription": "x", "VpcId": {"Ref": "Vpc"}},
        },
        "Inside": {
            "Type": "AWS::EC2::SecurityGroupIngress",
            "Properties": {
                "GroupId": {"Ref": "Group"},
                "IpProtocol": "tcp",
                "FromPort": 0,
                "ToPort": 65535,
                "SourceSecurityGroupId": {"Ref": "Group"},
                "Description": "first",
            },
        },
        "Outside": {
            "Type": "AWS::EC2::SecurityGroupEgress",
            "Properties": {
                "GroupId": {"Ref": "Group"},
                "IpProtocol": "tcp",
                "FromPort": "443",
                "ToPort": "443",
                "DestinationPrefixListId": {"Ref": "List"},
            },
        },
        "List": {
            "Type": "AWS::EC2::PrefixList",
            "Properties": {
                "PrefixListName": "x",
                "AddressFamily": "IPv4",
                "Entries": [{"Cidr": "10.0.0.0/8"}],
            },
        },
        "Logs": {"Type": "AWS::Logs::LogGroup"},
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": TRUST}},
        "RolePolicy": {
            "Type": "AWS::IAM::RolePolicy",
            "Properties": {
                "RoleName": {"Ref": "Role"},
                "PolicyName": "read",
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
                },
            },
        },
        "FlowLog": {
            "Type": "AWS::EC2::FlowLog",
            "Properties": {
                "ResourceId": {"Ref": "Vpc"},
                "ResourceType": "VPC",
                "TrafficType": "ALL",
                "LogGroupName": {"Ref": "Logs"},
                "DeliverLogsPermissionArn": {"Fn::GetAtt": ["Role", "Arn"]},
            },
        },
        "Topic": {"Type": "AWS::SNS::Topic"},
        "TopicPolicy": {
            "Type": "AWS::SNS::TopicInlinePolicy",
            "Properties": {
                "TopicArn": topic,
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            "Sid": "Alarms",
                            "Effect": "Allow",
                            "Principal": {"Service": "cloudwatch.amazonaws.com"},
                            "Action": "sns:Publish",
                            "Resource": topic,
                        }
                    ],
                },
            },
        },
        "Alarm": {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "ComparisonOperator": "GreaterThanThreshold",
                "EvaluationPeriods": 1,
                "MetricName": "x",
                "Namespace": "y",
                "Period": 60,
                "Statistic": "Sum",
                "Threshold": 1,
            },
        },
        "Any": {
            "Type": "AWS::CloudWatch::CompositeAlarm",
            "Properties": {"AlarmRule": {"Fn::Sub": 'ALARM("${Alarm}")'}, "AlarmActions": [topic]},
        },
        "Budget": {
            "Type": "AWS::Budgets::Budget",
            "Properties": {
                "Budget": {
                    "BudgetType": "COST",
                    "TimeUnit": "MONTHLY",
                    "BudgetLimit": {"Amount": 100, "Unit": "USD"},
                }
            },
        },
        "Query": {
            "Type": "AWS::Athena::NamedQuery",
            "Properties": {"Database": "d", "QueryString": "select 1"},
        },
    }
    outputs = {
        "Group": {"Value": {"Ref": "Group"}},
        "List": {"Value": {"Ref": "List"}},
        "Vpc": {"Value": {"Ref": "Vpc"}},
        "Topic": {"Value": topic},
        "Alarm": {"Value": {"Ref": "Any"}},
        "Budget": {"Value": {"Ref": "Budget"}},
        "Arn": {"Value": {"Fn::GetAtt": ["Any", "Arn"]}},
        "Query": {"Value": {"Ref": "Query"}},
    }
    stack = cloud.stack(resources, outputs)
    before = cloud.outputs(stack)
    resources["Inside"]["Properties"]["Description"] = "second"
    resources["List"]["Properties"]["Entries"].append({"Cidr": "11.0.0.0/8"})
    resources["Any"]["Properties"]["AlarmDescription"] = "any of them"
    resources["Budget"]["Properties"]["Budget"]["BudgetLimit"]["Amount"] = 200
    cloud.stack(resources, outputs, stack)
    made = cloud.outputs(stack)
    assert made == before  # all changed in place

    ec2 = cloud.client("ec2")
    group = ec2.describe_security_groups(GroupIds=[made["Group"]])["SecurityGroups"][0]
    pair = group["IpPermissions"][0]["UserIdGroupPairs"][0]
    assert (pair["GroupId"], pair["Description"]) == (made["Group"], "second")
    lists = [p["PrefixListId"] for r in group["IpPermissionsEgress"] for p in r["PrefixListIds"]]
    assert lists == [made["List"]]
    entries = ec2.get_managed_prefix_list_entries(PrefixListId=made["List"])["Entries"]
    assert {e["Cidr"] for e in entries} == {"10.0.0.0/8", "11.0.0.0/8"}
    logs = ec2.describe_flow_logs(Filters=[{"Name": "resource-id", "Values": [made["Vpc"]]}])["FlowLogs"]
    assert [log["FlowLogStatus"] for log in logs] == ["ACTIVE"]
    policy = cloud.client("sns").get_topic_attributes(TopicArn=made["Topic"])["Attributes"]["Policy"]
    assert "Alarms" in policy
    found = cloud.client("cloudwatch").describe_alarms(
        AlarmNames=[made["Alarm"]], AlarmTypes=["CompositeAlarm"]
    )
    assert found["CompositeAlarms"][0]["AlarmDescription"] == "any of them"
    budget = cloud.client("budgets").describe_budget(AccountId=cloud.account, BudgetName=made["Budget"])
    assert float(budget["Budget"]["BudgetLimit"]["Amount"]) == 200
    named = cloud.client("athena").get_named_query(NamedQueryId=made["Query"])["NamedQuery"]
    assert named["QueryString"] == "select 1"

    assert cloud.delete_stack(stack) == ""
    assert (
        ec2.describe_flow_logs(Filters=[{"Name": "resource-id", "Values": [made["Vpc"]]}])["FlowLogs"] == []
    )


def test_a_flow_log_needs_a_role_that_flow_logs_can_assume(cloud: Any) -> None:
    resources = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.9.0.0/16"}},
        "FlowLog": {
            "Type": "AWS::EC2::FlowLog",
            "Properties": {
                "ResourceId": {"Ref": "Vpc"},
                "ResourceType": "VPC",
                "TrafficType": "ALL",
                "LogGroupName": "x",
                "DeliverLogsPermissionArn": cloud.role("lambda"),
            },
        },
    }
    with pytest.raises(AssertionError, match="Unable to assume given IAM role"):
        cloud.stack(resources)


def test_the_prefix_list_of_s3_is_found_by_name(cloud: Any) -> None:
    name = {"Name": "prefix-list-name", "Values": ["com.amazonaws.us-east-1.s3"]}
    lists = cloud.client("ec2").describe_managed_prefix_lists(Filters=[name])["PrefixLists"]
    assert [p["PrefixListName"] for p in lists] == ["com.amazonaws.us-east-1.s3"]


def test_a_bucket_and_a_rule_get_tags_and_a_full_bucket_stays(cloud: Any) -> None:
    resources = {
        "Bucket": {
            "Type": "AWS::S3::Bucket",
            "Properties": {
                "Tags": [{"Key": "team", "Value": "x"}],
                "VersioningConfiguration": {"Status": "Enabled"},
            },
        },
        "Rule": {
            "Type": "AWS::Events::Rule",
            "Properties": {"ScheduleExpression": "rate(1 day)", "State": "DISABLED"},
        },
    }
    outputs = {"Bucket": {"Value": {"Ref": "Bucket"}}, "Rule": {"Value": {"Fn::GetAtt": ["Rule", "Arn"]}}}
    stack = cloud.stack(resources, outputs)
    made, s3 = cloud.outputs(stack), cloud.client("s3")
    tags = {t["Key"]: t["Value"] for t in s3.get_bucket_tagging(Bucket=made["Bucket"])["TagSet"]}
    assert (tags["team"], tags["aws:cloudformation:stack-name"]) == ("x", stack)
    tags = cloud.client("events").list_tags_for_resource(ResourceARN=made["Rule"])["Tags"]
    assert {"Key": "aws:cloudformation:stack-name", "Value": stack} in tags

    version = s3.put_object(Bucket=made["Bucket"], Key="x", Body=b"x")["VersionId"]
    assert cloud.delete_stack(stack) == "DELETE_FAILED"
    assert "not empty" in " ".join(cloud.stack_reasons(stack))
    s3.delete_object(Bucket=made["Bucket"], Key="x", VersionId=version)
    assert cloud.delete_stack(stack) == ""
