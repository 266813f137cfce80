"""What CloudFormation's types of SageMaker share: tags changed through AddTags and DeleteTags, waits,
refused deletes."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from localaws.resource import ApiResource, Attributes, Context

Props = dict[str, Any]
_GONE = re.compile(r"does not exist|could not find|not found", re.IGNORECASE)


def gone(error: ClientError) -> bool:
    """Whether SageMaker's answer means that there is no such thing (many of its calls say so as
    ValidationException)."""
    code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
    return (
        code in ("ResourceNotFound", "ResourceNotFoundException")
        or code == "ValidationException"
        and bool(_GONE.search(message))
    )


class SageMakerResource(ApiResource):
    """A type of SageMaker. ``arn_of`` says where its tags are; ``describe`` lets create and delete wait as
    CloudFormation does.

    ``settled`` maps the statuses in which a create or update has ended to whether it ended well.
    """

    service = "sagemaker"
    #: path of the resource in its ARN, ``{id}`` is the physical id; "" when the physical id is the ARN
    arn_path = ""
    describe_call = ""
    status_key = "Status"
    good: tuple[str, ...] = ("InService",)
    bad: tuple[str, ...] = ("Failed", "Delete_Failed", "Update_Failed")

    def ids(self, physical_id: str, props: Props) -> Props:
        """The parameters with which describe, update and delete name the resource."""
        return {self.id_parameter: physical_id}

    def arn_of(self, context: Context, physical_id: str, props: Props) -> str:
        """The ARN that carries the tags."""
        return (
            context.cloud.arn("sagemaker", self.arn_path.format(id=physical_id, **props))
            if self.arn_path
            else physical_id
        )

    def create(self, context: Context, props: Props) -> tuple[str, Attributes]:
        physical_id, attributes = super().create(context, props)
        if self.describe_call:
            attributes = {**attributes, **self.read(self.wait(context, physical_id, props), context)}
        return physical_id, attributes

    def update(self, context: Context, physical_id: str, old: Props, new: Props) -> Attributes:
        self.sync_tags(context, self.arn_of(context, physical_id, new), old, new)
        if any(old.get(k) != new.get(k) for k in {*old, *new} - {"Tags"}):
            if not self.update_call:
                raise NotImplementedError(f"{self.type_name} has no update in place")
            self.change(context, physical_id, old, new)
            if self.describe_call:
                self.wait(context, physical_id, new)
        return {}

    def change(self, context: Context, physical_id: str, old: Props, new: Props) -> None:
        """The update call."""
        from localaws.resource import typed

        client = context.client("sagemaker")
        operation = client.meta.service_model.operation_model(
            client.meta.method_to_api_mapping[self.update_call]
        )
        request = {
            k: v
            for k, v in self.request(context, new).items()
            if k in operation.input_shape.members and k != "Tags"
        }
        getattr(client, self.update_call)(
            **typed("sagemaker", self.update_call, {**request, **self.ids(physical_id, new)})
        )

    def delete(self, context: Context, physical_id: str, props: Props) -> None:
        client = context.client("sagemaker")
        try:
            getattr(client, self.delete_call)(**self.ids(physical_id, props))
            if self.describe_call:
                until(context, lambda: self._ended(client, physical_id, props))
        except ClientError as error:
            if not gone(error):
                raise

    def _ended(self, client: Any, physical_id: str, props: Props) -> bool:
        answer = getattr(client, self.describe_call)(**self.ids(physical_id, props))
        if answer[self.status_key] in self.bad:
            raise RuntimeError(
                answer.get("FailureReason") or f"{self.type_name} {physical_id} is {answer[self.status_key]}"
            )
        return answer[self.status_key] == "Deleted"

    def wait(self, context: Context, physical_id: str, props: Props) -> Props:
        """The describe answer once the resource has settled. Raises RuntimeError when it settled badly."""
        client = context.client("sagemaker")
        answer: Props = {}

        def settled() -> bool:
            answer.update(getattr(client, self.describe_call)(**self.ids(physical_id, props)))
            return answer[self.status_key] in (*self.good, *self.bad)

        until(context, settled)
        if answer[self.status_key] in self.bad:
            raise RuntimeError(
                answer.get("FailureReason") or f"{self.type_name} {physical_id} is {answer[self.status_key]}"
            )
        return answer

    @staticmethod
    def sync_tags(context: Context, arn: str, old: Props, new: Props) -> None:
        """Make the tags of a resource those of its new properties; tags put on it elsewhere stay."""
        before, after = ({t["Key"]: t["Value"] for t in props.get("Tags") or []} for props in (old, new))
        client = context.client("sagemaker") if before != after else None
        if before.keys() - after.keys():
            client.delete_tags(ResourceArn=arn, TagKeys=sorted(before.keys() - after.keys()))
        if after.items() - before.items():
            client.add_tags(
                ResourceArn=arn, Tags=[{"Key": k, "Value": v} for k, v in after.items() if before.get(k) != v]
            )


def until(context: Context, condition: Callable[[], bool]) -> None:
    """Wait, as CloudFormation does, until a condition holds. Raises RuntimeError when the cloud ends
    first."""
    while not condition():
        if context.cloud.stopping:
            raise RuntimeError("the local cloud is shutting down")
        threading.Event().wait(0.1)
