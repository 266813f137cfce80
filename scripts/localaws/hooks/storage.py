"""S3 buckets of stacks, what ECR tells of images, and whom its tokens stand for."""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from localaws.cloud import caller_key
from localaws.hooks.answers import triple

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "buckets": (
        "ministack.services.s3:_delete_bucket",
        "ministack.services.s3:_bucket_tags",
        "ministack.services.s3:_buckets",
        "ministack.services.s3:_put_bucket_encryption",
    ),
    "images": (
        "ministack.services.ecr:_describe_images",
        "ministack.services.ecr:_find_image",
        "ministack.services.ecr:_repositories",
        "ministack.services.ecr:_registry_id",
        "ministack.services.ecr:_put_image",
        "ministack.services.ecr:_manifest_blobs",
    ),
    "registry_tokens": ("ministack.services.ecr:_get_authorization_token",),
}


def keep_buckets() -> None:
    """Give a stack's bucket its encryption and tags (the stack's too), and do not delete a full one.

    Rules of EventBridge get the stack's tags too.
    """
    from ministack.services import s3
    from ministack.services.cloudformation import provisioners

    handler = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    create, update, delete = handler["create"], handler["update"], handler["delete"]

    def tagged(answer: tuple[str, dict], props: dict) -> tuple[str, dict]:
        s3._bucket_tags[answer[0]] = {t["Key"]: str(t["Value"]) for t in props.get("Tags") or []}
        if rules := (props.get("BucketEncryption") or {}).get("ServerSideEncryptionConfiguration"):
            s3._put_bucket_encryption(answer[0], _encryption(rules[0]))
        return answer

    def delete_empty(physical_id: str, props: dict) -> None:
        if physical_id in s3._buckets:
            status, _, body = triple(s3._delete_bucket(physical_id))
            if status == 409:
                full = f"The bucket you tried to delete is not empty: {physical_id}"
                said = full if b"BucketNotEmpty" in body else body.decode()
                raise ValueError(f"{said} (Service: S3, Status Code: 409)")
        delete(physical_id, props)

    handler["create"] = lambda logical_id, props, stack: tagged(create(logical_id, props, stack), props)
    handler["update"] = lambda physical_id, old, new, *rest: tagged(update(physical_id, old, new, *rest), new)
    handler["delete"] = delete_empty
    for name in ("AWS::S3::Bucket", "AWS::Events::Rule"):
        provisioners._STACK_TAG_PROPERTY[name] = ("Tags", "list")


def _encryption(rule: dict) -> bytes:
    """A rule of a bucket's encryption as S3's API takes it."""
    root = ElementTree.Element("ServerSideEncryptionConfiguration")
    inner = ElementTree.SubElement(root, "Rule")
    default = ElementTree.SubElement(inner, "ApplyServerSideEncryptionByDefault")
    for name, value in (rule.get("ServerSideEncryptionByDefault") or {}).items():
        ElementTree.SubElement(default, name).text = str(value)
    bucket_key = str(rule.get("BucketKeyEnabled", False)).lower()
    ElementTree.SubElement(inner, "BucketKeyEnabled").text = bucket_key
    return ElementTree.tostring(root)


def images_are_told() -> None:
    """Let DescribeImages refuse an image that is not there (ministack leaves it out) and tell sizes.

    And let the registry give out, by its digest, what PutImage has put (ministack knows it by its tag only).
    """
    from ministack.services import ecr

    original, put_image = ecr._describe_images, ecr._put_image

    def put(data: dict) -> Any:
        status, headers, body = triple(put_image(data))
        if status == 200:
            digest = json.loads(body)["image"]["imageId"]["imageDigest"]
            manifests = ecr._manifest_blobs.setdefault(data["repositoryName"], {})
            manifests[digest] = data["imageManifest"].encode()
        return status, headers, body

    def describe(data: dict) -> Any:
        name = data.get("repositoryName", "")
        for wanted in (data.get("imageIds") or []) if name in ecr._repositories else []:
            if not ecr._find_image(name, wanted):
                parts = ", ".join(f"{k}:'{wanted.get(k, 'null')}'" for k in ("imageDigest", "imageTag"))
                return ecr.error_response_json(
                    "ImageNotFoundException",
                    f"The image with imageId {{{parts}}} does not exist within the repository with name "
                    f"'{name}' in the registry with id '{ecr._registry_id()}'",
                    400,
                )
        status, headers, body = triple(original(data))
        document = json.loads(body)
        for image in document.get("imageDetails", []):
            manifest = json.loads(
                ecr._find_image(name, {"imageDigest": image["imageDigest"]})["imageManifest"] or "{}"
            )
            image["imageSizeInBytes"] = sum(
                part.get("size", 0) for part in (manifest.get("config", {}), *manifest.get("layers", []))
            )
        return status, headers, json.dumps(document).encode()

    ecr._describe_images, ecr._put_image = describe, put


def registry_tokens(cloud: Cloud) -> None:
    """Give each caller a token of its own for ``docker login`` (ministack gives all the same)."""
    from ministack.services import ecr

    original = ecr._get_authorization_token

    def token_of(data: dict) -> Any:
        status, headers, body = triple(original(data))
        token = secrets.token_hex(24)
        cloud.tokens[token] = caller_key.get()
        document = json.loads(body)
        for one in document["authorizationData"]:
            one["authorizationToken"] = base64.b64encode(f"AWS:{token}".encode()).decode()
        return status, headers, json.dumps(document).encode()

    ecr._get_authorization_token = token_of
