"""Batch inference as its templates make it: real roles, real jobs, and what Athena reads of their results."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

CFN = Path(__file__).resolve().parents[3] / "mlops-cfn"
OWNER = "owner@example.com"
KPI = {"BucketName": "bucket-name", "KeyArn": "key-arn", "QuickSightRoleArn": "execution-role-arn"}
SERVER = """\
import json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    log_message = lambda *a: None
    def answer(self, status, text=""):
        self.send_response(status); self.end_headers(); self.wfile.write(text.encode())
    def do_GET(self): self.answer(200)
    def do_POST(self):
        rows = self.rfile.read(int(self.headers["Content-Length"])).decode().splitlines()
        try:
            assert os.environ["SAGEMAKER_BATCH"] == "true"
            self.answer(200, "".join(f"{sum(map(float, row.split(','))) / 100}\\n" for row in rows))
        except ValueError as error:
            self.answer(400, json.dumps({"error": str(error)}))
ThreadingHTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module", autouse=True)
def enforced(cloud: Any) -> Iterator[None]:
    """Policies decide, and waits of AWS are short."""
    before = cloud.control("settings")
    cloud.control("settings", enforce=True, time_scale=0.003)
    yield
    cloud.control("settings", **before)


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


class Project:
    """A batch project with a model version in production."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.id = cloud, f"p-{uuid.uuid4().hex[:12]}"
        self.name = f"mlops-{self.id}"
        self.tags = [{"Key": "sagemaker:project-id", "Value": self.id}]
        ssm, iam, ec2, s3 = (cloud.client(name) for name in ("ssm", "iam", "ec2", "s3"))
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        nothing = {"Effect": "Deny", "Action": "sagemaker:CreateEndpoint", "Resource": "*"}
        places = (("boundary", "/", everything), ("rails", "/mlops/projects/", nothing))
        boundary, rails = (
            iam.create_policy(PolicyName=cloud.name(n), Path=path, PolicyDocument=document(statement))
            for n, path, statement in places
        )
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        infra = {
            "access-log-bucket-name": cloud.bucket(),
            "permissions-boundary-arn": boundary["Policy"]["Arn"],
            "private-subnet-ids": ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.0.0/24")["Subnet"]["SubnetId"],
            "compute-security-group-id": ec2.create_security_group(
                VpcId=vpc, GroupName=self.name, Description="compute"
            )["GroupId"],
        }
        ec2.create_vpc_endpoint(
            VpcId=vpc,
            ServiceName=f"com.amazonaws.{cloud.region}.s3",
            VpcEndpointType="Gateway",
            RouteTableIds=[
                ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"][0][
                    "RouteTableId"
                ]
            ],
        )
        for key, value in infra.items():
            ssm.put_parameter(Name=f"/mlops/infra/{key}", Type="String", Value=value, Overwrite=True)
        data = self.stack(f"{self.name}-data", "project/data.yaml", ProjectId=self.id, ProjectName="churn")
        self.bucket, self.key = data["BucketName"], data["KeyArn"]
        self.topic = cloud.client("sns").create_topic(
            Name=self.name, Attributes={"KmsMasterKeyId": self.key}
        )["TopicArn"]
        cloud.subscribe(self.topic, OWNER)
        cloud.client("dynamodb").create_table(
            TableName=f"{self.name}-state",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        release, code = cloud.bucket(), io.BytesIO()
        with zipfile.ZipFile(code, "w") as archive:
            for path in (CFN / "lambda/batch").glob("*.py"):
                archive.write(path, path.name)
        s3.put_object(Bucket=release, Key="batch.zip", Body=code.getvalue())
        function = self.stack(
            f"{self.name}-function", "project/batch.yaml", ProjectId=self.id, ProjectName="churn",
            BucketName=self.bucket, KeyArn=self.key, TopicArn=self.topic, StateTableName=f"{self.name}-state",
            GuardRailsArn=rails["Policy"]["Arn"], ReleaseBucketName=release, BatchFunctionKey="batch.zip",
        )["BatchFunctionArn"]  # fmt: skip
        features = json.dumps({"features": ["age", "amount"]}).encode()
        s3.put_object(Bucket=self.bucket, Key="pipelines/1/data_quality/options.json", Body=features)
        self.role = self.make_role("sagemaker", "scheduler", "events")
        own = {
            "execution-role-arn": self.role, "events-role-arn": self.role, "batch-function-arn": function,
            "key-arn": self.key, "notification-topic-arn": self.topic, "bucket-name": self.bucket,
        }  # fmt: skip
        for key, value in own.items():
            name = f"/mlops/projects/{self.id}/{key}"
            ssm.put_parameter(Name=name, Type="String", Value=value)
        self.database = self.stack(
            f"{self.name}-kpi", "deploy/kpi.yaml", ProjectId=self.id, ProjectName="churn", CostCenter="4711",
            EndpointName=f"{self.name}-production", ReportsUri=f"s3://{self.bucket}/monitoring",
            InferenceMode="batch", KeyColumn="customer",
            **{name: f"/mlops/projects/{self.id}/{key}" for name, key in KPI.items()},
        )["DatabaseName"]  # fmt: skip
        image = cloud.image({"app/serve.py": SERVER}, ["python3", "/app/serve.py"])
        sagemaker = cloud.client("sagemaker")
        sagemaker.create_model_package_group(ModelPackageGroupName=self.name)
        package = sagemaker.create_model_package(
            ModelPackageGroupName=self.name,
            ModelApprovalStatus="Approved",
            InferenceSpecification={
                "Containers": [{"Image": image}],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )["ModelPackageArn"]
        self.stack(
            f"{self.name}-production", "deploy/batch.yaml", ProjectId=self.id, ProjectName="churn",
            CostCenter="4711", Stage="production", ModelPackageArn=package, KeyColumns="customer",
            FeaturesUri=f"s3://{self.bucket}/pipelines/1/data_quality/options.json",
            **{self.pascal(key): f"/mlops/projects/{self.id}/{key}" for key in own if key != "bucket-name"},
        )  # fmt: skip

    @staticmethod
    def pascal(key: str) -> str:
        return "".join(part.capitalize() for part in key.split("-"))

    def make_role(self, *services: str) -> str:
        """A role of the project that may do everything here: the function's is what is looked at."""
        iam, name = self.cloud.client("iam"), self.cloud.name("role")
        principal = {"Service": [f"{service}.amazonaws.com" for service in services]}
        arn = iam.create_role(
            RoleName=name,
            Path="/mlops/projects/",
            Tags=self.tags,
            AssumeRolePolicyDocument=document(
                {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
            ),
        )["Role"]["Arn"]
        self.cloud.allow_all(name)
        return arn

    def stack(self, name: str, template: str, **parameters: str) -> dict[str, str]:
        cloud = self.cloud
        cloud.client("cloudformation").create_stack(
            StackName=name,
            TemplateBody=(CFN / template).read_text(),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            Tags=self.tags,
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        cloud.wait(lambda: not cloud.stack_status(name).endswith("IN_PROGRESS"), 60, name)
        assert cloud.stack_status(name) == "CREATE_COMPLETE", cloud.stack_reasons(name)
        return cloud.outputs(name)

    def upload(self, name: str, body: str) -> None:
        key = f"batch/input/production/{name}"
        self.cloud.client("s3").put_object(Bucket=self.bucket, Key=key, Body=body.encode())

    def keys(self, prefix: str) -> list[str]:
        found = self.cloud.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for item in found.get("Contents", [])]

    def ask(self, sql: str) -> list[list[str]]:
        athena = self.cloud.client("athena")
        started = athena.start_query_execution(
            QueryString=sql,
            QueryExecutionContext={"Database": self.database},
            WorkGroup=self.name,
        )["QueryExecutionId"]

        def ended() -> Any:
            status = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]
            return status if status["State"] not in ("QUEUED", "RUNNING") else None

        status = self.cloud.wait(ended, 30, sql)
        assert status["State"] == "SUCCEEDED", status
        rows = athena.get_query_results(QueryExecutionId=started)["ResultSet"]["Rows"]
        return [[cell.get("VarCharValue", "") for cell in row["Data"]] for row in rows[1:]]


