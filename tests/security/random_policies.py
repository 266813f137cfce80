"""Random questions to IAM about what this platform uses: the same seed gives the same questions.

They are about whole decisions, not syntax: several policies of every kind at once, whose statements overlap
often enough that each kind of policy decides some of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from deciders import Question, Statements

HOME, AWAY = "111111111111", "222222222222"
ROLE = f"arn:aws:iam::{HOME}:role/mlops/projects/worker"
KEY = f"arn:aws:kms:us-east-1:{HOME}:key/11111111-2222-3333-4444-555555555555"
PROJECTS = ("p-red", "p-blue")
# One with a value most of the time, one without, one with a default. AWS: a negated operator is true of a
# variable without a value (reference_policies_variables, "policy variables with no value"). The simulator
# says it is false, so the battery asks that of the engine alone.
VARIABLES = (
    "${aws:PrincipalTag/project}",
    "${aws:PrincipalTag/missing}",
    "${aws:PrincipalTag/missing, 'p-red'}",
)


@dataclass(frozen=True)
class Subject:
    """An action, resources that it works on, and what AWS sends with it (key → possible values)."""

    action: str
    resources: tuple[str, ...]
    keys: dict[str, tuple[Any, ...]]
    has_policy: bool = False  # its resources have policies of their own


_TAGS = {f"aws:RequestTag/{name}": PROJECTS for name in ("project", "note")}
_SAGEMAKER = f"arn:aws:sagemaker:us-east-1:{HOME}"
SUBJECTS = (
    Subject(
        "s3:GetObject",
        tuple(f"arn:aws:s3:::{p}-bucket/{k}" for p in PROJECTS for k in ("data/x.csv", "p-red/y")),
        {"aws:SourceVpce": ("vpce-1", "vpce-2")},
        has_policy=True,
    ),
    Subject(
        "s3:PutObject",
        tuple(f"arn:aws:s3:::{p}-bucket/data/x.csv" for p in PROJECTS),
        {
            "s3:x-amz-server-side-encryption-aws-kms-key-id": (KEY, KEY.replace("1111-2222", "1111-9999")),
        },
        has_policy=True,
    ),
    Subject(
        "s3:ListBucket",
        tuple(f"arn:aws:s3:::{p}-bucket" for p in PROJECTS),
        {"s3:prefix": ("data/", "p-red/"), "aws:SourceVpc": ("vpc-1",)},
        has_policy=True,
    ),
    Subject(
        "kms:Decrypt",
        (KEY,),
        {
            "kms:ViaService": ("s3.us-east-1.amazonaws.com", "sns.us-east-1.amazonaws.com"),
            "kms:CallerAccount": (HOME,),
        },
        has_policy=True,
    ),
    Subject(
        "kms:CreateGrant",
        (KEY,),
        {"kms:GrantIsForAWSResource": ("true", "false"), "aws:PrincipalIsAWSService": ("false",)},
        has_policy=True,
    ),
    Subject(
        "sns:Publish",
        tuple(f"arn:aws:sns:us-east-1:{HOME}:{p}-topic" for p in PROJECTS),
        {"aws:SourceVpc": ("vpc-1", "vpc-2")},
        has_policy=True,
    ),
    Subject(
        "ecr:BatchGetImage",
        tuple(f"arn:aws:ecr:us-east-1:{HOME}:repository/{p}/training" for p in PROJECTS),
        {"aws:ResourceTag/project": PROJECTS},
        has_policy=True,
    ),
    Subject(
        "lambda:InvokeFunction",
        tuple(f"arn:aws:lambda:us-east-1:{HOME}:function:{p}-cleanup" for p in PROJECTS),
        {"aws:ResourceTag/project": PROJECTS},
        has_policy=True,
    ),
    Subject(
        "sagemaker:CreateTrainingJob",
        tuple(f"{_SAGEMAKER}:training-job/{p}-job" for p in PROJECTS),
        {
            "sagemaker:VpcSubnets": (["subnet-1"], ["subnet-1", "subnet-2"], ["subnet-9"]),
            "sagemaker:VolumeKmsKeyArn": (KEY,),
            "aws:TagKeys": (["project"], ["project", "note"]),
            **_TAGS,
        },
    ),
    Subject(
        "sagemaker:DeleteEndpoint",
        tuple(f"{_SAGEMAKER}:endpoint/{p}-endpoint" for p in PROJECTS),
        {"aws:ResourceTag/project": PROJECTS},
    ),
    Subject(
        "sagemaker:AddTags",
        tuple(f"{_SAGEMAKER}:pipeline/{p}-pipeline" for p in PROJECTS),
        {
            "aws:TagKeys": (["project"], ["note"], ["project", "note"]),
            "sagemaker:TaggingAction": ("CreatePipeline",),
            **_TAGS,
        },
    ),
    Subject(
        "sagemaker:CreatePresignedDomainUrl",
        tuple(f"{_SAGEMAKER}:user-profile/d-1/{p}-jane" for p in PROJECTS),
        {"aws:ResourceTag/project": PROJECTS},
    ),
    Subject(
        "iam:PassRole",
        tuple(f"arn:aws:iam::{HOME}:role/mlops/projects/{p}-execution" for p in PROJECTS),
        {"iam:PassedToService": ("sagemaker.amazonaws.com", "lambda.amazonaws.com")},
    ),
    Subject(
        "iam:CreateRole",
        tuple(f"arn:aws:iam::{HOME}:role/mlops/projects/{p}" for p in PROJECTS),
        {
            "iam:PermissionsBoundary": tuple(
                f"arn:aws:iam::{HOME}:policy/{name}" for name in ("mlops/boundary/b", "none")
            ),
            **_TAGS,
        },
    ),
    Subject(
        "ssm:GetParameter",
        tuple(f"arn:aws:ssm:us-east-1:{HOME}:parameter/mlops/projects/{p}/key-arn" for p in PROJECTS),
        {"aws:ResourceTag/project": PROJECTS},
    ),
    Subject(
        "codecommit:GitPush",
        tuple(f"arn:aws:codecommit:us-east-1:{HOME}:{p}" for p in PROJECTS),
        {"codecommit:References": ("refs/heads/main", "refs/heads/feature/x")},
    ),
    Subject(
        "sts:GetServiceBearerToken", ("*",), {"sts:AWSServiceName": ("codeartifact.amazonaws.com", "ecr")}
    ),
    Subject(
        "sagemaker:Search",
        ("*",),
        {"sagemaker:SearchVisibilityCondition/Tags.project/EqualsIfExists": PROJECTS},
    ),
)
# keys that come with every call
GLOBAL = {
    "aws:PrincipalTag/project": PROJECTS,
    "aws:PrincipalArn": (ROLE,),
    "aws:SecureTransport": ("true", "true", "false"),
    "aws:PrincipalAccount": (HOME,),
    "aws:RequestedRegion": ("us-east-1",),
}
_STRING = ("StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase")
_ARN = ("ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike")
_SET = tuple(f"{q}:{o}" for q in ("ForAnyValue", "ForAllValues") for o in _STRING[:4])
_BOOLEANS = ("aws:SecureTransport", "kms:GrantIsForAWSResource", "aws:PrincipalIsAWSService")
_ARNS = ("aws:PrincipalArn", "iam:PermissionsBoundary")


class Maker:
    """Makes questions from one source of randomness."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def question(self, number: int) -> Question:
        """One question with all its policies."""
        subject = self.pick(*SUBJECTS)
        resource = self.pick(*subject.resources)
        keys = {**subject.keys, **GLOBAL, "aws:ResourceAccount": (HOME, AWAY)}
        context = {key: self.pick(*values) for key, values in subject.keys.items() if self.chance(0.7)}
        if "aws:TagKeys" in keys:  # AWS sends what fits together: each requested tag's key and value
            context = {k: v for k, v in context.items() if not k.startswith("aws:RequestTag/")}
            for name in context.get("aws:TagKeys", ()):
                context[f"aws:RequestTag/{name}"] = self.pick(*PROJECTS)
        context |= {key: self.pick(*values) for key, values in GLOBAL.items()}
        if self.chance(0.2):
            del context["aws:PrincipalTag/project"]
        owner = AWAY if subject.has_policy and self.chance(0.15) else HOME
        context["aws:ResourceAccount"] = owner
        boundary = self.statements(subject, resource, keys, 0.85) if self.chance(0.4) else None
        return Question(
            name=f"{number} {subject.action}",
            principal=ROLE,
            action=subject.action,
            resource=resource.replace(f":{HOME}:", f":{owner}:"),
            owner=owner,
            context=context,
            identity=self.statements(subject, resource, keys, 0.8) if self.chance(0.9) else [],
            boundary=boundary,
            session=self.statements(subject, resource, keys, 0.85) if self.chance(0.2) else None,
            resource_policy=(
                self.statements(subject, resource, keys, 0.7, principals=True, bounded=boundary is not None)
                if subject.has_policy and self.chance(0.7)
                else None
            ),
            endpoint=(
                [
                    {**statement, "Principal": "*"}  # narrower ones belong into conditions
                    for statement in self.statements(subject, resource, keys, 0.9)
                ]
                if self.chance(0.2)
                else None
            ),
        )

    def statements(
        self,
        subject: Subject,
        resource: str,
        keys: dict[str, tuple[Any, ...]],
        allow: float,
        principals: bool = False,
        bounded: bool = False,
    ) -> Statements:
        """One to three statements; most have to do with the question."""
        return [
            self.statement(subject, resource, keys, allow, principals, bounded)
            for _ in range(self.pick(1, 1, 2, 3))
        ]

    def statement(
        self,
        subject: Subject,
        resource: str,
        keys: dict[str, tuple[Any, ...]],
        allow: float,
        principals: bool,
        bounded: bool,
    ) -> dict[str, Any]:
        made: dict[str, Any] = {"Effect": "Allow" if self.chance(allow) else "Deny"}
        if principals:
            everybody = ["*"]
            if bounded:
                # whether an Allow to everybody counts where a boundary is silent, AWS does not document
                everybody = []
            made["Principal"] = self.pick(
                *everybody,
                *({"AWS": p} for p in (ROLE, f"arn:aws:iam::{HOME}:root", ROLE.replace("worker", "other"))),
                {"AWS": [ROLE, f"arn:aws:iam::{AWAY}:root"]},
            )
        service, _, name = subject.action.partition(":")
        if self.chance(0.12) and not principals:
            made["NotAction"] = self.pick(f"{service}:List*", subject.action, ["iam:*", "sts:*"])
        else:
            verb = name[:3] + "*"
            made["Action"] = self.pick(
                subject.action,
                subject.action,
                f"{service}:*",
                f"{service}:{verb}",
                [f"{service}:Describe*", subject.action.upper().replace(service.upper(), service)],
                f"{service}:{name[:-1]}?",
                f"{service}:Nothing*",
            )
        made |= self.resource(resource, principals and service in ("kms", "ecr"))
        if service == "ecr" and principals and made.get("Resource"):
            made["Resource"] = "*"
        if self.chance(0.5):
            made["Condition"] = self.conditions(keys)
        return made

    def resource(self, resource: str, own: bool) -> dict[str, Any]:
        if resource == "*" or own:  # in a key's or repository's policy the resource is itself
            return {"Resource": "*"}
        head, _, tail = resource.rpartition(":")
        # the simulator takes a colon of a variable for one of the ARN where nothing stands before it
        variables = VARIABLES if "/" in tail or ":s3:" in head else PROJECTS
        project = next((p for p in PROJECTS if p in tail), PROJECTS[0])
        if self.chance(0.12):
            return {"NotResource": self.pick(resource, f"{head}:other*", [f"{head}:*{project}*"])}
        value = self.pick(
            resource,
            resource,
            "*",
            f"{head}:*",
            f"{head}:{tail[:-2]}??",
            f"{head}:{tail.replace(project, '*')}",
            f"{head}:{tail.replace(project, self.pick(*variables))}",
            [f"{head}:{tail.replace(project, self.pick(*PROJECTS))}", f"{head}:other"],
        )
        return {"Resource": value}

    def conditions(self, keys: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for _ in range(self.pick(1, 1, 2)):
            key = self.pick(*keys)
            operator, value = self.condition(key, keys[key])
            made.setdefault(operator, {})[key] = value
        return made

    def condition(self, key: str, values: tuple[Any, ...]) -> tuple[str, Any]:
        if self.chance(0.2):
            return "Null", self.pick("true", "false")
        suffix = "IfExists" if self.chance(0.3) else ""
        if key in _BOOLEANS:
            return f"Bool{suffix}", self.pick("true", "false")
        if isinstance(values[0], list):
            known = [item for value in values for item in value]
            # an absent key under ForAnyValue…IfExists: AWS's pages say both, so nobody should write it
            operator = self.pick(*_SET)
            suffix = "" if operator.startswith("ForAny") else suffix
            return operator + suffix, [self.pick(*known), self.pick(*known, "else*")]
        if key in _ARNS:
            wanted = self.pick(*values, values[0].rsplit("/", 1)[0] + "/*")
            return self.pick(*_ARN) + suffix, wanted
        operator = self.pick(*_STRING)
        variables = VARIABLES[2:] if "Not" in operator else VARIABLES
        wanted = self.pick(*values, self.pick(*values)[:3] + "*", *variables)
        if self.chance(0.3):
            wanted = [wanted, "something-else"]
        return operator + suffix, wanted


def questions(count: int, seed: int) -> list[Question]:
    """``count`` questions."""
    maker = Maker(seed)
    return [maker.question(number) for number in range(count)]
