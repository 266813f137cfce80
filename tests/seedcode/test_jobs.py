"""The scripts as jobs: from raw data to an endpoint in own processes, and how each refuses bad input."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from monitor import formats

FIRST_ANSWER_SECONDS = 30


@pytest.fixture(scope="module")
def source(project: Path) -> Path:
    return project / "src"


@pytest.fixture(scope="module")
def evaluation(executed: SimpleNamespace) -> dict[str, Any]:
    """evaluation.json"""
    return json.loads((executed.outputs["Evaluate", "evaluation"] / "evaluation.json").read_text())


def test_training_logs_the_metrics_that_the_definition_looks_for(
    executed: SimpleNamespace, definitions: dict[str, Any]
):
    (train,) = [
        s for s in json.loads(definitions["stable"]["definition"])["Steps"] if s["Type"] == "Training"
    ]
    metrics = train["Arguments"]["AlgorithmSpecification"]["MetricDefinitions"]
    assert {metric["Name"] for metric in metrics} == {"validation:auc", "validation:accuracy"}
    for metric in metrics:
        (value,) = re.findall(metric["Regex"], executed.log)
        assert 0.5 < float(value) < 1


@pytest.fixture(scope="module")
def baselines(executed: SimpleNamespace) -> Path:
    """The output of step MonitoringBaseline: a folder for each kind."""
    return executed.outputs["MonitoringBaseline", "baseline"]


@pytest.mark.parametrize("kind", ["data_quality", "model_quality", "model_bias", "model_explainability"])
def test_the_baseline_of_every_kind_is_there_and_has_the_documented_form(
    baselines: Path, executed: SimpleNamespace, config: dict[str, Any], kind: str
):
    """The files that the registration refers to; a monitor needs options.json besides."""
    names = {"statistics.json", "constraints.json", "options.json"}
    names |= {"analysis.json"} if kind in ("model_bias", "model_explainability") else set()
    # The other kind of Clarify names the job's bucket in its configuration: only a job in an account has one.
    names |= {"analysis_config.json"} if kind == "model_bias" else set()
    files = {file.name: json.loads(file.read_text()) for file in (baselines / kind).glob("*.json")}
    assert names == set(files)
    for name in names - {"options.json", "analysis_config.json"}:
        assert formats.problems(kind, name, files[name]) == []
    features = json.loads((executed.model / "metadata.json").read_text())["features"]
    assert files["options.json"]["features"] == [feature["name"] for feature in features]
    assert files["options.json"]["settings"] == config["monitoring"][kind]
    assert files["options.json"]["target"] == config["data"]["target"]


def test_the_baseline_of_the_data_has_every_feature_that_a_request_has(
    baselines: Path, executed: SimpleNamespace
):
    names = [
        feature["name"] for feature in json.loads((executed.model / "metadata.json").read_text())["features"]
    ]
    for file in ("statistics.json", "constraints.json"):
        features = json.loads((baselines / "data_quality" / file).read_text())["features"]
        assert [feature["name"] for feature in features] == names, file


def test_the_sample_for_simulated_traffic_is_what_a_request_looks_like(baselines: Path, project: Path):
    rows = (baselines / "data_quality" / "sample.csv").read_text().splitlines()
    assert 0 < len(rows) <= 100
    assert set(rows) <= set(raw_rows(project, 1000).splitlines())  # written as they came


def test_the_baseline_knows_the_groups_of_mlops_yml(baselines: Path, config: dict[str, Any]):
    analysis = json.loads((baselines / "model_bias" / "analysis.json").read_text())
    facets = {facet["name"] for facet in config["monitoring"]["model_bias"]["facets"]}
    for part in ("pre_training_bias_metrics", "post_training_bias_metrics"):
        assert set(analysis[part]["facets"]) == facets


def test_the_model_reaches_the_threshold_of_mlops_yml(evaluation: dict[str, Any], config: dict[str, Any]):
    metrics = evaluation["binary_classification_metrics"]
    assert metrics[config["evaluation"]["metric"]]["value"] >= config["evaluation"]["threshold"]


@pytest.mark.parametrize("metric", ["auc", "accuracy", "f1", "precision", "recall"])
def test_every_metric_that_mlops_yml_may_name_is_there(evaluation: dict[str, Any], metric: str):
    assert 0 <= evaluation["binary_classification_metrics"][metric]["value"] <= 1


def test_the_report_has_the_form_of_model_monitor(evaluation: dict[str, Any]):
    metrics = evaluation["binary_classification_metrics"]
    assert evaluation["version"] == 0.0 and evaluation["dataset"] == {"item_count": 200}
    assert sum(sum(row.values()) for row in metrics["confusion_matrix"].values()) == 200
    curves = {"receiver_operating_characteristic_curve", "precision_recall_curve", "confusion_matrix"}
    for name, entry in metrics.items():
        assert name in curves or set(entry) == {"value", "standard_deviation"}, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "preprocess: data.csv: the file is empty"),
        (lambda text: text.replace(",age,", ",years,", 1), "preprocess: missing column 'age'; the file has"),
        (
            lambda text: text.replace(",radio_tv,1169,", ",radio_tv,much,", 1),
            "preprocess: column 'credit_amount', row 1: 'much' is not a number",
        ),
    ],
    ids=["empty", "missing column", "not a number"],
)
def test_preprocessing_refuses_bad_data_in_one_sentence(
    run: Callable, project: Path, source: Path, tmp_path: Path, change: Callable[[str], str], message: str
):
    text = (project / "data" / "german_credit.csv").read_text(encoding="utf-8")
    (tmp_path / "data.csv").write_text(change(text), encoding="utf-8")
    done = run(source / "preprocess.py", "--input", tmp_path / "data.csv", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def failing(run: Callable, source: Path, executed: SimpleNamespace, tmp_path: Path) -> Callable:
    """Run a training that must fail; its exit code, output/failure, and standard error."""

    def runner(hyperparameters: dict[str, str], train: Path | None = None) -> tuple[int, str, str]:
        for name in ("model", "output", "config"):
            (tmp_path / name).mkdir()
        (tmp_path / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
        done = run(
            *(source / "train.py", "train"),
            *("--train", train or executed.outputs["Preprocess", "train"]),
            *("--validation", executed.outputs["Preprocess", "validation"]),
            *("--model-dir", tmp_path / "model", "--output-dir", tmp_path / "output"),
            *("--config-dir", tmp_path / "config"),
        )
        assert not list((tmp_path / "model").iterdir())
        return done.returncode, (tmp_path / "output" / "failure").read_text(), done.stderr

    return runner


def test_a_training_that_fails_leaves_its_reason(failing: Callable):
    code, reason, log = failing({"algorithm": "magic"})
    assert code == 1
    assert reason == "hyperparameter algorithm: 'magic' is not one of logistic_regression, gradient_boosting"
    assert reason in log and "Traceback" not in log


def test_an_unforeseen_error_leaves_its_kind_and_a_traceback(failing: Callable, tmp_path: Path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "features.json").write_text("{}")
    (tmp_path / "train" / "train.csv").write_text("a\n1\n")
    code, reason, log = failing({}, train=tmp_path / "train")
    assert (code, reason) == (1, "KeyError: 'features'")
    assert "Traceback" in log


def test_help_says_how_it_runs_on_a_laptop(run: Callable, source: Path):
    done = run(source / "preprocess.py", "--help")
    assert done.returncode == 0 and "--test-fraction" in done.stdout
    for script in ("preprocess.py", "train.py", "evaluate.py"):
        assert "On a laptop:" in (source / script).read_text(encoding="utf-8"), script


# ------------------------------------------------------------ the endpoint


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The model server in a process of its own."""

    def __init__(self, project: Path, model: Path, environment: dict[str, str], log: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, str(project / "containers" / "inference" / "serve"), "serve"],
                env=environment
                | {
                    "SM_MODEL_DIR": str(model),
                    "BIND_ADDRESS": "127.0.0.1",
                    "SAGEMAKER_BIND_TO_PORT": str(port),
                },
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait for /ping."""
        end = time.monotonic() + FIRST_ANSWER_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                if self.ask("/ping")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        pytest.fail(f"no answer to /ping:\n{self.log.read_text()}")

    def ask(self, path: str, body: str | None = None, content_type: str = "text/csv") -> tuple[int, str]:
        """Send a request; status and body of the answer."""
        data = None if body is None else body.encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def stop(self) -> int:
        """End it as SageMaker does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def server(
    project: Path,
    executed: SimpleNamespace,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    started = Server(project, executed.model, environment, tmp_path_factory.mktemp("serve") / "log")
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def raw_rows(project: Path, count: int) -> str:
    lines = (project / "data" / "german_credit.csv").read_text(encoding="utf-8").splitlines()[1 : count + 1]
    return "".join(line.rsplit(",", 1)[0] + "\n" for line in lines)


def test_the_endpoint_scores_raw_rows(server: Server, project: Path):
    status, text = server.ask("/invocations", raw_rows(project, 1000))
    scores = [float(line) for line in text.splitlines()]
    assert status == 200 and len(scores) == 1000 and all(0 <= score <= 1 for score in scores)


def test_the_endpoint_gives_what_the_evaluation_judged(
    server: Server, executed: SimpleNamespace, evaluation: dict[str, Any]
):
    lines = (executed.outputs["Preprocess", "test"] / "test.csv").read_text(encoding="utf-8").splitlines()[1:]
    _, text = server.ask("/invocations", "".join(line.rsplit(",", 1)[0] + "\n" for line in lines))
    right = [
        (float(score) >= 0.5) == line.endswith(",bad")
        for score, line in zip(text.splitlines(), lines, strict=True)
    ]
    accuracy = evaluation["binary_classification_metrics"]["accuracy"]["value"]
    assert sum(right) / len(right) == pytest.approx(accuracy)


def test_the_endpoint_refuses_a_bad_row(server: Server, project: Path):
    row = raw_rows(project, 1).replace(",1169,", ",much,")
    status, text = server.ask("/invocations", row)
    assert (status, json.loads(text)) == (
        400,
        {"error": "row 1, column 'credit_amount': 'much' is not a number"},
    )
    assert server.ask("/somewhere")[0] == 404


def test_the_server_ends_when_asked_and_leaves_no_process(
    project: Path, executed: SimpleNamespace, environment: dict[str, str], tmp_path: Path
):
    started = Server(project, executed.model, environment, tmp_path / "log")
    started.wait()
    assert started.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(started.process.pid, 0)


def test_the_server_ends_by_itself_when_the_model_cannot_be_loaded(
    project: Path, environment: dict[str, str], tmp_path: Path
):
    started = Server(project, tmp_path, environment, tmp_path / "log")
    assert started.process.wait(20) != 0
    assert "no metadata.json there" in started.log.read_text()


def test_the_server_ends_when_one_of_its_processes_dies(
    project: Path, executed: SimpleNamespace, environment: dict[str, str], tmp_path: Path
):
    """nginx is a stand-in that dies: gunicorn must not be left behind alone."""
    fake = tmp_path / "bin" / "nginx"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nsleep 1\nexit 3\n")
    fake.chmod(0o755)
    path = {"PATH": f"{fake.parent}{os.pathsep}{environment['PATH']}"}
    started = Server(project, executed.model, environment | path, tmp_path / "log")
    assert started.process.wait(20) == 3
    with pytest.raises(ProcessLookupError):
        os.killpg(started.process.pid, 0)


@pytest.fixture
def serve(project: Path) -> ModuleType:
    """containers/inference/serve as a module."""
    loader = SourceFileLoader("serve", str(project / "containers" / "inference" / "serve"))
    module = module_from_spec(spec_from_loader("serve", loader))
    loader.exec_module(module)
    return module


def test_gunicorn_is_alone_without_nginx(serve: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve.shutil, "which", lambda name: None)
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "9001")
    assert serve.address() == ("0.0.0.0", 9001)  # noqa: S104 - a container serves on all its interfaces
    with socket.socket() as listener:
        (gunicorn,) = serve.commands(tmp_path, listener)
        assert gunicorn[gunicorn.index("--bind") + 1] == f"fd://{listener.fileno()}"
    assert gunicorn[gunicorn.index("--workers") + 1] == str(serve.cores())


