"""SageMaker Projects: a project is a Service Catalog product, provisioned with the project's name and id.

As Studio does it: ``CreateProject`` makes the id (``p-`` and 12 letters or digits), launches the product
as the caller with the parameters SageMakerProjectName and SageMakerProjectId added, and tags what is
launched with both.
"""

from __future__ import annotations

import secrets
import threading
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import Context
from localaws.services.sagemaker.records import Base, Collection, Record
from localaws.services.sagemaker.resources import Props, SageMakerResource, gone, until

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_BUSY = ("Pending", "CreateInProgress", "UpdateInProgress", "DeleteInProgress")


class ProjectsMixin(Base):
    """SageMaker Projects on top of Service Catalog, or of a template in S3."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.projects = Collection(
            self,
            "Project",
            "project",
            duplicate=("ValidationException", "Project with name {name} already exists."),
            missing=("ValidationException", "Project with name {name} does not exist."),
        )

    @property
    def _catalog(self) -> Any:
        return self.cloud.services["servicecatalog"]

    def create_project(self, params: Record) -> Record:
        details, providers = params.get("ServiceCatalogProvisioningDetails"), params.get("TemplateProviders")
        if bool(details) == bool(providers):
            raise AwsError(
                "ValidationException",
                "Exactly one of ServiceCatalogProvisioningDetails and TemplateProviders must be given",
            )
        name = params["ProjectName"]
        with self.lock:
            old = self.projects.find(name)
            if old and old["ProjectStatus"] == "DeleteCompleted":
                self.projects.remove(name)
            identity = "p-" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
            project = self.projects.add(
                name,
                {**params, "ProjectId": identity, "ProjectStatus": "Pending", "CreatedBy": self.caller()},
            )
        try:
            step = (
                self._launch(project)
                if details
                else self._create_stack(project, providers[0]["CfnTemplateProvider"])
            )
        except AwsError:
            self.projects.remove(name)
            raise
        project["ProjectStatus"] = "CreateInProgress"
        self.cloud.spawn(self._follow, project, "Create", *step, name="project")
        return {"ProjectArn": project["ProjectArn"], "ProjectId": identity}

    # -- by a product ------------------------------------------------------------------------------
    def _launch(self, project: Record) -> tuple:
        details = project["ServiceCatalogProvisioningDetails"]
        values = {"SageMakerProjectName": project["ProjectName"], "SageMakerProjectId": project["ProjectId"]}
        given = [p for p in details.get("ProvisioningParameters") or [] if p["Key"] not in values]
        request: Record = {
            "ProductId": details["ProductId"],
            "ProvisionedProductName": f"{project['ProjectName']}-{project['ProjectId']}",
            "ProvisioningParameters": [*given, *({"Key": k, "Value": v} for k, v in values.items())],
            "Tags": [
                {"Key": "sagemaker:project-name", "Value": project["ProjectName"]},
                {"Key": "sagemaker:project-id", "Value": project["ProjectId"]},
            ],
            "ProvisionToken": secrets.token_hex(16),
            "ProvisioningArtifactId": details.get("ProvisioningArtifactId")
            or self._newest(details["ProductId"]),
        }
        if details.get("PathId"):
            request["PathId"] = details["PathId"]
        record = self._asked(self._catalog.provision_product, request)
        project["ServiceCatalogProvisionedProductDetails"] = {
            "ProvisionedProductId": record["ProvisionedProductId"]
        }
        return self._record_end, record["RecordId"]

    def _newest(self, product: str) -> str:
        answer = self._asked(self._catalog.describe_product, {"Id": product}, "ProvisioningArtifacts")
        return [a for a in answer if a["Guidance"] != "DEPRECATED"][-1]["Id"]

    def _asked(self, call: Any, request: Record, member: str = "RecordDetail") -> Any:
        """An answer of Service Catalog, asked as the caller of this request; its refusal is SageMaker's."""
        try:
            return call(request)[member]
        except AwsError as error:
            raise AwsError(
                "ValidationException",
                f"{error.message} (Service: AWSServiceCatalog; Error Code: {error.code})",
            ) from None

    def _record_end(self, record: str) -> str:
        """Wait for a request to Service Catalog; why it failed, "" when it did not."""
        while self._catalog.records[record]["Status"] not in ("SUCCEEDED", "FAILED"):
            if self.cloud.stopping:
                return "the local cloud is shutting down"
            threading.Event().wait(0.1)
        return "; ".join(e["Description"] for e in self._catalog.records[record]["RecordErrors"])

    # -- by a template in S3 -----------------------------------------------------------------------
    def _create_stack(self, project: Record, provider: Record) -> tuple:
        cfn = self.cloud.client("cloudformation")
        parameters = {
            "SageMakerProjectName": project["ProjectName"],
            "SageMakerProjectId": project["ProjectId"],
        }
        parameters = {**{p["Key"]: p["Value"] for p in provider.get("Parameters") or []}, **parameters}
        if provider.get("RoleARN"):
            self.cloud.check_trust(provider["RoleARN"], "cloudformation.amazonaws.com")
        name = f"sagemaker-{project['ProjectName']}-{project['ProjectId']}"
        request: Record = {
            "StackName": name,
            "TemplateURL": provider["TemplateURL"],
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
            "Capabilities": ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            "Tags": [
                {"Key": "sagemaker:project-name", "Value": project["ProjectName"]},
                {"Key": "sagemaker:project-id", "Value": project["ProjectId"]},
            ],
        }
        if provider.get("RoleARN"):
            request["RoleARN"] = provider["RoleARN"]
        try:
            stack = cfn.create_stack(**request)["StackId"]
        except ClientError as error:
            raise AwsError("ValidationException", error.response["Error"]["Message"]) from None
        detail = {
            k: provider[k] for k in ("TemplateName", "TemplateURL", "RoleARN", "Parameters") if k in provider
        }
        project["TemplateProviderDetails"] = [
            {
                "CfnTemplateProviderDetail": {
                    **detail,
                    "StackDetail": {"Name": name, "Id": stack, "StatusMessage": ""},
                }
            }
        ]
        return self._stack_end, stack, ("CREATE_COMPLETE",)

    def _stack_end(self, stack_id: str, good: tuple[str, ...]) -> str:
        """Wait for a stack; why it failed, "" when it did not."""
        stack = self._catalog._wait(stack_id)
        return "" if stack["StackStatus"] in good else self._catalog._first_failure(stack_id, set())

    # -- what both share ---------------------------------------------------------------------------
    def _follow(self, project: Record, verb: str, wait: Any, *arguments: Any) -> None:
        reason = wait(*arguments)
        with self.lock:
            if project.get("ServiceCatalogProvisionedProductDetails"):
                details = {
                    **project["ServiceCatalogProvisionedProductDetails"],
                    "ProvisionedProductStatusMessage": reason or None,
                }
                project["ServiceCatalogProvisionedProductDetails"] = details
            for provider in project.get("TemplateProviderDetails") or []:
                provider["CfnTemplateProviderDetail"]["StackDetail"]["StatusMessage"] = reason
            self.projects.change(project, ProjectStatus=f"{verb}{'Failed' if reason else 'Completed'}")

    def describe_project(self, params: Record) -> Record:
        return self.projects.get(params["ProjectName"])

    def list_projects(self, params: Record) -> Record:
        return self.projects.listing(params, "ProjectSummaryList", order="Ascending")

    def update_project(self, params: Record) -> Record:
        project = self._idle(params["ProjectName"])
        update = params.get("ServiceCatalogProvisioningUpdateDetails")
        if params.get("TemplateProvidersToUpdate"):
            raise AwsError(
                "NotImplemented",
                "UpdateProject with TemplateProvidersToUpdate is not implemented in the local cloud",
                501,
            )
        self.set_tags(project["ProjectArn"], params.get("Tags"))
        self.projects.change(
            project,
            ProjectDescription=params.get("ProjectDescription", project.get("ProjectDescription")),
            LastModifiedBy=self.caller(),
        )
        if update:
            self._relaunch(project, update)
        return {"ProjectArn": project["ProjectArn"]}

    def _relaunch(self, project: Record, update: Record) -> None:
        details = project.get("ServiceCatalogProvisioningDetails")
        if not details:
            raise AwsError(
                "ValidationException",
                f"Project {project['ProjectName']} was not made from a Service Catalog product",
            )
        artifact = (
            update.get("ProvisioningArtifactId")
            or details.get("ProvisioningArtifactId")
            or self._newest(details["ProductId"])
        )
        product = self._catalog.products[details["ProductId"]]
        if artifact not in product["_artifacts"]:
            raise AwsError(
                "ValidationException",
                f"ProvisioningArtifact {artifact} of product {details['ProductId']} not found.",
            )
        before = {p["Key"]: p.get("Value", "") for p in details.get("ProvisioningParameters") or []}
        values = {
            **before,
            **{p["Key"]: p.get("Value", "") for p in update.get("ProvisioningParameters") or []},
        }
        values.update(SageMakerProjectName=project["ProjectName"], SageMakerProjectId=project["ProjectId"])
        record = self._asked(
            self._catalog.update_provisioned_product,
            {
                "ProvisionedProductId": project["ServiceCatalogProvisionedProductDetails"][
                    "ProvisionedProductId"
                ],
                "ProductId": details["ProductId"],
                "ProvisioningArtifactId": artifact,
                "UpdateToken": secrets.token_hex(16),
                "ProvisioningParameters": [{"Key": k, "Value": v} for k, v in values.items()],
            },
        )
        own = ("SageMakerProjectName", "SageMakerProjectId")
        project["ServiceCatalogProvisioningDetails"] = {
            **details,
            "ProvisioningArtifactId": artifact,
            "ProvisioningParameters": [{"Key": k, "Value": v} for k, v in values.items() if k not in own],
        }
        project["ProjectStatus"] = "UpdateInProgress"
        self.cloud.spawn(
            self._follow, project, "Update", self._record_end, record["RecordId"], name="project"
        )

    def delete_project(self, params: Record) -> None:
        project = self._idle(params["ProjectName"])
        product = (project.get("ServiceCatalogProvisionedProductDetails") or {}).get("ProvisionedProductId")
        stacks = [
            p["CfnTemplateProviderDetail"]["StackDetail"]["Id"]
            for p in project.get("TemplateProviderDetails") or []
        ]
        step: tuple = (lambda: "",)
        if product and product in self._catalog.provisioned:
            request = {"ProvisionedProductId": product, "TerminateToken": secrets.token_hex(16)}
            step = (
                self._record_end,
                self._asked(self._catalog.terminate_provisioned_product, request)["RecordId"],
            )
        elif stacks:
            self.cloud.client("cloudformation").delete_stack(StackName=stacks[0])
            step = (self._stack_end, stacks[0], ("DELETE_COMPLETE",))
        self.projects.change(
            project,
            ProjectStatus="DeleteInProgress",
            LastModifiedBy=self.caller(),
            LastModifiedTime=clock.now(),
        )
        self.cloud.spawn(self._follow, project, "Delete", *step, name="project")

    def _idle(self, name: str) -> Record:
        project = self.projects.get(name)
        if project["ProjectStatus"] == "DeleteCompleted":
            raise AwsError("ValidationException", f"Project with name {name} does not exist.")
        if project["ProjectStatus"] in _BUSY:
            raise AwsError(
                "ConflictException",
                f"Project {name} is in {project['ProjectStatus']} state; wait until it has ended",
            )
        return project


