"""A model card as a page for people: the same content, in sentences and tables."""

from __future__ import annotations

from typing import Any

from monitor.report import Html, number, page, sentence, shown, table

STATUS = {
    "Draft": ("○", "Draft"),
    "PendingReview": ("○", "Waits for approval"),
    "Approved": ("✓", "Approved"),
    "Archived": ("▲", "Retired"),
}
HEADINGS = {
    "model_overview": "The model",
    "intended_uses": "Intended use",
    "business_details": "Business",
    "training_details": "Training",
    "evaluation_details": "Evaluation",
    "additional_information": "Limits and ethics",
    "model_package_details": "In the registry",
}


def render(content: dict[str, Any], status: str, why: str) -> str:
    """The page of a card."""
    overview = content["model_overview"]
    sign, word = STATUS[status]
    details = (content.get("additional_information") or {}).get("custom_details") or {}
    events = [text for name, text in sorted(details.items()) if name.startswith("history_")]
    sections = [
        f"<h1>{shown(overview['model_name'])}</h1>",
        f'<div class="verdict"><p><b>{sign} {word}</b></p>',
        f"<p>{sentence(why)}</p><p>{sentence(overview.get('model_description', ''))}</p></div>",
        *life(events),
    ]
    for section, heading in HEADINGS.items():
        if content.get(section):
            sections += [f"<h2>{heading}</h2>", *part(section, content[section])]
    rest = {name: text for name, text in details.items() if not name.startswith("history_")}
    sections += ["<h2>Origin</h2>", facts(rest)]
    return page(f"Model card: {overview['model_name']}", sections)


def life(events: list[str]) -> list[str]:
    """What happened to it, oldest first."""
    rows = []
    for event in events:
        at, _, text = event.partition(" ")
        rows.append(("", (at[:16].replace("T", " "), Html(sentence(text)))))
    return ["<h2>Life of the version</h2>", table(("UTC", "What"), rows)] if rows else []


def part(section: str, value: Any) -> list[str]:
    """One section of the content."""
    if section == "evaluation_details":
        return [text for one in value for text in evaluation(one)]
    if section == "training_details":
        return training(value)
    plain = {name: one for name, one in value.items() if name != "custom_details"}
    return [facts(plain)]


def facts(values: dict[str, Any]) -> Html:
    """Names and texts."""
    return table(("", ""), [("", (words(name), told(value))) for name, value in values.items() if value])


def told(value: Any) -> Html:
    """A value of any shape in one cell."""
    if isinstance(value, dict):
        return Html("; ".join(f"{words(name)}: {told(one)}" for name, one in value.items()))
    if isinstance(value, list):
        return Html("<br>".join(told(one) for one in value))
    return Html(number(value) if isinstance(value, float) else sentence(value))


def words(name: str) -> str:
    """A key of the schema in words."""
    return name.replace("_", " ")


def training(value: dict[str, Any]) -> list[str]:
    """Objective, job, hyperparameters and metrics."""
    job = value.get("training_job_details") or {}
    function = (value.get("objective_function") or {}).get("function") or {}
    flat = {
        "objective": f"{function.get('function', '')}: {function.get('condition', '')}",
        "observations": value.get("training_observations"),
        "data": job.get("training_datasets"),
        "job": job.get("training_arn"),
        "image": (job.get("training_environment") or {}).get("container_image"),
    }
    parts = [facts(flat)]
    if found := job.get("hyper_parameters"):
        rows = [("", (one["name"], one["value"])) for one in found]
        parts += ["<h3>Hyperparameters</h3>", table(("", ""), rows)]
    if found := job.get("training_metrics"):
        rows = [("", (one["name"], number(one["value"]))) for one in found]
        parts += ["<h3>Metrics of the training job</h3>", table(("", ""), rows, (1,))]
    return parts


def evaluation(value: dict[str, Any]) -> list[str]:
    """One evaluation with its groups of metrics."""
    parts = [
        f"<h3>{shown(value['name'])}</h3>",
        f"<p>{sentence(value.get('evaluation_observation', ''))}</p>",
    ]
    for group in value.get("metric_groups") or []:
        rows = [("", (one["name"], number(one["value"]))) for one in group["metric_data"]]
        parts.append(table((group["name"], ""), rows, (1,)))
    return parts
