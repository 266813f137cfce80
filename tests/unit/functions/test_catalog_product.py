"""Releases become versions beside the earlier ones, whatever an attempt before has left behind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

OWNER = "Owned by Thing of arn:aws:cloudformation:us-east-1:123456789012:stack/s/1"
FACTS = {"Name": "MLOPSProduct", "Owner": "MLOps platform", "Description": "A project."}
TOKEN = {"IdempotencyToken": "r-1"}
URL = "https://releases.s3.us-east-1.amazonaws.com/{0}/templates/2-smproject.{1}.yaml"
START = datetime(2030, 1, 1, tzinfo=UTC)


def url(version: str, content: str = "aaaa") -> str:
    return URL.format(version, content)


def sent(version: str) -> dict[str, Any]:
    """A version as the service is asked for it."""
    return {
        "Name": version,
        "Description": f"Release {version} from {url(version)}",
        "Info": {"LoadTemplateFromURL": url(version)},
        "Type": "CLOUD_FORMATION_TEMPLATE",
    }


def held(version: str, age: int, active: bool = True, guidance: str = "DEFAULT") -> dict[str, Any]:
    """A version as the service lists it; a higher age is older."""
    return {
        "Id": f"pa-{version}",
        "Name": version,
        "Description": f"Release {version} from {url(version)}",
        "CreatedTime": START - timedelta(days=age),
        "Active": active,
        "Guidance": guidance,
    }


class Catalog:
    """Expected calls, in the words of the product's life."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    def search(self, *products: tuple[str, str]) -> Catalog:
        pages = [
            {"ProductViewDetails": [{"ProductViewSummary": {"ProductId": i, "SupportDescription": text}}]}
            for i, text in products
        ] or [{"ProductViewDetails": []}]
        for number, page in enumerate(pages):
            token = {"PageToken": str(number)} if number else {}
            more = {"NextPageToken": str(number + 1)} if number + 1 < len(pages) else {}
            self.stub.expect("search_products_as_admin", page | more, ProductSource="ACCOUNT", **token)
        return self

    def create(self, version: str) -> Catalog:
        self.stub.expect(
            "create_product",
            {"ProductViewDetail": {"ProductViewSummary": {"ProductId": "prod-1"}}},
            **FACTS,
            **TOKEN,
            SupportDescription=OWNER,
            ProductType="CLOUD_FORMATION_TEMPLATE",
            Tags=[{"Key": "sagemaker:studio-visibility", "Value": "true"}],
            ProvisioningArtifactParameters=sent(version),
        )
        return self

    def update(self) -> Catalog:
        self.stub.expect("update_product", Id="prod-1", **FACTS)
        return self

    def list(self, *versions: dict[str, Any]) -> Catalog:
        answer = {"ProvisioningArtifactDetails": list(versions)}
        self.stub.expect("list_provisioning_artifacts", answer, ProductId="prod-1")
        return self

    def add(self, version: str) -> Catalog:
        self.stub.expect(
            "create_provisioning_artifact", ProductId="prod-1", Parameters=sent(version), **TOKEN
        )
        return self

    def status(self, version: str, *states: str) -> Catalog:
        for state in states or ("AVAILABLE",):
            self.stub.expect(
                "describe_provisioning_artifact",
                {"Status": state},
                ProductId="prod-1",
                ProvisioningArtifactId=f"pa-{version}",
            )
        return self

    def used(self, *versions: str, product: str = "prod-1") -> Catalog:
        made = [{"ProductId": product, "ProvisioningArtifactId": f"pa-{v}"} for v in versions]
        self.stub.expect(
            "scan_provisioned_products",
            {"ProvisionedProducts": made},
            AccessLevelFilter={"Key": "Account", "Value": "self"},
        )
        return self

    def mark(self, version: str, guidance: str, active: bool = True) -> Catalog:
        self.stub.expect(
            "update_provisioning_artifact",
            ProductId="prod-1",
            ProvisioningArtifactId=f"pa-{version}",
            Active=active,
            Guidance=guidance,
        )
        return self


@pytest.fixture
def catalog(stub: Callable) -> Catalog:
    return Catalog(stub("servicecatalog"))


@pytest.fixture
def ask(load: Callable, event: Callable, catalog: Catalog) -> Callable[..., tuple[str, dict]]:
    """Send one request for a release; the waits are not waited."""

    def send(request: str, version: str = "1", physical: str | None = None, **other: str) -> tuple[str, dict]:
        properties = FACTS | {"VersionName": version, "TemplateUrl": url(version)} | other
        made = event(request, physical, **properties)
        return load("catalog_product").on_event(made, catalog.stub.client, lambda _: None)

    return send


def test_create_makes_a_product_that_studio_shows(ask: Callable, catalog: Catalog) -> None:
    catalog.search(("prod-9", "Owned by Thing of another stack")).create("1")
    catalog.list(held("1", 0)).list(held("1", 0)).status("1")
    assert ask("Create") == ("prod-1", {})


