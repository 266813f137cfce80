"""The API of a project: deploy/api.yaml and src/api.py as they are, before an endpoint: who gets in."""

from __future__ import annotations

import io
import json
import subprocess
import time
import urllib.error
import urllib.request
import venv
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ROOT = Path(__file__).resolve().parents[3]
PROJECT = "p-apicontract"
MODEL = """
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        kind, status = self.headers.get("Content-Type", ""), 200
        if kind == "text/csv":
            answer = "".join(f"{float(row.split(',')[0] or 0):.6f}\\n" for row in body.split())
        elif kind == "application/json":
            answer = json.dumps({"predictions": json.loads(body)["instances"]})
        else:
            status, answer = 415, json.dumps({"error": f"{kind} is not supported"})
        if body == "fail":
            status, answer = 500, "the secret is 42"
        self.send_response(status); self.send_header("Content-Type", kind); self.end_headers()
        self.wfile.write(answer.encode())
    def log_message(self, *_): pass
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""
ROWS = [[0.25, "a"], [0.5, None]]
OTHER = """
_first = handler
def handler(event, context):
    return {**_first(event, context), "body": "mine"}
"""


class World:
    """A project with an endpoint, and what deploy/api.yaml reads."""

    def __init__(self, cloud: Any) -> None:
        self.cloud = cloud
        self.network()
        self.bucket = cloud.bucket()
        golden = {"rows": [{"values": row, "score": row[0]} for row in ROWS]}
        cloud.client("s3").put_object(
            Bucket=self.bucket, Key="e/golden.json", Body=json.dumps(golden).encode()
        )
        self.endpoint()
        self.environment()
        key = cloud.client("kms").create_key(Policy=json.dumps(_OPEN_KEY))["KeyMetadata"]["Arn"]
        topic = cloud.client("sns").create_topic(Name=cloud.name("topic"))["TopicArn"]
        mine, infra = f"/mlops/projects/{PROJECT}", "/mlops/infra"
        self.paths = {
            "KeyArn": (f"{mine}/key-arn", key),
            "NotificationTopicArn": (f"{mine}/notification-topic-arn", topic),
            "ApiRoleArn": (f"{mine}/api-role-arn", cloud.role("lambda")),
            "ApiReleaseRoleArn": (f"{mine}/api-release-role-arn", cloud.role("codedeploy")),
            "ApiCheckFunctionArn": (f"{mine}/api-check-function-arn", self.check()),
            "SubnetIds": (f"{infra}/private-subnet-ids", self.subnet),
            "SecurityGroupId": (f"{infra}/compute-security-group-id", self.group),
            "ExecuteApiEndpointId": (f"{infra}/execute-api-endpoint-id", self.execute),
        }
        for name, (path, value) in self.paths.items():
            kind = "StringList" if name == "SubnetIds" else "String"
            cloud.client("ssm").put_parameter(Name=path, Value=value, Type=kind, Overwrite=True)
        self.stack = f"mlops-{PROJECT}-api"

    def network(self) -> None:
        ec2 = self.cloud.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        self.vpc, self.subnet = (
            vpc,
            ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"],
        )
        self.group = ec2.create_security_group(GroupName="g", Description="x", VpcId=vpc)["GroupId"]
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 443,
            "ToPort": 443,
            "UserIdGroupPairs": [{"GroupId": self.group}],
        }
        ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=[rule])
        common = {"VpcId": vpc, "VpcEndpointType": "Interface", "PrivateDnsEnabled": True}
        common |= {"SubnetIds": [self.subnet], "SecurityGroupIds": [self.group]}
        made = {}
        for name in ("sagemaker.runtime", "execute-api", "lambda"):
            service = f"com.amazonaws.{self.cloud.region}.{name}"
            answer = ec2.create_vpc_endpoint(ServiceName=service, **common)
            made[name] = answer["VpcEndpoint"]["VpcEndpointId"]
        self.execute = made["execute-api"]

    def endpoint(self) -> None:
        sagemaker, name = self.cloud.client("sagemaker"), f"mlops-{PROJECT}-production"
        image = self.cloud.image({"app/serve.py": MODEL}, ["python3", "/app/serve.py"])
        variant = {"VariantName": "AllTraffic", "ModelName": name, "InstanceType": "ml.m5.large"}
        sagemaker.create_model(
            ModelName=name, ExecutionRoleArn=self.cloud.role("sagemaker"), PrimaryContainer={"Image": image}
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[{**variant, "InitialInstanceCount": 1}]
        )
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        found = lambda: sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"]  # noqa: E731
        self.cloud.wait(lambda: found() == "InService", 60, name)

    def inside(self) -> dict[str, list[str]]:
        return {"SubnetIds": [self.subnet], "SecurityGroupIds": [self.group]}

    def check(self) -> str:
        variables = {"PROJECT_ID": PROJECT, "BUCKET_NAME": self.bucket}
        name = f"mlops-{PROJECT}-api-check"
        self.function(name, "index.handler", {}, Timeout=60, Environment={"Variables": variables})
        return f"arn:aws:lambda:{self.cloud.region}:{self.cloud.account}:function:{name}"

    def function(self, name: str, handler: str, more: dict[str, str], **settings: Any) -> str:
        """A function with the code of the check, and more."""
        out, source = io.BytesIO(), ROOT / "mlops-cfn/lambda/api_check/index.py"
        with zipfile.ZipFile(out, "w") as archive:
            for file, text in {"index.py": source.read_text(), **more}.items():
                archive.writestr(file, text)
        self.cloud.client("lambda").create_function(
            FunctionName=name, Runtime="python3.12", Handler=handler, Role=self.cloud.role("lambda"),
            Code={"ZipFile": out.getvalue()}, **{"Timeout": 30, **settings},
        )  # fmt: skip
        return name

    @staticmethod
    def environment() -> None:
        """Packages of the function's image, in the environment that the images of these tests have."""
        env = ROOT / ".cache/images/contract-api"
        if not (env / "complete").exists():
            venv.create(env, symlinks=True, with_pip=True)
            lock = ROOT / "seedcode-repo/base/containers/api/requirements.txt"
            pip = [str(env / "bin/python"), "-m", "pip", "install", "--quiet", "--no-index"]
            store = ["--find-links", str(ROOT / ".cache/wheels")]
            subprocess.run([*pip, *store, "--no-deps", "--require-hashes", "-r", str(lock)], check=True)
            subprocess.run([*pip, *store, "boto3"], check=True)
            (env / "complete").touch()

    def image(self, more: str = "") -> str:
        """The function's image, by digest, in a repository that Lambda may pull from."""
        source = (ROOT / "seedcode-repo/base/src/api.py").read_text() + more
        uri = self.cloud.image(
            {"opt/program/api.py": source}, ["python3", "-m", "awslambdaric", "api.handler"],
            python="contract-api", PYTHONPATH="/opt/program",
        )  # fmt: skip
        ecr, name = self.cloud.client("ecr"), uri.partition("/")[2].partition(":")[0]
        allow = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": ["ecr:*"]}
        text = json.dumps({"Version": "2012-10-17", "Statement": [{**allow, "Sid": "x"}]})
        ecr.set_repository_policy(repositoryName=name, policyText=text)
        digest = ecr.describe_images(repositoryName=name)["imageDetails"][0]["imageDigest"]
        return f"{uri.rpartition(':')[0]}@{digest}"

    def deploy(self, image: str, wanted: str = "", **parameters: str) -> str:
        """Create or update the stack; its status."""
        template = (ROOT / "mlops-cfn/deploy/api.yaml").read_text()
        given = {
            "ProjectId": PROJECT, "ProjectName": "api", "CostCenter": "1", "ImageUri": image,
            "GoldenUri": f"s3://{self.bucket}/e/golden.json", **parameters,
            **{name: path for name, (path, _) in self.paths.items()},
        }  # fmt: skip
        client, name = self.cloud.client("cloudformation"), self.stack
        call = client.update_stack if self.cloud.stack_status(name) else client.create_stack
        call(
            StackName=name, TemplateBody=template,
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
        )  # fmt: skip
        if wanted:
            return wanted
        return self.settled()

    def settled(self) -> str:
        over = lambda: not self.cloud.stack_status(self.stack).endswith("IN_PROGRESS")  # noqa: E731
        self.cloud.wait(over, 60, self.stack)
        return self.cloud.stack_status(self.stack)

    def call(
        self, body: bytes = b"0.25,a\n", keys: tuple[str, ...] = (), **headers: str
    ) -> tuple[int, Any, str]:
        """One call of the API; status, headers, text."""
        url = self.cloud.outputs(self.stack)["ApiUrl"]
        host, path = url.removeprefix("https://").split("/", 1)
        headers = {"Content-Type": "text/csv", **headers}
        request = AWSRequest("POST", url, data=body, headers=headers)
        if keys:
            SigV4Auth(Credentials(*keys), "execute-api", self.cloud.region).add_auth(request)
        sent = {**dict(request.headers.items()), "Host": host}
        try:
            made = urllib.request.Request(f"{self.cloud.endpoint}/{path}", body, sent)
            with urllib.request.urlopen(made, timeout=40) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read().decode()

    def live_image(self) -> str:
        found = self.cloud.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]
        return next(p["ParameterValue"] for p in found["Parameters"] if p["ParameterKey"] == "ImageUri")

    def version(self) -> str:
        found = self.cloud.client("lambda").get_alias(FunctionName=f"mlops-{PROJECT}-api", Name="live")
        return found["FunctionVersion"]


