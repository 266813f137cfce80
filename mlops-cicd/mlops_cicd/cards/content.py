"""What a model card says, in the JSON schema of SageMaker Model Cards.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-cards.html#model-cards-json-schema
What the owner of a model states comes from block model_card of mlops.yml; everything else is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from monitor.report import bias_values, shap_values

from ..console import Fault
from ..registry import ModelVersion, read_json
from ..release_notes import METRICS, described_job, metric_value
from ..settings import Project
from ..staging.report import console_url, prefix
from .history import DEPLOYED, TESTED, Event, moment

NOT_STATED = "Not stated. The owner of the model states it in mlops.yml: model_card.{key}."
# key of mlops.yml -> its place in a card; the limits are those of the card's schema
STATEMENTS = {
    "description": ("model_overview", "model_description", 1024),
    "owner": ("model_overview", "model_owner", 1024),
    "purpose": ("intended_uses", "purpose_of_model", 2048),
    "intended_uses": ("intended_uses", "intended_uses", 2048),
    "factors": ("intended_uses", "factors_affecting_model_efficiency", 2048),
    "risk_explanation": ("intended_uses", "explanations_for_risk_rating", 2048),
    "business_problem": ("business_details", "business_problem", 2048),
    "stakeholders": ("business_details", "business_stakeholders", 2048),
    "line_of_business": ("business_details", "line_of_business", 2048),
    "ethical_considerations": ("additional_information", "ethical_considerations", 2048),
    "limitations": ("additional_information", "caveats_and_recommendations", 2048),
}
ALWAYS = ("purpose", "intended_uses", "limitations", "owner")  # a card says so if they are not stated
MOST_METRICS, MOST_EVENTS = 50, 40
Content = dict[str, Any]


def cut(text: Any, limit: int) -> str:
    """A text that fits."""
    text = str(text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def numbers(values: dict[str, float]) -> list[dict[str, Any]]:
    """Metrics of a card."""
    return [
        {"name": cut(name, 255), "type": "number", "value": round(float(value), 6)}
        for name, value in list(values.items())[:MOST_METRICS]
    ]


def build(
    project: Project, config: dict[str, Any], model: ModelVersion, events: Sequence[Event], session: Any
) -> Content:
    """The content of a version's card."""
    job = described_job(session.client("sagemaker"), model)
    s3, stated = session.client("s3"), config.get("model_card") or {}
    content: Content = {
        "model_overview": overview(project, model, job, config),
        "intended_uses": {"risk_rating": stated.get("risk_rating", "Unknown")},
        "business_details": {},
        "training_details": training(model, job, config),
        "evaluation_details": [
            *evaluated(s3, model),
            *biased(s3, model),
            *attributed(s3, model),
            *tested(s3, project, model, events),
        ],
        "additional_information": {"custom_details": details(project, model, events)},
        "model_package_details": package(model),
    }
    for key, (section, name, limit) in STATEMENTS.items():
        if stated.get(key):
            content[section][name] = cut(stated[key], limit)
        elif key in ALWAYS:
            content[section][name] = NOT_STATED.format(key=key)
    return {section: value for section, value in content.items() if value}


