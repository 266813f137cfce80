"""An API in front of the model: made by the deploy pipeline, called with a signature and without, and
released while callers notice nothing when its hook or its alarm takes a release back.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from rehearse import api, story
from rehearse.engine import Rehearsal


def run(r: Rehearsal) -> None:
    """One version in production with an API, then good and bad releases of the API alone."""
    story.deploy_infrastructure(r, with_pipeline=False, parameters={"OptionalEndpoints": "true"})
    project = story.project(r)
    clone = story.clone_repository(r, project)
    version = story.train(r, project, clone, {"mlops.yml": with_api(clone / "mlops.yml")})
    story.roll_out(r, project, version)
    api.run(r, project, clone)


def with_api(path: Path) -> str:
    """mlops.yml of the project with an API; comments are lost, as they are not looked at here."""
    settings = yaml.safe_load(path.read_text())
    settings["deployment"]["api"] = {"auth": "iam", "throttle_rate": 500, "throttle_burst": 500}
    return yaml.safe_dump(settings, sort_keys=False)