class Project(SageMakerResource):
    """AWS::SageMaker::Project."""

    type_name = "AWS::SageMaker::Project"
    create_call, delete_call, describe_call = "create_project", "delete_project", "describe_project"
    status_key = "ProjectStatus"
    good, bad = ("CreateCompleted",), ("CreateFailed", "DeleteFailed")
    id_parameter = name_property = "ProjectName"
    physical_id = "ProjectArn"
    attributes = {k: k for k in ("ProjectArn", "ProjectId", "ProjectStatus", "CreationTime")}

    def request(self, context: Context, props: Props) -> Props:
        out = {
            k: v
            for k, v in props.items()
            if k not in ("TemplateProviderDetails", "ServiceCatalogProvisionedProductDetails")
        }
        if props.get("TemplateProviderDetails"):
            out["TemplateProviders"] = [
                {"CfnTemplateProvider": p["CfnTemplateProviderDetail"]}
                for p in props["TemplateProviderDetails"]
            ]
        return out

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"ProjectName": props["ProjectName"]}

    def read(self, answer: Props, context: Context) -> Props:
        return {k: str(v) for k, v in super().read(answer, context).items()}

    def create(self, context: Context, props: Props) -> tuple[str, Props]:
        try:
            return super().create(context, props)
        except RuntimeError:
            self.delete(
                context, "", props
            )  # CloudFormation does not know of a resource that failed: leave nothing behind
            raise

    def wait(self, context: Context, physical_id: str, props: Props) -> Props:
        try:
            return super().wait(context, physical_id, props)
        except RuntimeError as error:
            answer = context.client("sagemaker").describe_project(ProjectName=props["ProjectName"])
            reason = (answer.get("ServiceCatalogProvisionedProductDetails") or {}).get(
                "ProvisionedProductStatusMessage"
            )
            raise RuntimeError(reason or str(error)) from None

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        client = context.client("sagemaker")
        try:
            client.delete_project(ProjectName=props["ProjectName"])
        except ClientError as error:
            if gone(error):
                return
            raise
        until(
            context,
            lambda: (
                client.describe_project(ProjectName=props["ProjectName"])["ProjectStatus"]
                in ("DeleteCompleted", "DeleteFailed")
            ),
        )
        answer = client.describe_project(ProjectName=props["ProjectName"])
        if answer["ProjectStatus"] == "DeleteFailed":
            reason = (answer.get("ServiceCatalogProvisionedProductDetails") or {}).get(
                "ProvisionedProductStatusMessage"
            )
            raise RuntimeError(reason or f"Project {props['ProjectName']} is DeleteFailed")


TYPES = [Project]
