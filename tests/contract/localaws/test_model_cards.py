"""Model cards: AWS's schema of their content, versions, the archive, and whose key they are under."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

CONTENT = {
    "model_overview": {"model_name": "credit, version 1", "model_version": 1, "model_owner": "risk"},
    "intended_uses": {"purpose_of_model": "shows who may not pay back", "risk_rating": "High"},
    "training_details": {
        "training_job_details": {
            "training_arn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/t",
            "hyper_parameters": [{"name": "algorithm", "value": "logistic_regression"}],
            "training_metrics": [{"name": "auc", "value": 0.8}],
        }
    },
    "evaluation_details": [
        {
            "name": "Evaluation",
            "metric_groups": [
                {"name": "Metrics", "metric_data": [{"name": "auc", "type": "number", "value": 0.8}]}
            ],
        }
    ],
    "additional_information": {"custom_details": {"commit": "abc"}},
}


class Cards:
    """A card and what tests do with it."""

    def __init__(self, cloud: Any) -> None:
        self.api, self.name = cloud.client("sagemaker"), cloud.name("mlops")

    def make(self, content: Any = CONTENT, **more: Any) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        request = {"ModelCardName": self.name, "Content": text, "ModelCardStatus": "PendingReview", **more}
        return self.api.create_model_card(**request)["ModelCardArn"]

    def update(self, **change: Any) -> None:
        self.api.update_model_card(ModelCardName=self.name, **change)

    def look(self, **which: Any) -> dict[str, Any]:
        return self.api.describe_model_card(ModelCardName=self.name, **which)


@pytest.fixture
def cards(cloud: Any) -> Cards:
    return Cards(cloud)


def refused(code: str, text: str, call: Any, *arguments: Any, **more: Any) -> None:
    with pytest.raises(ClientError) as error:
        call(*arguments, **more)
    assert error.value.response["Error"]["Code"] == code
    assert text in error.value.response["Error"]["Message"]


def test_a_new_content_is_a_new_version_and_a_new_status_is_not(cards: Cards) -> None:
    arn = cards.make(Tags=[{"Key": "team", "Value": "x"}])
    assert arn.endswith(f":model-card/{cards.name}")
    assert cards.api.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "team", "Value": "x"}]
    cards.update(ModelCardStatus="Approved")
    assert (cards.look()["ModelCardVersion"], cards.look()["ModelCardStatus"]) == (1, "Approved")
    cards.update(Content=json.dumps(CONTENT | {"business_details": {"line_of_business": "loans"}}))
    assert cards.look()["ModelCardVersion"] == 2 and "loans" in cards.look()["Content"]
    assert json.loads(cards.look(ModelCardVersion=1)["Content"]) == CONTENT
    listed = cards.api.list_model_card_versions(ModelCardName=cards.name)["ModelCardVersionSummaryList"]
    assert [one["ModelCardVersion"] for one in listed] == [2, 1]
    found = cards.api.list_model_cards(NameContains=cards.name, ModelCardStatus="Approved")
    assert [one["ModelCardArn"] for one in found["ModelCardSummaries"]] == [arn]
    cards.api.delete_model_card(ModelCardName=cards.name)
    refused("ResourceNotFound", "does not exist", cards.look)


def test_the_archive_takes_no_more_content(cards: Cards) -> None:
    cards.make()
    refused("ConflictException", "already exists", cards.make)
    cards.update(ModelCardStatus="Archived")
    refused("ConflictException", "Archived state", cards.update, Content=json.dumps(CONTENT))
    both = {"Content": json.dumps(CONTENT), "ModelCardStatus": "Approved"}
    refused("ValidationException", "in a single call", cards.update, **both)
    cards.update(ModelCardStatus="Approved")
    cards.update(Content=json.dumps({}))
    assert cards.look()["ModelCardVersion"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{\n"model_overview": {}}', "line break"),
        ({"model_overviews": {}}, "model_overviews"),
        ({"ModelOverview": {}}, "ModelOverview"),
        ({"intended_uses": {"risk_rating": "Extreme"}}, "intended_uses/risk_rating"),
        ({"intended_uses": {"purpose_of_model": "x" * 2049}}, "purpose_of_model: maxLength 2048"),
        ({"model_overview": {"model_version": "one"}}, "model_overview/model_version"),
        ({"evaluation_details": [{"metric_groups": []}]}, "'name' is a required property"),
        (
            {"evaluation_details": [{"name": "x", "metric_groups": [{"name": "y", "metric_data": [{}]}]}]},
            "metric_data/0",
        ),
        ({"model_overview": {"model_artifact": ["s3://b/k"] * 16}}, "model_overview/model_artifact"),
    ],
)
def test_content_that_breaks_the_schema_is_refused(cards: Cards, content: Any, message: str) -> None:
    refused("ValidationException", message, cards.make, content)
