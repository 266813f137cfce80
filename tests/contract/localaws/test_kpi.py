"""deploy/kpi.yaml in the local cloud: made under the deploy role, queried under the data scientist's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

ROOT = Path(__file__).resolve().parents[3]
CFN = ROOT / "mlops-cfn"
PROJECT, OTHER = "p-kpikpikpikpi", "p-otherotheroth"
DATABASE, GROUP = PROJECT.replace("-", "_"), f"mlops-{PROJECT}"
ENDPOINT = f"mlops-{PROJECT}-production"
MODEL = f"arn:aws:sagemaker:us-east-1:123456789012:model-package/{GROUP}/7"


@pytest.fixture(scope="module", autouse=True)
def enforced(cloud: Any) -> Iterator[None]:
    """Roles are asked for their policies, whatever the cloud was set to."""
    before = cloud.control("settings")["enforce"]
    cloud.control("settings", enforce=True)
    yield
    cloud.control("settings", enforce=before)


class Loader(yaml.SafeLoader):
    """Reads templates; functions become their bare values."""


def _bare(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


Loader.add_multi_constructor("!", _bare)


def boundary() -> str:
    """The services that the platform's boundary lets its roles use."""
    template = yaml.load((CFN / "infra/identity.yaml").read_text(), Loader)  # noqa: S506 a SafeLoader
    statements = template["Resources"]["PermissionsBoundary"]["Properties"]["PolicyDocument"]["Statement"]
    kept = [s for s in statements if s["Sid"] in ("ServicesOfThePlatform", "IamReads")]
    pass_role = {"Sid": "Roles", "Effect": "Allow", "Action": "iam:*Role", "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [*kept, pass_role]})


def make(cloud: Any, stack: str, path: str, role: str = "", **parameters: str) -> dict[str, str]:
    """Make a stack of a template and wait; its outputs."""
    cloud.client("cloudformation").create_stack(
        StackName=stack,
        TemplateBody=(CFN / path).read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
        Tags=[{"Key": "sagemaker:project-id", "Value": parameters["ProjectId"]}],
        **({"RoleARN": role} if role else {}),
    )
    cloud.wait(lambda: not cloud.stack_status(stack).endswith("IN_PROGRESS"), 60, stack)
    assert cloud.stack_status(stack) == "CREATE_COMPLETE", cloud.stack_reasons(stack)
    return cloud.outputs(stack)


class Project:
    """A project as far as its tables go: bucket, key, roles, files."""

    def __init__(self, cloud: Any, identity: str) -> None:
        self.cloud, self.id = cloud, identity
        iam = cloud.client("iam")
        logs = cloud.bucket()
        ssm = cloud.client("ssm")
        limit = iam.create_policy(
            PolicyName=cloud.name("boundary"), Path="/mlops/boundary/", PolicyDocument=boundary()
        )["Policy"]["Arn"]
        infra = {"access-log-bucket-name": logs, "permissions-boundary-arn": limit}
        for key, value in infra.items():
            ssm.put_parameter(Name=f"/mlops/infra/{key}", Type="String", Value=value, Overwrite=True)
        made = make(cloud, cloud.name("data"), "project/data.yaml", ProjectId=identity, ProjectName="churn")
        self.bucket, self.key = made["BucketName"], made["KeyArn"]
        parameters = f"arn:aws:ssm:*:*:parameter/mlops/projects/{identity}/*"
        self.scientist = self.role(limit, {"s3:*": f"arn:aws:s3:::{self.bucket}*", "kms:*": self.key})
        self.deploy = self.role(limit, {"ssm:GetParameters": parameters, "kms:*": self.key})
        made = make(
            cloud,
            cloud.name("analysis"),
            "project/analysis.yaml",
            ProjectId=identity,
            BucketName=self.bucket,
            KeyArn=self.key,
            DataScientistRoleName=self.scientist.rpartition("/")[2],
            DeployRoleName=self.deploy.rpartition("/")[2],
        )
        own = {
            "bucket-name": self.bucket,
            "key-arn": self.key,
            "quicksight-role-arn": made["QuickSightRoleArn"],
        }
        for key, value in own.items():
            name = f"/mlops/projects/{identity}/{key}"
            ssm.put_parameter(Name=name, Type="String", Value=value, Overwrite=True)

    def role(self, limit: str, allowed: dict[str, str]) -> str:
        """A role of the project, which people of the account and CloudFormation may take."""
        iam, name = self.cloud.client("iam"), self.cloud.name("role")
        principal = {
            "AWS": f"arn:aws:iam::{self.cloud.account}:root",
            "Service": "cloudformation.amazonaws.com",
        }
        trust = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        rights = [{"Effect": "Allow", "Action": a, "Resource": r} for a, r in allowed.items()]
        arn = iam.create_role(
            RoleName=name,
            Path="/mlops/projects/",
            PermissionsBoundary=limit,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            Tags=[{"Key": "sagemaker:project-id", "Value": self.id}],
        )["Role"]["Arn"]
        document = json.dumps({"Version": "2012-10-17", "Statement": rights})
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document)
        return arn

    def kpi(self, stack: str, **more: str) -> dict[str, str]:
        """Deploy deploy/kpi.yaml as the deploy pipeline does."""
        path = f"/mlops/projects/{self.id}/"
        return make(
            self.cloud,
            stack,
            "deploy/kpi.yaml",
            self.deploy,
            ProjectId=self.id,
            ProjectName="churn",
            CostCenter="4711",
            EndpointName=f"mlops-{self.id}-production",
            ReportsUri=f"s3://{self.bucket}/monitoring",
            BucketName=f"{path}bucket-name",
            KeyArn=f"{path}key-arn",
            QuickSightRoleArn=f"{path}quicksight-role-arn",
            **more,
        )

    def client(self, service: str, role: str = "") -> Any:
        """A client of the data scientist."""
        sts = self.cloud.client("sts")
        keys = sts.assume_role(RoleArn=role or self.scientist, RoleSessionName="jane")["Credentials"]
        return self.cloud.client(
            service,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )

    def put(self, key: str, *lines: Any) -> None:
        """A file of JSON lines; a text is put as it is."""
        text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
        self.cloud.client("s3").put_object(Bucket=self.bucket, Key=key, Body=text.encode())


