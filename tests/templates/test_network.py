"""The network: endpoints for what is called from inside and no further ones, pinned, and closed groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from house_rules import CFN, Template, load
from network_rules import (
    FOLDERS,
    OF_APIS,
    SCRIPTS,
    endpoint_faults,
    endpoints,
    group_faults,
    policy_faults,
    seen_calls,
    static_calls,
)

FIXTURES = Path(__file__).parent / "fixtures"
NETWORK = CFN / "infra" / "network.yaml"
STATIC = static_calls(FOLDERS, SCRIPTS)
SEEN = seen_calls()
CALLED = sorted({*STATIC, *SEEN})
UNCALLED = sorted(set(endpoints(load(NETWORK))) - set(CALLED))


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], Template]:
    """A copy of the network template with one piece of text replaced."""

    def change(old: str, new: str) -> Template:
        text = NETWORK.read_text()
        assert old in text, f"the template has no {old!r} any more"
        copy = tmp_path / "network.yaml"
        copy.write_text(text.replace(old, new, 1))
        return Template(copy)

    return change


def block(template: Template, logical: str) -> str:
    """The text of a resource."""
    start = next(n for n, line in enumerate(template.lines) if line.startswith(f"  {logical}:"))
    rest = template.lines[start + 1 :]
    end = next(
        (n for n, line in enumerate(rest) if line[:3].strip() and not line.startswith("   ")), len(rest)
    )
    return "\n".join(template.lines[start : start + 1 + end]) + "\n"


# -- endpoints --------------------------------------------------------------------------------------------
def test_endpoints_are_those_that_are_called_from_inside() -> None:
    assert list(endpoint_faults(load(NETWORK), STATIC, SEEN)) == []


def test_both_sources_say_something() -> None:
    assert {"sagemaker.api", "ssm", "s3", "git-codecommit", "codeartifact.repositories", "ecr.dkr"} <= set(
        STATIC
    )
    assert {"build", "job", "studio"} <= {kind for kinds in SEEN.values() for kind in kinds}


def test_studio_has_its_endpoints() -> None:
    """What AWS lists for a VpcOnly domain without internet.

    https://docs.aws.amazon.com/sagemaker/latest/dg/studio-updated-and-internet-access.html
    """
    wanted = {"sagemaker.api", "sagemaker.runtime", "studio", "s3", "sts", "logs", "servicecatalog"}
    found = endpoints(load(NETWORK))
    assert wanted <= {name for name, (_, resource) in found.items() if "Condition" not in resource}


@pytest.mark.parametrize("name", CALLED)
def test_a_missing_endpoint_is_found(name: str, changed: Callable) -> None:
    template = load(NETWORK)
    mutant = changed(block(template, endpoints(template)[name][0]), "")
    faults = list(endpoint_faults(mutant, STATIC, SEEN))
    assert len(faults) == 1 and faults[0].startswith(f"{name} is called from inside (")


@pytest.mark.parametrize("name", sorted(set(CALLED) - OF_APIS))
def test_a_called_endpoint_cannot_be_optional(name: str, changed: Callable) -> None:
    template = load(NETWORK)
    logical = endpoints(template)[name][0]
    old = block(template, logical)
    mutant = changed(
        old, old.replace("    Properties:", "    Condition: HasOptionalEndpoints\n    Properties:", 1)
    )
    assert [f for f in endpoint_faults(mutant, STATIC, SEEN) if "is not optional" in f and logical in f]


@pytest.mark.parametrize("name", ["sqs", "iot.data"])
def test_an_endpoint_that_nobody_needs_is_found(name: str, changed: Callable) -> None:
    old = block(load(NETWORK), "SsmEndpoint")
    new = old.replace("SsmEndpoint", "FurtherEndpoint").replace("}.ssm", f"}}.{name}")
    mutant = changed(old, old + "\n" + new)
    wanted = f"FurtherEndpoint: nothing calls {name} from inside, and no reason stands beside it"
    assert list(endpoint_faults(mutant, STATIC, SEEN)) == [wanted]


@pytest.mark.parametrize("name", UNCALLED)
def test_an_endpoint_without_caller_needs_its_reason(name: str, changed: Callable) -> None:
    template = load(NETWORK)
    logical = endpoints(template)[name][0]
    line = next(line for line in template.lines if line.startswith(f"  {logical}:"))
    for left in (f"  {logical}:", f"  {logical}:  # no caller:"):
        faults = list(endpoint_faults(changed(line, left), STATIC, SEEN))
        assert faults == [f"{logical}: nothing calls {name} from inside, and no reason stands beside it"]


def test_a_new_caller_is_found(tmp_path: Path) -> None:
    assert static_calls([FIXTURES / "endpoints"]) == {"iot": "call.py", "kms": "build.yml"}
    static = static_calls([FIXTURES / "endpoints"])
    faults = list(endpoint_faults(load(NETWORK), {**STATIC, **static}, SEEN))
    assert "iot is called from inside (call.py) and has no endpoint" in faults
    assert [f for f in faults if f.startswith("KmsEndpoint: kms is called from inside (build.yml)")]


# -- policies ---------------------------------------------------------------------------------------------
def test_policies_pin_callers_and_resources() -> None:
    assert list(policy_faults(load(NETWORK))) == []


CALLER, RESOURCE = "'aws:PrincipalAccount': !Ref AWS::AccountId", "'aws:ResourceAccount': !Ref AWS::AccountId"
OF_ANY = "Action: {}:*, Resource: '*', Condition: {{StringEquals: {{"
LAYERS = "            Resource: !Sub arn:${AWS::Partition}:s3:::prod-${AWS::Region}-starport-layer-bucket"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            OF_ANY.format("kms") + CALLER + ", ",
            OF_ANY.format("kms"),
            "KmsEndpoint.OwnAccount: aws:PrincipalAccount is not pinned to this account",
        ),
        (
            OF_ANY.format("ssm") + CALLER + ", " + RESOURCE,
            OF_ANY.format("ssm") + CALLER,
            "SsmEndpoint.OwnAccount: aws:ResourceAccount is not pinned to this account",
        ),
        (
            "              - !Sub arn:${AWS::Partition}:s3:::${ArtifactBucketName}\n",
            "              - '*'\n",
            "S3Endpoint.PlatformAndProjectBuckets: every bucket of the account",
        ),
        (
            "Action: [ecr:BatchCheckLayerAvailability, ",
            "Action: [ecr:PutImage, ",
            "EcrApiEndpoint.BaseImagesOfAws: more than reading what is AWS's",
        ),
        (
            LAYERS + "/*",
            "            Resource: '*'",
            "S3Endpoint.LayersOfContainerImages: more than reading what is AWS's",
        ),
        (
            "                aws:ResourceAccount: !Ref AWS::AccountId\n",
            "",
            "S3Endpoint.PlatformAndProjectBuckets: aws:ResourceAccount is not pinned to this account",
        ),
        (
            "Sid: RolesOfStages, Effect: Allow, Principal: '*', Action: sts:AssumeRole",
            "Sid: RolesOfStages, Effect: Allow, Principal: '*', Action: sts:TagSession",
            "StsEndpoint.RolesOfStages: does more than a release needs",
        ),
        (
            CALLER + ", 'aws:ResourceAccount': !Split [',', !Ref StageAccountIds]",
            CALLER,
            "StsEndpoint.RolesOfStages: its resources are of other accounts than they must be",
        ),
        (
            "cloudwatch:GetMetricData, Resource: '*', Condition: {StringEquals: {'aws:PrincipalAccount': "
            "!Split [',', !Ref StageAccountIds]}",
            "cloudwatch:GetMetricData, Resource: '*', Condition: {StringEquals: {}",
            "MonitoringEndpoint.ReleasesInStages: its callers are others than they must be",
        ),
        (
            "role/mlops/projects/mlops-p-*-release', Condition",
            "role/*', Condition",
            "StsEndpoint.RolesOfStages: is not limited to the release roles of projects",
        ),
    ],
)
def test_a_wider_policy_is_found(old: str, new: str, fault: str, changed: Callable) -> None:
    assert list(policy_faults(changed(old, new))) == [fault]


def test_a_policy_that_is_too_long_is_found(changed: Callable) -> None:
    old = "              - !Sub arn:${AWS::Partition}:s3:::${ReleaseBucketName}\n"
    assert list(policy_faults(changed(old, old + f"              - arn:aws:s3:::{'x' * 20_480}\n"))) == [
        "S3Endpoint: the policy of s3 is longer than 20480 characters"
    ]


# -- security groups --------------------------------------------------------------------------------------
def test_groups_let_through_what_is_needed() -> None:
    assert list(group_faults(load(NETWORK))) == []


TO_ITSELF = """  ComputeToItself:
    Type: AWS::EC2::SecurityGroupEgress
    Properties:
      Description: Among themselves
      GroupId: !Ref ComputeSecurityGroup
      IpProtocol: tcp
      FromPort: 443
      ToPort: 443
      DestinationSecurityGroupId: !Ref ComputeSecurityGroup

  ComputeToEndpoints:"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("  ComputeToEndpoints:", TO_ITSELF, "ComputeSecurityGroup: its members reach one another"),
        ("      FromPort: 443\n", "      FromPort: 0\n", "ComputeSecurityGroup: a rule for more than HTTPS"),
        (
            "        - Description: Everything that computes\n          IpProtocol",
            "        - IpProtocol",
            "EndpointSecurityGroup: a rule without a description",
        ),
        ("CidrIp: 127.0.0.1/32", "CidrIp: 10.0.0.0/8", "EndpointSecurityGroup: Egress is not needed"),
        (
            "      GroupId: !GetAtt Vpc.DefaultSecurityGroup\n",
            "      GroupId: !Ref EndpointSecurityGroup\n",
            "the default security group of the VPC is open",
        ),
    ],
)
def test_a_wider_group_is_found(old: str, new: str, fault: str, changed: Callable) -> None:
    faults = list(group_faults(changed(old, new)))
    assert len(faults) == 1 and faults[0].startswith(fault)
