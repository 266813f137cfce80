"""Provisioned products and the records of what was asked of them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock, hooks
from localaws.errors import AwsError
from localaws.services.servicecatalog.base import Record, once, pages, tag_list, tag_map
from localaws.services.servicecatalog.constraints import ConstraintsMixin

CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]


class ProvisioningMixin(ConstraintsMixin):
    """Launch, update and terminate products."""

    @once("ProvisionToken")
    def provision_product(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params, active=True)
        self._not_deprecated(artifact)
        portfolio = self._path(product, paths, params)
        name = params["ProvisionedProductName"]
        if any(p["Name"] == name for p in self.provisioned.values()):
            raise AwsError(
                "DuplicateResourceException", f"A provisioned product with name {name} already exists"
            )
        tags = self._tags_for(product, portfolio, tag_map(params.get("Tags")))
        role = self._launch_role(product, portfolio)
        self._assume(role)
        caller, session = self.caller()
        identity = self.cloud.new_id("pp-")
        provisioned = {
            "Id": identity,
            "Name": name,
            "Arn": self.cloud.arn("servicecatalog", f"stack/{name}/{identity}"),
            "Type": "CFN_STACK",
            "Status": "UNDER_CHANGE",
            "CreatedTime": clock.now(),
            "IdempotencyToken": params["ProvisionToken"],
            "ProductId": product["Id"],
            "ProvisioningArtifactId": artifact["Id"],
            "LaunchRoleArn": role,
            "UserArn": caller,
            "UserArnSession": session,
            "_tags": tags,
            "_portfolio": portfolio["Id"],
            "_stack": f"SC-{self.cloud.account}-{identity}",
        }
        self.provisioned[identity] = provisioned
        record = self._record(
            provisioned, "PROVISION_PRODUCT", product, artifact, portfolio, params.get("Tags")
        )
        sent = [
            {"ParameterKey": p["Key"], "ParameterValue": p.get("Value", "")}
            for p in params.get("ProvisioningParameters") or []
        ]
        self.cloud.spawn(
            self._work,
            provisioned,
            record,
            self._launch,
            sent,
            params.get("NotificationArns") or [],
            name="provision",
        )
        return {"RecordDetail": dict(record)}

    @once("UpdateToken")
    def update_provisioned_product(self, params: Record) -> Record:
        provisioned = self._provisioned(params, "ProvisionedProductId", "ProvisionedProductName")
        self._settled(provisioned)
        wanted = {"ProductId": params.get("ProductId"), "ProductName": params.get("ProductName")}
        product, paths = self._seen(
            wanted if any(wanted.values()) else {"ProductId": provisioned["ProductId"]},
            "ProductId",
            "ProductName",
        )
        same = not params.get("ProvisioningArtifactId") and not params.get("ProvisioningArtifactName")
        artifact = self._artifact(
            product,
            {"ProvisioningArtifactId": provisioned["ProvisioningArtifactId"]} if same else params,
            active=not same,
        )
        if artifact["Id"] != provisioned["ProvisioningArtifactId"]:
            self._not_deprecated(artifact)
        portfolio = self._path(
            product, [f for f in paths if f["Id"] == provisioned["_portfolio"]] or paths, params
        )
        tags = provisioned["_tags"]
        if params.get("Tags"):
            allowed = any(
                c["Type"] == "RESOURCE_UPDATE"
                and c["_values"]["Properties"]["TagUpdateOnProvisionedProduct"] == "ALLOWED"
                for c in self._constraints(portfolio["Id"], product["Id"])
            )
            if not allowed:
                raise AwsError(
                    "InvalidParametersException",
                    f"Tags of provisioned product {provisioned['Name']} may not be updated: product "
                    f"{product['Id']} has no "
                    "RESOURCE_UPDATE constraint with TagUpdateOnProvisionedProduct set to ALLOWED",
                )
            tags = self._tags_for(product, portfolio, tag_map(params["Tags"]))
        role = self._launch_role(product, portfolio)
        self._assume(role)
        record = self._record(
            provisioned, "UPDATE_PROVISIONED_PRODUCT", product, artifact, portfolio, params.get("Tags")
        )
        provisioned.update(Status="UNDER_CHANGE", StatusMessage=None, LaunchRoleArn=role, _tags=tags)
        sent = [
            {"ParameterKey": p["Key"], "UsePreviousValue": True}
            if p.get("UsePreviousValue")
            else {"ParameterKey": p["Key"], "ParameterValue": p.get("Value", "")}
            for p in params.get("ProvisioningParameters") or []
        ]
        self.cloud.spawn(self._work, provisioned, record, self._relaunch, sent, name="update-product")
        return {"RecordDetail": dict(record)}

    @once("TerminateToken")
    def terminate_provisioned_product(self, params: Record) -> Record:
        provisioned = self._provisioned(params, "ProvisionedProductId", "ProvisionedProductName")
        if not params.get("IgnoreErrors"):
            self._settled(provisioned)
        product = self.products.get(provisioned["ProductId"])
        portfolio = self.portfolios.get(provisioned["_portfolio"])
        artifact = {"Id": provisioned["ProvisioningArtifactId"]}
        if product and portfolio and product["Id"] in portfolio["_products"]:
            provisioned["LaunchRoleArn"] = self._launch_role(product, portfolio)
        record = self._record(
            provisioned,
            "TERMINATE_PROVISIONED_PRODUCT",
            product or {"Id": provisioned["ProductId"]},
            artifact,
            portfolio,
            None,
        )
        provisioned.update(Status="UNDER_CHANGE", StatusMessage=None)
        options = (bool(params.get("IgnoreErrors")), bool(params.get("RetainPhysicalResources")))
        self.cloud.spawn(self._work, provisioned, record, self._terminate, *options, name="terminate-product")
        return {"RecordDetail": dict(record)}

    def describe_provisioned_product(self, params: Record) -> Record:
        return {
            "ProvisionedProductDetail": self._provisioned(params, "Id", "Name"),
            "CloudWatchDashboards": [],
        }

    def scan_provisioned_products(self, params: Record) -> Record:
        return pages(self._at_level(list(self.provisioned.values()), params), params, "ProvisionedProducts")

    def search_provisioned_products(self, params: Record) -> Record:
        found = []
        for provisioned in self._at_level(list(self.provisioned.values()), params):
            product = self.products.get(provisioned["ProductId"], {})
            artifact = product.get("_artifacts", {}).get(provisioned["ProvisioningArtifactId"], {})
            found.append(
                {
                    **provisioned,
                    "Tags": tag_list(provisioned["_tags"]),
                    "ProductName": product.get("Name"),
                    "ProvisioningArtifactName": artifact.get("Name"),
                }
            )
        for query in (params.get("Filters") or {}).get("SearchQuery", []):
            found = [p for p in found if matches(p, query)]
        found.sort(
            key=lambda p: str(p.get(capital(params.get("SortBy") or "createdTime"))),
            reverse=params.get("SortOrder") == "DESCENDING",
        )
        return {**pages(found, params, "ProvisionedProducts"), "TotalResultsCount": len(found)}

    def get_provisioned_product_outputs(self, params: Record) -> Record:
        provisioned = self._provisioned(params, "ProvisionedProductId", "ProvisionedProductName")
        outputs = provisioned.get("_outputs", [])
        if params.get("OutputKeys"):
            missing = sorted(set(params["OutputKeys"]) - {o["OutputKey"] for o in outputs})
            if missing:
                raise AwsError(
                    "InvalidParametersException",
                    f"Provisioned product {provisioned['Name']} has no outputs {', '.join(missing)}",
                )
            outputs = [o for o in outputs if o["OutputKey"] in params["OutputKeys"]]
        return pages(outputs, params, "Outputs")

    def describe_record(self, params: Record) -> Record:
        record = self._one(self.records, params["Id"], "Record")
        return {"RecordDetail": record, **pages(record["_outputs"], params, "RecordOutputs")}

    def list_record_history(self, params: Record) -> Record:
        found = self._at_level(list(reversed(self.records.values())), params)
        search = params.get("SearchFilter") or {}
        if search.get("Key"):
            key = {"product": "ProductId", "provisionedproduct": "ProvisionedProductId"}.get(search["Key"])
            if not key:
                raise AwsError(
                    "InvalidParametersException",
                    f"SearchFilter.Key is product or provisionedproduct, not {search['Key']}",
                )
            found = [r for r in found if r[key] == search.get("Value")]
        return pages(found, params, "RecordDetails")

    def _provisioned(self, params: Record, identity: str, name: str) -> Record:
        if not params.get(identity) and not params.get(name):
            raise AwsError("InvalidParametersException", f"One of {identity} and {name} is required")
        for provisioned in self.provisioned.values():
            if provisioned["Id"] == params.get(identity) or provisioned["Name"] == params.get(name):
                return provisioned
        raise AwsError(
            "ResourceNotFoundException",
            f"Provisioned product {params.get(identity) or params.get(name)} not found.",
        )

    @staticmethod
    def _settled(provisioned: Record) -> None:
        if provisioned["Status"] == "UNDER_CHANGE":
            raise AwsError(
                "InvalidParametersException",
                f"Provisioned product {provisioned['Name']} is in status UNDER_CHANGE; wait until its "
                "last request has ended",
            )

    @staticmethod
    def _not_deprecated(artifact: Record) -> None:
        """A deprecated version serves what was made from it, and nothing else."""
        if artifact["Guidance"] == "DEPRECATED":
            raise AwsError(
                "InvalidParametersException",
                f"Version {artifact['Name']} ({artifact['Id']}) is deprecated: what was launched from it can "
                "be updated, nothing new can be launched from it",
            )

    def _at_level(self, items: list[Record], params: Record) -> list[Record]:
        """The provisioned products or records that AccessLevelFilter lets the caller see; default is the
        caller's own."""
        level = params.get("AccessLevelFilter") or {"Key": "User", "Value": "self"}
        caller, session = self.caller()
        if level.get("Key") == "Account" or session.endswith(":root"):
            return items
        if level.get("Key") == "Role":
            return [i for i in items if i["UserArn"] == caller]
        return [i for i in items if i["UserArnSession"] == session]

    def _tags_for(self, product: Record, portfolio: Record, own: dict[str, str]) -> dict[str, str]:
        reserved = sorted(k for k in own if k.lower().startswith("aws:"))
        if reserved:
            raise AwsError(
                "InvalidParametersException", f"Tag keys may not begin with aws: {', '.join(reserved)}"
            )
        tags = {**self._inherited(product, portfolio), **own}
        for key, values in self._options(product, portfolio).items():
            if key not in tags and len(values) == 1:
                tags[key] = values[0]
            if tags.get(key) not in values:
                raise AwsError(
                    "InvalidParametersException",
                    f"Tag {key} must be one of the tag options {', '.join(values)}; found {tags.get(key)}",
                )
        if len(tags) > 50:
            raise AwsError("InvalidParametersException", f"{len(tags)} tags; at most 50 are allowed")
        return tags

    def _record(
        self,
        provisioned: Record,
        kind: str,
        product: Record,
        artifact: Record,
        portfolio: Record | None,
        tags: list | None,
    ) -> Record:
        caller, session = self.caller()
        record = {
            "RecordId": self.cloud.new_id("rec-"),
            "ProvisionedProductName": provisioned["Name"],
            "Status": "CREATED",
            "CreatedTime": clock.now(),
            "UpdatedTime": clock.now(),
            "ProvisionedProductType": "CFN_STACK",
            "RecordType": kind,
            "ProvisionedProductId": provisioned["Id"],
            "ProductId": product["Id"],
            "ProvisioningArtifactId": artifact["Id"],
            "PathId": portfolio["_products"].get(product["Id"]) if portfolio else None,
            "RecordErrors": [],
            "RecordTags": tags or [],
            "LaunchRoleArn": provisioned.get("LaunchRoleArn"),
            "UserArn": caller,
            "UserArnSession": session,
            "_outputs": [],
        }
        self.records[record["RecordId"]] = record
        provisioned["LastRecordId"] = record["RecordId"]
        if kind != "TERMINATE_PROVISIONED_PRODUCT":
            provisioned["LastProvisioningRecordId"] = record["RecordId"]
        return record

    # -- the work behind a record ------------------------------------------------------------------
    def _work(self, provisioned: Record, record: Record, step: Callable[..., None], *arguments: Any) -> None:
        self.cloud.pause(1)
        record["Status"] = "IN_PROGRESS"
        try:
            step(provisioned, record, *arguments)
        except _Failed as failure:
            self._fail(provisioned, record, failure)
        except AwsError as error:
            self._fail(
                provisioned,
                record,
                _Failed(
                    error.message,
                    "ERROR" if record["RecordType"] == "PROVISION_PRODUCT" else "TAINTED",
                    error.code,
                ),
            )
        except ClientError as error:
            sent = error.response["Error"]
            message = (
                f"AmazonCloudFormationException {sent['Message']} (Service: AmazonCloudFormation; Status "
                "Code: 400; "
                f"Error Code: {sent['Code']})"
            )
            self._fail(
                provisioned,
                record,
                _Failed(
                    message,
                    "ERROR" if record["RecordType"] == "PROVISION_PRODUCT" else "TAINTED",
                    sent["Code"],
                ),
            )
        except Exception as error:
            self._fail(provisioned, record, _Failed(f"InternalError: {error}", "ERROR", "InternalError"))
            raise

    def _fail(self, provisioned: Record, record: Record, failure: _Failed) -> None:
        with self.lock:
            record.update(
                Status="FAILED",
                UpdatedTime=clock.now(),
                RecordErrors=[{"Code": failure.code, "Description": str(failure)}],
            )
            provisioned.update(Status=failure.status, StatusMessage=str(failure))

    def _succeed(self, provisioned: Record, record: Record, stack: Record) -> None:
        outputs = [
            {
                "OutputKey": "CloudformationStackARN",
                "OutputValue": stack["StackId"],
                "Description": "The ARN of the launched Cloudformation Stack",
            },
            *(
                {k: o[k] for k in ("OutputKey", "OutputValue", "Description") if k in o}
                for o in stack.get("Outputs", [])
            ),
        ]
        with self.lock:
            record.update(Status="SUCCEEDED", UpdatedTime=clock.now(), _outputs=outputs)
            provisioned.update(
                Status="AVAILABLE",
                StatusMessage=None,
                ProductId=record["ProductId"],
                _outputs=outputs,
                ProvisioningArtifactId=record["ProvisioningArtifactId"],
                LastSuccessfulProvisioningRecordId=record["RecordId"],
            )

    def _launch(
        self, provisioned: Record, record: Record, parameters: list[Record], topics: list[str]
    ) -> None:
        with self._template(provisioned, record) as url:
            answer = self._assume(provisioned["LaunchRoleArn"]).create_stack(
                StackName=provisioned["_stack"],
                TemplateURL=url,
                Parameters=parameters,
                Capabilities=CAPABILITIES,
                NotificationARNs=[*topics, *self._topics(record)],
                Tags=self._stack_tags(provisioned, record),
            )
            provisioned["PhysicalId"] = answer["StackId"]
            stack = self._wait(answer["StackId"])
        if stack["StackStatus"] != "CREATE_COMPLETE":
            raise _Failed(self._first_failure(stack["StackId"], set()), "ERROR")
        self._succeed(provisioned, record, stack)

    def _relaunch(self, provisioned: Record, record: Record, parameters: list[Record]) -> None:
        stack_id = provisioned.get("PhysicalId")
        if not stack_id:
            raise _Failed(
                f"Provisioned product {provisioned['Name']} has no stack to update: its launch failed. "
                "Terminate it and launch again.",
                "ERROR",
            )
        before = {e["EventId"] for e in self._events(stack_id)}
        with self._template(provisioned, record) as url:
            try:
                self._assume(provisioned["LaunchRoleArn"]).update_stack(
                    StackName=provisioned["_stack"],
                    TemplateURL=url,
                    Parameters=parameters,
                    Capabilities=CAPABILITIES,
                    Tags=self._stack_tags(provisioned, record),
                )
            except ClientError as error:
                if "No updates are to be performed" not in str(error):
                    raise
            stack = self._wait(stack_id)
        if stack["StackStatus"] not in ("UPDATE_COMPLETE", "CREATE_COMPLETE"):
            raise _Failed(self._first_failure(stack_id, before), "TAINTED")
        self._succeed(provisioned, record, stack)

    def _terminate(self, provisioned: Record, record: Record, ignore: bool, retain: bool) -> None:
        stack_id = provisioned.get("PhysicalId")
        if stack_id and not retain:
            before = {e["EventId"] for e in self._events(stack_id)}
            try:
                self._assume(provisioned["LaunchRoleArn"]).delete_stack(StackName=stack_id)
                stack = self._wait(stack_id)
                if stack["StackStatus"] != "DELETE_COMPLETE":
                    raise _Failed(self._first_failure(stack_id, before), "TAINTED")
            except (_Failed, AwsError, ClientError):
                if not ignore:
                    raise
        with self.lock:
            self.provisioned.pop(provisioned["Id"], None)
            record.update(Status="SUCCEEDED", UpdatedTime=clock.now())

    @contextlib.contextmanager
    def _template(self, provisioned: Record, record: Record) -> Any:
        """The URL of the version's template, with the rules of template constraints in it."""
        product = self.products.get(record["ProductId"])
        artifact = product["_artifacts"].get(record["ProvisioningArtifactId"]) if product else None
        if not artifact:
            raise _Failed(
                f"Version {record['ProvisioningArtifactId']} of product {record['ProductId']} was deleted",
                "ERROR",
            )
        rules = self._rules(product, self.portfolios[provisioned["_portfolio"]])
        if not rules:
            yield artifact["_url"]
            return
        url = artifact["_url"].replace(".template", f"-{record['RecordId']}.template")
        hooks.service_documents[url] = json.dumps(
            {**artifact["_template"], "Rules": {**(artifact["_template"].get("Rules") or {}), **rules}},
            default=str,
        )
        try:
            yield url
        finally:
            del hooks.service_documents[url]

    def _topics(self, record: Record) -> list[str]:
        return [
            arn
            for c in self.constraints.values()
            if c["Type"] == "NOTIFICATION" and c["ProductId"] == record["ProductId"]
            for arn in c["_values"]["NotificationArns"]
        ]

    def _stack_tags(self, provisioned: Record, record: Record) -> list[Record]:
        portfolio, product = self.portfolios[provisioned["_portfolio"]], self.products[record["ProductId"]]
        own = {
            "aws:servicecatalog:portfolioArn": portfolio["ARN"],
            "aws:servicecatalog:productArn": product["ARN"],
            "aws:servicecatalog:provisionedProductArn": provisioned["Arn"],
            "aws:servicecatalog:provisioningArtifactIdentifier": record["ProvisioningArtifactId"],
            "aws:servicecatalog:provisioningPrincipalArn": record["UserArnSession"],
        }
        hooks.service_tags.update(own.items())
        return tag_list({**provisioned["_tags"], **own})

    def _wait(self, stack_id: str) -> Record:
        cfn = self.cloud.client("cloudformation")
        while True:
            stack = cfn.describe_stacks(StackName=stack_id)["Stacks"][0]
            if not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return stack
            if self.cloud.stopping:
                raise _Failed("the local cloud is shutting down", "ERROR")
            threading.Event().wait(0.1)

    def _events(self, stack_id: str) -> list[Record]:
        pager = self.cloud.client("cloudformation").get_paginator("describe_stack_events")
        return [event for answer in pager.paginate(StackName=stack_id) for event in answer["StackEvents"]]

    def _first_failure(self, stack_id: str, before: set[str]) -> str:
        """What went wrong first in a stack, told with the resource's name; in a nested stack, its own
        first failure."""
        for event in reversed(self._events(stack_id)):
            if event["EventId"] in before or not event["ResourceStatus"].endswith("_FAILED"):
                continue
            if event["PhysicalResourceId"] == stack_id:
                return event.get("ResourceStatusReason", "no reason given")
            what = event["ResourceStatus"].removesuffix("_FAILED").lower()
            nested = event["ResourceType"] == "AWS::CloudFormation::Stack" and event.get(
                "PhysicalResourceId", ""
            ).startswith("arn:")
            reason = (
                self._first_failure(event["PhysicalResourceId"], set())
                if nested
                else event.get("ResourceStatusReason", "no reason given")
            )
            return (
                f"The following resource(s) failed to {what}: [{event['LogicalResourceId']}]. "
                f"{event['ResourceType']}: {reason}"
            )
        stack = self.cloud.client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"][0]
        return stack.get("StackStatusReason") or f"Stack {stack_id} is in {stack['StackStatus']} state"