class Loader(yaml.SafeLoader):
    """Reads templates; of the short forms rules have references only."""


Loader.add_constructor("!Ref", lambda loader, node: {"Ref": node.value})
Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


@pytest.mark.parametrize(
    ("mode", "staging", "production", "refused"),
    [
        ("batch", "210987654321", "", "Leave StagingAccountId empty"),
        ("batch", "", "310987654321", "Leave ProductionAccountId empty"),
        ("batch", "", "", ""),
        ("realtime", "210987654321", "310987654321", ""),
    ],
)
def test_stages_of_a_batch_project_are_in_its_account(
    cloud: Any, mode: str, staging: str, production: str, refused: str
) -> None:
    template = yaml.load((CFN / "2-smproject.yaml").read_text(), Loader)  # noqa: S506 a SafeLoader
    given = {"InferenceMode": mode, "StagingAccountId": staging, "ProductionAccountId": production}
    body = {
        "Parameters": {name: {"Type": "String", "Default": value} for name, value in given.items()},
        "Rules": {"BatchIsHere": template["Rules"]["BatchIsHere"]},
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
    }

    def create() -> None:
        cloud.client("cloudformation").create_stack(
            StackName=cloud.name("rules"), TemplateBody=json.dumps(body)
        )

    if not refused:
        create()
        return
    with pytest.raises(ClientError, match=refused):
        create()


