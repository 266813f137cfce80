"""Custom::CatalogProduct: a product in which releases lie side by side (flow A, infra/catalog.yaml).

Properties: Name, Owner, Description, VersionName, TemplateUrl. AWS::ServiceCatalog::CloudFormationProduct
deletes every version that its list no longer names, and a template knows only its own release; each release
would take the version away from the projects that were made from the one before. Here a version is added
and stays. The release in use has guidance DEFAULT; the others are DEPRECATED: their projects can still be
updated, new ones cannot be launched from them.
"""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import boto3

logger = logging.getLogger()
logger.setLevel(logging.INFO)

SHOWN_IN_STUDIO = {"Key": "sagemaker:studio-visibility", "Value": "true"}
ACTIVE_VERSIONS = 20  # older ones are hidden, unless a project was made from them
STATUS_CHECKS, CHECK_SECONDS = 20, 3


class VersionTaken(ValueError):
    """A version of this name was made from another template."""


class VersionUnusable(RuntimeError):
    """Service Catalog could not make the version."""


def on_event(
    event: dict[str, Any], catalog: Any, sleep: Callable[[float], None] = time.sleep
) -> tuple[str, dict[str, str]]:
    """Own one product; Create and Update also end what an earlier, interrupted attempt began."""
    # Names the owner in the only place that a search shows and that, unlike a tag, no project inherits.
    owner = f"Owned by {event['LogicalResourceId']} of {event['StackId']}"
    product = event.get("PhysicalResourceId", "")
    if event["RequestType"] == "Delete":
        found = product if product.startswith("prod-") else find(owner, catalog)
        if found:
            delete(found, catalog)
        return product, {}
    properties = event["ResourceProperties"]
    facts = {key: properties[key] for key in ("Name", "Owner", "Description")}
    version = {
        "Name": properties["VersionName"],
        # The service tells where its own copy lies and not where that came from: kept here, to compare.
        "Description": f"Release {properties['VersionName']} from {properties['TemplateUrl']}",
        "Info": {"LoadTemplateFromURL": properties["TemplateUrl"]},
        "Type": "CLOUD_FORMATION_TEMPLATE",
    }
    # An attempt that is repeated has the same request id; one that follows a deletion has not, and must not
    # be answered with the product that is gone.
    token = {"IdempotencyToken": event["RequestId"]}
    product = product or find(owner, catalog)
    if product:
        catalog.update_product(Id=product, **facts)
    else:
        product = catalog.create_product(
            **facts,
            **token,
            SupportDescription=owner,
            ProductType="CLOUD_FORMATION_TEMPLATE",
            Tags=[SHOWN_IN_STUDIO],
            ProvisioningArtifactParameters=version,
        )["ProductViewDetail"]["ProductViewSummary"]["ProductId"]
    same = [v for v in versions_of(product, catalog) if v["Name"] == version["Name"]]
    if same and same[0].get("Description") != version["Description"]:
        raise VersionTaken(
            f"version {version['Name']} of {product} exists already and is another template "
            f"({same[0].get('Description')}, not {properties['TemplateUrl']}): versions never change, "
            "so publish the release under a new version"
        )
    if not same:
        catalog.create_provisioning_artifact(ProductId=product, Parameters=version, **token)
    offer(product, version["Name"], catalog, sleep)
    return product, {}


def find(owner: str, catalog: Any) -> str:
    """The product that this resource made, though CloudFormation was never told; empty when there is none."""
    for page in catalog.get_paginator("search_products_as_admin").paginate(ProductSource="ACCOUNT"):
        for view in page["ProductViewDetails"]:
            if view["ProductViewSummary"].get("SupportDescription") == owner:
                return view["ProductViewSummary"]["ProductId"]
    return ""


def versions_of(product: str, catalog: Any) -> list[dict[str, Any]]:
    """Every version, newest first."""
    found = catalog.list_provisioning_artifacts(ProductId=product)["ProvisioningArtifactDetails"]
    return sorted(found, key=lambda version: version["CreatedTime"], reverse=True)


def offer(product: str, name: str, catalog: Any, sleep: Callable[[float], None]) -> None:
    """Make one version the one to launch; it comes first, so that there is always one."""
    versions = sorted(versions_of(product, catalog), key=lambda version: version["Name"] != name)
    wait_for(product, versions[0]["Id"], catalog, sleep)
    used = in_use(product, catalog) if len(versions) > ACTIVE_VERSIONS else set()
    for place, version in enumerate(versions):
        guidance = "DEPRECATED" if place else "DEFAULT"
        # a project could not be updated any more if its own version were hidden
        active = place < ACTIVE_VERSIONS or version["Id"] in used
        if (version.get("Active"), version.get("Guidance")) != (active, guidance):
            catalog.update_provisioning_artifact(
                ProductId=product, ProvisioningArtifactId=version["Id"], Active=active, Guidance=guidance
            )
            logger.info("%s: %s, %s", version["Name"], guidance, "active" if active else "inactive")


def wait_for(product: str, version: str, catalog: Any, sleep: Callable[[float], None]) -> None:
    """Wait until Service Catalog has read the template."""
    for _ in range(STATUS_CHECKS):
        found = catalog.describe_provisioning_artifact(ProductId=product, ProvisioningArtifactId=version)
        if found["Status"] != "CREATING":
            break
        sleep(CHECK_SECONDS)
    if found["Status"] != "AVAILABLE":
        raise VersionUnusable(f"version {version} of {product} is {found['Status']}")


def in_use(product: str, catalog: Any) -> set[str]:
    """The versions from which something of the account was made."""
    everyone = {"Key": "Account", "Value": "self"}
    pages = catalog.get_paginator("scan_provisioned_products").paginate(AccessLevelFilter=everyone)
    made = [provisioned for page in pages for provisioned in page["ProvisionedProducts"]]
    return {each["ProvisioningArtifactId"] for each in made if each["ProductId"] == product}


def delete(product: str, catalog: Any) -> None:
    """Delete the product with its versions; one that is gone is fine."""
    try:
        catalog.delete_product(Id=product)
    except catalog.exceptions.ResourceNotFoundException:
        logger.info("%s is gone already", product)


def handler(event: dict[str, Any], context: Any) -> None:
    """Answer CloudFormation exactly once."""
    logger.info("%s %s", event["RequestType"], event["LogicalResourceId"])
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer["PhysicalResourceId"] = event.get("PhysicalResourceId", event["RequestId"])
    try:
        answer["PhysicalResourceId"], answer["Data"] = on_event(event, boto3.client("servicecatalog"))
        answer["Status"] = "SUCCESS"
    except Exception as error:  # the one broad catch: CloudFormation must get its answer
        logger.exception("%s failed", event["RequestType"])
        answer |= {"Status": "FAILED", "Reason": f"{type(error).__name__}: {error}"[:1000]}
    send(event["ResponseURL"], answer)


def send(url: str, answer: dict[str, Any]) -> None:
    """Put the answer where CloudFormation waits for it."""
    body = json.dumps(answer).encode()
    # The signature of the URL covers an empty content type, which urllib would otherwise fill in.
    # The URL is CloudFormation's own, an address of S3 (hence S310).
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        logger.info("answered %s: %s", answer["Status"], response.status)
