"""What all jobs share: the checks at creation, the places for their processes, their events."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from localaws import clock, containers, images, process
from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.permissions import gate
from localaws.permissions.access import Access
from localaws.permissions.callers import caller_of_role
from localaws.permissions.network import network_of
from localaws.service import model, to_wire
from localaws.services.sagemaker.data import DataError
from localaws.services.sagemaker.records import Base, Record
from localaws.services.sagemaker.running import Run

PRINCIPAL = "sagemaker.amazonaws.com"
#: containers of jobs that run at once: the machine has few cores, AWS has an instance for each
AT_ONCE = 2


class Stopped(Exception):
    """The job was stopped before its container began."""


class JobFailed(Exception):
    """The job fails; the message is its FailureReason."""


class JobBase(Base):
    """Checks, places and events of jobs."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.runs: dict[str, Run] = {}
        self._places = threading.BoundedSemaphore(AT_ONCE)
        cloud.on_close(process.kill_all)

    # -- what AWS checks when a job is created ---------------------------------------------------------------
    def check_image(self, uri: str) -> None:
        """Refuse an image that is not in ECR, for the account's own registry and for AWS's."""
        missing = AwsError("ValidationException", f"Requested image {uri} not found.")
        try:
            reference = images.parse(uri)
        except images.ImageError as error:
            raise AwsError("ValidationException", f"Invalid image URI {uri}. {error}") from error
        if reference.account not in self.cloud.accounts:
            from localaws import base_images

            if base_images.find(uri) is None:
                raise missing
            return
        wanted = {"imageDigest": reference.digest} if reference.digest else {"imageTag": reference.tag}
        ecr = self.cloud.at(reference.account).client("ecr")
        try:
            answer = ecr.describe_images(repositoryName=reference.repository, imageIds=[wanted])
        except ClientError as error:
            raise missing from error
        if not answer["imageDetails"]:
            raise missing

    def check_network(self, vpc: Record | None) -> None:
        """Refuse subnets and security groups that do not exist."""
        if not vpc:
            return
        ec2 = self.cloud.client("ec2")
        try:
            ec2.describe_subnets(SubnetIds=vpc["Subnets"])
            ec2.describe_security_groups(GroupIds=vpc["SecurityGroupIds"])
        except ClientError as error:
            raise AwsError(
                "ValidationException", f"VpcConfig: {error.response['Error']['Message']}"
            ) from error

    def check_one_instance(self, count: int) -> None:
        """Say so when a job asks for what is not run here."""
        if count > 1:
            raise AwsError(
                "NotImplemented", f"InstanceCount {count}: the local cloud runs a job on one instance", 501
            )

    # -- running ---------------------------------------------------------------------------------------------
    def s3_as(self, role: str, vpc: Record | None = None) -> Any:
        """An S3 client under the job's role; with a VpcConfig SageMaker reads and writes through that VPC.

        https://docs.aws.amazon.com/sagemaker/latest/dg/train-vpc.html
        """
        network = network_of(self.cloud, vpc, "job")
        return self.cloud.client("s3", role=role, principal=PRINCIPAL, session="SageMaker", network=network)

    def environment_as(
        self, role: str, vpc: Record | None = None, isolated: bool | None = False
    ) -> dict[str, str]:
        """Credentials, region and endpoint for a container that works under a role, in its VPC.

        A container under network isolation reaches nothing and gets no credentials.
        https://docs.aws.amazon.com/sagemaker/latest/dg/mkt-algo-model-internet-free.html
        """
        if isolated:
            return {"AWS_REGION": self.cloud.region, "AWS_DEFAULT_REGION": self.cloud.region}
        return self.cloud.role_environment(role, PRINCIPAL, "SageMaker", network_of(self.cloud, vpc, "job"))

    def image_for(self, uri: str, role: str) -> images.Image:
        """The image of a container that works under a role. Raises ImageError.

        The account's own registry lets SageMaker in; a repository of another account asks who the role is.
        """
        account = uri.partition(".dkr.ecr.")[0]
        if account != self.cloud.account and account in self.cloud.accounts:
            repository = images.parse(uri).repository
            arn = f"arn:{self.cloud.partition}:ecr:{self.cloud.region}:{account}:repository/{repository}"
            caller = caller_of_role(self.cloud, role, "SageMaker")
            for action in ("BatchCheckLayerAvailability", "GetDownloadUrlForLayer", "BatchGetImage"):
                try:
                    gate.authorize(self.cloud, caller, Access(f"ecr:{action}", arn))
                except AwsError as error:
                    raise images.ImageError(
                        f"The role '{role}' does not have {action} permission for the image: '{uri}'. "
                        f"{error.message}"
                    ) from error
        return images.pull(self.cloud, uri)

    def pull(self, uri: str, role: str) -> images.Image:
        """The image of a container. Raises JobFailed as a job that cannot pull does."""
        try:
            return self.image_for(uri, role)
        except images.ImageError as error:
            raise JobFailed(f"ClientError: Cannot pull image {uri}: {error}") from error

    @contextmanager
    def running(self, arn: str, kind: str, name: str) -> Iterator[Run]:
        """A job's folder and its handle, gone at the end."""
        folder = self.cloud.home / "sagemaker" / kind / f"{name}-{self.cloud.new_id(length=6)}"
        (folder / "ml").mkdir(parents=True)
        run = self.runs[arn]
        run.folder = folder
        try:
            yield run
        finally:
            self.runs.pop(arn, None)
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def place(self, run: Run) -> Iterator[None]:
        """Wait for a free place among the containers that run at once. Raises Stopped."""
        while not self._places.acquire(timeout=0.2):
            if run.stopping.is_set() or self.cloud.stopping:
                raise Stopped
        try:
            if run.stopping.is_set():
                raise Stopped
            yield
        finally:
            self._places.release()

    def expect(self, run: Run) -> None:
        """Raises Stopped when somebody stopped the job meanwhile."""
        if run.stopping.is_set():
            raise Stopped

    def pause_for(self, run: Run, seconds: float) -> None:
        """AWS's waiting time, cut short when the job is stopped."""
        run.stopping.wait(seconds * self.cloud.time_scale)
        self.expect(run)

    @staticmethod
    def reason_of(error: Exception) -> str:
        """The FailureReason for a fault of the job's own making or of the local cloud."""
        if isinstance(error, JobFailed | DataError):
            return str(error)
        if isinstance(error, containers.ContainersUnavailable):
            return f"ClientError: {error}"
        if isinstance(error, AwsError):
            return f"ClientError: {error.message}"
        return f"InternalServerError: {type(error).__name__}: {error}"

    # -- events ----------------------------------------------------------------------------------------------
    def state_event(self, detail_type: str, operation: str, record: Record, arn: str, **changed: Any) -> None:
        """Emit a state change whose detail is what Describe answers, times in milliseconds, tags as a map."""
        shape = model("sagemaker").operation_model(operation).output_shape
        detail = {
            **_milliseconds(to_wire(shape, dict(record)), record),
            **changed,
            "Tags": dict(self.tags.get(arn, {})),
        }
        self.cloud.emit("aws.sagemaker", detail_type, detail, [arn])


def _milliseconds(wire: Any, record: Any) -> Any:
    """Epoch seconds as the whole milliseconds that events carry, where the record has a moment."""
    if isinstance(record, datetime):
        return int(record.timestamp() * 1000)
    if isinstance(wire, dict) and isinstance(record, dict):
        return {k: _milliseconds(v, record.get(k)) for k, v in wire.items()}
    if isinstance(wire, list) and isinstance(record, list):
        return [_milliseconds(w, r) for w, r in zip(wire, record, strict=True)]
    return wire


def stream_name(job: str) -> str:
    """The log stream of a job's only instance."""
    return f"{job}/algo-1-{int(clock.time())}"


def local(ml: Path, path: str) -> Path:
    """Where a container's path below ``/opt/ml`` lies on this machine."""
    return ml / path.removeprefix("/opt/ml").lstrip("/")
