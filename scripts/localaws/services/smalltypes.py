"""CloudFormation types of services that the emulator has but does not offer to stacks."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError

from localaws.errors import AwsError
from localaws.resource import ApiResource, Attributes, Context, ResourceType, typed

Props = dict[str, Any]


def _quietly(call: Any, gone: str, **arguments: Any) -> None:
    """Call a delete; an answer whose code has ``gone`` in it means that there is nothing left to delete."""
    try:
        call(**arguments)
    except ClientError as error:
        if gone not in error.response["Error"]["Code"]:
            raise


def _text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document)


# -- EC2 -------------------------------------------------------------------------------------------
def _specification(kind: str, props: Props) -> Props:
    tags = [t for t in props.get("Tags") or [] if not t["Key"].startswith("aws:")]
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}


def _retag(context: Context, physical_id: str, old: Props, new: Props) -> None:
    before, after = (
        {t["Key"]: t["Value"] for t in p.get("Tags") or [] if not t["Key"].startswith("aws:")}
        for p in (old, new)
    )
    ec2 = context.client("ec2")
    if before.keys() - after.keys():
        ec2.delete_tags(
            Resources=[physical_id], Tags=[{"Key": k} for k in sorted(before.keys() - after.keys())]
        )
    if after:
        ec2.create_tags(Resources=[physical_id], Tags=[{"Key": k, "Value": v} for k, v in after.items()])


class FlowLog(ResourceType):
    """AWS::EC2::FlowLog."""

    type_name = "AWS::EC2::FlowLog"
    _sent = (
        "ResourceType",
        "TrafficType",
        "LogDestination",
        "LogDestinationType",
        "LogGroupName",
        "DeliverLogsPermissionArn",
        "DeliverCrossAccountRole",
        "LogFormat",
        "MaxAggregationInterval",
        "DestinationOptions",
    )

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        role = props.get("DeliverLogsPermissionArn")
        if props.get("LogDestinationType", "cloud-watch-logs") == "cloud-watch-logs":
            if not role:
                raise ValueError(
                    "DeliverLogsPermissionArn can't be empty if LogDestinationType is cloud-watch-logs"
                )
            try:
                # the service delivers in the name of the flow log, which has no id yet
                source = context.cloud.arn("ec2", "vpc-flow-log/fl-0123456789abcdef0")
                context.cloud.check_trust(role, "vpc-flow-logs.amazonaws.com", source)
            except AwsError as error:
                raise ValueError(f"Unable to assume given IAM role: {error.message}") from None
        request = typed("ec2", "create_flow_logs", {k: props[k] for k in self._sent if k in props})
        answer = context.client("ec2").create_flow_logs(
            ResourceIds=[props["ResourceId"]], **request, **_specification("vpc-flow-log", props)
        )
        if answer.get("Unsuccessful"):
            raise ValueError(answer["Unsuccessful"][0]["Error"]["Message"])
        return answer["FlowLogIds"][0], {"Id": answer["FlowLogIds"][0]}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        _retag(context, physical_id, old, new)
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        context.client("ec2").delete_flow_logs(FlowLogIds=[physical_id])


class _SecurityGroupRule(ResourceType):
    """One rule of a security group; ``peer`` is the prefix of the properties that name the other side."""

    tags = None
    peer = ""
    authorize = revoke = ""

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        ec2 = context.client("ec2")
        answer = getattr(ec2, self.authorize)(
            GroupId=props["GroupId"], IpPermissions=[self._permission(props)]
        )
        identity = answer["SecurityGroupRules"][0]["SecurityGroupRuleId"]
        return identity, {"Id": identity}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        """Only the description changes in place."""
        rule = {
            "SecurityGroupRuleId": physical_id,
            "SecurityGroupRule": {"Description": new.get("Description", "")},
        }
        context.client("ec2").modify_security_group_rules(GroupId=new["GroupId"], SecurityGroupRules=[rule])
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        ec2 = context.client("ec2")
        _quietly(
            getattr(ec2, self.revoke),
            "NotFound",
            GroupId=props["GroupId"],
            IpPermissions=[self._permission(props)],
        )

    def _permission(self, props: Props) -> Props:
        note = {"Description": props["Description"]} if props.get("Description") else {}
        out: Props = {"IpProtocol": str(props["IpProtocol"])}
        out.update({k: int(props[k]) for k in ("FromPort", "ToPort") if k in props})
        if props.get("CidrIp"):
            out["IpRanges"] = [{"CidrIp": props["CidrIp"], **note}]
        if props.get("CidrIpv6"):
            out["Ipv6Ranges"] = [{"CidrIpv6": props["CidrIpv6"], **note}]
        if props.get(f"{self.peer}PrefixListId"):
            out["PrefixListIds"] = [{"PrefixListId": props[f"{self.peer}PrefixListId"], **note}]
        if props.get(f"{self.peer}SecurityGroupId"):
            out["UserIdGroupPairs"] = [{"GroupId": props[f"{self.peer}SecurityGroupId"], **note}]
        return out


class SecurityGroupIngress(_SecurityGroupRule):
    """AWS::EC2::SecurityGroupIngress."""

    type_name = "AWS::EC2::SecurityGroupIngress"
    peer = "Source"
    authorize, revoke = "authorize_security_group_ingress", "revoke_security_group_ingress"


class SecurityGroupEgress(_SecurityGroupRule):
    """AWS::EC2::SecurityGroupEgress."""

    type_name = "AWS::EC2::SecurityGroupEgress"
    peer = "Destination"
    authorize, revoke = "authorize_security_group_egress", "revoke_security_group_egress"


class PrefixList(ResourceType):
    """AWS::EC2::PrefixList."""

    type_name = "AWS::EC2::PrefixList"

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        request = {
            k: props[k] for k in ("PrefixListName", "AddressFamily", "MaxEntries", "Entries") if k in props
        }
        request.setdefault("MaxEntries", max(1, len(props.get("Entries") or [])))
        made = context.client("ec2").create_managed_prefix_list(
            **typed("ec2", "create_managed_prefix_list", request), **_specification("prefix-list", props)
        )["PrefixList"]
        return made["PrefixListId"], self._attributes(made)

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        ec2 = context.client("ec2")
        current = ec2.describe_managed_prefix_lists(PrefixListIds=[physical_id])["PrefixLists"][0]
        before, after = ({e["Cidr"]: e for e in p.get("Entries") or []} for p in (old, new))
        request: Props = {}
        if before != after:
            request = {
                "CurrentVersion": current["Version"],
                "AddEntries": [e for c, e in after.items() if before.get(c) != e],
                "RemoveEntries": [{"Cidr": c} for c in before if before[c] != after.get(c)],
            }
        ec2.modify_managed_prefix_list(
            PrefixListId=physical_id, PrefixListName=new["PrefixListName"], **request
        )
        _retag(context, physical_id, old, new)
        return self._attributes(
            ec2.describe_managed_prefix_lists(PrefixListIds=[physical_id])["PrefixLists"][0]
        )

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("ec2").delete_managed_prefix_list, "NotFound", PrefixListId=physical_id)

    @staticmethod
    def _attributes(made: Props) -> Attributes:
        return {
            "PrefixListId": made["PrefixListId"],
            "OwnerId": made["OwnerId"],
            "Version": made.get("Version", 1),
            "Arn": made["PrefixListArn"],
        }


# -- policies --------------------------------------------------------------------------------------
class RolePolicy(ResourceType):
    """AWS::IAM::RolePolicy: an inline policy of a role that is made elsewhere."""

    type_name = "AWS::IAM::RolePolicy"
    tags = None
    name_property = "PolicyName"

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        self._put(context, props)
        return f"{props['PolicyName']}|{props['RoleName']}", {}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        self._put(context, new)
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(
            context.client("iam").delete_role_policy,
            "NoSuchEntity",
            RoleName=props["RoleName"],
            PolicyName=props["PolicyName"],
        )

    @staticmethod
    def _put(context: Context, props: Props) -> None:
        context.client("iam").put_role_policy(
            RoleName=props["RoleName"],
            PolicyName=props["PolicyName"],
            PolicyDocument=_text(props["PolicyDocument"]),
        )


class TopicInlinePolicy(ResourceType):
    """AWS::SNS::TopicInlinePolicy."""

    type_name = "AWS::SNS::TopicInlinePolicy"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        self.update(context, props["TopicArn"], {}, props)
        return props["TopicArn"], {}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        context.client("sns").set_topic_attributes(
            TopicArn=physical_id, AttributeName="Policy", AttributeValue=_text(new["PolicyDocument"])
        )
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        owner = {
            "Version": "2008-10-17",
            "Statement": [
                {
                    "Sid": "__default_statement_ID",
                    "Effect": "Allow",
                    "Principal": {"AWS": "*"},
                    "Resource": physical_id,
                    "Action": [
                        "sns:Publish",
                        "sns:Subscribe",
                        "sns:GetTopicAttributes",
                        "sns:SetTopicAttributes",
                        "sns:DeleteTopic",
                    ],
                    "Condition": {"StringEquals": {"AWS:SourceOwner": context.cloud.account}},
                }
            ],
        }
        _quietly(
            context.client("sns").set_topic_attributes,
            "NotFound",
            TopicArn=physical_id,
            AttributeName="Policy",
            AttributeValue=_text(owner),
        )


class QueueInlinePolicy(ResourceType):
    """AWS::SQS::QueueInlinePolicy."""

    type_name = "AWS::SQS::QueueInlinePolicy"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        self.update(context, props["Queue"], {}, props)
        return props["Queue"], {}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        context.client("sqs").set_queue_attributes(
            QueueUrl=physical_id, Attributes={"Policy": _text(new["PolicyDocument"])}
        )
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(
            context.client("sqs").set_queue_attributes,
            "NonExistentQueue",
            QueueUrl=physical_id,
            Attributes={"Policy": ""},
        )


class ServiceLinkedRole(ResourceType):
    """AWS::IAM::ServiceLinkedRole."""

    type_name = "AWS::IAM::ServiceLinkedRole"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        made = context.client("iam").create_service_linked_role(**props)["Role"]
        return made["RoleName"], {"RoleName": made["RoleName"]}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        context.client("iam").update_role(RoleName=physical_id, Description=new.get("Description", ""))
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("iam").delete_service_linked_role, "NoSuchEntity", RoleName=physical_id)


# -- watching and asking ---------------------------------------------------------------------------
class CompositeAlarm(ResourceType):
    """AWS::CloudWatch::CompositeAlarm."""

    type_name = "AWS::CloudWatch::CompositeAlarm"
    name_property = "AlarmName"

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        name = props.get("AlarmName") or context.name(255)
        self._put(context, name, props, {"Tags": tags} if (tags := self._own(props)) else {})
        return name, {"Arn": context.cloud.arn("cloudwatch", f"alarm:{name}")}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        self._put(context, physical_id, new, {})
        before, after = ({t["Key"]: t["Value"] for t in self._own(p)} for p in (old, new))
        cloudwatch, arn = (
            context.client("cloudwatch"),
            context.cloud.arn("cloudwatch", f"alarm:{physical_id}"),
        )
        if before.keys() - after.keys():
            cloudwatch.untag_resource(ResourceARN=arn, TagKeys=sorted(before.keys() - after.keys()))
        if after.items() - before.items():
            cloudwatch.tag_resource(ResourceARN=arn, Tags=[{"Key": k, "Value": v} for k, v in after.items()])
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("cloudwatch").delete_alarms, "NotFound", AlarmNames=[physical_id])

    @staticmethod
    def _own(props: Props) -> list[Props]:
        return [t for t in props.get("Tags") or [] if not t["Key"].startswith("aws:")]

    @staticmethod
    def _put(context: Context, name: str, props: Props, extra: Props) -> None:
        request = {k: v for k, v in props.items() if k not in ("AlarmName", "Tags")}
        context.client("cloudwatch").put_composite_alarm(
            AlarmName=name, **typed("cloudwatch", "put_composite_alarm", request), **extra
        )


class Budget(ResourceType):
    """AWS::Budgets::Budget; its notifications replace it, as in the registry."""

    type_name = "AWS::Budgets::Budget"
    tags = ("ResourceTags", "list")

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        budget = dict(props["Budget"])
        budget.setdefault("BudgetName", context.name(100))
        request: Props = {
            "Budget": budget,
            "NotificationsWithSubscribers": props.get("NotificationsWithSubscribers") or [],
        }
        context.client("budgets").create_budget(AccountId=context.cloud.account, **self._typed(request))
        return budget["BudgetName"], {"Id": budget["BudgetName"]}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        budget = self._typed({"Budget": {**new["Budget"], "BudgetName": physical_id}})["Budget"]
        context.client("budgets").update_budget(AccountId=context.cloud.account, NewBudget=budget)
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(
            context.client("budgets").delete_budget,
            "NotFound",
            AccountId=context.cloud.account,
            BudgetName=physical_id,
        )

    @staticmethod
    def _typed(request: Props) -> Props:
        for key in ("BudgetLimit",):
            if key in request["Budget"]:
                request["Budget"][key] = {k: str(v) for k, v in request["Budget"][key].items()}
        return typed("budgets", "create_budget", request)


class NamedQuery(ApiResource):
    """AWS::Athena::NamedQuery."""

    type_name = "AWS::Athena::NamedQuery"
    tags = None
    service = "athena"
    create_call, delete_call = "create_named_query", "delete_named_query"
    id_parameter = physical_id = "NamedQueryId"
    generated_name = "Name"
    attributes = {"NamedQueryId": "NamedQueryId"}


TYPES = [
    FlowLog,
    SecurityGroupIngress,
    SecurityGroupEgress,
    PrefixList,
    RolePolicy,
    TopicInlinePolicy,
    QueueInlinePolicy,
    ServiceLinkedRole,
    CompositeAlarm,
    Budget,
    NamedQuery,
]
