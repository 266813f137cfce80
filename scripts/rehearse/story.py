"""The chapters that scenarios are told from: what people do with the platform, use case by use case.

Each function does what a person does, through the same interface, waits for what follows, and checks that
it really happened. What the report shows goes into `rehearsal.facts`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import yaml

import account
import approve
import create_project
import create_user
import deploy
import publish
import release
from rehearse import leaks
from rehearse.cloud import ACCOUNT, ROOT
from rehearse.engine import Failure, Rehearsal, Step
from statements import templates

ADMIN_EMAIL = "platform@example.com"
OWNER_EMAIL = "owner@example.com"
LOAD_SECONDS = 3  # of the staging test; a minute by default
ENDED = ("Succeeded", "Failed", "Stopped", "Superseded", "Cancelled")


@dataclass
class Project:
    """A project of the rehearsal and what is known about it."""

    name: str
    id: str
    settings: dict[str, str] = field(default_factory=dict)
    application: Any = None  # a session of who asks production, where that is in another account

    @property
    def endpoint(self) -> str:
        """The production endpoint."""
        return f"mlops-{self.id}-production"


# --- A ----------------------------------------------------------------------------------------------------
# ----------------


def snapshot(r: Rehearsal) -> Path:
    """A copy of the sources: somebody may edit them while the rehearsal goes on."""
    target = r.folder / "sources"
    shutil.rmtree(target, ignore_errors=True)
    for name in release.source_files(ROOT):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    if r.without:
        templates.without(target, r.without)
    return target


def publish_release(r: Rehearsal) -> dict[str, Any]:
    """Publish the sources as they are on disk, and once more, which must write nothing."""
    with r.step("publish an immutable release") as step:
        sources, version = snapshot(r), release.version_of(ROOT)
        built, summary = publish.publish(r.administrator(), sources, version=version)
        step.say(f"{summary['version']}: {len(built.objects)} objects in {summary['bucket']}")
        r.facts["release"] = {
            "version": summary["version"],
            "objects": len(built.objects),
            "bucket": summary["bucket"],
        }
        _, again = publish.publish(r.administrator(), sources, version=version)
        r.check(
            again["new_objects"] == 0,
            f"publishing the same sources again wrote {again['new_objects']} objects",
        )
    return summary


def launch_infrastructure(
    r: Rehearsal, quick_create_url: str, parameters: dict[str, str] | None = None
) -> None:
    """Launch 1-infra as the quick-create link does it: one click, everything defaulted."""
    query = parse_qs(urlsplit(quick_create_url).fragment.partition("?")[2])
    url, stack = query["templateURL"][0], query["stackName"][0]
    r.facts["infra_stack"] = stack
    cloudformation = r.administrator().client("cloudformation")
    with r.step("launch 1-infra from the quick-create link") as step:
        deploy.start(cloudformation, stack, url, {"AdminEmail": ADMIN_EMAIL} | (parameters or {}))
        wait_for_stack(r, step, stack)
        # the administrator tells the personas their roles, and is not needed any more
        r.facts["infra"] = account.infra(r.administrator().client("ssm"))
        r.facts["launched"] = r.cloud.control("clock")["now"]


def wait_for_stack(r: Rehearsal, step: Step, stack: str) -> None:
    """Wait for a stack with its resources counted on the step's line."""

    def tick() -> None:
        r.tick()
        totals = r.census.totals()
        step.say(f"{totals['resources']} resources, {totals['pending']} under way")

    cloudformation = r.administrator().client("cloudformation")
    account.wait_for_stack(cloudformation, stack, timeout=600, every=0.5, tick=tick)
    r.census.count()
    totals = r.census.totals()
    step.say(f"{totals['resources']} resources in {totals['stacks']} stacks")


def platform_pipeline(r: Rehearsal) -> None:
    """ModelRepoPipeline runs on the platform's repository, publishes, and updates 1-infra after an
    approval.
    """
    session = developer(r)
    codepipeline = session.client("codepipeline")
    with r.step("ModelRepoPipeline publishes the platform's repository") as step:
        execution = wait_for_execution(r, session, step, "ModelRepoPipeline", until_approval=True)
        approve.answer_release(codepipeline, "ModelRepoPipeline", "Approved", "rehearsal")
    with r.step("ModelRepoPipeline updates 1-infra after the approval") as step:
        wait_for_execution(r, session, step, "ModelRepoPipeline", execution)
    with r.step("what the platform offers now") as step:
        infra = account.infra(session.client("ssm"))
        before = r.facts["release"]["version"]
        r.check(infra["release-version"] != before, f"the platform still offers release {before}")
        product = session.client("servicecatalog").describe_product_as_admin(Id=infra["project-product-id"])
        names = [version["Name"] for version in product["ProvisioningArtifactSummaries"]]
        r.check(infra["release-version"] in names, f"MLOPSProduct has the versions {', '.join(names)}")
        step.say(f"MLOPSProduct {', '.join(names)}; existing projects stay as they are")


