"""Tables and files as people have them: each shape changes one thing of the benchmark's own table, or a few that go together.

An expression of a column is DuckDB's; in it `k` is the key and `v` the seed of the row's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Writing = Literal["plain", "quoted", "crlf", "gz", "parquet"]

SECONDS_2024 = 1_704_067_200


@dataclass(frozen=True)
class Shape:
    """What differs from the base: columns (SQL type, expression) replaced or added, the key, DDL around the table, the files.

    `before`, `after` and `ending` are SQL; `{table}` in them is the table.
    """

    summary: str
    columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    key: tuple[str, ...] = ("id",)
    before: str = ""
    after: str = ""
    ending: str = ""
    writing: Writing = "plain"

    def table_sql(self, table: str, columns: Mapping[str, str]) -> str:
        """Return the statements that create the table; `columns` maps all names to their SQL types."""
        items = ", ".join(
            [*(f"{name} {kind}" for name, kind in columns.items()), f"PRIMARY KEY ({', '.join(self.key)})"]
        )
        statements = [self.before, f"CREATE TABLE {table} ({items}){self.ending}", self.after.format(table=table)]
        return "; ".join(filter(None, statements))


def _seconds(seed: str) -> str:
    return f"make_timestamp(({SECONDS_2024} + mix({seed}) % 31536000)::BIGINT * 1000000)"


_DIGEST = "md5(k::VARCHAR)"
_UUID4 = (
    f"substr({_DIGEST}, 1, 8) || '-' || substr({_DIGEST}, 9, 4) || '-4' || substr({_DIGEST}, 14, 3) || '-a' || "
    f"substr({_DIGEST}, 18, 3) || '-' || substr({_DIGEST}, 21, 12)"
)
_MOMENT = f"lpad(to_hex({SECONDS_2024}000 + k // 4), 12, '0')"
_UUID7 = (
    f"substr({_MOMENT}, 1, 8) || '-' || substr({_MOMENT}, 9, 4) || '-7' || substr({_DIGEST}, 14, 3) || '-a' || "
    f"substr({_DIGEST}, 18, 3) || '-' || substr({_DIGEST}, 21, 12)"
)
_LABELS = [f"cat_{number}" for number in range(20)]
_LISTED = ", ".join(f"'{label}'" for label in _LABELS)
_REVISED = """CREATE FUNCTION revise() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.revision := OLD.revision + 1; RETURN NEW; END $$"""

SHAPES: Mapping[str, Shape] = {
    "base": Shape("the benchmark's own table: seven columns, timestamps with offsets, bigint key"),
    "no_offset": Shape(
        "timestamps without an offset",
        {"created_at": ("timestamptz", f"strftime({_seconds('v + 3')}, '%Y-%m-%d %H:%M:%S')")},
    ),
    "check": Shape("CHECK (amount >= 0)", {"amount": ("numeric(12,2) CHECK (amount >= 0)", "")}),
    "foreign_key": Shape(
        "a foreign key to a table of 20 rows",
        {"category": ("text REFERENCES categories", "")},
        before=f"CREATE TABLE categories (name text PRIMARY KEY); INSERT INTO categories SELECT unnest(ARRAY[{_LISTED}])",
    ),
    "enum": Shape("an enum column", {"category": ("label", "")}, before=f"CREATE TYPE label AS ENUM ({_LISTED})"),
    "jsonb": Shape(
        "a jsonb column (quoted)",
        {"name": ("jsonb", "'{\"name\": \"name_' || (v % 1000000) || '\", \"tags\": [1, ' || (v % 9) || ']}'")},
    ),
    "quoted_text": Shape(
        "one text with commas and quotes",
        {"name": ("text", "'He said \"' || (v % 1000000) || '\", and left'")},
    ),
    "quoted": Shape("every field quoted", writing="quoted"),
    "crlf": Shape("CR LF line ends", writing="crlf"),
    "gz": Shape("gzip", writing="gz"),
    "parquet": Shape("Parquet", writing="parquet"),
    "uuid4": Shape("key UUIDv4", {"id": ("uuid", _UUID4)}),
    "uuid7": Shape("key UUIDv7", {"id": ("uuid", _UUID7)}),
    "text_key": Shape("key text", {"id": ("text", "'order-' || k")}),
    "two_part_key": Shape(
        "key of two columns",
        {"region": ("integer", "(k % 50)::INTEGER"), "id": ("bigint", "k::BIGINT")},
        key=("region", "id"),
    ),
    "numeric_key": Shape("numeric key, which only the server compares", {"id": ("numeric(20,0)", "")}),
    "indexes": Shape(
        "three more indexes",
        after="CREATE INDEX ON {table} (created_at); CREATE INDEX ON {table} (category, amount); CREATE INDEX ON {table} (name)",
    ),
    "second_unique": Shape(
        "a second unique index, one value for each key",
        {"code": ("text NOT NULL", "'code-' || k")},
        after="CREATE UNIQUE INDEX ON {table} (code)",
    ),
    "self_reference": Shape("a foreign key to the table itself", {"parent": ("bigint REFERENCES target", "k::BIGINT")}),
    "trigger": Shape(
        "a BEFORE UPDATE trigger that counts revisions",
        after=f"ALTER TABLE {{table}} ADD revision int NOT NULL DEFAULT 0; {_REVISED}; CREATE TRIGGER revised BEFORE UPDATE ON "
        "{table} FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION revise()",
    ),
    "partitioned": Shape(
        "a table partitioned by range of the key",
        ending=" PARTITION BY RANGE (id)",
        after="; ".join(
            f"CREATE TABLE target_{number} PARTITION OF {{table}} FOR VALUES FROM ({number << 30}) TO ({number + 1 << 30})"
            for number in range(4)
        ),
    ),
    "wide": Shape(
        "60 columns",
        {f"c{number}": ("integer", f"(mix(v + {number + 10}) % 1000000)::INTEGER") for number in range(40)}
        | {f"t{number}": ("text", f"'t' || (mix(v + {number + 60}) % 1000)") for number in range(13)},
    ),
    "long_text": Shape("a text of 1,300 characters", {"body": ("text", "repeat(md5(v::VARCHAR), 40) || 'x'")}),
}  # fmt: skip
