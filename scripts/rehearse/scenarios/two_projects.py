"""Two projects and two users in one cloud work side by side, and are denied each other's things."""

from typing import Any

from botocore.exceptions import ClientError

from rehearse import story
from rehearse.engine import Rehearsal

# what two projects of one owner may have in common
COMMON = {("framework", "sklearn"), ("inference-mode", "realtime"), ("owner-email", story.OWNER_EMAIL)}

DENIED = ("AccessDenied", "AccessDeniedException")


def reaches(made: story.Project, version: str) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """How somebody would reach into a project that has this model version: what, and the call."""
    found = made.settings
    branch = {"repositoryName": found["repository-name"], "branchName": "main"}
    approval = {"ModelPackageArn": version, "ApprovalDescription": "seen"}
    return {
        "bucket": ("s3", "list_objects_v2", {"Bucket": found["bucket-name"]}),
        "objects": ("s3", "put_object", {"Bucket": found["bucket-name"], "Key": "data/x", "Body": b"x"}),
        "repository": ("codecommit", "get_branch", branch),
        "endpoint": ("sagemaker-runtime", "invoke_endpoint", {"EndpointName": made.endpoint, "Body": b"1"}),
        "parameters": ("ssm", "get_parameters", {"Names": [f"/mlops/projects/{made.id}/key-arn"]}),
        "registry": ("sagemaker", "update_model_package", approval),
        "pipeline": ("sagemaker", "describe_pipeline", {"PipelineName": f"mlops-{made.id}"}),
    }


def stay_out(
    r: Rehearsal, mine: story.Project, other: story.Project, person: str, versions: dict[str, str]
) -> int:
    """A data scientist reaches everything of the own project, and nothing of the other; returns how much."""
    session = story.person(r, mine, person)
    key = {"KeyId": other.settings["key-arn"], "Plaintext": b"x"}
    theirs = {**reaches(other, versions[other.id]), "key": ("kms", "encrypt", key)}
    for project, calls, allowed in ((mine, reaches(mine, versions[mine.id]), True), (other, theirs, False)):
        for what, (service, operation, parameters) in calls.items():
            try:
                getattr(session.client(service), operation)(**parameters)
                denied = ""
            except ClientError as error:
                code = error.response["Error"]["Code"]
                denied = str(error) if code in DENIED else ""
            verb = "is denied" if denied else "reaches"
            r.check(
                bool(denied) is not allowed,
                f"{person} of {mine.name} {verb} the {what} of {project.name}",
                [denied] if denied else [f"{service} {operation} was not denied"],
            )
    return len(theirs)


def run(r: Rehearsal) -> None:
    """Both projects train at the same time, and share nothing but the platform."""
    story.deploy_infrastructure(r, with_pipeline=False)
    people = ("jane-doe", "john-roe")
    with r.use_case("B", "create two projects"):
        # upper case and 32 letters are allowed in a project's name, in S3 and ECR names they are not
        names = (("credit-risk", "4711"), ("FraudDetection-Europe-2026-Q4-XL", "0815"))
        projects = [story.new_project(r, name, cost_center) for name, cost_center in names]
    with r.use_case("C", "create two users"):
        for project, person in zip(projects, people, strict=True):
            story.new_user(r, project, person)
    with r.use_case("E", "both train at the same time"):
        commits = []
        for project, person in zip(projects, people, strict=True):
            with r.step(f"{person} pushes to {project.name}") as step:
                clone = story.clone_repository(r, project, person)
                text = (clone / "README.md").read_text() + f"\nA line of {person}.\n"
                commits.append(
                    story.push_change(r, project, clone, "first", "First change", {"README.md": text}, person)
                )
                step.say(f"commit {commits[-1][:8]}")
        versions = [
            story.build(r, project, commit) for project, commit in zip(projects, commits, strict=True)
        ]
    with r.use_case("S", "stay apart"):
        with r.step("each registry has its own version") as step:
            arns = {version["arn"] for version in versions}
            r.check(
                len(arns) == 2 and all(p.id in v["arn"] for p, v in zip(projects, versions, strict=True)),
                f"versions {arns}",
            )
            step.say(", ".join(sorted(arn.rsplit(":", 1)[-1] for arn in arns)))
        with r.step("each bucket, repository and pipeline has the id of its project only") as step:
            for mine, other in (projects, projects[::-1]):
                s3 = story.person(r, mine).client("s3")
                pages = s3.get_paginator("list_objects_v2").paginate(Bucket=mine.settings["bucket-name"])
                keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
                strangers = [key for key in keys if other.id in key]
                r.check(not strangers, f"the bucket of {mine.name} holds {strangers[:3]} of {other.name}")
                shared = set(mine.settings.items()) & set(other.settings.items()) - COMMON
                r.check(not shared, f"both projects have {sorted(shared)}")
            step.say(" and ".join(project.id for project in projects))
        with r.step("nobody reaches into the other project") as step:
            r.cloud.control("settings", {"enforce": True})
            registered = {p.id: v["arn"] for p, v in zip(projects, versions, strict=True)}
            tried = [
                stay_out(r, mine, other, person, registered)
                for mine, other, person in zip(projects, projects[::-1], people, strict=True)
            ]
            step.say(f"{sum(tried)} ways were denied, and open to the project's own people")
