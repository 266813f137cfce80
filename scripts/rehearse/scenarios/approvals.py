"""Rejecting a model deploys nothing; approving it twice deploys it once."""

import account
import approve
from rehearse import story
from rehearse.engine import Rehearsal


def run(r: Rehearsal) -> None:
    """One version: rejected, then approved twice."""
    story.deploy_infrastructure(r, with_pipeline=False)
    project = story.project(r)
    clone = story.clone_repository(r, project)
    version = story.train(r, project, clone)
    pipeline = project.settings["deploy-pipeline-name"]
    scientist = story.person(r, project)
    codepipeline, cloudformation = scientist.client("codepipeline"), scientist.client("cloudformation")
    stacks = [f"mlops-{project.id}-{stage}" for stage in ("staging", "production", "monitoring")]

    def settle() -> int:
        """Wait until no execution of the deploy pipeline is under way; how many there are.

        An approval that comes while a release is under way runs behind it, and asks for production again.
        """

        def probe() -> int | None:
            if approve.waiting_approval(codepipeline, pipeline):
                approve.answer_release(codepipeline, pipeline, "Approved", "rehearsal, once more")
            runs = account.executions(codepipeline, pipeline)
            return len(runs) if runs and all(run["status"] in story.ENDED for run in runs) else None

        return r.wait(f"{pipeline} to come to rest", probe, timeout=300, every=1)

    with r.use_case("F", "reject, then approve twice"):
        with r.step("a rejected version deploys nothing") as step:
            before = len(account.executions(codepipeline, pipeline))
            approve.decide(scientist.client("sagemaker"), version["arn"], "Rejected", "not convincing")
            r.wait(
                f"{pipeline} to start after the rejection",
                lambda: True if len(account.executions(codepipeline, pipeline)) > before else None,
                timeout=60,
            )
            runs = settle()
            there = [
                stack for stack in stacks if account.stack_status(cloudformation, stack) != "DELETE_COMPLETE"
            ]
            r.check(not there, f"a rejected version made the stacks {', '.join(there)}")
            step.say(f"{runs} executions, no stack")
        with r.step("approve, and approve again while it deploys") as step:
            execution = story.approve_version(r, project, version["arn"])
            story.wait_for_execution(r, scientist, step, pipeline, execution, until_approval=True)
            approve.decide(scientist.client("sagemaker"), version["arn"], "Approved", "approved once more")
            approve.answer_release(codepipeline, pipeline, "Approved", "rehearsal")
            story.wait_for_execution(r, scientist, step, pipeline, execution)
        with r.step("approve what is live already") as step:
            settle()
            execution = story.approve_version(r, project, version["arn"])
            story.wait_for_execution(r, scientist, step, pipeline, execution)
            ran = {stage for stage, _, _ in story.stages_of(scientist, pipeline, execution)}
            r.check(not ran & {"Staging", "Production"}, f"what is live was deployed again: {ran}")
        with r.step("it was deployed once") as step:
            runs = settle()
            for stack in stacks:
                pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack)
                begun = [
                    event["ResourceStatus"]
                    for page in pages
                    for event in page["StackEvents"]
                    if event["PhysicalResourceId"] == event["StackId"]
                    and event["ResourceStatus"] in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS")
                ]
                r.check(begun == ["CREATE_IN_PROGRESS"], f"{stack} was deployed {len(begun)} times: {begun}")
            step.say(f"{runs} executions of {pipeline}, each stack created once")
