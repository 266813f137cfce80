"""deploy/monitoring.yaml: what its schedules ask for, and where the managed images are."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
import botocore.validate
import pytest
import sagemaker.core.image_uri_config
from botocore.model import ServiceModel
from house_rules import CFN, load
from test_deploy_role import PROJECT, stacks

from localaws.permissions.handlers import Resource

KINDS = {
    "data_quality": ("DataQuality", "dq", "DataQualityDrifted"),
    "model_quality": ("ModelQuality", "mq", "ModelQualityDrifted"),
    "model_bias": ("ModelBias", "mb", "BiasDrifted"),
    "model_explainability": ("ModelExplainability", "me", "AttributionDrifted"),
}
TEMPLATE = load(CFN / "deploy/monitoring.yaml")


@functools.cache
def registries() -> tuple[dict[str, str], dict[str, str]]:
    """AWS's accounts with the images of Model Monitor and of Clarify, by region, as the SDK has them."""
    (folder,) = (Path(p) for p in sagemaker.core.image_uri_config.__path__)
    files = (folder / f"{name}.json" for name in ("model-monitor", "clarify"))
    found, processing = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    monitor, clarify = found["versions"][""], processing["processing"]["versions"]["1.0"]
    assert monitor["repository"] == "sagemaker-model-monitor-analyzer"
    assert clarify["repository"] == "sagemaker-clarify-processing"
    return monitor["registries"], clarify["registries"]


def resources(stack: str) -> dict[str, Resource]:
    """The resources of a stack of test_deploy_role.py, by logical id."""
    return {resource.logical_id: resource for _, resource in stacks()[1][stack].resources()}


def job(kind: str) -> dict[str, Any]:
    """The job that Scheduler starts for a kind."""
    target = resources("monitoring")[f"{KINDS[kind][0]}Schedule"].properties["Target"]
    return json.loads(target["Input"])


def test_images_are_where_the_sdk_says() -> None:
    monitor, clarify = registries()
    mapping = TEMPLATE.data["Mappings"]["ImageAccounts"]
    assert {r: m["ModelMonitor"] for r, m in mapping.items() if m["ModelMonitor"] != "none"} == monitor
    assert {r: m["Clarify"] for r, m in mapping.items() if m["Clarify"] != "none"} == clarify


def test_no_region_is_unknown() -> None:
    """CloudFormation looks a region up in any case, so each with SageMaker must be there."""
    session = botocore.session.Session()
    partitions = session.get_available_partitions()
    regions = {r for p in partitions for r in session.get_available_regions("sagemaker", p)}
    assert regions - set(TEMPLATE.data["Mappings"]["ImageAccounts"]) == set()


def test_the_rule_names_the_regions_with_both_images() -> None:
    monitor, clarify = registries()
    (assertion,) = TEMPLATE.data["Rules"]["ManagedEngineExists"]["Assertions"]
    regions, asked = assertion["Assert"]["Fn::Contains"]
    assert asked == {"Ref": "AWS::Region"} and set(regions) == set(monitor) & set(clarify)


@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_asks_for_a_job_that_the_api_takes(kind: str) -> None:
    model = ServiceModel(botocore.loaders.Loader().load_service_model("sagemaker", "service-2"))
    shape = model.operation_model("CreateProcessingJob").input_shape
    asked = job(kind)
    report = botocore.validate.ParamValidator().validate(asked, shape)
    assert not report.has_errors(), report.generate_report()
    unknown = set(asked) - set(shape.members)
    assert unknown == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_is_told_what_the_monitor_reads(kind: str) -> None:
    """The variables are those of settings.py, no more and no fewer."""
    source = "".join(p.read_text(encoding="utf-8") for p in (CFN.parent / "mlops-cicd/monitor").glob("*.py"))
    asked = job(kind)
    env = asked["Environment"]
    for name in env:
        assert f'"{name}"' in source, f"the monitor does not read {name}"
    assert env["MONITOR_KIND"] == kind and env["SCHEDULED_TIME"] == "<aws.scheduler.scheduled-time>"
    assert asked["ProcessingJobName"] == f"mlops-{PROJECT}-{KINDS[kind][1]}-<aws.scheduler.execution-id>"
    late = kind in ("model_quality", "model_bias")
    stack = stacks()[1]["monitoring"]
    assert env["DELAY_MINUTES"] == (str(stack.given["GroundTruthDelayMinutes"]) if late else "0")
    inputs = {i["InputName"]: i["S3Input"]["S3Uri"] for i in asked["ProcessingInputs"]}
    assert inputs["baseline"] == f"{stack.given['BaselineUri']}/{kind}"
    assert ("model" in inputs) is (kind == "model_explainability")
    assert asked["NetworkConfig"]["VpcConfig"]["Subnets"] == stack.given["SubnetIds"]


