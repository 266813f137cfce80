"""CloudFormation's types of Service Catalog."""

from __future__ import annotations

import json
import threading
from typing import Any

from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.resource import ApiResource, Attributes, Context, ResourceType, typed

Props = dict[str, Any]
_GONE = ("ResourceNotFoundException",)


def _quietly(call: Any, **arguments: Any) -> None:
    """Call a delete; what is gone already is success."""
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _GONE:
            raise


def _tag_changes(old: Props, new: Props) -> Props:
    """AddTags and RemoveTags between two states of a resource's properties."""
    before, after = ({t["Key"]: t["Value"] for t in props.get("Tags") or []} for props in (old, new))
    added = [{"Key": k, "Value": v} for k, v in after.items() if before.get(k) != v]
    return {"AddTags": added, "RemoveTags": sorted(before.keys() - after.keys())}


class Portfolio(ApiResource):
    """AWS::ServiceCatalog::Portfolio."""

    type_name = "AWS::ServiceCatalog::Portfolio"
    service = "servicecatalog"
    create_call = "create_portfolio"
    physical_id = "PortfolioDetail.Id"
    attributes = {"Id": "PortfolioDetail.Id", "PortfolioName": "PortfolioDetail.DisplayName"}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        sent = {k: v for k, v in new.items() if k != "Tags"}
        context.client("servicecatalog").update_portfolio(
            Id=physical_id, **typed("servicecatalog", "update_portfolio", sent), **_tag_changes(old, new)
        )
        return {"PortfolioName": new["DisplayName"]}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("servicecatalog").delete_portfolio, Id=physical_id)


class CloudFormationProduct(ResourceType):
    """AWS::ServiceCatalog::CloudFormationProduct: a product and its versions."""

    type_name = "AWS::ServiceCatalog::CloudFormationProduct"
    _own = ("Name", "Owner", "Description", "Distributor", "SupportDescription", "SupportEmail", "SupportUrl")

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        client = context.client("servicecatalog")
        versions = self._versions(props)
        sent = {k: props[k] for k in self._own if k in props}
        if not versions:
            raise ValueError(
                "ProvisioningArtifactParameters must have at least one item (products from a "
                "SourceConnection are not "
                "implemented in the local cloud)"
            )
        made = client.create_product(
            **sent,
            ProductType=props.get("ProductType", "CLOUD_FORMATION_TEMPLATE"),
            Tags=props.get("Tags") or [],
            ProvisioningArtifactParameters=versions[0],
        )
        product = made["ProductViewDetail"]["ProductViewSummary"]["ProductId"]
        try:
            for version in versions[1:]:
                client.create_provisioning_artifact(ProductId=product, Parameters=version)
        except ClientError:
            client.delete_product(Id=product)
            raise
        return product, self._attributes(client, product)

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        """Versions are matched by template URL and name, as AWS matches them: matched ones keep their ids
        (all get new
        ones with ReplaceProvisioningArtifacts), new ones are added, those no longer listed are deleted."""
        client = context.client("servicecatalog")
        client.update_product(
            Id=physical_id,
            **{k: new.get(k, "") for k in self._own if new.get(k) != old.get(k)},
            **_tag_changes(old, new),
        )
        if self._versions(old) != self._versions(new):
            have = client.list_provisioning_artifacts(ProductId=physical_id)["ProvisioningArtifactDetails"]
            listed = {self._key(v): a["Id"] for v, a in zip(self._versions(old), have, strict=False)}
            replace = str(new.get("ReplaceProvisioningArtifacts", "")).lower() == "true"
            for version in self._versions(new):
                kept = None if replace else listed.pop(self._key(version), None)
                if kept:
                    client.update_provisioning_artifact(
                        ProductId=physical_id,
                        ProvisioningArtifactId=kept,
                        Description=version.get("Description", ""),
                    )
                else:
                    client.create_provisioning_artifact(ProductId=physical_id, Parameters=version)
            for identity in listed.values():
                client.delete_provisioning_artifact(ProductId=physical_id, ProvisioningArtifactId=identity)
        return self._attributes(client, physical_id)

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("servicecatalog").delete_product, Id=physical_id)

    @staticmethod
    def _versions(props: Props) -> list[Props]:
        out = []
        for version in props.get("ProvisioningArtifactParameters") or []:
            info = version["Info"]
            shown = {
                **version,
                "Info": json.loads(info) if isinstance(info, str) else info,
                "Type": version.get("Type", "CLOUD_FORMATION_TEMPLATE"),
            }
            out.append(
                typed("servicecatalog", "create_provisioning_artifact", {"Parameters": shown})["Parameters"]
            )
        return out

    @staticmethod
    def _key(version: Props) -> tuple[str, str]:
        return json.dumps(version["Info"], sort_keys=True), version.get("Name", "")

    @staticmethod
    def _attributes(client: Any, product: str) -> Attributes:
        artifacts = client.list_provisioning_artifacts(ProductId=product)["ProvisioningArtifactDetails"]
        shown = client.describe_product_as_admin(Id=product)["ProductViewDetail"]["ProductViewSummary"]
        return {
            "Id": product,
            "ProductName": shown["Name"],
            "ProvisioningArtifactIds": ",".join(a["Id"] for a in artifacts),
            "ProvisioningArtifactNames": ",".join(a["Name"] for a in artifacts),
        }


