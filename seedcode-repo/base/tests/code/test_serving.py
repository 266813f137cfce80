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
    return serving.Endpoint(model_dir)


@pytest.fixture
def rows(applicants: pd.DataFrame) -> str:
    return applicants.head(3).to_csv(index=False, header=False)


def post(client, body: str | bytes, content_type: str = "text/csv", accept: str = "", **headers: str):
    headers = {"content-type": content_type, "accept": accept} | headers
    return client("POST", "/invocations", headers, body.encode() if isinstance(body, str) else body)


def scores(answer: serving.Answer) -> list[float]:
    assert (answer.status, answer.content_type) == (200, "text/csv")
    return [float(line) for line in answer.body.decode().splitlines()]


def error(answer: serving.Answer) -> str:
    assert answer.content_type == "application/json"
    return json.loads(answer.body)["error"]


def test_ping_answers(client):
    assert client("GET", "/ping", {}, b"").status == 200


def test_csv_gives_a_probability_a_row(client, rows: str, applicants: pd.DataFrame, model):
    expected = inference.probabilities(applicants.head(3), model)
    assert scores(post(client, rows)) == pytest.approx(expected, abs=1e-6)


def test_json_and_csv_agree(client, rows: str, applicants: pd.DataFrame):
    expected = scores(post(client, rows))
    objects = json.loads(applicants.head(3).to_json(orient="records"))
    lists = [list(instance.values()) for instance in objects]
    for instances in (objects, lists):
        answer = post(client, json.dumps({"instances": instances}), "application/json")
        predictions = json.loads(answer.body)["predictions"]
        assert [prediction["probability"] for prediction in predictions] == pytest.approx(expected, abs=1e-6)
        assert {prediction["label"] for prediction in predictions} <= {"good", "bad"}


def test_the_answer_has_the_form_that_was_asked_for(client, rows: str):
    for accept, form in {
        "application/json": "application/json",
        "*/*": "text/csv",
        "text/html, application/*;q=0.5": "application/json",
        "application/json;q=0.1, text/csv;q=0.2": "text/csv",
        "text/csv;q=0, */*": "application/json",
    }.items():
        assert post(client, rows, accept=accept).content_type == form, accept
    assert "predictions" in json.loads(post(client, rows, accept="application/json").body)


def test_requests_that_wait_together_get_the_answers_that_each_would_get(client, applicants: pd.DataFrame):
    lines = applicants.head(40).to_csv(index=False, header=False).splitlines()
    objects = json.dumps({"instances": json.loads(applicants.head(2).to_json(orient="records"))})
    requests = [
        *(
            ({"content-type": "text/csv", "accept": accept}, f"{line}\n".encode())
            for line, accept in zip(lines, ["", "application/json"] * 20, strict=True)
        ),
        ({"content-type": "application/json"}, objects.encode()),
        ({"content-type": "text/csv"}, "\n".join(lines[:3]).encode()),
    ]
    alone = [client("POST", "/invocations", headers, body) for headers, body in requests]
    assert {answer.status for answer in alone} == {200}
    assert client.together(requests) == alone


@pytest.mark.parametrize("what", ["header", "number", "width", "empty", "type"])
def test_a_bad_request_is_not_answered_together(client, applicants: pd.DataFrame, rows: str, what: str):
    """Whoever asks has to be told alone what is wrong."""
    bad, kind = {
        "header": (",".join(applicants.columns), "text/csv"),
        "number": (csv_with(applicants, "age", "old"), "text/csv"),
        "width": ("1,2", "text/csv"),
        "empty": ("", "text/csv"),
        "type": (rows, "text/html"),
    }[what]
    good = ({"content-type": "text/csv"}, rows.encode())
    with pytest.raises((serving.BadRequest, serving.Refused)):
        client.together([good, ({"content-type": kind}, bad.encode()), good])