def capture(event: str, answer: str, inference: str = "", encoding: str = "CSV") -> dict[str, Any]:
    """A captured request."""
    half = {"observedContentType": "text/csv", "mode": "INPUT", "data": "1,2", "encoding": "CSV"}
    output = {"observedContentType": "text/csv", "mode": "OUTPUT", "data": answer, "encoding": encoding}
    about = {"eventId": event, "inferenceTime": "2026-11-21T10:00:00Z"}
    return {
        "captureData": {"endpointInput": half, "endpointOutput": output},
        "eventMetadata": about | ({"inferenceId": inference} if inference else {}),
        "eventVersion": "0",
    }


def truth(event: str, label: str) -> dict[str, Any]:
    return {
        "groundTruthData": {"data": label, "encoding": "CSV"},
        "eventMetadata": {"eventId": event},
        "eventVersion": "0",
    }


def ran(run: str, kind: str, scheduled: datetime, **more: Any) -> dict[str, Any]:
    """A line of the table runs."""
    stamp = scheduled.strftime("%Y-%m-%dT%H:%M:%SZ")
    names = ("worst_subject", "worst_name", "worst_value", "worst_baseline", "worst_threshold")
    return {
        "run_id": run, "endpoint": ENDPOINT, "kind": kind, "engine": "processing", "scheduled": stamp,
        "window_start": stamp, "window_end": stamp, "records": 100, "excluded": 3, "unreadable": 1,
        "violations": 0, "status": "clean", **dict.fromkeys(names), "report_uri": "s3://b/monitoring/x",
        "model_package_arn": MODEL, **more,
    }  # fmt: skip


