"""Two projects and two users in one cloud work side by side."""

from rehearse import story
from rehearse.engine import Rehearsal

# what two projects of one owner may have in common
COMMON = {("framework", "sklearn"), ("inference-mode", "realtime"), ("owner-email", story.OWNER_EMAIL)}


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