def test_the_four_jobs_differ_where_they_should() -> None:
    """Written out four times, they must not drift apart."""

    def plain(kind: str) -> str:
        text = json.dumps(job(kind), sort_keys=True).replace(kind, "KIND")
        text = text.replace(f"-{KINDS[kind][1]}-<", "-PART-<")
        text = re.sub(r'"(DELAY_MINUTES|MIN_RECORDS)": "\d+"', r'"\1": "N"', text)
        return re.sub(r', \{"InputName": "model".*?\}\}', "", text)

    assert len({plain(kind) for kind in KINDS}) == 1


@pytest.mark.parametrize("engine", ["monitoring", "monitoring managed"])
def test_both_engines_have_the_same_alarms(engine: str) -> None:
    found = resources(engine)
    for kind, (_, _, alarm) in KINDS.items():
        props = found[alarm].properties
        assert (props["Namespace"], props["MetricName"]) == ("MLOps/Monitoring", "constraint_violations")
        dimensions = {d["Name"]: d["Value"] for d in props["Dimensions"]}
        assert dimensions == {"Endpoint": f"mlops-{PROJECT}-production", "MonitorType": kind}
        assert (props["Statistic"], props["Period"], props["TreatMissingData"]) == ("Maximum", 3600, "ignore")
        assert f"/monitoring/{kind.replace('_', '-')}/" in props["AlarmDescription"]


def test_engines_do_not_mix() -> None:
    own = {"AWS::Scheduler::Schedule"}
    for stack, wanted in (("monitoring", False), ("monitoring managed", True)):
        types = {r.type for r in resources(stack).values() if r.logical_id != "SimulatedTrafficSchedule"}
        assert any("MonitoringSchedule" in t or "JobDefinition" in t for t in types) is wanted
        assert bool(types & own) is not wanted


@pytest.mark.parametrize("kind", KINDS)
def test_managed_reads_what_the_baseline_writes(kind: str) -> None:
    """Each file below BaselineUri is one that `monitor.pyz baseline` makes."""
    text = json.dumps(resources("monitoring managed")[f"{KINDS[kind][0]}Definition"].properties)
    files = set(re.findall(rf"/baseline/{kind}/([\w.]+)", text))
    assert files, "no file of the baseline"
    source = "".join(p.read_text(encoding="utf-8") for p in (CFN.parent / "mlops-cicd/monitor").glob("*.py"))
    assert {f for f in files if f'"{f}"' not in source} == set()


def test_the_explained_model_is_the_one_that_the_baseline_names() -> None:
    from monitor import managed

    stack = stacks()[1]["monitoring managed"]
    shadow = managed.shadow_of(stack.given["BaselineUri"])
    model = resources("monitoring managed")["ExplainedModel"].properties
    assert shadow is not None and model["ModelName"] == shadow.model == f"mlops-{PROJECT}-abc123def456"
    identity = stacks()[0]
    role = next(s for s in identity.stacks if s.path.name == "2-smproject.yaml").child("Identity")
    policies = role.properties("ExecutionRole")["Policies"][0]["PolicyDocument"]["Statement"]
    (shadows,) = [s for s in policies if s["Sid"] == "ShadowEndpoints"]
    assert all(r.endswith(f"/{shadow.prefix}*") for r in shadows["Resource"])


def test_the_events_role_starts_what_the_schedules_ask_for() -> None:
    """Jobs of the four kinds and the traffic function, by the names that the schedules use."""
    project = next(s for s in stacks()[0].stacks if s.path.name == "2-smproject.yaml")
    (policy,) = project.child("Identity").properties("EventsRole")["Policies"]
    allowed = {s["Sid"]: s["Resource"] for s in policy["PolicyDocument"]["Statement"]}
    jobs = {job(kind)["ProcessingJobName"].replace("<aws.scheduler.execution-id>", "*") for kind in KINDS}
    assert {arn.rpartition("/")[2] for arn in allowed["StartMonitors"]} == jobs
    schedule = resources("monitoring")["SimulatedTrafficSchedule"].properties["Target"]
    assert schedule["Arn"] == allowed["SendTraffic"]
    asked = json.loads(schedule["Input"])
    baseline = stacks()[1]["monitoring"].given["BaselineUri"]
    assert asked == {
        "endpoint": f"mlops-{PROJECT}-production",
        "sample_uri": f"{baseline}/data_quality/sample.csv",
        "scheduled_time": "<aws.scheduler.scheduled-time>",
    }
