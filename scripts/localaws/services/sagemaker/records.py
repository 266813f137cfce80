"""What every part of SageMaker keeps: records by kind, with ARN, times, tags, lists and AWS's refusals.

A part is a mixin that subclasses ``Base`` and makes its collections in ``__init__``::

    class JobsMixin(Base):
        def __init__(self, cloud):
            super().__init__(cloud)
            self.jobs = Collection(self, "TrainingJob", "training-job", duplicate=("ResourceInUse", "…"))

        def create_training_job(self, params):
            record = self.jobs.add(params["TrainingJobName"], {**params, "TrainingJobStatus": "InProgress"})
            return {"TrainingJobArn": record["TrainingJobArn"]}

A record is a plain dict in the API's spelling, what Describe answers: the answer's shape drops what it does
not have, so records may hold more (keys that begin with ``_`` are the part's own). Take ``self.lock`` where
threads meet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from localaws import clock, hooks
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.service import Service, page

Record = dict[str, Any]


class Base(Service):
    """The state that all parts of SageMaker share: the lock, the tags by ARN, and the collections."""

    name = "sagemaker"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.lock = threading.RLock()
        self.tags: dict[str, dict[str, str]] = {}
        self.collections: list[Collection] = []

    def start(self) -> None:
        """Called once when the cloud is assembled; a part that overrides it calls ``super().start()``."""

    # -- tags --------------------------------------------------------------------------------------
    def set_tags(self, arn: str, tags: Iterable[dict[str, str]] | None) -> None:
        """Add tags (``[{"Key", "Value"}]``) to an ARN.

        Raises AwsError ValidationException for a repeated key, ResourceLimitExceeded for more than 50.
        """
        tags = list(tags or [])
        keys = [t["Key"] for t in tags]
        repeated = sorted({k for k in keys if keys.count(k) > 1})
        if repeated:
            raise AwsError(
                "ValidationException",
                f"Duplicate tag keys found: {', '.join(repeated)}. Please use unique tag keys.",
            )
        with self.lock:
            have = self.tags.setdefault(arn, {})
            merged = {**have, **{t["Key"]: t.get("Value", "") for t in tags}}
            if len([k for k in merged if not k.startswith("aws:")]) > 50:
                raise AwsError(
                    "ResourceLimitExceeded", f"{arn} would have {len(merged)} tags; the limit is 50"
                )
            have.update(merged)

    def resource_tags(self, arn: str) -> dict[str, str]:
        """The tags of anything by its ARN, for conditions of policies."""
        return self.tags.get(arn, {})

    def tags_of(self, arn: str) -> list[dict[str, str]]:
        """The tags of an ARN as the API lists them."""
        return [{"Key": k, "Value": v} for k, v in self.tags.get(arn, {}).items()]

    def by_arn(self, arn: str) -> Record | None:
        """The record that has an ARN, of whatever kind."""
        for collection in self.collections:
            for record in collection.all():
                if record[collection.arn_key] == arn:
                    return record
        return None

    def in_account_of(self, name_or_arn: str) -> Any:
        """SageMaker of the account that an ARN names; this one for a name, or for an unknown account."""
        parts = name_or_arn.split(":")
        account = parts[4] if len(parts) > 5 else self.cloud.account
        return self.cloud.at(account).services.get(self.name, self)

    # -- what many calls check ---------------------------------------------------------------------
    def check_execution_role(self, role: str, member: str = "RoleArn") -> None:
        """Refuse a role that does not exist or does not trust SageMaker, as Create* calls do."""
        try:
            self.cloud.check_trust(role, "sagemaker.amazonaws.com")
        except AwsError:
            raise AwsError(
                "ValidationException",
                f"Could not assume role {role}. Please ensure that the role exists and allows "
                f"principal 'sagemaker.amazonaws.com' to assume the role. ({member})",
            ) from None

    def caller(self) -> Record:
        """``CreatedBy`` and ``LastModifiedBy`` of the current request: who makes it."""
        arn = hooks.caller_arn(self.cloud)
        return {"IamIdentity": {"Arn": arn, "PrincipalId": arn.rpartition(":")[2].replace("/", ":")}}


class Collection:
    """The records of one kind.

    ``noun`` makes the keys of name, ARN and status (``TrainingJob`` → TrainingJobName, TrainingJobArn,
    TrainingJobStatus); ``path`` is the ARN's part before the name. ``duplicate`` and ``missing`` are code and
    message of AWS's refusals; ``{name}`` and ``{arn}`` are filled in.
    """

    def __init__(
        self,
        service: Base,
        noun: str,
        path: str,
        *,
        duplicate: tuple[str, str] | None = None,
        missing: tuple[str, str] | None = None,
        arn_key: str = "",
        name_key: str = "",
        status_key: str = "",
    ) -> None:
        self.service = service
        self.noun = noun
        self.path = path
        self.arn_key = arn_key or f"{noun}Arn"
        self.name_key = name_key or f"{noun}Name"
        self.status_key = status_key or f"{noun}Status"
        self.duplicate = duplicate or ("ResourceInUse", f"{noun} {{arn}} already exists.")
        self.missing = missing or ("ResourceNotFound", f"{noun} {{arn}} does not exist.")
        self._records: dict[str, Record] = {}
        service.collections.append(self)

    def arn(self, name: str) -> str:
        """The ARN that the record of a name has or would have."""
        return self.service.cloud.arn("sagemaker", f"{self.path}/{name}")

    def add(self, name: str, data: Record, tags: list[dict[str, str]] | None = None) -> Record:
        """Keep a new record; it gets name, ARN, CreationTime and LastModifiedTime.

        ``name`` may be a path (``d-123/user``): the record's own name is then the last part. Tags are those
        given or the data's ``Tags``. Raises AwsError ``duplicate``.
        """
        arn = self.arn(name)
        with self.service.lock:
            if name in self._records:
                code, message = self.duplicate
                raise AwsError(code, message.format(name=name, arn=arn))
            stamp = clock.now()
            record = {k: v for k, v in data.items() if k != "Tags"}
            record.update({self.name_key: name.rpartition("/")[2], self.arn_key: arn, "_key": name})
            record.setdefault("CreationTime", stamp)
            record.setdefault("LastModifiedTime", stamp)
            self.service.tags.pop(arn, None)
            self.service.set_tags(arn, tags if tags is not None else data.get("Tags"))
            self._records[name] = record
        return record

    def find(self, name_or_arn: str) -> Record | None:
        """The record of a name (or path) or ARN, None when there is none."""
        prefix = self.arn("")
        name = name_or_arn.removeprefix(prefix)
        return self._records.get(name)

    def get(self, name_or_arn: str) -> Record:
        """The record of a name or ARN. Raises AwsError ``missing``."""
        record = self.find(name_or_arn)
        if record is None:
            name = name_or_arn.removeprefix(self.arn(""))
            code, message = self.missing
            raise AwsError(code, message.format(name=name.rpartition("/")[2], arn=self.arn(name)))
        return record

    def change(self, record: Record, **values: Any) -> Record:
        """Set members of a record and its LastModifiedTime; None removes a member."""
        with self.service.lock:
            for key, value in values.items():
                if value is None:
                    record.pop(key, None)
                else:
                    record[key] = value
            record["LastModifiedTime"] = clock.now()
        return record

    def remove(self, name_or_arn: str) -> Record:
        """Take a record out, with its tags. Raises AwsError ``missing``."""
        with self.service.lock:
            record = self.get(name_or_arn)
            del self._records[record["_key"]]
            self.service.tags.pop(record[self.arn_key], None)
        return record

    def all(self) -> list[Record]:
        """Every record, oldest first."""
        with self.service.lock:
            return list(self._records.values())

    def __contains__(self, name_or_arn: str) -> bool:
        return self.find(name_or_arn) is not None

    def __len__(self) -> int:
        return len(self._records)

    def listing(
        self,
        params: Record,
        answer_key: str,
        where: Callable[[Record], bool] = lambda _: True,
        *,
        sort: dict[str, str] | None = None,
        sort_by: str = "CreationTime",
        order: str = "Descending",
        default: int = 10,
    ) -> Record:
        """The answer of a List call: filters, sort and paging that all of SageMaker's lists share.

        Filters read, where the request has them: NameContains, StatusEquals (and the kind's own
        ``…StatusEquals``), CreationTime and LastModifiedTime After/Before, and ``where``. ``sort`` maps
        values of SortBy to members where they are not CreationTime, LastModifiedTime, Name or Status.
        ``sort_by`` and ``order`` are the API's defaults.
        """
        keys = {"Name": self.name_key, "Status": self.status_key, **(sort or {})}
        wanted = params.get("SortBy") or sort_by
        key = keys.get(wanted, wanted)
        descending = (params.get("SortOrder") or order) == "Descending"
        found = [r for r in self.all() if self._passes(r, params) and where(r)]
        found.sort(key=lambda r: (r.get(key) is not None, r.get(key)), reverse=descending)
        items, token = page(found, params, default=default)
        return {answer_key: items, "NextToken": token}

    def _passes(self, record: Record, params: Record) -> bool:
        text = params.get("NameContains")
        if text and text.lower() not in str(record.get(self.name_key, "")).lower():
            return False
        status = params.get("StatusEquals") or params.get(f"{self.status_key}Equals")
        if status and record.get(self.status_key) != status:
            return False
        for member in ("CreationTime", "LastModifiedTime"):
            after = params.get(f"{member}After") or (
                params.get("CreatedAfter") if member == "CreationTime" else None
            )
            before = params.get(f"{member}Before") or (
                params.get("CreatedBefore") if member == "CreationTime" else None
            )
            if after and record[member] < after or before and record[member] > before:
                return False
        return True
