"""Races are made to happen, ours is held against them, and what a strategy says goes into the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from etl_toolkit.bench.records import STRATEGIES
from etl_toolkit.model import Strategy
from etl_toolkit.reporting import demonstrations, run_data, safety, trials
from etl_toolkit.reporting.races import RACES
from etl_toolkit.reporting.stage import stage
from etl_toolkit.reporting.wiretap import WireTap
from tests.report_records import write_run

SQLSTATES = {
    "deadlock": "40P01", "create-table": "23505", "twice-in-one-statement": "21000", "merge-beside-a-writer": "23505",
}  # fmt: skip


@pytest.fixture(scope="module")
def run_directory(dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_run(tmp_path_factory.mktemp("run") / "run")
    demonstrations.record(directory, dsn)
    return directory


@pytest.fixture(scope="module")
def recorded(run_directory: Path) -> dict[str, Any]:
    found = demonstrations.load(run_directory)
    assert found is not None
    return dict(found)


@pytest.mark.parametrize("name", RACES)
def test_each_race_happens(recorded: dict[str, Any], name: str) -> None:
    race = next(race for race in recorded["races"] if race["name"] == name)
    assert race["happened"], race["seen"]
    assert SQLSTATES.get(name, "") in race["seen"]
    assert len(race["steps"]) >= 1


@pytest.mark.parametrize("name", RACES)
def test_no_strategy_of_ours_goes_wrong_where_the_race_is_provoked(recorded: dict[str, Any], name: str) -> None:
    race = next(race for race in recorded["races"] if race["name"] == name)
    assert [trial for trial in race["trials"] if trial["outcome"] == "wrong"] == []
    assert any(trial["outcome"] == "right" for trial in race["trials"])


def test_only_full_parallel_declines_and_only_files_that_share_keys(recorded: dict[str, Any]) -> None:
    declined = {
        (race["name"], t["strategy"]) for race in recorded["races"] for t in race["trials"] if t["outcome"] == "refused"
    }
    assert declined == {("last-commit-wins", "full_parallel"), ("deadlock", "full_parallel")}


def test_the_wire_shows_claim_copy_merge_and_commit_of_every_strategy(recorded: dict[str, Any]) -> None:
    assert [entry["strategy"] for entry in recorded["strategies"]] == [s.value for s in STRATEGIES[1:]]
    for entry in recorded["strategies"]:
        worker = [said for said in entry["statements"] if said["session"].startswith(("worker", "file"))]
        own = [said["statement"] for said in worker if said["session"] == worker[0]["session"]]
        places = [
            next(i for i, text in enumerate(own) if word in text)
            for word in ("etl_toolkit.batches", "COPY ", "counts =")
        ]
        assert places == sorted(places)
        assert own[-1] == "COMMIT"
        assert any(said["copy_bytes"] for said in worker)


def test_no_row_data_and_no_path_is_recorded(recorded: dict[str, Any]) -> None:
    assert "/tmp/" not in str(recorded["strategies"])


def test_the_page_shows_the_races_and_opens_no_database(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg2, "connect", None)
    html = safety.races(run_data.read(run_directory))._repr_html_()
    assert html.count("<h3") == len(RACES)
    assert "None of our strategies gave a wrong result." in html
    assert "ERROR 40P01: deadlock detected" in html
    shown = safety.mechanisms(run_data.read(run_directory))._repr_html_()
    assert "ON CONFLICT" in shown
    for strategy in STRATEGIES[1:]:
        for session in ("coordinator", r"(worker|file) \d"):
            assert re.search(rf"{strategy.value}: session <code>{session}</code>", shown), (strategy, session)
    assert html.count("in the same situation</h4>") == len(RACES)


def test_beside_each_race_stands_what_auto_sent_in_it(recorded: dict[str, Any]) -> None:
    for race in recorded["races"]:
        sent = {trial["strategy"]: trial["statements"] for trial in race["trials"]}
        assert all(not statements for name, statements in sent.items() if name != "auto")
        assert any(said["copy_bytes"] for said in sent["auto"]), race["name"]
        assert all(re.match(r"(worker|file) \d", said["session"]) for said in sent["auto"])
        assert sent["auto"][-1]["statement"] == "COMMIT"


def test_a_trial_that_leaves_other_rows_is_called_wrong(database: str, tmp_path: Path) -> None:
    """The control: a loader that drops a file is found out."""
    files = [trials.write_csv(tmp_path / f"{n}.csv", [(n, "x")]) for n in (1, 2)]
    expected = trials.Expectation("SELECT count(*) FROM race", 2, "rows")

    def forgetful(strategy: Strategy, files: Any, dsn: str) -> Any:
        return trials.load(strategy, files[:1], dsn)

    found = trials.try_one(Strategy.AUTO, database, files, expected, loading=forgetful)
    assert (found.outcome, found.detail) == ("wrong", "rows: 1")


def test_a_lost_reply_is_really_lost(database: str) -> None:
    """The control: without a ledger the client sees a broken connection, and the server has committed."""
    with WireTap(database, lambda _, statement: statement == "COMMIT") as tap:
        client = psycopg2.connect(tap.tapped_dsn)
        with client.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id int)")
        with pytest.raises(psycopg2.OperationalError):
            client.commit()
        client.close()
    with stage(database) as own:
        assert own.ask("SELECT to_regclass('t') IS NOT NULL") is True


def test_a_tap_that_loses_nothing_is_no_demonstration(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "load", lambda *_: None)
    with pytest.raises(trials.NotShownError, match="nothing was tested"):
        trials.load_with_lost_reply(Strategy.AUTO, [], database)


def test_a_server_that_takes_no_plain_connection_is_no_failure_of_a_strategy(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WireTap, "tapped_dsn", "host=127.0.0.1 port=1 connect_timeout=2")
    once = trials.Expectation("SELECT 1", 1, "one")
    found = trials.try_one(Strategy.AUTO, database, [], once, loading=trials.load_with_lost_reply)
    assert found.outcome == "not shown"


def test_a_run_without_demonstrations_says_so(tmp_path: Path) -> None:
    data = run_data.read(write_run(tmp_path / "run"))
    assert "No demonstrations were recorded" in safety.races(data)._repr_html_()