def deploy_infrastructure(
    r: Rehearsal, with_pipeline: bool = True, parameters: dict[str, str] | None = None
) -> None:
    """Use case A; ``parameters`` are others than the defaults."""
    with r.use_case("A", "deploy the infrastructure"):
        summary = publish_release(r)
        leaks.plant(r)
        launch_infrastructure(r, summary["quick_create_url"], parameters)
        with r.step("confirm the e-mail subscription") as step:
            step.say(confirm_mail(r, ADMIN_EMAIL))
        if with_pipeline:
            platform_pipeline(r)


# --- mail -------------------------------------------------------------------------------------------------
# ----------------


def mails(r: Rehearsal, to: str) -> list[dict[str, Any]]:
    """The mail that was sent to an address."""
    found = r.cloud.control("outbox")
    return [mail for mail in (found["outbox"] if isinstance(found, dict) else found) if mail["to"] == to]


def confirm_mail(r: Rehearsal, to: str) -> str:
    """Follow the link of each confirmation mail, as its reader does."""

    def probe() -> list[str] | None:
        links = [
            link
            for mail in mails(r, to)
            for link in re.findall(r"https?://\S*ConfirmSubscription\S*", mail["body"])
        ]
        return links or None

    links = r.wait(f"a confirmation mail to {to}", probe, timeout=30)
    for link in links:
        with urlopen(link.rstrip(".,>\"'"), timeout=30) as answer:
            answer.read()
    return f"{to}: {len(links)} confirmed"


# --- pipelines --------------------------------------------------------------------------------------------
# ----------------


def wait_for_execution(
    r: Rehearsal,
    session: Any,
    step: Step,
    pipeline: str,
    execution: str = "",
    commit: str = "",
    until_approval: bool = False,
    timeout: float = 600,
) -> str:
    """Wait for an execution (the newest, or that of a commit) to succeed, or to stand at its manual
    approval, as the person of the session sees it.
    """
    codepipeline = session.client("codepipeline")

    def find() -> str | None:
        for run in account.executions(codepipeline, pipeline):
            revisions = [revision.get("revisionId") for revision in run.get("sourceRevisions", [])]
            if not commit or commit in revisions:
                return run["pipelineExecutionId"]
        return None

    execution = execution or r.wait(
        f"{pipeline} to start" + (f" for commit {commit[:8]}" if commit else ""), find, timeout=60
    )

    def probe() -> str | None:
        answer = codepipeline.get_pipeline_execution(pipelineName=pipeline, pipelineExecutionId=execution)[
            "pipelineExecution"
        ]
        done = account.actions(codepipeline, pipeline, execution)
        if done:
            last = done[-1]
            step.say(f"{last['stageName']} / {last['actionName']}: {last['status']}")
        if answer["status"] == "Succeeded":
            r.check(not until_approval, f"{pipeline} ended without asking for approval")
            return execution
        if answer["status"] in ENDED:
            raise account.pipeline_failure(session, pipeline, execution)
        if until_approval and approve.waiting_approval(codepipeline, pipeline):
            return execution
        return None

    return r.wait(f"{pipeline} execution {execution}", probe, timeout, every=1)


def expect_failure(r: Rehearsal, made: Project, step: Step, commit: str, stage: str, words: list[str]) -> str:
    """The build of a commit must fail in this stage, with a message that has these words."""
    pipeline = made.settings["build-pipeline-name"]
    try:
        wait_for_execution(r, person(r, made), step, pipeline, commit=commit)
    except account.FailedError as error:
        text = str(error)
        at_stage = f"stage {stage}," in error.args[0]
        r.check(at_stage, f"the commit should have failed in stage {stage}: {error.args[0]}", error.reasons)
        missing = [word for word in words if word not in text]
        r.check(not missing, f"the message does not name {', '.join(missing)}", error.reasons, error.look_at)
        return next(line.strip() for line in reversed(text.splitlines()) if words[0] in line)[:120]
    raise Failure(f"commit {commit[:8]} went through {pipeline}; it should have failed in stage {stage}")


