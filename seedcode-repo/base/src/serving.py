"""What the endpoint answers: GET /ping and POST /invocations, as SageMaker hosting and batch transform ask.

Takes text/csv (rows without a header, features in order) or application/json: {"instances": [[...], ...]} or
{"instances": [{"age": 35, ...}, ...]}. Answers in the form that Accept asks for: text/csv gives one
probability a row, application/json gives {"predictions": [{"probability": 0.12, "label": "good"}, ...]}.

HTTP itself is read and written by containers/inference/server.py. On a laptop:

    BIND_ADDRESS=127.0.0.1 SM_MODEL_DIR=build/model python containers/inference/serve
"""

import csv
import io
import json
import os
import reprlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import inference
from inference import BadRequest, Model, load_model, names_columns, probabilities, to_table

DECISION_THRESHOLD = 0.5
CSV, JSON = "text/csv", "application/json"
BOM = b"\xef\xbb\xbf"  # what Excel writes in front of UTF-8
# A framework's layer may read many rows of CSV at once; for few rows the exact way is as fast.
READ_MANY: Callable[[bytes, Model], Any] | None = getattr(inference, "read_csv", None)
MANY = 4096  # bytes
TOGETHER = 16  # requests that are scored together, where that pays
SLOW_SECONDS = 0.02  # a model that takes longer for one row is asked once for each request


class Answer(NamedTuple):
    """What a request gets."""

    status: int
    body: bytes
    content_type: str = JSON
    allow: str = ""
    rows: int = 0


class Refused(Exception):
    """A request that is answered with a reason instead of scores."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def refuse(status: int, reason: str, allow: str = "") -> Answer:
    """An answer that says what is wrong."""
    return Answer(status, json.dumps({"error": reason}).encode() + b"\n", allow=allow)


class Endpoint:
    """The model and how requests reach it. A model that cannot be loaded ends the server."""

    def __init__(self, model_dir: Path | None = None) -> None:
        self.model = load_model(model_dir or Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model")))
        self.most = self._most()

    def _most(self) -> int:
        """How many small requests to score together: many where many rows take about as long as one.

        So it is with most models of scikit-learn, whose checks take longer than their arithmetic. Where each
        row has its price, whoever came first would wait for the others.
        """
        width = len(self.model.features)

        def seconds(rows: list[list[Any]]) -> float:
            began = time.perf_counter()
            probabilities(to_table(rows, self.model), self.model)
            return time.perf_counter() - began

        for row in ([None] * width, ["0"] * width):
            with suppress(BadRequest):  # not every model takes missing values
                seconds([row])  # libraries import much at their first use: not in a client's time
                alone = min(seconds([row]) for _ in range(3))
                if alone > SLOW_SECONDS:
                    return 1
                many = min(seconds([row] * TOGETHER) for _ in range(3))
                return TOGETHER if many < alone * TOGETHER / 4 else 1
        return 1

    def __call__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer a request; names of headers are in lower case. Whatever the body holds, never a 5xx."""
        if path == "/ping":
            return Answer(200, b"\n", "text/plain") if method in ("GET", "HEAD") else not_allowed("GET")
        if path != "/invocations":
            return refuse(404, "there is only /ping and /invocations")
        if method != "POST":
            return not_allowed("POST")
        try:
            content_type = content_type_of(headers)
            accept = accepted(headers.get("accept", ""), content_type)
            table = read_table(content_type, body, self.model)
            scores = probabilities(table, self.model)
        except BadRequest as error:
            return refuse(400, str(error))
        except Refused as error:
            return refuse(error.status, str(error))
        return Answer(200, write_scores(scores, accept, self.model), accept, rows=len(scores))

    def together(self, requests: Sequence[tuple[Mapping[str, str], bytes]]) -> list[Answer]:
        """Answer several POST /invocations by one call of the model: headers and body of each.

        A row is scored by itself, so nobody's answer depends on who else asks. Raises what is wrong with any
        of them; then each has to be asked by itself.
        """
        rows: list[list[Any]] = []
        ends, forms = [], []
        for headers, body in requests:
            content_type = content_type_of(headers)
            forms.append(accepted(headers.get("accept", ""), content_type))
            own = read_rows(content_type, body.removeprefix(BOM), self.model.features)
            if names_columns(own[0], self.model):
                raise BadRequest("a header")
            rows += own
            ends.append(len(rows))
        scores = probabilities(to_table(rows, self.model), self.model)
        return [
            Answer(200, write_scores(scores[begin:end], accept, self.model), accept, rows=end - begin)
            for begin, end, accept in zip([0, *ends], ends, forms, strict=False)
        ]


def create_app() -> Endpoint:
    """What gunicorn loads, once, before it starts its workers."""
    return Endpoint()


def not_allowed(method: str) -> Answer:
    """The answer to a wrong method."""
    return refuse(405, f"use {method}", allow=method)


# --------------------------------------------------------------- headers


