"""Target tables: keys of every type and form, and whatever a definition may add to the columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.fuzz.case import Column, Table, quoted
from tests.fuzz.names import hostile_name, plain_name
from tests.fuzz.types import ELSEWHERE, KEYS, TYPES

Names = Callable[[], str]


def draw_table(random: Random, encoding: str) -> Table:
    """A table with one to three key columns, up to four others, and a few things that make a load harder."""
    taken: set[str] = set()
    is_hostile = random.random() < 0.4

    def name() -> str:
        found = (
            hostile_name(random, encoding, taken) if is_hostile and random.random() < 0.7 else plain_name(random, taken)
        )
        taken.add(found)
        return found

    usual = ("int4", "int8", "text", "uuid", "date", "timestamptz")
    key_types = [random.choice(usual if random.random() < 0.4 else KEYS) for _ in range(random.choice((1, 1, 1, 2, 3)))]
    keys = tuple(Column(name(), kind) for kind in key_types)
    others = [Column(name(), random.choice(list(TYPES))) for _ in range(random.randint(0, 4))]
    others = [_with_more(random, column) for column in others]
    more, statements, predicate, arbiter = _key_form(random, keys, others, name)
    others += _made_columns(random, others, name)
    more += _constraints(random, others, statements, name)
    columns = [*keys, *others]
    if random.random() < 0.2:
        random.shuffle(columns)
    by_content = Random(repr(columns))  # noqa: S311 - what is drawn of it changes nothing that is drawn elsewhere
    if by_content.random() < 0.1:
        # No virtual column may read one whose type is not PostgreSQL's own.
        columns = [
            replace(column, declared=ELSEWHERE.get(column.type, ""), more=column.more.replace("VIRTUAL", "STORED"))
            for column in columns
        ]
    tail = ""
    if more and more[0].startswith("PRIMARY KEY") and random.random() < 0.12:
        tail, partitions = _partitioned(random, keys[0])
        if tail:  # there, another unique index would have to include the key
            more = [text for text in more if not text.startswith("UNIQUE")]
            statements = [text for text in statements if "UNIQUE" not in text]
        statements = [*partitions, *statements]
    return Table(
        schema="public" if random.random() < 0.6 else hostile_name(random, encoding, {"etl_toolkit", "expected", "pg_temp", "probe"}),
        name="loaded" if random.random() < 0.6 else hostile_name(random, encoding, {"pg_temp"}),
        columns=tuple(columns), key=tuple(column.name for column in keys), arbiter=arbiter, predicate=predicate,
        more=tuple(more), tail=tail, statements=tuple(statements),
    )  # fmt: skip


def _with_more(random: Random, column: Column) -> Column:
    default = {"text": "'d'", "int4": "5", "int8": "-1", "bool": "true", "numeric": "1.50", "date": "'2020-01-01'"}.get(
        column.type
    )
    if default and random.random() < 0.3:
        return Column(column.name, column.type, f"DEFAULT {default}" + random.choice(("", " NOT NULL")))
    return Column(column.name, column.type, "NOT NULL") if random.random() < 0.08 else column


def _key_form(
    random: Random, keys: tuple[Column, ...], others: list[Column], name: Names
) -> tuple[list[str], list[str], str | None, tuple[str, ...]]:
    """How the index that arbitrates is declared: (constraints, statements, predicate, key parts as SQL)."""
    parts = tuple(quoted(column.name) for column in keys)
    form = random.choice(
        (
            "primary",
            "primary",
            "primary",
            "unique",
            "index",
            "nulls",
            "partial",
            "expression",
            "including",
            "descending",
        )
    )
    texts = [column for column in keys if column.type in ("text", "varchar(3)")]
    if form == "expression" and texts:
        parts = tuple(
            f"lower({part})" if column is texts[0] else part for part, column in zip(parts, keys, strict=True)
        )
        return [], [f"CREATE UNIQUE INDEX ON {{table}} ({', '.join(parts)})"], None, parts
    if form == "partial":
        # A soft delete: the column of the predicate may or may not be in the files.
        deleted = Column(name(), "timestamptz")
        others.append(deleted)
        predicate = f"{quoted(deleted.name)} IS NULL"
        return [], [f"CREATE UNIQUE INDEX ON {{table}} ({', '.join(parts)}) WHERE {predicate}"], predicate, parts
    columns = ", ".join(parts)
    if form == "unique":
        return [f"UNIQUE ({columns})"], [], None, parts
    if form == "nulls":
        return [f"UNIQUE NULLS NOT DISTINCT ({columns})"], [], None, parts
    if form == "index":
        return [], [f"CREATE UNIQUE INDEX ON {{table}} ({columns})"], None, parts
    if form == "descending":
        return (
            [],
            [f"CREATE UNIQUE INDEX ON {{table}} ({', '.join(f'{part} DESC NULLS LAST' for part in parts)})"],
            None,
            parts,
        )
    if form == "including" and others:
        return [f"PRIMARY KEY ({columns}) INCLUDE ({quoted(others[0].name)})"], [], None, parts
    return [f"PRIMARY KEY ({columns})"], [], None, parts


def _made_columns(random: Random, others: list[Column], name: Names) -> list[Column]:
    """Columns that the server fills."""
    made = []
    numbers = [column for column in others if column.type in ("int4", "int8") and column.is_free]
    if numbers and random.random() < 0.2:
        kind = random.choice(("STORED", "VIRTUAL"))
        made.append(
            Column(
                name(),
                "numeric",
                f"GENERATED ALWAYS AS (coalesce({quoted(numbers[0].name)}, 0)::numeric * 2) {kind}",
                is_free=False,
            )
        )
    if random.random() < 0.1:
        # A row that would change an ALWAYS identity is a reject by what is in the table, which the oracle does not judge.
        when = random.choice(("ALWAYS", "BY DEFAULT"))
        made.append(Column(name(), "int8", f"GENERATED {when} AS IDENTITY", is_free=when != "ALWAYS"))
    return made


def _constraints(random: Random, others: list[Column], statements: list[str], name: Names) -> list[str]:
    """Checks, indexes and triggers on columns that are not of the key."""
    more = []
    for column in others:
        if not column.is_free or random.random() > 0.2 or "GENERATED" in column.more:
            continue
        at = quoted(column.name)
        if column.type in ("int4", "int8"):
            named = f"CONSTRAINT {quoted(name())} CHECK ({at} < 1000)"
            more.append(
                random.choice((f"CHECK ({at} > -5)", f"CHECK ({at} IS DISTINCT FROM 1)", named, f"UNIQUE ({at})"))
            )
        elif column.type == "text":
            how = random.choice(("upper", "raise", "index", "check", "unique"))
            if how == "check":
                more.append(f"CHECK ({at} <> 'NA')")
            elif how == "unique":
                statements.append(f"CREATE UNIQUE INDEX ON {{table}} (lower({at}))")
            elif how == "index":
                statements.append(f"CREATE INDEX ON {{table}} ((length({at}) / (length({at}) - 2)))")
            else:
                statements += _trigger(at, how)
                break
    return more


def _trigger(at: str, how: str) -> list[str]:
    body = f"NEW.{at} := upper(NEW.{at});"
    if how == "raise":
        body = f"IF NEW.{at} = 'NULL' THEN RAISE 'no such thing: %', NEW.{at}; END IF;"
    return [
        f"CREATE FUNCTION {{schema}}.etl_rule() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} RETURN NEW; END$$",
        "CREATE TRIGGER etl_rule BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {schema}.etl_rule()",
    ]


def _partitioned(random: Random, key: Column) -> tuple[str, list[str]]:
    if key.type in ("money", "bit(3)", "pair", "tsvector"):  # no hash operator class
        return "", []
    at = quoted(key.name)
    parts = [
        f"CREATE TABLE {{schema}}.etl_part{number} PARTITION OF {{table}} FOR VALUES WITH (MODULUS 3, REMAINDER {number})"
        for number in range(3)
    ]
    if random.random() < 0.2:
        parts.pop()  # some rows have no partition
    return f"PARTITION BY HASH ({at})", parts
