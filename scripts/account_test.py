"""Launches and deletes 1-infra with taskcat, as .taskcat.yml says (flow A, Full Stack Developer).

    make account-test               in the account of your credentials; costs money while it runs
    make account-test LOCAL=1       against a local cloud that `make cloud` keeps up in another shell

Publishes the release first: taskcat launches the packaged entry, whose nested templates must be in the
release bucket.
"""

from __future__ import annotations

import argparse
import os
import sys
import types

import publish
from rehearse.cloud import client_environment


def without_internet() -> None:
    """What taskcat 0.9.58 needs changed to work against an endpoint that is not AWS's, on a machine without
    internet.
    """
    import taskcat._client_factory
    import taskcat._generate_reports

    # it would build https://sts.<region>.amazonaws.com by itself, past AWS_ENDPOINT_URL
    taskcat._client_factory.REGIONAL_ENDPOINT_SERVICES[:] = []
    # its HTML report fetches a style sheet from the web, and fails the run when it cannot
    plain = types.SimpleNamespace(text="body { font-family: sans-serif }")
    taskcat._generate_reports.requests = types.SimpleNamespace(get=lambda *_, **__: plain)


def main(argv: list[str] | None = None) -> int:
    """Publish, then taskcat; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--local-port", type=int, help="port of a local cloud on this machine")
    arguments, passed_on = parser.parse_known_args(argv)
    if arguments.local_port:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ |= client_environment(arguments.local_port)
        # taskcat reads a default region from the configuration only; the environment stands in for it
        without_internet()
    if code := publish.main([]):
        return code
    from taskcat._cli import main as taskcat

    os.chdir(publish.release.ROOT)
    sys.argv = ["taskcat", "test", "run", *passed_on]
    try:
        taskcat()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