def measured(
    run: str, kind: str, scheduled: datetime, subject: str, name: str, **more: Any
) -> dict[str, Any]:
    """A line of the table measures."""
    return {
        "run_id": run, "endpoint": ENDPOINT, "kind": kind, "subject": subject, "name": name,
        "scheduled": scheduled.strftime("%Y-%m-%dT%H:%M:%SZ"), "value": 0.1, "baseline": 0.0,
        "threshold": 0.2, "p_value": None, "violated": False, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def now(cloud: Any) -> datetime:
    """The cloud's time, which other tests move."""
    return datetime.fromisoformat(cloud.control("clock")["now"])


@pytest.fixture(scope="module")
def project(cloud: Any, now: datetime) -> Project:
    """A deployed project with a day of traffic and of monitoring."""
    made = Project(cloud, PROJECT)
    made.kpi(f"{GROUP}-kpi")
    folder = f"data-capture/production/{ENDPOINT}/AllTraffic"
    hour, before = now.strftime("%Y/%m/%d/%H"), (now - timedelta(days=1)).strftime("%Y/%m/%d/%H")
    answers = json.dumps(
        {"predictions": [{"probability": 0.8, "label": "bad"}, {"probability": 0.1, "label": "good"}]}
    )
    coded = base64.b64encode(b"0.7\n").decode()
    made.put(
        f"{folder}/{hour}/one.jsonl",
        capture("e1", "0.9\n"),
        capture("e2", "0.2\n0.6\n", "mine-2"),
        capture("e3", answers, encoding="JSON"),
        capture("e4", coded, encoding="BASE64"),
        capture("e5", "0.9\n", "smoke-test-1"),
        capture("e6", "0.9\n", "simulated-1"),
        capture("e7", "not a number\n"),
        capture("e8", "%%%", encoding="BASE64"),
        "not json at all",
        json.dumps(capture("e9", "0.9\n"))[:60],
    )
    made.put(f"{folder}/{before}/two.jsonl", capture("f1", "0.3\n"))
    made.put(
        f"{folder}/{(now - timedelta(days=60)).strftime('%Y/%m/%d/%H')}/old.jsonl", capture("g1", "0.3\n")
    )
    made.put(f"{folder}/elsewhere/none.jsonl", capture("h1", "0.3\n"))  # in no partition
    made.put(f"ground-truth/production/{hour}/truth.jsonl", truth("e1", "1"), truth("mine-2", "0"), "{")
    day = now.strftime("%Y-%m-%d")
    tables = "monitoring/tables"
    worst = {"worst_subject": "age", "worst_name": "distance", "worst_value": 0.4, "worst_threshold": 0.2}
    first = now - timedelta(minutes=1)
    made.put(f"{tables}/runs/date={day}/data_quality-1.jsonl", ran("r1", "data_quality", first))
    drifted = ran("r2", "data_quality", now, violations=2, status="violations", **worst)
    made.put(f"{tables}/runs/date={day}/data_quality-2.jsonl", drifted)
    made.put(
        f"{tables}/runs/date={day}/model_quality-1.jsonl", ran("q1", "model_quality", now, status="no_data")
    )
    made.put(
        f"{tables}/measures/date={day}/data_quality-2.jsonl",
        measured("r2", "data_quality", now, "age", "distance", value=0.4, violated=True),
        measured("r2", "data_quality", now, "amount", "distance"),
    )
    made.put(
        f"{tables}/measures/date={day}/model_quality-1.jsonl",
        measured("q1", "model_quality", now, "", "auc", value=0.71, baseline=0.8, threshold=0.7),
    )
    evaluated = {"evaluated": "2026-11-20T10:00:00Z", "test_rows": 200, "standard_deviation": None}
    made.put(
        f"{tables}/evaluations/{GROUP}/abc123/evaluations.jsonl",
        evaluated | {"name": "auc", "value": 0.81234},
        evaluated | {"name": "f1", "value": 0.7, "standard_deviation": 0.01},
    )
    return made


def named_queries(athena: Any, group: str = GROUP) -> dict[str, str]:
    """The saved queries of a workgroup: name → id."""
    pages = athena.get_paginator("list_named_queries").paginate(WorkGroup=group)
    ids = [identity for page in pages for identity in page["NamedQueryIds"]]
    found = athena.batch_get_named_query(NamedQueryIds=ids)["NamedQueries"]
    return {one["Name"]: one["NamedQueryId"] for one in found}


def ask(cloud: Any, athena: Any, sql: str, database: str = "", **more: Any) -> dict[str, Any]:
    """Run a query and wait; its execution."""
    started = athena.start_query_execution(
        QueryString=sql,
        WorkGroup=more.pop("group", GROUP),
        QueryExecutionContext={"Database": database or f"mlops_{DATABASE}"},
        **more,
    )["QueryExecutionId"]

    def ended() -> Any:
        found = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]
        return found if found["Status"]["State"] not in ("QUEUED", "RUNNING") else None

    return cloud.wait(ended, 30, sql)


