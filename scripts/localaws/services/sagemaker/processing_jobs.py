"""Processing jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from localaws import clock, containers
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.services.sagemaker import data
from localaws.services.sagemaker.job_base import JobBase, JobFailed, Stopped, local, stream_name
from localaws.services.sagemaker.records import Collection, Record
from localaws.services.sagemaker.running import GRACE, LogFollower, Run

LOGS = "/aws/sagemaker/ProcessingJobs"
ROOT = "/opt/ml/processing"


class ProcessingJobs(JobBase):
    """CreateProcessingJob and what belongs to it."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.processing_jobs = Collection(
            self,
            "ProcessingJob",
            "processing-job",
            duplicate=(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name "
                "already exists ({arn})",
            ),
            missing=("ValidationException", "Could not find requested job with name: {name}"),
        )

    def create_processing_job(self, params: Record) -> Record:
        self.check_execution_role(params["RoleArn"])
        self.check_one_instance(params["ProcessingResources"]["ClusterConfig"]["InstanceCount"])
        self.check_image(params["AppSpecification"]["ImageUri"])
        self.check_network((params.get("NetworkConfig") or {}).get("VpcConfig"))
        _check_paths(params)
        record = self.processing_jobs.add(
            params["ProcessingJobName"], {**params, "ProcessingJobStatus": "InProgress"}
        )
        arn = record["ProcessingJobArn"]
        self.runs[arn] = Run(Path())
        self._processing_event(record)
        self.cloud.spawn(self._run_processing, record, name=f"processing-{record['ProcessingJobName']}")
        return {"ProcessingJobArn": arn}

    def describe_processing_job(self, params: Record) -> Record:
        return self.processing_jobs.get(params["ProcessingJobName"])

    def list_processing_jobs(self, params: Record) -> Record:
        return self.processing_jobs.listing(params, "ProcessingJobSummaries")

    def stop_processing_job(self, params: Record) -> Record:
        with self.lock:
            record = self.processing_jobs.get(params["ProcessingJobName"])
            run = self.runs.get(record["ProcessingJobArn"])
            if run is None or record["ProcessingJobStatus"] not in ("InProgress", "Stopping"):
                raise AwsError(
                    "ValidationException",
                    f"The request was rejected because the processing job is in status "
                    f"{record['ProcessingJobStatus']}.",
                )
            self.processing_jobs.change(record, ProcessingJobStatus="Stopping")
        run.stopping.set()
        return {}

    # -- running ---------------------------------------------------------------------------------------------
    def _run_processing(self, record: Record) -> None:
        arn, name = record["ProcessingJobArn"], record["ProcessingJobName"]
        end: dict[str, Any] = {"ProcessingJobStatus": "Completed"}
        with self.running(arn, "processing", name) as run:
            try:
                self.pause_for(run, 60)
                with self.place(run):
                    self._run_processing_container(record, run)
            except Stopped:
                end = {"ProcessingJobStatus": "Stopped"}
            except Exception as error:
                end = {"ProcessingJobStatus": "Failed", "FailureReason": self.reason_of(error)[:1024]}
                if str(end["FailureReason"]).startswith("Internal") and not self.cloud.stopping:
                    self.cloud.log.exception("processing job %s failed", name)
            message = _text(run.folder / "ml/output/message")
        self.processing_jobs.change(record, ProcessingEndTime=clock.now(), ExitMessage=message or None, **end)
        self._processing_event(record)

    def _run_processing_container(self, record: Record, run: Run) -> None:
        role, ml = record["RoleArn"], run.folder / "ml"
        network = record.get("NetworkConfig") or {}
        vpc = network.get("VpcConfig")
        s3 = self.s3_as(role, vpc)
        image = self.pull(record["AppSpecification"]["ImageUri"], role)
        for item in record.get("ProcessingInputs") or []:
            source = item.get("S3Input")
            if source and not item.get("AppManaged"):
                data.download(
                    s3,
                    source["S3Uri"],
                    local(ml, source["LocalPath"]),
                    source.get("S3DataType", "S3Prefix"),
                    role,
                )
        outputs = (record.get("ProcessingOutputConfig") or {}).get("Outputs", [])
        for item in outputs:
            local(ml, item["S3Output"]["LocalPath"]).mkdir(parents=True, exist_ok=True)
        _configure(record, ml)
        specification = record["AppSpecification"]
        # Docker's rule: an own entry point forgets the image's command; own arguments replace it.
        argv = containers.argv_of(
            image, specification.get("ContainerEntrypoint"), specification.get("ContainerArguments")
        )
        env = {
            **self.environment_as(role, vpc, network.get("EnableNetworkIsolation")),
            "PROCESSING_JOB_ARN": record["ProcessingJobArn"],
            "PROCESSING_JOB_NAME": record["ProcessingJobName"],
            **(record.get("Environment") or {}),
        }
        limit = (record.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86_400)
        key = (record.get("ProcessingOutputConfig") or {}).get("KmsKeyId")
        seen: dict[Path, tuple[int, int]] = {}

        def continuous() -> None:
            for item in outputs:
                if item["S3Output"].get("S3UploadMode") == "Continuous":
                    _sync(s3, local(ml, item["S3Output"]["LocalPath"]), item["S3Output"]["S3Uri"], key, seen)

        log = run.folder / "log"
        self.processing_jobs.change(record, ProcessingStartTime=clock.now())
        with log.open("wb") as out:
            popen = containers.start(self.cloud, image, run.folder, argv, env, out)
        follower = LogFollower(self.cloud, log, LOGS, stream_name(record["ProcessingJobName"]))
        code = run.wait(popen, follower, limit, GRACE * self.cloud.time_scale, continuous)
        continuous()
        self.expect(run)
        if run.timed_out:
            raise Stopped
        if code:
            message = _text(ml / "output/message")
            raise JobFailed(
                f"AlgorithmError: {message or 'See job logs for more information'}, exit code: {code}"
                if message
                else "AlgorithmError: See job logs for more information"
            )
        for item in outputs:
            target = item["S3Output"]
            if target.get("S3UploadMode") != "Continuous":
                data.upload(s3, local(ml, target["LocalPath"]), target["S3Uri"], key)

    def _processing_event(self, record: Record) -> None:
        self.state_event(
            "SageMaker Processing Job State Change",
            "DescribeProcessingJob",
            record,
            record["ProcessingJobArn"],
        )


