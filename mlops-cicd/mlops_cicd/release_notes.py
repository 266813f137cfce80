"""What a release would change (flow F): the new model version beside the live one, for who approves it.

Metrics, what the versions are made of, and the commits between them. The whole of it is a part of the tests'
report; `summary` is the text of the approval, which CodePipeline shows and mails.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from .console import Fault, is_hidden
from .registry import ModelVersion, metric_value, read_json
from .settings import COMMIT, Project
from .staging import golden

METRICS = ("auc", "accuracy", "precision", "recall", "f1")
MOST_COMMITS, MOST_LOOKED_AT, MOST_FILES = 20, 200, 50
# CustomData takes 1,000 characters, and the pipeline puts a sentence of its own before this.
SUMMARY_LENGTH = 800
ETC = " … the report has the rest."
NO_SUCH_JOB = ("ValidationException", "ResourceNotFound", "AccessDeniedException", "AccessDenied")
CHANGES = {"A": "added", "M": "changed", "D": "deleted"}


def compare(project: Project, new: ModelVersion, live: ModelVersion | None, session: Any) -> dict[str, Any]:
    """Everything that is told of a release; what cannot be found out is a remark, not a failure."""
    s3, remarks = session.client("s3"), []
    evaluations = [evaluation(s3, one, remarks) for one in (new, live)]
    notes: dict[str, Any] = {
        "version": new.version,
        "live_version": live.version if live else None,
        "metrics": metrics(*evaluations),
        "changes": changes(new, live, [made_of(one, session, remarks) for one in (new, live)]),
        "commits": [],
        "files": [],
        "remarks": remarks,
    }
    if live:
        history(session.client("codecommit"), project.name, new, live, notes)
    else:
        remarks.append("Production runs no version yet, so there is nothing to compare with.")
    return notes


def evaluation(s3: Any, model: ModelVersion | None, remarks: list[str]) -> Any:
    """evaluation.json of a version."""
    if model is None or not model.evaluation:
        return None
    try:
        return read_json(s3, model.evaluation)
    except Fault as fault:
        remarks.append(f"Version {model.version}: {fault}.")
        return None


def metrics(new: Any, live: Any) -> list[dict[str, Any]]:
    """The metrics that either version has."""
    rows = []
    for name in METRICS:
        values = [metric_value(one, name) for one in (new, live)]
        if any(value is not None for value in values):
            difference = None if None in values else values[0] - values[1]
            rows.append({"name": name, "new": values[0], "live": values[1], "difference": difference})
    return rows


# ------------------------------------------------------------ what a version is made of


def training_job(model: ModelVersion) -> str | None:
    """The name of the training job that made a version: SageMaker puts it into the model's address."""
    for container in model.containers:
        path = urlsplit(container.get("ModelDataUrl") or "").path.strip("/").split("/")
        if path[-2:] == ["output", "model.tar.gz"] and len(path) > 2:
            return path[-3]
    return None


def described_job(sagemaker: Any, model: ModelVersion) -> dict[str, Any]:
    """The training job of a version; nothing where it cannot be told."""
    name = training_job(model)
    if not name:
        return {}
    try:
        return sagemaker.describe_training_job(TrainingJobName=name)
    except ClientError as error:
        # a version that somebody registered by hand may name a job of elsewhere, or none
        if error.response["Error"]["Code"] in NO_SUCH_JOB:
            return {}
        raise


