"""The web application of the endpoint: GET /ping and POST /invocations, as SageMaker hosting asks for.

Takes text/csv (rows without a header, features in order) or application/json: {"instances": [[...], ...]} or
{"instances": [{"age": 35, ...}, ...]}. Answers in the form that Accept asks for: text/csv gives one
probability a row, application/json gives {"predictions": [{"probability": 0.12, "label": "good"}, ...]}.

On a laptop:  SM_MODEL_DIR=build/model python containers/inference/serve
"""

import csv
import io
import json
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from inference import BadRequest, Model, load_model, probabilities, to_frame

DECISION_THRESHOLD = 0.5
LARGEST_BODY = 25 * 1024 * 1024  # what InvokeEndpoint lets through
CSV, JSON = "text/csv", "application/json"


def parse_csv(text: str) -> list[list[str]]:
    """Read rows without a header; empty lines are ignored."""
    try:
        return [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise BadRequest(f"the body is not CSV: {error}") from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that names a key twice means two things, of which a parser keeps one."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"the body names {reprlib.repr(name)} twice in one object; keep one")
        found[name] = value
    return found


def parse_json(text: str, features: Sequence[str]) -> list[list[Any]]:
    """Read {"instances": [...]}; each instance is a list in feature order or an object by feature name."""
    try:
        body = json.loads(text, object_pairs_hook=unique)
    except BadRequest:
        raise
    except RecursionError as error:
        raise BadRequest("the body is nested too deep: {\"instances\": [[...], ...]} is enough") from error
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list):
        raise BadRequest('the body must be {"instances": [...]}')
    rows: list[list[Any]] = []
    for number, instance in enumerate(instances, start=1):
        if isinstance(instance, dict):
            missing = [name for name in features if name not in instance]
            unknown = [name for name in instance if name not in features]
            if missing or unknown:
                what = (
                    f"missing {', '.join(map(repr, missing))}"
                    if missing
                    else f"unknown {', '.join(map(reprlib.repr, unknown[:10]))}"
                )
                raise BadRequest(f"row {number}: {what}; a missing value is null")
            rows.append([instance[name] for name in features])
        elif isinstance(instance, list):
            rows.append(instance)
        else:
            raise BadRequest(f"row {number} is neither a list nor an object")
    return rows


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


def write_scores(scores: Sequence[float], accept: str, model: Model) -> str:
    """Return the answer for the scores, in the form accept."""
    if accept == CSV:
        return "".join(f"{score:.6f}\n" for score in scores)
    labels = (model.metadata["negative_class"], model.metadata["positive_class"])
    predictions = [{"probability": round(s, 6), "label": labels[s >= DECISION_THRESHOLD]} for s in scores]
    return json.dumps({"predictions": predictions}) + "\n"


def create_app(model_dir: Path | None = None) -> Flask:
    """Load the model and return the application; a model that cannot be loaded stops the server."""
    model = load_model(model_dir or Path(os.environ.get("SM_MODEL_DIR", "/opt/ml/model")))
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = LARGEST_BODY

    def refuse(status: int, reason: str) -> Response:
        return Response(json.dumps({"error": reason}) + "\n", status=status, content_type=JSON)

    @app.get("/ping")
    def ping() -> Response:
        return Response("\n", status=200, content_type="text/plain")

    @app.post("/invocations")
    def invocations() -> Response:
        content_type = request.mimetype or CSV
        if content_type not in (CSV, JSON):
            return refuse(415, f"Content-Type {content_type[:100]!r} is not supported; use {CSV} or {JSON}")
        accept = (
            request.accept_mimetypes.best_match([content_type, CSV, JSON])
            if request.accept_mimetypes
            else content_type
        )
        if accept is None:
            wanted = request.headers["Accept"][:100]
            return refuse(406, f"Accept {wanted!r} is not supported; use {CSV} or {JSON}")
        try:
            frame = to_frame(read_rows(content_type, request.get_data(), model.features), model)
        except BadRequest as error:
            return refuse(400, str(error))
        return Response(write_scores(probabilities(frame, model), accept, model), content_type=accept)

    return app
