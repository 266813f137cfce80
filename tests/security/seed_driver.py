"""Runs a project's own programs for tests/security/test_hostile_inputs.py: one JSON line in, one out.

Started in a composed project with its Python; kept running, because importing what it imports takes seconds.
"""

import contextlib
import io
import json
import sys
import traceback
from base64 import b64decode

sys.path.insert(0, "src")

import evaluate
import preprocess
import serving


def command(main, argv):
    """Exit code and texts of a program."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            code = main(argv)
        except BaseException:  # whatever a program lets out is what the test is about
            code = 99
            traceback.print_exc()
    return {"code": code, "text": errors.getvalue()}


def invoke(client, request):
    """A request to what the endpoint answers, and whether it still answers afterwards."""
    headers = {name.lower(): value for name, value in request["headers"].items()}
    answer = client("POST", "/invocations", headers, b64decode(request["body"]))
    alive = client("GET", "/ping", {}, b"").status == 200
    return {"code": answer.status if alive else 599, "text": answer.body.decode()}


def main() -> None:
    """Serve until stdin ends."""
    client = None
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "invoke":
            if client is None:
                client = serving.create_app()
            result = invoke(client, request)
        else:
            result = command(
                {"evaluate": evaluate, "preprocess": preprocess}[request["do"]].main, request["argv"]
            )
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