def content_type_of(headers: Mapping[str, str]) -> str:
    """CSV or JSON: what the body is said to be; CSV where nothing is said."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Refused(415, f"Content-Encoding {encoding[:100]!r} is not supported; send the body as it is")
    return _content_type(headers.get("content-type", CSV))


@lru_cache(maxsize=256)
def _content_type(value: str) -> str:
    kind, *parameters = (part.strip().lower() for part in value.split(";"))
    kind = kind or CSV
    if kind not in (CSV, JSON):
        raise Refused(415, f"Content-Type {kind[:100]!r} is not supported; use {CSV} or {JSON}")
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip() == "charset" and charset.strip(' "') not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise Refused(415, f"charset {charset[:100]!r} is not supported; use UTF-8")
    return kind


@lru_cache(maxsize=256)
def accepted(accept: str, content_type: str) -> str:
    """The form of the answer: what Accept likes best, and of equals what the request has."""
    if not accept.strip():
        return content_type
    best, best_quality = "", 0.0
    for form in (content_type, CSV, JSON):
        quality = max((_quality(part, form) for part in accept.split(",")), default=(0, 0.0))[1]
        if quality > best_quality:
            best, best_quality = form, quality
    if not best:
        raise Refused(406, f"Accept {accept[:100]!r} is not supported; use {CSV} or {JSON}")
    return best


def _quality(part: str, form: str) -> tuple[int, float]:
    """How exactly one item of Accept names a form, and how much it likes it (RFC 9110, section 12.5.1)."""
    kind, *parameters = (word.strip().lower() for word in part.split(";"))
    exactness = {form: 3, f"{form.split('/', 1)[0]}/*": 2, "*/*": 1}.get(kind, 0)
    if not exactness:
        return 0, 0.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return exactness, min(max(float(value), 0.0), 1.0)
            except ValueError:
                return exactness, 0.0
    return exactness, 1.0


# ------------------------------------------------------------------ rows


def read_table(content_type: str, body: bytes, model: Model) -> Any:
    """The table that the model takes. Raises BadRequest, which names row and column.

    Good input of many rows is read at once; what that way does not take is read row by row, which is exact
    and knows what is wrong. Both give the same table wherever both give one.
    """
    body = body.removeprefix(BOM)
    if READ_MANY and content_type == CSV and len(body) >= MANY:
        table = READ_MANY(body, model)
        if table is not None:
            return table
    return to_table(read_rows(content_type, body, model.features), model)


def read_rows(content_type: str, body: bytes, features: Sequence[str]) -> list[list[Any]]:
    """Return the raw rows of a request."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest("the body is not UTF-8") from error
    rows = parse_json(text, features) if content_type == JSON else parse_csv(text)
    if not rows:
        raise BadRequest("the body has no rows")
    return rows


def parse_csv(text: str) -> list[list[str]]:
    """Read rows without a header; empty lines are ignored."""
    try:
        return [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise BadRequest(f"the body is not CSV: {error}") from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that names a key twice means two things, of which a parser keeps one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise BadRequest(f"the body names {reprlib.repr(twice)} twice in one object; keep one")
    return found


def parse_json(text: str, features: Sequence[str]) -> list[list[Any]]:
    """Read {"instances": [...]}; each instance is a list in feature order or an object by feature name."""
    try:
        body = json.loads(text, object_pairs_hook=unique)
    except BadRequest:
        raise
    except RecursionError as error:
        raise BadRequest('the body is nested too deep: {"instances": [[...], ...]} is enough') from error
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from error
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise BadRequest('the body must be {"instances": [...]}')
    rows: list[list[Any]] = []
    known = set(features)
    for number, instance in enumerate(instances, start=1):
        if isinstance(instance, dict):
            if instance.keys() != known:
                raise BadRequest(f"row {number}: {_difference(instance, features)}; a missing value is null")
            rows.append([instance[name] for name in features])
        elif isinstance(instance, list):
            rows.append(instance)
        else:
            raise BadRequest(f"row {number} is neither a list nor an object")
    return rows


def _difference(instance: Mapping[str, Any], features: Sequence[str]) -> str:
    missing = [name for name in features if name not in instance]
    if missing:
        return f"missing {', '.join(map(repr, missing))}"
    unknown = [name for name in instance if name not in features]
    return f"unknown {', '.join(map(reprlib.repr, unknown[:10]))}"


def write_scores(scores: Sequence[float], accept: str, model: Model) -> bytes:
    """Return the answer for the scores, in the form accept."""
    if accept == CSV:
        return ("%.6f\n" * len(scores) % tuple(scores)).encode()
    labels = (model.metadata["negative_class"], model.metadata["positive_class"])
    predictions = [{"probability": round(s, 6), "label": labels[s >= DECISION_THRESHOLD]} for s in scores]
    return json.dumps({"predictions": predictions}).encode() + b"\n"
