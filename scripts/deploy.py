"""Publishes these sources and creates or updates the infrastructure stack from them (flow A, Full Stack
Developer).

    make deploy                                   everything defaulted
    make deploy ARGS='--parameter AdminEmail=platform@example.com'

The same as opening the quick-create link that publish prints and pressing the button.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

import account
import publish
import release

CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]


def start(cloudformation: Any, stack: str, template_url: str, parameters: dict[str, str]) -> str:
    """Create the stack, or update it keeping the parameters that are not given; returns create, update or
    none.
    """
    status = account.stack_status(cloudformation, stack)
    given = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    if status == "DELETE_COMPLETE":
        cloudformation.create_stack(
            StackName=stack,
            TemplateURL=template_url,
            Parameters=given,
            Capabilities=CAPABILITIES,
            OnFailure="ROLLBACK",
        )
        return "create"
    declared = cloudformation.get_template_summary(TemplateURL=template_url)["Parameters"]
    before = {
        p["ParameterKey"]
        for p in cloudformation.describe_stacks(StackName=stack)["Stacks"][0].get("Parameters", [])
    }
    kept = [
        {"ParameterKey": p["ParameterKey"], "UsePreviousValue": True}
        for p in declared
        if p["ParameterKey"] in before and p["ParameterKey"] not in parameters
    ]
    try:
        cloudformation.update_stack(
            StackName=stack, TemplateURL=template_url, Parameters=given + kept, Capabilities=CAPABILITIES
        )
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return "none"
        raise
    return "update"


def main(argv: list[str] | None = None, session: boto3.Session | None = None) -> int:
    """Publish, create or update, wait; exit 0 done, 1 fault, 2 usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack-name", default=publish.STACK_NAME)
    parser.add_argument("--bucket", help="release bucket; default mlops-release-<account>-<region>")
    parser.add_argument("--root", type=Path, default=release.ROOT)
    parser.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args(argv)
    if wrong := [p for p in arguments.parameter if "=" not in p]:
        parser.error(f"--parameter {wrong[0]}: write NAME=VALUE")
    session = session or boto3.Session()
    cloudformation = session.client("cloudformation")
    try:
        _, summary = publish.publish(session, arguments.root, arguments.bucket)
        parameters = dict(p.split("=", 1) for p in arguments.parameter)
        done = start(cloudformation, arguments.stack_name, summary["template_url"], parameters)
        if done != "none":
            print(
                f"deploy: {done} of stack {arguments.stack_name} has begun; this takes about 15 minutes",
                file=sys.stderr,
            )
            account.wait_for_stack(cloudformation, arguments.stack_name, every=5)
    except (*publish.FAULTS, account.FailedError, ClientError, BotoCoreError) as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps(
            {"stack": arguments.stack_name, "operation": done, "version": summary["version"]}, indent=2
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