def stages_of(session: Any, pipeline: str, execution: str) -> list[tuple[str, str, str]]:
    """(stage, action, status) of what ran in an execution."""
    return [
        (a["stageName"], a["actionName"], a["status"])
        for a in account.actions(session.client("codepipeline"), pipeline, execution)
    ]


# --- B, C -------------------------------------------------------------------------------------------------
# ----------------


def developer(r: Rehearsal) -> Any:
    """A session of the Full Stack Developer."""
    return r.persona(r.facts["infra"]["full-stack-developer-role-arn"], "full-stack-developer")


def admin(r: Rehearsal) -> Any:
    """A session of the Data Science Admin."""
    return r.persona(r.facts["infra"]["data-science-admin-role-arn"], "data-science-admin")


def person(r: Rehearsal, made: Project, name: str = "jane-doe") -> Any:
    """A session of a Data Scientist of the project."""
    return r.persona(made.settings["data-scientist-role-arn"], name)


def asking(r: Rehearsal, made: Project) -> Any:
    """A session of who asks production: the data scientist, or an application of another account."""
    return made.application or person(r, made)


def new_project(
    r: Rehearsal, name: str, cost_center: str = "4711", more: dict[str, str] | None = None
) -> Project:
    """Create a project as Studio does, and read what its stack wrote; ``more`` are other parameters."""
    session = admin(r)
    settings = {
        "CostCenter": cost_center,
        "OwnerEmail": OWNER_EMAIL,
        "ProjectDescription": "Credit risk of consumer loans",
        "ProjectTemplate": "sklearn",
        "InferenceMode": "realtime",
        **(more or {}),
    }
    with r.step(f"SageMaker CreateProject {name} with the product") as step:
        begun = create_project.create_project(session, name, settings)

        def tick() -> None:
            r.tick()
            totals = r.census.totals()
            step.say(f"{totals['resources']} resources, {totals['pending']} under way")

        create_project.wait_for_project(session, name, timeout=300, every=0.5, tick=tick)
        written = account.project(session.client("ssm"), begun["ProjectId"])
        project = Project(name, begun["ProjectId"], written)
        r.census.count()
        step.say(
            f"{project.id}: {len(project.settings)} parameters, "
            f"{r.census.totals()['resources']} resources in all"
        )
    return project


def project(r: Rehearsal, name: str = "credit-risk", more: dict[str, str] | None = None) -> Project:
    """Use case B."""
    with r.use_case("B", "create the project"):
        made = new_project(r, name, more=more)
        with r.step("its repository is filled with the seed code") as step:
            codecommit = person(r, made).client("codecommit")
            branch = codecommit.get_branch(
                repositoryName=made.settings["repository-name"], branchName="main"
            )["branch"]
            step.say(f"{made.settings['repository-name']} at {branch['commitId'][:8]}")
        with r.step("confirm the e-mail subscription") as step:
            step.say(confirm_mail(r, OWNER_EMAIL))
    return made


def user(r: Rehearsal, made: Project, name: str = "jane-doe") -> dict[str, Any]:
    """Use case C."""
    with r.use_case("C", "create the user"):
        return new_user(r, made, name)


def new_user(r: Rehearsal, made: Project, name: str) -> dict[str, Any]:
    """Provision the project's user product and wait for the association."""
    with r.step(f"provision the user product of {made.name} for {name}") as step:
        session = admin(r)
        provisioned = create_user.provision_user(session, made.id, name)
        create_user.wait_for_user(session, provisioned, timeout=300, every=0.5, tick=r.tick)
        written = account.parameters(session.client("ssm"), f"{account.PROJECTS}/{made.id}/users/{name}")
        profile = session.client("sagemaker").describe_user_profile(
            DomainId=r.facts["infra"]["studio-domain-id"], UserProfileName=written["profile-name"]
        )
        step.say(f"profile {profile['UserProfileName']}: {profile['Status']}")
        role = profile["UserSettings"]["ExecutionRole"]
        r.check(
            role == made.settings["data-scientist-role-arn"],
            f"profile {name} has the role {role}",
            [f"expected {made.settings['data-scientist-role-arn']}"],
        )
    with r.step("the association pipeline ends") as step:
        association = create_user.wait_for_association(session, made.id, name, timeout=300, tick=r.tick)
        step.say(f"{association.get('profile')} with {association.get('project')}")
    return association