def overview(
    project: Project, model: ModelVersion, job: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Which model it is."""
    kind = (config["monitoring"].get("model_quality") or {}).get("problem_type", "BinaryClassification")
    framework = config["framework"]
    algorithm = (job.get("HyperParameters") or {}).get("algorithm", "")
    return {
        "model_id": model.arn,
        "model_name": f"{project.project_name}, version {model.version}",
        "model_version": model.version,
        "model_description": f"Model of project {project.project_name}: predicts {config['data']['target']}.",
        "model_creator": f"Build pipeline of project {project.project_name} ({project.project_id})",
        "model_artifact": [one["ModelDataUrl"] for one in model.containers if one.get("ModelDataUrl")][:15],
        "algorithm_type": f"{framework['name']} {framework['version']}"
        + (f", {algorithm}" if algorithm else ""),
        "problem_type": kind,
        "inference_environment": {"container_image": [one["Image"] for one in model.containers][:15]},
    }


def training(model: ModelVersion, job: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """How it was trained."""
    metric, threshold = config["evaluation"]["metric"], config["evaluation"]["threshold"]
    found: dict[str, Any] = {
        "objective_function": {
            "function": {"function": "Maximize", "condition": f"{metric} at least {threshold}"},
            "notes": "A version below the threshold is not registered.",
        }
    }
    details: dict[str, Any] = {
        "training_datasets": [uri for uri in [model.metadata.get("data_uri")] if uri],
    }
    if job:
        details |= {
            "training_arn": job["TrainingJobArn"],
            "training_environment": {"container_image": [job["AlgorithmSpecification"]["TrainingImage"]]},
            "training_metrics": [
                {"name": one["MetricName"], "value": float(one["Value"])}
                for one in job.get("FinalMetricDataList") or []
            ][:MOST_METRICS],
            "hyper_parameters": [
                {"name": cut(name, 255), "value": cut(value, 255)}
                for name, value in sorted((job.get("HyperParameters") or {}).items())
            ][:100],
        }
        spent = job.get("TrainingTimeInSeconds")
        machine = (job.get("ResourceConfig") or {}).get("InstanceType", "")
        found["training_observations"] = f"Trained on {machine}" + (f" in {spent} seconds" if spent else "")
    return found | {"training_job_details": details}


def file_of(s3: Any, uri: str | None) -> Any:
    """A report of the version; nothing where it is not there, because a card says what is known."""
    try:
        return read_json(s3, uri) if uri else None
    except (Fault, ClientError):
        return None


def evaluated(s3: Any, model: ModelVersion) -> list[dict[str, Any]]:
    """The metrics on the test rows."""
    report = file_of(s3, model.evaluation)
    values = {name: metric_value(report, name) for name in METRICS}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return []
    rows = (report.get("dataset") or {}).get("item_count")
    return [
        {
            "name": "Evaluation on the test rows",
            "evaluation_observation": f"On {rows} rows that training did not see.",
            "datasets": [cut(model.evaluation, 1024)],
            "metric_groups": [{"name": "Metrics", "metric_data": numbers(known)}],
        }
    ]


def biased(s3: Any, model: ModelVersion) -> list[dict[str, Any]]:
    """The bias metrics of each group."""
    uri = model.artefact("Bias", "Report", blocks=("ModelMetrics",))
    report = file_of(s3, uri)
    groups = [
        {"name": cut(facet, 63), "metric_data": numbers(values)}
        for facet, values in (bias_values(report) if report else {}).items()
        if values
    ]
    if not groups:
        return []
    text = (
        "How the predictions for a group differ from those for everybody else; 0 is no difference for most."
    )
    return [
        {
            "name": "Bias",
            "evaluation_observation": text,
            "datasets": [cut(uri, 1024)],
            "metric_groups": groups,
        }
    ]


def attributed(s3: Any, model: ModelVersion) -> list[dict[str, Any]]:
    """How much each feature contributes."""
    uri = model.artefact("Explainability", "Report", blocks=("ModelMetrics",))
    report = file_of(s3, uri)
    groups = []
    for label, values in (shap_values(report) if report else {}).items():
        ordered = dict(sorted(values.items(), key=lambda pair: -abs(pair[1])))
        groups.append({"name": cut(f"Label {label}", 63), "metric_data": numbers(ordered)})
    if not groups:
        return []
    text = "Mean absolute SHAP value of each feature, the largest first."
    return [
        {
            "name": "Feature attribution",
            "evaluation_observation": text,
            "datasets": [cut(uri, 1024)],
            "metric_groups": groups,
        }
    ]


def tested(s3: Any, project: Project, model: ModelVersion, events: Sequence[Event]) -> list[dict[str, Any]]:
    """The newest test in each stage."""
    found = []
    for stage in ("staging", "production"):
        executions = [event.execution for event in events if event.execution]
        for execution in reversed(list(dict.fromkeys(executions))):
            folder = prefix(model.version, execution, stage)
            report = file_of(s3, f"s3://{project.bucket_name}/{folder}/report.json")
            if report:
                found.append(of_report(project, report, stage, folder))
                break
    return found


def of_report(project: Project, report: dict[str, Any], stage: str, folder: str) -> dict[str, Any]:
    """What the tests of a stage found."""
    checks, measured = report["checks"], report.get("measured") or {}
    passed = sum(check["passed"] for check in checks)
    load, latency = measured.get("load") or {}, measured.get("latency_ms") or {}
    values = {"checks": len(checks), "checks passed": passed, "latency p95, ms": latency.get("p95")}
    values |= {
        "requests a second under load": load.get("per_second"),
        "p99 under load, ms": load.get("p99_ms"),
    }
    return {
        "name": f"Test in {stage}",
        "evaluation_observation": f"Report: {console_url(project, folder + '/report.html')}",
        "metadata": {
            "finished": str(report.get("finished", "")),
            "endpoint": str(report.get("endpoint", "")),
        },
        "metric_groups": [
            {
                "name": "Measured",
                "metric_data": numbers({name: one for name, one in values.items() if one is not None}),
            }
        ],
    }


def details(project: Project, model: ModelVersion, events: Sequence[Event]) -> dict[str, str]:
    """Where it is from, and its life: keys of a card's own details are letters, digits and _."""
    known = {name: value for name, value in model.metadata.items() if value}
    found = {name: cut(value, 1024) for name, value in known.items()}
    found["cost_center"] = project.cost_center
    for place, event in enumerate(events[-MOST_EVENTS:], start=1):
        found[f"history_{place:02d}"] = cut(f"{event.at} {event.text}", 1024)
    kinds = {event.kind for event in events}
    found["was_in_production"] = "yes" if DEPLOYED in kinds else "no"
    found["was_tested"] = "yes" if TESTED in kinds else "no"
    return found


def package(model: ModelVersion) -> dict[str, Any]:
    """The version in the registry."""
    said = model.description
    found = {
        "model_package_arn": model.arn,
        "model_package_group_name": said.get("ModelPackageGroupName", ""),
        "model_package_version": model.version,
        "model_package_status": said.get("ModelPackageStatus", ""),
        "model_approval_status": said.get("ModelApprovalStatus", ""),
        "approval_description": cut(said.get("ApprovalDescription") or "", 1024),
        "inference_specification": {
            "containers": [
                {"image": one["Image"], "model_data_url": one.get("ModelDataUrl", "")}
                for one in model.containers
            ]
        },
    }
    return {name: value for name, value in found.items() if value}


def registered_at(model: ModelVersion) -> str:
    """When the version was made."""
    return moment(model.description.get("CreationTime", ""))
