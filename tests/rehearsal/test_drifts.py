"""The drifts are what they say, and nothing else; the rates are counted right."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from rehearse import drifts


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drifts.composed(tmp_path_factory.mktemp("drifts") / "project")


@pytest.fixture(scope="module")
def source(project: Path) -> drifts.Source:
    return drifts.Source.of_project(project)


def column(source: drifts.Source, traffic: drifts.Traffic, name: str) -> list[str]:
    at = source.features.index(name)
    return [row[at] for row in traffic.rows]


@pytest.mark.parametrize("name", drifts.SCENARIOS)
def test_a_seed_gives_the_same_traffic(source: drifts.Source, name: str):
    one, same, other = (drifts.make(source, name, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one.rows) == len(one.labels) == drifts.SIZE
    assert all(len(row) == len(source.features) for row in one.rows)


def test_clean_traffic_is_of_the_data(source: drifts.Source):
    people = {(*row, label) for row, label in zip(source.rows, source.labels, strict=True)}
    traffic = drifts.make(source, "clean", 1)
    assert {(*row, label) for row, label in zip(traffic.rows, traffic.labels, strict=True)} <= people


def changed(source: drifts.Source, name: str) -> set[str]:
    """The columns in which a drift differs from clean traffic of the same seed."""
    was, now = drifts.make(source, "clean", 1), drifts.make(source, name, 1)
    differs = {f for f in source.features if column(source, was, f) != column(source, now, f)}
    return differs | ({source.target} if was.labels != now.labels else set())


def test_a_drift_changes_one_thing(source: drifts.Source):
    assert changed(source, "unit_change") == {drifts.UNIT[0]}
    assert changed(source, "new_category") == {drifts.NEW_CATEGORY[0]}
    assert changed(source, "label_shift") == {source.target}
    assert changed(source, "group_change") == {drifts.GROUP[0]}


def test_a_new_category_is_new(source: drifts.Source):
    name, value, share = drifts.NEW_CATEGORY
    assert value not in {row[source.features.index(name)] for row in source.rows}
    found = column(source, drifts.make(source, "new_category", 1), name)
    assert found.count(value) == round(share * drifts.SIZE)


def test_a_label_shift_keeps_how_many_default_in_each_group(source: drifts.Source):
    """Otherwise it would rightly be a drift of bias as well."""

    def shares(name: str) -> Counter[tuple[bool, str]]:
        traffic = drifts.make(source, name, 1)
        groups = column(source, traffic, drifts.GROUP[0])
        return Counter(zip((g == drifts.GROUP[1] for g in groups), traffic.labels, strict=True))

    assert shares("clean") == shares("label_shift")


def test_a_group_change_keeps_how_often_each_value_is_there(source: drifts.Source):
    """Otherwise it would rightly be a drift of data quality as well."""
    was, now = (drifts.make(source, name, 1) for name in ("clean", "group_change"))
    name, group = drifts.GROUP
    assert Counter(column(source, was, name)) == Counter(column(source, now, name))
    bad = [g for g, label in zip(column(source, now, name), now.labels, strict=True) if label == "bad"]
    assert bad.count(group) / len(bad) == pytest.approx(drifts.GROUP_SHARE, abs=0.01)


def test_every_drift_says_who_should_fire_and_every_monitor_has_a_drift():
    assert list(drifts.EXPECTED) == list(drifts.SCENARIOS)
    assert not drifts.EXPECTED["clean"]
    assert frozenset().union(*drifts.EXPECTED.values()) == set(drifts.KINDS)
    alone = {next(iter(kinds)) for kinds in drifts.EXPECTED.values() if len(kinds) == 1}
    assert alone == set(drifts.KINDS) - {"model_explainability"}  # drifts.py says why it cannot be alone


def test_the_rates_count_what_could_have_happened():
    """Two seeds: one false alarm on clean traffic, one miss of a drift that three monitors should find."""
    right = list(drifts.EXPECTED.items())
    outcomes = right + [(name, kinds) for name, kinds in right if name not in ("clean", "unit_change")]
    outcomes += [("clean", frozenset({"model_bias"}))]
    outcomes += [("unit_change", drifts.EXPECTED["unit_change"] - {"model_quality"})]
    table = drifts.table_of(outcomes, 2)
    # quiet: 2 x (4 of clean, 1 of unit_change, 3 of each other); due: 2 x (3 + 1 + 1 + 1)
    assert table["false_alarm_rate"] == 1 / 28 and table["miss_rate"] == 1 / 12
    rows = {row["scenario"]: row for row in table["rows"]}
    assert rows["clean"]["fired"]["model_bias"] == 1 and rows["clean"]["exact"] == 1
    assert rows["unit_change"]["fired"]["model_quality"] == 1
    shown = drifts.printed(table)
    assert "false alarms 3.57% of 28 runs, misses 8.33% of 12" in shown and "1 of 2 *" in shown


@pytest.mark.slow
def test_each_monitor_finds_its_drift_and_no_other(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """A model, its baseline and traffic of rows that neither has seen, through the monitor's command line."""
    monkeypatch.setenv("PROGRAM_DIR", "")
    assert drifts.main(["--fresh", "--project", str(project), "--seeds", "1", "--json"]) == 0
    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {row["scenario"]: row["exact"] for row in table["rows"]} == dict.fromkeys(drifts.SCENARIOS, 1)
