"""CodeArtifact: the API, and the index that pip reads with its token from a build in an isolated network."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

PACKAGE = "jmespath"  # boto3 needs it, so it is in every wheel store


@pytest.fixture(scope="module")
def domain(cloud) -> str:
    """A domain with a repository ``store`` that is connected to PyPI, and ``team`` behind which it stands."""
    client, name = cloud.client("codeartifact"), cloud.name("domain")
    client.create_domain(domain=name)
    client.create_repository(domain=name, repository="store")
    client.associate_external_connection(domain=name, repository="store", externalConnection="public:pypi")
    client.create_repository(domain=name, repository="team", upstreams=[{"repositoryName": "store"}])
    client.create_repository(domain=name, repository="alone")
    return name


@pytest.fixture(scope="module")
def network(cloud) -> dict[str, Any]:
    """A VPC as a project's vpcConfig takes it: no way to the internet."""
    ec2 = cloud.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/24")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(
        VpcId=vpc, EnableDnsHostnames={"Value": True}
    )  # for the endpoints' private names
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.0.0/26")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName=cloud.name("group"), Description="x", VpcId=vpc)["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "UserIdGroupPairs": [{"GroupId": group}]}
        ],
    )
    for service in ("logs", "sts", "codeartifact.api", "codeartifact.repositories"):
        ec2.create_vpc_endpoint(
            VpcId=vpc,
            ServiceName=f"com.amazonaws.{cloud.region}.{service}",
            VpcEndpointType="Interface",
            SubnetIds=[subnet],
            SecurityGroupIds=[group],
            PrivateDnsEnabled=True,
        )
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{cloud.region}.s3", RouteTableIds=[tables[0]["RouteTableId"]]
    )
    return {"vpcId": vpc, "subnets": [subnet], "securityGroupIds": [group]}


def fetch(cloud, domain: str, path: str, token: str = "", accept: str = "") -> tuple[int, bytes]:
    """GET below a repository's index with a token."""
    headers = {"Accept": accept} if accept else {}
    if token:
        headers["Authorization"] = "Basic " + base64.b64encode(f"aws:{token}".encode()).decode()
    url = path if path.startswith("http") else f"{cloud.endpoint}/codeartifact/{domain}/{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def token_of(cloud, domain: str) -> str:
    return cloud.client("codeartifact").get_authorization_token(domain=domain)["authorizationToken"]


def test_endpoint_and_token(cloud, domain):
    client = cloud.client("codeartifact")
    where = client.get_repository_endpoint(domain=domain, repository="team", format="pypi")[
        "repositoryEndpoint"
    ]
    assert where == f"{cloud.endpoint}/codeartifact/{domain}/team/pypi/"
    assert fetch(cloud, domain, where + "simple/", token_of(cloud, domain))[0] == 200
    listed = client.list_packages(domain=domain, repository="team", packagePrefix=PACKAGE)["packages"]
    assert [p["package"] for p in listed] == [PACKAGE]


def test_files_have_the_hash_and_metadata_that_the_index_says(cloud, domain):
    token, kind = token_of(cloud, domain), "application/vnd.pypi.simple.v1+json"
    status, body = fetch(cloud, domain, f"team/pypi/simple/{PACKAGE}/", token, kind)
    assert status == 200
    entry = json.loads(body)["files"][0]
    content = fetch(cloud, domain, cloud.endpoint + entry["url"], token)[1]
    assert hashlib.sha256(content).hexdigest() == entry["hashes"]["sha256"]
    metadata = fetch(cloud, domain, cloud.endpoint + entry["url"] + ".metadata", token)[1]
    assert f"Name: {PACKAGE}" in metadata.decode()
    assert hashlib.sha256(metadata).hexdigest() == entry["core-metadata"]["sha256"]


REFUSED = [
    ("nobody", "team", "simple/", "none", 401),
    ("wrong token", "team", "simple/", "wrong", 401),
    ("token of another domain", "team", "simple/", "other", 401),
    ("package that is missing", "team", "simple/no-such-package/", "good", 404),
    ("repository without PyPI", "alone", f"simple/{PACKAGE}/", "good", 404),
    ("unknown repository", "nowhere", "simple/", "good", 404),
]


@pytest.mark.parametrize("repository,path,who,status", [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_index_refuses(cloud, domain, repository, path, who, status):
    token = {"none": "", "wrong": "x" * 64}.get(who) if who in ("none", "wrong") else None
    if who == "other":
        other = cloud.name("domain")
        cloud.client("codeartifact").create_domain(domain=other)
        token = token_of(cloud, other)
    found, _ = fetch(
        cloud, domain, f"{repository}/pypi/{path}", token_of(cloud, domain) if token is None else token
    )
    assert found == status


def test_pip_of_an_isolated_build_installs_after_login_only(cloud, domain, network, shell):
    login = f"aws codeartifact login --tool pip --domain {domain} --repository team"
    shown = f"python -c 'import {PACKAGE}; print({PACKAGE}.__name__, \"is here\")'"
    record, log = shell(login, f"pip install {PACKAGE}", shown, vpcConfig=network)
    assert record["buildStatus"] == "SUCCEEDED", log
    assert f"\n{PACKAGE} is here\n" in log
    record, log = shell(f"pip install {PACKAGE}", vpcConfig=network)
    assert record["buildStatus"] == "FAILED"
    assert "no other package index is configured" in log
    alone = login.replace("team", "alone")
    record, log = shell(alone, f"pip install {PACKAGE}", vpcConfig=network)
    assert record["buildStatus"] == "FAILED", "a kept environment must not hide an index that has nothing"


def test_missing_package_fails_the_build_and_is_named(domain, network, shell):
    login = f"aws codeartifact login --tool pip --domain {domain} --repository team"
    record, log = shell(login, "pip install no-such-package-at-all", vpcConfig=network)
    assert record["buildStatus"] == "FAILED"
    assert "no-such-package-at-all" in log


def test_stack_makes_changes_and_deletes(cloud):
    name = cloud.name("domain")

    def resources(description: str) -> dict[str, Any]:
        store = {"DomainName": name, "RepositoryName": "store", "ExternalConnections": ["public:pypi"]}
        upstream = {"Fn::GetAtt": ["Store", "Name"]}
        team = {
            "DomainName": name,
            "RepositoryName": "team",
            "Description": description,
            "Upstreams": [upstream],
        }
        return {
            "Domain": {"Type": "AWS::CodeArtifact::Domain", "Properties": {"DomainName": name}},
            "Store": {"Type": "AWS::CodeArtifact::Repository", "Properties": store, "DependsOn": "Domain"},
            "Team": {"Type": "AWS::CodeArtifact::Repository", "Properties": team},
        }

    client = cloud.client("codeartifact")
    stack = cloud.stack(resources("one"))
    with pytest.raises(client.exceptions.ConflictException, match="contains repositories"):
        client.delete_domain(domain=name)
    cloud.stack(resources("two"), name=stack)
    found = client.describe_repository(domain=name, repository="team")["repository"]
    assert found["description"] == "two"
    assert found["upstreams"] == [{"repositoryName": "store"}]
    assert cloud.delete_stack(stack) == ""
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_domain(domain=name)
