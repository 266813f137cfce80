"""API Gateway: its permissions are HTTP methods on the paths of its own API.

What a method is about is the collection for POST, the thing itself for the others, and for tags a path of
their own. A resource of a REST API has the tags of its API too, for access control; the parts of an HTTP API
have none but a stage's own.
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonapigatewaymanagementv2.html
https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-tagging-supported-resources.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

#: the methods of a permission that change tags, by what an update does with them
_TAGS_WITH = ("POST", "PUT")
_REST_CHILD = re.compile(r"(arn:[\w-]+:apigateway:[\w-]+::/restapis/[^/]+)/.+")

Targets = Iterator[tuple[str, dict[str, Any]]]


def parent(arn: str) -> str:
    """The REST API whose tags count as this resource's, "" for none."""
    found = _REST_CHILD.fullmatch(arn)
    return found[1] if found else ""


def targets(
    action: str,
    item: str,
    collection: str,
    new: Mapping[str, str],
    old: Mapping[str, str] | None,
) -> Targets:
    """(ARN, context of its own) of what one call of a handler is about.

    ``item`` is the resource and ``collection`` where it is made, "" if PUT makes it; ``new`` and ``old`` are
    its tags, ``old`` None but for an update.
    """
    method = action.partition(":")[2]
    tags = f"{re.sub(r'::/.*', '::/tags/', item)}{quote(item, safe='*')}"
    sent = {**{f"aws:RequestTag/{k}": v for k, v in new.items()}, "aws:TagKeys": sorted(new)}
    if method in ("TagResource", "UntagResource"):  # asked of stages, named by no page of the reference
        yield (collection if old is None else item), sent if method == "TagResource" else {}
    elif method == "UpdateRestApiPolicy":
        yield (collection if old is None else item), {}
    elif not collection:
        yield item, {}
        if method == "PUT" and "/methods/" in item:
            yield f"{item}/integration", {}
    elif old is None and method == "POST":
        yield collection, {}
    elif method in _TAGS_WITH:
        if new and (old is None or new.items() - old.items()):
            yield tags, sent
    elif method == "DELETE" and old is not None:
        if gone := old.keys() - new.keys():
            yield tags, {"aws:TagKeys": sorted(gone)}
    else:
        yield item, {}


def paths(kind: str, own: str, props: Mapping[str, Any], arn: Callable[[str], str]) -> tuple[str, str]:
    """The ARNs of a resource and of the collection that it is made in."""
    if kind.endswith(("::Method", "::Account")):
        return own, ""
    if kind == "AWS::ApiGateway::Resource":  # made below its parent
        api, above = props.get("RestApiId", "*"), props.get("ParentId", "*")
        return own, arn(f"arn:${{Partition}}:apigateway:${{Region}}::/restapis/{api}/resources/{above}")
    return own, own.rpartition("/")[0]
