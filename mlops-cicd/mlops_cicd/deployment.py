"""What mlops.yml asks of the endpoints: their kind, how a release moves; what contradicts itself there.

The functions take a configuration with its defaults (config.load_config).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from .monitoring import enabled_kinds

KeyPath = tuple[str | int, ...]
INSTANCES, SERVERLESS, ASYNCHRONOUS = "instances", "serverless", "asynchronous"
# Burstable types have no automatic scaling; of SageMaker's hosting types these are the ml.t2.
BURSTABLE = re.compile(r"ml\.t\d+[a-z]*\.")
# Inferentia 1 falls back to a release without steps, and has no shadow:
# https://docs.aws.amazon.com/sagemaker/latest/dg/deployment-guardrails-exclusions.html
# https://docs.aws.amazon.com/sagemaker/latest/dg/shadow-tests-exclusions.html
UNGUARDED = re.compile(r"ml\.inf1\.")
LINEAR_LEAST = 10  # percent; smaller steps are refused by the API (TrafficRoutingConfig.LinearStepSize)
UNSEEN = 5  # percent; a slow model that has no more of the requests does not move their 95th percentile
LONGEST = 28800  # seconds; MaximumExecutionTimeoutInSeconds of the API
TERMINATION_WAIT = 120  # seconds that the old instances stay after the last step
PREPARATION = 3600  # seconds in which the new instances must be there: capacity, image, model, start


def shift(config: dict[str, Any]) -> str:
    """How production's traffic moves to a new version: canary, linear or all_at_once."""
    deployment = config["deployment"]
    if deployment["endpoint"] == SERVERLESS:
        return "all_at_once"  # there are no instances that could take a share
    default = "canary" if deployment["production"]["instance_count"] > 1 else "all_at_once"
    return deployment["release"].get("shift", default)


def release_seconds(how: str, share: int, wait: int) -> int:
    """How long a release may take before SageMaker takes it back: its waits, and the time to get ready.

    The alarms watch after each step, and once more when everything has moved.
    """
    steps = {"canary": 2, "linear": math.ceil(100 / share), "all_at_once": 1}[how]
    return steps * wait + TERMINATION_WAIT + PREPARATION