@pytest.fixture(scope="module")
def project(cloud: Any) -> Project:
    return Project(cloud)


def test_uploads_are_rows_in_athena_and_a_bad_row_is_told(cloud: Any, project: Project) -> None:
    before = cloud.control("health")["faults"]
    project.upload("north/ä b.csv", 'customer,age,amount\n"c,1",30,5\nc2,,6\n'.replace(",,", ",1,"))
    project.upload("bad.csv", "c3,old,7\n")
    project.upload("south.csv", "c4,40,10\n")
    outcome = ("batch/output/", 2), ("batch/quarantine/", 1)
    cloud.wait(lambda: all(len(project.keys(place)) == n for place, n in outcome), 60, "results")
    cloud.wait(lambda: [m for m in cloud.control("outbox") if m["topic"] == project.topic][1:], 30, "mail")
    sql = "SELECT customer, age, prediction FROM batch_production ORDER BY customer"
    assert project.ask(sql) == [["c,1", "30", "0.35"], ["c2", "1", "0.07"], ["c4", "40", "0.5"]]
    assert len(project.ask("SELECT DISTINCT day FROM batch_production")) == 1
    assert project.ask("SELECT 1 FROM batch_production WHERE day > '2100-01-01'") == []
    mail = [m for m in cloud.control("outbox") if m["topic"] == project.topic and m["to"] == OWNER][-1]
    assert "bad.csv: the model refused a row: could not convert string to float" in mail["body"]
    assert cloud.control("health")["faults"] == before


def test_key_figures_are_of_results(cloud: Any, project: Project) -> None:
    """With and without a key column; c9 and its file were never uploaded."""
    athena = cloud.client("athena")
    ids = athena.list_named_queries(WorkGroup=project.name)["NamedQueryIds"]
    found = athena.batch_get_named_query(NamedQueryIds=ids)["NamedQueries"]
    queries = {one["Name"]: one["QueryString"] for one in found}
    ((day,),) = project.ask("SELECT DISTINCT day FROM batch_production")
    names = "c4", "c9", f"1a2b/day={day}/south.csv.out#1", "day=2000-01-01/south.csv.out#1"
    truths = [{"groundTruthData": {"data": "1"}, "eventMetadata": {"eventId": name}} for name in names]
    key = f"ground-truth/production/{day.replace('-', '/')}/00/truth.jsonl"
    body = "".join(json.dumps(truth) + "\n" for truth in truths)
    cloud.client("s3").put_object(Bucket=project.bucket, Key=key, Body=body.encode())
    assert project.ask(queries["predictions-per-day"]) == [
        [day, "0", "2", "0.21", "0.6667"],
        [day, "1", "1", "0.5", "0.3333"],
    ]
    wanted = [[day, "3", "1", "2", "0.6667"]]
    assert project.ask(queries["predictions-without-ground-truth"]) == wanted
    template = cloud.client("cloudformation").get_template(StackName=f"{project.name}-kpi")["TemplateBody"]
    query = template.partition("Name: predictions-without-ground-truth")[2]
    keyless = query.partition("- |-\n")[2].partition("- |-\n")[0]
    assert "regexp_extract" in keyless and project.ask(keyless) == wanted


def test_the_schedule_calls_the_function(cloud: Any, project: Project) -> None:
    schedule = cloud.client("scheduler").get_schedule(Name=f"{project.name}-batch-production")
    answer = cloud.client("lambda").invoke(
        FunctionName=schedule["Target"]["Arn"], Payload=schedule["Target"]["Input"].encode()
    )
    assert "table kept" in json.loads(answer["Payload"].read())["done"]