def rows(cloud: Any, athena: Any, sql: str, database: str = "") -> list[dict[str, str | None]]:
    """The rows of a query, each by its columns."""
    execution = ask(cloud, athena, sql, database)
    assert execution["Status"]["State"] == "SUCCEEDED", execution["Status"].get("StateChangeReason")
    found = athena.get_query_results(QueryExecutionId=execution["QueryExecutionId"])["ResultSet"]["Rows"]
    head, *body = [[cell.get("VarCharValue") for cell in row["Data"]] for row in found]
    return [dict(zip(head, row, strict=True)) for row in body]


def saved(cloud: Any, project: Project, name: str) -> list[dict[str, str | None]]:
    """The rows of a saved query, asked as the data scientist."""
    athena = project.client("athena")
    one = athena.get_named_query(NamedQueryId=named_queries(athena)[name])["NamedQuery"]
    return rows(cloud, athena, one["QueryString"], one["Database"])


def pick(found: list[dict[str, str | None]], *names: str) -> list[tuple[str | None, ...]]:
    return [tuple(row[name] for name in names) for row in found]


# -- each saved query ------------------------------------------------------------------------------------
def test_predictions_by_day_and_label(cloud: Any, project: Project, now: datetime) -> None:
    today, before = now.strftime("%Y-%m-%d"), (now - timedelta(days=1)).strftime("%Y-%m-%d")
    found = saved(cloud, project, "predictions-per-day")
    assert pick(found, "day", "label", "predictions", "mean_score", "share") == [
        (today, "0", "1", "0.2", "0.1667"),
        (today, "1", "3", "0.7333", "0.5"),
        (today, "bad", "1", "0.8", "0.1667"),
        (today, "good", "1", "0.1", "0.1667"),
        (before, "0", "1", "0.3", "1.0"),
    ]


def test_monitor_history(cloud: Any, project: Project, now: datetime) -> None:
    day = now.strftime("%Y-%m-%d")
    assert saved(cloud, project, "monitor-history") == [
        {
            "day": day, "kind": "data_quality", "runs": "2", "records": "200", "excluded": "6",
            "unreadable": "2", "runs_with_violations": "1", "runs_without_judgement": "0",
            "most_violations": "2",
        },
        {
            "day": day, "kind": "model_quality", "runs": "1", "records": "100", "excluded": "3",
            "unreadable": "1", "runs_with_violations": "0", "runs_without_judgement": "1",
            "most_violations": "0",
        },
    ]  # fmt: skip


def test_latest_reports(cloud: Any, project: Project) -> None:
    found = saved(cloud, project, "latest-reports")
    assert pick(found, "kind", "status", "violations", "worst_subject", "worst_value", "report_uri") == [
        ("data_quality", "violations", "2", "age", "0.4", "s3://b/monitoring/x"),
        ("model_quality", "no_data", "0", None, None, "s3://b/monitoring/x"),
    ]