# --- D ----------------------------------------------------------------------------------------------------
# ----------------


def experiment(r: Rehearsal, made: Project, name: str = "jane-doe", notebooks: bool = True) -> Path:
    """Use case D: what Studio would do and show; returns the cloned repository."""
    with r.use_case("D", "experiment"):
        clone = open_studio(r, made, name)
        if notebooks:
            for notebook in sorted((clone / "notebooks").glob("*.ipynb")):
                run_notebook(r, made, clone, notebook)
        return clone


def scientist(r: Rehearsal, made: Project, name: str = "jane-doe") -> tuple[Path, dict[str, str]]:
    """Home and environment of a Data Scientist of the project."""
    home = r.folder / "homes" / made.name / name
    home.mkdir(parents=True, exist_ok=True)
    role = made.settings["data-scientist-role-arn"]
    space = {"domain": r.facts["infra"]["studio-domain-id"], "role": role, "session": name}
    # what runs in a space sits in the VPC: it reaches what has an endpoint there, and nothing else
    return home, r.role_environment(role, home, name) | r.cloud.control("studio", space)


def open_studio(r: Rehearsal, made: Project, name: str) -> Path:
    """Run the lifecycle configuration in a scratch home, as Studio does when a space starts."""
    home, env = scientist(r, made, name)
    with r.step("the lifecycle configuration runs in a scratch home") as step:
        sagemaker = person(r, made, name).client("sagemaker")
        arn = made.settings["lifecycle-config-arn"]
        found = sagemaker.describe_studio_lifecycle_config(StudioLifecycleConfigName=arn.rsplit("/", 1)[-1])
        script = home / "lifecycle.sh"
        script.write_bytes(base64.b64decode(found["StudioLifecycleConfigContent"]))
        began = time.monotonic()
        r.run(["bash", str(script)], home, env, timeout=300)
        step.say(
            f"{found['StudioLifecycleConfigName']} took {time.monotonic() - began:.1f} s; AWS allows 300 s"
        )
    with r.step("the project's repository is cloned and git works") as step:
        clones = [folder.parent for folder in home.glob("*/.git")]
        r.check(
            len(clones) == 1, f"expected one cloned repository in {home}, found {[str(c) for c in clones]}"
        )
        r.run(["git", "fetch", "origin"], clones[0], env)
        step.say(f"{clones[0].name}, {len(r.run(['git', 'ls-files'], clones[0], env).split())} files")
    with r.step("pip installs from the private package index") as step:
        configured = r.run(["python3", "-m", "pip", "config", "get", "global.index-url"], home, env).strip()
        shown = re.sub(r"://[^@]*@", "://…@", configured)
        r.check("/pypi/" in configured, f"pip's index is {shown}, not the private one")
        step.say(shown)
    return clones[0]


def run_notebook(r: Rehearsal, made: Project, clone: Path, notebook: Path) -> None:
    """Execute a notebook of the project with the tools of the dev environment, under the Data Scientist's
    role.
    """
    home, env = scientist(r, made)
    with r.step(f"notebook {notebook.name}") as step:
        done = r.folder / "notebooks" / notebook.name
        done.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, done)
        # jupyter-execute runs the notebook in its own folder; the cells expect the repository's notebooks
        # folder
        command = [str(ROOT / ".venv/bin/python"), "-m", "rehearse.notebook", str(notebook), str(done)]
        r.run(command, clone, {**env, "PYTHONPATH": str(ROOT / "scripts")}, timeout=600)
        cells = [c for c in json.loads(done.read_text())["cells"] if c["cell_type"] == "code"]
        where = done.relative_to(ROOT) if done.is_relative_to(ROOT) else done
        step.say(f"{len(cells)} cells; executed copy in {where}")


# --- E ----------------------------------------------------------------------------------------------------
# ----------------


def clone_repository(r: Rehearsal, made: Project, name: str = "jane-doe") -> Path:
    """A clone of the project's repository as a Data Scientist makes it, for scenarios without Studio."""
    home, env = scientist(r, made, name)
    clone = home / made.settings["repository-name"]
    if not clone.exists():
        helper = "!aws codecommit credential-helper $@"
        command = ["git", "-c", f"credential.helper={helper}", "-c", "credential.UseHttpPath=true"]
        r.run([*command, "clone", "--quiet", made.settings["repository-clone-url"], str(clone)], home, env)
        r.run(["git", "config", "credential.helper", helper], clone, env)
        r.run(["git", "config", "credential.UseHttpPath", "true"], clone, env)
    for key, value in (("user.name", name), ("user.email", f"{name}@example.com")):
        r.run(["git", "config", key, value], clone, env)
    return clone


