"""Good and bad releases under a steady load: a canary that goes well, models that answer 500, are slow, never
get ready or do not start, an alarm during the canary; and older versions brought back.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from rehearse import releases, story
from rehearse.engine import Rehearsal
from rehearse.load import SteadyLoad

#: a canary needs two instances, and autoscaling raises them to three under the load
DEPLOYMENT = {
    "production": {
        "instance_type": "ml.m5.large",
        "instance_count": 2,
        "autoscaling": {"min": 2, "max": 3, "invocations_per_instance": 1},
    },
    "release": {"shift": "canary", "share": 25, "wait_seconds": 300},
}


def run(r: Rehearsal) -> None:
    """One good version in production, then everything that can go wrong with the next."""
    story.deploy_infrastructure(r, with_pipeline=False)
    project = story.project(r)
    clone = story.clone_repository(r, project)
    first = story.train(r, project, clone, {"mlops.yml": with_canary(clone / "mlops.yml")})
    story.roll_out(r, project, first)
    with r.use_case("F", "releases under a steady load"):
        bodies = releases.bodies(r, project)
        runtime = story.person(r, project).client("sagemaker-runtime")
        with SteadyLoad(runtime, project.endpoint, bodies, releases.PER_SECOND) as load:
            with r.step("autoscaling adds an instance under the load") as step:
                step.say(releases.grown(r, project))
            cases = releases.Cases(r, project, clone, load)
            good = cases.good()
            cases.bad("model that answers 500", releases.ANSWERS_500)
            cases.bad("model that is slow", releases.ANSWERS_SLOWLY)
            cases.no_container("model that never gets ready", releases.NEVER_READY)
            cases.no_container("container that does not start", releases.DOES_NOT_START)
            cases.alarmed()
            cases.brought_back(first, good)
        releases.summed_up(r)


def with_canary(path: Path) -> str:
    """mlops.yml of the project with this deployment; comments are lost, as they are not looked at here."""
    settings = yaml.safe_load(path.read_text())
    settings["deployment"] |= DEPLOYMENT
    # no monitor may see the load: it is made of requests that the training data does not know
    settings["monitoring"]["schedule"] = "cron(0 3 1 1 ? *)"
    return yaml.safe_dump(settings, sort_keys=False)