def test_requests_are_joined_where_that_pays(client, monkeypatch: pytest.MonkeyPatch):
    """Seconds of a call of the model: a price of the call, a price of each row, or a slow model."""
    for call, row, most in ((0.01, 0.0, serving.TOGETHER), (0.0, 0.005, 1), (0.03, 0.0, 1)):
        now = [0.0]

        def predict(table, model, call=call, row=row, now=now) -> list[float]:
            now[0] += call + row * len(table)
            return [0.5] * len(table)

        monkeypatch.setattr(serving, "probabilities", predict)
        monkeypatch.setattr(serving.time, "perf_counter", lambda now=now: now[0])
        assert client._most() == most, (call, row)


def csv_with(applicants: pd.DataFrame, column: str, value: str) -> str:
    changed = applicants.head(2).astype(object)
    changed.loc[changed.index[1], column] = value
    buffer = io.StringIO()
    changed.to_csv(buffer, index=False, header=False)
    return buffer.getvalue()


def test_a_bad_number_is_named_with_row_and_column(client, applicants: pd.DataFrame):
    for value in ("old", "inf"):
        answer = post(client, csv_with(applicants, "age", value))
        assert (answer.status, error(answer)) == (
            400,
            f"row 2, column 'age': '{value}' is not a number",
        )


def test_an_empty_value_is_imputed(client, applicants: pd.DataFrame):
    assert post(client, csv_with(applicants, "age", "")).status == 200


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
    assert answer.status == status
    assert message in error(answer)


def test_a_header_is_refused(client, model):
    answer = post(client, ",".join(model.features) + "\n")
    assert (answer.status, error(answer)) == (
        400,
        "row 1 is a header: send the values only",
    )


def test_an_unknown_json_key_is_named(client, applicants: pd.DataFrame):
    instance = {**json.loads(applicants.head(1).to_json(orient="records"))[0], "shoe_size": 44}
    answer = post(client, json.dumps({"instances": [instance]}), "application/json")
    assert "unknown 'shoe_size'" in error(answer)


def test_an_accept_that_cannot_be_met_is_refused(client, rows: str):
    assert post(client, rows, accept="image/png").status == 406


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(inference.ModelError, match="no metadata.json there"):
        serving.Endpoint(tmp_path)


def test_what_is_not_there_is_refused(client, rows: str):
    assert client("GET", "/", {}, b"").status == 404
    assert client("GET", "/invocations", {}, b"")[::3] == (405, "POST")
    assert client("POST", "/ping", {}, b"")[::3] == (405, "GET")


def test_a_body_in_another_encoding_is_refused(client, rows: str):
    assert post(client, rows, "text/csv; charset=UTF-8").status == 200
    assert post(client, rows.encode("utf-16"), "text/csv; charset=utf-16").status == 415
    assert post(client, rows, **{"content-encoding": "gzip"}).status == 415
    assert scores(post(client, b"\xef\xbb\xbf" + rows.encode())) == scores(post(client, rows))


def test_many_rows_give_what_few_rows_give(client, applicants: pd.DataFrame):
    """From some kilobytes on rows are read at once: the same scores, and the same words for what is wrong."""
    many = applicants.to_csv(index=False, header=False)
    assert len(many) > serving.MANY
    one_by_one = [scores(post(client, line))[0] for line in many.splitlines()]
    assert scores(post(client, many)) == pytest.approx(one_by_one, abs=2e-6)
    assert scores(post(client, many.replace("\n", "\r\n"))) == scores(post(client, many))
    position = list(applicants).index("age")
    lines = [line.split(",") for line in many.splitlines()]
    lines[-1][position] = "old"
    answer = post(client, "\n".join(map(",".join, lines)))
    assert (answer.status, error(answer)) == (
        400,
        f"row {len(lines)}, column 'age': 'old' is not a number",
    )
    assert "has 19 values" in error(post(client, many + ",".join(lines[0][:-1])))