def contradictions(config: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Settings that are right one by one and wrong together: the key's path, and a sentence."""
    deployment, mode = config["deployment"], config["inference"]["mode"]
    kind = deployment["endpoint"]
    if mode == "batch":
        yield from batch_mistakes(deployment)
        return
    if kind == SERVERLESS:
        yield from serverless_mistakes(deployment)
    else:
        missing = [stage for stage in ("staging", "production") if stage not in deployment]
        for stage in missing:
            yield ("deployment",), f"deployment.{stage} is missing; it must be set"
        if missing:
            return
        yield from release_mistakes(config)
        yield from autoscaling_mistakes(deployment, kind)
        yield from shadow_mistakes(config, kind)
    if kind != INSTANCES:
        yield from capture_mistakes(config, kind)
    yield from api_mistakes(deployment)


def api_mistakes(deployment: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Settings of deployment.api that contradict each other: the key's path, and a sentence."""
    api = deployment.get("api")
    if api is None:
        return
    tokens = api.get("auth", "iam") == "jwt"
    for key in ("jwt_issuer", "jwt_audience"):
        if tokens and not api.get(key):
            yield (
                ("deployment", "api"),
                f"deployment.api.{key} is missing; with deployment.api.auth jwt it must be set",
            )
        elif not tokens and api.get(key):
            yield (
                ("deployment", "api", key),
                f"deployment.api.{key} is set; allowed with deployment.api.auth iam: no {key}",
            )
    if tokens and api.get("private"):
        yield (
            ("deployment", "api", "private"),
            "deployment.api.private is true; allowed with deployment.api.auth jwt: false, because a private "
            "API takes signatures of IAM only",
        )


def batch_mistakes(deployment: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """What a batch project cannot have: it has no endpoint."""
    for key in ("shadow", "api"):
        if key in deployment:
            yield (
                ("deployment", key),
                f"deployment.{key} is set; allowed with inference.mode batch: no {key}, because there is "
                "no endpoint",
            )
    if deployment["endpoint"] != INSTANCES:
        yield (
            ("deployment", "endpoint"),
            f"deployment.endpoint is {deployment['endpoint']}; allowed with inference.mode batch: none",
        )
    if "autoscaling" in deployment.get("production", {}):
        yield (
            ("deployment", "production", "autoscaling"),
            "deployment.production.autoscaling is set; allowed with inference.mode batch: no autoscaling, "
            "because a job has the instances that deployment.batch gives it",
        )


def serverless_mistakes(deployment: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """What a serverless endpoint does not have.

    https://docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints.html, Feature exclusions
    """
    if "autoscaling" in deployment.get("production", {}):
        yield (
            ("deployment", "production", "autoscaling"),
            "deployment.production.autoscaling is set; allowed with deployment.endpoint serverless: none, "
            "because it scales by itself, up to deployment.serverless.max_concurrency",
        )
    if "shadow" in deployment:
        yield (
            ("deployment", "shadow"),
            "deployment.shadow is set; allowed with deployment.endpoint serverless: no shadow",
        )
    how = deployment["release"].get("shift", "all_at_once")
    if how != "all_at_once":
        yield (
            ("deployment", "release", "shift"),
            f"deployment.release.shift is {how}; allowed with deployment.endpoint serverless: all_at_once, "
            "because there are no instances that could take a share",
        )


def release_mistakes(config: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Whether a share of production can move, be watched, and be done in time."""
    deployment = config["deployment"]
    production, release = deployment["production"], deployment["release"]
    how, share, wait = shift(config), release["share"], release["wait_seconds"]
    count, scaling = production["instance_count"], production.get("autoscaling")
    key = ("deployment", "release", "shift" if "shift" in release else "share")
    if how != "all_at_once":
        if count < 2:
            yield (
                key,
                f"deployment.release.shift is {how} and deployment.production.instance_count is {count}; "
                "allowed: 2 or more instances, or all_at_once, because one instance cannot be shared",
            )
        elif scaling and scaling["min"] < 2:
            yield (
                ("deployment", "production", "autoscaling", "min"),
                f"deployment.production.autoscaling.min is {scaling['min']}; allowed with "
                f"deployment.release.shift {how}: 2 or more, because a release keeps the instances that are "
                "there, and one cannot be shared",
            )
        if UNGUARDED.match(production["instance_type"]):
            yield (
                ("deployment", "production", "instance_type"),
                f"deployment.production.instance_type is {production['instance_type']}; allowed with "
                f"deployment.release.shift {how}: other than ml.inf1, which SageMaker moves all at once",
            )
    least = {"canary": UNSEEN + 1, "linear": LINEAR_LEAST, "all_at_once": 1}[how]
    if share < least:
        why = {
            "canary": "the latency alarm would not see a slow model that has a smaller share",
            "linear": "SageMaker takes no smaller step",
        }[how]
        yield (
            ("deployment", "release", "share"),
            f"deployment.release.share is {share}; allowed with deployment.release.shift {how}: at least "
            f"{least}, because {why}",
        )
    elif release_seconds(how, share, wait) > LONGEST:
        longest = (LONGEST - release_seconds(how, share, 0)) // math.ceil(100 / share)
        yield (
            ("deployment", "release", "wait_seconds"),
            f"deployment.release.wait_seconds is {wait}; allowed with deployment.release.shift {how} and "
            f"share {share}: at most {longest}, because a release must end within {LONGEST // 3600} hours",
        )


def autoscaling_mistakes(deployment: dict[str, Any], kind: str) -> Iterator[tuple[KeyPath, str]]:
    """Whether the instances can follow the load."""
    production = deployment["production"]
    scaling = production.get("autoscaling")
    if not scaling:
        return
    path: KeyPath = ("deployment", "production", "autoscaling")
    if kind == ASYNCHRONOUS:
        yield (
            path,
            "deployment.production.autoscaling is set; allowed with deployment.endpoint asynchronous: none, "
            "because such an endpoint has no figure of its invocations per instance",
        )
    if BURSTABLE.match(production["instance_type"]):
        yield (
            ("deployment", "production", "instance_type"),
            f"deployment.production.instance_type is {production['instance_type']}; allowed with "
            "deployment.production.autoscaling: a type that is not burstable, for example ml.m5.large",
        )
    low, high, count = scaling["min"], scaling["max"], production["instance_count"]
    if low > high:
        yield (
            (*path, "min"),
            f"deployment.production.autoscaling.min is {low}; allowed: at most max, which is {high}",
        )
    elif not low <= count <= high:
        yield (
            ("deployment", "production", "instance_count"),
            f"deployment.production.instance_count is {count}; allowed: {low} to {high}, as "
            "deployment.production.autoscaling says",
        )


def shadow_mistakes(config: dict[str, Any], kind: str) -> Iterator[tuple[KeyPath, str]]:
    """Whether a copy of production's requests can go to a new version, and be compared."""
    deployment = config["deployment"]
    if "shadow" not in deployment:
        return
    if kind == ASYNCHRONOUS:
        yield (
            ("deployment", "shadow"),
            "deployment.shadow is set; allowed with deployment.endpoint asynchronous: no shadow",
        )
        return
    if UNGUARDED.match(deployment["production"]["instance_type"]):
        yield (
            ("deployment", "shadow"),
            f"deployment.shadow is set; allowed with {deployment['production']['instance_type']}: no shadow",
        )
    if config["monitoring"]["data_capture_percentage"] == 0:
        yield (
            ("monitoring", "data_capture_percentage"),
            "monitoring.data_capture_percentage is 0; allowed with deployment.shadow: 1 to 100, because the "
            "captured answers are compared",
        )


def capture_mistakes(config: dict[str, Any], kind: str) -> Iterator[tuple[KeyPath, str]]:
    """SageMaker captures requests of endpoints that have instances and answer at once, and of batch jobs.

    https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture.html
    """
    monitoring = config["monitoring"]
    if monitoring["data_capture_percentage"]:
        yield (
            ("monitoring", "data_capture_percentage"),
            f"monitoring.data_capture_percentage is {monitoring['data_capture_percentage']}; allowed with "
            f"deployment.endpoint {kind}: 0, because SageMaker captures nothing there",
        )
    for one in enabled_kinds(config):
        path: KeyPath = ("monitoring", one) if one in monitoring else ("monitoring",)
        yield (
            path,
            f"monitoring.{one} is enabled; allowed with deployment.endpoint {kind}: enabled: false, because "
            "nothing is captured that a monitor could read",
        )
    if monitoring.get("simulated_traffic"):
        yield (
            ("monitoring", "simulated_traffic"),
            f"monitoring.simulated_traffic is true; allowed with deployment.endpoint {kind}: false",
        )
    if kind == ASYNCHRONOUS and "api" in config["deployment"]:
        yield (
            ("deployment", "api"),
            "deployment.api is set; allowed with deployment.endpoint asynchronous: no api, because callers "
            "put their requests into S3",
        )


def impossible_changes(before: dict[str, str], after: dict[str, str], stack: str) -> Iterator[str]:
    """What SageMaker would refuse in the middle of an update: said before anything is touched.

    `before` and `after` are parameters of deploy/realtime.yaml; `before` is empty where nothing runs.
    """
    if not before or "EndpointKind" not in after:
        return
    kinds = before.get("EndpointKind", INSTANCES), after["EndpointKind"]
    if kinds[0] != kinds[1]:
        yield (
            f"deployment.endpoint is {kinds[1]}, and {stack} is an endpoint of the kind {kinds[0]}, which "
            f"cannot be changed. Set it back, or delete the stack {stack}, which ends the endpoint, before"
        )
    types = before.get("InstanceType"), after.get("InstanceType")
    if before.get("ScalingMaximum", "0") != "0" and types[1] and types[0] != types[1]:
        yield (
            f"deployment.production.instance_type is {types[1]}, and {stack} scales on {types[0]}: SageMaker "
            "changes the type of no endpoint that scales. Release once without autoscaling, then change it"
        )
