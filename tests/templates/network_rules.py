"""What the network template must keep: endpoints for what is called from inside, and no further one.

Needed endpoints come from two sides: the calls that a rehearsal saw inside the VPC (vpc_calls.yml) and those
that stand in code, buildspecs and lifecycle scripts. An endpoint that nobody calls needs its reason beside
it, behind "no caller".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import yaml
from house_rules import CFN, ROOT, Template, as_list, branches, plain, size_of

from localaws.permissions.network import endpoint_name

TABLE = Path(__file__).with_name("vpc_calls.yml")
#: where code lies that runs inside the VPC, and the templates that hold scripts which run there
FOLDERS = (ROOT / "mlops-cicd", ROOT / "seedcode-repo")
SCRIPTS = (CFN / "2-smproject.yaml", CFN / "3-user.yaml")
KINDS = (".py", ".yml", ".ipynb", ".sh")
#: programs of builds and spaces that reach AWS by a protocol of their own
PROGRAMS = {
    r"\baws codecommit credential-helper\b": {"git-codecommit"},
    r"\baws codeartifact login --tool pip\b": {"codeartifact.api", "codeartifact.repositories"},
    r"""["']docker["'], ["'](?:build|push|login)["']|\bdocker (?:build|push|login)\b""": {"ecr.dkr", "s3"},
}
#: CodeBuild itself, inside the VPC: sources and artifacts, and the log
#: https://docs.aws.amazon.com/codebuild/latest/userguide/vpc-support.html
BUILDS = {"s3", "logs"}
MAX_POLICY = 20_480
#: endpoints with a second statement that names no own resources, each with its condition or resource
FURTHER = {"BaseImagesOfAws", "BearerToken", "LayersOfContainerImages"}
#: statements of a release that works in a stage's account → its callers, its resources, what it does
STAGE_ACCOUNTS = {"Fn::Split": [",", {"Ref": "StageAccountIds"}]}
OF_STAGES = {
    "RolesOfStages": ({"Ref": "AWS::AccountId"}, STAGE_ACCOUNTS, r"sts:AssumeRole"),
    "ReleasesInStages": (STAGE_ACCOUNTS, STAGE_ACCOUNTS, r"\w+:(Describe|Get|Invoke)\w+"),
}
RELEASE_ROLES = "role/mlops/projects/mlops-p-*-release"


#: called from inside only where a project has an API, which Select refuses without OptionalEndpoints
OF_APIS = {"execute-api", "lambda"}


