"""Two projects and two users in one cloud work side by side, and stay out of each other's data."""

from botocore.exceptions import ClientError

from rehearse import story
from rehearse.engine import Rehearsal


def run(r: Rehearsal) -> None:
    """Both projects train at the same time; neither role reads the other's bucket."""
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
        for mine, other in (projects, projects[::-1]):
            with r.step(f"{mine.name} cannot read the data of {other.name}") as step:
                s3 = r.session(mine.settings["data-scientist-role-arn"], "curious").client("s3")
                s3.list_objects_v2(Bucket=mine.settings["bucket-name"], MaxKeys=1)
                try:
                    s3.list_objects_v2(Bucket=other.settings["bucket-name"], MaxKeys=1)
                except ClientError as error:
                    step.say(error.response["Error"]["Code"])
                    r.check(error.response["Error"]["Code"] == "AccessDenied", f"the refusal was {error}")
                else:
                    r.check(False, f"the role of {mine.name} listed the bucket of {other.name}")
