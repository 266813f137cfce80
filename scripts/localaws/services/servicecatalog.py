"""Service Catalog: portfolios, products and their versions, who may launch them, and what was launched.

A product is provisioned as AWS does it: the template is the copy taken when the version was made, the stack is named
``SC-<account>-pp-…`` and made with the credentials of the launch constraint's role, and the record of the request
ends with the stack's first failure. A caller under a role must be a principal of the portfolio; the account's root
(what a request without a role is here) may use everything, as an administrator would.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock, hooks
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.service import Service, page

Record = dict[str, Any]
PRINCIPAL = "servicecatalog.amazonaws.com"
CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_S3_URL = (
    re.compile(r"https://s3[.-]?(?:[a-z0-9-]*)\.amazonaws\.com(?:\.cn)?/(?P<bucket>[a-z0-9.-]+)/(?P<key>[^?]+)"),
    re.compile(r"https://(?P<bucket>[a-z0-9.-]+?)\.s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com(?:\.cn)?/(?P<key>[^?]+)"),
)


def once(token_key: str) -> Callable:
    """Answer a repeated request (same operation, same token) with the first one's answer."""

    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(self: ServiceCatalog, params: Record) -> Record:
            token = (function.__name__, params.get(token_key))
            with self.lock:
                if token[1] and token in self.answers:
                    return self.answers[token]
                answer = function(self, params)
                if token[1]:
                    self.answers[token] = answer
                return answer

        return run

    return wrap


