"""Four drifts of different nature: exactly the right monitors fire, the owner is told, and one retraining
follows each; simulated traffic is left out, uploaded data retrains too, and the figures can be queried.
"""

from rehearse import kpi, monitoring, story
from rehearse.engine import Rehearsal

OFF, ON = "simulated_traffic: false", "simulated_traffic: true"


def run(r: Rehearsal) -> None:
    """Clean traffic, four drifts, no traffic, new data, and the rates over many seeds."""
    story.deploy_infrastructure(r, with_pipeline=False)
    project = story.project(r)
    clone = story.clone_repository(r, project)
    settings = (clone / "mlops.yml").read_text()
    r.check(OFF in settings, f"mlops.yml of the project has no {OFF!r}")
    version = story.train(r, project, clone, {"mlops.yml": settings.replace(OFF, ON)})
    story.roll_out(r, project, version)
    source = monitoring.traffic_of(r, project)
    with r.use_case("G", "monitor, tell and retrain"):
        r.facts["baseline"] = monitoring.baseline_statistics(r, project, version)
        for seed, name in enumerate(monitoring.SCENARIOS):
            monitoring.drift_hour(r, project, source, name, seed)
        monitoring.quiet_hour(r, project)
        monitoring.new_data(r, project, source)
        monitoring.rates(r, project, version, clone, r.seeds)
        with r.step("the figures are rows in Athena") as step:
            rows = kpi.query_all(r, project)
            step.say(", ".join(f"{name} {len(found)}" for name, found in rows.items()))
        story.run_notebook(r, project, clone, clone / "notebooks/02-monitoring.ipynb")
        monitoring.ends_well(r, source)
