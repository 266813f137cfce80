"""What the actions of a pipeline do, each under the pipeline's role (or the action's own)."""

from __future__ import annotations

import copy
import io
import json
import secrets
import string
import time as real_time
import uuid
import zipfile
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from localaws import clock
from localaws.builds import Build, BuildFailed, Inputs, ZipSource
from localaws.services.codecommit import author_date

if TYPE_CHECKING:
    from localaws.pipelines.engine import Run

PRINCIPAL = "codepipeline.amazonaws.com"
Artifact = dict[str, str]  # bucket, key


class ActionFailed(Exception):
    """An action failed: error code and message as its execution shows them."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class ActionAbandoned(Exception):
    """The execution was stopped without waiting for the action."""


class Action:
    """One run of one action.

    ``config`` is resolved, ``result`` and ``variables`` are filled while it runs.
    """

    def __init__(
        self,
        run: Run,
        stage: str,
        declaration: dict[str, Any],
        config: dict[str, str],
        record: dict[str, Any],
    ) -> None:
        self.run, self.stage, self.declaration, self.config, self.record = (
            run,
            stage,
            declaration,
            config,
            record,
        )
        self.cloud = run.cloud
        self.name = declaration["name"]
        self.variables: dict[str, str] = {}
        self.outputs: dict[str, Artifact] = {}
        self.state: dict[str, Any] = {}
        self._roles: dict[str, str] | None = None

    @property
    def there(self) -> Any:
        """The cloud as the account sees it in which the action works: that of its role."""
        own = self.declaration.get("roleArn")
        return self.cloud.at(own.split(":")[4]) if own else self.cloud

    # -- what every action needs ------------------------------------------------------------------------
    def client(self, service: str) -> Any:
        """A client under the pipeline's role, or under the action's, which the pipeline's assumes."""
        pipeline = self.run.pipeline
        if self._roles is None:
            session = f"codepipeline-{pipeline.name}"[:64]
            keys = self.cloud.role_credentials(pipeline.declaration["roleArn"], PRINCIPAL, session)
            own = self.declaration.get("roleArn")
            if own:
                try:
                    answer = self._session("sts", keys).assume_role(RoleArn=own, RoleSessionName=session)
                except ClientError as error:
                    raise ActionFailed(
                        "PermissionError",
                        f"The role {pipeline.declaration['roleArn']} of the pipeline cannot assume the role "
                        f"{own} of action {self.name}: {error.response['Error']['Message']}",
                    ) from error
                keys = answer["Credentials"]
            self._roles = keys
        return self._session(service, self._roles)

    def _session(self, service: str, keys: dict[str, str]) -> Any:
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.cloud.endpoint,
            region_name=self.declaration.get("region") or self.cloud.region,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
        )

    def external(self, identifier: str, url: str = "", summary: str = "") -> None:
        """Note what the action started elsewhere."""
        result = self.record["output"].setdefault("executionResult", {})
        result |= {
            k: v
            for k, v in (
                ("externalExecutionId", identifier),
                ("externalExecutionUrl", url),
                ("externalExecutionSummary", summary),
            )
            if v
        }
        self.run.touch()

    def wait(self) -> None:
        """One turn of waiting for something; raises ActionAbandoned when the execution was stopped hard."""
        real_time.sleep(0.15)
        if self.run.abandoned or self.cloud.stopping:
            raise ActionAbandoned

    def store(self, name: str, content: bytes) -> Artifact:
        """Put an output artifact into the pipeline's store."""
        store = self._store()
        token = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(7))
        key = f"{self.run.pipeline.name[:20]}/{name[:10]}/{token}"
        encryption = {}
        if store.get("encryptionKey"):
            encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": store["encryptionKey"]["id"]}
        try:
            self.client("s3").put_object(Bucket=store["location"], Key=key, Body=content, **encryption)
        except ClientError as error:
            raise ActionFailed(
                "PermissionError" if "Denied" in str(error) else "ConfigurationError",
                f"The artifact {name} could not be written to s3://{store['location']}/{key}: {error}",
            ) from error
        where = {"bucket": store["location"], "key": key}
        self.outputs[name] = where
        return where

    def _store(self) -> dict[str, Any]:
        """The pipeline's store; what AWS's own key encrypted there is of no use in another account.

        https://docs.aws.amazon.com/codepipeline/latest/userguide/pipelines-create-cross-account.html
        """
        store = self.run.pipeline.store(self.declaration.get("region"))
        if not store.get("encryptionKey") and self.there.account != self.cloud.account:
            raise ActionFailed(
                "PermissionError",
                f"The action {self.name} works in account {self.there.account}, where artifacts of "
                f"{store['location']} cannot be decrypted: they are encrypted with the AWS managed key for "
                "Amazon S3. Name a customer managed key of the artifact store (encryptionKey).",
            )
        return store

    def files(self, artifact: str) -> zipfile.ZipFile:
        """An input artifact's files."""
        where = self.run.artifacts.get(artifact)
        if where is None:
            raise ActionFailed(
                "ConfigurationError", f"The input artifact {artifact} does not exist in this execution"
            )
        self._store()
        try:
            content = self.client("s3").get_object(Bucket=where["bucket"], Key=where["key"])["Body"].read()
        except ClientError as error:
            raise ActionFailed(
                "PermissionError",
                f"The artifact {artifact} could not be read from s3://{where['bucket']}/{where['key']}: "
                f"{error}",
            ) from error
        return zipfile.ZipFile(io.BytesIO(content))

    def file(self, reference: str, key: str) -> bytes:
        """The file that ``Artifact::path`` names, out of the action's inputs."""
        artifact, found, path = reference.partition("::")
        inputs = [a["name"] for a in self.declaration.get("inputArtifacts", [])]
        if not found or artifact not in inputs:
            raise ActionFailed(
                "ConfigurationError",
                f"{key} is {reference!r}; it must be <input artifact>::<file>, with one of: "
                f"{', '.join(inputs) or '(none)'}",
            )
        with self.files(artifact) as archive:
            try:
                return archive.read(path)
            except KeyError:
                raise ActionFailed(
                    "ConfigurationError", f"File [{path}] does not exist in artifact [{artifact}]"
                ) from None


