"""Broken commits stop the build pipeline at the right stage and name the cause; the next good commit
passes.
"""

from pathlib import Path

from rehearse import story
from rehearse.engine import Rehearsal


def run(r: Rehearsal) -> None:
    """A typo, a broken image, broken code, a bad model, and then a good commit."""
    story.deploy_infrastructure(r, with_pipeline=False)
    project = story.project(r)
    clone = story.clone_repository(r, project)

    def text(path: str) -> str:
        return (clone / path).read_text()

    good = {path: text(path) for path in ("mlops.yml", "containers/training/Dockerfile", "src/train.py")}

    def broken(path: str, old: str, new: str) -> dict[str, str]:
        r.check(old in good[path], f"{path} of the seed code has no {old!r} any more: change this scenario")
        return good | {path: good[path].replace(old, new, 1)}

    dockerfile = "containers/training/Dockerfile"
    missing_file = good[dockerfile] + "COPY src/not-there.py /opt/program/\n"
    entry = 'if __name__ == "__main__":\n'
    raising = 'raise RuntimeError("the ledger is closed")\n'
    always = broken("src/train.py", entry, f"{raising}\n\n{entry}")
    only_in_a_job = broken("src/train.py", entry, f"{entry}    {raising}")
    threshold = next(line for line in good["mlops.yml"].splitlines() if line.strip().startswith("threshold:"))
    too_high = broken("mlops.yml", threshold, threshold.split(":")[0] + ": 0.999")
    typo = broken("mlops.yml", "test_fraction:", "test_fracton:")
    cases = [
        ("typo in mlops.yml", "Validate", ["test_fracton", "test_fraction"], typo),
        ("Dockerfile that fails", "Images", ["src/not-there.py"], good | {dockerfile: missing_file}),
        ("code that its tests catch", "Validate", ["the ledger is closed"], always),
        ("training code that raises", "Train", ["the ledger is closed"], only_in_a_job),
        ("accuracy below the threshold", "Train", ["0.999"], too_high),
    ]
    with r.use_case("E", "broken commits, then a good one"):
        for title, stage, words, files in cases:
            with r.step(title) as step:
                branch = title.replace(" ", "-").replace(".", "-")
                commit = story.push_change(r, project, clone, branch, f"Try: {title}", changed(clone, files))
                step.say(story.expect_failure(r, project, step, commit, stage, words))
        with r.step("back to the good state") as step:
            files = changed(clone, good) | {"README.md": text("README.md") + "\nAll well again.\n"}
            commit = story.push_change(r, project, clone, "good-again", "Back to what worked", files)
            step.say(f"commit {commit[:8]}")
        story.build(r, project, commit)


def changed(clone: Path, files: dict[str, str]) -> dict[str, str]:
    """Only the files whose content is another: a commit must change something."""
    return {path: content for path, content in files.items() if (clone / path).read_text() != content}