_OPEN_KEY = {
    "Version": "2012-10-17",
    "Statement": [{"Sid": "x", "Effect": "Allow", "Principal": "*", "Action": "kms:*", "Resource": "*"}],
}
ROOT_KEYS = ("test", "test")


@pytest.fixture(scope="module")
def world(cloud: Any) -> World:
    made = World(cloud)
    assert made.deploy(made.image()) == "CREATE_COMPLETE", cloud.stack_reasons(made.stack)
    return made


def test_who_gets_in_and_what_comes_back(world: World) -> None:
    made = world.cloud.client("lambda").get_function_configuration(FunctionName=f"mlops-{PROJECT}-api")
    assert made["VpcConfig"]["SubnetIds"] == [world.subnet]
    assert world.call()[0] == 403
    status, headers, text = world.call(keys=ROOT_KEYS, **{"X-Amzn-SageMaker-Inference-Id": "order-7"})
    assert (status, text, headers["x-amzn-sagemaker-inference-id"]) == (200, "0.250000\n", "order-7")
    assert world.call(keys=ROOT_KEYS)[1]["x-amzn-sagemaker-inference-id"]  # the gateway's, without one
    status, _, text = world.call(keys=ROOT_KEYS, **{"Content-Type": "image/png"})
    assert (status, json.loads(text)) == (415, {"error": "image/png is not supported"})