def _check_paths(params: Record) -> None:
    """What AWS asks of inputs and outputs beyond the model, and what is not run here."""
    names = [i["InputName"] for i in params.get("ProcessingInputs") or []]
    names += [o["OutputName"] for o in (params.get("ProcessingOutputConfig") or {}).get("Outputs", [])]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise AwsError(
            "ValidationException",
            f"Input and output names must be unique, found more than once: {', '.join(repeated)}",
        )
    for item in params.get("ProcessingInputs") or []:
        source = item.get("S3Input")
        if source is None:
            raise AwsError(
                "NotImplemented", f"input {item['InputName']}: the local cloud runs S3Input only", 501
            )
        if source.get("S3InputMode", "File") != "File":
            raise AwsError(
                "NotImplemented",
                f"input {item['InputName']}: the local cloud runs S3InputMode File only",
                501,
            )
        if not source.get("LocalPath"):
            raise AwsError(
                "ValidationException",
                f"LocalPath is required for input {item['InputName']} with S3InputMode File",
            )
        _check_path("input", item["InputName"], source["LocalPath"])
    for item in (params.get("ProcessingOutputConfig") or {}).get("Outputs", []):
        if "S3Output" not in item:
            raise AwsError(
                "NotImplemented", f"output {item['OutputName']}: the local cloud runs S3Output only", 501
            )
        _check_path("output", item["OutputName"], item["S3Output"].get("LocalPath", ROOT))


def _check_path(kind: str, name: str, path: str) -> None:
    if path != ROOT and not path.startswith(f"{ROOT}/") or ".." in path.split("/"):
        raise AwsError(
            "ValidationException",
            f"LocalPath {path} of {kind} {name} must be an absolute path that starts with {ROOT}/",
        )


def _configure(record: Record, ml: Path) -> None:
    config, cluster = ml / "config", record["ProcessingResources"]["ClusterConfig"]
    config.mkdir()
    (ml / "output").mkdir(exist_ok=True)
    known = (
        "ProcessingJobArn",
        "ProcessingJobName",
        "AppSpecification",
        "Environment",
        "ProcessingInputs",
        "ProcessingOutputConfig",
        "ProcessingResources",
        "NetworkConfig",
        "RoleArn",
        "StoppingCondition",
    )
    (config / "processingjobconfig.json").write_text(json.dumps({k: record[k] for k in known if k in record}))
    (config / "resourceconfig.json").write_text(
        json.dumps(
            {
                "current_host": "algo-1",
                "hosts": ["algo-1"],
                "network_interface_name": "eth0",
                "current_instance_type": cluster["InstanceType"],
                "current_group_name": "homogeneousCluster",
                "instance_groups": [
                    {
                        "instance_group_name": "homogeneousCluster",
                        "instance_type": cluster["InstanceType"],
                        "hosts": ["algo-1"],
                    }
                ],
            }
        )
    )


def _sync(s3: Any, folder: Path, uri: str, key: str | None, seen: dict[Path, tuple[int, int]]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            state = path.stat()
            if seen.get(path) != (state.st_size, state.st_mtime_ns):
                seen[path] = (state.st_size, state.st_mtime_ns)
                data.upload(s3, path, data.join(uri, str(path.relative_to(folder))), key)


def _text(path: Path, limit: int = 1024) -> str:
    try:
        return path.read_text(errors="replace")[:limit].strip()
    except OSError:
        return ""