def made_of(model: ModelVersion | None, session: Any, remarks: list[str]) -> dict[str, str]:
    """What a version is made of: part -> value."""
    if model is None:
        return {}
    metadata, job = model.metadata, described_job(session.client("sagemaker"), model)
    parts = {
        "commit": metadata.get("commit", ""),
        "training data": metadata.get("data_uri", ""),
        "reason of the training": metadata.get("retraining_reason", ""),
        "preprocessing image": metadata.get("preprocessing_image", ""),
        "training image": (job.get("AlgorithmSpecification") or {}).get("TrainingImage", ""),
        "inference image": next((one.get("Image", "") for one in model.containers), ""),
        "trained on": (job.get("ResourceConfig") or {}).get("InstanceType", ""),
    }
    parts |= {
        f"hyperparameter {name}": value for name, value in sorted((job.get("HyperParameters") or {}).items())
    }
    if model.evaluation:
        try:
            found = golden.load(session.client("s3"), model.evaluation)
        except Fault as fault:
            found = None
            remarks.append(f"Version {model.version}: {fault}.")
        if found:
            parts |= {f"package {name}": value for name, value in sorted(found.packages.items())}
            parts |= {f"feature {one['name']}": one["kind"] for one in found.features}
    return {name: value for name, value in parts.items() if value}


def changes(
    new: ModelVersion, live: ModelVersion | None, parts: Sequence[dict[str, str]]
) -> list[dict[str, Any]]:
    """The parts of both versions; of features and packages only those that differ."""
    rows = []
    for what in [*parts[0], *(name for name in parts[1] if name not in parts[0])]:
        values = [one.get(what, "") for one in parts]
        changed = live is not None and values[0] != values[1]
        if changed or not what.startswith(("feature ", "package ")):
            rows.append({"what": what, "new": values[0], "live": values[1], "changed": changed})
    return rows


# ------------------------------------------------------------ commits between two versions


def history(
    codecommit: Any, repository: str, new: ModelVersion, live: ModelVersion, notes: dict[str, Any]
) -> None:
    """The commits and files between the versions' commits."""
    ids = [one.metadata.get("commit", "") for one in (new, live)]
    if ids[0] == ids[1] or not all(COMMIT.fullmatch(one) for one in ids):
        notes["remarks"].append(
            f"Both versions are of commit {ids[0][:8]}."
            if ids[0] and ids[0] == ids[1]
            else "One of the versions names no commit, so what changed in the repository is not known."
        )
        return
    try:
        notes["commits"], more = commits_between(codecommit, repository, *ids)
        notes["files"], more_files = files_between(codecommit, repository, *ids)
    except ClientError as error:
        detail = error.response["Error"]
        notes["remarks"].append(
            f"What changed in {repository} between {ids[1][:8]} and {ids[0][:8]} is not known: "
            f"{detail['Code']}: {detail.get('Message', '')[:200]}"
        )
        return
    if not notes["commits"]:
        notes["remarks"].append(f"Commit {ids[0][:8]} is older than the live one: this release goes back.")
    if more or more_files:
        notes["remarks"].append(f"There are more commits or files: git log {ids[1][:8]}..{ids[0][:8]}")


def commits_between(
    codecommit: Any, repository: str, new: str, live: str
) -> tuple[list[dict[str, str]], bool]:
    """Commits that `new` has and `live` has not, newest first, merges left out; whether there are more.

    Both histories are walked at once, newest commit first, as git does it: where only commits that `live` has
    are left, nothing is missing any more.
    """
    known: dict[str, dict[str, Any]] = {}
    old: set[str] = {live}
    queue: list[tuple[float, str]] = []

    def put(identities: Iterable[str]) -> None:
        for identity in identities:
            if identity not in known:
                known[identity] = codecommit.get_commit(repositoryName=repository, commitId=identity)[
                    "commit"
                ]
                heapq.heappush(queue, (-when(known[identity]), identity))

    put([new, live])
    found: list[str] = []
    while queue and len(known) < MOST_LOOKED_AT and any(one not in old for _, one in queue):
        _, identity = heapq.heappop(queue)
        parents = known[identity].get("parents") or []
        if identity in old:
            old.update(parents)
        else:
            found.append(identity)
        put(parents)
    mine = [one for one in found if one not in old and len(known[one].get("parents") or []) < 2]
    told = [
        {
            "id": one,
            "author": (known[one].get("author") or {}).get("name", ""),
            "date": datetime.fromtimestamp(when(known[one]), UTC).isoformat(),
            "subject": (known[one].get("message") or "").strip().partition("\n")[0],
        }
        for one in mine[:MOST_COMMITS]
    ]
    return told, len(mine) > MOST_COMMITS or len(known) >= MOST_LOOKED_AT


