"""Batch transform jobs: every record of the input through the model's real server."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.services.sagemaker import data
from localaws.services.sagemaker.hosting import NoAnswer, Server, ServerFailed
from localaws.services.sagemaker.job_base import JobBase, JobFailed, Stopped, stream_name
from localaws.services.sagemaker.records import Collection, Record
from localaws.services.sagemaker.running import Run

LOGS = "/aws/sagemaker/TransformJobs"
LARGEST_PAYLOAD = 100  # megabytes, of all requests at once
AT_ONCE = 4  # requests of a job, whatever it asks for: the machine has few cores


class TransformJobs(JobBase):
    """CreateTransformJob and what belongs to it."""

    models: Collection  # of ModelsMixin

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.transform_jobs = Collection(
            self,
            "TransformJob",
            "transform-job",
            duplicate=(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already "
                "exists ({arn})",
            ),
            missing=("ResourceNotFound", "Could not find requested job with name: {name}"),
        )

    def create_transform_job(self, params: Record) -> Record:
        model = self.models.find(params["ModelName"])
        if model is None:
            raise AwsError(
                "ValidationException", f'Could not find model "{self.models.arn(params["ModelName"])}".'
            )
        self.check_one_instance(params["TransformResources"]["InstanceCount"])
        _check_payload(params)
        if params.get("DataCaptureConfig"):
            _check_capture(params)
        compression = params["TransformInput"].get("CompressionType", "None")
        if compression != "None":
            raise AwsError(
                "NotImplemented",
                f"CompressionType {compression}: the local cloud reads what is not packed",
                501,
            )
        split = params["TransformInput"].get("SplitType", "None")
        if split not in ("None", "Line"):
            raise AwsError(
                "NotImplemented", f"SplitType {split}: the local cloud splits by Line or not at all", 501
            )
        processing = params.get("DataProcessing") or {}
        if processing.get("JoinSource", "None") == "Input" and split == "None":
            raise AwsError("ValidationException", "JoinSource Input needs SplitType Line")
        record = self.transform_jobs.add(
            params["TransformJobName"], {**params, "TransformJobStatus": "InProgress"}
        )
        arn = record["TransformJobArn"]
        self.runs[arn] = Run(Path())
        self._transform_event(record)
        self.cloud.spawn(
            self._run_transform, record, dict(model), name=f"transform-{record['TransformJobName']}"
        )
        return {"TransformJobArn": arn}

    def describe_transform_job(self, params: Record) -> Record:
        return self.transform_jobs.get(params["TransformJobName"])

    def list_transform_jobs(self, params: Record) -> Record:
        return self.transform_jobs.listing(params, "TransformJobSummaries")

    def stop_transform_job(self, params: Record) -> Record:
        record = self.transform_jobs.get(params["TransformJobName"])
        run = self.runs.get(record["TransformJobArn"])
        if run is None:
            raise AwsError(
                "ValidationException",
                f"The request was rejected because the transform job is in status "
                f"{record['TransformJobStatus']}.",
            )
        self.transform_jobs.change(record, TransformJobStatus="Stopping")
        run.stopping.set()
        return {}

    # -- running ---------------------------------------------------------------------------------------------
    def _run_transform(self, record: Record, model: Record) -> None:
        end: dict[str, Any] = {"TransformJobStatus": "Completed"}
        with self.running(record["TransformJobArn"], "transform", record["TransformJobName"]) as run:
            try:
                self.pause_for(run, 60)
                with self.place(run):
                    self.transform_jobs.change(record, TransformStartTime=clock.now())
                    self._transform(record, model, run)
            except Stopped:
                end = {"TransformJobStatus": "Stopped"}
            except ServerFailed as error:
                end = {"TransformJobStatus": "Failed", "FailureReason": f"AlgorithmError: {error}"[:1024]}
            except Exception as error:
                end = {"TransformJobStatus": "Failed", "FailureReason": self.reason_of(error)[:1024]}
        self.transform_jobs.change(record, TransformEndTime=clock.now(), **end)
        self._transform_event(record)

    def _transform(self, record: Record, model: Record, run: Run) -> None:
        role = model["ExecutionRoleArn"]
        container = {
            **model["_container"],
            "Environment": {
                **(model["_container"].get("Environment") or {}),
                **_told(record),
                **(record.get("Environment") or {}),
            },
        }
        log = (LOGS, stream_name(record["TransformJobName"]))
        server = Server(self, container, role, "container", log, model)
        source = record["TransformInput"]["DataSource"]["S3DataSource"]
        s3 = self.s3_as(role, model.get("VpcConfig"))
        with tempfile.TemporaryDirectory(dir=run.folder) as folder:
            data.download(s3, source["S3Uri"], Path(folder), source["S3DataType"], role)
            names = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
            failed: list[str] = []
            try:
                server.start()
                for name in names:
                    try:
                        self._transform_file(record, server, s3, Path(folder, name), name, run)
                    except RecordFailed as error:  # the others go on
                        failed.append(f"{name}: {error}")
                        self._data_log(record, source, name, error)
            finally:
                server.stop()
        if failed:  # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_TransformOutput.html
            raise JobFailed(f"AlgorithmError: See job logs for more information ({failed[0]})")
        if record.get("DataCaptureConfig"):
            self._capture(record, s3, names)

    def _data_log(self, record: Record, source: Record, name: str, error: RecordFailed) -> None:
        """Write what the model refused into the stream that tells of the data, as SageMaker does."""
        bucket, prefix = data.split(source["S3Uri"])
        key = prefix if source["S3DataType"] == "S3Prefix" and not prefix.endswith("/") else prefix + name
        head = f"{clock.now():%Y-%m-%dT%H:%M:%S}.000:[sagemaker logs]:"
        kind = "ClientError" if error.status < 500 else "AlgorithmError"
        texts = [f"{kind}: {error.status}", "", "Message:", *error.answer.splitlines()]
        stream = f"{stream_name(record['TransformJobName'])}/data-log"
        self.cloud.log_events(LOGS, stream, [f"{head} {bucket}/{key}: {text}" for text in texts])

    @staticmethod
    def _capture(record: Record, s3: Any, names: list[str]) -> None:
        """Write manifests of what went in and came out, in the hour in which the job started.

        https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-batch.html
        It does not say what a manifest is called, so nothing may depend on it: here it is random.
        """
        config = record["DataCaptureConfig"]
        prefix = record["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]
        bucket, start = data.split(prefix)
        below: dict[str, list[str]] = {}  # names by the folder that they are below
        for key in data.keys(s3, prefix):
            name = data.relative(key, start)
            if name in names:
                below.setdefault(f"s3://{bucket}/{key.removesuffix(name)}", []).append(name)
        out = data.join(record["TransformOutput"]["S3OutputPath"]) + "/"
        sides = [("input", folder, found) for folder, found in below.items()]
        sides.append(("output", out, [f"{name}.out" for name in names]))
        for side, folder, found in sides:
            place = data.join(config["DestinationS3Uri"], side, f"{record['TransformStartTime']:%Y/%m/%d/%H}")
            manifest = json.dumps([{"prefix": folder}, *found]).encode()
            data.put(s3, *data.split(f"{place}/{uuid.uuid4()}.jsonl"), manifest, config.get("KmsKeyId"))

    def _transform_file(
        self, record: Record, server: Server, s3: Any, file: Path, name: str, run: Run
    ) -> None:
        given, wanted = record["TransformInput"], record["TransformOutput"]
        processing = record.get("DataProcessing") or {}
        content_type = given.get("ContentType") or "application/octet-stream"
        accept = wanted.get("Accept") or content_type
        limit = (
            record["MaxPayloadInMB"] if record.get("MaxPayloadInMB") is not None else 6
        ) * 1024 * 1024 or 10**9
        headers = {
            "Content-Type": content_type,
            **({"Accept": wanted["Accept"]} if wanted.get("Accept") else {}),
        }
        content = file.read_bytes()
        if given.get("SplitType", "None") == "None":
            answers = [
                self._ask(
                    server, _filtered(content, processing.get("InputFilter"), content_type), headers, name
                )
            ]
        else:
            single = record.get("BatchStrategy", "MultiRecord") == "SingleRecord"

            def transform(batch: list[bytes]) -> list[bytes]:
                self.expect(run)
                sent = b"\n".join(
                    _filtered(line, processing.get("InputFilter"), content_type) for line in batch
                )
                answer = self._ask(server, sent + b"\n", headers, name, record.get("ModelClientConfig"))
                return _joined(batch, answer, processing, content_type, accept, name)

            lines = [line for line in content.splitlines() if line]
            with ThreadPoolExecutor(min(AT_ONCE, record.get("MaxConcurrentTransforms") or 1)) as pool:
                parts = list(pool.map(transform, _batches(lines, single, limit, name)))
            answers = [line for part in parts for line in part]
        join = (
            b"\n"
            if wanted.get("AssembleWith", "None") == "Line" or processing.get("JoinSource") == "Input"
            else b""
        )
        body = join.join(a.rstrip(b"\n") if join else a for a in answers) + (
            b"\n" if join and answers else b""
        )
        if (record.get("DataCaptureConfig") or {}).get("GenerateInferenceId"):
            body = _with_ids(body, record["TransformStartTime"], accept, name)
        bucket, key = data.split(data.join(wanted["S3OutputPath"], f"{name}.out"))
        data.put(s3, bucket, key, body, wanted.get("KmsKeyId"))

    @staticmethod
    def _ask(
        server: Server, body: bytes, headers: dict[str, str], name: str, client: Record | None = None
    ) -> bytes:
        """The answer; a server that fails is asked again as often as the job says."""
        client = client or {}
        timeout = client.get("InvocationsTimeoutInSeconds", 600)
        for left in range(client.get("InvocationsMaxRetries", 3), -1, -1):
            try:
                status, _, content = server.invoke(body, headers, timeout)
            except NoAnswer as error:
                if not left:
                    raise JobFailed(
                        f"AlgorithmError: no answer of the container for {name}: {error}"
                    ) from error
                continue
            if status == 200:
                return content
            if status < 500 or not left:
                raise RecordFailed(status, content.decode(errors="replace")[:2000])
        raise AssertionError("every way out is above")

    def _transform_event(self, record: Record) -> None:
        self.state_event(
            "SageMaker Transform Job State Change", "DescribeTransformJob", record, record["TransformJobArn"]
        )


class RecordFailed(JobFailed):
    """The model answered a record of a file with an error: the file has no output, other files do."""

    def __init__(self, status: int, answer: str) -> None:
        super().__init__(f"Bad HTTP status received from algorithm: {status}: {answer[:300]}")
        self.status, self.answer = status, answer


def _check_payload(params: Record) -> None:
    """Refuse more payload at once than AWS takes.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTransformJob.html (MaxPayloadInMB)
    """
    at_once, size = params.get("MaxConcurrentTransforms") or 1, params.get("MaxPayloadInMB") or 0
    if at_once * size > LARGEST_PAYLOAD:
        raise AwsError(
            "ValidationException",
            f"MaxConcurrentTransforms {at_once} * MaxPayloadInMB {size} exceeds {LARGEST_PAYLOAD} MB",
        )


def _told(record: Record) -> Record:
    """What SageMaker tells a container of its transform job.

    https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-batch-code.html
    """
    single = record.get("BatchStrategy") == "SingleRecord"
    return {
        "SAGEMAKER_BATCH": "true",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": str(record.get("MaxPayloadInMB", 6)),
        "SAGEMAKER_BATCH_STRATEGY": "SINGLE_RECORD" if single else "MULTI_RECORD",
        "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": str(record.get("MaxConcurrentTransforms") or 1),
    }


def _check_capture(params: Record) -> None:
    """Refuse capture that AWS refuses, or that is not run here."""
    config, given = params["DataCaptureConfig"], params["TransformInput"]
    if not config["DestinationS3Uri"].startswith("s3://"):
        raise AwsError(
            "ValidationException", f"DestinationS3Uri {config['DestinationS3Uri']} is not an S3 URI"
        )
    if given["DataSource"]["S3DataSource"]["S3DataType"] != "S3Prefix":
        raise AwsError(
            "NotImplemented", "DataCaptureConfig with another S3DataType than S3Prefix: the local cloud", 501
        )
    if not config.get("GenerateInferenceId"):
        return
    accept = params["TransformOutput"].get("Accept") or given.get("ContentType") or ""
    if "csv" not in accept and "json" not in accept:  # the formats that the documentation names
        raise AwsError("ValidationException", "GenerateInferenceId needs outputs in CSV, JSON or JSON Lines")


def _with_ids(body: bytes, start: datetime, accept: str, name: str) -> bytes:
    """Each record of an output with an inference id and the job's start at its end."""
    stamp, lines = f"{start:%Y-%m-%dT%H:%M:%SZ}", []
    for line in body.splitlines():
        made = str(uuid.uuid4())
        if "json" not in accept:
            lines.append(line + f",{made},{stamp}".encode())
            continue
        record = json.loads(line)
        if not isinstance(record, dict):
            raise JobFailed(f"ClientError: {name}: an inference id cannot be added to {line[:100]!r}")
        both = {"SageMakerInferenceId": made, "SageMakerInferenceTime": stamp}
        lines.append(json.dumps({**record, **both}).encode())
    return b"".join(line + b"\n" for line in lines)


