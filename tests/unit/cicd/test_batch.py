"""Batch inference in mlops.yml and the tests of a stage by files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

import compose
from mlops_cicd import batch, batch_test, config
from mlops_cicd.console import Fault
from mlops_cicd.registry import ModelVersion
from mlops_cicd.staging.golden import Golden
from mlops_cicd.staging.sample import Sample

SHIPPED = compose.compose("sklearn", "batch")["mlops.yml"].decode()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("key_columns: []", "key_columns: [id, id]", "key_columns has id twice"),
        ("key_columns: []", "key_columns: [credit_risk]", "key_columns has credit_risk, the target"),
        ("key_columns: []", "key_columns: [id, day]", "key_columns has day, which the table of results"),
        ("key_columns: []", "key_columns: [Customer Id]", "key_columns.0"),
        ("max_concurrent_transforms: 2", "max_concurrent_transforms: 20", "is 120; allowed: up to 100"),
        ("engine: processing", "engine: managed", "monitoring.engine is managed; allowed with"),
        ("mode: batch", "mode: realtime", "deployment.batch is set; allowed with inference.mode batch only"),
        ("engine: processing", "simulated_traffic: true", "simulated_traffic is true; allowed with"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_named(old: str, new: str, words: str) -> None:
    assert SHIPPED.count(old) == 1 and config.check(SHIPPED) == []
    assert any(words in problem for problem in config.check(SHIPPED.replace(old, new)))


def test_key_figures_are_of_results_and_their_first_key_column() -> None:
    keyed = yaml.safe_load(SHIPPED.replace("key_columns: []", "key_columns: [customer_id, contract]"))
    assert batch.key_figures(keyed) == {"InferenceMode": "batch", "KeyColumn": "customer_id"}
    assert batch.key_figures(yaml.safe_load(SHIPPED))["KeyColumn"] == ""
    realtime = {"inference": {"mode": "realtime"}, "deployment": {}}
    assert batch.key_figures(realtime) == {"InferenceMode": "realtime", "KeyColumn": ""}


def test_features_are_those_of_the_version() -> None:
    place = "s3://b/pipelines/p/e/baseline"
    uri = {"S3Uri": f"{place}/model_bias/constraints.json"}
    model = ModelVersion("arn", 7, {"DriftCheckBaselines": {"Bias": {"PostTrainingConstraints": uri}}})
    assert batch.features_uri(model) == f"{place}/model_bias/options.json"
    with pytest.raises(Fault, match="its features are not known"):
        batch.features_uri(ModelVersion("arn", 7, {}))


class S3:
    """A bucket whose uploads are scored at once, as the test says."""

    def __init__(self, score: Any) -> None:
        self.score, self.objects = score, {}

    def put_object(self, Bucket: str, Key: str, Body: bytes) -> dict[str, str]:  # noqa: N803
        name = Key.split("/", 3)[3].replace("/", "%2F")
        rows = Body.decode().splitlines()
        if "-bad" in Key:
            body = json.dumps({"version": "v1", "reason": "its first line has 3 values"})
            self.objects[f"batch/quarantine/staging/{name}.json"] = (body, {})
        else:
            body = "".join(f"{row},{self.score(number)}\n" for number, row in enumerate(rows))
            self.objects[f"batch/tests/staging/{name}.out"] = (body, {"input-version": "v1"})
        return {"VersionId": "v1"}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if Key not in self.objects:
            raise ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "HeadObject")
        return {"Metadata": self.objects[Key][1]}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        return {"Body": io.BytesIO(self.objects[Key][0].encode())}


def checks(score: Any, tmp_path: Path) -> dict[str, bool]:
    class Project:
        bucket_name = "b"

        def resource(self, name: str) -> str:
            return name

    sample = Sample([["1", "a"], ["2", "b"], ["3", "c"]], [False, True, True], ["x", "y"])
    golden = Golden([{}, {}], {}, [{"values": [1, None], "score": 0.25, "why": ""}])
    place = batch_test.Place(S3(score), Project(), "staging", "run", ["id"], sleep=lambda seconds: None)
    wanted = {"evaluation": {"metric": "auc", "threshold": 0.7}, "data": {"source": "x"}}
    report = batch_test.run_checks(place, wanted, sample, {}, golden)
    return {check.name: check.passed for check in report.checks}


def test_a_stage_that_scores_as_training_did_passes(tmp_path: Path) -> None:
    found = checks(lambda number: [0.25, 0.1, 0.8, 0.9][number], tmp_path)
    assert all(found.values()) and batch_test.REFUSED in found and "scores as in training" in found


@pytest.mark.parametrize(
    ("scores", "fails"),
    [
        ([0.26, 0.1, 0.8, 0.9], "scores as in training"),
        ([0.25, 0.9, 0.1, 0.2], "auc of the sample"),
        ([0.25, 0.5, 0.5, 0.5], "answers differ"),
        ([0.25, 0.1, 0.8, 9.0], "range of the answers"),
    ],
)
def test_a_stage_that_scores_otherwise_fails(scores: list[float], fails: str, tmp_path: Path) -> None:
    assert checks(scores.__getitem__, tmp_path)[fails] is False