def test_worst_features(cloud: Any, project: Project) -> None:
    found = saved(cloud, project, "worst-features-of-7-days")
    assert pick(found, "kind", "subject", "violated", "latest", "threshold") == [
        ("data_quality", "age", "1", "0.4", "0.2"),
        ("data_quality", "amount", "0", "0.1", "0.2"),
        ("model_quality", "", "0", "0.71", "0.7"),
    ]


def test_model_versions(cloud: Any, project: Project) -> None:
    found = saved(cloud, project, "model-versions")
    assert pick(found, "model_package_arn", "name", "at_training", "in_production") == [
        (MODEL, "auc", "0.8", "0.71")
    ]


def test_evaluations(cloud: Any, project: Project) -> None:
    found = saved(cloud, project, "evaluations")
    assert pick(found, "pipeline", "execution", "name", "value", "standard_deviation", "test_rows") == [
        (GROUP, "abc123", "auc", "0.8123", None, "200"),
        (GROUP, "abc123", "f1", "0.7", "0.01", "200"),
    ]


def test_predictions_without_ground_truth(cloud: Any, project: Project, now: datetime) -> None:
    today, before = now.strftime("%Y-%m-%d"), (now - timedelta(days=1)).strftime("%Y-%m-%d")
    found = saved(cloud, project, "predictions-without-ground-truth")
    # e1 by its event, e2 by its own inference id; e3 e4 e7 e8 and f1 are unknown
    assert pick(found, "day", "requests", "with_ground_truth", "without_ground_truth", "share_without") == [
        (today, "6", "2", "4", "0.6667"),
        (before, "1", "0", "1", "1.0"),
    ]


def test_every_saved_query_is_tested_here(project: Project) -> None:
    text = Path(__file__).read_text()
    names = named_queries(project.client("athena"))
    assert [name for name in names if f'"{name}"' not in text] == []
    assert len(names) == 7


# -- tables ----------------------------------------------------------------------------------------------
def test_a_line_that_is_no_json_is_a_row_of_nulls(cloud: Any, project: Project, now: datetime) -> None:
    sql = "SELECT count(*) AS lines, count(eventmetadata.eventid) AS events FROM predictions WHERE hour = "
    found = rows(cloud, project.client("athena"), f"{sql}'{now.strftime('%Y/%m/%d/%H')}'")
    assert found == [{"lines": "10", "events": "8"}]


def test_only_projected_folders_are_read(cloud: Any, project: Project, now: datetime) -> None:
    """The folder of two months ago is within the year of the projection; one that is no hour is in none."""
    found = rows(cloud, project.client("athena"), "SELECT DISTINCT hour FROM predictions ORDER BY hour")
    days = (60, 1, 0)
    assert [one["hour"] for one in found] == [(now - timedelta(days=d)).strftime("%Y/%m/%d/%H") for d in days]


def test_a_query_reads_its_partitions_only(cloud: Any, project: Project, now: datetime) -> None:
    athena = project.client("athena")
    sql = "SELECT count(*) FROM predictions"
    everything = ask(cloud, athena, sql)
    one = ask(cloud, athena, f"{sql} WHERE hour = '{now.strftime('%Y/%m/%d/%H')}'")
    none = ask(cloud, athena, f"{sql} WHERE hour > '2999'")
    scanned = [e["Statistics"]["DataScannedInBytes"] for e in (everything, one, none)]
    assert scanned[0] > scanned[1] > scanned[2] == 0


# -- the workgroup ---------------------------------------------------------------------------------------
def test_results_lie_in_the_project_under_its_key(cloud: Any, project: Project) -> None:
    elsewhere = {"ResultConfiguration": {"OutputLocation": f"s3://{cloud.bucket()}/"}}
    execution = ask(cloud, project.client("athena"), "SELECT kind FROM runs LIMIT 1", **elsewhere)
    place = execution["ResultConfiguration"]["OutputLocation"]
    assert place == f"s3://{project.bucket}/athena/{execution['QueryExecutionId']}.csv"
    found = project.client("s3").get_object(Bucket=project.bucket, Key=place.split("/", 3)[3])
    assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", project.key)
    assert found["Body"].read().decode().startswith('"kind"\n"')


