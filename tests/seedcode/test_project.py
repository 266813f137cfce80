"""The composed project is sound: its tests pass, its notebook runs, its images hold what they import."""

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

IMAGES = ("preprocessing", "training", "inference")
# What the SageMaker image already has; the project adds only what is in containers/requirements.txt.
IN_BASE_IMAGE = {"boto3", "gunicorn", "numpy", "pandas", "pyarrow", "scipy", "sklearn"}


@pytest.mark.slow
def test_its_own_tests_pass(run: Callable, project: Path):
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=prepend", "tests", cwd=project)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


def test_it_has_tests_of_code_data_and_model(project: Path):
    for tier in ("code", "data", "model"):
        assert list((project / "tests" / tier).glob("test_*.py")), tier


@pytest.mark.slow
def test_the_notebook_runs(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPERIMENT_DIR", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.delenv(name, raising=False)
    notebook = nbformat.read(project / "notebooks" / "01-experiment.ipynb", as_version=4)
    kernel = {"metadata": {"path": str(project / "notebooks")}}
    NotebookClient(notebook, timeout=180, kernel_name="python3", resources=kernel).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "would be registered" in text
    runs = [json.loads(line) for line in (tmp_path / "runs" / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 3 and all(0.5 < run["metrics"]["auc"] < 1 for run in runs)


def test_notebooks_are_committed_without_output(project: Path):
    for path in (project / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and not cell.get("execution_count"), path.name


def dockerfile(project: Path, image: str) -> str:
    return (project / "containers" / image / "Dockerfile").read_text(encoding="utf-8")


def copied(project: Path, image: str) -> set[str]:
    """The files of the repository that a Dockerfile copies."""
    lines = [line.split()[1:] for line in dockerfile(project, image).splitlines() if line.startswith("COPY")]
    return {source for *sources, _ in lines for source in sources}


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_exists(project: Path, image: str):
    for source in copied(project, image):
        assert (project / source).is_file(), source


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_what_its_code_imports(project: Path, image: str):
    copies = copied(project, image)
    requirements = (project / "containers" / "requirements.in").read_text(encoding="utf-8").splitlines()
    installed = {line.split("==")[0] for line in requirements if line and not line.startswith("#")}
    own = {Path(source).stem for source in copies if source.endswith(".py")}
    for source in copies:
        text = (project / source).read_text(encoding="utf-8")
        if not (source.endswith(".py") or text.startswith("#!/usr/bin/env python3")):
            continue
        imports = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
        }
        assert imports <= own | installed | IN_BASE_IMAGE | set(sys.stdlib_module_names), source


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_built_without_internet_and_without_leaving_the_token_in_it(project: Path, image: str):
    text = dockerfile(project, image)
    lines = [" ".join(line.split()) for line in text.replace("\\\n", "").splitlines()]
    instructions = [line for line in lines if line and not line.startswith("#")]
    assert instructions[:2] == ["ARG BASE_IMAGE", "FROM ${BASE_IMAGE}"]
    assert not text.lower().startswith("# syntax=")
    (install,) = [line for line in instructions if "pip install" in line]
    assert install.startswith("RUN --mount=type=secret,id=pip,target=/root/.config/pip/pip.conf pip install ")
    assert instructions[-1].startswith("ENTRYPOINT [")


def test_requirements_are_pinned(project: Path):
    for name in ("requirements-dev.in", "containers/requirements.in"):
        lines = (project / name).read_text(encoding="utf-8").splitlines()
        for line in lines:
            assert not line or line.startswith("#") or re.match(r"[A-Za-z0-9-]+==[0-9.]+(; .+)?$", line), line


def test_the_image_and_the_laptop_have_the_same_version(project: Path):
    inside = set((project / "containers" / "requirements.in").read_text().splitlines())
    outside = set((project / "requirements-dev.in").read_text().splitlines())
    assert {line for line in inside if "==" in line} <= outside


def test_the_data_has_its_source_and_licence(project: Path):
    text = (project / "data" / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text and "UCI Machine Learning Repository" in text


def test_the_readme_names_every_file_to_edit(project: Path):
    text = (project / "README.md").read_text(encoding="utf-8")
    for path in (project / "src").glob("*.py"):
        assert f"`src/{path.name}`" in text
    for path in re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE):
        assert (project / path).exists(), path
