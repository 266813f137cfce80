"""What a Data Scientist tries out: a pipeline beside the stable one, and the record of runs."""

import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("run_experimental.py")
PROJECT_ID = "p-abc123def456"


def load(path: Path) -> ModuleType:
    """A file of the project as a module, without its folder on sys.path."""
    specification = spec_from_file_location(f"project_{path.stem}", path)
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(run: Callable, project: Path, environment: dict[str, str]) -> dict[str, Any]:
    done = run(DRIVER, project, PROJECT_ID, env=environment | {"PROJECT_ID": PROJECT_ID})
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def test_it_is_created_then_updated_and_started_each_time(result: dict[str, Any]):
    assert (result["codes"], result["executions"]) == ([0, 0], 2)
    assert result["name"] == f"mlops-{PROJECT_ID}-experimental"
    assert result["role"].endswith("role/mlops/projects/execution")


def test_it_carries_the_projects_tags(result: dict[str, Any]):
    assert result["tags"] == {
        "sagemaker:project-id": PROJECT_ID,
        "sagemaker:project-name": "credit",
        "mlops:cost-center": "4711",
    }


def test_it_trains_with_the_projects_images_and_registers_nothing(result: dict[str, Any]):
    steps = {step["Name"]: step for step in result["definition"]["Steps"]}
    training = steps["Train"]["Arguments"]["AlgorithmSpecification"]["TrainingImage"]
    preprocessing = steps["Preprocess"]["Arguments"]["AppSpecification"]["ImageUri"]
    assert re.search(r"/training@sha256:[0-9a-f]{64}$", training)
    assert re.search(r"/preprocessing@sha256:[0-9a-f]{64}$", preprocessing)
    assert steps["CheckQuality"]["Arguments"]["IfSteps"] == []


@pytest.mark.parametrize(
    ("url", "project_id"),
    [
        ("https://git-codecommit.us-east-1.amazonaws.com/v1/repos/mlops-p-abc123def456", "p-abc123def456"),
        ("codecommit::us-east-1://mlops-p-abc123def456", "p-abc123def456"),
        ("https://example.com/team/mlops-p-abc123def456.git", "p-abc123def456"),
    ],
)
def test_the_project_is_found_from_the_git_remote(
    project: Path, monkeypatch: pytest.MonkeyPatch, url: str, project_id: str
):
    experimental = load(project / "experimental.py")
    monkeypatch.delenv("PROJECT_ID", raising=False)
    monkeypatch.setattr(experimental.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=f"{url}\n"))
    assert experimental.project_id() == project_id


def test_an_unknown_project_is_answered_with_what_to_do(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    experimental = load(project / "experimental.py")
    monkeypatch.delenv("PROJECT_ID", raising=False)
    monkeypatch.setattr(experimental.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=""))
    assert experimental.main([]) == 1
    assert "experimental: which project? set PROJECT_ID" in capsys.readouterr().err


def test_a_project_without_parameters_or_images_is_named(project: Path):
    experimental = load(project / "experimental.py")

    def client(operation: str, page: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: [page]))

    with pytest.raises(experimental.ExperimentError, match="no parameters below /mlops/projects/p-1"):
        experimental.parameters(client("get_parameters_by_path", {"Parameters": []}), "/mlops/projects/p-1")
    with pytest.raises(experimental.ExperimentError, match="mlops-p-1/training has no image yet"):
        experimental.newest_image(client("describe_images", {"imageDetails": []}), "host/mlops-p-1/training")


def test_the_newest_image_is_taken(project: Path):
    experimental = load(project / "experimental.py")
    images = [
        {"imageDigest": f"sha256:{letter}", "imagePushedAt": datetime(2026, 1, day)}
        for letter, day in (("b", 2), ("c", 3), ("a", 1))
    ]
    pages = [{"imageDetails": images[:2]}, {"imageDetails": images[2:]}]
    ecr = SimpleNamespace(get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: pages))
    assert experimental.newest_image(ecr, "host/mlops-p-1/training") == "host/mlops-p-1/training@sha256:c"


def test_runs_are_kept_in_a_file_and_read_back(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tracking = load(project / "src" / "tracking.py")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.read_runs(tmp_path).empty
    for name, auc in (("first", 0.7), ("second", 0.8)):
        assert tracking.log_run(name, {"trees": 3}, {"auc": auc}, folder=tmp_path) == str(
            tmp_path / "runs.jsonl"
        )
    runs = tracking.read_runs(tmp_path)
    assert runs[["name", "trees", "auc"]].to_numpy().tolist() == [["first", 3, 0.7], ["second", 3, 0.8]]


def test_runs_go_to_mlflow_where_it_is_configured(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The real client, writing to a file store of its own."""
    import mlflow

    tracking = load(project / "src" / "tracking.py")
    uri = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database takes many seconds to be set up
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    try:
        assert (
            tracking.log_run("first", {"trees": 3}, {"auc": 0.7}, folder=tmp_path, experiment="credit") == uri
        )
        (run,) = mlflow.search_runs(experiment_names=["credit"], output_format="list")
    finally:
        mlflow.set_tracking_uri(before)
    assert (run.data.params, run.data.metrics) == ({"trees": "3"}, {"auc": 0.7})
    assert not (tmp_path / "runs.jsonl").exists() and "mlflow" in sys.modules
