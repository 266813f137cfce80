"""A stack as it would be made from a template: intrinsic functions resolved, names and ids as AWS gives them.

Only what our templates use is known; anything else is an error, so that no property is judged by a guess.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from house_rules import Template, load

from localaws.permissions.handlers import (
    NAMED_BY_SERVICE,
    OWN,
    Place,
    Resource,
    generated_name,
    own_arn,
    stack_tags,
)

REGION, ACCOUNT = "ap-southeast-1", "123456789012"
#: ids that a service gives, by type
IDS = {
    "AWS::ApiGateway::RestApi": "a1b2c3d4e5",
    "AWS::ApiGatewayV2::Api": "f6g7h8i9j0",
    "AWS::EC2::FlowLog": "fl-0123456789abcdef0",
    "AWS::EC2::RouteTable": "rtb-0123456789abcdef0",
    "AWS::EC2::SecurityGroup": "sg-0123456789abcdef0",
    "AWS::EC2::Subnet": "subnet-0123456789abcdef0",
    "AWS::EC2::VPC": "vpc-0123456789abcdef0",
    "AWS::EC2::VPCEndpoint": "vpce-0123456789abcdef0",
    "AWS::SageMaker::Domain": "d-abcdefghijkl",
    "AWS::ServiceCatalog::CloudFormationProduct": "prod-abcdefghijklm",
    "AWS::ServiceCatalog::Portfolio": "port-abcdefghijklm",
}
#: types whose Ref is an ARN
REF_IS_ARN = {
    "AWS::IAM::ManagedPolicy",
    "AWS::SNS::Topic",
    "AWS::SageMaker::DataQualityJobDefinition",
    "AWS::SageMaker::EndpointConfig",
    "AWS::SageMaker::Model",
    "AWS::SageMaker::ModelBiasJobDefinition",
    "AWS::SageMaker::ModelExplainabilityJobDefinition",
    "AWS::SageMaker::ModelPackageGroup",
    "AWS::SageMaker::ModelQualityJobDefinition",
    "AWS::SageMaker::MonitoringSchedule",
}
_NO_VALUE = object()


@dataclass
class StackModel:
    """A stack of ``path`` with ``parameters``; ``parents`` are the values of SSM parameters that exist."""

    path: Path
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ssm: dict[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    #: path of the template of a nested stack, by the folder of its parent and its logical id
    nested: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.template: Template = load(self.path)
        self.place = Place(self.name, REGION, ACCOUNT)
        self.read_from_ssm: set[str] = set()
        self._children: dict[str, StackModel] = {}
        self._values: dict[str, dict[str, Any]] = {}
        self._conditions: dict[str, bool] = {}

    # -- resources ---------------------------------------------------------------------------------------
    def resources(self) -> Iterator[tuple[StackModel, Resource]]:
        """Each resource that is made, with its stack; nested stacks and what is in them."""
        for logical_id in self.template.resources:
            if not self.exists(logical_id):
                continue
            yield self, self.resource(logical_id)
            if self.template.resources[logical_id]["Type"] == "AWS::CloudFormation::Stack":
                yield from self.child(logical_id).resources()

    def exists(self, logical_id: str) -> bool:
        """Whether the resource's condition is met."""
        condition = self.template.resources[logical_id].get("Condition")
        return condition is None or self.condition(condition)

    def resource(self, logical_id: str) -> Resource:
        """A resource with its properties and id."""
        kind = self.template.resources[logical_id]["Type"]
        policy = self.resolve(self.template.resources[logical_id].get("UpdatePolicy", {}))
        found = Resource(kind, logical_id, self.properties(logical_id), self.ref(logical_id))
        return replace(found, update_policy=policy)

    def properties(self, logical_id: str) -> dict[str, Any]:
        """A resource's properties, resolved, with the tags of its stack."""
        if logical_id not in self._values:
            definition = self.template.resources[logical_id]
            found = self.resolve(definition.get("Properties", {}))
            self._values[logical_id] = stack_tags(definition["Type"], found, self.tags)
        return self._values[logical_id]

    def ref(self, logical_id: str) -> str:
        """What Ref gives: a name, an ARN or the id that a service made."""
        definition = self.template.resources[logical_id]
        kind = definition["Type"]
        if kind in IDS:
            return f"{IDS[kind]}{logical_id.lower()}"[:40] if kind.startswith("AWS::EC2::") else IDS[kind]
        if kind == "AWS::KMS::Key":
            return f"11111111-2222-3333-4444-{logical_id.encode().hex()[:12]}"
        if kind == "AWS::CloudFormation::Stack":
            return self.place.arn(
                f"arn:${{Partition}}:cloudformation:${{Region}}:${{Account}}:stack/{self._generated(logical_id)}/1a2b"
            )
        if kind.startswith("Custom::"):
            return "prod-abcdefghijklm" if kind == "Custom::CatalogProduct" else f"{logical_id}-1"
        if kind not in OWN:
            return self._generated(logical_id)
        arn = own_arn(Resource(kind, logical_id, self._named(logical_id)), self.place)
        if kind in REF_IS_ARN:
            return arn
        if kind in ("AWS::KMS::Alias", "AWS::SSM::Parameter", "AWS::Logs::LogGroup"):
            key = {"AWS::KMS::Alias": "AliasName", "AWS::SSM::Parameter": "Name"}.get(kind, "LogGroupName")
            return str(self._named(logical_id).get(key) or self._generated(logical_id))
        if kind == "AWS::ECR::Repository":
            return str(self._named(logical_id)["RepositoryName"])
        return arn.rpartition(":")[2].rpartition("/")[2]

    def _named(self, logical_id: str) -> dict[str, Any]:
        """The properties that a name is made of, without resolving those that may refer back."""
        props = self.template.resources[logical_id].get("Properties", {})
        kind = self.template.resources[logical_id]["Type"]
        names = {name.partition(".")[0] for name in OWN.get(kind, ("", {}))[1].values()}
        wanted = {*names, "Path"} - {"", "*"}
        return {k: self.resolve(v) for k, v in props.items() if k in wanted}

    def _generated(self, logical_id: str) -> str:
        return generated_name(self.template.resources[logical_id]["Type"], self.name, logical_id)

    def arn(self, logical_id: str) -> str:
        """The ARN of a resource."""
        kind = self.template.resources[logical_id]["Type"]
        physical = self.ref(logical_id)
        return own_arn(Resource(kind, logical_id, self._named(logical_id), physical), self.place)

    # -- nested stacks -------------------------------------------------------------------------------------
    def child(self, logical_id: str) -> StackModel:
        """The stack inside."""
        if logical_id not in self._children:
            props = self.resolve(self.template.resources[logical_id].get("Properties", {}))
            tags = {t["Key"]: t["Value"] for t in props.get("Tags", [])}
            self._children[logical_id] = StackModel(
                self.nested[logical_id],
                self._generated(logical_id),
                props.get("Parameters", {}),
                self.ssm,
                {**self.tags, **tags},
                self.nested,
            )
        return self._children[logical_id]

    # -- values --------------------------------------------------------------------------------------------
    @cached_property
    def given(self) -> dict[str, Any]:
        """The value of each parameter."""
        found = {}
        for name, parameter in self.template.data.get("Parameters", {}).items():
            value = self.parameters.get(name, parameter.get("Default"))
            assert value is not None, f"{self.path.name}: parameter {name} has no value"
            if parameter["Type"].startswith("AWS::SSM::Parameter::Value"):
                self.read_from_ssm.add(str(value))
                value = self.ssm[str(value)]
            if "List" in parameter["Type"] or parameter["Type"] == "CommaDelimitedList":
                value = value if isinstance(value, list) else str(value).split(",")
            found[name] = value
        return found

    def condition(self, name: str) -> bool:
        """Whether a condition of the template is met."""
        if name not in self._conditions:
            self._conditions[name] = bool(self.resolve(self.template.data["Conditions"][name]))
        return self._conditions[name]

    def resolve(self, node: Any) -> Any:
        """A value with its functions carried out; what is AWS::NoValue is left out."""
        if isinstance(node, Mapping):
            if len(node) == 1:
                ((name, argument),) = node.items()
                if name == "Ref" or name == "Condition" or name.startswith("Fn::"):
                    return self._function(name, argument)
            out = {str(k): self.resolve(v) for k, v in node.items()}
            return {k: v for k, v in out.items() if v is not _NO_VALUE}
        if isinstance(node, list):
            return [v for v in (self.resolve(item) for item in node) if v is not _NO_VALUE]
        return self._references(str(node)) if isinstance(node, str) else node

    def _references(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            self.read_from_ssm.add(match[1])
            return self.ssm[match[1]]

        return re.sub(r"\{\{resolve:ssm:([^:}]+)(?::\d+)?\}\}", value, text)

    def _function(self, name: str, argument: Any) -> Any:
        if name == "Ref":
            return self._reference(str(argument))
        if name == "Condition":
            return self.condition(argument)
        if name == "Fn::GetAtt":
            logical_id, _, attribute = (
                str(argument).partition(".") if isinstance(argument, str) else (argument[0], "", argument[1])
            )
            return self._attribute(str(logical_id), str(attribute))
        if name == "Fn::Sub":
            return self._sub(argument)
        if name == "Fn::If":
            return self.resolve(argument[1] if self.condition(argument[0]) else argument[2])
        if name == "Fn::Transform":
            raise AssertionError("no macros")
        found = self.resolve(argument)
        return _FUNCTIONS[name](self, found)

    def _reference(self, name: str) -> Any:
        pseudo = {
            "AWS::AccountId": ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::Region": REGION,
            "AWS::StackName": self.name,
            "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{self.name}/1a2b",
            "AWS::URLSuffix": "amazonaws.com",
            "AWS::NoValue": _NO_VALUE,
        }
        if name in pseudo:
            return pseudo[name]
        return self.given[name] if name in self.given else self.ref(name)

    def _attribute(self, logical_id: str, attribute: str) -> Any:
        kind = self.template.resources[logical_id]["Type"]
        if kind == "AWS::CloudFormation::Stack":
            child = self.child(logical_id)
            return child.resolve(child.template.data["Outputs"][attribute.removeprefix("Outputs.")]["Value"])
        if attribute.endswith("Arn"):
            return self.arn(logical_id)
        if attribute == "Name":
            return str(self._named(logical_id).get("RepositoryName") or self.ref(logical_id))
        if attribute in ("EndpointConfigName", "EndpointName", "ModelName"):
            return self.ref(logical_id).rpartition("/")[2]
        if attribute == "RootResourceId":
            return "r0o1o2t3i4"
        if attribute in ("GroupId", "VpcId"):
            return self.ref(logical_id)
        if attribute in ("RepositoryUri", "CloneUrlHttp", "PrefixListId"):
            return {
                "RepositoryUri": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{self.ref(logical_id)}",
                "CloneUrlHttp": f"https://git-codecommit.{REGION}.amazonaws.com/v1/repos/{self.ref(logical_id)}",
                "PrefixListId": "pl-0123456789abcdef0",
            }[attribute]
        return f"{logical_id}.{attribute}"

    def _sub(self, argument: Any) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else (argument[0], self.resolve(argument[1]))

        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in own:
                found = own[name]
            elif "." in name:
                found = self._attribute(*name.split(".", 1))
            else:
                found = self._reference(name)
            return ",".join(found) if isinstance(found, list) else str(found)

        filled = re.sub(r"\$\{([^!}][^}]*)\}", value, str(text))
        return self._references(filled.replace("${!", "${"))


def _find_in_map(model: StackModel, found: list[Any]) -> str:
    name, key, attribute = found
    value = model.template.data["Mappings"][name][key][attribute]
    stamped = {"Bucket": f"mlops-release-{ACCOUNT}-{REGION}", "Version": "1.2.3"}
    # what publishing stamps (the hash of what it is)
    return stamped.get(attribute, f"objects/{attribute}") if value == "unreleased" else value


_FUNCTIONS = {
    "Fn::And": lambda model, found: all(found),
    "Fn::Base64": lambda model, found: base64.b64encode(str(found).encode()).decode(),
    "Fn::Cidr": lambda model, found: [f"10.0.{i}.0/24" for i in range(int(found[1]))],
    "Fn::Equals": lambda model, found: str(found[0]) == str(found[1]),
    "Fn::FindInMap": _find_in_map,
    "Fn::GetAZs": lambda model, found: [f"{REGION}{zone}" for zone in "abc"],
    "Fn::Join": lambda model, found: str(found[0]).join(str(part) for part in found[1]),
    "Fn::Not": lambda model, found: not found[0],
    "Fn::Or": lambda model, found: any(found),
    "Fn::Select": lambda model, found: found[1][int(found[0])],
    "Fn::Split": lambda model, found: str(found[1]).split(str(found[0])),
    "Fn::ToJsonString": lambda model, found: json.dumps(found),
}


def parameters_written(stack: StackModel) -> dict[str, str]:
    """What a stack writes into the parameter store."""
    return {
        resource.properties["Name"]: str(resource.properties["Value"])
        for _, resource in stack.resources()
        if resource.type == "AWS::SSM::Parameter"
    }


def is_kept(stack: StackModel, resource: Resource) -> bool:
    """Whether the resource stays when its stack goes, and when a stack that could not be made goes back."""
    return stack.template.resources[resource.logical_id].get("DeletionPolicy") == "Retain"


def without_id(resource: Resource) -> Resource:
    """The resource before it is made."""
    assert resource.type not in NAMED_BY_SERVICE or resource.physical_id
    return Resource(resource.type, resource.logical_id, resource.properties)
