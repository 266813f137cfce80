"""Training jobs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from localaws import clock, containers
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.services.sagemaker import data
from localaws.services.sagemaker.job_base import JobBase, JobFailed, Stopped, local, stream_name
from localaws.services.sagemaker.records import Collection, Record
from localaws.services.sagemaker.running import GRACE, LogFollower, Run

LOGS = "/aws/sagemaker/TrainingJobs"
_MESSAGES = {
    "Starting": "Starting the training job",
    "Downloading": "Downloading the training image",
    "Training": "Training image download completed. Training in progress.",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopping": "Stopping the training job",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
}


class TrainingJobs(JobBase):
    """CreateTrainingJob and what belongs to it."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.training_jobs = Collection(
            self,
            "TrainingJob",
            "training-job",
            duplicate=(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a training job "
                "with this name already exists ({arn})",
            ),
            missing=("ValidationException", "Requested resource not found."),
        )

    def create_training_job(self, params: Record) -> Record:
        record = self.begin_training(params)
        return {"TrainingJobArn": record["TrainingJobArn"]}

    def begin_training(self, params: Record, **more: Any) -> Record:
        """Check and start a training job; ``more`` is kept with it (a tuning job's ARN). Its record."""
        self.check_training(params)
        record = self.training_jobs.add(
            params["TrainingJobName"],
            {
                **params,
                **more,
                "TrainingJobStatus": "InProgress",
                "SecondaryStatus": "",
                "SecondaryStatusTransitions": [],
            },
        )
        self.runs[record["TrainingJobArn"]] = Run(Path())
        self._training_status(record, "InProgress", "Starting")
        self.cloud.spawn(self._run_training, record, name=f"training-{record['TrainingJobName']}")
        return record

    def check_training(self, params: Record) -> None:
        """Refuse a training job (or a tuning job's definition of one) as AWS does at creation."""
        self.check_execution_role(params["RoleArn"])
        specification = params["AlgorithmSpecification"]
        if not specification.get("TrainingImage"):
            raise AwsError(
                "NotImplemented",
                "the local cloud trains with a TrainingImage, not with an AlgorithmName",
                501,
            )
        self.check_image(specification["TrainingImage"])
        resources = params.get("ResourceConfig") or {}
        self.check_one_instance(
            max(
                [
                    resources.get("InstanceCount") or 1,
                    *(g["InstanceCount"] for g in resources.get("InstanceGroups") or []),
                ]
            )
        )
        self.check_network(params.get("VpcConfig"))
        stopping = params.get("StoppingCondition") or {}
        longest, wait = stopping.get("MaxRuntimeInSeconds", 86_400), stopping.get("MaxWaitTimeInSeconds")
        if params.get("EnableManagedSpotTraining") and (wait is None or wait < longest):
            raise AwsError(
                "ValidationException",
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal to "
                "MaxRuntimeInSeconds",
            )
        if wait is not None and not params.get("EnableManagedSpotTraining"):
            raise AwsError(
                "ValidationException",
                "MaxWaitTimeInSeconds above 0 is not supported for non-spot training jobs.",
            )
        channels = [c["ChannelName"] for c in params.get("InputDataConfig") or []]
        if len(set(channels)) < len(channels):
            raise AwsError(
                "ValidationException", f"Channel names must be unique, found {', '.join(channels)}"
            )
        for channel in params.get("InputDataConfig") or []:
            mode = channel.get("InputMode") or specification["TrainingInputMode"]
            source = channel["DataSource"].get("S3DataSource")
            if mode == "Pipe" or source is None:
                raise AwsError(
                    "NotImplemented",
                    f"channel {channel['ChannelName']}: the local cloud reads S3 in File or FastFile mode",
                    501,
                )
        for definition in specification.get("MetricDefinitions") or []:
            try:
                re.compile(definition["Regex"])
            except re.error as error:
                raise AwsError(
                    "ValidationException",
                    f"Invalid metric definition regex for metric {definition['Name']}: {error}",
                ) from error

    def describe_training_job(self, params: Record) -> Record:
        return self.training_jobs.get(params["TrainingJobName"])

    def list_training_jobs(self, params: Record) -> Record:
        return self.training_jobs.listing(params, "TrainingJobSummaries")

    def stop_training_job(self, params: Record) -> Record:
        with self.lock:
            record = self.training_jobs.get(params["TrainingJobName"])
            run = self.runs.get(record["TrainingJobArn"])
            if run is None or record["TrainingJobStatus"] not in ("InProgress", "Stopping"):
                raise AwsError(
                    "ValidationException",
                    "The request was rejected because the training job is in status "
                    f"{record['TrainingJobStatus']}.",
                )
        if not run.stopping.is_set():
            run.stopping.set()
            self._training_status(record, "Stopping", "Stopping")
        return {}

    # -- running ---------------------------------------------------------------------------------------------
    def _training_status(self, record: Record, status: str, secondary: str, **more: Any) -> None:
        stamp = clock.now()
        with self.lock:
            transitions = record["SecondaryStatusTransitions"]
            if transitions:
                transitions[-1].setdefault("EndTime", stamp)
            transitions.append(
                {
                    "Status": secondary,
                    "StartTime": stamp,
                    "StatusMessage": more.get("FailureReason") or _MESSAGES[secondary],
                }
            )
            if status in ("Completed", "Failed", "Stopped"):
                transitions[-1]["EndTime"] = stamp
            self.training_jobs.change(record, TrainingJobStatus=status, SecondaryStatus=secondary, **more)
        self.state_event(
            "SageMaker Training Job State Change", "DescribeTrainingJob", record, record["TrainingJobArn"]
        )

    def _run_training(self, record: Record) -> None:
        arn, name = record["TrainingJobArn"], record["TrainingJobName"]
        status, secondary, more = "Completed", "Completed", {}
        with self.running(arn, "training", name) as run:
            try:
                self.pause_for(run, 60)
                with self.place(run):
                    self._run_training_container(record, run)
            except Stopped:
                status, secondary = "Stopped", "MaxRuntimeExceeded" if run.timed_out else "Stopped"
            except Exception as error:
                status, secondary, more = "Failed", "Failed", {"FailureReason": self.reason_of(error)[:1024]}
                if more["FailureReason"].startswith("Internal") and not self.cloud.stopping:
                    self.cloud.log.exception("training job %s failed", name)
            self._final_metrics(record, run)
        if record.get("TrainingStartTime"):
            more["TrainingEndTime"] = clock.now()
            spent = max(1, round((more["TrainingEndTime"] - record["TrainingStartTime"]).total_seconds()))
            # Spot: AWS shows the discount as fewer seconds that are billed.
            more |= {
                "TrainingTimeInSeconds": spent,
                "BillableTimeInSeconds": max(1, round(spent * 0.3))
                if record.get("EnableManagedSpotTraining")
                else spent,
            }
        self._training_status(record, status, secondary, **more)

    def _run_training_container(self, record: Record, run: Run) -> None:
        role, ml = record["RoleArn"], run.folder / "ml"
        s3 = self.s3_as(role, record.get("VpcConfig"))
        self._training_status(record, "InProgress", "Downloading")
        specification = record["AlgorithmSpecification"]
        image = self.pull(specification["TrainingImage"], role)
        for channel in record.get("InputDataConfig") or []:
            source = channel["DataSource"]["S3DataSource"]
            data.download(
                s3, source["S3Uri"], ml / "input/data" / channel["ChannelName"], source["S3DataType"], role
            )
        checkpoints = record.get("CheckpointConfig")
        saved = local(ml, (checkpoints or {}).get("LocalPath") or "/opt/ml/checkpoints")
        if checkpoints:
            saved.mkdir(parents=True, exist_ok=True)
            if any(data.keys(s3, checkpoints["S3Uri"])):
                data.download(s3, checkpoints["S3Uri"], saved)
        _configure(record, ml)
        entrypoint, arguments = (
            specification.get("ContainerEntrypoint"),
            specification.get("ContainerArguments"),
        )
        argv = containers.argv_of(image, entrypoint, arguments if entrypoint or arguments else ["train"])
        env = {
            **self.environment_as(role, record.get("VpcConfig"), record.get("EnableNetworkIsolation")),
            "TRAINING_JOB_NAME": record["TrainingJobName"],
            "TRAINING_JOB_ARN": record["TrainingJobArn"],
            **(record.get("Environment") or {}),
        }
        self._training_status(record, "InProgress", "Training", TrainingStartTime=clock.now())
        log = run.folder / "log"
        with log.open("wb") as out:
            popen = containers.start(self.cloud, image, run.folder, argv, env, out)
        follower = LogFollower(self.cloud, log, LOGS, stream_name(record["TrainingJobName"]))
        limit = (record.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86_400)
        code = run.wait(popen, follower, limit, GRACE * self.cloud.time_scale)
        ended = run.stopping.is_set() or run.timed_out  # then AWS saves what the container has written so far
        key = record["OutputDataConfig"].get("KmsKeyId")
        if checkpoints:
            data.upload(s3, saved, checkpoints["S3Uri"], key)
        if code == 0 or ended:
            self._training_status(
                record, "Stopping" if ended else "InProgress", "Stopping" if ended else "Uploading"
            )
        self._save_artifacts(record, s3, ml, key, model=code == 0 or ended)
        if ended:
            raise Stopped
        if code:
            failure = ml / "output/failure"
            text = failure.read_text(errors="replace").strip()[:1024] if failure.is_file() else ""
            raise JobFailed(f"AlgorithmError: {text[:960]}, exit code: {code}")

    def _save_artifacts(self, record: Record, s3: Any, ml: Path, key: str | None, model: bool) -> None:
        """Upload model and further output; a job that failed has the output only."""
        base = data.join(record["OutputDataConfig"]["S3OutputPath"], record["TrainingJobName"], "output")
        output = ml / "output/data"
        if output.is_dir() and any(output.iterdir()):
            data.put(s3, *data.split(f"{base}/output.tar.gz"), data.pack(output), key)
        if not model:
            return
        if record["OutputDataConfig"].get("CompressionType") == "NONE":
            data.upload(s3, ml / "model", f"{base}/model", key)
            artifact = f"{base}/model/"
        else:
            artifact = f"{base}/model.tar.gz"
            data.put(s3, *data.split(artifact), data.pack(ml / "model"), key)
        self.training_jobs.change(record, ModelArtifacts={"S3ModelArtifacts": artifact})

    def _final_metrics(self, record: Record, run: Run) -> None:
        """The last value of each metric that the log shows, as FinalMetricDataList and in CloudWatch."""
        found = {}
        for definition in record["AlgorithmSpecification"].get("MetricDefinitions") or []:
            pattern = re.compile(definition["Regex"])
            for line in run.log.lines if run.log else []:
                match = pattern.search(line)
                try:
                    found[definition["Name"]] = float(match[1]) if match else found[definition["Name"]]
                except (KeyError, ValueError, IndexError):
                    continue
        if not found:
            return
        stamp = clock.now()
        self.training_jobs.change(
            record,
            FinalMetricDataList=[{"MetricName": k, "Value": v, "Timestamp": stamp} for k, v in found.items()],
        )
        dimensions = [{"Name": "TrainingJobName", "Value": record["TrainingJobName"]}]
        self.cloud.client("cloudwatch").put_metric_data(
            Namespace="/aws/sagemaker/TrainingJobs",
            MetricData=[
                {"MetricName": k, "Value": v, "Timestamp": stamp, "Dimensions": dimensions}
                for k, v in found.items()
            ],
        )


