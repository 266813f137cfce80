"""AWS's open-source scikit-learn serving stack, for serving_bench.py: what a user of that image writes.

The server is sagemaker-containers' own (gunicorn with gevent workers, a Flask application), started as its
`server.start` does. Of the image, whose framework module is on no package index, this keeps the two lines
that join the user's functions to the toolkit.
"""

import collections
import collections.abc
import io
import os
from pathlib import Path

collections.Mapping = collections.abc.Mapping  # gone since Python 3.10; the image patches the same

import pandas as pd  # noqa: E402
from inference import load_model  # noqa: E402
from sagemaker_containers.beta.framework import encoders, transformer, worker  # noqa: E402

FRAME = os.environ["BENCH_FRAME"] == "1"  # the model takes a table with names
MODEL = load_model(Path(os.environ["SM_MODEL_DIR"]))


def input_fn(body, content_type):
    """Rows as the model takes them."""
    if not FRAME:
        return encoders.decode(body, content_type)
    text = body.decode() if isinstance(body, bytes) else body
    return pd.read_csv(io.StringIO(text), header=None, names=MODEL.features)


def predict_fn(rows, model):
    """Probabilities of the positive class."""
    return model.predict_proba(rows.reshape(-1, len(MODEL.features)) if not FRAME else rows)[:, 1]


def output_fn(scores, accept):
    """Scores in the form that is asked for."""
    return worker.Response(encoders.encode(scores, "text/csv"), "text/csv")


joined = transformer.Transformer(
    model_fn=lambda folder: MODEL.pipeline, input_fn=input_fn, predict_fn=predict_fn, output_fn=output_fn
)
joined.initialize()
app = worker.Worker(transform_fn=joined.transform, module_name="model")
