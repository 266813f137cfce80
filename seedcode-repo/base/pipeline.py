"""The project's SageMaker pipeline.

    Preprocess -> Train -> Evaluate -> CheckQuality -> RegisterModel    the metric reaches the threshold
       |            |                            |        |
       |            |                            +-> QualityTooLow      it does not: the run fails and says so
       +------------+-> MonitoringBaseline ---------------+

The build pipeline calls get_pipeline(), creates or updates the pipeline with what it returns, and starts it.
Everything that changes from project to project comes from mlops.yml (settings["config"]) and from the
platform (the other settings).

The definition is the same every time it is built from the same files: step caching compares it, so a step
whose inputs did not change is not run again. Therefore nothing here may depend on the time or on chance.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from sagemaker.core.drift_check_baselines import DriftCheckBaselines
from sagemaker.core.model_metrics import FileSource, MetricsSource, ModelMetrics
from sagemaker.core.network import NetworkConfig
from sagemaker.core.processing import Processor
from sagemaker.core.shapes import (
    MetricDefinition,
    ProcessingInput,
    ProcessingOutput,
    ProcessingS3Input,
    ProcessingS3Output,
    StoppingCondition,
    Tag,
)
from sagemaker.core.training.configs import Compute, InputData, Networking, OutputDataConfig
from sagemaker.core.workflow.conditions import ConditionGreaterThanOrEqualTo
from sagemaker.core.workflow.execution_variables import ExecutionVariables
from sagemaker.core.workflow.functions import Join, JsonGet
from sagemaker.core.workflow.parameters import ParameterFloat, ParameterString
from sagemaker.core.workflow.pipeline_context import PipelineSession
from sagemaker.core.workflow.properties import PropertyFile
from sagemaker.mlops.workflow import (
    CacheConfig,
    ConditionStep,
    FailStep,
    ModelStep,
    Pipeline,
    ProcessingStep,
    TrainingStep,
)
from sagemaker.serve import ModelBuilder
from sagemaker.train import ModelTrainer

ROOT = Path(__file__).resolve().parent
PROCESSING = "/opt/ml/processing"
CACHE = CacheConfig(enable_caching=True, expire_after="P30D")
JSON = "application/json"
# The kinds of monitor, as mlops.yml names them. Data quality needs no block there, the others do.
MONITORS = ("data_quality", "model_quality", "model_bias", "model_explainability")


def get_pipeline(settings: dict[str, Any], session: PipelineSession) -> Pipeline:
    """Return the pipeline; uploads the training data first if it is a file of this repository.

    settings["register"] = False leaves out the registration: the experimental pipeline of a notebook, which
    never deploys.
    """
    config = settings["config"]
    data, evaluation = config["data"], config["evaluation"]
    register = settings.get("register", True)

    input_data = ParameterString("InputDataUri", default_value=training_data(settings, session))
    processing_instance = ParameterString(
        "ProcessingInstanceType", default_value=config["processing"]["instance_type"]
    )
    training_instance = ParameterString(
        "TrainingInstanceType", default_value=config["training"]["instance_type"]
    )
    threshold = ParameterFloat("MetricThreshold", default_value=float(evaluation["threshold"]))
    # Why this run was started, kept with the version; the registry takes letters, digits, spaces and _.:/=+-@
    reason = ParameterString("RetrainingReason", default_value="code")
    parameters: list[Any] = [input_data, processing_instance, training_instance, threshold]

    preprocess = ProcessingStep(
        name="Preprocess",
        step_args=processor(
            settings, session, processing_instance, ["python3", "/opt/program/preprocess.py"], "preprocess"
        ).run(
            inputs=[mount("data", input_data)],
            outputs=[
                output(settings, "Preprocess", name) for name in ("train", "validation", "test", "baseline")
            ],
            arguments=[
                *("--input", f"{PROCESSING}/input/data", "--output", f"{PROCESSING}/output"),
                *("--target", str(data["target"])),
                *("--positive-class", str(data.get("positive_class", "1"))),
                *(
                    "--test-fraction",
                    str(data.get("test_fraction", 0.2)),
                    "--seed",
                    str(data.get("seed", 42)),
                ),
            ],
        ),
        cache_config=CACHE,
    )

    train = TrainingStep(
        name="Train",
        step_args=trainer(settings, session, training_instance).train(
            input_data_config=[
                InputData(channel_name=name, data_source=result(preprocess, name), content_type="text/csv")
                for name in ("train", "validation")
            ]
        ),
        cache_config=CACHE,
    )

    evaluation_file = PropertyFile(name="Evaluation", output_name="evaluation", path="evaluation.json")
    evaluate = ProcessingStep(
        name="Evaluate",
        step_args=processor(
            settings, session, processing_instance, ["python3", "/opt/program/evaluate.py"], "evaluate"
        ).run(
            inputs=[
                mount("model", train.properties.ModelArtifacts.S3ModelArtifacts),
                mount("test", result(preprocess, "test")),
            ],
            outputs=[output(settings, "Evaluate", "evaluation"), evaluation_rows(settings)],
            arguments=[
                *("--model", f"{PROCESSING}/input/model", "--test", f"{PROCESSING}/input/test"),
                *("--output", f"{PROCESSING}/output/evaluation", "--rows", f"{PROCESSING}/output/rows"),
            ],
        ),
        property_files=[evaluation_file],
        cache_config=CACHE,
    )

    steps: list[Any] = [preprocess, train, evaluate]
    registration: list[Any] = []
    if register:
        baseline = monitoring_baseline(settings, session, processing_instance, preprocess, train)
        steps.append(baseline)
        origin = {"data_uri": input_data, "retraining_reason": reason}
        registration = [registration_step(settings, session, train, evaluate, baseline, origin)]
        parameters.append(reason)

    metric = evaluation["metric"]
    value = JsonGet(
        step_name=evaluate.name,
        property_file=evaluation_file,
        json_path=f"binary_classification_metrics.{metric}.value",
    )
    too_low = FailStep(
        name="QualityTooLow",
        error_message=Join(
            on=" ",
            values=[
                f"The model was not registered: {metric} is",
                value,
                "on the test rows, and evaluation.threshold in mlops.yml asks for at least",
                threshold,
            ],
        ),
    )
    check = ConditionStep(
        name="CheckQuality",
        conditions=[ConditionGreaterThanOrEqualTo(left=value, right=threshold)],
        if_steps=registration,
        else_steps=[too_low],
    )
    return Pipeline(
        name=settings["pipeline_name"],
        parameters=parameters,
        steps=[*steps, check],
        sagemaker_session=session,
        pipeline_experiment_config=None,  # Experiments Classic is gone from Studio
    )


def training_data(settings: dict[str, Any], session: PipelineSession) -> str:
    """Return the S3 URI of the training data: a CSV file, or a folder of such."""
    source = settings["config"]["data"]["source"]
    if source.startswith("s3://"):
        return source
    path = ROOT / source
    if not path.is_file():
        raise FileNotFoundError(
            f"mlops.yml: data.source is {source!r}, and there is no such file in the repository"
        )
    return upload(settings, session, "data", path.name, path.read_bytes(), "text/csv")


def upload(
    settings: dict[str, Any],
    session: PipelineSession,
    folder: str,
    name: str,
    content: bytes,
    content_type: str,
) -> str:
    """Upload a file under its hash, once, and return its S3 URI.

    The same content has the same address, so the steps that read it are cached, and changed content is a new
    address.
    """
    bucket, key = settings["bucket"], f"{folder}/{hashlib.sha256(content).hexdigest()}/{name}"
    s3 = session.boto_session.client("s3")
    try:
        s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        # 403 is what S3 says of a missing object to a role that may not list the bucket.
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "NotFound", "403"):
            raise
        encryption = (
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": settings["key_arn"]}
            if settings.get("key_arn")
            else {}
        )
        s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType=content_type, **encryption)
    return f"s3://{bucket}/{key}"


def processor(
    settings: dict[str, Any],
    session: PipelineSession,
    instance_type: ParameterString,
    entrypoint: list[str],
    name: str,
) -> Processor:
    """Return a processing job on the project's preprocessing image, inside the VPC, encrypted and tagged."""
    config = settings["config"]["processing"]
    network = {}
    if settings["subnets"]:
        network["network_config"] = NetworkConfig(
            subnets=settings["subnets"],
            security_group_ids=settings["security_groups"],
            encrypt_inter_container_traffic=True,
        )
    return Processor(
        role=settings["role_arn"],
        image_uri=settings["images"]["preprocessing"],
        entrypoint=entrypoint,
        instance_type=instance_type,
        instance_count=1,
        volume_size_in_gb=config.get("volume_gb", 10),
        volume_kms_key=settings.get("key_arn"),
        output_kms_key=settings.get("key_arn"),
        max_runtime_in_seconds=config.get("max_runtime_minutes", 60) * 60,
        base_job_name=name,
        tags=settings["tags"],
        sagemaker_session=session,
        **network,
    )


