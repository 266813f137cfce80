"""The endpoint's contract: /ping, /invocations in CSV and JSON, and refusals that name row and column."""

import io
import json
from pathlib import Path

import inference
import pandas as pd
import pytest
import serving


@pytest.fixture(scope="module")
def client(model_dir: Path):
    return serving.create_app(model_dir).test_client()


@pytest.fixture
def rows(applicants: pd.DataFrame) -> str:
    return applicants.head(3).to_csv(index=False, header=False)


def post(client, body: str | bytes, content_type: str = "text/csv", accept: str | None = None):
    headers = {"Accept": accept} if accept else {}
    return client.post("/invocations", data=body, content_type=content_type, headers=headers)


def test_ping_answers(client):
    assert client.get("/ping").status_code == 200


def test_csv_gives_a_probability_a_row(client, rows: str, applicants: pd.DataFrame, model):
    answer = post(client, rows)
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    expected = inference.probabilities(applicants.head(3), model)
    assert [float(line) for line in answer.text.splitlines()] == pytest.approx(expected, abs=1e-6)


def test_json_and_csv_agree(client, rows: str, applicants: pd.DataFrame):
    expected = [float(line) for line in post(client, rows).text.splitlines()]
    objects = json.loads(applicants.head(3).to_json(orient="records"))
    lists = [list(instance.values()) for instance in objects]
    for instances in (objects, lists):
        answer = post(client, json.dumps({"instances": instances}), "application/json")
        predictions = answer.get_json()["predictions"]
        assert [prediction["probability"] for prediction in predictions] == pytest.approx(expected, abs=1e-6)
        assert {prediction["label"] for prediction in predictions} <= {"good", "bad"}


def test_the_answer_has_the_form_that_was_asked_for(client, rows: str):
    assert "predictions" in post(client, rows, accept="application/json").get_json()
    assert post(client, rows, accept="*/*").mimetype == "text/csv"


def csv_with(applicants: pd.DataFrame, column: str, value: str) -> str:
    changed = applicants.head(2).astype(object)
    changed.loc[changed.index[1], column] = value
    buffer = io.StringIO()
    changed.to_csv(buffer, index=False, header=False)
    return buffer.getvalue()


def test_a_bad_number_is_named_with_row_and_column(client, applicants: pd.DataFrame):
    for value in ("old", "inf"):
        answer = post(client, csv_with(applicants, "age", value))
        assert (answer.status_code, answer.get_json()["error"]) == (
            400,
            f"row 2, column 'age': '{value}' is not a number",
        )


def test_an_empty_value_is_imputed(client, applicants: pd.DataFrame):
    assert post(client, csv_with(applicants, "age", "")).status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        ("", "text/csv", 400, "the body has no rows"),
        ("1,2,3\n", "text/csv", 400, "row 1 has 3 values, expected 20: checking_account, "),
        (",".join(["x"] * 20) + '\n"open', "text/csv", 400, "the body is not CSV"),
        (b"\xff\xfe", "text/csv", 400, "the body is not UTF-8"),
        ("{", "application/json", 400, "the body is not JSON"),
        ('{"rows": []}', "application/json", 400, 'the body must be {"instances": [...]}'),
        ('{"instances": []}', "application/json", 400, "the body has no rows"),
        ('{"instances": [5]}', "application/json", 400, "row 1 is neither a list nor an object"),
        ('{"instances": [{"age": 5}]}', "application/json", 400, "row 1: missing 'checking_account'"),
        ("x", "image/png", 415, "Content-Type 'image/png' is not supported"),
    ],
    ids=[
        "empty",
        "few values",
        "open quote",
        "not text",
        "not json",
        "no instances",
        "no rows",
        "a number",
        "keys",
        "type",
    ],
)
def test_a_bad_request_is_refused(client, body: str | bytes, content_type: str, status: int, message: str):
    answer = post(client, body, content_type)
    assert answer.status_code == status
    assert message in answer.get_json()["error"]


def test_a_header_is_refused(client, model):
    answer = post(client, ",".join(model.features) + "\n")
    assert (answer.status_code, answer.get_json()["error"]) == (
        400,
        "row 1 is a header: send the values only",
    )


def test_an_unknown_json_key_is_named(client, applicants: pd.DataFrame):
    instance = {**json.loads(applicants.head(1).to_json(orient="records"))[0], "shoe_size": 44}
    answer = post(client, json.dumps({"instances": [instance]}), "application/json")
    assert "unknown 'shoe_size'" in answer.get_json()["error"]


def test_an_accept_that_cannot_be_met_is_refused(client, rows: str):
    assert post(client, rows, accept="image/png").status_code == 406


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(inference.ModelError, match="no metadata.json there"):
        serving.create_app(tmp_path)