class PortfolioProductAssociation(ResourceType):
    """AWS::ServiceCatalog::PortfolioProductAssociation."""

    type_name = "AWS::ServiceCatalog::PortfolioProductAssociation"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        context.client("servicecatalog").associate_product_with_portfolio(
            PortfolioId=props["PortfolioId"], ProductId=props["ProductId"]
        )
        return f"{props['PortfolioId']}|{props['ProductId']}", {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        portfolio, _, product = physical_id.partition("|")
        _quietly(
            context.client("servicecatalog").disassociate_product_from_portfolio,
            PortfolioId=portfolio,
            ProductId=product,
        )


class PortfolioPrincipalAssociation(ResourceType):
    """AWS::ServiceCatalog::PortfolioPrincipalAssociation."""

    type_name = "AWS::ServiceCatalog::PortfolioPrincipalAssociation"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        sent = {k: props[k] for k in ("PortfolioId", "PrincipalARN", "PrincipalType")}
        context.client("servicecatalog").associate_principal_with_portfolio(**sent)
        return f"{props['PortfolioId']}|{props['PrincipalARN']}|{props['PrincipalType']}", {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        portfolio, arn, kind = physical_id.split("|")
        _quietly(
            context.client("servicecatalog").disassociate_principal_from_portfolio,
            PortfolioId=portfolio,
            PrincipalARN=arn,
            PrincipalType=kind,
        )


class _Constraint(ResourceType):
    """A constraint of one kind on a product in a portfolio."""

    tags = None
    kind = ""

    def values(self, props: Props) -> Props:
        """The constraint's parameters."""
        raise NotImplementedError

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        extra = {"Description": props["Description"]} if props.get("Description") else {}
        made = context.client("servicecatalog").create_constraint(
            PortfolioId=props["PortfolioId"],
            ProductId=props["ProductId"],
            Type=self.kind,
            Parameters=json.dumps(self.values(props)),
            **extra,
        )
        identity = made["ConstraintDetail"]["ConstraintId"]
        return identity, {"Id": identity}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        context.client("servicecatalog").update_constraint(
            Id=physical_id, Description=new.get("Description", ""), Parameters=json.dumps(self.values(new))
        )
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("servicecatalog").delete_constraint, Id=physical_id)


class LaunchRoleConstraint(_Constraint):
    """AWS::ServiceCatalog::LaunchRoleConstraint."""

    type_name = "AWS::ServiceCatalog::LaunchRoleConstraint"
    kind = "LAUNCH"

    def values(self, props: Props) -> Props:
        return {k: props[k] for k in ("RoleArn", "LocalRoleName") if props.get(k)}


class LaunchTemplateConstraint(_Constraint):
    """AWS::ServiceCatalog::LaunchTemplateConstraint."""

    type_name = "AWS::ServiceCatalog::LaunchTemplateConstraint"
    kind = "TEMPLATE"

    def values(self, props: Props) -> Props:
        rules = json.loads(props["Rules"]) if isinstance(props["Rules"], str) else props["Rules"]
        return {"Rules": rules.get("Rules", rules)}


class LaunchNotificationConstraint(_Constraint):
    """AWS::ServiceCatalog::LaunchNotificationConstraint."""

    type_name = "AWS::ServiceCatalog::LaunchNotificationConstraint"
    kind = "NOTIFICATION"

    def values(self, props: Props) -> Props:
        return {"NotificationArns": props["NotificationArns"]}


class ResourceUpdateConstraint(_Constraint):
    """AWS::ServiceCatalog::ResourceUpdateConstraint."""

    type_name = "AWS::ServiceCatalog::ResourceUpdateConstraint"
    kind = "RESOURCE_UPDATE"

    def values(self, props: Props) -> Props:
        return {
            "Version": "2.0",
            "Properties": {"TagUpdateOnProvisionedProduct": props["TagUpdateOnProvisionedProduct"]},
        }


class TagOption(ResourceType):
    """AWS::ServiceCatalog::TagOption."""

    type_name = "AWS::ServiceCatalog::TagOption"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        identity = context.client("servicecatalog").create_tag_option(Key=props["Key"], Value=props["Value"])[
            "TagOptionDetail"
        ]["Id"]
        if str(props.get("Active", "true")).lower() == "false":
            context.client("servicecatalog").update_tag_option(Id=identity, Active=False)
        return identity, {"Id": identity}

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        context.client("servicecatalog").update_tag_option(
            Id=physical_id, Active=str(new.get("Active", "true")).lower() == "true"
        )
        return {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        _quietly(context.client("servicecatalog").delete_tag_option, Id=physical_id)


class TagOptionAssociation(ResourceType):
    """AWS::ServiceCatalog::TagOptionAssociation."""

    type_name = "AWS::ServiceCatalog::TagOptionAssociation"
    tags = None

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        context.client("servicecatalog").associate_tag_option_with_resource(
            ResourceId=props["ResourceId"], TagOptionId=props["TagOptionId"]
        )
        return f"{props['TagOptionId']}|{props['ResourceId']}", {}

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        option, _, resource = physical_id.partition("|")
        _quietly(
            context.client("servicecatalog").disassociate_tag_option_from_resource,
            ResourceId=resource,
            TagOptionId=option,
        )


class CloudFormationProvisionedProduct(ResourceType):
    """AWS::ServiceCatalog::CloudFormationProvisionedProduct: a product launched by a stack."""

    type_name = "AWS::ServiceCatalog::CloudFormationProvisionedProduct"
    _sent = (
        "ProductId",
        "ProductName",
        "ProvisioningArtifactId",
        "ProvisioningArtifactName",
        "PathId",
        "PathName",
        "ProvisioningParameters",
    )

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        if context.stack_name.startswith("SC-"):
            # "Launch roles" in the administrator guide: these calls may not be made through a launch role
            raise PermissionError(
                "servicecatalog:ProvisionProduct cannot be called with the credentials of a launch role; "
                "a product cannot launch a product"
            )
        client = context.client("servicecatalog")
        request = {
            **self._request(props),
            "ProvisionedProductName": props.get("ProvisionedProductName") or context.name(128),
        }
        if props.get("NotificationArns"):
            request["NotificationArns"] = props["NotificationArns"]
        record = client.provision_product(**request, Tags=self._tags(props))["RecordDetail"]
        try:
            return record["ProvisionedProductId"], self._await(context.cloud, client, record)
        except RuntimeError:
            # CloudFormation does not know of a resource that failed to be created: leave nothing behind
            ended = client.terminate_provisioned_product(ProvisionedProductId=record["ProvisionedProductId"])[
                "RecordDetail"
            ]
            self._await(context.cloud, client, ended)
            raise

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        client = context.client("servicecatalog")
        extra = {"Tags": self._tags(new)} if self._tags(new) != self._tags(old) else {}
        record = client.update_provisioned_product(
            ProvisionedProductId=physical_id, **self._request(new), **extra
        )["RecordDetail"]
        return self._await(context.cloud, client, record)

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        client = context.client("servicecatalog")
        try:
            record = client.terminate_provisioned_product(ProvisionedProductId=physical_id)["RecordDetail"]
        except client.exceptions.ResourceNotFoundException:
            return
        self._await(context.cloud, client, record)

    def _request(self, props: Props) -> Props:
        return typed("servicecatalog", "provision_product", {k: props[k] for k in self._sent if props.get(k)})

    @staticmethod
    def _tags(props: Props) -> list[Props]:
        return [t for t in props.get("Tags") or [] if not t["Key"].startswith("aws:")]

    @staticmethod
    def _await(cloud: Cloud, client: Any, record: Props) -> Attributes:
        while record["Status"] not in ("SUCCEEDED", "FAILED"):
            threading.Event().wait(0.2)
            if cloud.stopping:
                raise RuntimeError("the local cloud is shutting down")
            answer = client.describe_record(Id=record["RecordId"])
            record = answer["RecordDetail"]
        if record["Status"] == "FAILED":
            raise RuntimeError("; ".join(e["Description"] for e in record["RecordErrors"]))
        outputs = {
            o["OutputKey"]: o["OutputValue"]
            for o in client.describe_record(Id=record["RecordId"])["RecordOutputs"]
        }
        return {
            "RecordId": record["RecordId"],
            "ProvisionedProductId": record["ProvisionedProductId"],
            "CloudformationStackArn": outputs.get("CloudformationStackARN", ""),
            **{f"Outputs.{k}": v for k, v in outputs.items()},
        }


TYPES = [
    Portfolio,
    CloudFormationProduct,
    PortfolioProductAssociation,
    PortfolioPrincipalAssociation,
    LaunchRoleConstraint,
    LaunchTemplateConstraint,
    LaunchNotificationConstraint,
    ResourceUpdateConstraint,
    TagOption,
    TagOptionAssociation,
    CloudFormationProvisionedProduct,
]
