"""The templates, and what they become once somebody launched them: parameters and functions are values.

Scanners that judge values are blind to what `!Sub` or a parameter will be. `resolve` makes every value
literal, once for each set of parameters in parameters.yml, so that both sides of every condition are seen.

pycfmodel's resolver was tried: it has no GetAtt, turns booleans to text and changes what it is given.
"""

from __future__ import annotations

import base64
import copy
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from cfnlint.decode import cfn_yaml

ROOT = Path(__file__).resolve().parents[2]
CFN = ROOT / "mlops-cfn"
SETS = Path(__file__).with_name("parameters.yml")
ACCOUNT, REGION = "123456789012", "eu-west-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::NotificationARNs": [],
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/mlops/11112222-3333-4444-5555-666",
    "AWS::StackName": "mlops",
    "AWS::URLSuffix": "amazonaws.com",
}
# What Fn::GetAtt <resource>.Arn (or Ref, where that is an ARN) is, by type; {n} is the logical id in small
# letters.
ARNS = {
    "AWS::CodeArtifact::Domain": "arn:aws:codeartifact:{r}:{a}:domain/{n}",
    "AWS::CodeArtifact::Repository": "arn:aws:codeartifact:{r}:{a}:repository/domain/{n}",
    "AWS::CodeBuild::Project": "arn:aws:codebuild:{r}:{a}:project/{n}",
    "AWS::CodeCommit::Repository": "arn:aws:codecommit:{r}:{a}:{n}",
    "AWS::CodePipeline::Pipeline": "arn:aws:codepipeline:{r}:{a}:{n}",
    "AWS::ECR::Repository": "arn:aws:ecr:{r}:{a}:repository/{n}",
    "AWS::Events::Rule": "arn:aws:events:{r}:{a}:rule/{n}",
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::{a}:policy/{n}",
    "AWS::IAM::Role": "arn:aws:iam::{a}:role/{n}",
    "AWS::KMS::Key": "arn:aws:kms:{r}:{a}:key/11112222-3333-4444-5555-{h}",
    "AWS::Lambda::Function": "arn:aws:lambda:{r}:{a}:function:{n}",
    "AWS::Logs::LogGroup": "arn:aws:logs:{r}:{a}:log-group:{n}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{n}",
    "AWS::SNS::Topic": "arn:aws:sns:{r}:{a}:{n}",
    "AWS::SQS::Queue": "arn:aws:sqs:{r}:{a}:{n}",
}
REF_IS_ARN = {"AWS::IAM::ManagedPolicy", "AWS::SNS::Topic"}
REMOVED = object()
DYNAMIC = re.compile(r"\{\{resolve:ssm:([^}:]+)(?::\d+)?\}\}")


@dataclass(frozen=True)
class Template:
    """A template as text and as data; `name` is its path below mlops-cfn."""

    path: Path
    name: str

    def __reduce__(self) -> tuple[type[Template], tuple[Path, str]]:
        """To another process go the names only: the loader's nodes cannot travel."""
        return Template, (self.path, self.name)

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def data(self) -> dict[str, Any]:
        return cfn_yaml.load(str(self.path))

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        return self.data.get("Resources", {})

    def line(self, resource: str) -> int:
        """The line on which a resource begins; 0 when it is none of this template's."""
        for key in self.resources:
            if str(key) == resource:
                return key.start_mark.line + 1
        return 0


def load(root: Path = CFN) -> list[Template]:
    """Every template below a folder, or the one that is given."""
    if root.is_file():
        return [Template(root, root.relative_to(CFN).as_posix() if root.is_relative_to(CFN) else root.name)]
    return [Template(path, path.relative_to(root).as_posix()) for path in sorted(root.rglob("*.yaml"))]


@cache
def described_launches() -> dict[str, Any]:
    """parameters.yml."""
    return yaml.safe_load(SETS.read_text())


def parameter_sets(template: Template) -> dict[str, dict[str, Any]]:
    """The launches of a template that are looked at, by name, each with a value for every parameter."""
    described = described_launches()
    launches = described["launches"].get(template.name) or {"default": {}}
    return {name: _values(template, described["values"] | given) for name, given in launches.items()}


