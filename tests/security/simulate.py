"""Decides the matrix's cells in the IAM simulator, with the policies that are really deployed.

Everything comes from the cloud's own API: the roles' policies and boundaries, the policies of buckets, keys,
topics, functions, repositories and registries, and the tags of resources. What AWS would send with a call
stands in the matrix.
"""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from typing import Any

import boto3
from botocore.exceptions import ClientError
from deciders import Question, Statements
from matrix import Cell, question

from rehearse.cloud import ACCOUNT, REGION


class Deployed:
    """Policies and tags as the deployed platform has them."""

    def __init__(self, root: boto3.Session) -> None:
        self.root = root
        self.client = functools.cache(root.client)

    @functools.cache  # noqa: B019 - lives as long as one test session
    def role(self, arn: str) -> dict[str, Any]:
        """A role's identity policies (statements), boundary (statements) and tags."""
        iam, name = self.client("iam"), arn.rpartition("/")[2]
        found = iam.get_role(RoleName=name)["Role"]
        statements: Statements = []
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            statements += _statements(iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"])
        for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            statements += self.managed(policy["PolicyArn"])
        boundary = found.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")
        return {
            "statements": statements,
            "boundary": self.managed(boundary) if boundary else None,
            "tags": {t["Key"]: t["Value"] for t in iam.list_role_tags(RoleName=name)["Tags"]},
        }

    @functools.cache  # noqa: B019
    def managed(self, arn: str) -> Statements:
        """The statements of a managed policy."""
        iam = self.client("iam")
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        return _statements(found["Document"])

    @functools.cache  # noqa: B019
    def resource_policy(self, arn: str) -> Statements | None:
        """The policy of a resource, None for one without."""
        service, name = arn.split(":")[2], arn.split(":", 5)[5]
        with suppress(ClientError):
            if service == "s3":
                return _statements(self.client("s3").get_bucket_policy(Bucket=name.split("/")[0])["Policy"])
            if service == "kms" and name.startswith("key/"):
                return _statements(
                    self.client("kms").get_key_policy(KeyId=arn, PolicyName="default")["Policy"]
                )
            if service == "sns":
                found = self.client("sns").get_topic_attributes(TopicArn=arn)["Attributes"]
                return _statements(found["Policy"]) if found.get("Policy") else None
            if service == "lambda":
                return _statements(self.client("lambda").get_policy(FunctionName=arn)["Policy"])
            if service == "ecr":
                found = self.client("ecr").get_repository_policy(repositoryName=name.split("/", 1)[1])
                return _statements(found["policyText"])
            if service == "secretsmanager":
                found = self.client("secretsmanager").get_resource_policy(SecretId=arn)
                return _statements(found["ResourcePolicy"]) if found.get("ResourcePolicy") else None
            if service == "iam" and name.startswith("role/"):
                role = self.client("iam").get_role(RoleName=name.rpartition("/")[2])["Role"]
                return _statements(role["AssumeRolePolicyDocument"])
            if service == "sagemaker" and name.startswith(("model-package/", "model-package-group/")):
                group = name.split("/")[1]
                found = self.client("sagemaker").get_model_package_group_policy(ModelPackageGroupName=group)
                return _statements(found["ResourcePolicy"])
        return None

    @functools.cache  # noqa: B019
    def tags(self, arn: str) -> dict[str, str]:
        """The tags of a resource; none for one that is not there."""
        service, name = arn.split(":")[2], arn.split(":", 5)[5]
        with suppress(ClientError):
            match service:
                case "sagemaker":
                    return _tags(self.client("sagemaker").list_tags(ResourceArn=arn)["Tags"])
                case "kms" if name.startswith("key/"):
                    return _tags(self.client("kms").list_resource_tags(KeyId=arn)["Tags"])
                case "s3":
                    return _tags(self.client("s3").get_bucket_tagging(Bucket=name.split("/")[0])["TagSet"])
                case "ecr":
                    return _tags(self.client("ecr").list_tags_for_resource(resourceArn=arn)["tags"])
                case "codecommit":
                    return self.client("codecommit").list_tags_for_resource(resourceArn=arn)["tags"]
                case "codepipeline" if "/" not in name:
                    return _tags(self.client("codepipeline").list_tags_for_resource(resourceArn=arn)["tags"])
                case "sns":
                    return _tags(self.client("sns").list_tags_for_resource(ResourceArn=arn)["Tags"])
                case "lambda":
                    return self.client("lambda").list_tags(Resource=arn)["Tags"]
                case "iam" if name.startswith("role/"):
                    return self.role(arn)["tags"]
                case "catalog" if name.startswith("product/"):
                    product = name.partition("/")[2]
                    return _tags(self.client("servicecatalog").describe_product_as_admin(Id=product)["Tags"])
        return {}


def _statements(document: Any) -> Statements:
    found = (json.loads(document) if isinstance(document, str) else document)["Statement"]
    return found if isinstance(found, list) else [found]


def _tags(tags: list[dict[str, str]]) -> dict[str, str]:
    lowered = [{k.lower(): v for k, v in t.items()} for t in tags]
    return {t.get("key") or t["tagkey"]: t.get("value") or t.get("tagvalue", "") for t in lowered}


def _in_studio(statements: Statements, names: dict[str, Any]) -> Statements:
    """The statements as a session of the user jane in Studio has them.

    The simulator does not know the keys that Studio gives its sessions, so they are filled in here.
    https://docs.aws.amazon.com/sagemaker/latest/dg/studio-updated-spaces.html
    """
    text = json.dumps(statements)
    for key, value in (("DomainId", names["domain"]), ("UserProfileName", names["jane"])):
        text = text.replace(f"${{sagemaker:{key}}}", value)
    return json.loads(text)


#: actions whose resource's own policy has a say that is not the resource's: a role is passed by the caller's
#: policies alone, and IAM's own actions on a role do not ask its trust
_TRUST_ONLY = "sts:"


def questions(cell: Cell, role: str, names: dict[str, Any], deployed: Deployed) -> list[Question]:
    """What a cell asks of IAM; all must be allowed for the cell to be."""
    found, made = deployed.role(role), []
    statements = _in_studio(found["statements"], names) if cell.row.studio else found["statements"]
    for line in cell.row.asks:
        action, resource, given = question(line, names)
        parts = resource.split(":")
        owner = parts[4] if len(parts) > 5 and parts[4] else ACCOUNT
        context = {
            **{f"aws:PrincipalTag/{k}": v for k, v in found["tags"].items()},
            "aws:PrincipalArn": role,
            "aws:PrincipalAccount": ACCOUNT,
            "aws:PrincipalIsAWSService": "false",
            "aws:RequestedRegion": REGION,
            "aws:ResourceAccount": owner,
            "aws:SecureTransport": "true",
            **given,
        }
        if resource != "*":
            context |= {f"aws:ResourceTag/{k}": v for k, v in deployed.tags(resource).items()}
        policy = None
        if resource != "*" and (parts[2] != "iam" or action.startswith(_TRUST_ONLY)):
            policy = deployed.resource_policy(resource)
        made.append(
            Question(
                str(cell),
                role,
                action,
                resource,
                owner,
                context,
                statements,
                found["boundary"],
                resource_policy=policy,
            )  # fmt: skip
        )
    return made