# -- sources -------------------------------------------------------------------------------------------
def codecommit_source(action: Action) -> None:
    """Take the branch's (or the asked) commit as a zip."""
    name, branch = action.config["RepositoryName"], action.config["BranchName"]
    client = action.client("codecommit")
    try:
        tip = client.get_branch(repositoryName=name, branchName=branch)["branch"]["commitId"]
        commit = action.run.revisions.get(action.name, tip)
        details = client.get_commit(repositoryName=name, commitId=commit)["commit"]
    except client.exceptions.RepositoryDoesNotExistException:
        raise ActionFailed(
            "ConfigurationError",
            f"The action failed because no repository named {name} was found in AWS CodeCommit. Make sure "
            "you are using "
            "the correct repository, and then try again.",
        ) from None
    except client.exceptions.BranchDoesNotExistException:
        raise ActionFailed(
            "ConfigurationError",
            f"The action failed because no branch named {branch} was found in the selected AWS CodeCommit "
            "repository "
            f"{name}. Make sure you are using the correct branch name, and then try again. Error: null",
        ) from None
    repository = action.there.services["codecommit"].find(name)
    action.store(action.declaration["outputArtifacts"][0]["name"], repository.archive(commit))
    message = details["message"].strip()
    action.variables = {
        "RepositoryName": name,
        "BranchName": branch,
        "CommitId": commit,
        "CommitMessage": message,
        "AuthorDate": author_date(details["author"]["date"]),
        "CommitterDate": author_date(details["committer"]["date"]),
    }
    action.external(
        commit, f"{action.cloud.endpoint}/v1/repos/{name}", message.splitlines()[0][:2048] if message else ""
    )
    _revision(action, commit, message)