def _configure(record: Record, ml: Path) -> None:
    config, resources = ml / "input/config", record["ResourceConfig"]
    for folder in (config, ml / "input/data", ml / "model", ml / "output/data"):
        folder.mkdir(parents=True, exist_ok=True)
    kind = resources.get("InstanceType") or resources["InstanceGroups"][0]["InstanceType"]
    mode = record["AlgorithmSpecification"]["TrainingInputMode"]
    channels = {
        c["ChannelName"]: {
            "TrainingInputMode": c.get("InputMode") or mode,
            "S3DistributionType": c["DataSource"]["S3DataSource"].get(
                "S3DataDistributionType", "FullyReplicated"
            ),
            "RecordWrapperType": c.get("RecordWrapperType", "None"),
            **({"ContentType": c["ContentType"]} if c.get("ContentType") else {}),
        }
        for c in record.get("InputDataConfig") or []
    }
    documents = {
        "hyperparameters": record.get("HyperParameters") or {},
        "inputdataconfig": channels,
        "resourceconfig": {
            "current_host": "algo-1",
            "hosts": ["algo-1"],
            "network_interface_name": "eth0",
            "current_instance_type": kind,
            "current_group_name": "homogeneousCluster",
            "instance_groups": [
                {"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": ["algo-1"]}
            ],
        },
    }
    if record.get("CheckpointConfig"):
        documents["checkpointconfig"] = {
            "S3Uri": record["CheckpointConfig"]["S3Uri"],
            "LocalPath": record["CheckpointConfig"].get("LocalPath") or "/opt/ml/checkpoints",
        }
    for name, document in documents.items():
        (config / f"{name}.json").write_text(json.dumps(document))
