"""Releases of every kind, good and bad, under a client that asks the production endpoint all the time.

A bad version differs from a good one in its serving code alone, so that only the inference image is built
anew. What makes it bad comes with requests that production has and the project's data has not: loans over
more than six years, which no test in staging asks about.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import account
import approve
from rehearse import story
from rehearse.engine import Rehearsal, Step
from rehearse.load import Answer, SteadyLoad, p95

PER_SECOND = 12
EVERY = 2  # of so many requests one is about a loan that the project's data does not know
MONTHS = "84"
SERVING = "src/serving.py"
IN_A_CONTAINER = 'Path("/opt/ml/model").is_dir()'

ANSWERS_500 = '''

_probabilities = probabilities


def probabilities(frame, model):  # noqa: F811
    """A lookup that does not know the bank's newest loans."""
    if (frame["duration_months"] > 72).any():
        raise KeyError("duration_months")
    return _probabilities(frame, model)
'''
ANSWERS_SLOWLY = '''

_probabilities = probabilities


def probabilities(frame, model):  # noqa: F811
    """A calculation that takes long for the bank's newest loans."""
    if (frame["duration_months"] > 72).any():
        import time

        time.sleep(2)
    return _probabilities(frame, model)
'''
NEVER_READY = f"""

if {IN_A_CONTAINER}:  # waits for a service that an isolated container never reaches
    import time

    time.sleep(3600)
"""
DOES_NOT_START = f"""

if {IN_A_CONTAINER}:
    raise SystemExit("the licence of the scoring library is not valid")
"""


@dataclass
class Production:
    """What serves, and with how many instances."""

    model_package: str
    instances: int
    status: str
    reason: str
    stack: str


@dataclass
class Outcome:
    """A case of the scenario, as it ended and as its client saw it."""

    title: str
    ended: str
    live_version: str
    instances: tuple[int, int]
    answers: list[Answer] = field(default_factory=list)
    by_new: set[str] = field(default_factory=set)  # requests that the new version's instances answered
    seconds: float = 0.0

    @property
    def failed(self) -> list[Answer]:
        """Requests without a score."""
        return [answer for answer in self.answers if answer.failed]

    @property
    def outside(self) -> list[Answer]:
        """Failed requests that the new version did not answer: these a release must never cost."""
        return [answer for answer in self.failed if answer.identity not in self.by_new]

    def row(self) -> list[str]:
        """A line of the report's table."""
        before, after = self.instances
        return [
            self.title,
            self.ended,
            f"{len(self.answers)}",
            f"{len(self.failed)}",
            f"{len(self.outside)}",
            f"{p95(self.answers) * 1000:.0f} ms",
            self.live_version,
            f"{before} → {after}",
            f"{self.seconds:.0f} s",
        ]


HEAD = ["case", "outcome", "requests", "failed", "outside the canary", "p95", "serves", "instances", "took"]


def bodies(r: Rehearsal, made: story.Project) -> list[str]:
    """Requests of one applicant each; every other one is about a loan that is longer than any in the data."""
    rows = story.applicants(r, made)[:60]
    place = r.facts["columns"].index("duration_months")
    longest = max(float(row[place]) for row in rows)
    r.check(
        longest < float(MONTHS), f"a loan of the data lasts {longest:.0f} months, no shorter than {MONTHS}"
    )
    found = []
    for number, row in enumerate(rows):
        changed = list(row)
        if number % EVERY == 0:
            changed[place] = MONTHS
        body = io.StringIO()
        csv.writer(body, lineterminator="\n").writerow(changed)
        found.append(body.getvalue())
    return found


def production(r: Rehearsal, made: story.Project) -> Production:
    """What serves now, as the data scientist sees it."""
    session = story.person(r, made)
    endpoint = session.client("sagemaker").describe_endpoint(EndpointName=made.endpoint)
    stack = session.client("cloudformation").describe_stacks(StackName=made.endpoint)["Stacks"][0]
    values = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]}
    return Production(
        values["ModelPackageArn"],
        endpoint["ProductionVariants"][0]["CurrentInstanceCount"],
        endpoint["EndpointStatus"],
        endpoint.get("FailureReason", ""),
        stack["StackStatus"],
    )


def number_of(package: str) -> str:
    """The version's number."""
    return package.rpartition("/")[2]


def answered_by(r: Rehearsal, made: story.Project, streams_before: set[str]) -> set[str]:
    """The requests that instances answered which came after these, by the inference ids in their logs."""
    logs = story.person(r, made).client("logs")
    group = f"/aws/sagemaker/Endpoints/{made.endpoint}"
    found = set()
    for stream in streams(r, made) - streams_before:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group, logStreamNames=[stream])
        for event in (event for page in pages for event in page["events"]):
            if event["message"].startswith("{"):
                found.add(json.loads(event["message"]).get("inference_id"))
    return found


def streams(r: Rehearsal, made: story.Project) -> set[str]:
    """The log streams of the production endpoint: one an instance."""
    logs = story.person(r, made).client("logs")
    pages = logs.get_paginator("describe_log_streams").paginate(
        logGroupName=f"/aws/sagemaker/Endpoints/{made.endpoint}"
    )
    return {stream["logStreamName"] for page in pages for stream in page["logStreams"]}


def scaling(r: Rehearsal, made: story.Project) -> list[str]:
    """What autoscaling did with the endpoint so far."""
    client = r.administrator().client("application-autoscaling")
    pages = client.get_paginator("describe_scaling_activities").paginate(
        ServiceNamespace="sagemaker", ResourceId=f"endpoint/{made.endpoint}/variant/AllTraffic"
    )
    return [activity["Description"] for page in pages for activity in page["ScalingActivities"]]


def observed(
    r: Rehearsal,
    made: story.Project,
    load: SteadyLoad,
    title: str,
    act: Callable[[], str],
) -> Outcome:
    """Do something with the production endpoint while the client asks it, and see what came of it."""
    before, known = production(r, made), streams(r, made)
    activities = scaling(r, made)
    begun = time.monotonic()
    ended = act()
    seconds = time.monotonic() - begun
    time.sleep(1)  # what was under way is answered; the logs of the last requests arrive
    answers = load.since(begun)
    after = production(r, made)
    outcome = Outcome(
        title,
        ended,
        f"version {number_of(after.model_package)}",
        (before.instances, after.instances),
        answers,
        answered_by(r, made, known),
        seconds,
    )
    r.facts.setdefault("releases", []).append(outcome)
    r.check(after.status == "InService", f"endpoint {made.endpoint} is {after.status}", [after.reason])
    r.check(len(answers) > 10, f"only {len(answers)} requests were sent while: {title}")
    r.check(
        not outcome.outside,
        f"{title}: {len(outcome.outside)} of {len(answers)} requests failed outside the canary",
        [f"{one.identity}: {one.status} {one.reason}" for one in outcome.outside[:8]],
    )
    again = [one for one in scaling(r, made) if one not in activities]
    r.check(
        before.instances == after.instances and not again,
        f"{title}: the endpoint had {before.instances} instances and has {after.instances}",
        again,
    )
    return outcome


class Cases:
    """The releases of one project, each watched by the same client."""

    def __init__(self, r: Rehearsal, made: story.Project, clone: Path, load: SteadyLoad) -> None:
        self.r, self.made, self.clone, self.load = r, made, clone, load
        self.session = story.person(r, made)
        self.pipeline = made.settings["deploy-pipeline-name"]
        self.serving = (clone / SERVING).read_text()
        self.live = production(r, made).model_package

    # --- what people do

    def version(self, title: str, files: dict[str, str]) -> dict[str, Any]:
        """Push a change and wait until the build pipeline has registered a version of it."""
        with self.r.step(f"{title}: build it") as step:
            branch, message = title.replace(" ", "-"), f"Try: {title}"
            commit = story.push_change(self.r, self.made, self.clone, branch, message, files)
            build = self.made.settings["build-pipeline-name"]
            story.wait_for_execution(self.r, self.session, step, build, commit=commit, timeout=900)
            return story.read_version(self.r, self.made, step, commit)

    def approved(self, step: Step, version: dict[str, Any], fails_in: str = "") -> str:
        """Approve a version and let it into production; it must fail in ``fails_in``, if that is said."""
        execution = story.approve_version(self.r, self.made, version["arn"])
        return self.carried_out(step, execution, fails_in)

    def carried_out(
        self, step: Step, execution: str, fails_in: str = "", meanwhile: Callable[[], None] = lambda: None
    ) -> str:
        """Follow an execution into production; ``meanwhile`` is done once its canary answers."""
        follow = (self.r, self.session, step, self.pipeline, execution)
        try:
            story.wait_for_execution(*follow, until_approval=True)
            approve.answer_release(
                self.session.client("codepipeline"), self.pipeline, "Approved", "rehearsal"
            )
            meanwhile()
            story.wait_for_execution(*follow)
        except account.FailedError as error:
            self.r.check(bool(fails_in), error.args[0], error.reasons, error.look_at)
            at_stage = f"stage {fails_in}," in error.args[0]
            self.r.check(at_stage, f"it should have failed in {fails_in}: {error.args[0]}", error.reasons)
            return f"stopped in {fails_in}"
        self.r.check(not fails_in, f"execution {execution} went into production; it should have failed")
        return "in production"

    def taken_back(self, version: dict[str, Any]) -> None:
        """Reject a version that failed, as its owner does; production keeps what it has."""
        with self.r.step(f"reject version {version['version']}") as step:
            execution = story.decide_version(self.r, self.made, version["arn"], "Rejected", "failed")
            story.wait_for_execution(self.r, self.session, step, self.pipeline, execution)
            ran = {stage for stage, _, _ in story.stages_of(self.session, self.pipeline, execution)}
            self.r.check(not ran & {"Staging", "Production"}, f"rejecting what is not live deployed: {ran}")

    # --- the cases

    def good(self) -> dict[str, Any]:
        """A version that is as good as the one before it: no request fails."""
        readme = (self.clone / "README.md").read_text()
        version = self.version("good release", {"README.md": f"{readme}\nOne more.\n"})
        with self.r.step("good release: canary, then all traffic") as step:
            outcome = self.observed("good release", lambda: self.approved(step, version))
            self.now_live(version["arn"])
            self.unharmed(outcome)
            step.say(said(outcome))
        return version

    def bad(self, title: str, harm: str) -> None:
        """A version that does harm with production's requests only: its alarms roll it back."""
        version = self.version(title, {SERVING: self.serving + harm})
        with self.r.step(f"{title}: its alarm rolls it back") as step:
            outcome = self.observed(title, lambda: self.approved(step, version, "Production"))
            self.still_live()
            self.r.check(bool(outcome.by_new), f"{title}: the canary got no request")
            step.say(said(outcome))
        self.taken_back(version)

    def no_container(self, title: str, harm: str) -> None:
        """A version whose container does not come up: staging stops it, and production would have, too."""
        version = self.version(title, {SERVING: self.serving + harm})
        with self.r.step(f"{title}: staging stops it") as step:
            outcome = self.observed(title, lambda: self.approved(step, version, "Staging"))
            self.still_live()
            self.unharmed(outcome)
            step.say(said(outcome))
        with self.r.step(f"{title}: past staging, production keeps serving") as step:
            past = f"{title}, past staging"
            outcome = self.observed(past, lambda: past_staging(self.r, self.made, version))
            self.still_live()
            self.unharmed(outcome)
            step.say(said(outcome))
        self.taken_back(version)

    def alarmed(self) -> None:
        """A version without a fault, and an alarm that goes off all the same: nobody argues with an alarm."""
        title = "alarm during the canary"
        version = self.version(title, {SERVING: self.serving})
        known = streams(self.r, self.made)

        def ring() -> None:
            """Once the canary has answered somebody."""
            probe = lambda: answered_by(self.r, self.made, known) or None  # noqa: E731
            self.r.wait("the canary to answer", probe, timeout=120, every=0.2)
            cloudwatch = self.r.administrator().client("cloudwatch")
            cloudwatch.set_alarm_state(
                AlarmName=server_errors(self.r, self.made),
                StateValue="ALARM",
                StateReason="the operator saw something that the metrics do not show",
            )

        with self.r.step(f"{title}: rolled back") as step:
            execution = story.approve_version(self.r, self.made, version["arn"])
            act = lambda: self.carried_out(step, execution, "Production", ring)  # noqa: E731
            outcome = self.observed(title, act)
            self.still_live()
            self.unharmed(outcome)
            step.say(said(outcome))
        with self.r.step("the alarm judges by its metric again") as step:
            step.say(self.calm())
        self.taken_back(version)

    def calm(self) -> str:
        """A state that somebody set lasts until the alarm is evaluated: a minute, less than any canary."""
        cloudwatch, alarm = self.r.administrator().client("cloudwatch"), server_errors(self.r, self.made)
        self.r.cloud.control("clock", {"advance_seconds": 60})

        def probe() -> str | None:
            (found,) = cloudwatch.describe_alarms(AlarmNames=[alarm])["MetricAlarms"]
            return found["StateValue"] if found["StateValue"] == "OK" else None

        return self.r.wait(f"alarm {alarm} to be OK", probe, timeout=60)

    def brought_back(self, older: dict[str, Any], newer: dict[str, Any]) -> None:
        """Reject the live version: the one before it serves again. Approve it again: it is back."""
        with self.r.step("reject the live version: the one before serves again") as step:
            execution = story.decide_version(
                self.r, self.made, newer["arn"], "Rejected", "not so good after all"
            )
            outcome = self.observed("live version rejected", lambda: self.carried_out(step, execution))
            self.now_live(older["arn"])
            self.unharmed(outcome)
            step.say(said(outcome))
        with self.r.step("approve an older decision again: it serves again") as step:
            outcome = self.observed("approved again", lambda: self.approved(step, newer))
            self.now_live(newer["arn"])
            self.unharmed(outcome)
            step.say(said(outcome))

    # --- what must be so

    def observed(self, title: str, act: Callable[[], str]) -> Outcome:
        """Do something with the production endpoint while the client asks it."""
        return observed(self.r, self.made, self.load, title, act)

    def now_live(self, package: str) -> None:
        """This version serves from now on."""
        self.live = package
        self.still_live()

    def still_live(self) -> None:
        """What should serve, serves: by the stack, and by the model behind the endpoint."""
        found = production(self.r, self.made).model_package
        self.r.check(found == self.live, f"{self.made.endpoint} serves {found}", [f"expected {self.live}"])

    def unharmed(self, outcome: Outcome) -> None:
        """No request failed at all."""
        shown = [f"{one.identity}: {one.status} {one.reason}" for one in outcome.failed[:8]]
        self.r.check(not outcome.failed, f"{outcome.title}: {len(outcome.failed)} requests failed", shown)


def said(outcome: Outcome) -> str:
    """The outcome on a step's line."""
    return (
        f"{outcome.ended}; {len(outcome.answers)} requests, {len(outcome.failed)} failed, "
        f"{outcome.live_version} serves with {outcome.instances[1]} instances"
    )


def server_errors(r: Rehearsal, made: story.Project) -> str:
    """The alarm on server errors, by the name that CloudFormation gave it."""
    found = story.person(r, made).client("cloudformation").describe_stack_resources(StackName=made.endpoint)
    resources = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found["StackResources"]}
    return resources["ServerErrors"]


def grown(r: Rehearsal, made: story.Project, instances: int = 3) -> str:
    """Wait until autoscaling has raised the endpoint to so many instances."""

    def probe() -> str | None:
        found = production(r, made)
        if found.instances >= instances:
            return f"{found.instances} instances"
        r.cloud.control("clock", {"advance_seconds": 60})  # alarms of autoscaling look at three minutes
        return None

    return r.wait(f"{made.endpoint} to have {instances} instances", probe, timeout=120, every=1.5)


def past_staging(r: Rehearsal, made: story.Project, version: dict[str, Any]) -> str:
    """Put a version into production without staging, as an administrator in a hurry could; how it ended.

    Staging stops such versions; this shows that production would have kept serving all the same.
    """
    cloudformation = r.administrator().client("cloudformation")
    stack = cloudformation.describe_stacks(StackName=made.endpoint)["Stacks"][0]
    kept = [
        {"ParameterKey": one["ParameterKey"], "UsePreviousValue": True}
        for one in stack["Parameters"]
        if one["ParameterKey"] != "ModelPackageArn"
    ]
    begun = len(events(cloudformation, made.endpoint))
    cloudformation.update_stack(
        StackName=made.endpoint,
        UsePreviousTemplate=True,
        Parameters=[*kept, {"ParameterKey": "ModelPackageArn", "ParameterValue": version["arn"]}],
        Capabilities=["CAPABILITY_IAM"],
    )

    def ended() -> str | None:
        status = account.stack_status(cloudformation, made.endpoint)
        return None if status.endswith("IN_PROGRESS") else status

    status = r.wait(f"stack {made.endpoint} to come to rest", ended, timeout=300)
    r.check(status == "UPDATE_ROLLBACK_COMPLETE", f"stack {made.endpoint} is {status}")
    fresh = events(cloudformation, made.endpoint)[: -begun or None]
    reasons = [e["ResourceStatusReason"] for e in fresh if e["ResourceStatus"].endswith("_FAILED")]
    return reasons[-1] if reasons else status


def events(cloudformation: Any, stack: str) -> list[dict[str, Any]]:
    """The events of a stack, newest first."""
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
    return [event for page in pages for event in page["StackEvents"]]


def summed_up(r: Rehearsal) -> None:
    """Every case in a table of the report."""
    r.facts.setdefault("tables", []).append(
        {
            "title": "Releases under a steady load",
            "lead": f"One client asked {PER_SECOND} times a second all the time; every second one was about "
            "a loan that the project's data does not know. Outside the canary: failed requests that the "
            "new version's instances did not answer.",
            "head": HEAD,
            "rows": [outcome.row() for outcome in r.facts["releases"]],
        }
    )
