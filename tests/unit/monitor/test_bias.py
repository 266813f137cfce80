"""Bias metrics on hand-computed cases, and what a run makes of drift and of chance."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, precision_score, recall_score

from monitor import MonitorError, bias, chance, formats
from monitor.settings import Settings

# The confusion matrices of the documentation's pages on RD and SD: facet x truth x answer.
# a: 20 rejected rightly, 10 accepted wrongly, 5 rejected wrongly, 65 accepted rightly; d: 18, 5, 7, 20.
DOCUMENTED = np.array([[[20, 10], [5, 65]], [[18, 5], [7, 20]]])


def table(a: tuple[int, int, int, int], d: tuple[int, int, int, int]) -> np.ndarray:
    """(TN, FP, FN, TP) of both facets as facet x truth x answer."""
    return np.array([a, d]).reshape(2, 2, 2)


def labels(a: tuple[int, int], d: tuple[int, int]) -> np.ndarray:
    """(rejected, accepted) observed labels of both facets, answered rightly."""
    return table((a[0], 0, 0, a[1]), (d[0], 0, 0, d[1]))


PRE_TRAINING = [
    # 100 of a and 50 of d: (100 - 50) / 150
    ("CI", labels((30, 70), (30, 20)), 1 / 3),
    # 70 of 100 less 20 of 50: 0.7 - 0.4
    ("DPL", labels((30, 70), (30, 20)), 0.3),
    # the page's example: 80 % of a and 30 % of d accepted, 0.8 ln(0.8 / 0.3) + 0.2 ln(0.2 / 0.7) = 0.53
    ("KL", labels((20, 80), (70, 30)), 0.8 * math.log(8 / 3) + 0.2 * math.log(2 / 7)),
    # the middle is (0.45, 0.55); half of KL of (0.2, 0.8) and of (0.7, 0.3) from it
    (
        "JS",
        labels((20, 80), (70, 30)),
        (
            0.2 * math.log(0.2 / 0.45)
            + 0.8 * math.log(0.8 / 0.55)
            + 0.7 * math.log(0.7 / 0.45)
            + 0.3 * math.log(0.3 / 0.55)
        )
        / 2,
    ),
    # |0.2 - 0.7| = |0.8 - 0.3| = 0.5, the larger of the two
    ("KS", labels((20, 80), (70, 30)), 0.5),
    # sqrt(0.5^2 + 0.5^2)
    ("LP", labels((20, 80), (70, 30)), math.sqrt(0.5)),
    # (0.5 + 0.5) / 2
    ("TVD", labels((20, 80), (70, 30)), 0.5),
]
POST_TRAINING = [
    # DPPL: a accepts 10 + 65 = 75 of 100, d 5 + 20 = 25 of 50: 0.75 - 0.5
    ("DPPL", DOCUMENTED, 0.25),
    # DI: 0.5 / 0.75
    ("DI", DOCUMENTED, 2 / 3),
    # the page on RD: 65/70 - 20/27 = 0.93 - 0.74 = 0.19
    ("RD", DOCUMENTED, 65 / 70 - 20 / 27),
    # the page on SD: 18/23 - 20/30 = 0.7826 - 0.6667 = 0.1159
    ("SD", DOCUMENTED, 18 / 23 - 20 / 30),
    # AD: (20 + 65) / 100 - (18 + 20) / 50
    ("AD", DOCUMENTED, 0.85 - 0.76),
    # the page on DAR: 70 of a accepted, of whom 35 rightly; 100 of d, of whom 40: 35/70 - 40/100 = 0.1
    ("DAR", table((50, 35, 10, 35), (40, 60, 10, 40)), 0.1),
    # the page on DRR: 100 of a rejected, 80 rightly; 50 of d, 40 rightly: 40/50 - 80/100 = 0
    ("DRR", table((80, 5, 20, 50), (40, 5, 10, 30)), 0.0),
    # the same with 30 of d rightly: 30/50 - 80/100
    ("DRR", table((80, 5, 20, 50), (30, 5, 20, 30)), -0.2),
    # the page on DCA, example 1: 70 of a are accepted, 60 answered so; 20 and 30 of d: 70/60 - 20/30 = 1/2
    # (a: TP 55, FN 15, FP 5, TN 25; d: TP 15, FN 5, FP 15, TN 15)
    ("DCA", table((25, 5, 15, 55), (15, 15, 5, 15)), 0.5),
    # example 2: 50 and 60 of a, 40 and 30 of d: 50/60 - 40/30 = -1/2
    ("DCA", table((35, 15, 5, 45), (5, 5, 15, 25)), -0.5),
    # the page on DCR, example 1: 50 of a are rejected, 60 answered so; 40 and 30 of d: 40/30 - 50/60 = 1/2
    ("DCR", table((45, 5, 15, 35), (25, 15, 5, 5)), 0.5),
    # the page on TE: a 8 FN and 6 FP, d 5 FN and 2 FP; FN_d/FP_d - FN_a/FP_a = 5/2 - 8/6
    ("TE", table((43, 6, 8, 43), (20, 2, 5, 23)), 5 / 2 - 8 / 6),
    # GE: benefits 1 (right), 2 (FP), 0 (FN). 8 right, 1 FP, 1 FN: mean (8 + 2) / 10 = 1,
    # sum of (b / mean)^2 - 1: 8 x 0 + (4 - 1) + (0 - 1) = 2; over 2 n = 20: 0.1
    ("GE", table((3, 1, 1, 0), (2, 0, 0, 3)), 0.1),
    # all right: no inequality
    ("GE", table((3, 0, 0, 2), (2, 0, 0, 3)), 0.0),
]


@pytest.mark.parametrize(("name", "counts", "value"), PRE_TRAINING, ids=[c[0] for c in PRE_TRAINING])
def test_a_metric_of_the_labels(name: str, counts: np.ndarray, value: float):
    assert bias.pre_training_metrics(counts)[name] == pytest.approx(value)


@pytest.mark.parametrize(("name", "counts", "value"), POST_TRAINING, ids=[c[0] for c in POST_TRAINING])
def test_a_metric_of_the_answers(name: str, counts: np.ndarray, value: float):
    assert bias.post_training_metrics(counts)[name] == pytest.approx(value)


def test_kl_is_what_its_page_says():
    assert round(float(bias.pre_training_metrics(labels((20, 80), (70, 30)))["KL"]), 2) == 0.53


def test_differences_are_those_of_scikit_learn():
    """An independent computation from rows, of the quantities that scikit-learn has."""
    rng = np.random.default_rng(1)
    facet, truth = rng.integers(0, 2, 500), rng.integers(0, 2, 500)
    answer = np.where(rng.random(500) < 0.7, truth, 1 - truth)
    counts = np.zeros((2, 2, 2))
    np.add.at(counts, (facet, truth, answer), 1)
    found = bias.post_training_metrics(counts)
    for name, score in (("AD", accuracy_score), ("RD", recall_score), ("DAR", precision_score)):
        a, d = (score(truth[facet == side], answer[facet == side]) for side in (0, 1))
        assert found[name] == pytest.approx(a - d), name
    # of the rejected class: specificity and negative predictive value, d less a
    for name, score in (("SD", recall_score), ("DRR", precision_score)):
        a, d = (score(1 - truth[facet == side], 1 - answer[facet == side]) for side in (0, 1))
        assert found[name] == pytest.approx(d - a), name


def test_conditioning_undoes_simpsons_paradox():
    """Two departments: within each, men (a) and women (d) are treated alike; women apply to the stricter one.

    Department 1: 80 of 100 men and 8 of 10 women accepted; department 2: 2 of 10 men and 20 of 100 women.
    Without departments: rejected are 28 men and 82 women, accepted 82 and 28: DD = 82/110 - 28/110 = 0.49.
    Within: 1: 2/22 - 8/88 = 0; 2: 80/88 - 20/22 = 0.
    """
    departments = np.array([labels((20, 80), (2, 8)), labels((8, 2), (80, 20))])
    assert bias.conditional_disparity(departments)["CDDL"] == pytest.approx(0)
    together = departments.sum(axis=0)[None]
    assert bias.conditional_disparity(together)["CDDL"] == pytest.approx(82 / 110 - 28 / 110)


def test_disparities_are_weighted_by_size():
    """30 rows with 5/10 - 5/20 = 1/4, 10 rows with 1/5 - 3/5 = -2/5: (30/4 - 10 x 2/5) / 40 = 7/80."""
    counts = np.array([labels((5, 15), (5, 5)), labels((4, 2), (1, 3))])
    found = bias.conditional_disparity(counts)
    assert found["CDDL"] == pytest.approx(7 / 80)
    assert found["CDDPL"] == pytest.approx(7 / 80)  # all are answered rightly


def test_disparity_of_the_answers_looks_at_the_answers():
    """All are rejected in truth; answered rejected: 2 of a, 6 of d; accepted: 8 of a, 4 of d: 6/8 - 4/12."""
    assert bias.conditional_disparity(table((2, 8, 0, 0), (6, 4, 0, 0))[None])["CDDPL"] == pytest.approx(
        5 / 12
    )


def test_the_flip_test_counts_neighbours_that_are_answered_otherwise():
    """Three of d at 0, 10 and 20; the rows of a near 0 are accepted, near 10 and 20 rejected.

    d is answered 0, 0, 1: one F+ (at 0), one F- (at 20), so (1 - 1) / 3; the last answered 0: (1 - 0) / 3.
    """
    features = np.array(
        [0.0, 10, 20, *np.linspace(-1, 1, 5), *np.linspace(9, 11, 5), *np.linspace(19, 21, 5)]
    )
    member = np.array([True] * 3 + [False] * 15)
    near = [1] * 5 + [0] * 10
    assert bias.flip_test(member, np.array([0, 0, 1, *near]), features[:, None]) == pytest.approx(0)
    assert bias.flip_test(member, np.array([0, 0, 0, *near]), features[:, None]) == pytest.approx(1 / 3)
    assert bias.flip_test(member[:5], np.zeros(5), features[:5, None]) is None  # two neighbours are too few


@pytest.mark.parametrize(
    ("block", "column", "members"),
    [
        ({"threshold": 25}, ["25", "26", "25.5", None, "old"], [0, 1, 1, None, None]),
        ({"values": ["f", "g"]}, ["f", "m", "g", None], [1, 0, 1, None]),
        ({"values": [1]}, ["1", "1.0", "2", "one"], [1, 1, 0, 0]),
        ({"values": [True]}, ["true", "True", "false", "1"], [1, 1, 0, 0]),
    ],
    ids=["threshold", "texts", "numbers", "booleans"],
)
def test_who_is_in_a_group(block: dict[str, Any], column: list[str | None], members: list[int | None]):
    facet = bias.Facet.of({"name": "x"} | block)
    rows = pl.DataFrame({"x": pl.Series(column, dtype=pl.String)})
    assert rows.select(m=facet.member)["m"].to_list() == members


@pytest.mark.parametrize("block", [{}, {"values": ["a"], "threshold": 1}, {"values": []}])
def test_a_facet_is_named_in_one_way(block: dict[str, Any]):
    with pytest.raises(MonitorError, match="needs either values or a threshold"):
        bias.Facet.of({"name": "x"} | block)


# ------------------------------------------------------------ a run

SETTINGS = {"facets": [{"name": "sex", "values": ["f"]}], "group_variable": "job"}
FAIR = table((120, 30, 20, 130), (60, 15, 10, 65))  # d is treated like a
UNFAIR = table((100, 50, 15, 135), (72, 3, 40, 35))  # d is accepted half as often


def rows_of(counts: np.ndarray) -> pl.DataFrame:
    """Captured rows with these counts, shuffled; every third works as clerk."""
    records = [
        {
            "sex": "mf"[facet],
            "_truth": ["good", "bad"][truth],
            "_score": 0.9 if answer else 0.1,
            "_label": None,
        }
        for facet, truth, answer in np.ndindex(2, 2, 2)
        for _ in range(int(counts[facet, truth, answer]))
    ]
    schema = {"sex": pl.String, "_truth": pl.String, "_score": pl.Float64, "_label": pl.String}
    rows = pl.DataFrame(records, schema=schema).sample(fraction=1, shuffle=True, seed=1)
    return rows.with_columns(
        job=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("clerk")).otherwise(pl.lit("driver"))
    )


def watch(folder: Path, counts: np.ndarray = FAIR, **changes: Any) -> bias.Monitor:
    """A monitor whose baseline has these counts."""
    facet, known = bias.Facet("sex", ("f",)), bias.Counts()
    options = {"target": "credit", "positive_class": "bad", "negative_class": "good"}
    options["settings"] = SETTINGS | changes
    answered = bias.binary_outcomes(rows_of(counts), options)
    known.add(bias.tally(answered, [facet], "job")[0])
    values = known.values(True) | {"FT": 0.1}
    analysis = bias.analysis_of([(facet, values)], options, {})
    (folder / "constraints.json").write_text(json.dumps(analysis))
    options["baseline"] = [
        {
            "name": "sex",
            "value": "f",
            "values": values,
            "straight": known.straight(True),
            "spreads": known.spreads(True),
        }
    ]
    return bias.Monitor(
        folder, Settings("model_bias", "e", datetime.now(UTC), min_records=100, options=options)
    )


def test_the_same_counts_are_no_drift(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(FAIR))
    result = monitor.finish()
    assert result.judged and not result.violations and result.records == 450
    assert {m.name for m in result.measures} == set(bias.METRICS) - {"FT"}


def test_a_group_that_fares_worse_is_found(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(UNFAIR))
    result = monitor.finish()
    violated = {v["metric_name"] for v in result.violations}
    assert {"DPPL", "DI", "RD"} <= violated and "CI" not in violated
    first = next(v for v in result.violations if v["metric_name"] == "DPPL")
    assert first["facet"] == "sex" and first["facet_value"] == "f"
    assert first["description"].startswith("Value 0.36") and "at training time" in first["description"]
    assert formats.problems("model_bias", "analysis.json", result.analysis) == []
    assert formats.problems("model_bias", "statistics.json", result.statistics) == []
    document = {"version": "1.0", "violations": result.violations}
    assert formats.problems("model_bias", "constraint_violations.json", document) == []


def test_less_bias_than_before_is_no_violation(tmp_path: Path):
    monitor = watch(tmp_path, UNFAIR)
    monitor.add(rows_of(FAIR))
    assert not monitor.finish().violations


def test_the_sign_is_ignored(tmp_path: Path):
    """As the page on violations says: -0.1 is nearer to 0 than 0.2, -0.3 is not."""
    monitor = watch(tmp_path, UNFAIR)
    monitor.add(rows_of(UNFAIR[::-1]))  # now a fares as d did, just as badly
    violated = {v["metric_name"] for v in monitor.finish().violations}
    assert not violated & {"DPPL", "RD", "SD", "AD", "DPL"}


def test_what_chance_can_make_is_no_violation(tmp_path: Path):
    """DPPL of 0.3 in ten and ten rows is far from 0, and means nothing."""
    monitor = watch(tmp_path, min_records=1)
    monitor.settings = Settings(**{**vars(monitor.settings), "min_records": 1})
    monitor.add(rows_of(table((3, 0, 0, 7), (6, 0, 0, 4))))
    result = monitor.finish()
    (dppl,) = [m for m in result.measures if m.name == "DPPL"]
    assert result.judged and dppl.value == pytest.approx(0.3) and dppl.value > dppl.threshold
    assert dppl.p_value > 0.01 and not result.violations


def test_a_certain_difference_that_does_not_matter_is_no_violation(tmp_path: Path):
    monitor = watch(tmp_path, FAIR * 100)  # AD is 0; then 0.833 - 0.87 in 45,000 rows
    monitor.add(rows_of(table((1200, 300, 200, 1300), (630, 117, 78, 675)) * 10))
    result = monitor.finish()
    assert any(m.p_value is not None and m.p_value < chance.level(20) for m in result.measures)
    assert not result.violations


def test_the_inequality_of_all_rows_is_told_and_accuses_no_group(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(table((75, 75, 75, 75), (37, 38, 37, 38))))  # answers are coin tosses
    result = monitor.finish()
    (inequality,) = [m for m in result.measures if m.name == "GE"]
    assert inequality.value > inequality.baseline + bias.TOLERANCE and not inequality.violated
    assert "GE" not in {v["metric_name"] for v in result.violations}


def test_a_group_in_which_nobody_is_accepted_may_be_chance(tmp_path: Path):
    """2 of 200 in a, none of 40 in d: DI is 0, as far from 1 as a ratio below it can be."""
    monitor = watch(tmp_path)
    monitor.add(rows_of(table((190, 1, 8, 1), (38, 0, 2, 0))))
    result = monitor.finish()
    (impact,) = [m for m in result.measures if m.name == "DI"]
    assert impact.value == 0 and impact.p_value > 0.01 and not impact.violated


def test_where_all_are_answered_alike_nobody_fares_worse(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(table((140, 0, 160, 0), (70, 0, 80, 0))))
    result = monitor.finish()
    values = {m.name: m.value for m in result.measures}
    assert values["DPPL"] == values["CDDPL"] == 0 and not result.violations


def test_a_group_of_few_rows_is_not_judged(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(table((200, 10, 10, 100), (9, 0, 0, 0))))
    result = monitor.finish()
    assert not result.violations and any("9 rows in" in note for note in result.notes)


def test_too_few_rows_are_not_judged(tmp_path: Path):
    monitor = watch(tmp_path)
    monitor.add(rows_of(UNFAIR)[:99])
    result = monitor.finish()
    assert not result.judged and not result.violations and "99 records" in result.notes[0]


def test_parts_give_what_the_whole_gives(tmp_path: Path):
    rows = rows_of(UNFAIR)
    whole, first, second = watch(tmp_path), watch(tmp_path), watch(tmp_path)
    whole.add(rows)
    first.add(rows[:123])
    second.add(rows[123:])
    second.merge(json.loads(json.dumps(first.partial())))
    assert second.finish() == whole.finish()


def test_rows_that_say_nothing_are_counted(tmp_path: Path):
    rows = rows_of(FAIR).with_columns(
        _truth=pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("perhaps")).otherwise("_truth")
    )
    monitor = watch(tmp_path)
    monitor.add(rows)
    result = monitor.finish()
    assert result.records == 445 and result.notes == ["5 rows without a usable answer or truth were left out"]


def test_an_empty_window_has_documented_files(tmp_path: Path):
    result = watch(tmp_path).finish()
    assert not result.judged and not result.violations
    assert formats.problems("model_bias", "analysis.json", result.analysis) == []


def test_a_column_of_many_values_is_no_subgroup(tmp_path: Path):
    """Memory must not grow with what callers send."""
    rows = pl.concat([rows_of(FAIR)] * 2).with_columns(job=pl.int_range(pl.len()).cast(pl.String))
    parts = [watch(tmp_path), watch(tmp_path)]
    parts[0].add(rows[:300])  # not yet too many
    parts[1].add(rows[300:])
    parts[0].merge(json.loads(json.dumps(parts[1].partial())))
    assert len(parts[0].counts[0].cells) == 1 and parts[0].counts[0].table.sum() == 900
    entry = next(
        m
        for m in parts[0].finish().analysis["post_training_bias_metrics"]["facets"]["sex"][0]["metrics"]
        if m["name"] == "CDDPL"
    )
    assert entry["value"] is None and entry["error"] == "job has more than 500 values"


def test_clean_traffic_seldom_raises_an_alarm(tmp_path: Path):
    """400 clean windows of 300 rows, each with an own baseline: the rate is set to one in 1,000."""
    rng = np.random.default_rng(7)
    share = FAIR / FAIR.sum()
    alarms = 0
    judged = sorted(set(bias.METRICS) - bias.NOT_JUDGED - {"FT", "CDDL", "CDDPL"})

    def sample() -> bias.Counts:
        counts = bias.Counts()
        counts.cells = {"": rng.multinomial(300, share.ravel()).reshape(2, 2, 2)}
        return counts

    def seen(counts: bias.Counts) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
        return counts.values(False), counts.straight(False), counts.spreads(False)

    for _ in range(400):
        (before, base, base_spread), (now, live, live_spread) = seen(sample()), seen(sample())
        alarms += any(
            bias.away(name, now[name]) > bias.away(name, before[name]) + bias.TOLERANCE
            and chance.worse_by_chance(
                abs(live[name]) - abs(base[name]), live_spread[name], base_spread[name]
            )
            < chance.level(len(judged))
            for name in judged
        )
    assert alarms <= 3  # of 400; a rate of 0.001 gives more than three once in 1,300 times