class _Failed(Exception):
    """A request that ended badly: its message is the record's error, ``status`` the provisioned product's."""

    def __init__(self, message: str, status: str, code: str = "AmazonCloudFormationException") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def matches(provisioned: Record, query: str) -> bool:
    """Whether a provisioned product is found by one SearchQuery (``name:demo``, ``tags:key=value``, plain
    text)."""
    key, colon, value = query.partition(":")
    fields = {
        "arn",
        "createdTime",
        "id",
        "lastRecordId",
        "idempotencyToken",
        "name",
        "physicalId",
        "productId",
        "productName",
        "provisioningArtifactId",
        "provisioningArtifactName",
        "provisioningArtifact",
        "type",
        "status",
        "userArn",
        "userArnSession",
    }
    value = value.strip('"')
    if colon and key == "tags":
        return any(fnmatchcase(f"{t['Key']}={t['Value']}", f"*{value}*") for t in provisioned["Tags"])
    if colon and key in fields:
        member = {"provisioningArtifact": "ProvisioningArtifactId"}.get(key, capital(key))
        return fnmatchcase(str(provisioned.get(member) or ""), value)
    return query in " ".join(str(v) for k, v in provisioned.items() if not k.startswith("_"))


def capital(name: str) -> str:
    """``createdTime`` as ``CreatedTime``."""
    return name[:1].upper() + name[1:]