def test_nginx_is_in_front_where_it_is_installed(
    serve: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serve.shutil, "which", lambda name: "/usr/sbin/nginx")
    monkeypatch.setenv("SAGEMAKER_MAX_PAYLOAD_IN_MB", "100")
    monkeypatch.setenv("SAGEMAKER_MODEL_SERVER_WORKERS", "3")
    monkeypatch.delenv("SAGEMAKER_BIND_TO_PORT", raising=False)
    with socket.socket() as listener:
        gunicorn, nginx = serve.commands(tmp_path, listener)
    assert nginx[:5] == ["/usr/sbin/nginx", "-c", f"{tmp_path}/nginx.conf", "-p", str(tmp_path)]
    assert gunicorn[gunicorn.index("--bind") + 1] == f"unix:{tmp_path}/gunicorn.sock"
    assert gunicorn[gunicorn.index("--workers") + 1] == "3"
    text = (tmp_path / "nginx.conf").read_text()
    assert "listen 0.0.0.0:8080" in text and f"server unix:{tmp_path}/gunicorn.sock" in text
    assert "client_max_body_size 100m" in text and "proxy_read_timeout 60s" in text
    assert "${" not in text.split("# serve fills in", 1)[1].split("\n", 1)[1] and "$http_host" in text
    assert text.count("{") == text.count("}")
