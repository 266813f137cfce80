"""The registry of ECR, which docker speaks to: no AWS API, but the same permissions.

Docker sends the token that somebody asked ECR for; what it does stands for actions of ECR's API.
https://docs.aws.amazon.com/AmazonECR/latest/userguide/image-push-iam.html
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from localaws.errors import AwsError
from localaws.permissions import gate, network
from localaws.permissions.access import Access
from localaws.permissions.callers import Caller, caller_of
from localaws.permissions.engine import AccessDenied, Policies, Principal, decide

if TYPE_CHECKING:
    from localaws.cloud import Cloud
    from localaws.service import Response

_PATH = re.compile(r"/v2/(?P<repository>.+?)/(?P<what>manifests|blobs)/(?P<rest>.*)")
#: stands for the account of ECR itself, which is not this one
_ECR = "000000000000"
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def refusal(cloud: Cloud, method: str, path: str, headers: dict[str, str]) -> Response | None:
    """The answer to a request of docker that its caller may not make, None if it may.

    The cloud's own pulls, of the image of a job or an endpoint, carry no token.
    """
    match = _PATH.fullmatch(unquote(path))
    if not match:
        return None
    try:
        caller = caller_of(cloud, _access_key(cloud, headers))
        if caller.unrestricted:
            return None
        endpoint = gate.way_in(cloud, caller, "ecr.dkr")
        arn = cloud.arn("ecr", f"repository/{match['repository']}")
        for action in _actions(method, match["what"], match["rest"]):
            gate.authorize(cloud, caller, Access(f"ecr:{action}", arn), endpoint)
        if method == "GET" and match["what"] == "blobs":
            _fetch_layer(cloud, caller, match["rest"])
    except AwsError as error:
        said = {"errors": [{"code": "DENIED", "message": error.message}]}
        return 403, {"Content-Type": "application/json"}, json.dumps(said).encode()
    return None


def account(cloud: Cloud, headers: dict[str, str]) -> str:
    """The account whose registry docker speaks to: the host's name begins with it."""
    named = headers.get("host", "").partition(".dkr.ecr.")[0]
    return named if named in cloud.accounts else cloud.account_of_key(_access_key(cloud, headers))


def _access_key(cloud: Cloud, headers: dict[str, str]) -> str:
    return cloud.tokens.get(_token(headers.get("authorization", "")), "")


def _token(authorization: str) -> str:
    try:
        return base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")[2]
    except ValueError:
        return ""


def _actions(method: str, what: str, rest: str) -> tuple[str, ...]:
    if what == "manifests":
        return ("PutImage",) if method == "PUT" else ("BatchGetImage",)
    if not rest.startswith("uploads/"):
        return ("BatchCheckLayerAvailability",) if method == "HEAD" else ("GetDownloadUrlForLayer",)
    if method == "POST":
        return ("InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload")
    return ("CompleteLayerUpload",) if method == "PUT" else ("UploadLayerPart",)


def _fetch_layer(cloud: Cloud, caller: Caller, digest: str) -> None:
    """ECR sends docker to S3 for a layer, to an address that ECR has signed, in a bucket of its own.

    https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
    """
    if caller.network is None:
        return
    endpoint = network.route(cloud, caller.network, "s3")
    arn = f"arn:{cloud.partition}:s3:::prod-{cloud.region}-starport-layer-bucket/{digest}"
    access = Access("s3:GetObject", arn, endpoint.context)
    signer = Principal(f"arn:{cloud.partition}:sts::{_ECR}:assumed-role/registry/layers", _ECR)
    decision = decide(signer, access, Policies((_ALL,), endpoint=endpoint.policy, resource_owner=_ECR))
    if not decision.allowed:
        raise AccessDenied(signer.arn, access, decision)
