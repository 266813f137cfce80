"""The API of a project: who gets in, what comes back, and releases of its function under a steady load.

Its callers are an application of the company with a role of its own, which may call this API and nothing
else. They ask from the internet, as the API is public.
"""

from __future__ import annotations

import csv
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

import account
import approve
from rehearse import story
from rehearse.engine import Rehearsal, Step
from rehearse.load import Answer, SteadyLoad
from rehearse.releases import events

PER_SECOND = 8
SECONDS = 40
CODE = "src/api.py"
OTHER_ANSWER = """

_handler = handler


def handler(event, context):  # noqa: F811
    \"\"\"Somebody thought that callers want less.\"\"\"
    return {**_handler(event, context), "body": "0.5\\n"}
"""


@dataclass
class Said:
    """Status, headers and text of an answer."""

    status: int
    headers: dict[str, str]
    text: str


class Caller:
    """An application that calls the API; ``invoke_endpoint`` lets the steady load call it, too."""

    def __init__(self, r: Rehearsal, made: story.Project) -> None:
        self.r, self.stack = r, f"mlops-{made.id}-api"
        found = r.administrator().client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"][0]
        self.outputs = {one["OutputKey"]: one["OutputValue"] for one in found["Outputs"]}
        self.session = r.persona(self._role(f"web-shop-{made.id}"), "web-shop")

    def _role(self, name: str) -> str:
        """What an administrator gives an application: leave to call this API."""
        iam, me = self.r.administrator().client("iam"), self.outputs["ApiArn"].split(":")[4]
        trust = {"Effect": "Allow", "Principal": {"AWS": me}, "Action": "sts:AssumeRole"}
        call = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": self.outputs["ApiArn"]}
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"]["Arn"]
        iam.put_role_policy(RoleName=name, PolicyName="call", PolicyDocument=_policy(call))
        return role

    def call(self, body: str, session: Any = None, identity: str = "", url: str = "") -> Said:
        """One request; with a session it is signed."""
        url = url or self.outputs["ApiUrl"]
        host, _, path = url.removeprefix("https://").partition("/")
        headers = {"Content-Type": "text/csv", "X-Amzn-SageMaker-Inference-Id": identity or "caller"}
        request = AWSRequest("POST", url, headers=headers, data=body.encode())
        if session:
            SigV4Auth(session.get_credentials(), "execute-api", session.region_name).add_auth(request)
        sent = {**dict(request.headers.items()), "Host": host}
        made = urllib.request.Request(f"{self.r.cloud.url}/{path}", body.encode(), sent)
        try:
            with urllib.request.urlopen(made, timeout=SECONDS) as answer:
                return Said(answer.status, dict(answer.headers), answer.read().decode())
        except urllib.error.HTTPError as error:
            return Said(error.code, dict(error.headers), error.read().decode(errors="replace"))

    def invoke_endpoint(self, Body: str, InferenceId: str, **_: str) -> dict[str, Any]:  # noqa: N803
        """One signed request, in the form of the endpoint's own client."""
        said = self.call(Body, self.session, InferenceId)
        if said.status != 200:
            error = {"Error": {"Code": "Api", "Message": said.text}, "OriginalStatusCode": said.status}
            raise ClientError(error, "InvokeApi")
        return {"Body": io.StringIO(said.text)}


def _policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": "Own", **statement}]})


def run(r: Rehearsal, made: story.Project, clone: Path, load: SteadyLoad | None = None) -> None:
    """Call the API that the deploy pipeline made, release it well and badly, and delete it.

    ``load`` is a client that asks the endpoint itself all the while: none of this may cost it a request.
    """
    began = time.monotonic()
    with r.use_case("F", "an API in front of the model"):
        caller = Caller(r, made)
        rows = story.applicants(r, made)[:30]
        bodies = [_csv([row]) for row in rows]
        with r.step("who gets in, and what comes back") as step:
            step.say(who_gets_in(r, made, caller, rows))
        with SteadyLoad(caller, "", bodies, PER_SECOND) as callers:
            releases = Releases(r, made, clone, caller, callers)
            releases.other_answer()
            releases.alarmed()
            releases.good()
        releases.summed_up()
        with r.step("the API is deleted, the endpoint stays") as step:
            step.say(deleted(r, made, caller))
        if load:
            lost = [one for one in load.since(began) if one.failed]
            r.check(not lost, f"{len(lost)} requests of the endpoint failed meanwhile", _shown(lost))