def trainer(
    settings: dict[str, Any], session: PipelineSession, instance_type: ParameterString
) -> ModelTrainer:
    """Return the training job. The code is in the image: SourceCode would put a time into the definition."""
    config = settings["config"]["training"]
    spot = bool(config.get("use_spot", False))
    runtime = config.get("max_runtime_minutes", 60) * 60
    model_trainer = ModelTrainer(
        role=settings["role_arn"],
        training_image=settings["images"]["training"],
        base_job_name="train",
        compute=Compute(
            instance_type=instance_type,
            instance_count=1,
            volume_size_in_gb=config.get("volume_gb", 10),
            volume_kms_key_id=settings.get("key_arn"),
            enable_managed_spot_training=spot,
        ),
        # With spot capacity the wait for an instance counts too.
        stopping_condition=StoppingCondition(
            max_runtime_in_seconds=runtime, **({"max_wait_time_in_seconds": 2 * runtime} if spot else {})
        ),
        networking=Networking(
            subnets=settings["subnets"],
            security_group_ids=settings["security_groups"],
            enable_inter_container_traffic_encryption=True,
        )
        if settings["subnets"]
        else None,
        output_data_config=OutputDataConfig(
            s3_output_path=f"s3://{settings['bucket']}/models/{settings['pipeline_name']}",
            kms_key_id=settings.get("key_arn"),
        ),
        hyperparameters={name: str(value) for name, value in config.get("hyperparameters", {}).items()},
        tags=[Tag(key=tag["Key"], value=tag["Value"]) for tag in settings["tags"]],
        sagemaker_session=session,
    )
    return model_trainer.with_metric_definitions(
        [
            MetricDefinition(name=f"validation:{name}", regex=f"validation:{name}=([0-9.]+)")
            for name in ("auc", "accuracy")
        ]
    )


