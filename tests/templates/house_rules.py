"""The house rules of the CloudFormation templates, one function a rule.

A rule takes a template and yields one sentence for each violation. Rules that need several templates stand in
test_contracts.py.
Every rule has a template in fixtures/ that breaks it (test_house_rules.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from cfnlint.decode import cfn_yaml

ROOT = Path(__file__).resolve().parents[2]
CFN = ROOT / "mlops-cfn"
TEMPLATES = sorted(CFN.rglob("*.yaml"))
SECTIONS = [
    "AWSTemplateFormatVersion",
    "Description",
    "Metadata",
    "Parameters",
    "Rules",
    "Mappings",
    "Conditions",
    "Resources",
    "Outputs",
]
PERSONAS = ("Full Stack Developer", "Data Science Admin", "Data Scientist", "ML Engineer")
# what holds data, logs or code of somebody
STATEFUL = {
    "AWS::S3::Bucket",
    "AWS::KMS::Key",
    "AWS::Logs::LogGroup",
    "AWS::CodeCommit::Repository",
    "AWS::ECR::Repository",
    "AWS::SageMaker::Domain",
    "AWS::SageMaker::ModelPackageGroup",
    "AWS::CodeArtifact::Domain",
    "AWS::CodeArtifact::Repository",
    "AWS::EFS::FileSystem",
}
WAYS_OUT = {
    "AWS::EC2::InternetGateway",
    "AWS::EC2::NatGateway",
    "AWS::EC2::EgressOnlyInternetGateway",
    "AWS::EC2::VPCGatewayAttachment",
    "AWS::EC2::EIP",
    "AWS::EC2::VPCPeeringConnection",
    "AWS::EC2::TransitGatewayAttachment",
}
EVERYWHERE = {"0.0.0.0/0", "::/0"}
MAX_ENTRY_LINES, MAX_ENTRY_BYTES = (
    700,
    51_199,
)  # beyond that nobody reviews it, and the API does not take it inline
MAX_MANAGED_POLICY, MAX_INLINE_POLICIES, MAX_TRUST_POLICY = 6_144, 10_240, 2_048
# EventBridge cannot use an encrypted topic or key under a condition (aws-facts, section 7)
WITHOUT_SOURCE_CONDITION = {"events.amazonaws.com"}
SAMPLE = {
    "AWS::Partition": "aws",
    "AWS::Region": "ap-southeast-1",
    "AWS::AccountId": "123456789012",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "n" * 60,
}


@dataclass(frozen=True)
class Template:
    """A template as text and as data."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def data(self) -> dict[str, Any]:
        return cfn_yaml.load(str(self.path))

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        return self.data["Resources"]

    @property
    def is_entry(self) -> bool:
        """Launched by a person, through a form: the numbered templates."""
        return self.path.name[0].isdigit()

    def of_type(self, *types: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, resource in self.resources.items():
            if resource["Type"] in types:
                yield name, resource.get("Properties", {})

    def statements(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every policy statement with the logical id of its resource; both sides of an Fn::If."""
        for name, resource in self.resources.items():
            for node in walk(resource.get("Properties", {})):
                if isinstance(node, dict) and "Statement" in node:
                    for statement in branches(node["Statement"]):
                        yield name, statement


@cache
def load(path: Path) -> Template:
    """A template, parsed once for all tests."""
    return Template(path)


def walk(node: Any) -> Iterator[Any]:
    """The node and everything in it."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from walk(child)


def branches(node: Any) -> Iterator[dict[str, Any]]:
    """The statements of a Statement block; what Fn::If may choose counts."""
    if isinstance(node, list):
        for item in node:
            yield from branches(item)
    elif isinstance(node, dict) and "Fn::If" in node:
        yield from branches(node["Fn::If"][1:])
    elif isinstance(node, dict) and "Ref" not in node:
        yield node


def as_list(node: Any) -> list[Any]:
    return node if isinstance(node, list) else [node]


def line_of(node: Any) -> int:
    """Number of the line on which a node begins, from 1."""
    return node.start_mark.line + 1


def plain(node: Any, length: int = 60) -> str:
    """A value as it may look when it is long: pseudo parameters filled in, anything else as long as given."""
    if isinstance(node, dict):
        if "Fn::Sub" in node:
            sub = node["Fn::Sub"]
            text, values = (sub, {}) if isinstance(sub, str) else sub

            def fill(match: re.Match[str]) -> str:
                name = match[1]
                return plain(values[name], length) if name in values else SAMPLE.get(name, "x" * length)

            return re.sub(r"\$\{!", "${", re.sub(r"\$\{([^!}][^}]*)\}", fill, text))
        return "x" * length
    return str(node)


def size_of(policy: Any) -> int:
    """Characters that IAM counts of a policy document (white space is free)."""
    if isinstance(policy, dict):
        if any(key in policy for key in ("Ref", "Fn::Sub", "Fn::GetAtt")):
            return len(plain(policy, 90)) + 2
        return 2 + sum(len(key) + 4 + size_of(value) for key, value in policy.items())
    if isinstance(policy, list):
        return 2 + sum(size_of(item) + 1 for item in policy)
    return len(str(policy)) + 2


def section_order(template: Template) -> Iterator[str]:
    found = [key for key in template.data]
    wanted = [key for key in SECTIONS if key in found]
    if found != wanted:
        yield f"sections are {', '.join(found)}; the order is {', '.join(wanted)}"


def described(template: Template) -> Iterator[str]:
    text = str(template.data.get("Description", ""))
    if not re.match(rf"(Flows? )?[A-G]((,| and) [A-G])*, ({'|'.join(PERSONAS)})\b", text):
        yield "Description does not begin with flow letter and persona, as in 'B, Data Science Admin: …'"
    if not re.search(r"\bSSM\b|/mlops/", text):
        yield "Description does not say which SSM paths are read and written"


def parameters_described_and_constrained(template: Template) -> Iterator[str]:
    for name, parameter in template.data.get("Parameters", {}).items():
        if not parameter.get("Description"):
            yield f"parameter {name} has no Description"
        constrained = (
            "AllowedValues" in parameter
            or ("AllowedPattern" in parameter and "ConstraintDescription" in parameter)
            or ("MinValue" in parameter and "MaxValue" in parameter)
            or parameter.get("Default") == ""
            or "AWS::" in parameter["Type"]  # CloudFormation itself looks the value up
        )
        if not constrained:
            yield (
                f"parameter {name} has neither AllowedValues nor AllowedPattern with ConstraintDescription "
                "nor a range"
            )


def defaults_fit(template: Template) -> Iterator[str]:
    for name, parameter in template.data.get("Parameters", {}).items():
        default, pattern = parameter.get("Default"), parameter.get("AllowedPattern")
        if default is not None and pattern and not re.search(pattern, str(default), re.ASCII):
            yield f"parameter {name}: the default {default!r} does not fit the AllowedPattern"


def entry_defaults(template: Template) -> Iterator[str]:
    if template.path.name == "1-infra.yaml":
        for name, parameter in template.data.get("Parameters", {}).items():
            if "Default" not in parameter:
                yield f"parameter {name} has no default; one click must do"


def interface_of_entries(template: Template) -> Iterator[str]:
    interface = template.data.get("Metadata", {}).get("AWS::CloudFormation::Interface")
    if not template.is_entry:
        if interface:
            yield "only entry templates have an Interface; nobody sees this one"
        return
    if interface is None:
        yield "an entry template needs Metadata AWS::CloudFormation::Interface"
        return
    # Service Catalog and Studio fill these two, no person does
    declared = set(template.data.get("Parameters", {})) - {"SageMakerProjectName", "SageMakerProjectId"}
    looked_up = {
        name for name in declared if template.data["Parameters"][name]["Type"].startswith("AWS::SSM::")
    }
    grouped = [name for group in interface["ParameterGroups"] for name in group["Parameters"]]
    labelled = set(interface.get("ParameterLabels", {}))
    for name in sorted(declared - set(grouped)):
        yield f"parameter {name} is in no group of the Interface"
    for name in sorted(declared - looked_up - labelled):
        yield f"parameter {name} has no label in the Interface"
    for name in sorted((set(grouped) | labelled) - set(template.data.get("Parameters", {}))):
        yield f"the Interface names {name}, which is no parameter"


def entry_size(template: Template) -> Iterator[str]:
    if not template.is_entry:
        return
    if len(template.lines) > MAX_ENTRY_LINES:
        yield f"{len(template.lines)} lines; an entry template has at most {MAX_ENTRY_LINES}"
    if (size := len(template.text.encode())) > MAX_ENTRY_BYTES:
        yield f"{size} bytes; an entry template has at most {MAX_ENTRY_BYTES}"


def names(template: Template) -> Iterator[str]:
    for section in ("Parameters", "Conditions", "Resources", "Outputs"):
        for name in template.data.get(section, {}):
            if not re.fullmatch(r"[A-Z][a-z0-9]+([A-Z][a-z0-9]*)*", name):
                yield f"{section}.{name} is not PascalCase"
            if section == "Parameters" and name.endswith("Parameter"):
                yield f"{section}.{name}: a parameter is called after the thing"
    for name in template.data.get("Conditions", {}):
        if not re.match(r"(Has|Is|Use|Create)[A-Z]", name):
            yield f"condition {name} does not begin with Has, Is, Use or Create"


def no_export(template: Template) -> Iterator[str]:
    for name, output in template.data.get("Outputs", {}).items():
        if "Export" in output:
            yield f"output {name} is exported; stacks find each other through SSM"
    for node in walk(template.data):
        if isinstance(node, dict) and "Fn::ImportValue" in node:
            yield "Fn::ImportValue is used; stacks find each other through SSM"


def no_literal_partition(template: Template) -> Iterator[str]:
    for number, line in enumerate(template.lines, 1):
        if re.search(r"\barn:aws(-cn|-us-gov)?:", line):
            yield f"line {number}: a literal partition; write arn:${{AWS::Partition}}:"


def no_join(template: Template) -> Iterator[str]:
    """A list that is only known at launch must be joined; parts that are written out are not a list."""
    for node in walk(template.data):
        if isinstance(node, dict) and "Fn::Join" in node:
            parts = node["Fn::Join"][1]
            if isinstance(parts, list) and all(
                isinstance(p, str) or set(p) <= {"Ref", "Fn::GetAtt", "Fn::Sub"} for p in parts
            ):
                yield f"line {line_of(node)}: Fn::Join of parts that are written out; Fn::Sub reads better"


def both_policies_with_reason(template: Template) -> Iterator[str]:
    for name, resource in template.resources.items():
        if resource["Type"] not in STATEFUL:
            continue
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if policy not in resource:
                yield f"{name} ({resource['Type']}) has no {policy}"
        keys = {str(key): key for key in resource}
        if "DeletionPolicy" in keys and "#" not in template.lines[line_of(keys["DeletionPolicy"]) - 1]:
            yield f"{name}: the DeletionPolicy has no comment saying who still needs it, or why nobody does"


def custom_resources_time_out(template: Template) -> Iterator[str]:
    for name, resource in template.resources.items():
        if (
            resource["Type"].startswith("Custom::")
            or resource["Type"] == "AWS::CloudFormation::CustomResource"
        ):
            timeout = int(resource["Properties"].get("ServiceTimeout", 3600))
            if timeout > 900:
                yield f"{name} waits {timeout} s for an answer; set ServiceTimeout to at most 900"


def statements_have_sids(template: Template) -> Iterator[str]:
    for name, statement in template.statements():
        if not statement.get("Sid"):
            yield f"{name}: a statement (line {line_of(statement)}) has no Sid"


def wildcards_have_reasons(template: Template) -> Iterator[str]:
    """The comment stands on the line of the wildcard, or on the line above the statement."""
    for name, statement in template.statements():
        if template.resources[name]["Type"] == "AWS::KMS::Key":
            continue  # in a key policy the wildcard is this key
        keys = {str(key): key for key in statement}
        if "*" not in [str(resource) for resource in as_list(statement.get("Resource", []))]:
            continue
        line = line_of(keys["Resource"])  # the wildcard stands there or, in a list, on the next one
        beside = any(re.search(r"\*.*#\s*\w+", text) for text in template.lines[line - 1 : line + 1])
        above = template.lines[line_of(statement) - 2].strip()
        if not beside and not above.startswith("#"):
            yield f"{name}.{statement.get('Sid')}: Resource '*' without a comment why"


@cache
def scopes() -> dict[str, Any]:
    """By service, which resources each action of IAM is checked against; cfn-lint ships AWS's reference."""
    return json.loads(files("cfnlint").joinpath("data/AdditionalSpecs/Policies.json").read_text())


def unscoped_actions_reach_everything(template: Template) -> Iterator[str]:
    """An action that is checked against no resource is allowed on '*' or not at all: elsewhere it has no
    effect.
    """
    for name, statement in template.statements():
        resources = [str(resource) for resource in as_list(statement.get("Resource", "*"))]
        if statement["Effect"] != "Allow" or "*" in resources:
            continue
        for action in map(str, as_list(statement["Action"])):
            service, _, verb = action.lower().partition(":")
            known = scopes().get(service, {}).get("Actions", {}).get(verb)
            if known is not None and not known.get("Resources"):
                yield f"{name}.{statement.get('Sid')}: {action} has no resources, so it needs Resource '*'"


def actions_are_named(template: Template) -> Iterator[str]:
    """A role is allowed named actions; a ceiling (boundary, endpoint, key) or a Deny may be wider."""
    for name, statement in template.statements():
        kind, path = (
            template.resources[name]["Type"],
            template.resources[name].get("Properties", {}).get("Path", ""),
        )
        if (
            statement.get("Effect") != "Allow"
            or not kind.startswith("AWS::IAM::")
            or path == "/mlops/boundary/"
        ):
            continue
        for action in as_list(statement.get("Action", [])):
            if action == "*" or str(action).endswith(":*"):
                yield f"{name}.{statement.get('Sid')}: allows {action}"


def resource_types_are_named(template: Template) -> Iterator[str]:
    """IAM takes no wildcard in the place of a resource type (its user guide: "incorrect wildcard usage")."""
    untyped = ("s3", "sns", "sqs", "codecommit", "codepipeline", "execute-api")
    for name, statement in template.statements():
        for resource in as_list(statement.get("Resource", [])):
            text = resource.get("Fn::Sub", "") if isinstance(resource, dict) else resource
            parts = re.sub(r"\$\{[^}]+\}", "x", text if isinstance(text, str) else text[0]).split(":", 5)
            if len(parts) < 6 or parts[2] in untyped:
                continue
            kind, separator, _ = re.split(r"([/:]|$)", parts[5], maxsplit=1)
            if separator and re.search(r"[*?]", kind):
                yield f"{name}.{statement.get('Sid')}: {kind} in the place of a type of {parts[2]}"


def roles_are_bounded(template: Template) -> Iterator[str]:
    place = f"{template.path.parent.name}/{template.path.name}"
    of_platform = template.path.parent.name == "infra" or place == "accounts/account.yaml"
    wanted = "/mlops/platform/" if of_platform else "/mlops/projects/"
    for name, role in template.of_type("AWS::IAM::Role"):
        if "PermissionsBoundary" not in role:
            yield f"role {name} has no PermissionsBoundary"
        if role.get("Path") != wanted:
            yield f"role {name} has Path {role.get('Path')}; here it is {wanted}"
        # policies of the tooling account name these before they exist (test_accounts.py)
        if "RoleName" in role and place != "accounts/project.yaml":
            yield f"role {name} has a RoleName; CloudFormation names roles"


def trust_is_guarded(template: Template) -> Iterator[str]:
    for name, role in template.of_type("AWS::IAM::Role"):
        for statement in branches(role["AssumeRolePolicyDocument"]["Statement"]):
            principal = statement.get("Principal", {})
            if isinstance(principal, dict) and "Service" in principal and not _source_keys(statement):
                yield f"role {name} trusts {principal['Service']} without aws:SourceAccount or aws:SourceArn"


def resource_policies_are_guarded(template: Template) -> Iterator[str]:
    for name, statement in template.statements():
        principal = statement.get("Principal", {})
        if template.resources[name]["Type"].startswith("AWS::IAM::") or statement.get("Effect") != "Allow":
            continue
        if principal in ("*", {"AWS": "*"}) and not statement.get("Condition"):
            policy_of_endpoint = (
                template.resources[name]["Type"] == "AWS::EC2::VPCEndpoint"
                and statement.get("Resource") != "*"
            )
            if not policy_of_endpoint:
                yield f"{name}.{statement.get('Sid')}: anybody is allowed without a condition"
        services = as_list(principal.get("Service", [])) if isinstance(principal, dict) else []
        for service in services:
            guarded = _source_keys(statement) or "EncryptionContext" in str(statement.get("Condition", ""))
            if not guarded and plain(service) not in WITHOUT_SOURCE_CONDITION:
                yield (
                    f"{name}.{statement.get('Sid')}: {plain(service)} is allowed without aws:SourceAccount "
                    "or aws:SourceArn"
                )


def _source_keys(statement: dict[str, Any]) -> set[str]:
    keys = {key for block in statement.get("Condition", {}).values() for key in block}
    return {key for key in keys if key.lower() in ("aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid")}


def pass_role_is_scoped(template: Template) -> Iterator[str]:
    for name, statement in template.statements():
        if "iam:PassRole" not in as_list(statement.get("Action", [])) or statement.get("Effect") != "Allow":
            continue
        keys = {key for block in statement.get("Condition", {}).values() for key in block}
        if "iam:PassedToService" not in keys:
            yield f"{name}.{statement.get('Sid')}: iam:PassRole without iam:PassedToService"
        if any(str(resource) == "*" for resource in as_list(statement.get("Resource"))):
            yield f"{name}.{statement.get('Sid')}: iam:PassRole on every role"


def role_makers_set_the_boundary(template: Template) -> Iterator[str]:
    makers = {"iam:CreateRole", "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:PutRolePermissionsBoundary"}
    for name, statement in template.statements():
        if template.resources[name].get("Properties", {}).get("Path") == "/mlops/boundary/":
            continue  # the ceiling: it denies the same without the boundary
        if statement.get("Effect") != "Allow" or not makers & {
            str(a) for a in as_list(statement.get("Action", []))
        }:
            continue
        keys = {key for block in statement.get("Condition", {}).values() for key in block}
        if "iam:PermissionsBoundary" not in keys:
            sid = statement.get("Sid")
            yield f"{name}.{sid}: changes roles without the condition iam:PermissionsBoundary"


def policies_fit(template: Template) -> Iterator[str]:
    for name, policy in template.of_type("AWS::IAM::ManagedPolicy"):
        if (size := size_of(policy["PolicyDocument"])) > MAX_MANAGED_POLICY:
            yield f"managed policy {name} may have {size} characters; IAM takes {MAX_MANAGED_POLICY}"
    for name, role in template.of_type("AWS::IAM::Role"):
        inline = sum(
            size_of(policy["PolicyDocument"])
            for policy in role.get("Policies", [])
            if "PolicyDocument" in policy
        )
        if inline > MAX_INLINE_POLICIES:
            yield f"inline policies of {name} may have {inline} characters; IAM takes {MAX_INLINE_POLICIES}"
        if (size := size_of(role["AssumeRolePolicyDocument"])) > MAX_TRUST_POLICY:
            yield f"trust policy of {name} may have {size} characters; IAM takes {MAX_TRUST_POLICY}"


def no_way_out(template: Template) -> Iterator[str]:
    for name, resource in template.resources.items():
        if resource["Type"] in WAYS_OUT:
            yield f"{name}: {resource['Type']} is a way out of the VPC"
        properties = resource.get("Properties", {})
        if (
            resource["Type"] == "AWS::EC2::Subnet"
            and str(properties.get("MapPublicIpOnLaunch", False)).lower() == "true"
        ):
            yield f"{name}: a private subnet gives no public addresses"
        if resource["Type"].startswith("AWS::EC2::"):
            for node in walk(properties):
                cidrs = (
                    [node.get(key) for key in ("CidrIp", "CidrIpv6", "DestinationCidrBlock")]
                    if isinstance(node, dict)
                    else []
                )
                if EVERYWHERE & {str(cidr) for cidr in cidrs}:
                    yield f"{name}: a rule or route to everywhere"
    for name, group in template.of_type("AWS::EC2::SecurityGroup"):
        if not group.get("SecurityGroupEgress"):
            yield f"{name}: without SecurityGroupEgress EC2 allows everything out"


def endpoints_have_policies(template: Template) -> Iterator[str]:
    for name, endpoint in template.of_type("AWS::EC2::VPCEndpoint"):
        if "PolicyDocument" not in endpoint:
            yield f"{name}: a VPC endpoint without a policy"


def logs_expire(template: Template) -> Iterator[str]:
    for name, group in template.of_type("AWS::Logs::LogGroup"):
        if "RetentionInDays" not in group:
            yield f"{name}: logs without RetentionInDays"
        if "KmsKeyId" not in group:
            yield f"{name}: logs without a key"


def buckets_are_closed(template: Template) -> Iterator[str]:
    tls_only = {
        str(
            policy["Bucket"].get("Ref", policy["Bucket"])
            if isinstance(policy["Bucket"], dict)
            else policy["Bucket"]
        )
        for _, policy in template.of_type("AWS::S3::BucketPolicy")
        for statement in branches(policy["PolicyDocument"]["Statement"])
        if statement.get("Effect") == "Deny" and "aws:SecureTransport" in str(statement.get("Condition", ""))
    }
    for name, bucket in template.of_type("AWS::S3::Bucket"):
        block = bucket.get("PublicAccessBlockConfiguration", {})
        wanted = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        if not all(str(block.get(key)).lower() == "true" for key in wanted):
            yield f"bucket {name} does not block public access in all four ways"
        if bucket.get("VersioningConfiguration", {}).get("Status") != "Enabled":
            yield f"bucket {name} is not versioned"
        if "LifecycleConfiguration" not in bucket:
            yield f"bucket {name} has no lifecycle"
        if name not in tls_only:
            yield f"bucket {name} has no policy that denies access without TLS"


def keys_rotate(template: Template) -> Iterator[str]:
    for name, key in template.of_type("AWS::KMS::Key"):
        if str(key.get("EnableKeyRotation")).lower() != "true":
            yield f"key {name} does not rotate"


def functions_are_packaged(template: Template) -> Iterator[str]:
    for name, function in template.of_type("AWS::Lambda::Function"):
        if "ZipFile" in function.get("Code", {}):
            yield f"function {name} has its code in the template; it belongs in mlops-cfn/lambda/<name>/"


def pipelines_are_current(template: Template) -> Iterator[str]:
    for name, pipeline in template.of_type("AWS::CodePipeline::Pipeline"):
        if pipeline.get("PipelineType") != "V2":
            yield f"pipeline {name} is not of type V2"
        if "EncryptionKey" not in pipeline.get("ArtifactStore", {}):
            yield f"pipeline {name}: the artifact store has no key"
        for action in (action for stage in pipeline["Stages"] for action in stage["Actions"]):
            polls = str(action.get("Configuration", {}).get("PollForSourceChanges", "true")).lower()
            if action["ActionTypeId"]["Provider"] == "CodeCommit" and polls != "false":
                yield (
                    f"pipeline {name}: action {action['Name']} polls; set PollForSourceChanges to 'false' "
                    "and use a rule"
                )


def builds_run_inside(template: Template) -> Iterator[str]:
    for name, project in template.of_type("AWS::CodeBuild::Project"):
        if "VpcConfig" not in project:
            yield f"build {name} does not run in the VPC"
        if "EncryptionKey" not in project:
            yield f"build {name} has no EncryptionKey"


def domains_are_inside(template: Template) -> Iterator[str]:
    for name, domain in template.of_type("AWS::SageMaker::Domain"):
        if domain.get("AppNetworkAccessType") != "VpcOnly":
            yield f"domain {name} is not VpcOnly"
        if domain.get("HomeEfsFileSystemCreation") != "Disabled":
            yield (
                f"domain {name} makes a home file system, which survives it and blocks the deletion "
                "of the VPC"
            )


def strict_yaml(template: Template) -> Iterator[str]:
    """The loader behind cfn-lint (libyaml) takes what a stricter one, as CloudFormation's, may refuse."""

    class Loader(yaml.SafeLoader):  # pure Python
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: suffix)
    try:
        yaml.load(template.text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = mark.line + 1 if mark else "?", getattr(error, "problem", error)
        yield f"line {line}: a strict YAML parser says: {problem}"


Rule = Callable[[Template], Iterator[str]]
RULES: list[Rule] = [
    strict_yaml,
    section_order,
    described,
    parameters_described_and_constrained,
    defaults_fit,
    entry_defaults,
    interface_of_entries,
    entry_size,
    names,
    no_export,
    no_literal_partition,
    no_join,
    both_policies_with_reason,
    custom_resources_time_out,
    statements_have_sids,
    wildcards_have_reasons,
    unscoped_actions_reach_everything,
    actions_are_named,
    resource_types_are_named,
    roles_are_bounded,
    trust_is_guarded,
    resource_policies_are_guarded,
    pass_role_is_scoped,
    role_makers_set_the_boundary,
    policies_fit,
    no_way_out,
    endpoints_have_policies,
    logs_expire,
    buckets_are_closed,
    keys_rotate,
    functions_are_packaged,
    pipelines_are_current,
    builds_run_inside,
    domains_are_inside,
]
