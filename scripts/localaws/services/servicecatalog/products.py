"""Products and their versions: a version keeps a copy of its template."""

from __future__ import annotations

import json
import re
import urllib.parse

from botocore.exceptions import ClientError

from localaws import clock, hooks
from localaws.errors import AwsError
from localaws.services.servicecatalog.base import Base, Record, once, pages, tag_list, tag_map

_S3_URL = (
    re.compile(
        r"https://s3[.-]?(?:[a-z0-9-]*)\.amazonaws\.com(?:\.cn)?/(?P<bucket>[a-z0-9.-]+)/(?P<key>[^?]+)"
    ),
    re.compile(
        r"https://(?P<bucket>[a-z0-9.-]+?)\.s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?/(?P<key>[^?]+)"
    ),
)


class ProductsMixin(Base):
    """Products and provisioning artifacts."""

    @once("IdempotencyToken")
    def create_product(self, params: Record) -> Record:
        if params["ProductType"] != "CLOUD_FORMATION_TEMPLATE":
            raise AwsError(
                "NotImplemented",
                f"product type {params['ProductType']} is not implemented in the local cloud",
                501,
            )
        if params.get("SourceConnection"):
            raise AwsError(
                "NotImplemented",
                "products synchronised from git (SourceConnection) are not implemented in the local cloud",
                501,
            )
        identity = self.cloud.new_id("prod-")
        product = {
            "Id": identity,
            "ARN": self.cloud.arn("catalog", f"product/{identity}"),
            "ViewId": self.cloud.new_id("prodview-"),
            "Type": "CLOUD_FORMATION_TEMPLATE",
            "CreatedTime": clock.now(),
            "Name": params["Name"],
            "Owner": params["Owner"],
            "ShortDescription": params.get("Description"),
            "Distributor": params.get("Distributor"),
            **{k: params.get(k) for k in ("SupportEmail", "SupportDescription", "SupportUrl")},
            "_tags": tag_map(params.get("Tags")),
            "_artifacts": {},
            "_tag_options": [],
        }
        artifact = self._artifact_from(product, params.get("ProvisioningArtifactParameters") or {})
        product["_artifacts"][artifact["Id"]] = artifact
        self.products[identity] = product
        return {
            "ProductViewDetail": self._detail(product),
            "ProvisioningArtifactDetail": artifact,
            "Tags": tag_list(product["_tags"]),
        }

    def describe_product(self, params: Record) -> Record:
        product, _ = self._seen(params)
        paths = [
            {"Id": p["_products"][product["Id"]], "Name": p["DisplayName"]} for p in self._paths(product)
        ]
        artifacts = [a for a in product["_artifacts"].values() if a["Active"]]
        return {
            "ProductViewSummary": self._summary(product),
            "ProvisioningArtifacts": artifacts,
            "LaunchPaths": paths,
            "Budgets": [],
        }

    def describe_product_as_admin(self, params: Record) -> Record:
        product = self._named(params)
        return {
            "ProductViewDetail": self._detail(product),
            "ProvisioningArtifactSummaries": list(product["_artifacts"].values()),
            "Tags": tag_list(product["_tags"]),
            "TagOptions": [self.tag_options[t] for t in product["_tag_options"]],
            "Budgets": [],
        }

    def describe_product_view(self, params: Record) -> Record:
        for product in self.products.values():
            if product["ViewId"] == params["Id"]:
                answer = self.describe_product({"Id": product["Id"]})
                return {k: answer[k] for k in ("ProductViewSummary", "ProvisioningArtifacts")}
        raise AwsError("ResourceNotFoundException", f"ProductView {params['Id']} not found.")

    def update_product(self, params: Record) -> Record:
        product = self._product(params["Id"])
        if "Description" in params:
            product["ShortDescription"] = params["Description"]
        self._change(
            product,
            params,
            ("Name", "Owner", "Distributor", "SupportDescription", "SupportEmail", "SupportUrl"),
        )
        return {"ProductViewDetail": self._detail(product), "Tags": tag_list(product["_tags"])}

    def delete_product(self, params: Record) -> Record:
        with self.lock:
            product = self._product(params["Id"])
            held = [p["Id"] for p in self.portfolios.values() if product["Id"] in p["_products"]]
            if held:
                raise AwsError(
                    "ResourceInUseException",
                    f"Product {product['Id']} cannot be deleted: it is in portfolio {', '.join(held)}",
                )
            for artifact in product["_artifacts"].values():
                hooks.service_documents.pop(artifact["_url"], None)
            del self.products[product["Id"]]
        return {}

    def search_products(self, params: Record) -> Record:
        role, _ = self.caller()
        seen = [p for p in self.products.values() if any(self._may_use(f, role) for f in self._holders(p))]
        found = [self._summary(p) for p in self._search(seen, params)]
        return {**pages(found, params, "ProductViewSummaries"), "ProductViewAggregations": {}}

    def search_products_as_admin(self, params: Record) -> Record:
        held = list(self.products.values())
        if params.get("PortfolioId"):
            held = [self.products[i] for i in self._portfolio(params["PortfolioId"])["_products"]]
        return pages([self._detail(p) for p in self._search(held, params)], params, "ProductViewDetails")

    def _search(self, products: list[Record], params: Record) -> list[Record]:
        filters = params.get("Filters") or {}
        for text in filters.get("FullTextSearch", []):
            products = [
                p
                for p in products
                if text.lower() in f"{p['Id']} {p['Name']} {p['Owner']} {p['ShortDescription']}".lower()
            ]
        for key, member in (("Owner", "Owner"), ("ProductType", "Type")):
            if filters.get(key):
                products = [p for p in products if p[member] in filters[key]]
        key = {"Title": "Name", "VersionCount": "_artifacts"}.get(params.get("SortBy", ""), "CreatedTime")
        by = (lambda p: len(p[key])) if key == "_artifacts" else (lambda p: p[key])
        return sorted(products, key=by, reverse=params.get("SortOrder") == "DESCENDING")

    def _summary(self, product: Record) -> Record:
        return {
            **product,
            "Id": product["ViewId"],
            "ProductId": product["Id"],
            "HasDefaultPath": len(self._holders(product)) == 1,
        }

    def _detail(self, product: Record) -> Record:
        return {
            "ProductViewSummary": self._summary(product),
            "Status": "AVAILABLE",
            "ProductARN": product["ARN"],
            "CreatedTime": product["CreatedTime"],
        }

    # -- versions of a product ---------------------------------------------------------------------
    @once("IdempotencyToken")
    def create_provisioning_artifact(self, params: Record) -> Record:
        product = self._product(params["ProductId"])
        artifact = self._artifact_from(product, params["Parameters"])
        product["_artifacts"][artifact["Id"]] = artifact
        return {
            "ProvisioningArtifactDetail": artifact,
            "Info": {"TemplateUrl": artifact["_url"]},
            "Status": "AVAILABLE",
        }

    def describe_provisioning_artifact(self, params: Record) -> Record:
        product = self._named(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params)
        answer: Record = {
            "ProvisioningArtifactDetail": artifact,
            "Info": {"TemplateUrl": artifact["_url"]},
            "Status": "AVAILABLE",
        }
        if params.get("IncludeProvisioningArtifactParameters"):
            answer["ProvisioningArtifactParameters"] = parameters_of(artifact["_template"])
        return answer

    def update_provisioning_artifact(self, params: Record) -> Record:
        artifact = self._artifact(self._product(params["ProductId"]), params)
        for key in ("Name", "Description", "Active", "Guidance"):
            if key in params:
                artifact[key] = params[key]
        return {
            "ProvisioningArtifactDetail": artifact,
            "Info": {"TemplateUrl": artifact["_url"]},
            "Status": "AVAILABLE",
        }

    def delete_provisioning_artifact(self, params: Record) -> Record:
        with self.lock:
            product = self._product(params["ProductId"])
            artifact = self._artifact(product, params)
            if len(product["_artifacts"]) == 1:
                raise AwsError(
                    "ResourceInUseException",
                    f"{artifact['Id']} is the last provisioning artifact of {product['Id']}; a product "
                    "has at least one",
                )
            del product["_artifacts"][artifact["Id"]]
            hooks.service_documents.pop(artifact["_url"], None)
        return {}

    def list_provisioning_artifacts(self, params: Record) -> Record:
        return {
            "ProvisioningArtifactDetails": list(self._product(params["ProductId"])["_artifacts"].values())
        }

    def _artifact(self, product: Record, params: Record, active: bool = False) -> Record:
        identity, name = params.get("ProvisioningArtifactId"), params.get("ProvisioningArtifactName")
        for artifact in product["_artifacts"].values():
            if (artifact["Id"] == identity if identity else artifact["Name"] == name) and (
                artifact["Active"] or not active
            ):
                return artifact
        raise AwsError(
            "ResourceNotFoundException",
            f"ProvisioningArtifact {identity or name} of product {product['Id']} not found.",
        )

    def _artifact_from(self, product: Record, sent: Record) -> Record:
        """A new version: its template is read now and kept; what happens to the source later does not
        matter."""
        info = sent.get("Info") or {}
        if info.get("LoadTemplateFromURL"):
            text = self._load(info["LoadTemplateFromURL"])
        elif info.get("ImportFromPhysicalId"):
            text = self._import(info["ImportFromPhysicalId"])
        else:
            raise AwsError(
                "InvalidParametersException",
                "ProvisioningArtifactParameters.Info needs LoadTemplateFromURL or ImportFromPhysicalId",
            )
        identity = self.cloud.new_id("pa-")
        url = f"https://s3.amazonaws.com/cf-templates-{product['Id'][5:]}-{self.cloud.region}/{identity}.template"
        hooks.service_documents[url] = text
        try:
            template = read_template(text)
            if not sent.get("DisableTemplateValidation"):
                self.cloud.client("cloudformation").validate_template(TemplateURL=url)
        except (ClientError, ValueError) as error:
            del hooks.service_documents[url]
            reason = error.response["Error"]["Message"] if isinstance(error, ClientError) else str(error)
            raise AwsError("InvalidParametersException", f"Template validation failed: {reason}") from None
        return {
            "Id": identity,
            "Name": sent.get("Name") or identity,
            "Description": sent.get("Description"),
            "Type": sent.get("Type", "CLOUD_FORMATION_TEMPLATE"),
            "CreatedTime": clock.now(),
            "Active": True,
            "Guidance": "DEFAULT",
            "_url": url,
            "_template": template,
            "_source": info,
        }

    def _load(self, url: str) -> str:
        match = next((m for p in _S3_URL if (m := p.match(url))), None)
        if not match:
            raise AwsError(
                "InvalidParametersException",
                f"Invalid TemplateURL: {url}; it must be the https URL of an S3 object",
            )
        version = urllib.parse.parse_qs(url.partition("?")[2]).get("versionId", [])
        extra = {"VersionId": version[0]} if version else {}
        try:
            answer = self.cloud.client("s3").get_object(
                Bucket=match["bucket"], Key=urllib.parse.unquote(match["key"]), **extra
            )
        except ClientError as error:
            raise AwsError(
                "InvalidParametersException",
                f"The template at {url} cannot be read: {error.response['Error']['Message']}",
            ) from None
        return answer["Body"].read().decode()

    def _import(self, stack: str) -> str:
        try:
            body = self.cloud.client("cloudformation").get_template(
                StackName=stack, TemplateStage="Original"
            )["TemplateBody"]
        except ClientError as error:
            raise AwsError(
                "InvalidParametersException",
                f"ImportFromPhysicalId {stack}: {error.response['Error']['Message']}",
            ) from None
        return body if isinstance(body, str) else json.dumps(body)