def enabled_monitors(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the blocks of mlops.yml for the kinds of monitor that the project wants."""
    blocks = {"data_quality": {}, **settings["config"]["monitoring"]}
    return {kind: blocks[kind] for kind in MONITORS if kind in blocks and blocks[kind].get("enabled", True)}


def monitoring_baseline(
    settings: dict[str, Any],
    session: PipelineSession,
    instance_type: ParameterString,
    preprocess: ProcessingStep,
    train: TrainingStep,
) -> ProcessingStep:
    """What the monitors compare live traffic with: a folder for each kind that is enabled."""
    data = settings["config"]["data"]
    # A file, because an argument of a job has at most 256 characters.
    options = json.dumps(enabled_monitors(settings), indent=2, sort_keys=True).encode()
    where = f"{PROCESSING}/input"
    entrypoint = ["python3", f"{where}/code/monitor.pyz"]
    return ProcessingStep(
        name="MonitoringBaseline",
        step_args=processor(settings, session, instance_type, entrypoint, "baseline").run(
            inputs=[
                mount("code", settings["monitor"]["code_uri"]),
                mount("options", upload(settings, session, "code/monitoring", "options.json", options, JSON)),
                mount("model", train.properties.ModelArtifacts.S3ModelArtifacts),
                # SageMaker refuses an input with the name of an output, which is baseline
                mount("dataset", result(preprocess, "baseline")),
                *(mount(name, result(preprocess, name)) for name in ("train", "validation", "test")),
            ],
            outputs=[output(settings, "MonitoringBaseline", "baseline")],
            arguments=[
                *("baseline", "--dataset", f"{where}/dataset/baseline.csv", "--train", f"{where}/train"),
                *("--holdout", f"{where}/validation", "--holdout", f"{where}/test"),
                *("--model", f"{where}/model", "--target", str(data["target"])),
                *("--positive-class", str(data.get("positive_class", "1"))),
                *("--options", f"{where}/options/options.json"),
                *("--output", f"{PROCESSING}/output/baseline"),
            ],
        ),
        cache_config=CACHE,
    )


def baselines(
    settings: dict[str, Any], evaluate: ProcessingStep, baseline: ProcessingStep
) -> tuple[ModelMetrics, DriftCheckBaselines]:
    """What the registry shows of the version, and what its monitors use, for each kind that is enabled."""
    kinds = enabled_monitors(settings)

    def file(kind: str, name: str) -> MetricsSource | None:
        return source(baseline, "baseline", f"{kind}/{name}.json") if kind in kinds else None

    def config(kind: str) -> FileSource | None:
        found = file(kind, "analysis_config")
        return found and FileSource(s3_uri=found.s3_uri, content_type=JSON)

    evaluation = source(evaluate, "evaluation", "evaluation.json")
    data = {
        "model_data_statistics": file("data_quality", "statistics"),
        "model_data_constraints": file("data_quality", "constraints"),
    }
    metrics = ModelMetrics(
        model_statistics=evaluation,
        model_constraints=file("model_quality", "constraints"),
        bias=file("model_bias", "analysis"),
        explainability=file("model_explainability", "analysis"),
        **data,
    )
    checks = DriftCheckBaselines(
        model_statistics=file("model_quality", "statistics") or evaluation,
        model_constraints=file("model_quality", "constraints"),
        bias_config_file=config("model_bias"),
        bias_pre_training_constraints=file("model_bias", "constraints"),
        bias_post_training_constraints=file("model_bias", "constraints"),
        explainability_config_file=config("model_explainability"),
        explainability_constraints=file("model_explainability", "constraints"),
        **data,
    )
    return metrics, checks


def registration_step(
    settings: dict[str, Any],
    session: PipelineSession,
    train: TrainingStep,
    evaluate: ProcessingStep,
    baseline: ProcessingStep,
    origin: dict[str, ParameterString],
) -> ModelStep:
    """The model version: it waits for approval, and carries metrics, baselines and where it is from."""
    config = settings["config"]
    content_types = list(dict.fromkeys([config["inference"].get("content_type", "text/csv"), JSON]))
    metrics, checks = baselines(settings, evaluate, baseline)
    builder = ModelBuilder(
        image_uri=settings["images"]["inference"],
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        role_arn=settings["role_arn"],
        sagemaker_session=session,
    )
    deployment = config["deployment"]
    stages = [deployment[stage] for stage in ("staging", "production") if stage in deployment]
    instances = sorted({stage["instance_type"] for stage in stages}) or None
    return ModelStep(
        name="RegisterModel",
        step_args=builder.register(
            model_package_group_name=settings["model_package_group"],
            approval_status="PendingManualApproval",
            content_types=content_types,
            response_types=content_types,
            inference_instances=instances,
            transform_instances=[
                deployment.get("batch", {}).get("instance_type") or config["training"]["instance_type"]
            ],
            model_metrics=metrics,
            drift_check_baselines=checks,
            customer_metadata_properties={
                "commit": settings["commit"],
                "project_id": settings["project_id"],
                **origin,
                # What the scheduled monitor of this version runs in: the code that made its baseline.
                "preprocessing_image": settings["images"]["preprocessing"],
                **({"api_image": settings["images"]["api"]} if "api" in settings["images"] else {}),
            },
        ),
    )


def mount(name: str, uri: Any) -> ProcessingInput:
    """An input of a processing job: what is at uri is found in /opt/ml/processing/input/<name>."""
    return ProcessingInput(
        input_name=name,
        s3_input=ProcessingS3Input(
            s3_uri=uri, local_path=f"{PROCESSING}/input/{name}", s3_data_type="S3Prefix", s3_input_mode="File"
        ),
    )


def output(settings: dict[str, Any], step: str, name: str) -> ProcessingOutput:
    """An output of a processing job, in a folder of its own for each execution of the pipeline."""
    prefix = f"s3://{settings['bucket']}/pipelines/{settings['pipeline_name']}"
    return ProcessingOutput(
        output_name=name,
        s3_output=ProcessingS3Output(
            s3_uri=Join(on="/", values=[prefix, ExecutionVariables.PIPELINE_EXECUTION_ID, step, name]),
            local_path=f"{PROCESSING}/output/{name}",
            s3_upload_mode="EndOfJob",
        ),
    )


def evaluation_rows(settings: dict[str, Any]) -> ProcessingOutput:
    """Rows of the project's table `evaluations` in Athena, in a folder of their own for each execution."""
    table = f"s3://{settings['bucket']}/monitoring/tables/evaluations/{settings['pipeline_name']}"
    return ProcessingOutput(
        output_name="rows",
        s3_output=ProcessingS3Output(
            s3_uri=Join(on="/", values=[table, ExecutionVariables.PIPELINE_EXECUTION_ID]),
            local_path=f"{PROCESSING}/output/rows",
            s3_upload_mode="EndOfJob",
        ),
    )


def result(step: ProcessingStep, name: str) -> Any:
    """The S3 URI of an output of a step."""
    return step.properties.ProcessingOutputConfig.Outputs[name].S3Output.S3Uri


def source(step: ProcessingStep, name: str, file: str) -> MetricsSource:
    """A JSON file in an output of a step, as the model registry refers to it."""
    return MetricsSource(content_type=JSON, s3_uri=Join(on="/", values=[result(step, name), file]))
