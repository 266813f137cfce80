"""Use cases A to G with one project and one user, then the teardown."""

from rehearse import monitoring, story, teardown_story
from rehearse.engine import Rehearsal


def run(r: Rehearsal) -> None:
    """The whole story."""
    before = teardown_story.inventory(r)
    story.deploy_infrastructure(r)
    project = story.project(r)
    story.user(r, project)
    clone = story.experiment(r, project)
    version = story.train(r, project, clone)
    story.roll_out(r, project, version)
    monitoring.two_hours(r, project, version)
    if not r.keep:
        teardown_story.teardown_everything(r, before)
