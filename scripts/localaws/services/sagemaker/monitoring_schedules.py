"""Model Monitor: job definitions of the four kinds, and schedules that name them.

The containers of Model Monitor and Clarify are AWS's alone and are not run here: every execution of a
schedule ends Failed and says so. What is kept, checked and listed is what the templates and their tests need.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context
from localaws.service import page
from localaws.services.sagemaker.endpoints import EndpointsMixin
from localaws.services.sagemaker.models import NamedByArn
from localaws.services.sagemaker.records import Collection, Record
from localaws.services.sagemaker.resources import Props, SageMakerResource

#: monitoring type → path of its job definitions in an ARN, and what boto3 calls them
KINDS = {
    "DataQuality": ("data-quality-job-definition", "data_quality_job_definition"),
    "ModelQuality": ("model-quality-job-definition", "model_quality_job_definition"),
    "ModelBias": ("model-bias-job-definition", "model_bias_job_definition"),
    "ModelExplainability": ("model-explainability-job-definition", "model_explainability_job_definition"),
}
#: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_ScheduleConfig.html
EXPRESSION = re.compile(
    r"cron\(0 (?:(?P<every>\*)|(?P<hour>[01]?\d|2[0-3])(?:/(?P<step>0?[1-9]|1\d|2[0-4]))?) \? \* \* \*\)"
)
HOURLY = "cron(0 * ? * * *)"
_DURATION = re.compile(r"-?P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?")
_DAY = timedelta(hours=24)
#: schedules of an account, a quota that cannot be raised: https://docs.aws.amazon.com/general/latest/gr/sagemaker.html
QUOTA = 10
NOT_RUN = (
    "InternalServerError: the local cloud does not run the containers of Model Monitor and Clarify, "
    "which are AWS's alone; with MonitoringEngine processing the monitors run here"
)


def _invalid(text: str) -> AwsError:
    return AwsError("ValidationException", text)


def length(offset: str) -> timedelta:
    """How far before the scheduled time an offset such as -PT1H lies. Raises AwsError for what is none."""
    found = _DURATION.fullmatch(offset)
    if not found or not any(found.groups()):
        raise _invalid(f"{offset} is no offset in ISO 8601 duration format such as -PT1H, -PT90M or -P1D")
    days, hours, minutes = (int(part or 0) for part in found.groups())
    return timedelta(days=days, hours=hours, minutes=minutes)


def due(expression: str | None, after: datetime, until: datetime) -> list[datetime]:
    """The hours after a moment, until another, at which a schedule's job is due; daily without expression."""
    found = EXPRESSION.fullmatch(expression or "cron(0 0 ? * * *)")
    if not found:
        return []
    hours = range(24) if found["every"] else range(int(found["hour"]), 24, int(found["step"] or 24))
    moment = after.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    out = []
    while moment <= until:
        if moment.hour in hours:
            out.append(moment)
        moment += timedelta(hours=1)
    return out