def push_change(
    r: Rehearsal,
    made: Project,
    clone: Path,
    branch: str,
    message: str,
    files: dict[str, str],
    name: str = "jane-doe",
) -> str:
    """Branch, commit, push, pull request, merge into main; returns the commit on main."""
    home, env = scientist(r, made, name)

    def git(*arguments: str) -> str:
        return r.run(["git", *arguments], clone, env).strip()

    git("config", "user.name", name)
    git("config", "user.email", f"{name}@example.com")
    git("checkout", "--quiet", "main")
    git("pull", "--quiet", "origin", "main")
    git("checkout", "--quiet", "-b", branch)
    for path, text in files.items():
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(text)
        git("add", path)
    git("commit", "--quiet", "-m", message)
    git("push", "--quiet", "origin", branch)
    # main takes no pushes: what comes in comes by a pull request
    codecommit, repository = person(r, made, name).client("codecommit"), made.settings["repository-name"]
    target = {"repositoryName": repository, "sourceReference": branch, "destinationReference": "main"}
    request = codecommit.create_pull_request(title=message, targets=[target])["pullRequest"]["pullRequestId"]
    codecommit.merge_pull_request_by_three_way(
        pullRequestId=request,
        repositoryName=repository,
        commitMessage=f"Merge {branch}",
        authorName=name,
        email=f"{name}@example.com",
    )
    git("checkout", "--quiet", "main")
    git("pull", "--quiet", "origin", "main")
    return git("rev-parse", "HEAD")


def train(r: Rehearsal, made: Project, clone: Path, more: dict[str, str] | None = None) -> dict[str, Any]:
    """Use case E: a merge into main becomes a model version. ``more`` are other files of the commit."""
    with r.use_case("E", "train"):
        with r.step("branch, commit, merge into main, push") as step:
            text = (clone / "mlops.yml").read_text()
            readme = clone / "README.md"
            changed = {
                "README.md": readme.read_text()
                + "\nExperiment of the rehearsal: the defaults, trained by a merge.\n",
                **(more or {}),
            }
            r.check("version: 1" in text, "mlops.yml of the project has no `version: 1`")
            settings = changed.get("mlops.yml", text)
            changed["mlops.yml"] = with_short_load(settings)
            commit = push_change(r, made, clone, "first-model", "Note the first experiment", changed)
            step.say(f"commit {commit[:8]}; the load test lasts {LOAD_SECONDS} s here instead of a minute")
        return build(r, made, commit)


def with_short_load(settings: str) -> str:
    """mlops.yml with a load test that a rehearsal has the time for."""
    wanted = f"    load_seconds: {LOAD_SECONDS}\n"
    if re.search(r"^    load_seconds:", settings, re.M):
        return re.sub(r"^    load_seconds:.*\n", wanted, settings, flags=re.M)
    return re.sub(r"^deployment:\n", f"deployment:\n  tests:\n{wanted}", settings, flags=re.M)


def build(r: Rehearsal, made: Project, commit: str) -> dict[str, Any]:
    """Wait for the build pipeline of a commit and read the model version that it registered."""
    pipeline = made.settings["build-pipeline-name"]
    with r.step("the build pipeline: validate, images, SageMaker pipeline") as step:
        session = person(r, made)
        execution = wait_for_execution(r, session, step, pipeline, commit=commit, timeout=900)
        ran = stages_of(session, pipeline, execution)
        step.say(" → ".join(f"{stage}/{action}" for stage, action, _ in ran))
    with r.step("the images are in the registry") as step:
        ecr = person(r, made).client("ecr")
        counts = {}
        for image in ("preprocessing", "training", "inference"):
            repository = f"mlops-{made.id}/{image}"
            counts[image] = len(ecr.describe_images(repositoryName=repository)["imageDetails"])
            r.check(counts[image] >= 1, f"ECR repository {repository} has no image")
        step.say(", ".join(f"{image} {count}" for image, count in counts.items()))
    with r.step("a model version with its metrics") as step:
        return read_version(r, made, step, commit)