def s3_source(action: Action) -> None:
    """Take the object's newest (or the asked) version."""
    bucket, key = action.config["S3Bucket"], action.config["S3ObjectKey"]
    client = action.client("s3")
    version = action.run.revisions.get(action.name)
    try:
        answer = client.get_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
    except ClientError as error:
        raise ActionFailed(
            "ConfigurationError",
            f"The object with key '{key}' in the bucket '{bucket}' could not be read: {error}",
        ) from error
    if "VersionId" not in answer:
        raise ActionFailed(
            "ConfigurationError", f"The bucket {bucket} is not versioned: a source bucket must be"
        )
    action.store(action.declaration["outputArtifacts"][0]["name"], answer["Body"].read())
    action.variables = {
        "BucketName": bucket,
        "ObjectKey": key,
        "VersionId": answer["VersionId"],
        "ETag": answer["ETag"].strip('"'),
    }
    action.external(answer["VersionId"], "", f"Amazon S3 version id: {answer['VersionId']}")
    _revision(action, answer["VersionId"], f"Amazon S3 version id: {answer['VersionId']}")


def _revision(action: Action, identifier: str, summary: str) -> None:
    action.state["currentRevision"] = {
        "revisionId": identifier,
        "revisionChangeId": identifier,
        "created": clock.now(),
    }
    action.run.source_revisions[action.name] = {
        "name": action.declaration["outputArtifacts"][0]["name"],
        "actionName": action.name,
        "revisionId": identifier,
        "revisionSummary": summary[:2048],
        "created": clock.now(),
    }


# -- build ---------------------------------------------------------------------------------------------
def codebuild(action: Action) -> None:
    """Run a build with the input artifacts as sources; its artifacts become the outputs."""
    service = action.there.services["codebuild"]
    inputs = [a["name"] for a in action.declaration["inputArtifacts"]]
    primary = action.config.get("PrimarySource") or inputs[0]
    where = {name: action.run.artifacts[name] for name in inputs}
    sources = [
        ZipSource("" if n == primary else n, where[n]["bucket"], where[n]["key"])
        for n in sorted(inputs, key=lambda n: n != primary)
    ]
    outputs = [a["name"] for a in action.declaration.get("outputArtifacts", [])]
    delivered: dict[str, bytes] = {}

    def deliver(build: Build) -> None:
        """With one output it is the primary artifact, with more they are found by identifier."""
        for name in outputs:
            content = build.outputs.get(name) or (build.outputs.get("") if len(outputs) == 1 else None)
            if content is None:
                raise BuildFailed(
                    "CLIENT_ERROR",
                    f"no artifact named {name} in the buildspec: {len(outputs)} output artifacts are "
                    "secondary-artifacts by name",
                )
            delivered[name] = content

    token = str(uuid.uuid4())
    service.prepared[token] = Inputs(sources, {"", *outputs} if outputs else set(), deliver)
    try:
        variables = json.loads(action.config.get("EnvironmentVariables") or "[]")
    except ValueError as error:
        raise ActionFailed("ConfigurationError", f"EnvironmentVariables is not JSON: {error}") from error
    revision = next(
        (r["revisionId"] for r in action.run.source_revisions.values() if r["name"] == primary), ""
    )
    override = (
        {"buildspecOverride": action.config["BuildspecOverride"]}
        if action.config.get("BuildspecOverride")
        else {}
    )
    client = action.client("codebuild")
    try:
        build = client.start_build(
            projectName=action.config["ProjectName"],
            environmentVariablesOverride=variables,
            idempotencyToken=token,
            sourceVersion=revision or f"arn:aws:s3:::{where[primary]['bucket']}/{where[primary]['key']}",
            **override,
        )["build"]
    except ClientError as error:
        raise ActionFailed(
            "ConfigurationError",
            f"Error calling startBuild: {error.response['Error']['Message']} (Service: CodeBuild; Error "
            "Code: "
            f"{error.response['Error']['Code']})",
        ) from error
    finally:
        service.prepared.pop(token, None)
    action.external(build["id"], build["logs"].get("deepLink", ""))
    try:
        while not (build := client.batch_get_builds(ids=[build["id"]])["builds"][0])["buildComplete"]:
            action.wait()
    except ActionAbandoned:
        client.stop_build(id=build["id"])
        raise
    if build["buildStatus"] != "SUCCEEDED":
        failed = next((p for p in build["phases"] if p.get("phaseStatus") not in (None, "SUCCEEDED")), None)
        context = (failed or {}).get("contexts", [{}])[0]
        raise ActionFailed(
            "JobFailed",
            f"Build terminated with state: {build['buildStatus']}. Phase: "
            f"{failed['phaseType'] if failed else '-'}, "
            f"Code: {context.get('statusCode', '')}, Message: {context.get('message', '')}",
        )
    for name, content in delivered.items():
        action.store(name, content)
    action.variables = {v["name"]: v["value"] for v in build.get("exportedEnvironmentVariables", [])}


