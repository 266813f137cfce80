"""Tags of everything that SageMaker keeps, and Search over it."""

from __future__ import annotations

import re
from typing import Any

from localaws.errors import AwsError
from localaws.resource import dig
from localaws.service import page
from localaws.services.sagemaker.records import Base, Record


class TagsMixin(Base):
    """AddTags, ListTags, DeleteTags, Search."""

    def add_tags(self, params: Record) -> Record:
        self._tagged(params["ResourceArn"])
        self.set_tags(params["ResourceArn"], params["Tags"])
        return {"Tags": self.tags_of(params["ResourceArn"])}

    def list_tags(self, params: Record) -> Record:
        self._tagged(params["ResourceArn"])
        items, token = page(self.tags_of(params["ResourceArn"]), params, default=50)
        return {"Tags": items, "NextToken": token}

    def delete_tags(self, params: Record) -> Record:
        self._tagged(params["ResourceArn"])
        for key in params["TagKeys"]:
            self.tags.get(params["ResourceArn"], {}).pop(key, None)
        return {}

    def _tagged(self, arn: str) -> None:
        if not self.by_arn(arn):
            raise AwsError("ValidationException", f"Resource {arn} does not exist.")

    def search(self, params: Record) -> Record:
        kind = params["Resource"]
        collection = next((c for c in self.collections if c.noun == kind), None)
        if collection is None:
            raise AwsError("NotImplemented", f"Search for {kind} is not implemented in the local cloud", 501)
        found = [{**r, "Tags": self.tags_of(r[collection.arn_key])} for r in collection.all()]
        found = [r for r in found if self._holds(r, params.get("SearchExpression") or {})]
        key = params.get("SortBy", "LastModifiedTime")
        found.sort(
            key=lambda r: (dig(r, key) is not None, dig(r, key)),
            reverse=params.get("SortOrder", "Descending") == "Descending",
        )
        items, token = page(found, params, default=10)
        return {
            "Results": [{kind: r} for r in items],
            "NextToken": token,
            "TotalHits": {"Value": len(found), "Relation": "EqualTo"},
        }

    def _holds(self, record: Record, expression: Record) -> bool:
        if expression.get("NestedFilters"):
            raise AwsError(
                "NotImplemented", "Search with NestedFilters is not implemented in the local cloud", 501
            )
        answers = [_passes(record, f) for f in expression.get("Filters") or []]
        answers += [self._holds(record, e) for e in expression.get("SubExpressions") or []]
        return not answers or (any(answers) if expression.get("Operator") == "Or" else all(answers))


def _passes(record: Record, rule: Record) -> bool:
    """Whether a record passes one filter (``Tags.<key>``, or a member by its dotted path)."""
    name, wanted, operator = rule["Name"], rule.get("Value"), rule.get("Operator", "Equals")
    if name.startswith("Tags."):
        value: Any = {t["Key"]: t["Value"] for t in record["Tags"]}.get(name.removeprefix("Tags."))
    else:
        value = dig(record, name)
    if operator in ("Exists", "NotExists"):
        return (value is not None) == (operator == "Exists")
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    if operator in ("Equals", "NotEquals"):
        return (value is not None and text == wanted) == (operator == "Equals")
    if value is None:
        return False
    if operator == "Contains":
        return str(wanted).lower() in text.lower()
    if operator == "In":
        return text in str(wanted).split(",")
    left, right = (float(v) if _number(text) and _number(wanted) else v for v in (text, str(wanted)))
    return {
        "GreaterThan": left > right,
        "GreaterThanOrEqualTo": left >= right,
        "LessThan": left < right,
        "LessThanOrEqualTo": left <= right,
    }[operator]


def _number(text: Any) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", str(text)))