def read_version(r: Rehearsal, made: Project, step: Step, commit: str) -> dict[str, Any]:
    """The newest model version and what the registry says about it."""
    sagemaker, s3 = person(r, made).client("sagemaker"), person(r, made).client("s3")
    found = approve.versions(sagemaker, made.settings["model-package-group-name"])
    r.check(bool(found), f"{made.settings['model-package-group-name']} has no version")
    package = sagemaker.describe_model_package(ModelPackageName=found[0]["ModelPackageArn"])
    recorded = package.get("CustomerMetadataProperties", {}).get("commit", "")
    r.check(
        recorded == commit,
        f"version {package['ModelPackageVersion']} names commit {recorded or 'none'}, pushed was {commit}",
    )
    named = registered_files(package)
    lost = [uri for uri in named if not read_s3(s3, uri)]  # a file that is not there is a fault of its own
    parts = {uri.split("/")[-2] for uri in named}
    kinds = {"data_quality", "model_quality", "model_bias", "model_explainability"}
    r.check(not lost, f"version {package['ModelPackageVersion']} names empty files", lost)
    r.check(kinds <= parts, f"version {package['ModelPackageVersion']} has baselines of {sorted(parts)} only")
    statistics = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    metrics = metrics_of(json.loads(read_s3(s3, statistics)))
    version = {
        "arn": package["ModelPackageArn"],
        "version": package["ModelPackageVersion"],
        "status": package["ModelApprovalStatus"],
        "commit": commit,
        "metrics": metrics,
        "images": [c["Image"] for c in package["InferenceSpecification"]["Containers"]],
        "baseline": package["ModelMetrics"]
        .get("ModelDataQuality", {})
        .get("Statistics", {})
        .get("S3Uri", ""),
    }
    r.facts.setdefault("versions", []).append(version)
    shown = {name: value for name, value in metrics.items() if name in ("auc", "accuracy", "f1")} or dict(
        list(metrics.items())[:3]
    )
    step.say(
        f"version {version['version']}: "
        + ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
        + f"; {len(set(named))} files of metrics and baselines"
    )
    return version


def registered_files(package: dict[str, Any]) -> list[str]:
    """The S3 addresses of every metrics and baseline file that a model version names."""
    return [
        file["S3Uri"]
        for block in ("ModelMetrics", "DriftCheckBaselines")
        for part in package[block].values()
        for file in part.values()
    ]


def metrics_of(report: Any, name: str = "") -> dict[str, float]:
    """The metrics of an evaluation report in Model Monitor's format: whatever has a numeric "value"."""
    if not isinstance(report, dict):
        return {}
    value = report.get("value")
    if isinstance(value, int | float):
        # what always guessing the frequent class would reach is a yardstick, not a result
        return {} if name.endswith("_best_constant_classifier") else {name: float(value)}
    return {key: found for inner, part in report.items() for key, found in metrics_of(part, inner).items()}


def read_s3(s3: Any, uri: str) -> bytes:
    """The object behind an s3:// URI."""
    parts = urlsplit(uri)
    return s3.get_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))["Body"].read()


# --- F ----------------------------------------------------------------------------------------------------
# ----------------


def approve_version(r: Rehearsal, made: Project, package_arn: str) -> str:
    """Approve in the registry under the Data Scientist's role; returns the deploy execution that it
    started.
    """
    return decide_version(r, made, package_arn, "Approved", "metrics are good")


def decide_version(r: Rehearsal, made: Project, package_arn: str, status: str, reason: str) -> str:
    """Approve or reject in the registry; returns the deploy execution that it started."""
    role = person(r, made)
    codepipeline = role.client("codepipeline")
    pipeline = made.settings["deploy-pipeline-name"]
    before = {run["pipelineExecutionId"] for run in account.executions(codepipeline, pipeline)}
    approve.decide(role.client("sagemaker"), package_arn, status, reason)

    def started() -> str | None:
        new = [
            run["pipelineExecutionId"]
            for run in account.executions(codepipeline, pipeline)
            if run["pipelineExecutionId"] not in before
        ]
        return new[0] if new else None

    return r.wait(f"{pipeline} to start after the decision {status}", started, timeout=60)