def endpoints(template: Template) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name of the endpoint without region → logical id and resource."""
    found = {}
    for name, resource in template.resources.items():
        if resource["Type"] == "AWS::EC2::VPCEndpoint":
            service = str(resource["Properties"]["ServiceName"]["Fn::Sub"])
            found[re.sub(r"^(com\.amazonaws|aws\.sagemaker)\.\$\{AWS::Region\}\.", "", service)] = (
                name,
                resource,
            )
    return found


def reasons(template: Template) -> dict[str, str]:
    """Logical id → what stands beside it."""
    return {
        found[1]: found[2]
        for line in template.lines
        if (found := re.fullmatch(r"  (\w+Endpoint):\s+# (.+)", line))
    }


def static_calls(folders: Iterable[Path], scripts: Iterable[Path] = ()) -> dict[str, str]:
    """Endpoints that code, buildspecs and scripts call, each with a file that does."""
    known = {*boto3.Session().get_available_services(), "s3api"}  # s3api is a command of the CLI only
    found: dict[str, str] = {}
    files = [(f, p) for f in folders for p in sorted(f.rglob("*"))] + [(s.parent, s) for s in scripts]
    for folder, path in files:
        inside = path.suffix in KINDS and "tests" not in path.relative_to(folder).parts
        if not (inside or path in scripts):
            continue
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"""(?:^|[\s`"'!(-])aws ([a-z0-9-]+) (?!credential-helper)[a-z]""", text)
        names += re.findall(
            r"""(?:\.client|\b(?:boto3|session)\.resource|client)\(\s*\\?["']([a-z0-9-]+)\\?["']""", text
        )
        called = {"s3" if n == "s3api" else endpoint_name(n) for n in known.intersection(names)}
        for pattern, served in PROGRAMS.items():
            called |= served if re.search(pattern, text) else set()
        for name in called:
            found.setdefault(name, path.name)
    return found


def seen_calls() -> dict[str, list[str]]:
    """Endpoint → what used it in a rehearsal."""
    return yaml.safe_load(TABLE.read_text())


def endpoint_faults(
    template: Template, static: Mapping[str, str], seen: Mapping[str, list[str]]
) -> Iterator[str]:
    """Endpoints that are missing, optional though somebody calls them, or there without caller and reason."""
    there, beside = endpoints(template), reasons(template)
    callers = {name: f"{', '.join(kinds)} in a rehearsal" for name, kinds in seen.items()}
    callers |= {name: "CodeBuild" for name in BUILDS - callers.keys()}
    callers |= {name: file for name, file in static.items() if name not in callers}
    for name, caller in sorted(callers.items()):
        if name not in there:
            yield f"{name} is called from inside ({caller}) and has no endpoint"
            continue
        logical, resource = there[name]
        if "Condition" in resource and name not in OF_APIS:
            yield f"{logical}: {name} is called from inside ({caller}), so its endpoint is not optional"
        if beside.get(logical, "no caller: ").startswith("no caller"):
            yield f"{logical}: {name} is called from inside ({caller}); beside it must stand by what"
    for name, (logical, _) in sorted(there.items()):
        reason = r"builds, where a project has a" if name in OF_APIS else r"no caller: \w+"
        if name not in callers and not re.match(reason, beside.get(logical, "")):
            yield f"{logical}: nothing calls {name} from inside, and no reason stands beside it"


def policy_faults(template: Template) -> Iterator[str]:
    """Endpoint policies that let other accounts' callers in or own callers out to other accounts."""
    own = {"Ref": "AWS::AccountId"}
    for name, (logical, resource) in endpoints(template).items():
        policy = resource["Properties"].get("PolicyDocument", {})
        if size_of(policy) > MAX_POLICY:
            yield f"{logical}: the policy of {name} is longer than {MAX_POLICY} characters"
        for statement in branches(policy.get("Statement", [])):
            sid, keys = statement["Sid"], statement.get("Condition", {}).get("StringEquals", {})
            if statement["Effect"] != "Allow" or sid in FURTHER:
                continue
            if sid in OF_STAGES:
                yield from stage_faults(f"{logical}.{sid}", statement, keys)
                continue
            for key in ("aws:PrincipalAccount", "aws:ResourceAccount"):
                if keys.get(key) != own:
                    yield f"{logical}.{sid}: {key} is not pinned to this account"
            if name == "s3" and "*" in as_list(statement["Resource"]):
                yield f"{logical}.{sid}: every bucket of the account"
        for statement in branches(policy.get("Statement", [])):
            if statement["Sid"] not in FURTHER:
                continue
            limits = statement.get("Condition") or statement["Resource"] != "*"
            reads = all(re.search(r":(Get|Batch)", plain(a)) for a in as_list(statement["Action"]))
            if not limits or not reads:
                yield f"{logical}.{statement['Sid']}: more than reading what is AWS's"


def stage_faults(where: str, statement: Mapping[str, Any], keys: Mapping[str, Any]) -> Iterator[str]:
    """What lets a release work in the accounts of stages: these accounts, these roles, and no more."""
    callers, resources, does = OF_STAGES[statement["Sid"]]
    if keys.get("aws:PrincipalAccount") != callers:
        yield f"{where}: its callers are others than they must be"
    if statement["Resource"] != "*" and keys.get("aws:ResourceAccount") != resources:
        yield f"{where}: its resources are of other accounts than they must be"
    if not all(re.fullmatch(does, action) for action in as_list(statement["Action"])):
        yield f"{where}: does more than a release needs"
    if RELEASE_ROLES not in str(statement["Resource"]) + str(statement["Condition"].get("ArnLike")):
        yield f"{where}: is not limited to the release roles of projects"


def group_faults(template: Template) -> Iterator[str]:
    """Rules of security groups that nothing needs."""
    groups = dict(template.of_type("AWS::EC2::SecurityGroup"))
    rules = [
        (name, direction, rule)
        for name, group in groups.items()
        for direction in ("Ingress", "Egress")
        for rule in group.get(f"SecurityGroup{direction}", [])
    ]
    for direction in ("Ingress", "Egress"):
        for _, rule in template.of_type(f"AWS::EC2::SecurityGroup{direction}"):
            rules.append((rule["GroupId"]["Ref"], direction, rule))
    for group, direction, rule in rules:
        if not rule.get("Description"):
            yield f"{group}: a rule without a description"
        if (rule.get("FromPort"), rule.get("ToPort")) != (443, 443) or rule.get("IpProtocol") != "tcp":
            yield f"{group}: a rule for more than HTTPS"
        peers = [rule.get(f"{side}SecurityGroupId") for side in ("Source", "Destination")]
        if {"Ref": group} in peers:
            yield f"{group}: its members reach one another, and so every user the applications of all others"
        allowed = {"EndpointSecurityGroup": {"Ingress"}}.get(group, {"Egress"})
        if direction not in allowed and rule.get("CidrIp") != "127.0.0.1/32":
            yield f"{group}: {direction} is not needed"
    closed = [p for _, p in template.of_type("Custom::ClosedGroup")]
    if not any(p["GroupId"] == {"Fn::GetAtt": ["Vpc", "DefaultSecurityGroup"]} for p in closed):
        yield "the default security group of the VPC is open"
