"""The sections on safety: races that were made to happen, what prevents them, and the SQL each strategy runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from etl_toolkit.reporting import demonstrations
from etl_toolkit.reporting.content import Bullets, Code, Details, Heading, Part, Section, Text, written_table
from etl_toolkit.reporting.pictures import Lane, Lanes
from etl_toolkit.reporting.run_data import RunData
from etl_toolkit.reporting.wiretap import IS_WORKER
from etl_toolkit.tables import Table

MISSING = (
    "No demonstrations were recorded in this run directory. `etl-toolkit bench` records them with every sweep; this "
    "page does not connect to a database."
)
BREAKS = "FROM|WHERE|GROUP BY|ORDER BY|ON CONFLICT|LEFT JOIN|RETURNING|SELECT (?!FROM)|written AS|judged AS|VALUES"
CLAUSES = re.compile(rf" (?=(?:{BREAKS})\b)")
MANY_KEYS = re.compile(r"(ARRAY\[(?:'\d+', ?){3})(?:'\d+',? ?){4,}[', \d]*…?")


def races(data: RunData) -> Section:
    """Each race, shown happening, and how each strategy fared on the same stage."""
    title = "Race conditions"
    found = demonstrations.load(data.record.directory)
    if found is None:
        return Section(title, [Text(MISSING, "alert")])
    happened = sum(race["happened"] for race in found["races"])
    wrong = [
        f"`{trial['strategy']}` in '{race['title']}' ({trial['detail']})"
        for race in found["races"]
        for trial in race["trials"]
        if trial["outcome"] == "wrong"
    ]
    parts: list[Part] = [
        Text(
            f"{happened} of {len(found['races'])} races were reproduced on PostgreSQL {found['server_version']} "
            f"({found['made_at'][:10]}): two sessions, their interleaving forced with locks, and real replies "
            "from the server. In each situation, our strategies then loaded files that provoke the race."
        ),
        Text(f"Not prevented: {'; '.join(wrong)}.", "alert")
        if wrong
        else Text("None of our strategies gave a wrong result.", "lead"),
    ]
    parts += [
        Text(f"`{name}` could not be reproduced here: {why}.", "alert")
        for name, why in found.get("skipped", {}).items()
    ]
    for race in found["races"]:
        parts += _race(race)
    return Section(title, parts)


def _race(race: Mapping[str, Any]) -> list[Part]:
    by_hand = [(step["session"], step["statement"], step["outcome"]) for step in race["steps"]]
    lanes = [Lane("By hand", by_hand)]
    for trial in race["trials"]:
        sent = [(said["session"], said["statement"], _sent(said["copy_bytes"])) for said in trial.get("statements", ())]
        if sent:
            lanes.append(Lane(f"etl_toolkit, {trial['strategy']}, in the same situation", sent))
    fared = [(trial["strategy"], trial["outcome"], trial["detail"]) for trial in race["trials"]]
    seen = f"Seen: {race['seen']}." if race["happened"] else f"It did not happen this time: {race['seen']}."
    return [
        Heading(race["title"]),
        Text(race["what"]),
        Lanes(lanes),
        Text(seen, "" if race["happened"] else "alert"),
        Text("What prevents it:"),
        Bullets(race["prevention"]),
        Table("Our strategies in this situation", ("strategy", "outcome", "seen"), fared),
    ]


def _sent(copy_bytes: int) -> str:
    return f"{copy_bytes:,} bytes of rows" if copy_bytes else ""


def mechanisms(data: RunData) -> Section:
    """What keeps a load safe, and the SQL each strategy was heard saying."""
    found = demonstrations.load(data.record.directory)
    parts: list[Part] = [written_table("mechanisms")]
    if found is None:
        return Section("Safety mechanisms", [*parts, Text(MISSING, "alert")])
    parts.append(
        Text(
            "The SQL below was sent in a small load with two workers (`<run>` stands for the run, "
            "queries of the catalog are left out). One worker is shown; the others send the same "
            "for their files or ranges."
        )
    )
    parts += [_strategy_sql(strategy) for strategy in found["strategies"]]
    return Section("Safety mechanisms", parts)


def _strategy_sql(strategy: Mapping[str, Any]) -> Details:
    counts = strategy["result"]
    numbers = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if value)
    sessions = list(dict.fromkeys(said["session"] for said in strategy["statements"]))
    worker = next((name for name in sessions if IS_WORKER.match(name)), "")
    parts: list[Part] = [Text(f"{strategy['files']}. {numbers}.")]
    for name in ("coordinator", worker):
        said = [item for item in strategy["statements"] if item["session"] == name]
        parts.append(Code(_script(said), "sql", f"{strategy['strategy']}: session `{name}`"))
    return Details(f"What **{strategy['strategy']}** sends to the server", parts)


def _script(said: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for item in said:
        text = item["statement"]
        if text.startswith("CREATE SCHEMA IF NOT EXISTS etl_toolkit"):
            text = text.split(" (", 1)[0] + " (…  -- the ledger's tables"
        elif text.startswith("INSERT INTO etl_toolkit.runs"):
            text = text[:150] + " …"
        else:
            text = CLAUSES.sub("\n  ", MANY_KEYS.sub(r"\1…", text))
        sent = f"  -- {item['copy_bytes']:,} bytes of rows follow" if item["copy_bytes"] else ""
        lines.append(f"{text};{sent}")
    return "\n".join(lines)


def strategies(_: RunData) -> Section:
    """How each strategy works, and when to use it."""
    return Section("Performance strategies", [written_table("strategies")])
