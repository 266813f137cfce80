"""How the model must behave: good enough, moving in the right direction, blind to what must not matter."""

from pathlib import Path

import evaluate
import inference
import pandas as pd
import pytest


def average(applicants: pd.DataFrame, model, **changes: object) -> float:
    """The mean probability of the positive class after changes to every applicant."""
    scores = inference.probabilities(applicants.assign(**changes), model)
    return sum(scores) / len(scores)


def test_it_is_good_enough_for_the_registry(config: dict, model_dir: Path, parts: Path, tmp_path: Path):
    metrics = evaluate.run(model_dir, parts / "test", tmp_path)["binary_classification_metrics"]
    assert metrics[config["evaluation"]["metric"]]["value"] >= config["evaluation"]["threshold"]


def test_it_beats_the_constant_answer(model_dir: Path, parts: Path, tmp_path: Path):
    metrics = evaluate.run(model_dir, parts / "test", tmp_path)["binary_classification_metrics"]
    assert metrics["accuracy"]["value"] > metrics["accuracy_best_constant_classifier"]["value"]


@pytest.mark.parametrize(
    ("feature", "safe", "risky"),
    [
        ("duration_months", 6, 48),
        ("credit_amount", 1000, 15000),
        ("checking_account", "no_account", "below_0_dm"),
        ("savings_account", "1000_dm_or_more", "below_100_dm"),
        (
            "credit_history",
            "critical_or_elsewhere",
            "no_credits_taken",
        ),  # holds in this sample, see data/README.md
    ],
)
def test_risk_moves_in_the_known_direction(
    applicants: pd.DataFrame, model, feature: str, safe: object, risky: object
):
    assert (
        average(applicants, model, **{feature: risky}) > average(applicants, model, **{feature: safe}) + 0.02
    )


def test_the_order_of_rows_does_not_matter(applicants: pd.DataFrame, model):
    forward = inference.probabilities(applicants, model)
    backward = inference.probabilities(applicants[::-1], model)
    assert forward == pytest.approx(backward[::-1], abs=1e-12)


def test_one_row_scores_as_it_does_in_a_batch(applicants: pd.DataFrame, model):
    batch = inference.probabilities(applicants.head(5), model)
    single = [inference.probabilities(applicants.iloc[[row]], model)[0] for row in range(5)]
    assert batch == pytest.approx(single, abs=1e-12)


def test_the_telephone_matters_little(applicants: pd.DataFrame, model):
    assert abs(average(applicants, model, telephone="yes") - average(applicants, model, telephone="no")) < 0.1


def test_unknown_and_missing_values_still_give_a_probability(applicants: pd.DataFrame, model):
    rows = [
        ["" for _ in model.features],
        ["moon_base" if isinstance(v, str) else 1 for v in applicants.iloc[0]],
    ]
    assert all(0 < score < 1 for score in inference.probabilities(inference.to_frame(rows, model), model))


def test_scores_are_spread_out(applicants: pd.DataFrame, model):
    scores = pd.Series(inference.probabilities(applicants, model))
    assert scores.between(0, 1).all() and scores.max() - scores.min() > 0.4