def test_a_role_is_let_in_by_its_policies_and_its_own_secret(world: World, cloud: Any) -> None:
    iam, sts, name = cloud.client("iam"), cloud.client("sts"), cloud.name("shop")
    trust = {"Effect": "Allow", "Principal": {"AWS": cloud.account}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "x", **trust}]})
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    found = sts.assume_role(RoleArn=role, RoleSessionName="shop")["Credentials"]
    keys = (found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])
    assert world.call(keys=keys)[0] == 403
    arn = cloud.outputs(world.stack)["ApiArn"]
    call = {"Sid": "x", "Effect": "Allow", "Action": "execute-api:Invoke", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [call]})
    iam.put_role_policy(RoleName=name, PolicyName="call", PolicyDocument=policy)
    assert world.call(keys=keys)[::2] == (200, "0.250000\n")
    assert world.call(keys=(keys[0], "wrong", keys[2]))[0] == 403


def test_the_pipelines_test_inside_has_it_asked_from_outside(world: World, cloud: Any) -> None:
    ask = f"""
import boto3
def handler(event, context):
    asked = {{"FunctionName": "mlops-{PROJECT}-api-check", "Payload": b'{{"task": "api"}}'}}
    return boto3.client("lambda").invoke(**asked)["Payload"].read().decode()
"""
    name = world.function(cloud.name("build"), "ask.handler", {"ask.py": ask}, VpcConfig=world.inside())
    said = json.loads(cloud.client("lambda").invoke(FunctionName=name)["Payload"].read())
    assert "with no proof 403, with a forged proof 403; 3 requests answered" in said


def test_the_access_log_has_no_payload(world: World, cloud: Any) -> None:
    world.call(b"0.125,secret\n", keys=ROOT_KEYS)
    logs = cloud.client("logs")
    lines = [
        event["message"]
        for group in (f"/aws/vendedlogs/mlops-{PROJECT}-api", f"/aws/lambda/mlops-{PROJECT}-api")
        for event in logs.filter_log_events(logGroupName=group)["events"]
    ]
    assert any('"status":"200"' in line and ":root" in line for line in lines)
    assert not any("secret" in line or "0.125" in line for line in lines)


def test_a_release_is_tried_and_moved(world: World) -> None:
    before = world.version()
    assert world.deploy(world.image("\n# better\n")) == "UPDATE_COMPLETE", world.cloud.stack_reasons(
        world.stack
    )
    assert int(world.version()) == int(before) + 1 and world.call(keys=ROOT_KEYS)[0] == 200


def test_a_release_that_answers_otherwise_reaches_nobody(world: World, cloud: Any) -> None:
    before = world.version()
    assert world.deploy(world.image(OTHER)) == "UPDATE_ROLLBACK_COMPLETE"
    assert any("HOOK" in why or "validation function" in why for why in cloud.stack_reasons(world.stack))
    assert world.version() == before and world.call(keys=ROOT_KEYS)[2] == "0.250000\n"