def _batches(lines: list[bytes], single: bool, limit: int, name: str) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        if len(line) + 1 > limit:
            raise JobFailed(f"ClientError: {name}: a record is larger than MaxPayloadInMB, {limit} bytes")
        if batch and (single or size + len(line) + 1 > limit):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line) + 1
    if batch:
        yield batch


def _joined(
    batch: list[bytes], answer: bytes, processing: Record, content_type: str, accept: str, name: str
) -> list[bytes]:
    """The answer's lines, joined with their input and filtered as DataProcessing says."""
    join, output = processing.get("JoinSource") == "Input", processing.get("OutputFilter", "$")
    if not join and output == "$":
        return [answer]
    lines = [line for line in answer.splitlines() if line]
    if len(lines) != len(batch):
        raise JobFailed(
            f"ClientError: {name}: {len(batch)} records were sent and {len(lines)} came back, so "
            "they cannot be joined"
        )
    out = []
    for before, after in zip(batch, lines, strict=True):
        if "json" in accept:
            value = json.loads(after)
            if join:
                value = {**json.loads(before), "SageMakerOutput": value} if "json" in content_type else value
            out.append(json.dumps(_select(value, output)).encode())
        else:
            row = [*(_cells(before) if join else []), *_cells(after)]
            out.append(_row(_select(row, output)))
    return out


def _filtered(line: bytes, path: str | None, content_type: str) -> bytes:
    if not path or path == "$":
        return line
    if "json" in content_type:
        return json.dumps(_select(json.loads(line), path)).encode()
    return b"\n".join(_row(_select(_cells(part), path)) for part in line.splitlines())


def _cells(line: bytes) -> list[str]:
    return next(csv.reader([line.decode()]), [])


def _row(cells: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells if isinstance(cells, list) else [cells])
    return out.getvalue().encode()


def _select(value: Any, path: str) -> Any:
    """JSONPath as far as DataProcessing has it: ``$``, ``$.name``, ``$[1]``, ``$[1:]``, ``$[0,2]``."""
    for part in re.findall(r"\.([A-Za-z_][\w]*)|\[([^\]]+)\]", path.removeprefix("$")):
        name, inside = part
        if name:
            value = value[name]
        elif ":" in inside:
            value = value[slice(*(int(n) if n else None for n in inside.split(":")))]
        else:
            keys = [k.strip().strip("'\"") for k in inside.split(",")]
            picked = [value[int(k)] if isinstance(value, list) else value[k] for k in keys]
            value = picked if len(picked) > 1 or isinstance(value, list) else picked[0]
    return value