def _csv(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _shown(answers: list[Answer]) -> list[str]:
    return [f"{one.identity}: {one.status} {one.reason}" for one in answers[:8]]


def who_gets_in(r: Rehearsal, made: story.Project, caller: Caller, rows: list[list[str]]) -> str:
    """Signed requests get the endpoint's own answer, others none; a bad row gets its reason."""
    body = _csv(rows)
    signed = caller.call(body, caller.session, "order-7")
    r.check(signed.status == 200, f"a signed request got {signed.status}", [signed.text])
    direct = [float(line) for line in story.invoke(r, made, rows)]
    scores = [float(line.partition(",")[0]) for line in signed.text.split()]
    r.check(scores == direct, "the API answers otherwise than the endpoint", [signed.text[:200]])
    names = {name.lower(): value for name, value in signed.headers.items()}
    r.check(names.get("x-amzn-sagemaker-inference-id") == "order-7", f"the answer has headers {names}")
    for what, session in (("without a signature", None), ("of the data scientist", story.person(r, made))):
        refused = caller.call(body, session)
        r.check(refused.status == 403, f"a request {what} got {refused.status}", [refused.text])
    bad = caller.call(_csv([rows[0][:-1]]), caller.session)
    reason = json.loads(bad.text).get("error", "") if bad.status == 400 else ""
    r.check(bool(reason), f"a row with a column too few got {bad.status}", [bad.text])
    return f"{len(scores)} scores as the endpoint's; 403 without leave; 400: {reason[:60]}"


class Releases:
    """Releases of the function, each watched by the API's callers."""

    def __init__(
        self, r: Rehearsal, made: story.Project, clone: Path, caller: Caller, callers: SteadyLoad
    ) -> None:
        self.r, self.made, self.clone, self.caller, self.callers = r, made, clone, caller, callers
        self.admin = r.administrator()
        self.rows: list[list[str]] = []

    # --- the cases

    def other_answer(self) -> None:
        """A commit that changes what callers get: the hook refuses it, the pipeline ends red."""
        session, pipeline = story.person(self.r, self.made), self.made.settings["deploy-pipeline-name"]
        with self.r.step("a commit that changes the answers: build it") as step:
            text = (self.clone / CODE).read_text() + OTHER_ANSWER
            commit = story.push_change(
                self.r, self.made, self.clone, "less", "Callers want less", {CODE: text}
            )
            build = self.made.settings["build-pipeline-name"]
            story.wait_for_execution(self.r, session, step, build, commit=commit, timeout=900)
            version = story.read_version(self.r, self.made, step, commit)
        with self.r.step("its hook keeps callers with the version before") as step:

            def act() -> str:
                execution = story.approve_version(self.r, self.made, version["arn"])
                follow = (self.r, session, step, pipeline, execution)
                story.wait_for_execution(*follow, until_approval=True)
                approve.answer_release(session.client("codepipeline"), pipeline, "Approved", "rehearsal")
                try:
                    story.wait_for_execution(*follow)
                except account.FailedError as error:
                    here = "stage Api," in error.args[0]
                    self.r.check(here, f"it should have failed in Api: {error.args[0]}", error.reasons)
                    return "stopped in Api"
                self.r.check(False, f"{pipeline} let an API through that answers otherwise")
                return ""

            self.observed(step, "hook refuses it", act, moves=False)
            status, reasons = self.told()
            self.r.check(status == "UPDATE_ROLLBACK_COMPLETE", f"{self.caller.stack} is {status}", reasons)
            deployment = any("CodeDeploy" in reason for reason in reasons)
            self.r.check(deployment, "no reason of the stack names CodeDeploy's deployment", reasons)
            found = self.checked()
            seen = any("golden rows as CSV: another answer" in line for line in found)
            self.r.check(seen, "the check did not see that the answers differ", found[-4:])

    def alarmed(self) -> None:
        """An image without a fault, and an alarm that goes off while a tenth of the callers have it."""

        def ring() -> None:
            self.r.wait("the canary", self.canary, timeout=60, every=0.1)
            cloudwatch, alarm = self.admin.client("cloudwatch"), self.alarm("ServerErrors")
            why = "the operator saw something that the metrics do not show"
            cloudwatch.set_alarm_state(AlarmName=alarm, StateValue="ALARM", StateReason=why)

        with self.r.step("an alarm during the canary takes it back") as step:
            image = self.same_image_again("watched")
            act = lambda: self.updated(image, "UPDATE_ROLLBACK_COMPLETE", ring)  # noqa: E731
            self.observed(step, "alarm during the canary", act, moves=False)
            calm = {"AlarmName": self.alarm("ServerErrors"), "StateValue": "OK", "StateReason": "seen to"}
            self.admin.client("cloudwatch").set_alarm_state(**calm)

    def good(self) -> None:
        """The same image, and nobody minds: all callers are moved."""
        with self.r.step("without an alarm all callers are moved") as step:
            image = self.same_image_again("good")
            act = lambda: self.updated(image, "UPDATE_COMPLETE")  # noqa: E731
            self.observed(step, "good release", act, moves=True)

    # --- what people do

    def same_image_again(self, word: str) -> str:
        """The live image under another digest: the same content with one more annotation."""
        found = self.admin.client("cloudformation").describe_stacks(StackName=self.caller.stack)["Stacks"][0]
        uri = {p["ParameterKey"]: p["ParameterValue"] for p in found["Parameters"]}["ImageUri"]
        repository, _, digest = uri.partition("/")[2].partition("@")
        ecr = self.admin.client("ecr")
        image = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageDigest": digest}])["images"][
            0
        ]
        manifest = json.loads(image["imageManifest"])
        manifest["annotations"] = {**manifest.get("annotations", {}), "org.opencontainers.image.title": word}
        put = ecr.put_image(
            repositoryName=repository,
            imageManifest=json.dumps(manifest),
            imageManifestMediaType=image["imageManifestMediaType"],
            imageTag=f"api-{word}",
        )
        return f"{uri.partition('@')[0]}@{put['image']['imageId']['imageDigest']}"

    def updated(self, image: str, wanted: str, meanwhile: Callable[[], None] = lambda: None) -> str:
        """Give the stack another image, under the role that the pipeline gave the stack."""
        client, stack = self.admin.client("cloudformation"), self.caller.stack
        found = client.describe_stacks(StackName=stack)["Stacks"][0]
        kept = [
            {"ParameterKey": one["ParameterKey"], "UsePreviousValue": True}
            for one in found["Parameters"]
            if one["ParameterKey"] != "ImageUri"
        ]
        client.update_stack(
            StackName=stack,
            UsePreviousTemplate=True,
            Parameters=[*kept, {"ParameterKey": "ImageUri", "ParameterValue": image}],
        )
        meanwhile()
        status = self.r.wait(f"stack {stack} to come to rest", self.at_rest, timeout=300)
        self.r.check(status == wanted, f"{stack} is {status}, not {wanted}", self.told()[1])
        return status

    # --- what is seen

    def at_rest(self) -> str | None:
        """The status of the stack once nothing is under way."""
        status = account.stack_status(self.admin.client("cloudformation"), self.caller.stack)
        return None if status.endswith("IN_PROGRESS") else status

    def told(self) -> tuple[str, list[str]]:
        """The stack's status, and why something failed lately."""
        found = events(self.admin.client("cloudformation"), self.caller.stack)[:40]
        failed = [one for one in found if one["ResourceStatus"].endswith("_FAILED")]
        status = account.stack_status(self.admin.client("cloudformation"), self.caller.stack)
        return status, [str(one.get("ResourceStatusReason")) for one in failed]

    def checked(self) -> list[str]:
        """What the function said that tries releases."""
        group = f"/aws/lambda/{self.caller.stack}-check"
        pages = self.admin.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
        return [event["message"].strip() for page in pages for event in page["events"]]

    def alarm(self, logical_id: str) -> str:
        """An alarm's name, as CloudFormation gave it."""
        found = self.admin.client("cloudformation").describe_stack_resource(
            StackName=self.caller.stack, LogicalResourceId=logical_id
        )
        return found["StackResourceDetail"]["PhysicalResourceId"]

    def alias(self) -> tuple[str, dict[str, float]]:
        """What callers get: the version, and the share of others."""
        found = self.admin.client("lambda").get_alias(FunctionName=self.caller.stack, Name="live")
        return found["FunctionVersion"], (found.get("RoutingConfig") or {}).get(
            "AdditionalVersionWeights", {}
        )

    def canary(self) -> dict[str, float] | None:
        """The shares of callers with another version, once there are some."""
        status, reasons = self.told()
        self.r.check(
            "ROLLBACK" not in status, f"{self.caller.stack} is {status}", reasons + self.checked()[-3:]
        )
        return self.alias()[1] or None

    def observed(self, step: Step, title: str, act: Callable[[], str], moves: bool) -> None:
        """Do it while callers call; none of them may notice."""
        before, began = self.alias()[0], time.monotonic()
        ended = act()
        seconds = time.monotonic() - began
        time.sleep(0.5)  # what was under way is answered
        version, shares = self.alias()
        answers = self.callers.since(began)
        failed = [one for one in answers if one.failed]
        self.r.check(len(answers) > 10, f"only {len(answers)} requests were sent while: {title}")
        self.r.check(not failed, f"{title}: {len(failed)} of {len(answers)} requests failed", _shown(failed))
        self.r.check(not shares, f"{title}: some callers still have another version: {shares}")
        wrong = f"{title}: callers had version {before} and have {version}"
        self.r.check((version != before) is moves, wrong, self.told()[1])
        row = [title, ended, str(len(answers)), str(len(failed)), f"{before} → {version}", f"{seconds:.0f} s"]
        self.rows.append(row)
        step.say(f"{ended}; {len(answers)} requests, none failed; version {version} answers")

    def summed_up(self) -> None:
        """Every case in a table of the report."""
        lead = f"An application called the API {PER_SECOND} times a second all the time."
        head = ["case", "outcome", "requests", "failed", "version", "took"]
        table = {"title": "Releases of the API", "lead": lead, "head": head, "rows": self.rows}
        self.r.facts.setdefault("tables", []).append(table)


def deleted(r: Rehearsal, made: story.Project, caller: Caller) -> str:
    """Delete the stack under its role; the endpoint serves on."""
    client = r.administrator().client("cloudformation")
    stack = client.describe_stacks(StackName=caller.stack)["Stacks"][0]["StackId"]
    client.delete_stack(StackName=stack)

    def gone() -> str | None:
        status = client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]
        return None if status.endswith("IN_PROGRESS") else status

    status = r.wait(f"stack {caller.stack} to be deleted", gone, timeout=120)
    reasons = [str(e.get("ResourceStatusReason")) for e in events(client, stack)[:20]]
    r.check(status == "DELETE_COMPLETE", f"{caller.stack} is {status}", reasons)
    rows = story.applicants(r, made)[:1]
    refused = caller.call(_csv(rows), caller.session)
    r.check(refused.status in (403, 404), f"the deleted API answers {refused.status}", [refused.text])
    score = float(story.invoke(r, made, rows)[0])
    return f"{status}; the endpoint answers {score:.3f}"
