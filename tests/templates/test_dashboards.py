"""The CloudWatch dashboards are JSON that CloudWatch takes, and name only metrics that somebody publishes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from house_rules import CFN, load

ROOT = Path(__file__).parents[2]
KPI = CFN / "deploy/kpi.yaml"
DASHBOARDS = {"project": KPI, "batch project": KPI, "platform": CFN / "infra/dashboard.yaml"}
STATISTICS = {"Average", "Maximum", "Minimum", "SampleCount", "Sum"}
# namespace → dimensions → metrics that are published with just these dimensions
PUBLISHED: dict[str, dict[tuple[str, ...], set[str]]] = {
    # https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
    "AWS/SageMaker": {
        ("EndpointName", "VariantName"): {
            "Invocation4XXErrors", "Invocation5XXErrors", "InvocationModelErrors", "Invocations",
            "InvocationsPerInstance", "ModelLatency", "ModelSetupTime", "OverheadLatency",
        },
    },
    "/aws/sagemaker/Endpoints": {
        ("EndpointName", "VariantName"): {"CPUUtilization", "DiskUtilization", "MemoryUtilization"},
    },
    "AWS/Sagemaker/ModelBuildingPipeline": {
        ("PipelineName",): {
            "ExecutionDuration", "ExecutionFailed", "ExecutionStarted", "ExecutionStopped",
            "ExecutionSucceeded",
        },
    },
    # https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html
    "AWS/States": {
        ("StateMachineArn",): {
            "ExecutionTime", "ExecutionsAborted", "ExecutionsFailed", "ExecutionsStarted",
            "ExecutionsSucceeded", "ExecutionsTimedOut",
        },
    },
    # https://docs.aws.amazon.com/athena/latest/ug/query-metrics-viewing.html
    "AWS/Athena": {
        ("QueryState", "QueryType", "WorkGroup"): {
            "DPUCount", "EngineExecutionTime", "ProcessedBytes", "QueryPlanningTime", "QueryQueueTime",
            "ServiceProcessingTime", "TotalExecutionTime",
        },
    },
    # https://docs.aws.amazon.com/codebuild/latest/userguide/cloudwatch_metrics-codebuild.html
    "AWS/CodeBuild": {("ProjectName",): {"Builds", "Duration", "FailedBuilds", "SucceededBuilds"}},
    # https://docs.aws.amazon.com/codepipeline/latest/userguide/metrics-dimensions.html
    "AWS/CodePipeline": {("PipelineName",): {"FailedPipelineExecutions", "PipelineDuration"}},
    # https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
    "AWS/Lambda": {("FunctionName",): {"Duration", "Errors", "Invocations", "Throttles"}},
}  # fmt: skip
# what the function of batch inference counts (lambda/batch/index.py)
COUNTED = set(re.findall(r'count\(world, "(\w+)"', (CFN / "lambda/batch/index.py").read_text()))
PUBLISHED["MLOps/Batch"] = {("ProjectId", "Stage"): COUNTED}
OURS = ("Endpoint", "MonitorType")
_SEARCH = re.compile(r"SEARCH\('\{([^}]+)\} ?([^']*)', '(\w+)', (\d+)\)")
_SELECT = re.compile(
    r'SELECT (AVG|COUNT|MAX|MIN|SUM)\((\w+)\) FROM SCHEMA\(("[^"]+"(?:, \w+)+)\) '
    r"GROUP BY (\w+(?:, \w+)*) ORDER BY \1\(\) DESC LIMIT (\d+)"
)


def of_the_monitor() -> set[str]:
    """The metrics of each run that have a fixed name, from the monitor's own source."""
    source = ast.parse((ROOT / "mlops-cicd/monitor/publish.py").read_text())
    function = next(n for n in ast.walk(source) if isinstance(n, ast.FunctionDef) and n.name == "metrics_of")
    keys = (k for n in ast.walk(function) if isinstance(n, ast.Dict) for k in n.keys)
    return {key.value for key in keys if isinstance(key, ast.Constant)}


def kinds_of_the_monitor() -> set[str]:
    """The values of the dimension MonitorType, and the namespace."""
    from monitor import KINDS

    return set(KINDS)


