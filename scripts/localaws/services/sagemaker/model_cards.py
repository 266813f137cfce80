"""Model cards: content by AWS's schema, versions of it, a status, and the archive that takes no more content.

https://docs.aws.amazon.com/sagemaker/latest/dg/model-cards.html. The schema of the content is the one of
CloudFormation's type, whose names are the API's in another spelling.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import jsonschema

from localaws import clock
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.resource import schema
from localaws.service import page
from localaws.services.sagemaker.records import Base, Collection, Record


class ModelCardsMixin(Base):
    """CreateModelCard and what follows it; exports to PDF are not run."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.cards = Collection(
            self,
            "ModelCard",
            "model-card",
            duplicate=("ConflictException", "Modelcard {name} already exists"),
            missing=("ResourceNotFound", "Modelcard {name} does not exist."),
        )

    def create_model_card(self, params: Record) -> Record:
        check(params["Content"])
        record = self.cards.add(
            params["ModelCardName"],
            {**params, "ModelCardVersion": 1, "CreatedBy": self.caller(), "LastModifiedBy": self.caller()},
        )
        record["_versions"] = [_version(record)]
        return {"ModelCardArn": record["ModelCardArn"]}

    def update_model_card(self, params: Record) -> Record:
        record = self.cards.get(params["ModelCardName"])
        content, status = params.get("Content"), params.get("ModelCardStatus")
        if bool(content) == bool(status):
            raise AwsError(
                "ValidationException",
                "Exactly one of Content and ModelCardStatus can be updated in a single call.",
            )
        with self.lock:
            if status:  # an update of the status makes no new version
                self.cards.change(record, ModelCardStatus=status, LastModifiedBy=self.caller())
                record["_versions"][-1] |= {"ModelCardStatus": status, "LastModifiedTime": clock.now()}
                return {"ModelCardArn": record["ModelCardArn"]}
            if record["ModelCardStatus"] == "Archived":
                raise AwsError("ConflictException", "Model Card is in Archived state.")
            check(content or "")
            version = record["ModelCardVersion"] + 1
            self.cards.change(record, Content=content, ModelCardVersion=version, LastModifiedBy=self.caller())
            record["_versions"].append(_version(record))
        return {"ModelCardArn": record["ModelCardArn"]}

    def describe_model_card(self, params: Record) -> Record:
        if params.get("IncludedData") == "MetadataOnly":
            raise AwsError("NotImplemented", "MetadataOnly: the local cloud describes whole model cards", 501)
        record = self.cards.get(params["ModelCardName"])
        wanted = params.get("ModelCardVersion")
        if wanted is None:
            return record
        found = next((one for one in record["_versions"] if one["ModelCardVersion"] == wanted), None)
        if not found:
            raise AwsError(
                "ResourceNotFound",
                f"Modelcard {record['ModelCardName']} with version {wanted} does not exist.",
            )
        return {**record, **found}

    def list_model_cards(self, params: Record) -> Record:
        status = params.get("ModelCardStatus")
        return self.cards.listing(
            params, "ModelCardSummaries", lambda card: not status or card["ModelCardStatus"] == status
        )

    def list_model_card_versions(self, params: Record) -> Record:
        record = self.cards.get(params["ModelCardName"])
        shared = {name: record[name] for name in ("ModelCardName", "ModelCardArn")}
        found = [{**shared, **one} for one in record["_versions"]]
        if status := params.get("ModelCardStatus"):
            found = [one for one in found if one["ModelCardStatus"] == status]
        if params.get("SortOrder", "Descending") == "Descending":
            found.reverse()
        items, token = page(found, params, default=10)
        return {"ModelCardVersionSummaryList": items, "NextToken": token}

    def delete_model_card(self, params: Record) -> None:
        self.cards.remove(params["ModelCardName"])


def _version(record: Record) -> Record:
    now = clock.now()
    kept = {name: record[name] for name in ("ModelCardVersion", "ModelCardStatus", "Content")}
    return {**kept, "CreationTime": now, "LastModifiedTime": now}


# -- the content -----------------------------------------------------------------------------------
def check(content: str) -> None:
    """Refuse what is not a card's content. Raises AwsError ValidationException."""
    if "\n" in content:  # the API's pattern is .*
        raise AwsError("ValidationException", "Content: the pattern .* does not match a line break")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise AwsError("ValidationException", f"Model card content is not valid JSON: {error}") from None
    errors = sorted(validator().iter_errors(found), key=lambda error: list(map(str, error.path)))
    if errors:
        first = errors[0]
        place = "/".join(str(one) for one in first.absolute_path) or "the content"
        rule = f"{first.validator} {first.validator_value}"
        what = first.message if len(first.message) < 400 else rule
        raise AwsError(
            "ValidationException",
            f"Model card content does not follow the model card schema: {place}: {what[:500]}",
        )


@functools.cache
def validator() -> jsonschema.Draft7Validator:
    """Judges content; made once, from the schema of AWS::SageMaker::ModelCard."""
    of_the_type = schema("AWS::SageMaker::ModelCard") or {}
    definitions = {name: spelled(one) for name, one in of_the_type["definitions"].items()}
    return jsonschema.Draft7Validator({**definitions["Content"], "definitions": definitions})


def spelled(node: Any) -> Any:
    """A part of CloudFormation's schema with the names of the API: ModelOverview is model_overview."""
    if isinstance(node, list):
        return [spelled(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: spelled(one) for name, one in node.items() if name not in ("minLength", "maxLength")}
    if node.get("type") == "string":  # of the whole content they count characters of the text
        found |= {name: node[name] for name in ("minLength", "maxLength") if name in node}
    if isinstance(node.get("properties"), dict):
        found["properties"] = {snake(name): spelled(one) for name, one in node["properties"].items()}
    if isinstance(node.get("required"), list):
        found["required"] = [snake(name) for name in node["required"]]
    return found


def snake(name: str) -> str:
    """XAxisName: x_axis_name."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