# -- CloudFormation ------------------------------------------------------------------------------------
_FAILED = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "UPDATE_ROLLBACK_FAILED")


def cloudformation(action: Action) -> None:
    """Create, update, replace or delete a stack, at once or by way of a change set."""
    client, mode, name = (
        action.client("cloudformation"),
        action.config["ActionMode"],
        action.config["StackName"],
    )
    if action.config.get("RoleArn"):
        try:
            action.cloud.check_trust(action.config["RoleArn"], "cloudformation.amazonaws.com")
        except Exception as error:
            raise ActionFailed(
                "ConfigurationError",
                f"Role {action.config['RoleArn']} is invalid or cannot be assumed: "
                f"{getattr(error, 'message', error)}",
            ) from error
    stack = _stack(client, name)
    if mode == "DELETE_ONLY":
        if stack:
            _delete(action, client, stack)
        return
    if mode == "CHANGE_SET_EXECUTE":
        _execute(action, client, name)
    elif mode == "CHANGE_SET_REPLACE":
        _change_set(action, client, name, stack)
        return
    else:
        if stack and stack["StackStatus"] in _FAILED:
            if mode == "CREATE_UPDATE":
                raise ActionFailed(
                    "StackUpdateFailed" if "UPDATE" in stack["StackStatus"] else "ConfigurationError",
                    f"Stack:{stack['StackId']} is in {stack['StackStatus']} state and can not be updated.",
                )
            _delete(action, client, stack)
            stack = None
        _create_or_update(action, client, name, stack)
    _outputs(action, client, name)


def _stack(client: Any, name: str) -> dict[str, Any] | None:
    try:
        return client.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def _request(action: Action) -> dict[str, Any]:
    """Template, parameters, tags, capabilities and role as CloudFormation's calls take them."""
    config = action.config
    body = action.file(config["TemplatePath"], "TemplatePath").decode()
    template: dict[str, Any] = {"TemplateBody": body}
    if len(body.encode()) > 51_200:  # as a body it would be refused; CodePipeline hands it over in S3
        where = action.store("template", body.encode())
        action.outputs.pop("template")
        template = {
            "TemplateURL": f"https://{where['bucket']}.s3.{action.cloud.region}.amazonaws.com/{where['key']}"
        }
    settings: dict[str, Any] = {}
    if config.get("TemplateConfiguration"):
        settings = _json(
            action.file(config["TemplateConfiguration"], "TemplateConfiguration"),
            config["TemplateConfiguration"],
        )
        unknown = sorted(set(settings) - {"Parameters", "Tags", "StackPolicy"})
        if unknown:
            raise ActionFailed(
                "ConfigurationError",
                f"{config['TemplateConfiguration']} has unknown keys {', '.join(unknown)}; there are "
                "Parameters, Tags, StackPolicy",
            )
    parameters = dict(settings.get("Parameters") or {})
    for key, value in _json(config.get("ParameterOverrides") or "{}", "ParameterOverrides").items():
        parameters[key] = _override(action, key, value)
    wrong = [k for k, v in parameters.items() if not isinstance(v, str)]
    if wrong:
        raise ActionFailed(
            "ConfigurationError", f"TemplateConfiguration: the value of parameter {wrong[0]} is not a string"
        )
    out = {
        **template,
        "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        "Tags": [{"Key": k, "Value": v} for k, v in (settings.get("Tags") or {}).items()],
        "RoleARN": config["RoleArn"],
    }
    if config.get("Capabilities"):
        out["Capabilities"] = [c.strip() for c in config["Capabilities"].split(",")]
    if settings.get("StackPolicy"):
        out["StackPolicyBody"] = json.dumps(settings["StackPolicy"])
    return out