def test_a_query_over_the_limit_is_cancelled(cloud: Any, project: Project, now: datetime) -> None:
    big = f"data-capture/production/{ENDPOINT}/AllTraffic/{now.strftime('%Y/%m/%d')}/00/big.jsonl"
    s3, athena = cloud.client("s3"), cloud.client("athena")
    s3.put_object(Bucket=project.bucket, Key=big, Body=b"x" * 10_000_001)
    group = athena.get_work_group(WorkGroup=GROUP)["WorkGroup"]["Configuration"]["BytesScannedCutoffPerQuery"]
    try:
        athena.update_work_group(
            WorkGroup=GROUP, ConfigurationUpdates={"BytesScannedCutoffPerQuery": 10_000_000}
        )
        status = ask(cloud, project.client("athena"), "SELECT count(*) FROM predictions")["Status"]
        assert (status["State"], status["StateChangeReason"]) == (
            "CANCELLED",
            "Bytes scanned limit was exceeded",
        )
    finally:
        athena.update_work_group(
            WorkGroup=GROUP, ConfigurationUpdates={"BytesScannedCutoffPerQuery": int(group)}
        )
        s3.delete_object(Bucket=project.bucket, Key=big)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELECT * FROM nowhere", "TABLE_NOT_FOUND"),
        ("SELECT FROM WHERE", "SYNTAX_ERROR"),
        ("SELECT strftime(day, '%Y') FROM runs", "FUNCTION_NOT_FOUND: Function 'strftime'"),
        ("SELECT * FROM read_csv('/etc/passwd')", "FUNCTION_NOT_FOUND"),
        ("SELECT nothing FROM runs", "nothing"),
        ("DELETE FROM runs", "the local cloud runs queries only"),
    ],
)
def test_what_is_no_query_of_athena_fails(cloud: Any, project: Project, sql: str, reason: str) -> None:
    status = ask(cloud, project.client("athena"), sql)["Status"]
    assert status["State"] == "FAILED"
    assert reason in status["StateChangeReason"]


# -- who may ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stranger(cloud: Any, project: Project) -> Project:
    """Another project with its own tables."""
    other = Project(cloud, OTHER)
    other.kpi(f"mlops-{OTHER}-kpi")
    return other


def test_another_project_may_neither_use_the_workgroup_nor_the_tables(
    cloud: Any, project: Project, stranger: Project
) -> None:
    athena = stranger.client("athena")
    with pytest.raises(ClientError, match="not authorized to perform: athena:StartQueryExecution"):
        ask(cloud, athena, "SELECT 1")
    with pytest.raises(ClientError, match="not authorized to perform: athena:ListNamedQueries"):
        named_queries(athena)
    ours = named_queries(project.client("athena"))
    with pytest.raises(ClientError, match="not authorized to perform: athena:GetNamedQuery"):
        athena.get_named_query(NamedQueryId=ours["evaluations"])
    status = ask(cloud, athena, "SELECT * FROM runs", group=f"mlops-{OTHER}")["Status"]
    assert status["State"] == "FAILED"
    assert "not authorized to perform: glue:GetDatabase" in status["StateChangeReason"]
    with pytest.raises(ClientError, match="not authorized to perform: glue:GetTable"):
        stranger.client("glue").get_table(DatabaseName=f"mlops_{DATABASE}", Name="runs")