def roll_out(r: Rehearsal, made: Project, version: dict[str, Any]) -> None:
    """Use case F: approval, staging, tests, manual approval, production, monitoring."""
    pipeline = made.settings["deploy-pipeline-name"]
    session = person(r, made)
    codepipeline = session.client("codepipeline")
    with r.use_case("F", "approve and deploy"):
        with r.step("approve the version in the registry") as step:
            execution = approve_version(r, made, version["arn"])
            step.say(f"version {version['version']} started {pipeline}")
        with r.step("staging is deployed and smoke-tested") as step:
            wait_for_execution(r, session, step, pipeline, execution, until_approval=True)
            tested = [s for s in stages_of(session, pipeline, execution) if s[0] == "Staging"]
            step.say(", ".join(f"{action} {status}" for _, action, status in tested))
        with r.step("the owner is asked, and production is approved") as step:
            asked = r.wait(f"an approval mail to {OWNER_EMAIL}", lambda: approval_mail(r), timeout=30)
            release_is_told(r, made, asked, execution, version)
            step.say(f"{asked['subject']}: it says what was tested and what would change")
            approve.answer_release(codepipeline, pipeline, "Approved", "rehearsal")
        with r.step("production is deployed, tested and monitored") as step:
            wait_for_execution(r, session, step, pipeline, execution)
            step.say(
                ", ".join(
                    f"{a} {s}"
                    for stage, a, s in stages_of(session, pipeline, execution)
                    if stage == "Production"
                )
            )
        with r.step("the production endpoint answers") as step:
            sagemaker = asking(r, made).client("sagemaker")
            endpoint = sagemaker.describe_endpoint(EndpointName=made.endpoint)
            r.check(
                endpoint["EndpointStatus"] == "InService",
                f"endpoint {made.endpoint} is {endpoint['EndpointStatus']}",
            )
            score = invoke(r, made, applicants(r, made)[:1])
            step.say(f"{made.endpoint} is InService; probability of a bad loan {float(score[0]):.3f}")
        status = account.stack_status(session.client("cloudformation"), f"mlops-{made.id}-monitoring")
        r.check(status.endswith("_COMPLETE"), f"stack mlops-{made.id}-monitoring is {status}")
        with r.step("the model card tells the version's life") as step:
            step.say(model_card(r, made, version["version"]))


def release_is_told(
    r: Rehearsal, made: Project, asked: dict[str, Any], execution: str, version: dict[str, Any]
) -> None:
    """The mail says what was tested and what would change, and links the report, which the person opens."""
    told = re.search(r"^Additional information: (.+)$", asked["body"], re.M)
    link = re.search(r"^URL for review: (\S+)$", asked["body"], re.M)
    text = told[1] if told else ""
    r.check("Passed all" in text and "auc" in text, f"the approval says: {text or 'nothing'}")
    folder = f"releases/{version['version']}/{execution}/staging"
    r.check(
        bool(link) and link[1].endswith(f"{folder}/report.html"), f"the approval links {link and link[1]}"
    )
    s3, home = person(r, made).client("s3"), f"s3://{made.settings['bucket-name']}/{folder}"
    report = json.loads(read_s3(s3, f"{home}/report.json"))
    r.check(report["passed"], "the report says that the tests failed", report["failures"])
    (r.folder / "release-report.html").write_bytes(read_s3(s3, f"{home}/report.html"))
    load = report["measured"].get("load") or {}
    rows = [
        ("the approval asks", text),
        ("its link", link[1] if link else ""),
        ("checks", len(report["checks"])),
    ]
    rows += [
        (f"load: {name.replace('_', ' ')}", value) for name, value in load.items() if value or value == 0
    ]
    show(
        r,
        f"Release of version {version['version']}",
        "What the person sees who approves it; the report itself is release-report.html beside this page.",
        rows,
    )


def show(r: Rehearsal, title: str, lead: str, rows: list[tuple[Any, Any]]) -> None:
    """A table of the rehearsal's own report."""
    cells = [(str(name), str(value)) for name, value in rows]
    found = {"title": title, "lead": lead, "head": ("", ""), "rows": cells}
    r.facts.setdefault("tables", []).append(found)


