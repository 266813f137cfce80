"""Products in portfolios, the constraints on them, and what follows for who launches them."""

from __future__ import annotations

import json
import re
from typing import Any

from botocore.exceptions import ClientError

from localaws.errors import AwsError
from localaws.services.servicecatalog.base import Record, once, pages, tag_list
from localaws.services.servicecatalog.products import ProductsMixin, parameters_of

PRINCIPAL = "servicecatalog.amazonaws.com"


class ConstraintsMixin(ProductsMixin):
    """Associations, constraints, launch paths."""

    def associate_product_with_portfolio(self, params: Record) -> Record:
        portfolio, product = self._portfolio(params["PortfolioId"]), self._product(params["ProductId"])
        with self.lock:
            portfolio["_products"].setdefault(product["Id"], self.cloud.new_id("lpv3-"))
        return {}

    def disassociate_product_from_portfolio(self, params: Record) -> Record:
        with self.lock:
            portfolio, product = self._portfolio(params["PortfolioId"]), self._product(params["ProductId"])
            if product["Id"] not in portfolio["_products"]:
                raise AwsError(
                    "ResourceNotFoundException",
                    f"Product {product['Id']} is not in portfolio {portfolio['Id']}",
                )
            held = [c["ConstraintId"] for c in self._constraints(portfolio["Id"], product["Id"])]
            if held:
                raise AwsError(
                    "ResourceInUseException",
                    f"Product {product['Id']} in portfolio {portfolio['Id']} still has constraints: "
                    f"{', '.join(held)}",
                )
            del portfolio["_products"][product["Id"]]
        return {}

    # -- constraints -------------------------------------------------------------------------------
    @once("IdempotencyToken")
    def create_constraint(self, params: Record) -> Record:
        portfolio, product, kind = (
            self._portfolio(params["PortfolioId"]),
            self._product(params["ProductId"]),
            params["Type"],
        )
        if product["Id"] not in portfolio["_products"]:
            raise AwsError(
                "ResourceNotFoundException", f"Product {product['Id']} is not in portfolio {portfolio['Id']}"
            )
        wanted = self._constraint_values(kind, params["Parameters"])
        have = [c for c in self._constraints(portfolio["Id"], product["Id"]) if c["Type"] == kind]
        if have and kind in ("LAUNCH", "RESOURCE_UPDATE"):
            raise AwsError(
                "DuplicateResourceException",
                f"A {kind} constraint already exists for product {product['Id']} in portfolio "
                f"{portfolio['Id']}: "
                f"{have[0]['ConstraintId']}",
            )
        constraint = {
            "ConstraintId": self.cloud.new_id("cons-"),
            "Type": kind,
            "Description": params.get("Description"),
            "Owner": self.cloud.account,
            "ProductId": product["Id"],
            "PortfolioId": portfolio["Id"],
            "_parameters": params["Parameters"],
            "_values": wanted,
        }
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
        return pages(
            self._constraints(params["PortfolioId"], params.get("ProductId")), params, "ConstraintDetails"
        )

    @staticmethod
    def _constraint_answer(constraint: Record) -> Record:
        return {
            "ConstraintDetail": constraint,
            "ConstraintParameters": constraint["_parameters"],
            "Status": "AVAILABLE",
        }

    def _constraint_values(self, kind: str, text: str) -> Record:
        try:
            values = json.loads(text)
        except ValueError as error:
            raise AwsError(
                "InvalidParametersException", f"Parameters of a {kind} constraint must be JSON: {error}"
            ) from None
        if not isinstance(values, dict):
            raise AwsError(
                "InvalidParametersException",
                f"Parameters of a {kind} constraint must be a JSON object, not {text}",
            )
        if kind == "LAUNCH":
            if len(values.keys() & {"RoleArn", "LocalRoleName"}) != 1 or len(values) != 1:
                raise AwsError(
                    "InvalidParametersException",
                    f"A LAUNCH constraint takes either RoleArn or LocalRoleName, not {sorted(values)}",
                )
            role = values.get("RoleArn")
            if role and not re.fullmatch(r"arn:[\w-]+:iam::\d{12}:role/.+", role):
                raise AwsError(
                    "InvalidParametersException", f"Invalid RoleArn of a LAUNCH constraint: {role}"
                )
        elif kind == "TEMPLATE":
            if not isinstance(values.get("Rules", values), dict):
                raise AwsError(
                    "InvalidParametersException", 'A TEMPLATE constraint takes {"Rules": {name: rule}}'
                )
        elif kind == "RESOURCE_UPDATE":
            if (values.get("Properties") or {}).get("TagUpdateOnProvisionedProduct") not in (
                "ALLOWED",
                "NOT_ALLOWED",
            ):
                raise AwsError(
                    "InvalidParametersException",
                    "TagUpdateOnProvisionedProduct must be ALLOWED or NOT_ALLOWED",
                )
        elif kind == "NOTIFICATION":
            if not values.get("NotificationArns"):
                raise AwsError(
                    "InvalidParametersException",
                    'A NOTIFICATION constraint takes {"NotificationArns": [arn]}',
                )
        else:
            raise AwsError(
                "NotImplemented", f"{kind} constraints are not implemented in the local cloud", 501
            )
        return values

    # -- what a launcher sees ----------------------------------------------------------------------
    def list_launch_paths(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        found = [
            {
                "Id": f["_products"][product["Id"]],
                "Name": f["DisplayName"],
                "Tags": tag_list(self._inherited(product, f)),
                "ConstraintSummaries": self._constraints(f["Id"], product["Id"]),
            }
            for f in paths
        ]
        return pages(found, params, "LaunchPathSummaries")

    def describe_provisioning_parameters(self, params: Record) -> Record:
        product, paths = self._seen(params, "ProductId", "ProductName")
        artifact = self._artifact(product, params, active=True)
        portfolio = self._path(product, paths, params)
        outputs = [
            {"Key": k, "Description": v.get("Description")}
            for k, v in (artifact["_template"].get("Outputs") or {}).items()
        ]
        options = [{"Key": k, "Values": v} for k, v in self._options(product, portfolio).items()]
        return {
            "ProvisioningArtifactParameters": parameters_of(artifact["_template"]),
            "TagOptions": options,
            "ConstraintSummaries": self._constraints(portfolio["Id"], product["Id"]),
            "UsageInstructions": [{"Type": "rules", "Value": json.dumps(self._rules(product, portfolio))}]
            if self._rules(product, portfolio)
            else [],
            "ProvisioningArtifactOutputKeys": outputs,
            "ProvisioningArtifactOutputs": outputs,
        }

    def _path(self, product: Record, paths: list[Record], params: Record) -> Record:
        for portfolio in paths:
            if (
                params.get("PathId") == portfolio["_products"][product["Id"]]
                or params.get("PathName") == portfolio["DisplayName"]
            ):
                return portfolio
        if params.get("PathId") or params.get("PathName"):
            raise AwsError(
                "ResourceNotFoundException",
                f"No launch path {params.get('PathId') or params.get('PathName')} found for resource: "
                f"{product['Id']}",
            )
        if len(paths) > 1:
            raise AwsError(
                "InvalidParametersException",
                f"Product {product['Id']} has {len(paths)} launch paths; a PathId is required",
            )
        return paths[0]

    def _inherited(self, product: Record, portfolio: Record) -> dict[str, str]:
        """The tags that portfolio and product pass on to what is provisioned."""
        return {
            k: v for k, v in {**portfolio["_tags"], **product["_tags"]}.items() if not k.startswith("aws:")
        }

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
                return (
                    constraint["_values"].get("RoleArn")
                    or f"arn:{self.cloud.partition}:iam::{self.cloud.account}:role/{local}"
                )
        return None

    def _assume(self, role: str | None) -> Any:
        """CloudFormation under the launch role, or as the caller's own account when there is no launch
        constraint."""
        if not role:
            return self.cloud.client("cloudformation")
        try:
            return self.cloud.client(
                "cloudformation", role=role, principal=PRINCIPAL, session="servicecatalog"
            )
        except (AwsError, ClientError) as error:
            reason = error.message if isinstance(error, AwsError) else error.response["Error"]["Message"]
            raise AwsError(
                "InvalidParametersException", f"Access denied while assuming the role {role}: {reason}"
            ) from None