def body(name: str) -> dict[str, Any]:
    """The dashboard's body, with a word for each reference."""
    text = load(DASHBOARDS[name]).data["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    if not isinstance(text, str):
        text, values = text
        condition, batch, requests = values["Work"]["Fn::If"]
        assert condition == "IsBatch"
        text = text.replace("${Work}", (batch if name.startswith("batch") else requests)["Fn::Sub"])
    return json.loads(filled(text))


def filled(text: str) -> str:
    return re.sub(r"\$\{([^!}][^}]*)\}", lambda m: m[1].replace("::", "-"), text).replace("${!", "${")


def metrics(dashboard: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for widget in dashboard["widgets"]:
        for metric in widget["properties"].get("metrics", []):
            yield widget["properties"]["title"], metric


def faults(title: str, metric: list[Any]) -> Iterator[str]:
    """Why a metric of a widget would show nothing."""
    *path, settings = metric if isinstance(metric[-1], dict) else [*metric, {}]
    if path:
        namespace, name, *pairs = path
        yield from unknown(title, namespace, [name], tuple(sorted(pairs[::2])))
        kinds = [v for k, v in zip(pairs[::2], pairs[1::2], strict=True) if k == "MonitorType"]
        yield from (f"{title}: no monitor {kind}" for kind in kinds if kind not in kinds_of_the_monitor())
        return
    expression = settings.get("expression", "")
    found = [*_SEARCH.finditer(expression), *_SELECT.finditer(expression)]
    rest = _SELECT.sub("x", _SEARCH.sub("x", expression))
    if not found or not re.fullmatch(r"x|METRIC_COUNT\(x\)", rest):
        yield f"{title}: {expression!r} is no expression that is known here"
    for match in found:
        if match.re is _SEARCH:
            namespace, *dimensions = match[1].split(",")
            names = re.findall(r'(?<!NOT )MetricName="([^"]+)"', match[2])
            left_out = re.findall(r'NOT MetricName="([^"]+)"', match[2])
            yield from unknown(title, namespace, [*names, *left_out], tuple(sorted(dimensions)))
            if match[3] not in STATISTICS or int(match[4]) % 60:
                yield f"{title}: {match[3]} every {match[4]} seconds"
        else:
            namespace, *dimensions = [part.strip('" ') for part in match[3].split(",")]
            yield from unknown(title, namespace, [match[2]], tuple(sorted(dimensions)))
            by = set(match[4].split(", "))
            yield from (f"{title}: grouped by {one}, no dimension" for one in sorted(by - set(dimensions)))
            if int(match[5]) > 500:
                yield f"{title}: {match[5]} series are more than CloudWatch draws"


def unknown(title: str, namespace: str, names: list[str], dimensions: tuple[str, ...]) -> Iterator[str]:
    known = PUBLISHED | {"MLOps/Monitoring": {OURS: of_the_monitor()}}
    found = known.get(namespace, {}).get(dimensions)
    if found is None:
        yield f"{title}: nobody publishes {namespace} with {', '.join(dimensions)}"
        return
    yield from (f"{title}: nobody publishes {namespace} {name}" for name in names if name not in found)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_metric_is_published(name: str) -> None:
    found = [fault for title, metric in metrics(body(name)) for fault in faults(title, metric)]
    assert found == []
    assert len(list(metrics(body(name)))) > 10


def search(schema: str, name: str, statistic: str = "Sum") -> list[Any]:
    return [{"expression": f"SEARCH('{{{schema}}} MetricName=\"{name}\"', '{statistic}', 60)"}]


def select(by: str) -> list[Any]:
    words = ["SELECT SUM(Builds)", 'FROM SCHEMA("AWS/CodeBuild", ProjectName)', f"GROUP BY {by}"]
    return [{"expression": " ".join([*words, "ORDER BY SUM() DESC LIMIT 9"])}]


SAGEMAKER = ["EndpointName", "e", "VariantName", "v"]
MONITOR = ["Endpoint", "e", "MonitorType"]


@pytest.mark.parametrize(
    ("metric", "fault"),
    [
        (["AWS/SageMaker", "Invocation5xxErrors", *SAGEMAKER], "Invocation5xxErrors"),
        (["AWS/SageMaker", "Invocations", *SAGEMAKER[:2]], "nobody publishes AWS/SageMaker with"),
        (["AWS/Sagemaker", "Invocations", *SAGEMAKER], "nobody publishes"),
        (["MLOps/Monitoring", "violations", *MONITOR, "data_quality"], "violations"),
        (["MLOps/Monitoring", "records", *MONITOR, "DataQuality"], "no monitor DataQuality"),
        (["MLOps/Monitoring", "records", "Endpoint", "e"], "with Endpoint"),
        ([{"expression": "SUM(m1)"}], "no expression"),
        (search("AWS/Lambda,FunctionName", "Error"), "AWS/Lambda Error"),
        (search("AWS/Lambda,Function", "Errors"), "with Function"),
        (search("AWS/Lambda,FunctionName", "Errors", "Total"), "Total"),
        (select("Project"), "grouped by Project"),
    ],
)
def test_a_metric_that_nobody_publishes_is_found(metric: list[Any], fault: str) -> None:
    assert any(fault in one for one in faults("widget", metric)), list(faults("widget", metric))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_page_is_one_that_cloudwatch_takes(name: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/CloudWatch-Dashboard-Body-Structure.html"""
    dashboard = body(name)
    taken: dict[tuple[int, int], str] = {}
    for widget in dashboard["widgets"]:
        properties = widget["properties"]
        title = properties.get("title") or properties["markdown"][:20]
        assert widget["type"] in ("metric", "text"), title
        assert 0 < widget["width"] <= 24 and widget["x"] + widget["width"] <= 24, title
        for x in range(widget["x"], widget["x"] + widget["width"]):
            for y in range(widget["y"], widget["y"] + widget["height"]):
                assert (x, y) not in taken, f"{title} lies on {taken[x, y]}"
                taken[x, y] = title
        if widget["type"] == "metric":
            assert properties["stat"] in STATISTICS or re.fullmatch(r"p\d+", properties["stat"]), title
            assert properties["period"] % 60 == 0, title
            assert properties["region"] == "AWS-Region", title
            assert properties["view"] in ("timeSeries", "singleValue"), title
    assert len(dashboard["widgets"]) <= 500


@pytest.mark.parametrize("name", DASHBOARDS)
def test_links_stay_in_the_console(name: str) -> None:
    """Relative addresses: the console's host differs by partition."""
    texts = [w["properties"]["markdown"] for w in body(name)["widgets"] if w["type"] == "text"]
    links = re.findall(r"\]\(([^)]+)\)", " ".join(texts))
    assert len(links) >= 5
    assert [link for link in links if not link.startswith("/")] == []


def test_the_names_are_short_enough() -> None:
    """255 characters; the longest project id and stack name."""
    longest = {
        "${ProjectId}": "p-" + "x" * 18,
        "${InfraStackName}": "x" * 128,
        "${AWS::Region}": "ap-southeast-2",
    }
    for path in DASHBOARDS.values():
        name = load(path).data["Resources"]["Dashboard"]["Properties"]["DashboardName"]["Fn::Sub"]
        for reference, text in longest.items():
            name = name.replace(reference, text)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", name), name