def read_template(text: str) -> Record:
    """A template (YAML or JSON) as plain values, short tags written out. Raises ValueError when it is not
    one."""
    from cfnlint.decode import cfn_yaml

    try:
        template = json.loads(json.dumps(cfn_yaml.loads(text), default=str))
    except Exception as error:
        raise ValueError(f"Template format error: {error}") from None
    if (
        not isinstance(template, dict)
        or not isinstance(template.get("Resources"), dict)
        or not template["Resources"]
    ):
        raise ValueError("Template format error: At least one Resources member must be defined.")
    return template


def parameters_of(template: Record) -> list[Record]:
    """The template's parameters as Service Catalog shows them."""
    out = []
    for name, spec in (template.get("Parameters") or {}).items():
        limits = {
            k: spec[k]
            for k in (
                "AllowedValues",
                "AllowedPattern",
                "ConstraintDescription",
                "MaxLength",
                "MinLength",
                "MaxValue",
                "MinValue",
            )
            if k in spec
        }
        limits = {k: [str(i) for i in v] if isinstance(v, list) else str(v) for k, v in limits.items()}
        shown = {
            "ParameterKey": name,
            "ParameterType": spec.get("Type"),
            "IsNoEcho": str(spec.get("NoEcho", "")).lower() == "true",
            "Description": spec.get("Description"),
            "ParameterConstraints": limits,
        }
        if "Default" in spec:
            shown["DefaultValue"] = str(spec["Default"])
        out.append(shown)
    return out