def _json(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ActionFailed("ConfigurationError", f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ActionFailed("ConfigurationError", f"{what} is not a JSON object")
    return value


def _override(action: Action, key: str, value: Any) -> Any:
    if isinstance(value, dict) and "Fn::GetArtifactAtt" in value:
        artifact, attribute = value["Fn::GetArtifactAtt"]
        where = action.run.artifacts.get(artifact, {})
        known = {
            "BucketName": where.get("bucket"),
            "ObjectKey": where.get("key"),
            "ArtifactName": artifact,
            "URL": f"https://{where.get('bucket')}.s3.{action.cloud.region}.amazonaws.com/{where.get('key')}",
        }
        if not where or attribute not in known:
            raise ActionFailed(
                "ConfigurationError",
                f"ParameterOverrides.{key}: artifact {artifact} has no attribute {attribute}",
            )
        return known[attribute]
    if isinstance(value, dict) and "Fn::GetParam" in value:
        artifact, file, name = value["Fn::GetParam"]
        found = _json(action.file(f"{artifact}::{file}", "ParameterOverrides"), f"{artifact}::{file}")
        if name not in found:
            raise ActionFailed(
                "ConfigurationError", f"ParameterOverrides.{key}: {artifact}::{file} has no key {name}"
            )
        return found[name]
    return value


def _create_or_update(action: Action, client: Any, name: str, stack: dict[str, Any] | None) -> None:
    request = _request(action)
    try:
        if stack and stack["StackStatus"] != "REVIEW_IN_PROGRESS":
            identifier = client.update_stack(StackName=name, **request)["StackId"]
        else:
            identifier = client.create_stack(StackName=name, **request)["StackId"]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            action.external(name, "", "No updates are to be performed.")
            return
        raise _refused(error, name) from error
    action.external(identifier)
    _settle(action, client, identifier, ("CREATE_COMPLETE", "UPDATE_COMPLETE"))


def _refused(error: ClientError, name: str) -> ActionFailed:
    return ActionFailed("ConfigurationError", f"Stack {name}: {error.response['Error']['Message']}")


def _settle(action: Action, client: Any, identifier: str, good: tuple[str, ...]) -> None:
    """Wait until the stack has come to rest.

    Raises ActionFailed with the reasons of the resources that failed.
    """
    while (stack := _stack(client, identifier)) and stack["StackStatus"].endswith("_IN_PROGRESS"):
        action.wait()
    status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
    if status in good or (status == "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS" and "UPDATE_COMPLETE" in good):
        return
    events = client.describe_stack_events(StackName=identifier)["StackEvents"]
    reasons = [
        f"{e['LogicalResourceId']} ({e['ResourceType']}): {e.get('ResourceStatusReason', '')}"
        for e in reversed(events)
        if e["ResourceStatus"].endswith("_FAILED") and "cancelled" not in e.get("ResourceStatusReason", "")
    ]
    raise ActionFailed(
        "JobFailed",
        f"Stack {stack['StackName'] if stack else identifier} is in {status}: "
        f"{(stack or {}).get('StackStatusReason', '')} "
        f"{'; '.join(dict.fromkeys(reasons[-3:]))}".strip(),
    )


def _delete(action: Action, client: Any, stack: dict[str, Any]) -> None:
    role = {"RoleARN": action.config["RoleArn"]} if action.config.get("RoleArn") else {}
    client.delete_stack(StackName=stack["StackId"], **role)
    action.external(stack["StackId"])
    _settle(action, client, stack["StackId"], ("DELETE_COMPLETE",))


def _change_set(action: Action, client: Any, name: str, stack: dict[str, Any] | None) -> None:
    request = _request(action)
    policy = request.pop("StackPolicyBody", None)
    new = stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS"
    change = action.config["ChangeSetName"]
    try:
        if stack:
            client.delete_change_set(StackName=name, ChangeSetName=change)
    except ClientError as error:
        if "does not exist" not in str(error) and "NotFound" not in str(error):
            raise
    try:
        made = client.create_change_set(
            StackName=name, ChangeSetName=change, ChangeSetType="CREATE" if new else "UPDATE", **request
        )
    except ClientError as error:
        raise _refused(error, name) from error
    action.external(made["Id"])
    while (found := client.describe_change_set(ChangeSetName=made["Id"], StackName=name))["Status"] in (
        "CREATE_PENDING",
        "CREATE_IN_PROGRESS",
    ):
        action.wait()
    if found["Status"] == "FAILED" and not _empty(found):
        raise ActionFailed(
            "ConfigurationError", f"Change set {change} of stack {name}: {found.get('StatusReason', '')}"
        )
    if policy:
        client.set_stack_policy(StackName=name, StackPolicyBody=policy)
    action.variables = {"ChangeSetName": change, "StackName": name}


def _empty(found: dict[str, Any]) -> bool:
    reason = found.get("StatusReason", "")
    return "didn't contain changes" in reason or "No updates are to be performed" in reason


def _execute(action: Action, client: Any, name: str) -> None:
    change = action.config["ChangeSetName"]
    try:
        found = client.describe_change_set(ChangeSetName=change, StackName=name)
        if _empty(found):
            action.external(found["ChangeSetId"], "", "The change set holds no changes.")
            return
        client.execute_change_set(ChangeSetName=change, StackName=name)
    except ClientError as error:
        raise _refused(error, name) from error
    action.external(found["ChangeSetId"])
    _settle(action, client, found.get("StackId") or name, ("CREATE_COMPLETE", "UPDATE_COMPLETE"))


def _outputs(action: Action, client: Any, name: str) -> None:
    outputs = {o["OutputKey"]: o["OutputValue"] for o in (_stack(client, name) or {}).get("Outputs", [])}
    action.variables = outputs
    artifacts = action.declaration.get("outputArtifacts")
    if artifacts and action.config.get("OutputFileName"):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(action.config["OutputFileName"], json.dumps(outputs))
        action.store(artifacts[0]["name"], packed.getvalue())


# -- approval, Lambda ----------------------------------------------------------------------------------
def approval(action: Action) -> None:
    """Ask a person by the topic, and wait for PutApprovalResult or the time to run out."""
    token = str(uuid.uuid4())
    minutes = action.declaration.get("timeoutInMinutes") or 7 * 24 * 60
    expires = clock.now() + timedelta(minutes=minutes)
    action.state["token"] = token
    action.record["approval"] = {"token": token, "answer": None}
    action.run.touch()
    if action.config.get("NotificationArn"):
        _ask(action, token, expires)
    while not (answer := action.record["approval"]["answer"]):
        if clock.now() > expires:
            raise ActionFailed(
                "ApprovalTimedOut", f"The approval action did not get an answer within {minutes} minutes"
            )
        action.wait()
    action.external("", "", answer["summary"])
    action.state["lastUpdatedBy"] = answer["by"]
    action.record["updatedBy"] = answer["by"]
    if answer["status"] == "Rejected":
        raise ActionFailed("ApprovalRejected", f"Rejected by {answer['by']}: {answer['summary']}")


def _ask(action: Action, token: str, expires: Any) -> None:
    pipeline, region = action.run.pipeline.name, action.cloud.region
    link = f"https://console.aws.amazon.com/codesuite/codepipeline/pipelines/{pipeline}/view?region={region}"
    details = {
        "pipelineName": pipeline,
        "stageName": action.stage,
        "actionName": action.name,
        "token": token,
        "expires": expires.strftime("%Y-%m-%dT%H:%MZ"),
        "externalEntityLink": action.config.get("ExternalEntityLink"),
        "approvalReviewLink": f"{link}#/{action.stage}/{action.name}/approve/{token}",
        "customData": action.config.get("CustomData"),
    }
    mail = "\n".join(
        [
            "Hello,",
            "",
            "The following Approval action is waiting for your response:",
            "",
            "--Pipeline Details--",
            "",
            f"Pipeline name: {pipeline}",
            f"Stage name: {action.stage}",
            f"Action name: {action.name}",
            f"Region: {region}",
            "",
            "--Approval Details--",
            "",
            f"Approval review URL: {details['approvalReviewLink']}",
            f"URL for review: {details['externalEntityLink'] or '(none)'}",
            f"Additional information: {details['customData'] or '(none)'}",
            f"Deadline: This review request will expire on {details['expires']}",
            "",
            "Sincerely,",
            "Amazon Web Services",
        ]
    )
    document = json.dumps(
        {"region": region, "consoleLink": link, "approval": {k: v for k, v in details.items() if v}}
    )
    try:
        action.client("sns").publish(
            TopicArn=action.config["NotificationArn"],
            Subject=f"APPROVAL NEEDED: AWS CodePipeline {pipeline} for action {action.name}"[:99],
            MessageStructure="json",
            Message=json.dumps({"default": document, "email": mail, "email-json": document}),
        )
    except ClientError as error:
        raise ActionFailed(
            "ConfigurationError",
            f"The approval could not be announced on {action.config['NotificationArn']}: {error}",
        ) from error


def lambda_invoke(action: Action) -> None:
    """Invoke a function with a job; it answers with PutJobSuccessResult or PutJobFailureResult."""
    job = str(uuid.uuid4())
    jobs = action.cloud.services["codepipeline"].jobs
    jobs[job] = None
    event = {
        "CodePipeline.job": {
            "id": job,
            "accountId": action.cloud.account,
            "data": {
                "actionConfiguration": {"configuration": dict(action.config)},
                "inputArtifacts": [
                    _job_artifact(a["name"], action.run.artifacts[a["name"]])
                    for a in action.declaration.get("inputArtifacts", [])
                ],
                "outputArtifacts": [],
                "continuationToken": None,
            },
        }
    }
    try:
        action.client("lambda").invoke(
            FunctionName=action.config["FunctionName"],
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )
    except ClientError as error:
        raise ActionFailed(
            "ConfigurationError",
            f"The function {action.config['FunctionName']} could not be invoked: {error}",
        ) from error
    action.external(job)
    deadline = clock.time() + 3600
    while jobs[job] is None:
        if clock.time() > deadline:
            raise ActionFailed(
                "JobFailed",
                "The AWS Lambda function failed to return a result. Check the function to verify that it "
                "has permission to call "
                "the PutJobSuccessResult action and that it made a call to PutJobSuccessResult.",
            )
        action.wait()
    answer = copy.deepcopy(jobs.pop(job))
    if "failureDetails" in answer:
        raise ActionFailed(answer["failureDetails"]["type"], answer["failureDetails"]["message"])
    action.variables = answer.get("outputVariables") or {}
    details = answer.get("executionDetails") or {}
    action.external(details.get("externalExecutionId", ""), "", details.get("summary", ""))


def _job_artifact(name: str, where: Artifact) -> dict[str, Any]:
    return {
        "name": name,
        "revision": None,
        "location": {"type": "S3", "s3Location": {"bucketName": where["bucket"], "objectKey": where["key"]}},
    }


RUNNERS = {
    ("Source", "CodeCommit"): codecommit_source,
    ("Source", "S3"): s3_source,
    ("Build", "CodeBuild"): codebuild,
    ("Test", "CodeBuild"): codebuild,
    ("Deploy", "CloudFormation"): cloudformation,
    ("Approval", "Manual"): approval,
    ("Invoke", "Lambda"): lambda_invoke,
}
