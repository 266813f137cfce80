"""What all parts of Service Catalog share: the records, who calls, and the look-ups."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from localaws import hooks
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.service import Service, page

Record = dict[str, Any]


def once(token_key: str) -> Callable:
    """Answer a repeated request (same operation, same token) with the first one's answer."""

    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(self: Base, params: Record) -> Record:
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


class Base(Service):
    """The records of Service Catalog, and what every part asks of them."""

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

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of a product or portfolio by its ARN, for conditions of policies."""
        identity = arn.rpartition("/")[2]
        found = self.products.get(identity) or self.portfolios.get(identity) or {}
        return found.get("_tags", {})

    def owner_of(self, params: Record) -> str:
        """The session that made the provisioned product or record of a call, "" when it names none."""
        names = {
            v for k, v in params.items() if k in ("Id", "ProvisionedProductId", "ProvisionedProductName")
        }
        for one in (*self.provisioned.values(), *self.records.values()):
            if names & {one.get("Id"), one.get("RecordId"), one.get("Name")}:
                return one.get("UserArnSession", "")
        return ""

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

    def _role(self, arn: str) -> Record | None:
        iam = self.cloud.client("iam")
        try:
            role = iam.get_role(RoleName=arn.rpartition("/")[2])["Role"]
        except iam.exceptions.NoSuchEntityException:
            return None
        return role if role["Arn"] == arn else None

    def _may_use(self, portfolio: Record, role: str) -> bool:
        if role.endswith(":root"):
            return True
        bare = re.sub(r"(:iam::)\d+:", r"\1:", role)
        return any(
            arn == role if kind == "IAM" else fnmatchcase(bare, arn) for arn, kind in portfolio["_principals"]
        )

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

    def _portfolio(self, identity: str) -> Record:
        return self._one(self.portfolios, identity, "Portfolio")

    def _product(self, identity: str) -> Record:
        return self._one(self.products, identity, "Product")

    def _named(self, params: Record, identity: str = "Id", name: str = "Name") -> Record:
        if params.get(identity):
            return self._product(params[identity])
        found = [p for p in self.products.values() if p["Name"] == params.get(name)]
        if not params.get(name):
            raise AwsError("InvalidParametersException", f"One of {identity} and {name} is required")
        if len(found) != 1:
            raise AwsError(
                "ResourceNotFoundException" if not found else "InvalidParametersException",
                f"{len(found) or 'No'} products are named {params[name]}",
            )
        return found[0]

    def _holders(self, product: Record) -> list[Record]:
        return [f for f in self.portfolios.values() if product["Id"] in f["_products"]]

    def _paths(self, product: Record) -> list[Record]:
        """The portfolios through which the caller reaches a product. Raises AwsError when there is none."""
        role, _ = self.caller()
        paths = [f for f in self._holders(product) if self._may_use(f, role)]
        if not paths:
            raise AwsError(
                "ResourceNotFoundException", f"No launch paths found for resource: {product['Id']}"
            )
        return paths

    def _seen(self, params: Record, identity: str = "Id", name: str = "Name") -> tuple[Record, list[Record]]:
        product = self._named(params, identity, name)
        return product, self._paths(product)

    def _constraints(self, portfolio: str, product: str | None = None) -> list[Record]:
        return [
            c
            for c in self.constraints.values()
            if c["PortfolioId"] == portfolio and product in (None, c["ProductId"])
        ]


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