def model_card(r: Rehearsal, made: Project, version: int) -> str:
    """The card of the version that was released, as the person of the project reads it."""
    session = person(r, made)
    sagemaker, name = session.client("sagemaker"), f"mlops-{made.id}-v{version}"

    def released() -> dict[str, Any] | None:
        card = sagemaker.describe_model_card(ModelCardName=name)
        return card if "Released to production" in card["Content"] else None

    card = r.wait(f"model card {name} to tell the release", released, timeout=60)
    r.check(card["ModelCardStatus"] == "Approved", f"model card {name} is {card['ModelCardStatus']}")
    details = json.loads(card["Content"])["additional_information"]["custom_details"]
    events = [text for key, text in sorted(details.items()) if key.startswith("history_")]
    page = read_s3(session.client("s3"), f"s3://{made.settings['bucket-name']}/model-cards/v{version}.html")
    r.check(b"Life of the version" in page, f"the page of model card {name} lacks its life")
    (r.folder / "model-card.html").write_bytes(page)
    versions = sagemaker.list_model_card_versions(ModelCardName=name)["ModelCardVersionSummaryList"]
    lead = (
        f"{card['ModelCardStatus']}, {len(versions)} versions of the card; as a page it is model-card.html."
    )
    show(r, f"Model card {name}", lead, [(at, text) for at, _, text in (e.partition(" ") for e in events)])
    return f"{name} is {card['ModelCardStatus']}, {len(events)} events: " + events[-1].partition(" ")[2]


def approval_mail(r: Rehearsal) -> dict[str, Any] | None:
    """The newest mail in which CodePipeline asks the owner for an approval."""
    found = [mail for mail in mails(r, OWNER_EMAIL) if mail["subject"].startswith("APPROVAL NEEDED")]
    return found[-1] if found else None


# --- G ----------------------------------------------------------------------------------------------------
# ----------------


def applicants(r: Rehearsal, made: Project) -> list[list[str]]:
    """The feature rows of the project's data, in the order in which the model wants them."""
    clone = next(iter(sorted((r.folder / "homes" / made.name).glob("*/*/mlops.yml"))))
    settings = yaml.safe_load(clone.read_text())["data"]
    with (clone.parent / settings["source"]).open(newline="") as file:
        rows = list(csv.reader(file))
    target = rows[0].index(settings["target"])
    r.facts.setdefault("columns", [name for index, name in enumerate(rows[0]) if index != target])
    return [[value for index, value in enumerate(row) if index != target] for row in rows[1:]]


def invoke(r: Rehearsal, made: Project, rows: list[list[str]]) -> list[str]:
    """One request to the production endpoint; an answer per row."""
    body = io.StringIO()
    csv.writer(body, lineterminator="\n").writerows(rows)
    runtime = asking(r, made).client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName=made.endpoint, ContentType="text/csv", Accept="text/csv", Body=body.getvalue()
    )
    scores = answer["Body"].read().decode().split()
    r.check(len(scores) == len(rows), f"{made.endpoint} answered {len(scores)} scores for {len(rows)} rows")
    return scores


def captured(s3: Any, bucket: str) -> int:
    """How many requests data capture has stored."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="data-capture/production/")
    keys = [
        item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"].endswith(".jsonl")
    ]
    return sum(len(s3.get_object(Bucket=bucket, Key=key)["Body"].read().splitlines()) for key in keys)


def advance_past_the_hour(r: Rehearsal, minutes: int = 5) -> datetime:
    """Move the cloud's clock past the next full hour, so that the hourly monitor runs."""
    now = datetime.fromisoformat(r.cloud.control("clock")["now"])
    seconds = 3600 - (now.minute * 60 + now.second) + minutes * 60
    r.cloud.control("clock", {"advance_seconds": seconds})
    return datetime.fromisoformat(r.cloud.control("clock")["now"])


#: what libraries ask before they do without it: boto3 takes the denial of ListBuckets for "I cannot tell"
ASKED_WITHOUT_NEED = ("s3:ListAllMyBuckets",)


def nothing_lost(r: Rehearsal) -> str:
    """Events that reached no target and background work that failed would show nowhere else."""
    health = r.cloud.control("health")
    lost = [f"undelivered: {one}" for one in health["undelivered"]]
    lost += [f"fault: {one}" for one in health["faults"]]
    r.check(not lost, f"{len(lost)} events or background tasks were lost", lost, str(r.cloud.log))
    denied = {one["message"] for one in r.cloud.control("denials") if one["action"] not in ASKED_WITHOUT_NEED}
    r.check(not denied, f"{len(denied)} calls were denied by IAM", sorted(denied), "/_localaws/denials")
    by_root = {
        f"{call['service']}:{call['operation']}"
        for call in r.cloud.control("calls")
        # other accounts are prepared by their administrators whenever a project comes to them
        if call["by"] == "root" and call["account"] == ACCOUNT and call["at"] > r.facts["launched"]
    } - {"sts:AssumeRole"}
    r.check(not by_root, "the administrator worked after the launch", sorted(by_root), "/_localaws/calls")
    return "none undelivered, no fault, no call denied, nothing done as administrator"