class ServiceCatalog(Service):
    """AWS Service Catalog: ``cloud.services["servicecatalog"]``."""

    name = "servicecatalog"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.lock = threading.RLock()
        self.answers: dict[tuple[str, str], Record] = {}
        self.portfolios: dict[str, Record] = {}
        self.products: dict[str, Record] = {}
        self.constraints: dict[str, Record] = {}
        self.tag_options: dict[str, Record] = {}
        self.provisioned: dict[str, Record] = {}
        self.records: dict[str, Record] = {}

    # -- portfolios -----------------------------------------------------------------------------------------
    @once("IdempotencyToken")
    def create_portfolio(self, params: Record) -> Record:
        identity = self.cloud.new_id("port-")
        portfolio = {
            "Id": identity, "ARN": self.cloud.arn("catalog", f"portfolio/{identity}"), "DisplayName": params["DisplayName"],
            "Description": params.get("Description"), "ProviderName": params["ProviderName"], "CreatedTime": clock.now(),
            "_tags": tag_map(params.get("Tags")), "_products": {}, "_principals": [], "_tag_options": [], "_shared": False,
        }  # fmt: skip
        self.portfolios[identity] = portfolio
        return {"PortfolioDetail": portfolio, "Tags": tag_list(portfolio["_tags"])}

    def describe_portfolio(self, params: Record) -> Record:
        portfolio = self._portfolio(params["Id"])
        return {"PortfolioDetail": portfolio, "Tags": tag_list(portfolio["_tags"]), "Budgets": [],
                "TagOptions": [self.tag_options[t] for t in portfolio["_tag_options"]]}  # fmt: skip

    def update_portfolio(self, params: Record) -> Record:
        portfolio = self._portfolio(params["Id"])
        self._change(portfolio, params, ("DisplayName", "Description", "ProviderName"))
        return {"PortfolioDetail": portfolio, "Tags": tag_list(portfolio["_tags"])}

    def delete_portfolio(self, params: Record) -> Record:
        with self.lock:
            portfolio = self._portfolio(params["Id"])
            for what, held in (("products", list(portfolio["_products"])), ("principals", [p for p, _ in portfolio["_principals"]]),
                               ("constraints", [c["ConstraintId"] for c in self._constraints(portfolio["Id"])]),
                               ("tag options", portfolio["_tag_options"])):  # fmt: skip
                if held:
                    raise AwsError("ResourceInUseException", f"Portfolio {portfolio['Id']} cannot be deleted: it still has {what}: {', '.join(held)}")
            del self.portfolios[portfolio["Id"]]
        return {}

    def list_portfolios(self, params: Record) -> Record:
        return pages([p for p in self.portfolios.values() if not p["_shared"]], params, "PortfolioDetails")

    def list_portfolios_for_product(self, params: Record) -> Record:
        product = self._product(params["ProductId"])
        return pages([p for p in self.portfolios.values() if product["Id"] in p["_products"]], params, "PortfolioDetails")

    def list_accepted_portfolio_shares(self, params: Record) -> Record:
        return pages([p for p in self.portfolios.values() if p["_shared"]], params, "PortfolioDetails")

    def describe_portfolio_shares(self, params: Record) -> Record:
        self._portfolio(params["PortfolioId"])
        return {"PortfolioShareDetails": []}

    def list_portfolio_access(self, params: Record) -> Record:
        self._portfolio(params["PortfolioId"])
        return {"AccountIds": []}

    def import_portfolio(self, name: str, provider: str) -> Record:
        """A portfolio that another account shares and this one accepts (SageMaker's own, when it is enabled)."""
        with self.lock:
            for portfolio in self.portfolios.values():
                if portfolio["_shared"] and portfolio["DisplayName"] == name:
                    return portfolio
            made = self.create_portfolio({"DisplayName": name, "ProviderName": provider})["PortfolioDetail"]
            made["_shared"] = True
            return made

    def _portfolio(self, identity: str) -> Record:
        return self._one(self.portfolios, identity, "Portfolio")

    # -- principals -------------------------------------------------------------------------------------------
    def associate_principal_with_portfolio(self, params: Record) -> Record:
        portfolio, arn, kind = self._portfolio(params["PortfolioId"]), params["PrincipalARN"], params["PrincipalType"]
        match = re.fullmatch(r"arn:[\w-]+:iam::(\d*):(role|user|group)/(.+)", arn)
        if not match:
            raise AwsError("InvalidParametersException", f"Invalid principal ARN: {arn}")
        if kind == "IAM_PATTERN" and match[1]:
            raise AwsError("InvalidParametersException", f"An IAM_PATTERN principal ARN has no account id: {arn}")
        if kind == "IAM":
            if match[1] != self.cloud.account or "*" in arn or "?" in arn:
                raise AwsError("InvalidParametersException", f"Invalid principal ARN: {arn}. Type IAM takes the full ARN of a principal "
                               f"of account {self.cloud.account}; wildcards need type IAM_PATTERN")  # fmt: skip
            if match[2] == "role" and not self._role(arn):
                raise AwsError("InvalidParametersException", f"The principal {arn} does not exist")
        with self.lock:
            if (arn, kind) not in portfolio["_principals"]:
                portfolio["_principals"].append((arn, kind))
        return {}

    def disassociate_principal_from_portfolio(self, params: Record) -> Record:
        portfolio = self._portfolio(params["PortfolioId"])
        entry = (params["PrincipalARN"], params.get("PrincipalType", "IAM"))
        with self.lock:
            if entry not in portfolio["_principals"]:
                raise AwsError("ResourceNotFoundException", f"Principal {entry[0]} is not associated with portfolio {portfolio['Id']}")
            portfolio["_principals"].remove(entry)
        return {}

    def list_principals_for_portfolio(self, params: Record) -> Record:
        found = [{"PrincipalARN": a, "PrincipalType": k} for a, k in self._portfolio(params["PortfolioId"])["_principals"]]
        return pages(found, params, "Principals")

    def _role(self, arn: str) -> Record | None:
        iam = self.cloud.client("iam")
        try:
            role = iam.get_role(RoleName=arn.rpartition("/")[2])["Role"]
        except iam.exceptions.NoSuchEntityException:
            return None
        return role if role["Arn"] == arn else None

    def caller(self) -> tuple[str, str]:
        """The ARN of the role (or root) that makes the current request, and of its session."""
        session = hooks.caller_arn(self.cloud)
        match = re.fullmatch(r"arn:[\w-]+:sts::\d+:assumed-role/([^/]+)/.+", session)
        if not match:
            return session, session
        iam = self.cloud.client("iam")
        try:
            return iam.get_role(RoleName=match[1])["Role"]["Arn"], session
        except iam.exceptions.NoSuchEntityException:
            return session, session

    def _may_use(self, portfolio: Record, role: str) -> bool:
        if role.endswith(":root"):
            return True
        bare = re.sub(r"(:iam::)\d+:", r"\1:", role)
        return any(arn == role if kind == "IAM" else fnmatchcase(bare, arn) for arn, kind in portfolio["_principals"])

    # -- products ---------------------------------------------------------------------------------------------
    @once("IdempotencyToken")
    def create_product(self, params: Record) -> Record:
        if params["ProductType"] != "CLOUD_FORMATION_TEMPLATE":
            raise AwsError("NotImplemented", f"product type {params['ProductType']} is not implemented in the local cloud", 501)
        if params.get("SourceConnection"):
            raise AwsError("NotImplemented", "products synchronised from git (SourceConnection) are not implemented in the local cloud", 501)
        identity = self.cloud.new_id("prod-")
        product = {
            "Id": identity, "ARN": self.cloud.arn("catalog", f"product/{identity}"), "ViewId": self.cloud.new_id("prodview-"),
            "Type": "CLOUD_FORMATION_TEMPLATE", "CreatedTime": clock.now(), "Name": params["Name"], "Owner": params["Owner"],
            "ShortDescription": params.get("Description"), "Distributor": params.get("Distributor"),
            **{k: params.get(k) for k in ("SupportEmail", "SupportDescription", "SupportUrl")},
            "_tags": tag_map(params.get("Tags")), "_artifacts": {}, "_tag_options": [],
        }  # fmt: skip
        artifact = self._artifact_from(product, params.get("ProvisioningArtifactParameters") or {})
        product["_artifacts"][artifact["Id"]] = artifact
        self.products[identity] = product
        return {"ProductViewDetail": self._detail(product), "ProvisioningArtifactDetail": artifact, "Tags": tag_list(product["_tags"])}

    def describe_product(self, params: Record) -> Record:
        product, _ = self._seen(params)
        paths = [{"Id": p["_products"][product["Id"]], "Name": p["DisplayName"]} for p in self._paths(product)]
        artifacts = [a for a in product["_artifacts"].values() if a["Active"]]
        return {"ProductViewSummary": self._summary(product), "ProvisioningArtifacts": artifacts, "LaunchPaths": paths, "Budgets": []}

    def describe_product_as_admin(self, params: Record) -> Record:
        product = self._named(params)
        return {"ProductViewDetail": self._detail(product), "ProvisioningArtifactSummaries": list(product["_artifacts"].values()),
                "Tags": tag_list(product["_tags"]), "TagOptions": [self.tag_options[t] for t in product["_tag_options"]], "Budgets": []}  # fmt: skip

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
        self._change(product, params, ("Name", "Owner", "Distributor", "SupportDescription", "SupportEmail", "SupportUrl"))
        return {"ProductViewDetail": self._detail(product), "Tags": tag_list(product["_tags"])}

    def delete_product(self, params: Record) -> Record:
        with self.lock:
            product = self._product(params["Id"])
            held = [p["Id"] for p in self.portfolios.values() if product["Id"] in p["_products"]]
            if held:
                raise AwsError("ResourceInUseException", f"Product {product['Id']} cannot be deleted: it is in portfolio {', '.join(held)}")
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
            products = [p for p in products if text.lower() in f"{p['Id']} {p['Name']} {p['Owner']} {p['ShortDescription']}".lower()]
        for key, member in (("Owner", "Owner"), ("ProductType", "Type")):
            if filters.get(key):
                products = [p for p in products if p[member] in filters[key]]
        key = {"Title": "Name", "VersionCount": "_artifacts"}.get(params.get("SortBy", ""), "CreatedTime")
        by = (lambda p: len(p[key])) if key == "_artifacts" else (lambda p: p[key])
        return sorted(products, key=by, reverse=params.get("SortOrder") == "DESCENDING")

    def _product(self, identity: str) -> Record:
        return self._one(self.products, identity, "Product")

    def _named(self, params: Record, identity: str = "Id", name: str = "Name") -> Record:
        if params.get(identity):
            return self._product(params[identity])
        found = [p for p in self.products.values() if p["Name"] == params.get(name)]
        if not params.get(name):
            raise AwsError("InvalidParametersException", f"One of {identity} and {name} is required")
        if len(found) != 1:
            raise AwsError("ResourceNotFoundException" if not found else "InvalidParametersException",
                           f"{len(found) or 'No'} products are named {params[name]}")  # fmt: skip
        return found[0]

    def _holders(self, product: Record) -> list[Record]:
        return [f for f in self.portfolios.values() if product["Id"] in f["_products"]]

    def _paths(self, product: Record) -> list[Record]:
        """The portfolios through which the caller reaches a product. Raises AwsError when there is none."""
        role, _ = self.caller()
        paths = [f for f in self._holders(product) if self._may_use(f, role)]
        if not paths:
            raise AwsError("ResourceNotFoundException", f"No launch paths found for resource: {product['Id']}")
        return paths

    def _seen(self, params: Record, identity: str = "Id", name: str = "Name") -> tuple[Record, list[Record]]:
        product = self._named(params, identity, name)
        return product, self._paths(product)

    def _summary(self, product: Record) -> Record:
        return {**product, "Id": product["ViewId"], "ProductId": product["Id"], "HasDefaultPath": len(self._holders(product)) == 1}

    def _detail(self, product: Record) -> Record:
        return {"ProductViewSummary": self._summary(product), "Status": "AVAILABLE", "ProductARN": product["ARN"],
                "CreatedTime": product["CreatedTime"]}  # fmt: skip

    # -- versions of a product ----------------------------------------------------------------------------------
    @once("IdempotencyToken")
    def create_provisioning_artifact(self, params: Record) -> Record:
        product = self._product(params["ProductId"])
        artifact = self._artifact_from(product, params["Parameters"])
        product["_artifacts"][artifact["Id"]] = artifact
        return {"ProvisioningArtifactDetail": artifact, "Info": {"TemplateUrl": artifact["_url"]}, "Status": "AVAILABLE"}

    def describe_provisioning_artifact(self, params: Record) -> Record:
        product = self._named(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params)
        answer: Record = {"ProvisioningArtifactDetail": artifact, "Info": {"TemplateUrl": artifact["_url"]}, "Status": "AVAILABLE"}
        if params.get("IncludeProvisioningArtifactParameters"):
            answer["ProvisioningArtifactParameters"] = parameters_of(artifact["_template"])
        return answer

    def update_provisioning_artifact(self, params: Record) -> Record:
        artifact = self._artifact(self._product(params["ProductId"]), params)
        for key in ("Name", "Description", "Active", "Guidance"):
            if key in params:
                artifact[key] = params[key]
        return {"ProvisioningArtifactDetail": artifact, "Info": {"TemplateUrl": artifact["_url"]}, "Status": "AVAILABLE"}

    def delete_provisioning_artifact(self, params: Record) -> Record:
        with self.lock:
            product = self._product(params["ProductId"])
            artifact = self._artifact(product, params)
            if len(product["_artifacts"]) == 1:
                raise AwsError("ResourceInUseException", f"{artifact['Id']} is the last provisioning artifact of {product['Id']}; a product has at least one")
            del product["_artifacts"][artifact["Id"]]
            hooks.service_documents.pop(artifact["_url"], None)
        return {}

    def list_provisioning_artifacts(self, params: Record) -> Record:
        return {"ProvisioningArtifactDetails": list(self._product(params["ProductId"])["_artifacts"].values())}

    def _artifact(self, product: Record, params: Record, active: bool = False) -> Record:
        identity, name = params.get("ProvisioningArtifactId"), params.get("ProvisioningArtifactName")
        for artifact in product["_artifacts"].values():
            if (artifact["Id"] == identity if identity else artifact["Name"] == name) and (artifact["Active"] or not active):
                return artifact
        raise AwsError("ResourceNotFoundException", f"ProvisioningArtifact {identity or name} of product {product['Id']} not found.")

    def _artifact_from(self, product: Record, sent: Record) -> Record:
        """A new version: its template is read now and kept; what happens to the source later does not matter."""
        info = sent.get("Info") or {}
        if info.get("LoadTemplateFromURL"):
            text = self._load(info["LoadTemplateFromURL"])
        elif info.get("ImportFromPhysicalId"):
            text = self._import(info["ImportFromPhysicalId"])
        else:
            raise AwsError("InvalidParametersException", "ProvisioningArtifactParameters.Info needs LoadTemplateFromURL or ImportFromPhysicalId")
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
            "Id": identity, "Name": sent.get("Name") or identity, "Description": sent.get("Description"),
            "Type": sent.get("Type", "CLOUD_FORMATION_TEMPLATE"), "CreatedTime": clock.now(), "Active": True, "Guidance": "DEFAULT",
            "_url": url, "_template": template, "_source": info,
        }  # fmt: skip

    def _load(self, url: str) -> str:
        match = next((m for p in _S3_URL if (m := p.match(url))), None)
        if not match:
            raise AwsError("InvalidParametersException", f"Invalid TemplateURL: {url}; it must be the https URL of an S3 object")
        version = urllib.parse.parse_qs(url.partition("?")[2]).get("versionId", [])
        extra = {"VersionId": version[0]} if version else {}
        try:
            answer = self.cloud.client("s3").get_object(Bucket=match["bucket"], Key=urllib.parse.unquote(match["key"]), **extra)
        except ClientError as error:
            raise AwsError("InvalidParametersException", f"The template at {url} cannot be read: {error.response['Error']['Message']}") from None
        return answer["Body"].read().decode()

    def _import(self, stack: str) -> str:
        try:
            body = self.cloud.client("cloudformation").get_template(StackName=stack, TemplateStage="Original")["TemplateBody"]
        except ClientError as error:
            raise AwsError("InvalidParametersException", f"ImportFromPhysicalId {stack}: {error.response['Error']['Message']}") from None
        return body if isinstance(body, str) else json.dumps(body)

    # -- products in portfolios, constraints -----------------------------------------------------------------------
    def associate_product_with_portfolio(self, params: Record) -> Record:
        portfolio, product = self._portfolio(params["PortfolioId"]), self._product(params["ProductId"])
        with self.lock:
            portfolio["_products"].setdefault(product["Id"], self.cloud.new_id("lpv3-"))
        return {}

    def disassociate_product_from_portfolio(self, params: Record) -> Record:
        with self.lock:
            portfolio, product = self._portfolio(params["PortfolioId"]), self._product(params["ProductId"])
            if product["Id"] not in portfolio["_products"]:
                raise AwsError("ResourceNotFoundException", f"Product {product['Id']} is not in portfolio {portfolio['Id']}")
            held = [c["ConstraintId"] for c in self._constraints(portfolio["Id"], product["Id"])]
            if held:
                raise AwsError("ResourceInUseException", f"Product {product['Id']} in portfolio {portfolio['Id']} still has constraints: {', '.join(held)}")
            del portfolio["_products"][product["Id"]]
        return {}

    @once("IdempotencyToken")
    def create_constraint(self, params: Record) -> Record:
        portfolio, product, kind = self._portfolio(params["PortfolioId"]), self._product(params["ProductId"]), params["Type"]
        if product["Id"] not in portfolio["_products"]:
            raise AwsError("ResourceNotFoundException", f"Product {product['Id']} is not in portfolio {portfolio['Id']}")
        wanted = self._constraint_values(kind, params["Parameters"])
        have = [c for c in self._constraints(portfolio["Id"], product["Id"]) if c["Type"] == kind]
        if have and kind in ("LAUNCH", "RESOURCE_UPDATE"):
            raise AwsError("DuplicateResourceException", f"A {kind} constraint already exists for product {product['Id']} in portfolio {portfolio['Id']}: "
                           f"{have[0]['ConstraintId']}")  # fmt: skip
        constraint = {
            "ConstraintId": self.cloud.new_id("cons-"), "Type": kind, "Description": params.get("Description"), "Owner": self.cloud.account,
            "ProductId": product["Id"], "PortfolioId": portfolio["Id"], "_parameters": params["Parameters"], "_values": wanted,
        }  # fmt: skip
        self.constraints[constraint["ConstraintId"]] = constraint
        return self._constraint_answer(constraint)

    def describe_constraint(self, params: Record) -> Record:
        return self._constraint_answer(self._one(self.constraints, params["Id"], "Constraint"))

    def update_constraint(self, params: Record) -> Record:
        constraint = self._one(self.constraints, params["Id"], "Constraint")
        if params.get("Parameters"):
            constraint["_values"] = self._constraint_values(constraint["Type"], params["Parameters"])
            constraint["_parameters"] = params["Parameters"]
        if "Description" in params:
            constraint["Description"] = params["Description"]
        return self._constraint_answer(constraint)

    def delete_constraint(self, params: Record) -> Record:
        del self.constraints[self._one(self.constraints, params["Id"], "Constraint")["ConstraintId"]]
        return {}

    def list_constraints_for_portfolio(self, params: Record) -> Record:
        self._portfolio(params["PortfolioId"])
        return pages(self._constraints(params["PortfolioId"], params.get("ProductId")), params, "ConstraintDetails")

    def _constraints(self, portfolio: str, product: str | None = None) -> list[Record]:
        return [c for c in self.constraints.values() if c["PortfolioId"] == portfolio and product in (None, c["ProductId"])]

    @staticmethod
    def _constraint_answer(constraint: Record) -> Record:
        return {"ConstraintDetail": constraint, "ConstraintParameters": constraint["_parameters"], "Status": "AVAILABLE"}

    def _constraint_values(self, kind: str, text: str) -> Record:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise AwsError("InvalidParametersException", f"Parameters of a {kind} constraint must be JSON: {error}") from None
        if not isinstance(values, dict):
            raise AwsError("InvalidParametersException", f"Parameters of a {kind} constraint must be a JSON object, not {text}")
        if kind == "LAUNCH":
            if len(values.keys() & {"RoleArn", "LocalRoleName"}) != 1 or len(values) != 1:
                raise AwsError("InvalidParametersException", f"A LAUNCH constraint takes either RoleArn or LocalRoleName, not {sorted(values)}")
            role = values.get("RoleArn")
            if role and not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/.+", role):
                raise AwsError("InvalidParametersException", f"Invalid RoleArn of a LAUNCH constraint: {role}")
        elif kind == "TEMPLATE":
            if not isinstance(values.get("Rules", values), dict):
                raise AwsError("InvalidParametersException", "A TEMPLATE constraint takes {\"Rules\": {name: rule}}")
        elif kind == "RESOURCE_UPDATE":
            if (values.get("Properties") or {}).get("TagUpdateOnProvisionedProduct") not in ("ALLOWED", "NOT_ALLOWED"):
                raise AwsError("InvalidParametersException", "TagUpdateOnProvisionedProduct must be ALLOWED or NOT_ALLOWED")
        elif kind == "NOTIFICATION":
            if not values.get("NotificationArns"):
                raise AwsError("InvalidParametersException", "A NOTIFICATION constraint takes {\"NotificationArns\": [arn]}")
        else:
            raise AwsError("NotImplemented", f"{kind} constraints are not implemented in the local cloud", 501)
        return values

    # -- tag options ------------------------------------------------------------------------------------------------
    def create_tag_option(self, params: Record) -> Record:
        if any((t["Key"], t["Value"]) == (params["Key"], params["Value"]) for t in self.tag_options.values()):
            raise AwsError("DuplicateResourceException", f"TagOption {params['Key']}={params['Value']} already exists")
        option = {"Id": self.cloud.new_id("tag-"), "Key": params["Key"], "Value": params["Value"], "Active": True, "Owner": self.cloud.account}
        self.tag_options[option["Id"]] = option
        return {"TagOptionDetail": option}

    def describe_tag_option(self, params: Record) -> Record:
        return {"TagOptionDetail": self._one(self.tag_options, params["Id"], "TagOption")}

    def update_tag_option(self, params: Record) -> Record:
        option = self._one(self.tag_options, params["Id"], "TagOption")
        option.update({k: params[k] for k in ("Value", "Active") if k in params})
        return {"TagOptionDetail": option}

    def delete_tag_option(self, params: Record) -> Record:
        option = self._one(self.tag_options, params["Id"], "TagOption")
        held = [r["Id"] for r in self._taggable() if option["Id"] in r["_tag_options"]]
        if held:
            raise AwsError("ResourceInUseException", f"TagOption {option['Id']} is associated with {', '.join(held)}")
        del self.tag_options[option["Id"]]
        return {}

    def list_tag_options(self, params: Record) -> Record:
        filters = params.get("Filters") or {}
        found = [t for t in self.tag_options.values() if all(t[k] == v for k, v in filters.items())]
        items, token = page(found, params, "PageSize", "PageToken", 20)
        return {"TagOptionDetails": items, "PageToken": token}

    def associate_tag_option_with_resource(self, params: Record) -> Record:
        resource = self._tagged(params["ResourceId"])
        option = self._one(self.tag_options, params["TagOptionId"], "TagOption")
        if option["Id"] in resource["_tag_options"]:
            raise AwsError("DuplicateResourceException", f"TagOption {option['Id']} is already associated with {resource['Id']}")
        resource["_tag_options"].append(option["Id"])
        return {}

    def disassociate_tag_option_from_resource(self, params: Record) -> Record:
        resource = self._tagged(params["ResourceId"])
        if params["TagOptionId"] not in resource["_tag_options"]:
            raise AwsError("ResourceNotFoundException", f"TagOption {params['TagOptionId']} is not associated with {resource['Id']}")
        resource["_tag_options"].remove(params["TagOptionId"])
        return {}

    def list_resources_for_tag_option(self, params: Record) -> Record:
        self._one(self.tag_options, params["TagOptionId"], "TagOption")
        found = [{"Id": r["Id"], "ARN": r["ARN"], "Name": r.get("DisplayName") or r["Name"], "CreatedTime": r["CreatedTime"]}
                 for r in self._taggable() if params["TagOptionId"] in r["_tag_options"]]  # fmt: skip
        items, token = page(found, params, "PageSize", "PageToken", 20)
        return {"ResourceDetails": items, "PageToken": token}

    def _taggable(self) -> list[Record]:
        return [*self.portfolios.values(), *self.products.values()]

    def _tagged(self, identity: str) -> Record:
        return self._one({**self.portfolios, **self.products}, identity, "Resource")

    # -- what a launcher sees ------------------------------------------------------------------------------------------
    def list_launch_paths(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        found = [{"Id": f["_products"][product["Id"]], "Name": f["DisplayName"], "Tags": tag_list(self._inherited(product, f)),
                  "ConstraintSummaries": self._constraints(f["Id"], product["Id"])} for f in paths]  # fmt: skip
        return pages(found, params, "LaunchPathSummaries")

    def describe_provisioning_parameters(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params, active=True)
        portfolio = self._path(product, paths, params)
        outputs = [{"Key": k, "Description": v.get("Description")} for k, v in (artifact["_template"].get("Outputs") or {}).items()]
        options = [{"Key": k, "Values": v} for k, v in self._options(product, portfolio).items()]
        return {
            "ProvisioningArtifactParameters": parameters_of(artifact["_template"]), "TagOptions": options,
            "ConstraintSummaries": self._constraints(portfolio["Id"], product["Id"]),
            "UsageInstructions": [{"Type": "rules", "Value": json.dumps(self._rules(product, portfolio))}] if self._rules(product, portfolio) else [],
            "ProvisioningArtifactOutputKeys": outputs, "ProvisioningArtifactOutputs": outputs,
        }  # fmt: skip

    def _path(self, product: Record, paths: list[Record], params: Record) -> Record:
        for portfolio in paths:
            if params.get("PathId") == portfolio["_products"][product["Id"]] or params.get("PathName") == portfolio["DisplayName"]:
                return portfolio
        if params.get("PathId") or params.get("PathName"):
            raise AwsError("ResourceNotFoundException", f"No launch path {params.get('PathId') or params.get('PathName')} found for resource: {product['Id']}")
        if len(paths) > 1:
            raise AwsError("InvalidParametersException", f"Product {product['Id']} has {len(paths)} launch paths; a PathId is required")
        return paths[0]

    def _inherited(self, product: Record, portfolio: Record) -> dict[str, str]:
        """The tags that portfolio and product pass on to what is provisioned."""
        return {k: v for k, v in {**portfolio["_tags"], **product["_tags"]}.items() if not k.startswith("aws:")}

    def _options(self, product: Record, portfolio: Record) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for identity in dict.fromkeys([*portfolio["_tag_options"], *product["_tag_options"]]):
            option = self.tag_options[identity]
            if option["Active"]:
                out.setdefault(option["Key"], []).append(option["Value"])
        return out

    def _rules(self, product: Record, portfolio: Record) -> Record:
        rules: Record = {}
        for constraint in self._constraints(portfolio["Id"], product["Id"]):
            if constraint["Type"] == "TEMPLATE":
                rules.update(constraint["_values"].get("Rules", constraint["_values"]))
        return rules

    def _launch_role(self, product: Record, portfolio: Record) -> str | None:
        for constraint in self._constraints(portfolio["Id"], product["Id"]):
            if constraint["Type"] == "LAUNCH":
                local = constraint["_values"].get("LocalRoleName")
                return constraint["_values"].get("RoleArn") or f"arn:{self.cloud.partition}:iam::{self.cloud.account}:role/{local}"
        return None

    def _assume(self, role: str | None) -> Any:
        """CloudFormation under the launch role, or as the caller's own account when there is no launch constraint."""
        if not role:
            return self.cloud.client("cloudformation")
        try:
            return self.cloud.client("cloudformation", role=role, principal=PRINCIPAL, session="servicecatalog")
        except (AwsError, ClientError) as error:
            reason = error.message if isinstance(error, AwsError) else error.response["Error"]["Message"]
            raise AwsError("InvalidParametersException", f"Access denied while assuming the role {role}: {reason}") from None

    # -- provisioned products --------------------------------------------------------------------------------------------
    @once("ProvisionToken")
    def provision_product(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params, active=True)
        portfolio = self._path(product, paths, params)
        name = params["ProvisionedProductName"]
        if any(p["Name"] == name for p in self.provisioned.values()):
            raise AwsError("DuplicateResourceException", f"A provisioned product with name {name} already exists")
        tags = self._tags_for(product, portfolio, tag_map(params.get("Tags")))
        role = self._launch_role(product, portfolio)
        self._assume(role)
        caller, session = self.caller()
        identity = self.cloud.new_id("pp-")
        provisioned = {
            "Id": identity, "Name": name, "Arn": self.cloud.arn("servicecatalog", f"stack/{name}/{identity}"), "Type": "CFN_STACK",
            "Status": "UNDER_CHANGE", "CreatedTime": clock.now(), "IdempotencyToken": params["ProvisionToken"],
            "ProductId": product["Id"], "ProvisioningArtifactId": artifact["Id"], "LaunchRoleArn": role, "UserArn": caller,
            "UserArnSession": session, "_tags": tags, "_portfolio": portfolio["Id"], "_stack": f"SC-{self.cloud.account}-{identity}",
        }  # fmt: skip
        self.provisioned[identity] = provisioned
        record = self._record(provisioned, "PROVISION_PRODUCT", product, artifact, portfolio, params.get("Tags"))
        sent = [{"ParameterKey": p["Key"], "ParameterValue": p.get("Value", "")} for p in params.get("ProvisioningParameters") or []]
        self.cloud.spawn(self._work, provisioned, record, self._launch, sent, params.get("NotificationArns") or [], name="provision")
        return {"RecordDetail": dict(record)}

    @once("UpdateToken")
    def update_provisioned_product(self, params: Record) -> Record:
        provisioned = self._provisioned(params, "ProvisionedProductId", "ProvisionedProductName")
        self._settled(provisioned)
        wanted = {"ProductId": params.get("ProductId"), "ProductName": params.get("ProductName")}
        product, paths = self._seen(wanted if any(wanted.values()) else {"ProductId": provisioned["ProductId"]}, "ProductId", "ProductName")
        same = not params.get("ProvisioningArtifactId") and not params.get("ProvisioningArtifactName")
        artifact = self._artifact(product, {"ProvisioningArtifactId": provisioned["ProvisioningArtifactId"]} if same else params, active=not same)
        portfolio = self._path(product, [f for f in paths if f["Id"] == provisioned["_portfolio"]] or paths, params)
        tags = provisioned["_tags"]
        if params.get("Tags"):
            allowed = any(c["Type"] == "RESOURCE_UPDATE" and c["_values"]["Properties"]["TagUpdateOnProvisionedProduct"] == "ALLOWED"
                          for c in self._constraints(portfolio["Id"], product["Id"]))  # fmt: skip
            if not allowed:
                raise AwsError("InvalidParametersException", f"Tags of provisioned product {provisioned['Name']} may not be updated: product {product['Id']} has no "
                               "RESOURCE_UPDATE constraint with TagUpdateOnProvisionedProduct set to ALLOWED")  # fmt: skip
            tags = self._tags_for(product, portfolio, tag_map(params["Tags"]))
        role = self._launch_role(product, portfolio)
        self._assume(role)
        record = self._record(provisioned, "UPDATE_PROVISIONED_PRODUCT", product, artifact, portfolio, params.get("Tags"))
        provisioned.update(Status="UNDER_CHANGE", StatusMessage=None, LaunchRoleArn=role, _tags=tags)
        sent = [{"ParameterKey": p["Key"], "UsePreviousValue": True} if p.get("UsePreviousValue")
                else {"ParameterKey": p["Key"], "ParameterValue": p.get("Value", "")}
                for p in params.get("ProvisioningParameters") or []]  # fmt: skip
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
        record = self._record(provisioned, "TERMINATE_PROVISIONED_PRODUCT", product or {"Id": provisioned["ProductId"]}, artifact, portfolio, None)
        provisioned.update(Status="UNDER_CHANGE", StatusMessage=None)
        options = (bool(params.get("IgnoreErrors")), bool(params.get("RetainPhysicalResources")))
        self.cloud.spawn(self._work, provisioned, record, self._terminate, *options, name="terminate-product")
        return {"RecordDetail": dict(record)}

    def describe_provisioned_product(self, params: Record) -> Record:
        return {"ProvisionedProductDetail": self._provisioned(params, "Id", "Name"), "CloudWatchDashboards": []}

    def scan_provisioned_products(self, params: Record) -> Record:
        return pages(self._at_level(list(self.provisioned.values()), params), params, "ProvisionedProducts")

    def search_provisioned_products(self, params: Record) -> Record:
        found = []
        for provisioned in self._at_level(list(self.provisioned.values()), params):
            product = self.products.get(provisioned["ProductId"], {})
            artifact = product.get("_artifacts", {}).get(provisioned["ProvisioningArtifactId"], {})
            found.append({**provisioned, "Tags": tag_list(provisioned["_tags"]), "ProductName": product.get("Name"),
                          "ProvisioningArtifactName": artifact.get("Name")})  # fmt: skip
        for query in (params.get("Filters") or {}).get("SearchQuery", []):
            found = [p for p in found if matches(p, query)]
        found.sort(key=lambda p: str(p.get(capital(params.get("SortBy") or "createdTime"))), reverse=params.get("SortOrder") == "DESCENDING")
        return {**pages(found, params, "ProvisionedProducts"), "TotalResultsCount": len(found)}

    def get_provisioned_product_outputs(self, params: Record) -> Record:
        provisioned = self._provisioned(params, "ProvisionedProductId", "ProvisionedProductName")
        outputs = provisioned.get("_outputs", [])
        if params.get("OutputKeys"):
            missing = sorted(set(params["OutputKeys"]) - {o["OutputKey"] for o in outputs})
            if missing:
                raise AwsError("InvalidParametersException", f"Provisioned product {provisioned['Name']} has no outputs {', '.join(missing)}")
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
                raise AwsError("InvalidParametersException", f"SearchFilter.Key is product or provisionedproduct, not {search['Key']}")
            found = [r for r in found if r[key] == search.get("Value")]
        return pages(found, params, "RecordDetails")

    def _provisioned(self, params: Record, identity: str, name: str) -> Record:
        if not params.get(identity) and not params.get(name):
            raise AwsError("InvalidParametersException", f"One of {identity} and {name} is required")
        for provisioned in self.provisioned.values():
            if provisioned["Id"] == params.get(identity) or provisioned["Name"] == params.get(name):
                return provisioned
        raise AwsError("ResourceNotFoundException", f"Provisioned product {params.get(identity) or params.get(name)} not found.")

    @staticmethod
    def _settled(provisioned: Record) -> None:
        if provisioned["Status"] == "UNDER_CHANGE":
            raise AwsError("InvalidParametersException", f"Provisioned product {provisioned['Name']} is in status UNDER_CHANGE; wait until its last request has ended")

    def _at_level(self, items: list[Record], params: Record) -> list[Record]:
        """The provisioned products or records that AccessLevelFilter lets the caller see; default is the caller's own."""
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
            raise AwsError("InvalidParametersException", f"Tag keys may not begin with aws: {', '.join(reserved)}")
        tags = {**self._inherited(product, portfolio), **own}
        for key, values in self._options(product, portfolio).items():
            if key not in tags and len(values) == 1:
                tags[key] = values[0]
            if tags.get(key) not in values:
                raise AwsError("InvalidParametersException", f"Tag {key} must be one of the tag options {', '.join(values)}; found {tags.get(key)}")
        if len(tags) > 50:
            raise AwsError("InvalidParametersException", f"{len(tags)} tags; at most 50 are allowed")
        return tags

    def _record(self, provisioned: Record, kind: str, product: Record, artifact: Record, portfolio: Record | None, tags: list | None) -> Record:
        caller, session = self.caller()
        record = {
            "RecordId": self.cloud.new_id("rec-"), "ProvisionedProductName": provisioned["Name"], "Status": "CREATED",
            "CreatedTime": clock.now(), "UpdatedTime": clock.now(), "ProvisionedProductType": "CFN_STACK", "RecordType": kind,
            "ProvisionedProductId": provisioned["Id"], "ProductId": product["Id"], "ProvisioningArtifactId": artifact["Id"],
            "PathId": portfolio["_products"].get(product["Id"]) if portfolio else None, "RecordErrors": [], "RecordTags": tags or [],
            "LaunchRoleArn": provisioned.get("LaunchRoleArn"), "UserArn": caller, "UserArnSession": session, "_outputs": [],
        }  # fmt: skip
        self.records[record["RecordId"]] = record
        provisioned["LastRecordId"] = record["RecordId"]
        if kind != "TERMINATE_PROVISIONED_PRODUCT":
            provisioned["LastProvisioningRecordId"] = record["RecordId"]
        return record

    # -- the work behind a record -------------------------------------------------------------------------------------------
    def _work(self, provisioned: Record, record: Record, step: Callable[..., None], *arguments: Any) -> None:
        self.cloud.pause(1)
        record["Status"] = "IN_PROGRESS"
        try:
            step(provisioned, record, *arguments)
        except _Failed as failure:
            self._fail(provisioned, record, failure)
        except AwsError as error:
            self._fail(provisioned, record, _Failed(error.message, "ERROR" if record["RecordType"] == "PROVISION_PRODUCT" else "TAINTED", error.code))
        except ClientError as error:
            sent = error.response["Error"]
            message = (f"AmazonCloudFormationException {sent['Message']} (Service: AmazonCloudFormation; Status Code: 400; "
                       f"Error Code: {sent['Code']})")  # fmt: skip
            self._fail(provisioned, record, _Failed(message, "ERROR" if record["RecordType"] == "PROVISION_PRODUCT" else "TAINTED", sent["Code"]))
        except Exception as error:
            self._fail(provisioned, record, _Failed(f"InternalError: {error}", "ERROR", "InternalError"))
            raise

    def _fail(self, provisioned: Record, record: Record, failure: _Failed) -> None:
        with self.lock:
            record.update(Status="FAILED", UpdatedTime=clock.now(), RecordErrors=[{"Code": failure.code, "Description": str(failure)}])
            provisioned.update(Status=failure.status, StatusMessage=str(failure))

    def _succeed(self, provisioned: Record, record: Record, stack: Record) -> None:
        outputs = [{"OutputKey": "CloudformationStackARN", "OutputValue": stack["StackId"], "Description": "The ARN of the launched Cloudformation Stack"},
                   *({k: o[k] for k in ("OutputKey", "OutputValue", "Description") if k in o} for o in stack.get("Outputs", []))]  # fmt: skip
        with self.lock:
            record.update(Status="SUCCEEDED", UpdatedTime=clock.now(), _outputs=outputs)
            provisioned.update(Status="AVAILABLE", StatusMessage=None, ProductId=record["ProductId"], _outputs=outputs,
                               ProvisioningArtifactId=record["ProvisioningArtifactId"],
                               LastSuccessfulProvisioningRecordId=record["RecordId"])  # fmt: skip

    def _launch(self, provisioned: Record, record: Record, parameters: list[Record], topics: list[str]) -> None:
        with self._template(provisioned, record) as url:
            answer = self._assume(provisioned["LaunchRoleArn"]).create_stack(
                StackName=provisioned["_stack"], TemplateURL=url, Parameters=parameters, Capabilities=CAPABILITIES,
                NotificationARNs=[*topics, *self._topics(record)], Tags=self._stack_tags(provisioned, record))  # fmt: skip
            provisioned["PhysicalId"] = answer["StackId"]
            stack = self._wait(answer["StackId"])
        if stack["StackStatus"] != "CREATE_COMPLETE":
            raise _Failed(self._first_failure(stack["StackId"], set()), "ERROR")
        self._succeed(provisioned, record, stack)

    def _relaunch(self, provisioned: Record, record: Record, parameters: list[Record]) -> None:
        stack_id = provisioned.get("PhysicalId")
        if not stack_id:
            raise _Failed(f"Provisioned product {provisioned['Name']} has no stack to update: its launch failed. Terminate it and launch again.", "ERROR")
        before = {e["EventId"] for e in self._events(stack_id)}
        with self._template(provisioned, record) as url:
            try:
                self._assume(provisioned["LaunchRoleArn"]).update_stack(
                    StackName=provisioned["_stack"], TemplateURL=url, Parameters=parameters, Capabilities=CAPABILITIES,
                    Tags=self._stack_tags(provisioned, record))  # fmt: skip
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
            raise _Failed(f"Version {record['ProvisioningArtifactId']} of product {record['ProductId']} was deleted", "ERROR")
        rules = self._rules(product, self.portfolios[provisioned["_portfolio"]])
        if not rules:
            yield artifact["_url"]
            return
        url = artifact["_url"].replace(".template", f"-{record['RecordId']}.template")
        hooks.service_documents[url] = json.dumps({**artifact["_template"], "Rules": {**(artifact["_template"].get("Rules") or {}), **rules}}, default=str)
        try:
            yield url
        finally:
            del hooks.service_documents[url]

    def _topics(self, record: Record) -> list[str]:
        return [arn for c in self.constraints.values() if c["Type"] == "NOTIFICATION" and c["ProductId"] == record["ProductId"]
                for arn in c["_values"]["NotificationArns"]]  # fmt: skip

    def _stack_tags(self, provisioned: Record, record: Record) -> list[Record]:
        portfolio, product = self.portfolios[provisioned["_portfolio"]], self.products[record["ProductId"]]
        own = {
            "aws:servicecatalog:portfolioArn": portfolio["ARN"], "aws:servicecatalog:productArn": product["ARN"],
            "aws:servicecatalog:provisionedProductArn": provisioned["Arn"],
            "aws:servicecatalog:provisioningArtifactIdentifier": record["ProvisioningArtifactId"],
            "aws:servicecatalog:provisioningPrincipalArn": record["UserArnSession"],
        }  # fmt: skip
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
        """What went wrong first in a stack, told with the resource's name; in a nested stack, its own first failure."""
        for event in reversed(self._events(stack_id)):
            if event["EventId"] in before or not event["ResourceStatus"].endswith("_FAILED"):
                continue
            if event["PhysicalResourceId"] == stack_id:
                return event.get("ResourceStatusReason", "no reason given")
            what = event["ResourceStatus"].removesuffix("_FAILED").lower()
            nested = event["ResourceType"] == "AWS::CloudFormation::Stack" and event.get("PhysicalResourceId", "").startswith("arn:")
            reason = self._first_failure(event["PhysicalResourceId"], set()) if nested else event.get("ResourceStatusReason", "no reason given")
            return f"The following resource(s) failed to {what}: [{event['LogicalResourceId']}]. {event['ResourceType']}: {reason}"
        stack = self.cloud.client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"][0]
        return stack.get("StackStatusReason") or f"Stack {stack_id} is in {stack['StackStatus']} state"

    # -- small parts ----------------------------------------------------------------------------------------------------------
    @staticmethod
    def _one(records: dict[str, Record], identity: str, noun: str) -> Record:
        try:
            return records[identity]
        except KeyError:
            raise AwsError("ResourceNotFoundException", f"{noun} {identity} not found.") from None

    def _change(self, record: Record, params: Record, keys: tuple[str, ...]) -> None:
        with self.lock:
            record.update({k: params[k] for k in keys if k in params})
            for key in params.get("RemoveTags") or []:
                record["_tags"].pop(key, None)
            record["_tags"].update(tag_map(params.get("AddTags")))


class _Failed(Exception):
    """A request that ended badly: its message is the record's error, ``status`` the provisioned product's."""

    def __init__(self, message: str, status: str, code: str = "AmazonCloudFormationException") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def read_template(text: str) -> Record:
    """A template (YAML or JSON) as plain values, short tags written out. Raises ValueError when it is not one."""
    from cfnlint.decode import cfn_yaml

    try:
        template = json.loads(json.dumps(cfn_yaml.loads(text), default=str))
    except Exception as error:
        raise ValueError(f"Template format error: {error}") from None
    if not isinstance(template, dict) or not isinstance(template.get("Resources"), dict) or not template["Resources"]:
        raise ValueError("Template format error: At least one Resources member must be defined.")
    return template


def parameters_of(template: Record) -> list[Record]:
    """The template's parameters as Service Catalog shows them."""
    out = []
    for name, spec in (template.get("Parameters") or {}).items():
        limits = {k: spec[k] for k in ("AllowedValues", "AllowedPattern", "ConstraintDescription", "MaxLength", "MinLength", "MaxValue", "MinValue") if k in spec}
        limits = {k: [str(i) for i in v] if isinstance(v, list) else str(v) for k, v in limits.items()}
        shown = {"ParameterKey": name, "ParameterType": spec.get("Type"), "IsNoEcho": str(spec.get("NoEcho", "")).lower() == "true",
                 "Description": spec.get("Description"), "ParameterConstraints": limits}  # fmt: skip
        if "Default" in spec:
            shown["DefaultValue"] = str(spec["Default"])
        out.append(shown)
    return out


def matches(provisioned: Record, query: str) -> bool:
    """Whether a provisioned product is found by one SearchQuery (``name:demo``, ``tags:key=value``, plain text)."""
    key, colon, value = query.partition(":")
    fields = {"arn", "createdTime", "id", "lastRecordId", "idempotencyToken", "name", "physicalId", "productId", "productName",
              "provisioningArtifactId", "provisioningArtifactName", "provisioningArtifact", "type", "status", "userArn", "userArnSession"}  # fmt: skip
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


def tag_map(tags: list[Record] | None) -> dict[str, str]:
    """``[{"Key", "Value"}]`` as a mapping. Raises AwsError for a repeated key."""
    out = {t["Key"]: t["Value"] for t in tags or []}
    if len(out) != len(tags or []):
        raise AwsError("InvalidParametersException", "Tag keys must be unique")
    return out


def tag_list(tags: dict[str, str]) -> list[Record]:
    """A mapping as ``[{"Key", "Value"}]``."""
    return [{"Key": k, "Value": v} for k, v in tags.items()]


def pages(items: list, params: Record, key: str) -> Record:
    """One page of a list as Service Catalog's answers have it."""
    found, token = page(items, params, "PageSize", "PageToken", 20)
    return {key: found, "NextPageToken": token}


SERVICES = [ServiceCatalog]
