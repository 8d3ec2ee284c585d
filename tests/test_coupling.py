"""More than the primary key couples files: each such thing is read from the catalog, and supported, slowed down or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn

from etl_toolkit import ConflictAwareProcessor, ParallelConfig, ingest
from etl_toolkit.errors import AccountingError, DatabaseError, RejectLimitError, TargetError, UnsafeStrategyError
from etl_toolkit.loading.run import Event
from etl_toolkit.model import HazardKind, WriteOptions
from etl_toolkit.strategies import couplings
from etl_toolkit.target import read_target
from tests.oracle import Oracle, Rows, differing_rows, write

SMALL = ParallelConfig(chunk_size=2, sub_batch_size=2, concurrency=2)
PARALLEL = ("full_parallel", "hybrid", "partitioned")
IN_ORDER = ("auto", "deterministic", "streaming")


def create(connection: Connection, ddl: str) -> None:
    """Create the tables `loaded` and `expected` alike; `@` stands for the name."""
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(ddl.replace("@", name))


def written(contents: Sequence[Rows], directory: Path) -> list[Any]:
    return [write(content, directory, f"part{number}", "csv") for number, content in enumerate(contents)]


def hazards(connection: Connection) -> dict[HazardKind, str]:
    return {hazard.kind: hazard.forces for hazard in read_target(connection, "loaded", ["id"]).hazards}


# Name → (DDL, kind of hazard, files). Each is loaded in order, whatever the number of workers.
COUPLED = {
    "second unique": (
        "CREATE TABLE @ (id int PRIMARY KEY, email text UNIQUE)", HazardKind.SECOND_UNIQUE,
        [Rows(("id", "email"), (("1", "a"), ("2", "b"))), Rows(("id", "email"), (("1", "c"), ("3", None))),
         Rows(("id", "email"), (("4", "a"), ("3", "d")))],
    ),
    "second unique on an expression": (
        "CREATE TABLE @ (id int PRIMARY KEY, email text); CREATE UNIQUE INDEX ON @ (lower(email))", HazardKind.SECOND_UNIQUE,
        [Rows(("id", "email"), (("1", "a"), ("2", "b"))), Rows(("id", "email"), (("1", "c"), ("3", "A")))],
    ),
    "second unique with a predicate": (
        "CREATE TABLE @ (id int PRIMARY KEY, email text DEFAULT 'x', active bool); "
        "CREATE UNIQUE INDEX ON @ (email) WHERE active", HazardKind.SECOND_UNIQUE,
        [Rows(("id", "active"), (("1", "t"), ("2", "f"))), Rows(("id", "active"), (("1", "f"), ("3", "f"))),
         Rows(("id", "active"), (("2", "t"),))],
    ),
    "second unique on a generated column": (
        "CREATE TABLE @ (id int PRIMARY KEY, email text, folded text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE)",
        HazardKind.SECOND_UNIQUE,
        [Rows(("id", "email"), (("1", "a"), ("2", "b"))), Rows(("id", "email"), (("1", "c"), ("3", "A")))],
    ),
    "second unique over the key itself": (
        "CREATE TABLE @ (id text PRIMARY KEY, v text); CREATE UNIQUE INDEX a_before_@ ON @ (lower(id))",
        HazardKind.SECOND_UNIQUE, [Rows(("id", "v"), (("a", "1"), ("b", "2"))), Rows(("id", "v"), (("a", "3"), ("C", "4")))],
    ),
    "self reference": (
        "CREATE TABLE @ (id int PRIMARY KEY, parent int REFERENCES @)", HazardKind.SELF_REFERENCE,
        # A child may stand before its parent within a file, however small the chunks are.
        [Rows(("id", "parent"), (("3", "1"), ("2", "1"), ("1", None))), Rows(("id", "parent"), (("4", "3"), ("3", "2"), ("5", "4")))],
    ),
    "exclusion constraint": (
        "CREATE TABLE @ (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&))", HazardKind.EXCLUSION,
        [Rows(("id", "during"), (("1", "[1,5)"), ("2", "[5,9)"))), Rows(("id", "during"), (("1", "[20,30)"), ("3", None))),
         Rows(("id", "during"), (("4", "[1,5)"),))],
    ),
    "trigger that rewrites keys": (
        "CREATE TABLE @ (id int PRIMARY KEY, v text); "
        "CREATE OR REPLACE FUNCTION fold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id = abs(NEW.id); RETURN NEW; END $$; "
        "CREATE TRIGGER fold BEFORE INSERT ON @ FOR EACH ROW EXECUTE FUNCTION fold()", HazardKind.ROW_TRIGGER,
        [Rows(("id", "v"), (("1", "a"), ("-2", "b"))), Rows(("id", "v"), (("-1", "c"), ("2", "d"), ("-3", "e")))],
    ),
    "trigger after each row": (
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE TABLE @_log (v text); "
        "CREATE FUNCTION log_@() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO @_log VALUES (NEW.v); RETURN NULL; END $$; "
        "CREATE TRIGGER log AFTER INSERT OR UPDATE ON @ FOR EACH ROW EXECUTE FUNCTION log_@()", HazardKind.ROW_TRIGGER,
        [Rows(("id", "v"), (("1", "a"), ("2", "b"))), Rows(("id", "v"), (("1", "c"),))],
    ),
    "trigger after each statement": (
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE TABLE @_log (v int); "
        "CREATE FUNCTION log_@() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO @_log SELECT count(*) FROM @; RETURN NULL; END $$; "
        "CREATE TRIGGER log AFTER INSERT OR UPDATE ON @ FOR EACH STATEMENT EXECUTE FUNCTION log_@()", HazardKind.STATEMENT_TRIGGER,
        [Rows(("id", "v"), (("1", "a"), ("2", "b"), ("3", "c"))), Rows(("id", "v"), (("1", "c"),))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COUPLED)
def test_what_couples_rows_is_loaded_in_order(database: str, connection: Connection, tmp_path: Path, name: str) -> None:
    ddl, kind, contents = COUPLED[name]
    create(connection, ddl)
    files = written(contents, tmp_path)

    assert hazards(connection).get(kind) == "sequential"
    for strategy in PARALLEL:
        with pytest.raises(
            UnsafeStrategyError, match=f"{strategy} is not safe here: {kind}: .*choose auto or deterministic$"
        ):
            ingest(files, "loaded", "id", database, strategy=strategy, config=SMALL)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (0,)

    Oracle("expected", ("id",)).load(connection, contents)
    for strategy in IN_ORDER:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE loaded")
        result = ingest(files, "loaded", "id", database, strategy=strategy, config=SMALL)
        assert result
        assert differing_rows(connection, "loaded", "expected") == []
        assert len(result.plan.lanes) == 1
        if strategy == "auto":
            assert result.strategy == "deterministic"
            assert any(kind in reason for reason in result.reasons)


def test_a_statement_trigger_fires_once_for_each_file(database: str, connection: Connection, tmp_path: Path) -> None:
    ddl, _, contents = COUPLED["trigger after each statement"]
    create(connection, ddl)
    Oracle("expected", ("id",)).load(connection, contents)

    ingest(written(contents, tmp_path), "loaded", "id", database, strategy="streaming", config=SMALL)

    assert differing_rows(connection, "loaded_log", "expected_log") == []


@pytest.mark.parametrize(
    "ddl",
    [
        "CREATE TABLE @ (id int PRIMARY KEY, v text, other int UNIQUE)",
        "CREATE TABLE @ (id int PRIMARY KEY, v text, surrogate serial UNIQUE)",
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE UNIQUE INDEX ON @ (id, v)",
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE UNIQUE INDEX ON @ (id) WHERE v = 'x'",
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE UNIQUE INDEX a_twin_of_@ ON @ (id)",
    ],
    ids=["of other columns", "of a serial", "wider than the key", "partial on the key", "twin of the key"],
)
def test_a_second_unique_that_cannot_be_violated_slows_nothing_down(
    database: str, connection: Connection, tmp_path: Path, ddl: str
) -> None:
    create(connection, ddl)
    contents = [Rows(("id", "v"), (("1", "a"), ("2", "b"))), Rows(("id", "v"), (("2", "c"), ("3", "d")))]

    result = ingest(written(contents, tmp_path), "loaded", "id", database, config=SMALL)

    assert result.strategy == "partitioned"
    assert result.plan.key_path == "client"
    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected", ("id", "v")) == []


def codes(*rows: tuple[int | str, str | None]) -> Rows:
    return Rows(("id", "code", "v"), tuple((str(id_), code, f"{id_} {code}") for id_, code in rows))


# Name → (rows of the table, files, whether some value belongs to two keys).
SECOND = {
    "one value a key": (
        [(1, "a"), (9, "z")],
        [[(1, "a"), (2, "b"), (3, None)], [(2, "b"), (4, None), (5, "e")]],
        False,
    ),
    "a key with several values": ([(1, "a")], [[(1, "b"), (2, 'x,"')], [(1, "c"), (2, "y")]], False),
    "two keys in the files, one row loses": ([], [[(1, "a"), (3, "c")], [(1, "b")], [(2, "a")]], True),
    "a key that only the server can read": ([], [[("+7", "a")], [(7, "b")], [(2, "a")]], True),
    "a value that the table has under another key": ([(1, "a")], [[(1, "b"), (3, "c")], [(2, "a")]], True),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_second_unique_couples_only_where_a_value_belongs_to_two_keys(
    database: str, connection: Connection, tmp_path: Path, name: str
) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, code text UNIQUE, v text)")
    present, contents, is_coupled = SECOND[name]
    files = [codes(*rows) for rows in contents]
    for table in ("loaded", "expected"):
        Oracle(table, ("id",)).load(connection, [codes(*present)])
    Oracle("expected", ("id",)).load(connection, files)
    result = ingest(written(files, tmp_path), "loaded", "id", database, config=SMALL)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.strategy == ("deterministic" if is_coupled else "partitioned")
    assert any("its index couples no rows" in reason for reason in result.reasons) is not is_coupled


FAMILY = "CREATE TABLE @ (id int PRIMARY KEY, parent int REFERENCES @, v text)"
TENANTS = "CREATE TABLE @ (t int DEFAULT 1, id int, parent int, v text, PRIMARY KEY (t, id), FOREIGN KEY (t, parent) REFERENCES @)"
GROWN = [[(3, 1), (2, 1)], [(3, 2), (4, None), (1, 2)]]

# Name → (DDL, key, files, whether rows depend on each other). The table has the rows 1 and 2 before.
LOOPS = {
    "to rows of the table": (FAMILY, "id", GROWN, False),
    "to rows of the table, of two columns": (TENANTS, "t,id", GROWN, False),
    "to a row that another file brings": (FAMILY, "id", [[(5, 1)], [(6, 5)]], True),
    "to such a row, from a row that loses": (FAMILY, "id", [[(5, 1)], [(6, 5)], [(6, 1)]], True),
    "to itself": (FAMILY, "id", [[(5, 5)], [(6, 1)]], True),
    "beside an index whose columns change": (FAMILY + "; CREATE UNIQUE INDEX ON @ (id, v)", "id", GROWN, True),
    "a key that is given in whole or not at all": (
        TENANTS.replace("REFERENCES @", "REFERENCES @ MATCH FULL"), "t,id", [[(3, 1)], [(3, 2)]], True),
    "to a column that changes": (
        "CREATE TABLE @ (id int PRIMARY KEY, v text UNIQUE, parent text REFERENCES @ (v))", "id", [[(3, "1 None")]] * 2, True),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_a_self_reference_couples_only_where_a_row_refers_to_one_that_is_not_there_yet(
    database: str, connection: Connection, tmp_path: Path, name: str
) -> None:
    ddl, key, contents, is_coupled = LOOPS[name]
    create(connection, ddl)

    def rows(items: Sequence[tuple[Any, Any]]) -> Rows:
        return Rows(
            ("t", "id", "parent", "v")[key == "id" :],
            tuple(
                (*["1"][key == "id" :], str(id_), parent and str(parent), f"{id_} {parent}") for id_, parent in items
            ),
        )

    files = [rows(items) for items in contents]
    keys = tuple(key.split(","))
    for table in ("loaded", "expected"):
        Oracle(table, keys).load(
            connection, [rows([(1, 1 if "FULL" in ddl else None), (2, "1 None" if "(v)" in ddl else 1)])]
        )
    Oracle("expected", keys).load(connection, files)
    result = ingest(written(files, tmp_path), "loaded", keys, database, config=SMALL)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.strategy == ("deterministic" if is_coupled else "partitioned")
    assert any("it couples no rows" in reason for reason in result.reasons) is not is_coupled


@pytest.mark.parametrize("is_proven", [True, False])
def test_a_row_that_loses_is_rejected_where_it_refers_to_nothing(
    database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_proven: bool
) -> None:
    """Without the proof it would not be looked at: nobody else asks whether a row that loses has a parent."""
    if not is_proven:
        monkeypatch.setattr(couplings, "_refers_to_new_rows", lambda *_: False)
    create(connection, FAMILY + "; INSERT INTO @ VALUES (1)")
    files = [Rows(("id", "parent"), (("6", "9"),)), Rows(("id", "parent"), (("6", "1"),))]
    result = ingest(written(files, tmp_path), "loaded", "id", database, config=SMALL, max_rejects=1)
    assert (result.strategy, result.counts.rejected) == (("deterministic", 1) if is_proven else ("partitioned", 0))


def test_a_row_that_another_session_deletes_after_the_proof_refuses_those_that_refer_to_it(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    create(connection, FAMILY)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO loaded VALUES (1), (2)")
    columns = ("id", "parent")
    files = written([Rows(columns, (("3", "1"), ("4", "2"))), Rows(columns, (("3", "2"), ("5", "1")))], tmp_path)

    def interfere(event: Event) -> None:
        if event.name == "planned":
            with psycopg2.connect(database) as other, other.cursor() as cursor:
                cursor.execute("DELETE FROM loaded WHERE id = 2")
            other.close()

    with pytest.raises((DatabaseError, RejectLimitError), match="loaded_parent_fkey"):
        ingest(files, "loaded", "id", database, config=SMALL, on_event=interfere)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM loaded")
        assert cursor.fetchall() == [(1,)]


def test_a_value_that_another_session_takes_after_the_proof_fails_the_load_and_writes_nothing(
    database: str, connection: Connection, tmp_path: Path
) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, code text UNIQUE, v text)")
    files = written([codes((1, "a"), (2, "b")), codes((2, "b"), (3, "c"))], tmp_path)

    def interfere(event: Event) -> None:
        if event.name == "planned":
            with psycopg2.connect(database) as other, other.cursor() as cursor:
                cursor.execute("INSERT INTO loaded VALUES (7, 'c', 'theirs')")
            other.close()

    with pytest.raises(DatabaseError, match="loaded_code_key"):
        ingest(files, "loaded", "id", database, config=SMALL, on_event=interfere)
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM loaded")
        assert cursor.fetchall() == [(7,)]
    with pytest.raises(RejectLimitError, match="line 3"):  # in order: the row is refused by itself
        ingest(files, "loaded", "id", database, config=SMALL)


COUNTED = """
CREATE TABLE @ (id int PRIMARY KEY, v text, revision int NOT NULL DEFAULT 0);
CREATE FUNCTION @_count() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.revision := OLD.revision + 1; NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TRIGGER counted BEFORE UPDATE ON @ FOR EACH ROW EXECUTE FUNCTION @_count();
CREATE FUNCTION @_fold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := upper(NEW.v); RETURN NEW; END $$;
CREATE TRIGGER folded BEFORE INSERT ON @ FOR EACH ROW EXECUTE FUNCTION @_fold()"""


@pytest.mark.parametrize(("triggers", "revisions"), [("each", [(0, 10), (1, 10)]), ("once", [(0, 15), (1, 5)])])
def test_a_row_trigger_fires_for_each_file_or_once_for_each_key(
    database: str, connection: Connection, tmp_path: Path, triggers: Any, revisions: list[tuple[int, int]]
) -> None:
    create(connection, COUNTED)
    files = [
        Rows(("id", "v"), tuple((str(id_), f"{name}{id_}") for id_ in ids))
        for name, ids in (("a", range(10)), ("b", range(5, 15)))
    ]
    there = Rows(("id", "v"), tuple((str(id_), "old") for id_ in range(10, 20)))
    for name in ("loaded", "expected"):
        Oracle(name, ("id",)).load(connection, [there])
    Oracle("expected", ("id",)).load(connection, files)
    options = WriteOptions(triggers=triggers)
    result = ingest(written(files, tmp_path), "loaded", "id", database, config=SMALL, write=options)
    assert differing_rows(connection, "loaded", "expected", ["id", "v"]) == []
    assert result.strategy == ("deterministic" if triggers == "each" else "partitioned")
    assert ("with --write triggers=once" in " ".join(result.reasons)) is (triggers == "each")
    with connection.cursor() as cursor:
        cursor.execute("SELECT revision, count(*) FROM loaded GROUP BY revision ORDER BY revision")
        assert cursor.fetchall() == revisions


@pytest.mark.parametrize("options", [{}, {"nulls": "keep"}])
@pytest.mark.parametrize("key", ["int", "numeric"])
def test_a_winner_that_a_trigger_refuses_is_rejected_where_triggers_fire_once(
    database: str, connection: Connection, tmp_path: Path, key: str, options: dict[str, Any]
) -> None:
    refuse = "BEGIN IF NEW.v = 'bad' THEN RAISE EXCEPTION 'not bad'; END IF; RETURN NEW; END"
    create(connection, f"CREATE TABLE @ (id {key} PRIMARY KEY, v text)")
    there = Rows(("id", "v"), (("7", "old"), ("10", "old")))
    files = [
        Rows(("id", "v"), (("1", "a"), ("7", "a"), ("8", "bad"), ("9", "bad"))),
        Rows(("id", "v"), (("2", "b"), ("7", "bad"), ("8", "b"), ("9", "bad"), ("no key", "b"), ("10", "b"))),
    ]
    good = [
        Rows(("id", "v"), (("1", "a"), ("7", "a"))),
        Rows(("id", "v"), (("2", "b"), ("8", "b"), ("10", "b"))),
    ]
    for name, contents in (("loaded", [there]), ("expected", [there, *good])):
        Oracle(name, ("id",)).load(connection, contents)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {refuse} $$; "
            "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON loaded FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    paths, write = written(files, tmp_path), WriteOptions(triggers="once", **options)
    with pytest.raises(RejectLimitError, match="not bad"):
        ingest(paths, "loaded", "id", database, config=SMALL, write=write, max_rejects=3)
    result = ingest(paths, "loaded", "id", database, config=SMALL, write=write, max_rejects=4)
    assert result.strategy == "partitioned"
    assert differing_rows(connection, "loaded", "expected") == []
    # The row that lost in the first file was seen by no trigger.
    assert [(Path(item.file).name, item.line) for item in result.rejects] == [
        ("part0.csv", 5), ("part1.csv", 3), ("part1.csv", 5), ("part1.csv", 6),
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", IN_ORDER)
def test_a_violated_second_unique_leaves_what_the_files_before_left(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, email text UNIQUE)")
    contents = [
        Rows(("id", "email"), (("1", "a"),)), Rows(("id", "email"), (("2", "b"), ("3", "a"))), Rows(("id", "email"), (("4", "d"),)),
    ]  # fmt: skip

    with pytest.raises(RejectLimitError, match=r"part1.csv, line 3: .*loaded_email_key.*SQLSTATE 23505"):
        ingest(written(contents, tmp_path), "loaded", "id", database, strategy=strategy, config=SMALL)

    Oracle("expected", ("id",)).load(connection, contents[:1])
    assert differing_rows(connection, "loaded", "expected") == []


def test_a_trigger_that_drops_rows_fails_the_accounting(database: str, connection: Connection, tmp_path: Path) -> None:
    create(
        connection,
        "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE OR REPLACE FUNCTION drop_row() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN IF NEW.id = 2 THEN RETURN NULL; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER drop_row BEFORE INSERT ON @ FOR EACH ROW EXECUTE FUNCTION drop_row()",
    )

    with pytest.raises(AccountingError, match="3 rows read but 2 accounted for"):
        ingest(
            written([Rows(("id", "v"), (("1", "a"), ("2", "b"), ("3", "c")))], tmp_path),
            "loaded",
            "id",
            database,
            config=SMALL,
        )


REFUSED = {
    "view": ("CREATE TABLE base (id int PRIMARY KEY, v text); CREATE VIEW loaded AS SELECT * FROM base", "is a view"),
    "materialized view": ("CREATE MATERIALIZED VIEW loaded AS SELECT 1 AS id, 'a' AS v", "is a materialized view"),
    "sequence": ("CREATE SEQUENCE loaded", "is not a table"),
    "rule": (
        "CREATE TABLE loaded (id int PRIMARY KEY, v text); CREATE RULE nothing AS ON INSERT TO loaded DO INSTEAD NOTHING",
        "rewrite rules",
    ),
    "deferrable key": ("CREATE TABLE loaded (id int PRIMARY KEY DEFERRABLE, v text)", "loaded_pkey is deferrable"),
    "deferrable key beside another": (
        "CREATE TABLE loaded (id int PRIMARY KEY DEFERRABLE, v text); CREATE UNIQUE INDEX ON loaded (id)",
        "loaded_pkey is deferrable",
    ),
    "deferred key": (
        "CREATE TABLE loaded (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text)", "loaded_pkey is deferrable",
    ),
    "no key": ("CREATE TABLE loaded (id int, v text)", r"no unique index on \(id\) that ON CONFLICT can use"),
    "key of more columns": ("CREATE TABLE loaded (id int, v text, PRIMARY KEY (id, v))", r"no unique index on \(id\)"),
    "no such column": ("CREATE TABLE loaded (key int PRIMARY KEY, v text)", "no column 'id' for the key"),
    "no such table": ("SELECT 1", "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_upserted_is_refused_with_the_reason(
    database: str, connection: Connection, tmp_path: Path, name: str
) -> None:
    ddl, reason = REFUSED[name]
    with connection.cursor() as cursor:
        cursor.execute(ddl)
    files = written([Rows(("id", "v"), (("1", "a"),))], tmp_path)

    with pytest.raises(TargetError, match=reason):
        ingest(files, "loaded", "id", database)
    with pytest.raises(TargetError, match=reason):
        ConflictAwareProcessor(database).plan(files, "loaded", ["id"])
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regnamespace('etl_toolkit')")
        assert cursor.fetchone() == (None,)  # not even a ledger


@pytest.mark.parametrize("strategy", ["auto", "deterministic", "streaming"])
def test_row_security_is_obeyed_without_copying_into_the_table(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, v text)")
    with connection.cursor() as cursor:
        cursor.execute("DROP ROLE IF EXISTS etl_tenant; CREATE ROLE etl_tenant LOGIN PASSWORD 'secret'")
        cursor.execute("ALTER TABLE loaded ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON loaded USING (id < 100)")
        cursor.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO etl_tenant")
        cursor.execute("GRANT ALL ON loaded TO etl_tenant")
    tenant = make_dsn(database, user="etl_tenant", password="secret")
    contents = [Rows(("id", "v"), (("1", "a"), ("2", "b"))), Rows(("id", "v"), (("2", "c"), ("3", "d")))]
    try:
        for _ in range(2):
            assert ingest(written(contents, tmp_path), "loaded", "id", tenant, strategy=strategy, config=SMALL)
        Oracle("expected", ("id",)).load(connection, contents)
        assert differing_rows(connection, "loaded", "expected") == []

        foreign = written([Rows(("id", "v"), (("4", "e"), ("100", "f"), ("3", "g")))], tmp_path)
        with pytest.raises(RejectLimitError, match=r"part0.csv, line 3: new row violates row-level security .*42501"):
            ingest(foreign, "loaded", "id", tenant, strategy=strategy, config=SMALL)
        assert differing_rows(connection, "loaded", "expected") == []
        with pytest.raises(UnsafeStrategyError, match="row-level security"):
            ingest(foreign, "loaded", "id", tenant, strategy="partitioned", config=SMALL)

        result = ingest(foreign, "loaded", "id", tenant, strategy=strategy, config=SMALL, max_rejects=1)
        assert [(reject.line, reject.sqlstate) for reject in result.rejects] == [(3, "42501")]
        Oracle("expected", ("id",)).load(connection, [Rows(("id", "v"), (("4", "e"), ("3", "g")))])
        assert differing_rows(connection, "loaded", "expected") == []

        with connection.cursor() as cursor:
            cursor.execute("REVOKE UPDATE ON loaded FROM etl_tenant")
        with pytest.raises(DatabaseError, match=r"permission denied .*; grant the privilege to this role"):
            ingest(foreign, "loaded", "id", tenant, strategy=strategy, config=SMALL, max_rejects=5)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY etl_tenant CASCADE; DROP ROLE etl_tenant")


def test_row_security_does_not_concern_its_owner(connection: Connection) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, v text); ALTER TABLE @ ENABLE ROW LEVEL SECURITY")
    assert HazardKind.ROW_SECURITY not in hazards(connection)

    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE loaded FORCE ROW LEVEL SECURITY")
    forced = [hazard.forces for hazard in read_target(connection, "loaded", ["id"]).hazards]
    assert forced == ["staged", "sequential"]


PARTITIONED = (
    "CREATE TABLE @ (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); "
    "CREATE TABLE @_low PARTITION OF @ FOR VALUES FROM (0) TO (100); CREATE TABLE @_high PARTITION OF @ FOR VALUES FROM (100) TO (200)"
)
OF_A_PARTITION = {
    "CHECK": "ALTER TABLE @_low ADD CHECK (v <> 'b')",
    "unique index": "CREATE UNIQUE INDEX ON @_low (v)",
    "NOT NULL": "ALTER TABLE @_low ALTER v SET NOT NULL",
    "expression": "CREATE INDEX ON @_low ((1 / (length(v) - 4)))",
    "foreign key": "CREATE TABLE @_word (v text PRIMARY KEY); INSERT INTO @_word VALUES ('a'), ('c'), ('good'); "
    "ALTER TABLE @_low ADD FOREIGN KEY (v) REFERENCES @_word",
    "trigger": "CREATE FUNCTION shout_@() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.v := upper(NEW.v); RETURN NEW; END$$; "
    "CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON @_low FOR EACH ROW EXECUTE FUNCTION shout_@()",
}


@pytest.mark.parametrize("rule", OF_A_PARTITION)
def test_rules_of_a_partition_hold_for_its_rows(
    database: str, connection: Connection, tmp_path: Path, rule: str
) -> None:
    create(connection, PARTITIONED)
    assert HazardKind.PARTITION not in hazards(connection)
    create(connection, OF_A_PARTITION[rule])
    contents = [
        Rows(("id", "v"), (("1", "a"), ("2", "b"), ("3", "c"), ("101", "b"), ("102", "b"))),
        Rows(("id", "v"), (("2", "good"), ("4", "a"), ("5", None), ("102", "good"))),
    ]
    files = written(contents, tmp_path)

    result = ingest(files, "loaded", "id", database, max_rejects=5, config=SMALL)

    refused = Oracle("expected", ("id",)).load_rejecting(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    named = [str(file) for file in files]
    assert {(named.index(reject.file), reject.record) for reject in result.rejects} == refused
    with pytest.raises(UnsafeStrategyError, match=r"loaded_low has .* of its own"):
        ingest(files, "loaded", "id", database, strategy="partitioned")


@pytest.mark.parametrize("strategy", ["auto", "partitioned", "hybrid", "deterministic", "streaming"])
def test_rows_of_inheriting_tables_are_none_of_the_table(
    database: str, connection: Connection, tmp_path: Path, strategy: str
) -> None:
    create(connection, "CREATE TABLE @ (id int PRIMARY KEY, v text); CREATE TABLE @_child () INHERITS (@)")
    with connection.cursor() as cursor:
        for name in ("loaded", "expected"):
            cursor.execute(f"INSERT INTO {name}_child VALUES (1, 'a'), (2, 'child')")
    contents = [Rows(("id", "v"), (("1", "a"), ("2", "b"))), Rows(("id", "v"), (("2", "c"), ("3", "d")))]

    result = ingest(written(contents, tmp_path), "loaded", "id", database, strategy=strategy, config=SMALL)

    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
    assert result.counts.inserted == 3


@pytest.mark.parametrize("strategy", ["auto", "partitioned", "hybrid", "deterministic"])
@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_foreign_keys_to_other_tables_are_no_hazard(
    database: str, connection: Connection, tmp_path: Path, strategy: str, deferred: str
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE place (id int PRIMARY KEY); INSERT INTO place VALUES (1), (2)")
    create(connection, f"CREATE TABLE @ (id int PRIMARY KEY, place int REFERENCES place {deferred})")
    contents = [Rows(("id", "place"), (("1", "1"), ("2", "1"))), Rows(("id", "place"), (("2", "2"), ("3", None)))]

    assert ingest(written(contents, tmp_path), "loaded", "id", database, strategy=strategy, config=SMALL)

    Oracle("expected", ("id",)).load(connection, contents)
    assert differing_rows(connection, "loaded", "expected") == []
