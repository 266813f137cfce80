"""Portfolios, the principals who may use them, and tag options."""

from __future__ import annotations

import re

from localaws import clock
from localaws.errors import AwsError
from localaws.service import page
from localaws.services.servicecatalog.base import Base, Record, once, pages, tag_list, tag_map


class PortfoliosMixin(Base):
    """Portfolios, principals, tag options."""

    @once("IdempotencyToken")
    def create_portfolio(self, params: Record) -> Record:
        identity = self.cloud.new_id("port-")
        portfolio = {
            "Id": identity,
            "ARN": self.cloud.arn("catalog", f"portfolio/{identity}"),
            "DisplayName": params["DisplayName"],
            "Description": params.get("Description"),
            "ProviderName": params["ProviderName"],
            "CreatedTime": clock.now(),
            "_tags": tag_map(params.get("Tags")),
            "_products": {},
            "_principals": [],
            "_tag_options": [],
            "_shared": False,
        }
        self.portfolios[identity] = portfolio
        return {"PortfolioDetail": portfolio, "Tags": tag_list(portfolio["_tags"])}

    def describe_portfolio(self, params: Record) -> Record:
        portfolio = self._portfolio(params["Id"])
        return {
            "PortfolioDetail": portfolio,
            "Tags": tag_list(portfolio["_tags"]),
            "Budgets": [],
            "TagOptions": [self.tag_options[t] for t in portfolio["_tag_options"]],
        }

    def update_portfolio(self, params: Record) -> Record:
        portfolio = self._portfolio(params["Id"])
        self._change(portfolio, params, ("DisplayName", "Description", "ProviderName"))
        return {"PortfolioDetail": portfolio, "Tags": tag_list(portfolio["_tags"])}

    def delete_portfolio(self, params: Record) -> Record:
        with self.lock:
            portfolio = self._portfolio(params["Id"])
            for what, held in (
                ("products", list(portfolio["_products"])),
                ("principals", [p for p, _ in portfolio["_principals"]]),
                ("constraints", [c["ConstraintId"] for c in self._constraints(portfolio["Id"])]),
                ("tag options", portfolio["_tag_options"]),
            ):
                if held:
                    raise AwsError(
                        "ResourceInUseException",
                        f"Portfolio {portfolio['Id']} cannot be deleted: it still has {what}: "
                        f"{', '.join(held)}",
                    )
            del self.portfolios[portfolio["Id"]]
        return {}

    def list_portfolios(self, params: Record) -> Record:
        return pages([p for p in self.portfolios.values() if not p["_shared"]], params, "PortfolioDetails")

    def list_portfolios_for_product(self, params: Record) -> Record:
        product = self._product(params["ProductId"])
        return pages(
            [p for p in self.portfolios.values() if product["Id"] in p["_products"]],
            params,
            "PortfolioDetails",
        )

    def list_accepted_portfolio_shares(self, params: Record) -> Record:
        return pages([p for p in self.portfolios.values() if p["_shared"]], params, "PortfolioDetails")

    def describe_portfolio_shares(self, params: Record) -> Record:
        self._portfolio(params["PortfolioId"])
        return {"PortfolioShareDetails": []}

    def list_portfolio_access(self, params: Record) -> Record:
        self._portfolio(params["PortfolioId"])
        return {"AccountIds": []}

    def import_portfolio(self, name: str, provider: str) -> Record:
        """A portfolio that another account shares and this one accepts (SageMaker's own, when it is
        enabled)."""
        with self.lock:
            for portfolio in self.portfolios.values():
                if portfolio["_shared"] and portfolio["DisplayName"] == name:
                    return portfolio
            made = self.create_portfolio({"DisplayName": name, "ProviderName": provider})["PortfolioDetail"]
            made["_shared"] = True
            return made

    # -- principals --------------------------------------------------------------------------------
    def associate_principal_with_portfolio(self, params: Record) -> Record:
        portfolio, arn, kind = (
            self._portfolio(params["PortfolioId"]),
            params["PrincipalARN"],
            params["PrincipalType"],
        )
        match = re.fullmatch(r"arn:[\w-]+:iam::(\d*):(role|user|group)/(.+)", arn)
        if not match:
            raise AwsError("InvalidParametersException", f"Invalid principal ARN: {arn}")
        if kind == "IAM_PATTERN" and match[1]:
            raise AwsError(
                "InvalidParametersException", f"An IAM_PATTERN principal ARN has no account id: {arn}"
            )
        if kind == "IAM":
            if match[1] != self.cloud.account or "*" in arn or "?" in arn:
                raise AwsError(
                    "InvalidParametersException",
                    f"Invalid principal ARN: {arn}. Type IAM takes the full ARN of a principal "
                    f"of account {self.cloud.account}; wildcards need type IAM_PATTERN",
                )
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
                raise AwsError(
                    "ResourceNotFoundException",
                    f"Principal {entry[0]} is not associated with portfolio {portfolio['Id']}",
                )
            portfolio["_principals"].remove(entry)
        return {}

    def list_principals_for_portfolio(self, params: Record) -> Record:
        found = [
            {"PrincipalARN": a, "PrincipalType": k}
            for a, k in self._portfolio(params["PortfolioId"])["_principals"]
        ]
        return pages(found, params, "Principals")

    # -- tag options -------------------------------------------------------------------------------
    def create_tag_option(self, params: Record) -> Record:
        if any((t["Key"], t["Value"]) == (params["Key"], params["Value"]) for t in self.tag_options.values()):
            raise AwsError(
                "DuplicateResourceException", f"TagOption {params['Key']}={params['Value']} already exists"
            )
        option = {
            "Id": self.cloud.new_id("tag-"),
            "Key": params["Key"],
            "Value": params["Value"],
            "Active": True,
            "Owner": self.cloud.account,
        }
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
            raise AwsError(
                "ResourceInUseException", f"TagOption {option['Id']} is associated with {', '.join(held)}"
            )
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
            raise AwsError(
                "DuplicateResourceException",
                f"TagOption {option['Id']} is already associated with {resource['Id']}",
            )
        resource["_tag_options"].append(option["Id"])
        return {}

    def disassociate_tag_option_from_resource(self, params: Record) -> Record:
        resource = self._tagged(params["ResourceId"])
        if params["TagOptionId"] not in resource["_tag_options"]:
            raise AwsError(
                "ResourceNotFoundException",
                f"TagOption {params['TagOptionId']} is not associated with {resource['Id']}",
            )
        resource["_tag_options"].remove(params["TagOptionId"])
        return {}

    def list_resources_for_tag_option(self, params: Record) -> Record:
        self._one(self.tag_options, params["TagOptionId"], "TagOption")
        found = [
            {
                "Id": r["Id"],
                "ARN": r["ARN"],
                "Name": r.get("DisplayName") or r["Name"],
                "CreatedTime": r["CreatedTime"],
            }
            for r in self._taggable()
            if params["TagOptionId"] in r["_tag_options"]
        ]
        items, token = page(found, params, "PageSize", "PageToken", 20)
        return {"ResourceDetails": items, "PageToken": token}

    def _taggable(self) -> list[Record]:
        return [*self.portfolios.values(), *self.products.values()]

    def _tagged(self, identity: str) -> Record:
        return self._one({**self.portfolios, **self.products}, identity, "Resource")