class MonitoringSchedulesMixin(EndpointsMixin):
    """Create, Describe, List and Delete of the four kinds of job definitions; monitoring schedules."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.job_definitions = {
            kind: Collection(
                self,
                f"{kind}JobDefinition",
                path,
                arn_key="JobDefinitionArn",
                name_key="JobDefinitionName",
                duplicate=("ResourceInUse", "Job Definition {arn} already exists"),
                missing=("ResourceNotFound", "Job Definition {arn} does not exist"),
            )
            for kind, (path, _) in KINDS.items()
        }
        self.monitoring_schedules = Collection(
            self,
            "MonitoringSchedule",
            "monitoring-schedule",
            duplicate=("ResourceInUse", "Monitoring Schedule {arn} already exists"),
            missing=("ResourceNotFound", "Monitoring Schedule {arn} not found"),
        )

    # -- job definitions -------------------------------------------------------------------------------------
    def create_definition(self, kind: str, params: Record) -> Record:
        """CreateDataQualityJobDefinition and its three siblings."""
        self.check_execution_role(params["RoleArn"])
        self.check_network((params.get("NetworkConfig") or {}).get("VpcConfig"))
        found = params[f"{kind}JobInput"]
        source, batch = found.get("EndpointInput"), found.get("BatchTransformInput")
        if bool(source) == bool(batch):
            raise _invalid(
                f"{kind}JobInput: exactly one of EndpointInput and BatchTransformInput is required"
            )
        for one in (source or {}, batch or {}):
            start, end = (length(one.get(f"{w}TimeOffset") or "PT0H") for w in ("Start", "End"))
            if start < end:
                raise _invalid("StartTimeOffset must not be later than EndTimeOffset")
        endpoint = (source or {}).get("EndpointName")
        if endpoint:
            self._check_capture_is_on(endpoint)
        record = self.job_definitions[kind].add(
            params["JobDefinitionName"], {**params, "EndpointName": endpoint, "_kind": kind}
        )
        return {"JobDefinitionArn": record["JobDefinitionArn"]}

    def _check_capture_is_on(self, endpoint: str) -> None:
        """Model Monitor reads what an endpoint captures: refuse one that is not there or captures nothing."""
        config = self.endpoint_configs.get(self.endpoints.get(endpoint)["EndpointConfigName"])
        if not (config.get("DataCaptureConfig") or {}).get("EnableCapture"):
            raise _invalid(f'Data capture is not enabled for endpoint "{endpoint}".')

    def list_definitions(self, kind: str, params: Record) -> Record:
        """ListDataQualityJobDefinitions and its three siblings."""
        wanted = params.get("EndpointName")
        answer = self.job_definitions[kind].listing(
            params, "JobDefinitionSummaries", lambda r: not wanted or r["EndpointName"] == wanted
        )
        answer["JobDefinitionSummaries"] = [
            {
                "MonitoringJobDefinitionName": r["JobDefinitionName"],
                "MonitoringJobDefinitionArn": r["JobDefinitionArn"],
                "CreationTime": r["CreationTime"],
                "EndpointName": r["EndpointName"] or "",
            }
            for r in answer["JobDefinitionSummaries"]
        ]
        return answer

    def delete_definition(self, kind: str, params: Record) -> Record:
        """DeleteDataQualityJobDefinition and its three siblings: not while a schedule names it."""
        record = self.job_definitions[kind].get(params["JobDefinitionName"])
        users = [
            s["MonitoringScheduleName"]
            for s in self.monitoring_schedules.all()
            if _definition(s) == (kind, record["_key"])
        ]
        if users:
            raise _invalid(
                f"Job Definition {record['JobDefinitionArn']} is used by the monitoring schedule "
                f"{', '.join(users)}"
            )
        self.job_definitions[kind].remove(record["_key"])
        return {}

    # -- schedules -------------------------------------------------------------------------------------------
    def create_monitoring_schedule(self, params: Record) -> Record:
        config = params["MonitoringScheduleConfig"]
        definition = self._job_definition_of(config)
        with self.lock:
            if (
                params["MonitoringScheduleName"] not in self.monitoring_schedules
                and len(self.monitoring_schedules) >= QUOTA
            ):
                raise AwsError(
                    "ResourceLimitExceeded",
                    "The account-level service limit 'Number of monitoring schedules' is "
                    f"{QUOTA} MonitoringSchedules, with current utilization of {QUOTA} MonitoringSchedules.",
                )
            record = self.monitoring_schedules.add(
                params["MonitoringScheduleName"],
                {
                    **params,
                    "MonitoringScheduleStatus": "Scheduled",
                    "MonitoringType": config["MonitoringType"],
                    "EndpointName": definition["EndpointName"],
                    "_seen": clock.now(),
                    "_executions": [],
                },
            )
        self._execute_now(record)
        return {"MonitoringScheduleArn": record["MonitoringScheduleArn"]}

    def _job_definition_of(self, config: Record) -> Record:
        """The job definition that a schedule names. Raises AwsError for what is refused or not kept here."""
        if config.get("MonitoringJobDefinition"):
            raise AwsError(
                "NotImplemented",
                "the local cloud keeps schedules that name a job definition, not those with a "
                "MonitoringJobDefinition of their own",
                501,
            )
        name, kind = config.get("MonitoringJobDefinitionName"), config.get("MonitoringType")
        if not name or not kind:
            raise _invalid("MonitoringJobDefinitionName and MonitoringType are required")
        definition = self.job_definitions[kind].get(name)
        schedule = config.get("ScheduleConfig") or {}
        expression = schedule.get("ScheduleExpression")
        window = [schedule.get(f"DataAnalysis{which}Time") for which in ("Start", "End")]
        if expression == "NOW" and not all(window):
            raise _invalid(
                "DataAnalysisStartTime and DataAnalysisEndTime are required with ScheduleExpression NOW"
            )
        if expression and expression != "NOW" and not EXPRESSION.fullmatch(expression):
            raise _invalid(
                f"ScheduleExpression {expression} is not supported: hourly is cron(0 * ? * * *), daily "
                "cron(0 [00-23] ? * * *), every some hours cron(0 [00-23]/[01-24] ? * * *)"
            )
        limit = 3600 if kind in ("DataQuality", "ModelExplainability") else 1800
        runtime = (definition.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 0)
        # https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_MonitoringStoppingCondition.html
        if expression == HOURLY and runtime > limit:
            raise _invalid(
                f"MaxRuntimeInSeconds {runtime} exceeds {limit}, the limit of an hourly {kind} schedule"
            )
        start, end = (length(one or "PT0H") for one in window)
        if not timedelta() <= start - end <= _DAY:
            raise _invalid("DataAnalysisStartTime must precede DataAnalysisEndTime by 24 hours at most")
        return definition

    def update_monitoring_schedule(self, params: Record) -> Record:
        record = self.monitoring_schedules.get(params["MonitoringScheduleName"])
        config = params["MonitoringScheduleConfig"]
        definition = self._job_definition_of(config)
        self._note_executions(record)
        self.monitoring_schedules.change(
            record,
            MonitoringScheduleConfig=config,
            MonitoringType=config["MonitoringType"],
            EndpointName=definition["EndpointName"],
        )
        self._execute_now(record)
        return {"MonitoringScheduleArn": record["MonitoringScheduleArn"]}

    def describe_monitoring_schedule(self, params: Record) -> Record:
        record = self.monitoring_schedules.get(params["MonitoringScheduleName"])
        self._note_executions(record)
        last = record["_executions"][-1:]
        return {**record, **({"LastMonitoringExecutionSummary": last[0]} if last else {})}

    def list_monitoring_schedules(self, params: Record) -> Record:
        def wanted(record: Record) -> bool:
            return _asked_for(params, record, *_definition(record))

        answer = self.monitoring_schedules.listing(params, "MonitoringScheduleSummaries", wanted)
        for row, record in enumerate(answer["MonitoringScheduleSummaries"]):
            name = _definition(record)[1]
            answer["MonitoringScheduleSummaries"][row] = {**record, "MonitoringJobDefinitionName": name}
        return answer

    def stop_monitoring_schedule(self, params: Record) -> Record:
        record = self.monitoring_schedules.get(params["MonitoringScheduleName"])
        self._note_executions(record)
        self.monitoring_schedules.change(record, MonitoringScheduleStatus="Stopped")
        return {}

    def start_monitoring_schedule(self, params: Record) -> Record:
        record = self.monitoring_schedules.get(params["MonitoringScheduleName"])
        if record["MonitoringScheduleStatus"] != "Stopped":
            raise _invalid(f"Monitoring Schedule {record['MonitoringScheduleArn']} is not stopped")
        self.monitoring_schedules.change(record, MonitoringScheduleStatus="Scheduled", _seen=clock.now())
        return {}

    def delete_monitoring_schedule(self, params: Record) -> Record:
        self.monitoring_schedules.remove(params["MonitoringScheduleName"])
        return {}

    def list_monitoring_executions(self, params: Record) -> Record:
        found = []
        for record in self.monitoring_schedules.all():
            self._note_executions(record)
            if params.get("MonitoringScheduleName") in (None, record["MonitoringScheduleName"]):
                found += [e for e in record["_executions"] if _execution_wanted(params, e)]
        key = params.get("SortBy") or "CreationTime"
        found.sort(
            key=lambda e: e["MonitoringExecutionStatus" if key == "Status" else key],
            reverse=(params.get("SortOrder") or "Descending") == "Descending",
        )
        items, token = page(found, params, default=10)
        return {"MonitoringExecutionSummaries": items, "NextToken": token}

    def _note_executions(self, record: Record) -> None:
        """Write down the executions that were due since somebody last looked."""
        now = clock.now()
        with self.lock:
            if record["MonitoringScheduleStatus"] == "Scheduled":
                schedule = record["MonitoringScheduleConfig"].get("ScheduleConfig") or {}
                for moment in due(schedule.get("ScheduleExpression"), record["_seen"], now):
                    self._note_failure(record, moment)
            record["_seen"] = now

    def _execute_now(self, record: Record) -> None:
        schedule = record["MonitoringScheduleConfig"].get("ScheduleConfig") or {}
        if schedule.get("ScheduleExpression") == "NOW":
            self._note_failure(record, clock.now())

    @staticmethod
    def _note_failure(record: Record, moment: datetime) -> None:
        kind, definition = _definition(record)
        record["_executions"].append(
            {
                "MonitoringScheduleName": record["MonitoringScheduleName"],
                "ScheduledTime": moment,
                "CreationTime": moment,
                "LastModifiedTime": moment,
                "MonitoringExecutionStatus": "Failed",
                "EndpointName": record["EndpointName"],
                "FailureReason": NOT_RUN,
                "MonitoringJobDefinitionName": definition,
                "MonitoringType": kind,
            }
        )

    # -- endpoints -------------------------------------------------------------------------------------------
    def delete_endpoint(self, params: Record) -> Record:
        """Model Monitor wants its schedules gone first.

        https://docs.aws.amazon.com/sagemaker/latest/dg/realtime-endpoints-delete-resources.html
        """
        name = params["EndpointName"]
        users = [
            s["MonitoringScheduleName"] for s in self.monitoring_schedules.all() if s["EndpointName"] == name
        ]
        if users:
            raise _invalid(
                f"Cannot delete Endpoint {self.endpoints.arn(name)} while Monitoring Schedule(s) "
                f"{', '.join(users)} is attached to it"
            )
        return super().delete_endpoint(params)


def _definition(schedule: Record) -> tuple[str, str]:
    """(kind, name) of the job definition that a schedule names."""
    config = schedule["MonitoringScheduleConfig"]
    return config["MonitoringType"], config["MonitoringJobDefinitionName"]


def _asked_for(params: Record, record: Record, kind: str, definition: str) -> bool:
    """The filters that lists of schedules and of executions share."""
    return (
        params.get("EndpointName") in (None, record["EndpointName"])
        and params.get("MonitoringTypeEquals") in (None, kind)
        and params.get("MonitoringJobDefinitionName") in (None, definition)
    )


def _execution_wanted(params: Record, execution: Record) -> bool:
    return (
        _asked_for(params, execution, execution["MonitoringType"], execution["MonitoringJobDefinitionName"])
        and params.get("StatusEquals") in (None, execution["MonitoringExecutionStatus"])
        and all(
            not params.get(f"{time}After") or execution[time] >= params[f"{time}After"]
            for time in ("ScheduledTime", "CreationTime", "LastModifiedTime")
        )
        and all(
            not params.get(f"{time}Before") or execution[time] <= params[f"{time}Before"]
            for time in ("ScheduledTime", "CreationTime", "LastModifiedTime")
        )
    )


def _operations(kind: str, call: str) -> dict[str, Callable[..., Record]]:
    """The four operations of one kind of job definition."""

    def create(self: MonitoringSchedulesMixin, params: Record) -> Record:
        return self.create_definition(kind, params)

    def describe(self: MonitoringSchedulesMixin, params: Record) -> Record:
        return self.job_definitions[kind].get(params["JobDefinitionName"])

    def listing(self: MonitoringSchedulesMixin, params: Record) -> Record:
        return self.list_definitions(kind, params)

    def delete(self: MonitoringSchedulesMixin, params: Record) -> Record:
        return self.delete_definition(kind, params)

    return {
        f"create_{call}": create,
        f"describe_{call}": describe,
        f"list_{call}s": listing,
        f"delete_{call}": delete,
    }


for _kind, (_, _call) in KINDS.items():
    for _name, _method in _operations(_kind, _call).items():
        setattr(MonitoringSchedulesMixin, _name, _method)


# -- CloudFormation ------------------------------------------------------------------------------------------
class JobDefinitionResource(NamedByArn):
    """AWS::SageMaker::…JobDefinition: every change replaces it, that of a tag too."""

    noun, name_property, id_parameter = "JobDefinition", "JobDefinitionName", "JobDefinitionName"
    drop = ("EndpointName",)  # CloudFormation's own, for its list handler
    gone = ("ResourceNotFound",)

    def create(self, context: Context, props: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        arn, _ = super().create(context, props)
        return arn, {"JobDefinitionArn": arn}


class DataQualityJobDefinition(JobDefinitionResource):
    type_name = "AWS::SageMaker::DataQualityJobDefinition"
    create_call, delete_call = "create_data_quality_job_definition", "delete_data_quality_job_definition"


class ModelQualityJobDefinition(JobDefinitionResource):
    type_name = "AWS::SageMaker::ModelQualityJobDefinition"
    create_call, delete_call = "create_model_quality_job_definition", "delete_model_quality_job_definition"


class ModelBiasJobDefinition(JobDefinitionResource):
    type_name = "AWS::SageMaker::ModelBiasJobDefinition"
    create_call, delete_call = "create_model_bias_job_definition", "delete_model_bias_job_definition"


class ModelExplainabilityJobDefinition(JobDefinitionResource):
    type_name = "AWS::SageMaker::ModelExplainabilityJobDefinition"
    create_call = "create_model_explainability_job_definition"
    delete_call = "delete_model_explainability_job_definition"


class MonitoringScheduleResource(SageMakerResource):
    """AWS::SageMaker::MonitoringSchedule; Ref is the ARN."""

    type_name, name_property = "AWS::SageMaker::MonitoringSchedule", "MonitoringScheduleName"
    create_call, update_call = "create_monitoring_schedule", "update_monitoring_schedule"
    delete_call, describe_call = "delete_monitoring_schedule", "describe_monitoring_schedule"
    physical_id, status_key = "MonitoringScheduleArn", "MonitoringScheduleStatus"
    good = ("Scheduled", "Stopped")

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"MonitoringScheduleName": physical_id.rpartition("/")[2]}

    def read(self, answer: Props, context: Context) -> dict[str, Any]:
        return {"MonitoringScheduleArn": answer["MonitoringScheduleArn"]}


TYPES = [
    DataQualityJobDefinition,
    ModelQualityJobDefinition,
    ModelBiasJobDefinition,
    ModelExplainabilityJobDefinition,
    MonitoringScheduleResource,
]