def test_interrupted_create_goes_on_with_what_it_made(ask: Callable, catalog: Catalog) -> None:
    catalog.search(("prod-9", ""), ("prod-1", OWNER)).update()
    catalog.list(held("1", 0)).list(held("1", 0)).status("1")
    assert ask("Create") == ("prod-1", {})


def test_a_release_becomes_a_version_and_the_earlier_one_stays(ask: Callable, catalog: Catalog) -> None:
    old, new = held("1", 1), held("2", 0)
    catalog.update().list(old).add("2").list(old, new).status("2").mark("1", "DEPRECATED")
    assert ask("Update", "2", "prod-1") == ("prod-1", {})


def test_the_same_release_again_changes_nothing(ask: Callable, catalog: Catalog) -> None:
    both = held("2", 0), held("1", 1, guidance="DEPRECATED")
    catalog.update().list(*both).list(*both).status("2")
    assert ask("Update", "2", "prod-1") == ("prod-1", {})


def test_the_version_to_launch_is_offered_before_the_others_are_deprecated(
    ask: Callable, catalog: Catalog
) -> None:
    """Going back to an earlier release, as a rolled back update does."""
    both = held("2", 0), held("1", 1, guidance="DEPRECATED")
    catalog.update().list(*both).list(*both).status("1").mark("1", "DEFAULT").mark("2", "DEPRECATED")
    assert ask("Update", "1", "prod-1") == ("prod-1", {})


def test_a_version_never_becomes_another_template(ask: Callable, catalog: Catalog) -> None:
    catalog.update().list(held("1", 0))
    with pytest.raises(
        ValueError, match="version 1 of prod-1 exists already.*publish the release under a new"
    ):
        ask("Update", "1", "prod-1", TemplateUrl=url("1", "bbbb"))


def test_only_the_newest_twenty_are_shown(ask: Callable, catalog: Catalog) -> None:
    old = [held(str(age), age, guidance="DEPRECATED") for age in range(1, 22)]
    catalog.update().list(*old).add("0").list(*old, held("0", 0)).status("0").used("5", "21")
    catalog.mark("20", "DEPRECATED", active=False)
    ask("Update", "0", "prod-1")


def test_the_version_of_a_project_is_shown_as_long_as_it_is_used(ask: Callable, catalog: Catalog) -> None:
    old = [held(str(age), age, active=age < 20, guidance="DEPRECATED") for age in range(1, 22)]
    catalog.update().list(*old, held("0", 0)).list(*old, held("0", 0)).status("0").used("20")
    catalog.mark("20", "DEPRECATED")
    ask("Update", "0", "prod-1")


def test_projects_of_other_products_keep_no_version(ask: Callable, catalog: Catalog) -> None:
    old = [held(str(age), age, guidance="DEPRECATED") for age in range(1, 21)]
    catalog.update().list(*old, held("0", 0)).list(*old, held("0", 0)).status("0")
    catalog.used("20", product="prod-2").mark("20", "DEPRECATED", active=False)
    ask("Update", "0", "prod-1")


def test_the_service_is_given_time_to_read_the_template(ask: Callable, catalog: Catalog) -> None:
    catalog.update().list(held("1", 0)).list(held("1", 0)).status("1", "CREATING", "CREATING", "AVAILABLE")
    assert ask("Update", "1", "prod-1") == ("prod-1", {})


@pytest.mark.parametrize("states", [["FAILED"], ["CREATING"] * 20], ids=["refused", "never ready"])
def test_a_version_that_cannot_be_used_is_not_offered(
    states: list[str], ask: Callable, catalog: Catalog
) -> None:
    catalog.update().list(held("1", 0)).list(held("1", 0)).status("1", *states)
    with pytest.raises(RuntimeError, match=f"version pa-1 of prod-1 is {states[0]}"):
        ask("Update", "1", "prod-1")


def test_delete_removes_the_product(ask: Callable, catalog: Catalog) -> None:
    catalog.stub.expect("delete_product", Id="prod-1")
    assert ask("Delete", physical="prod-1") == ("prod-1", {})


def test_product_that_is_gone_is_fine(ask: Callable, catalog: Catalog) -> None:
    catalog.stub.fail("delete_product", "ResourceNotFoundException", "gone", Id="prod-1")
    assert ask("Delete", physical="prod-1") == ("prod-1", {})


def test_product_in_a_portfolio_is_not_called_deleted(ask: Callable, catalog: Catalog) -> None:
    catalog.stub.fail("delete_product", "ResourceInUseException", "in portfolio port-1", Id="prod-1")
    with pytest.raises(catalog.stub.client.exceptions.ResourceInUseException, match="port-1"):
        ask("Delete", physical="prod-1")


@pytest.mark.parametrize("made", [True, False], ids=["after the product", "before the product"])
def test_delete_of_a_create_that_never_answered(made: bool, ask: Callable, catalog: Catalog) -> None:
    """CloudFormation knows only the name that it made up itself."""
    catalog.search(*([("prod-1", OWNER)] if made else []))
    if made:
        catalog.stub.expect("delete_product", Id="prod-1")
    assert ask("Delete", physical="s_Thing_ABC") == ("s_Thing_ABC", {})