def test_who_may_not_read_the_files_gets_no_rows(cloud: Any, project: Project) -> None:
    """Athena reads with the rights of who asks, not with rights of its own."""
    iam, name = cloud.client("iam"), project.scientist.rpartition("/")[2]
    deny = {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    iam.put_role_policy(RoleName=name, PolicyName="no-files", PolicyDocument=document)
    try:
        status = ask(cloud, project.client("athena"), "SELECT * FROM runs")["Status"]
        assert status["State"] == "FAILED"
        assert "Insufficient permissions to execute the query" in status["StateChangeReason"]
        assert "not authorized to perform: s3:GetObject" in status["StateChangeReason"]
    finally:
        iam.delete_role_policy(RoleName=name, PolicyName="no-files")


def test_a_project_reads_its_dashboard_and_no_other(project: Project, stranger: Project) -> None:
    cloudwatch = project.client("cloudwatch")
    assert json.loads(cloudwatch.get_dashboard(DashboardName=GROUP)["DashboardBody"])["widgets"]
    with pytest.raises(ClientError, match="not authorized to perform: cloudwatch:GetDashboard"):
        cloudwatch.get_dashboard(DashboardName=f"mlops-{OTHER}")


# -- QuickSight ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def quick(cloud: Any) -> Project:
    """A project with a subscription to QuickSight."""
    return Project(cloud, "p-quickquickqui")


def test_quicksight_shows_what_athena_answers(cloud: Any, quick: Project) -> None:
    """With a registered user the stack has a data source, two data sets and a dashboard; without, none."""
    user = cloud.client("quicksight").register_user(
        IdentityType="QUICKSIGHT", Email="q@example.com", UserRole="READER",
        AwsAccountId=cloud.account, Namespace="default", UserName=cloud.name("reader"),
    )["User"]["Arn"]  # fmt: skip
    stack = f"mlops-{quick.id}-kpi"
    quick.kpi(stack, QuickSightPrincipalArn=user)
    pages = cloud.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    kinds = [r["ResourceType"] for page in pages for r in page["StackResourceSummaries"]]
    assert sorted(k for k in kinds if "QuickSight" in k) == [
        "AWS::QuickSight::Dashboard",
        "AWS::QuickSight::DataSet",
        "AWS::QuickSight::DataSet",
        "AWS::QuickSight::DataSource",
    ]
    cloud.client("cloudformation").delete_stack(StackName=stack)
    cloud.wait(lambda: not cloud.stack_status(stack), 60, stack)


def test_quicksight_refuses_a_principal_that_is_not_registered(cloud: Any, quick: Project) -> None:
    nobody = f"arn:aws:quicksight:us-east-1:{cloud.account}:user/default/nobody-{cloud.name()}"
    with pytest.raises(AssertionError, match="principals are not valid or not found"):
        quick.kpi(f"mlops-{quick.id}-kpi2", QuickSightPrincipalArn=nobody)


def test_quicksights_own_queries_run(cloud: Any, project: Project) -> None:
    template = yaml.load((CFN / "deploy/kpi.yaml").read_text(), Loader)  # noqa: S506 a SafeLoader
    sets = [r for r in template["Resources"].values() if r["Type"] == "AWS::QuickSight::DataSet"]
    assert len(sets) == 2
    for one in sets:
        for table in one["Properties"]["PhysicalTableMap"].values():
            sql = table["CustomSql"]["SqlQuery"]  # of requests, which a condition chooses last
            sql = (sql if isinstance(sql, str) else sql[-1]).replace("${Database}", f"mlops_{DATABASE}")
            found = rows(cloud, project.client("athena"), sql)
            assert found
            assert list(found[0]) == [column["Name"] for column in table["CustomSql"]["Columns"]]


# -- deletion --------------------------------------------------------------------------------------------
def test_the_stack_is_deleted_under_its_own_role(cloud: Any, stranger: Project) -> None:
    stack = f"mlops-{OTHER}-kpi"
    cloud.client("cloudformation").delete_stack(StackName=stack)
    cloud.wait(lambda: not cloud.stack_status(stack), 60, stack)
    with pytest.raises(ClientError):
        cloud.client("glue").get_database(Name=f"mlops_{OTHER.replace('-', '_')}")
