"""SageMaker Pipelines: definitions, executions, steps."""

from __future__ import annotations

import base64
import json
import random
import string
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import ApiResource, Context, typed
from localaws.service import page
from localaws.services.sagemaker.models import retag
from localaws.services.sagemaker.pipeline_definition import Definition, DefinitionError, Step, parse, plain
from localaws.services.sagemaker.pipeline_execution import Execution, duration
from localaws.services.sagemaker.records import Base, Collection, Record

_RUNNING = ("Executing", "Stopping")


class PipelinesMixin(Base):
    """SageMaker Pipelines: definitions, executions, steps."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.pipelines = Collection(
            self,
            "Pipeline",
            "pipeline",
            duplicate=(
                "ValidationException",
                "Pipeline names must be unique within an AWS account and region. Pipeline with name "
                "({name}) already exists.",
            ),
            missing=("ResourceNotFound", "Pipeline '{arn}' does not exist."),
        )
        self.executions: dict[str, Execution] = {}

    # -- definitions -----------------------------------------------------------------------------------------
    def create_pipeline(self, params: Record) -> Record:
        self.check_execution_role(params["RoleArn"])
        text, _ = self._pipeline_definition(params)
        record = self.pipelines.add(
            params["PipelineName"],
            {
                "PipelineDisplayName": params["PipelineName"],
                **_without_definition(params),
                "PipelineDefinition": text,
                "PipelineStatus": "Active",
                "CreatedBy": self.caller(),
                "LastModifiedBy": self.caller(),
                "PipelineVersionId": 1,
            },
        )
        record["_versions"] = [_version(record)]
        return {"PipelineArn": record["PipelineArn"]}

    def update_pipeline(self, params: Record) -> Record:
        record = self.pipelines.get(params["PipelineName"])
        if params.get("RoleArn"):
            self.check_execution_role(params["RoleArn"])
        changes: Record = {k: v for k, v in _without_definition(params).items() if k != "PipelineName"}
        if params.get("PipelineDefinition") or params.get("PipelineDefinitionS3Location"):
            changes["PipelineDefinition"], _ = self._pipeline_definition(params)
        self.pipelines.change(
            record, **changes, LastModifiedBy=self.caller(), PipelineVersionId=record["PipelineVersionId"] + 1
        )
        record["_versions"].append(_version(record))
        return {"PipelineArn": record["PipelineArn"], "PipelineVersionId": record["PipelineVersionId"]}

    def describe_pipeline(self, params: Record) -> Record:
        record = self.pipelines.get(params["PipelineName"])
        wanted = params.get("PipelineVersionId")
        version = next(
            (v for v in record["_versions"] if wanted is not None and v["PipelineVersionId"] == wanted), None
        )
        if wanted is not None and version is None:
            raise AwsError(
                "ResourceNotFound", f"Pipeline version {wanted} of '{record['PipelineArn']}' does not exist."
            )
        return {**record, **(version or {})}

    def list_pipelines(self, params: Record) -> Record:
        prefix = params.get("PipelineNamePrefix") or ""
        return self.pipelines.listing(
            params, "PipelineSummaries", lambda r: r["PipelineName"].startswith(prefix)
        )

    def list_pipeline_versions(self, params: Record) -> Record:
        record = self.pipelines.get(params["PipelineName"])
        newest_first = params.get("SortOrder", "Descending") == "Descending"
        versions = [{**v, "PipelineArn": record["PipelineArn"]} for v in record["_versions"]]
        items, token = page(
            sorted(versions, key=lambda v: v["PipelineVersionId"], reverse=newest_first), params
        )
        return {"PipelineVersionSummaries": items, "NextToken": token}

    def delete_pipeline(self, params: Record) -> Record:
        record = self.pipelines.get(params["PipelineName"])
        running = [e for e in self._executions_of(record) if e.record["PipelineExecutionStatus"] in _RUNNING]
        if running:
            raise AwsError(
                "ConflictException",
                f"Pipeline '{record['PipelineArn']}' has executions in progress: "
                f"{', '.join(e.record['PipelineExecutionArn'] for e in running)}",
            )
        for execution in self._executions_of(record):
            del self.executions[execution.record["PipelineExecutionArn"]]
        self.pipelines.remove(params["PipelineName"])
        return {"PipelineArn": record["PipelineArn"]}

    def _pipeline_definition(self, params: Record) -> tuple[str, Definition]:
        place, text = params.get("PipelineDefinitionS3Location"), params.get("PipelineDefinition")
        if bool(place) == bool(text):
            raise AwsError(
                "ValidationException",
                "Exactly one of PipelineDefinition and PipelineDefinitionS3Location is required.",
            )
        if place:
            version = {"VersionId": place["VersionId"]} if place.get("VersionId") else {}
            try:
                found = self.cloud.client("s3").get_object(
                    Bucket=place["Bucket"], Key=place["ObjectKey"], **version
                )
            except ClientError as error:
                raise AwsError(
                    "ValidationException",
                    f"Unable to read s3://{place['Bucket']}/{place['ObjectKey']}: {error}",
                ) from error
            text = found["Body"].read().decode()
        try:
            return text, parse(text)
        except DefinitionError as error:
            raise AwsError("ValidationException", str(error)) from error

    # -- executions ------------------------------------------------------------------------------------------
    def start_pipeline_execution(self, params: Record) -> Record:
        if params.get("SelectiveExecutionConfig"):
            raise AwsError(
                "NotImplemented", "SelectiveExecutionConfig: the local cloud runs whole pipelines", 501
            )
        pipeline = self.pipelines.get(params["PipelineName"])
        token = params.get("ClientRequestToken")
        for execution in self._executions_of(pipeline):
            if token and execution.record.get("_token") == token:
                return {"PipelineExecutionArn": execution.record["PipelineExecutionArn"]}
        described = self.describe_pipeline(params)
        definition = parse(described["PipelineDefinition"])
        given = {p["Name"]: p["Value"] for p in params.get("PipelineParameters") or []}
        try:
            values = definition.values(given)
        except DefinitionError as error:
            raise AwsError("ValidationException", str(error)) from error
        identity = "".join(random.choices(string.ascii_lowercase + string.digits, k=12))
        record = {
            "PipelineArn": pipeline["PipelineArn"],
            "PipelineExecutionArn": f"{pipeline['PipelineArn']}/execution/{identity}",
            "PipelineExecutionDisplayName": params.get("PipelineExecutionDisplayName")
            or f"execution-{int(clock.time() * 1000)}",
            "PipelineExecutionDescription": params.get("PipelineExecutionDescription"),
            "PipelineExecutionStatus": "Executing",
            "ParallelismConfiguration": params.get("ParallelismConfiguration")
            or pipeline.get("ParallelismConfiguration"),
            "CreationTime": clock.now(),
            "LastModifiedTime": clock.now(),
            "CreatedBy": self.caller(),
            "LastModifiedBy": self.caller(),
            "PipelineVersionId": described["PipelineVersionId"],
            "_parameters": values,
            "_token": token,
            "_role": pipeline["RoleArn"],
            "_definition": described["PipelineDefinition"],
        }
        execution = Execution(self, pipeline, record, definition)
        with self.lock:
            self.executions[record["PipelineExecutionArn"]] = execution
            pipeline["LastExecutionTime"] = pipeline["LastRunTime"] = record["CreationTime"]
        self.cloud.spawn(execution.run, name=f"pipeline-{identity}")
        return {"PipelineExecutionArn": record["PipelineExecutionArn"]}

    def describe_pipeline_execution(self, params: Record) -> Record:
        return self._pipeline_execution(params).record

    def update_pipeline_execution(self, params: Record) -> Record:
        record = self._pipeline_execution(params).record
        for member in (
            "PipelineExecutionDescription",
            "PipelineExecutionDisplayName",
            "ParallelismConfiguration",
        ):
            if member in params:
                record[member] = params[member]
        record["LastModifiedTime"] = clock.now()
        return {"PipelineExecutionArn": record["PipelineExecutionArn"]}

    def describe_pipeline_definition_for_execution(self, params: Record) -> Record:
        record = self._pipeline_execution(params).record
        return {"PipelineDefinition": record["_definition"], "CreationTime": record["CreationTime"]}

    def list_pipeline_executions(self, params: Record) -> Record:
        pipeline = self.pipelines.get(params["PipelineName"])
        found = [
            {
                **e.record,
                "StartTime": e.record["CreationTime"],
                "PipelineExecutionFailureReason": e.record.get("FailureReason"),
            }
            for e in self._executions_of(pipeline)
        ]
        after, before = params.get("CreatedAfter"), params.get("CreatedBefore")
        found = [
            r
            for r in found
            if (not after or r["CreationTime"] >= after) and (not before or r["CreationTime"] <= before)
        ]
        key = "PipelineExecutionArn" if params.get("SortBy") == "PipelineExecutionArn" else "CreationTime"
        found.sort(key=lambda r: r[key], reverse=params.get("SortOrder", "Descending") == "Descending")
        items, token = page(found, params, default=10)
        return {"PipelineExecutionSummaries": items, "NextToken": token}

    def list_pipeline_execution_steps(self, params: Record) -> Record:
        found = list(self._pipeline_execution(params).steps.values())
        if params.get("SortOrder", "Descending") == "Descending":
            found.reverse()
        items, token = page(found, params, default=100)
        return {"PipelineExecutionSteps": items, "NextToken": token}

    def list_pipeline_parameters_for_execution(self, params: Record) -> Record:
        values = self._pipeline_execution(params).record["_parameters"]
        items, token = page([{"Name": k, "Value": plain(v)} for k, v in values.items()], params, default=50)
        return {"PipelineParameters": items, "NextToken": token}

    def stop_pipeline_execution(self, params: Record) -> Record:
        execution = self._pipeline_execution(params)
        status = execution.record["PipelineExecutionStatus"]
        if status not in _RUNNING:
            raise AwsError(
                "ConflictException",
                f"Pipeline execution with ARN {execution.record['PipelineExecutionArn']} is already in "
                f"status {status}.",
            )
        if status == "Executing":
            execution.stop()
        return {"PipelineExecutionArn": execution.record["PipelineExecutionArn"]}

    def retry_pipeline_execution(self, params: Record) -> Record:
        execution = self._pipeline_execution(params)
        record = execution.record
        with self.lock:
            if record["PipelineExecutionStatus"] not in ("Failed", "Stopped"):
                raise AwsError(
                    "ValidationException",
                    f"Pipeline execution {record['PipelineExecutionArn']} is in status "
                    f"{record['PipelineExecutionStatus']}; only Failed and Stopped executions can be "
                    "retried.",
                )
            record.pop("FailureReason", None)
            record["PipelineExecutionStatus"] = "Executing"
            execution.stopping.clear()
            for name in [n for n, s in execution.steps.items() if s["StepStatus"] != "Succeeded"]:
                del execution.steps[name]
        self.cloud.spawn(execution.run, name=f"pipeline-{execution.id}")
        return {"PipelineExecutionArn": record["PipelineExecutionArn"]}

    def _pipeline_execution(self, params: Record) -> Execution:
        arn = params["PipelineExecutionArn"]
        if arn not in self.executions:
            raise AwsError("ResourceNotFound", f"Pipeline execution '{arn}' does not exist.")
        return self.executions[arn]

    def _executions_of(self, pipeline: Record) -> list[Execution]:
        with self.lock:
            return [e for e in self.executions.values() if e.record["PipelineArn"] == pipeline["PipelineArn"]]

    def cached(self, execution: Record, step: Step, key: str) -> Record | None:
        """The newest former result of a step with the same arguments that has not expired."""
        oldest = None
        if step.body["CacheConfig"].get("ExpireAfter"):
            oldest = clock.now() - duration(step.body["CacheConfig"]["ExpireAfter"])
        for former in reversed(
            [e for e in self.executions.values() if e.record["PipelineArn"] == execution["PipelineArn"]]
        ):
            record = former.steps.get(step.name, {})
            if (
                record.get("StepStatus") == "Succeeded"
                and record.get("_cache_key") == key
                and (not oldest or record["EndTime"] >= oldest)
            ):
                return record
        return None


def _without_definition(params: Record) -> Record:
    skip = ("PipelineDefinition", "PipelineDefinitionS3Location", "ClientRequestToken", "Tags")
    return {k: v for k, v in params.items() if k not in skip} | (
        {"Tags": params["Tags"]} if params.get("Tags") else {}
    )


def _version(record: Record) -> Record:
    keys = (
        "PipelineVersionId",
        "PipelineDefinition",
        "PipelineDisplayName",
        "PipelineDescription",
        "CreationTime",
        "LastModifiedBy",
    )
    version = {k: record[k] for k in keys if k in record}
    return {**version, "CreationTime": record["LastModifiedTime"], "CreatedBy": record["LastModifiedBy"]}


# -- CloudFormation, EventBridge ---
class PipelineResource(ApiResource):
    """AWS::SageMaker::Pipeline; Ref is the name."""

    type_name = "AWS::SageMaker::Pipeline"
    name_property = "PipelineName"
    service, create_call, update_call, delete_call = (
        "sagemaker",
        "create_pipeline",
        "update_pipeline",
        "delete_pipeline",
    )
    id_parameter = physical_id = "PipelineName"
    gone = ("ResourceNotFound",)

    def request(self, context: Context, props: dict[str, Any]) -> dict[str, Any]:
        """The call's parameters: in a template the definition is a structure, with other names."""
        out = {k: v for k, v in super().request(context, props).items() if k != "PipelineDefinition"}
        definition = props["PipelineDefinition"]
        if "PipelineDefinitionBody" in definition:
            body = definition["PipelineDefinitionBody"]
            out["PipelineDefinition"] = body if isinstance(body, str) else json.dumps(body)
        else:
            place = definition["PipelineDefinitionS3Location"]
            out["PipelineDefinitionS3Location"] = {
                "Bucket": place["Bucket"],
                "ObjectKey": place["Key"],
                **({"VersionId": place["Version"]} if place.get("Version") else {}),
            }
        return out

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        token = base64.b32encode(random.randbytes(20)).decode()
        request = typed(self.service, self.create_call, self.request(context, props))
        context.client(self.service).create_pipeline(**request, ClientRequestToken=token)
        return props["PipelineName"], {}

    def update(self, context: Context, physical_id: str, old: dict, new: dict) -> dict[str, Any]:
        retag(context, context.cloud.arn("sagemaker", f"pipeline/{physical_id}"), old, new)
        return super().update(context, physical_id, old, new)


TYPES = [PipelineResource]


def _start_from_event(cloud: Cloud) -> Any:
    """EventBridge target: start a pipeline with the parameters of the rule's target, under its role."""

    def deliver(target: dict[str, Any], payload: str) -> None:
        parameters = (target.get("SageMakerPipelineParameters") or {}).get("PipelineParameterList") or []
        client = cloud.client(
            "sagemaker", role=target["RoleArn"], principal="events.amazonaws.com", session="eventbridge"
        )
        client.start_pipeline_execution(
            PipelineName=target["Arn"],
            PipelineParameters=[
                {"Name": p["Name"], "Value": _from_event(p["Value"], payload)} for p in parameters
            ],
        )

    return deliver


def _from_event(value: str, payload: str) -> str:
    """A parameter's value; ``$.detail.x`` takes it from the event."""
    if not value.startswith("$."):
        return value
    found: Any = json.loads(payload)
    for part in value[2:].split("."):
        found = found[part]
    return plain(found)


TARGETS = {"sagemaker": _start_from_event}
