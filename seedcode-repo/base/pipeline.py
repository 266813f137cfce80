"""The project's SageMaker pipeline.

    Preprocess -> Train -> Evaluate -> CheckQuality -> RegisterModel    the metric reaches the threshold
       |                                         |        |
       |                                         +-> QualityTooLow      it does not: the run fails and says so
       +-> DataQualityBaseline ---------------------------+

The build pipeline calls get_pipeline(), creates or updates the pipeline with what it returns, and starts it.
Everything that changes from project to project comes from mlops.yml (settings["config"]) and from the
platform (the other settings).

The definition is the same every time it is built from the same files: step caching compares it, so a step
whose inputs did not change is not run again. Therefore nothing here may depend on the time or on chance.
"""

import hashlib
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from sagemaker.core.drift_check_baselines import DriftCheckBaselines
from sagemaker.core.model_metrics import MetricsSource, ModelMetrics
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
            outputs=[output(settings, "Evaluate", "evaluation")],
            arguments=[
                *("--model", f"{PROCESSING}/input/model", "--test", f"{PROCESSING}/input/test"),
                *("--output", f"{PROCESSING}/output/evaluation"),
            ],
        ),
        property_files=[evaluation_file],
        cache_config=CACHE,
    )

    steps: list[Any] = [preprocess, train, evaluate]
    registration: list[Any] = []
    if register:
        baseline = data_quality_baseline(settings, session, processing_instance, preprocess)
        steps.append(baseline)
        registration = [registration_step(settings, session, train, evaluate, baseline, input_data)]

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
        parameters=[input_data, processing_instance, training_instance, threshold],
        steps=[*steps, check],
        sagemaker_session=session,
        pipeline_experiment_config=None,  # Experiments Classic is gone from Studio
    )


def training_data(settings: dict[str, Any], session: PipelineSession) -> str:
    """Return the S3 URI of the training data.

    A file of the repository is uploaded under its hash, once: the same data has the same address, so
    Preprocess is cached, and changed data is a new address.
    """
    source = settings["config"]["data"]["source"]
    if source.startswith("s3://"):
        return source
    path = ROOT / source
    if not path.is_file():
        raise FileNotFoundError(
            f"mlops.yml: data.source is {source!r}, and there is no such file in the repository"
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    bucket, key = settings["bucket"], f"data/{digest}/{path.name}"
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
        s3.put_object(Bucket=bucket, Key=key, Body=content, ContentType="text/csv", **encryption)
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


def data_quality_baseline(
    settings: dict[str, Any],
    session: PipelineSession,
    instance_type: ParameterString,
    preprocess: ProcessingStep,
) -> ProcessingStep:
    """Statistics and constraints of the training rows, which the monitor compares live traffic with."""
    quality = settings["config"]["monitoring"].get("data_quality", {})
    entrypoint = ["python3", f"{PROCESSING}/input/code/monitor.py"]
    return ProcessingStep(
        name="DataQualityBaseline",
        step_args=processor(settings, session, instance_type, entrypoint, "baseline").run(
            inputs=[
                mount("code", settings["monitor"]["code_uri"]),
                mount("baseline", result(preprocess, "baseline")),
            ],
            outputs=[output(settings, "DataQualityBaseline", "data_quality")],
            arguments=[
                *("baseline", "--dataset", f"{PROCESSING}/input/baseline"),
                *("--output", f"{PROCESSING}/output/data_quality"),
                *("--drift-threshold", str(quality.get("drift_threshold", 0.1))),
            ],
        ),
        cache_config=CACHE,
    )


def registration_step(
    settings: dict[str, Any],
    session: PipelineSession,
    train: TrainingStep,
    evaluate: ProcessingStep,
    baseline: ProcessingStep,
    input_data: ParameterString,
) -> ModelStep:
    """The model version: it waits for approval, and carries metrics, baselines and where it is from."""
    config = settings["config"]
    content_types = list(dict.fromkeys([config["inference"].get("content_type", "text/csv"), JSON]))
    model_quality = source(evaluate, "evaluation", "evaluation.json")
    statistics = source(baseline, "data_quality", "statistics.json")
    constraints = source(baseline, "data_quality", "constraints.json")
    builder = ModelBuilder(
        image_uri=settings["images"]["inference"],
        s3_model_data_url=train.properties.ModelArtifacts.S3ModelArtifacts,
        role_arn=settings["role_arn"],
        sagemaker_session=session,
    )
    instances = sorted({stage["instance_type"] for stage in config["deployment"].values()})
    return ModelStep(
        name="RegisterModel",
        step_args=builder.register(
            model_package_group_name=settings["model_package_group"],
            approval_status="PendingManualApproval",
            content_types=content_types,
            response_types=content_types,
            inference_instances=instances,
            transform_instances=[config["training"]["instance_type"]],
            model_metrics=ModelMetrics(
                model_statistics=model_quality,
                model_data_statistics=statistics,
                model_data_constraints=constraints,
            ),
            drift_check_baselines=DriftCheckBaselines(
                model_statistics=model_quality,
                model_data_statistics=statistics,
                model_data_constraints=constraints,
            ),
            customer_metadata_properties={
                "commit": settings["commit"],
                "project_id": settings["project_id"],
                "data_uri": input_data,
                # What the scheduled monitor of this version runs in: the code that made its baseline.
                "preprocessing_image": settings["images"]["preprocessing"],
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


def result(step: ProcessingStep, name: str) -> Any:
    """The S3 URI of an output of a step."""
    return step.properties.ProcessingOutputConfig.Outputs[name].S3Output.S3Uri


def source(step: ProcessingStep, name: str, file: str) -> MetricsSource:
    """A JSON file in an output of a step, as the model registry refers to it."""
    return MetricsSource(content_type=JSON, s3_uri=Join(on="/", values=[result(step, name), file]))
