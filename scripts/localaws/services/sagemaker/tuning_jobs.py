"""Hyperparameter tuning jobs: several real training jobs, the next ones near the best so far."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.service import page
from localaws.services.sagemaker.records import Collection, Record
from localaws.services.sagemaker.running import Run
from localaws.services.sagemaker.training_jobs import TrainingJobs

_ENDED = ("Completed", "Failed", "Stopped")


class TuningJobs(TrainingJobs):
    """CreateHyperParameterTuningJob and what belongs to it."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.tuning_jobs = Collection(
            self,
            "HyperParameterTuningJob",
            "hyper-parameter-tuning-job",
            duplicate=(
                "ResourceInUse",
                "Hyperparameter tuning job names must be unique within an AWS account and region, and a "
                "hyperparameter tuning job with this name already exists ({arn})",
            ),
            missing=("ResourceNotFound", "Amazon SageMaker can't find a tuning job with the name {name}."),
        )

    def create_hyper_parameter_tuning_job(self, params: Record) -> Record:
        config = params["HyperParameterTuningJobConfig"]
        if params.get("WarmStartConfig") or params.get("Autotune"):
            raise AwsError(
                "NotImplemented", "WarmStartConfig and Autotune: the local cloud tunes from scratch", 501
            )
        definitions = _definitions(params)
        for definition in definitions:
            objective = definition.get("TuningObjective") or config.get("HyperParameterTuningJobObjective")
            if not objective:
                raise AwsError("ValidationException", "HyperParameterTuningJobObjective is required")
            known = [m["Name"] for m in definition["AlgorithmSpecification"].get("MetricDefinitions") or []]
            if objective["MetricName"] not in known:
                raise AwsError(
                    "ValidationException",
                    f"The objective metric {objective['MetricName']} is not among the metric definitions "
                    f"of the training job: [{', '.join(known)}]",
                )
            ranges = definition.get("HyperParameterRanges") or config.get("ParameterRanges") or {}
            _check_ranges(ranges, definition.get("StaticHyperParameters") or {}, config["Strategy"])
            self.check_training({**definition, "ResourceConfig": _resources(definition)})
        record = self.tuning_jobs.add(
            params["HyperParameterTuningJobName"],
            {
                **params,
                "HyperParameterTuningJobStatus": "InProgress",
                "_jobs": [],
                "TrainingJobStatusCounters": dict.fromkeys(
                    ("Completed", "InProgress", "RetryableError", "NonRetryableError", "Stopped"), 0
                ),
                "ObjectiveStatusCounters": dict.fromkeys(("Succeeded", "Pending", "Failed"), 0),
            },
        )
        arn = record["HyperParameterTuningJobArn"]
        self.runs[arn] = Run(self.cloud.home)
        self._tuning_event(record)
        self.cloud.spawn(
            self._run_tuning, record, definitions, name=f"tuning-{record['HyperParameterTuningJobName']}"
        )
        return {"HyperParameterTuningJobArn": arn}

    def describe_hyper_parameter_tuning_job(self, params: Record) -> Record:
        record = self.tuning_jobs.get(params["HyperParameterTuningJobName"])
        self._count_trials(record)
        return record

    def list_hyper_parameter_tuning_jobs(self, params: Record) -> Record:
        for record in self.tuning_jobs.all():
            self._count_trials(record)
        rows = {r["HyperParameterTuningJobName"]: _limits(r) for r in self.tuning_jobs.all()}
        answer = self.tuning_jobs.listing(params, "HyperParameterTuningJobSummaries")
        summaries = [
            {**r, **rows[r["HyperParameterTuningJobName"]]}
            for r in answer["HyperParameterTuningJobSummaries"]
        ]
        return {**answer, "HyperParameterTuningJobSummaries": summaries}

    def list_training_jobs_for_hyper_parameter_tuning_job(self, params: Record) -> Record:
        record = self.tuning_jobs.get(params["HyperParameterTuningJobName"])
        found = [_summary(job) for job in record["_jobs"]]
        if params.get("StatusEquals"):
            found = [s for s in found if s["TrainingJobStatus"] == params["StatusEquals"]]
        keys: dict[str, Any] = {
            "Name": lambda s: s["TrainingJobName"],
            "CreationTime": lambda s: s["CreationTime"],
            "Status": lambda s: s["TrainingJobStatus"],
        }
        descending = params.get("SortOrder", "Ascending") == "Descending"
        if (
            params.get("SortBy") == "FinalObjectiveMetricValue"
        ):  # jobs without a value come last, whatever the order
            valued = [s for s in found if s.get("FinalHyperParameterTuningJobObjectiveMetric")]
            valued.sort(
                key=lambda s: s["FinalHyperParameterTuningJobObjectiveMetric"]["Value"], reverse=descending
            )
            found = valued + [s for s in found if not s.get("FinalHyperParameterTuningJobObjectiveMetric")]
        else:
            found.sort(key=keys[params.get("SortBy", "Name")], reverse=descending)
        items, token = page(found, params, default=10)
        return {"TrainingJobSummaries": items, "NextToken": token}

    def stop_hyper_parameter_tuning_job(self, params: Record) -> Record:
        record = self.tuning_jobs.get(params["HyperParameterTuningJobName"])
        run = self.runs.get(record["HyperParameterTuningJobArn"])
        if run is None:
            raise AwsError(
                "ValidationException",
                "The request was rejected because the tuning job is in status "
                f"{record['HyperParameterTuningJobStatus']}.",
            )
        if not run.stopping.is_set():
            run.stopping.set()
            self.tuning_jobs.change(record, HyperParameterTuningJobStatus="Stopping")
            self._tuning_event(record)
        return {}

    # -- running ---------------------------------------------------------------------------------------------
    def _run_tuning(self, record: Record, definitions: list[Record]) -> None:
        name, config = record["HyperParameterTuningJobName"], record["HyperParameterTuningJobConfig"]
        limits = config["ResourceLimits"]
        wanted = limits.get("MaxNumberOfTrainingJobs") or 10
        run = self.runs[record["HyperParameterTuningJobArn"]]
        generator = random.Random(config.get("RandomSeed", name))
        grids = [_grid(_ranges(d, config)) if config["Strategy"] == "Grid" else None for d in definitions]
        if all(g is not None for g in grids):
            wanted = sum(len(g or []) for g in grids)
        self._tuning_event(record)
        reason, number = "", 0
        while number < wanted and not run.stopping.is_set() and not reason:
            definition = definitions[number % len(definitions)]
            grid = grids[number % len(definitions)]
            best = None if config["Strategy"] in ("Random", "Grid") else self._best_trial(record, definition)
            chosen = (
                grid.pop(0)
                if grid
                else _choose(generator, _ranges(definition, config), best if number >= 3 else None)
            )
            number += 1
            try:
                self._begin_trial(record, definition, chosen, number)
            except AwsError as error:
                reason = f"Failed to create training job: {error.message}"
                break
            self._wait_for_trials(record, run, limits["MaxParallelTrainingJobs"] - 1)
            reason = _too_many_failures(record)
        self._wait_for_trials(record, run, 0)
        self._end_tuning(record, run, reason)

    def _begin_trial(self, record: Record, definition: Record, chosen: dict[str, str], number: int) -> None:
        objective = (
            definition.get("TuningObjective")
            or record["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
        )
        name = record["HyperParameterTuningJobName"]
        keep = (
            "AlgorithmSpecification",
            "RoleArn",
            "InputDataConfig",
            "VpcConfig",
            "OutputDataConfig",
            "StoppingCondition",
            "EnableNetworkIsolation",
            "EnableInterContainerTrafficEncryption",
            "EnableManagedSpotTraining",
            "CheckpointConfig",
            "Environment",
        )
        static = {
            **(definition.get("StaticHyperParameters") or {}),
            "_tuning_objective_metric": objective["MetricName"],
        }
        job = self.begin_training(
            {
                **{k: definition[k] for k in keep if definition.get(k) is not None},
                "TrainingJobName": f"{name}-{number:03d}-{self.cloud.new_id(length=8)}",
                "HyperParameters": {**static, **chosen},
                "ResourceConfig": _resources(definition),
                "Tags": self.tags_of(record["HyperParameterTuningJobArn"]),
            },
            TuningJobArn=record["HyperParameterTuningJobArn"],
            _tuned=chosen,
            _objective=objective,
            _definition=definition.get("DefinitionName"),
        )
        record["_jobs"].append(job)

    def _wait_for_trials(self, record: Record, run: Run, allowed: int) -> None:
        """Wait until no more than ``allowed`` training jobs are under way; stops them with the tuning."""
        while not self.cloud.stopping:
            under_way = [j for j in record["_jobs"] if j["TrainingJobStatus"] not in _ENDED]
            if run.stopping.is_set():
                for job in under_way:
                    if job["TrainingJobStatus"] == "InProgress":
                        self.stop_training_job({"TrainingJobName": job["TrainingJobName"]})
                allowed = 0
            if len(under_way) <= allowed:
                return
            self.cloud.wait_until(lambda: False, 0.1)

    def _end_tuning(self, record: Record, run: Run, reason: str) -> None:
        self.runs.pop(record["HyperParameterTuningJobArn"], None)
        completed = [j for j in record["_jobs"] if j["TrainingJobStatus"] == "Completed"]
        best = self._best_trial(record, None)
        if run.stopping.is_set():
            status, reason = "Stopped", ""
        elif reason or not completed or best is None:
            status = "Failed"
            reason = reason or (
                "All training jobs failed. Please take a look at the training jobs failures to get "
                "more details."
                if not completed
                else "No training job succeeded with an objective metric: is its regex right?"
            )
        else:
            status = "Completed"
        self._count_trials(record)
        self.tuning_jobs.change(
            record,
            HyperParameterTuningJobStatus=status,
            HyperParameterTuningEndTime=clock.now(),
            FailureReason=reason or None,
            BestTrainingJob=_summary(best) if best else None,
            OverallBestTrainingJob=_summary(best) if best else None,
        )
        self._tuning_event(record)

    def _best_trial(self, record: Record, definition: Record | None) -> Record | None:
        jobs = [j for j in record["_jobs"] if _value(j) is not None]
        if definition is not None:
            jobs = [j for j in jobs if j["_definition"] == definition.get("DefinitionName")]
        if not jobs:
            return None
        maximise = jobs[0]["_objective"]["Type"] == "Maximize"
        return (max if maximise else min)(jobs, key=lambda j: _value(j) or 0.0)

    def _count_trials(self, record: Record) -> None:
        states = Counter(j["TrainingJobStatus"] for j in record["_jobs"])
        valued = sum(_value(j) is not None for j in record["_jobs"])
        pending = states["InProgress"] + states["Stopping"]
        record["TrainingJobStatusCounters"] = {
            "Completed": states["Completed"],
            "InProgress": pending,
            "RetryableError": 0,
            "NonRetryableError": states["Failed"],
            "Stopped": states["Stopped"],
        }
        record["ObjectiveStatusCounters"] = {
            "Succeeded": valued,
            "Pending": pending,
            "Failed": len(record["_jobs"]) - valued - pending,
        }

    def _tuning_event(self, record: Record) -> None:
        self.state_event(
            "SageMaker HyperParameter Tuning Job State Change",
            "DescribeHyperParameterTuningJob",
            record,
            record["HyperParameterTuningJobArn"],
        )


def _definitions(params: Record) -> list[Record]:
    found = params.get("TrainingJobDefinitions") or (
        [params["TrainingJobDefinition"]] if params.get("TrainingJobDefinition") else []
    )
    if not found:
        raise AwsError("ValidationException", "TrainingJobDefinition or TrainingJobDefinitions is required")
    return found


def _resources(definition: Record) -> Record:
    given = definition.get("ResourceConfig")
    if given:
        return given
    flexible = definition.get("HyperParameterTuningResourceConfig") or {}
    if flexible.get("InstanceConfigs"):
        return {**flexible["InstanceConfigs"][0]}
    return {
        k: flexible[k]
        for k in ("InstanceType", "InstanceCount", "VolumeSizeInGB", "VolumeKmsKeyId")
        if k in flexible
    }


def _ranges(definition: Record, config: Record) -> Record:
    return definition.get("HyperParameterRanges") or config.get("ParameterRanges") or {}


def _check_ranges(ranges: Record, static: dict[str, str], strategy: str) -> None:
    named = [(kind, r) for kind, items in ranges.items() if isinstance(items, list) for r in items]
    if not named:
        raise AwsError("ValidationException", "At least one hyperparameter range is required")
    for kind, item in named:
        if item["Name"] in static:
            raise AwsError("ValidationException", f"Hyperparameter {item['Name']} is both static and tuned")
        if kind in ("ContinuousParameterRanges", "IntegerParameterRanges"):
            if strategy == "Grid":
                raise AwsError(
                    "ValidationException", "The Grid strategy takes categorical parameter ranges only"
                )
            if float(item["MinValue"]) > float(item["MaxValue"]):
                raise AwsError(
                    "ValidationException", f"MinValue of {item['Name']} is greater than its MaxValue"
                )


def _grid(ranges: Record) -> list[dict[str, str]]:
    out: list[dict[str, str]] = [{}]
    for item in ranges.get("CategoricalParameterRanges") or []:
        out = [{**row, item["Name"]: value} for row in out for value in item["Values"]]
    return out


def _choose(generator: random.Random, ranges: Record, best: Record | None) -> dict[str, str]:
    """Hyperparameters for the next job: anywhere, or in the neighbourhood of the best so far."""
    chosen = {}
    near = best["_tuned"] if best and generator.random() < 0.7 else {}
    for item in ranges.get("ContinuousParameterRanges") or []:
        chosen[item["Name"]] = repr(_number(generator, item, near.get(item["Name"])))
    for item in ranges.get("IntegerParameterRanges") or []:
        chosen[item["Name"]] = str(round(_number(generator, item, near.get(item["Name"]))))
    for item in ranges.get("CategoricalParameterRanges") or []:
        chosen[item["Name"]] = near.get(item["Name"]) or generator.choice(item["Values"])
    return chosen


def _number(generator: random.Random, item: Record, near: str | None) -> float:
    low, high = float(item["MinValue"]), float(item["MaxValue"])
    logarithmic = item.get("ScalingType") == "Logarithmic" and low > 0
    a, b = (math.log(low), math.log(high)) if logarithmic else (low, high)
    if near is None:
        value = generator.uniform(a, b)
    else:
        middle = math.log(float(near)) if logarithmic else float(near)
        value = min(b, max(a, generator.gauss(middle, (b - a) / 8)))
    return math.exp(value) if logarithmic else value


def _value(job: Record) -> float | None:
    if job["TrainingJobStatus"] != "Completed":
        return None
    name = job["_objective"]["MetricName"]
    return next((m["Value"] for m in job.get("FinalMetricDataList") or [] if m["MetricName"] == name), None)


def _too_many_failures(record: Record) -> str:
    """SageMaker gives a tuning job up whose training jobs do nothing but fail."""
    ended = [j for j in record["_jobs"] if j["TrainingJobStatus"] in _ENDED]
    if len(ended) >= 5 and all(j["TrainingJobStatus"] == "Failed" for j in ended):
        return f"The first {len(ended)} training jobs failed. The last: {ended[-1].get('FailureReason')}"
    return ""


def _limits(record: Record) -> Record:
    config = record["HyperParameterTuningJobConfig"]
    return {"Strategy": config["Strategy"], "ResourceLimits": config["ResourceLimits"]}


def _summary(job: Record) -> Record:
    value = _value(job)
    out = {
        k: job[k]
        for k in (
            "TrainingJobName",
            "TrainingJobArn",
            "CreationTime",
            "TrainingStartTime",
            "TrainingEndTime",
            "TrainingJobStatus",
            "FailureReason",
        )
        if job.get(k) is not None
    }
    out["TunedHyperParameters"] = dict(job["_tuned"])
    if job["_definition"]:
        out["TrainingJobDefinitionName"] = job["_definition"]
    if value is not None:
        out["FinalHyperParameterTuningJobObjectiveMetric"] = {
            "Type": job["_objective"]["Type"],
            "MetricName": job["_objective"]["MetricName"],
            "Value": value,
        }
        out["ObjectiveStatus"] = "Succeeded"
    else:
        out["ObjectiveStatus"] = "Failed" if job["TrainingJobStatus"] in _ENDED else "Pending"
    return out