def test_an_alarm_takes_a_release_back(world: World, cloud: Any) -> None:
    before, client = world.version(), cloud.client("cloudformation")
    alarm = client.describe_stack_resource(StackName=world.stack, LogicalResourceId="ServerErrors")
    name = alarm["StackResourceDetail"]["PhysicalResourceId"]
    weights = lambda: (  # noqa: E731
        cloud.client("lambda")
        .get_alias(FunctionName=f"mlops-{PROJECT}-api", Name="live")
        .get("RoutingConfig")
    )
    world.deploy(world.image("\n# watched\n"), wanted="later")
    cloud.wait(lambda: (weights() or {}).get("AdditionalVersionWeights"), 40, "the canary")
    cloud.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    assert world.settled() == "UPDATE_ROLLBACK_COMPLETE"
    assert world.version() == before and world.call(keys=ROOT_KEYS)[0] == 200
    cloud.client("cloudwatch").set_alarm_state(AlarmName=name, StateValue="OK", StateReason="test")


def test_callers_are_throttled(world: World) -> None:
    known = world.live_image()
    assert world.deploy(known, ThrottleRate="1", ThrottleBurst="3") == "UPDATE_COMPLETE"
    with ThreadPoolExecutor(12) as callers:
        seen = Counter(callers.map(lambda _: world.call(keys=ROOT_KEYS)[0], range(12)))
    assert seen[200] >= 3 and seen[429] >= 1 and set(seen) == {200, 429}


def test_what_fails_inside_is_not_told(world: World, cloud: Any) -> None:
    while (answer := world.call(b"fail", keys=ROOT_KEYS))[0] == 429:
        time.sleep(0.5)
    assert (answer[0], json.loads(answer[2])) == (502, {"error": "the model failed"})
    found = cloud.client("cloudwatch").list_metrics(Namespace="AWS/ApiGateway", MetricName="5xx")["Metrics"]
    assert [sorted(d["Name"] for d in one["Dimensions"]) for one in found] == [["ApiId", "Stage"]]


def test_tokens_of_a_user_pool(world: World, cloud: Any) -> None:
    cognito, known = cloud.client("cognito-idp"), world.live_image()
    pool = cognito.create_user_pool(PoolName="people")["UserPool"]["Id"]
    app = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="app", ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    cognito.admin_create_user(UserPoolId=pool, Username="jane", MessageAction="SUPPRESS")
    cognito.admin_set_user_password(UserPoolId=pool, Username="jane", Password="Secret-123", Permanent=True)
    login = {"USERNAME": "jane", "PASSWORD": "Secret-123"}
    signed_in = cognito.admin_initiate_auth(
        UserPoolId=pool, ClientId=app, AuthFlow="ADMIN_USER_PASSWORD_AUTH", AuthParameters=login
    )
    token = signed_in["AuthenticationResult"]["IdToken"]
    issuer = f"https://cognito-idp.{cloud.region}.amazonaws.com/{pool}"
    jwt = {"Authorisation": "jwt", "JwtIssuer": issuer, "JwtAudience": app}
    assert world.deploy(known, **jwt) == "UPDATE_COMPLETE", cloud.stack_reasons(world.stack)
    assert world.call()[0] == 401 and world.call(keys=ROOT_KEYS)[0] == 401
    assert world.call(Authorization=f"Bearer {token}")[::2] == (200, "0.250000\n")
    head, claims, signature = token.split(".")
    assert world.call(Authorization=f"Bearer {head}.{claims}.{signature[::-1]}")[0] == 401
    other = {**jwt, "JwtAudience": "another"}
    assert world.deploy(known, **other) == "UPDATE_COMPLETE"
    assert world.call(Authorization=f"Bearer {token}")[0] == 401


def test_a_private_api_answers_inside_only(world: World, cloud: Any) -> None:
    known = world.live_image()
    assert world.deploy(known, Private="true") == "UPDATE_ROLLBACK_COMPLETE"
    reasons = cloud.stack_reasons(world.stack)
    assert any("CloudWatch Logs role ARN must be set" in why for why in reasons), reasons
    account = {"op": "replace", "path": "/cloudwatchRoleArn", "value": cloud.role("apigateway")}
    cloud.client("apigateway").update_account(patchOperations=[account])
    assert world.deploy(known, Private="true") == "UPDATE_COMPLETE", cloud.stack_reasons(world.stack)
    assert world.call()[0] == 403 and world.call(keys=ROOT_KEYS)[0] == 403  # from outside, whoever it is
    url = cloud.outputs(world.stack)["ApiUrl"]
    ask = f"""
import index
def handler(event, context):
    question = index.Question("x", "text/csv", "0.5,b\\n")
    unsigned, signed = index.call({url!r}, question), index.call({url!r}, question, signed=True)
    return [unsigned.status, signed.status, signed.text]
"""
    name = world.function(cloud.name("inside"), "ask.handler", {"ask.py": ask}, VpcConfig=world.inside())
    answer = cloud.client("lambda").invoke(FunctionName=name)
    said = json.loads(answer["Payload"].read())
    assert said == [403, 200, "0.500000\n"], said[2]