def _values(template: Template, given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {name: value for name, value in given.items() if name in PSEUDO}
    for name, parameter in template.data.get("Parameters", {}).items():
        from_ssm = str(parameter["Type"]).startswith("AWS::SSM::")
        if name in given:
            values[name] = given[name]
        elif "Default" in parameter and not from_ssm:
            values[name] = parameter["Default"]
        elif "AllowedValues" in parameter:
            values[name] = parameter["AllowedValues"][0]
        else:
            # a test sees to it that parameters.yml knows all of ours; other people's templates are scanned
            # too
            several = "List" in str(parameter["Type"])
            values[name] = [f"{name.lower()}-{i}" for i in range(6)] if several else name.lower()
    return values


def resolved(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """The template as each of its launches makes it."""
    for name, values in parameter_sets(template).items():
        yield name, resolve(template.data, values)


def resolve(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Literal resources: no functions, no parameters; what a condition leaves out is gone."""
    return Resolver(data, values).template()


class Resolver:
    """CloudFormation's functions; what is not known before a launch gets a plausible value."""

    def __init__(self, data: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        self.data = data
        self.values = {**PSEUDO, **values}

    def template(self) -> dict[str, Any]:
        """The template with literal resources."""
        resources = {}
        for name, resource in self.data.get("Resources", {}).items():
            if "Condition" in resource and not self.condition(resource["Condition"]):
                continue
            literal = {str(key): copy.deepcopy(value) for key, value in resource.items()}
            literal["Properties"] = self.value(resource.get("Properties", {}))
            resources[str(name)] = literal
        return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": _plain(resources)}

    def condition(self, name: str) -> bool:
        """Whether a named condition holds."""
        return bool(self.value(self.data["Conditions"][name]))

    def value(self, node: Any) -> Any:
        """The literal that a node becomes."""
        if isinstance(node, list):
            return [value for value in map(self.value, node) if value is not REMOVED]
        if isinstance(node, str):
            return DYNAMIC.sub(self.parameter, node)
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (key, argument), *_ = node.items()
            if key == "Ref":
                return self.reference(str(argument))
            if key == "Condition" and isinstance(argument, str):
                return self.condition(argument)
            if str(key).startswith("Fn::"):
                return self.function(str(key)[4:], argument)
        pairs = ((str(key), self.value(value)) for key, value in node.items())
        return {key: value for key, value in pairs if value is not REMOVED}

    def reference(self, name: str) -> Any:
        """Ref."""
        if name == "AWS::NoValue":
            return REMOVED
        if name in self.values:
            return self.values[name]
        kind = self.data["Resources"][name]["Type"]
        return self.arn(name) if kind in REF_IS_ARN else name.lower()

    def arn(self, name: str) -> str:
        """The ARN of a resource of this template."""
        kind = self.data["Resources"][name]["Type"]
        pattern = ARNS.get(kind, "arn:aws:" + kind.split("::")[1].lower() + ":{r}:{a}:{n}")
        return pattern.format(a=ACCOUNT, r=REGION, n=name.lower(), h=name.encode().hex().ljust(12, "0")[:12])

    def attribute(self, name: str, attribute: str) -> Any:
        """Fn::GetAtt."""
        kind = self.data["Resources"][name]["Type"]
        if attribute in ("Arn", "TopicArn"):
            return self.arn(name)
        if kind == "AWS::CloudFormation::Stack" or kind.startswith("Custom::"):
            # what another template hands over: the parameter of the same name says what it looks like
            output = attribute.removeprefix("Outputs.")
            return described_launches()["values"].get(output, f"{name}-{output}".lower())
        return f"{name}-{attribute}".lower()

    def function(self, name: str, argument: Any) -> Any:
        """Any other function."""
        if name == "If":
            condition, then, otherwise = argument
            return self.value(then if self.condition(condition) else otherwise)
        if name == "GetAtt":
            parts = argument.split(".", 1) if isinstance(argument, str) else argument
            return self.attribute(str(parts[0]), ".".join(map(str, parts[1:])))
        if name == "Sub":
            return self.substitute(argument)
        plain = self.value(argument)
        functions = {
            "And": lambda: all(plain),
            "Or": lambda: any(plain),
            "Not": lambda: not plain[0],
            "Equals": lambda: str(plain[0]) == str(plain[1]),
            "Contains": lambda: plain[1] in plain[0],
            "Join": lambda: str(plain[0]).join(map(str, plain[1])),
            "Split": lambda: str(plain[1]).split(str(plain[0])),
            "Select": lambda: plain[1][min(int(plain[0]), len(plain[1]) - 1)],
            "FindInMap": lambda: self.data["Mappings"][plain[0]][plain[1]][plain[2]],
            "Base64": lambda: base64.b64encode(str(plain).encode()).decode(),
            "ImportValue": lambda: str(plain).lower(),
            "GetAZs": lambda: [f"{REGION}{zone}" for zone in "abc"],
            "Cidr": lambda: self.cidr(*plain),
        }
        if name not in functions:
            raise NotImplementedError(f"Fn::{name}")
        return functions[name]()

    def substitute(self, argument: Any) -> str:
        """Fn::Sub."""
        text, names = (argument, {}) if isinstance(argument, str) else argument
        local = {key: self.value(value) for key, value in names.items()}

        def fill(match: re.Match[str]) -> str:
            name = match[1].strip()
            if name in local:
                return str(local[name])
            resource, _, attribute = name.partition(".")
            return str(self.attribute(resource, attribute) if attribute else self.reference(name))

        filled = re.sub(r"\$\{!", "${", re.sub(r"\$\{([^!}][^}]*)\}", fill, text))
        return DYNAMIC.sub(self.parameter, filled)

    @staticmethod
    def parameter(match: re.Match[str]) -> str:
        """{{resolve:ssm:/mlops/…/key-arn}}: what the parameter KeyArn looks like."""
        name = "".join(word.capitalize() for word in match[1].rsplit("/", 1)[-1].split("-"))
        return str(described_launches()["values"].get(name, name))

    @staticmethod
    def cidr(block: str, count: int | str, bits: int | str = 8) -> list[str]:
        """Fn::Cidr."""
        subnets = ipaddress.ip_network(str(block)).subnets(new_prefix=32 - int(bits))
        return [str(subnet) for subnet, _ in zip(subnets, range(int(count)), strict=False)]


def _plain(node: Any) -> Any:
    """The loader's nodes as ordinary values, without their places in the file."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, str) else node