def when(commit: dict[str, Any]) -> float:
    """The time of a commit; CodeCommit gives `1484167798 -0800`."""
    text = str((commit.get("committer") or {}).get("date", "0")).split(" ")[0]
    return float(text) if re.fullmatch(r"\d+", text) else 0.0


def files_between(codecommit: Any, repository: str, new: str, live: str) -> tuple[list[dict[str, str]], bool]:
    """The files that differ; whether there are more."""
    answer = codecommit.get_differences(
        repositoryName=repository,
        beforeCommitSpecifier=live,
        afterCommitSpecifier=new,
        MaxResults=MOST_FILES,
    )
    files = [
        {
            "change": CHANGES.get(one["changeType"], one["changeType"]),
            "path": (one.get("afterBlob") or one.get("beforeBlob") or {}).get("path", ""),
        }
        for one in answer["differences"]
    ]
    return files, bool(answer.get("NextToken") or answer.get("nextToken"))


# ------------------------------------------------------------ the text of the approval


def summary(notes: dict[str, Any], tests: str, limit: int = SUMMARY_LENGTH) -> str:
    """The release in a few sentences, the most important first; what does not fit is left to the report."""
    live = notes["live_version"]
    told = [tests, compared(notes["metrics"], live)]
    changed = [row for row in notes["changes"] if row["changed"]]
    reason = next((row["new"] for row in notes["changes"] if row["what"] == "reason of the training"), "")
    told.append(f"Trained because of: {reason}." if reason else "")
    if commits := notes["commits"]:
        told.append(f"{len(commits)} commit{'s' if len(commits) > 1 else ''} since version {live}:")
        told += [f"{one['id'][:8]} {one['author']}: {cut(one['subject'], 60)};" for one in commits[:5]]
    named = [row for row in changed if row["what"] not in ("commit", "reason of the training")]
    for row in named:
        before, after = (cut(row[side] or "none", 40) for side in ("live", "new"))
        by_hash = row["what"].endswith("image") or row["what"] == "training data"
        told.append(f"Other {row['what']}." if by_hash else f"{row['what']}: {before} to {after}.")
    return fit([harmless(one) for one in told if one], limit)


def compared(rows: Sequence[dict[str, Any]], live: Any) -> str:
    """The metrics in one sentence."""
    if not rows:
        return "It has no metrics."
    if live is None:
        figures = ", ".join(f"{row['name']} {row['new']:.3f}" for row in rows if row["new"] is not None)
        return f"Metrics: {figures}. Production runs no version yet."
    figures = ", ".join(
        f"{row['name']} {row['new']:.3f} ({row['live']:.3f} live, {row['difference']:+.3f})"
        for row in rows
        if row["difference"] is not None
    )
    return f"Beside live version {live}: {figures}." if figures else f"Live version {live} has no metrics."


def fit(parts: Sequence[str], limit: int) -> str:
    """As many whole parts as there is room for."""
    whole = " ".join(parts)
    if len(whole) <= limit:
        return whole
    text = ""
    for part in parts:
        if len(text) + len(part) + 1 + len(ETC) > limit:
            break
        text = f"{text} {part}".strip()
    return (text or cut(parts[0], limit - len(ETC))) + ETC


def cut(text: str, limit: int) -> str:
    """A text of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def harmless(text: str) -> str:
    """Text for the value of a pipeline's variable: no quotes, no braces of variables, nothing hidden.

    Commit messages come from whoever may push; they must not name another variable or end a value.
    """
    text = "".join(" " if is_hidden(one) else one for one in text)
    return " ".join(re.sub(r"""["'`\\#{}<>$]""", "", text).split())
