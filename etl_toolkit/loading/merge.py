"""The SQL of a load: staging table, COPY, and the upsert that leaves unchanged rows alone.

The staging table is made in the transaction that fills it, so PostgreSQL appends to it without looking for free space
(COPY skips the free space map in a relation created in the same transaction), and `ctid` is the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from typing import Any

from psycopg2 import sql
from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.conditions import conditions, copied_columns, generated_keys
from etl_toolkit.loading.conventions import printing
from etl_toolkit.loading.naming import ours, own_column
from etl_toolkit.loading.tripwire import Rivals, guarded
from etl_toolkit.model import ConflictAction, HazardKind, Layout, TargetTable, WriteOptions

STAGING = "etl_staging"
NOTHING = SQL("")
PLAIN = WriteOptions()
# The server refuses them in the text format (ProcessCopyOptions).
NO_TEXT_DELIMITERS = frozenset("\\.abcdefghijklmnopqrstuvwxyz0123456789")


@dataclass(frozen=True)
class Merged:
    """What a merge did to the `rows` of one file that did not lose to another staged row.

    If files compete, the `staged` rows of the file and its `distinct` keys show which rows the others lost to.
    """

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    deleted: int = 0
    absent: int = 0
    staged: int = 0
    distinct: int = 0

    def __add__(self, other: Merged) -> Merged:
        return Merged(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def table(target: TargetTable) -> Identifier:
    """The target table, qualified: a temporary table of its name must not come first."""
    return Identifier(target.schema, target.name)


def create_staging(target: TargetTable, layout: Layout, *, name: str = STAGING, is_numbered: bool = False) -> Composed:
    """A private table in the target's own types, gone at the end of the transaction, that takes no row the target refuses.

    Its first column, `etl_file`, holds the position of the file a row comes from; `etl_n`, where rows are numbered, its number
    there.
    """
    statement = ours(
        target, "CREATE TEMP TABLE {name} ON COMMIT DROP AS SELECT 0 AS etl_file, {number}{columns} FROM {table} WITH NO DATA"
    ).format(
        name=Identifier(name), columns=names(copied_columns(target, layout)), table=table(target),
        number=_number(target, is_numbered=is_numbered),
    )  # fmt: skip
    if actions := conditions(target, layout):
        statement += SQL("; ALTER TABLE {} {}").format(Identifier("pg_temp", name), SQL(", ").join(actions))
    return statement


def _number(target: TargetTable, *, is_numbered: bool) -> SQL:
    return ours(target, "0::bigint AS etl_n, ") if is_numbered else SQL("")


def shared_staging(run_id: str, number: int) -> Identifier:
    """The name of a staging table that other sessions can read: one of a run's, in the ledger's schema."""
    return Identifier("etl_toolkit", f"stage_{run_id}_{number}")


def create_shared_staging(
    target: TargetTable, layout: Layout, destination: Composable, *, file: int, is_numbered: bool = False
) -> Composed:
    """An unlogged staging table, at first for one `file`. The ledger never counts on it: crash recovery empties it."""
    return ours(target,
        "DROP TABLE IF EXISTS {name}; CREATE UNLOGGED TABLE {name} AS SELECT {file} AS etl_file, {number}{columns} "
        "FROM {table} WITH NO DATA; ALTER TABLE {name} {actions}"
    ).format(
        number=_number(target, is_numbered=is_numbered), name=destination, file=sql.Literal(file),
        columns=names(copied_columns(target, layout)), table=table(target),
        actions=SQL(", ").join(
            [ours(target, "ALTER etl_file SET DEFAULT {}").format(sql.Literal(file)), *conditions(target, layout)]
        ),
    )  # fmt: skip


def staged_partition(
    target: TargetTable, layout: Layout, tables: Sequence[Composable], part: int, parts: int,
    *, tombstones: Sequence[Composable] = (), kept: Sequence[str] = (),
) -> Composed:  # fmt: skip
    """The rows of several staging tables whose key hashes, by the operators of its types, into one of `parts`.

    `tombstones` are the tables of rows that delete their key, which have the columns `kept` alone.
    """
    keys = SQL(", ").join(SQL(expression) for expression in target.arbiter.expressions)
    mine: Composable = SQL("")
    if parts > 1:
        mine = SQL(" WHERE pg_catalog.abs(pg_catalog.hash_record(ROW({})) % {}) = {}").format(
            keys, sql.Literal(parts), sql.Literal(part)
        )
    every = [*layout.columns, *generated_keys(target, layout)]
    if tombstones:
        return marked_rows(target, every, tables, tombstones, kept, where=mine)
    rows = [ours(target, "SELECT etl_file, {}, ctid FROM {}{}").format(names(every), name, mine) for name in tables]
    return SQL("({}) AS staged").format(SQL(" UNION ALL ").join(rows))


def marked_rows(
    target: TargetTable, columns: Sequence[str], tables: Sequence[Composable], tombstones: Sequence[Composable],
    kept: Sequence[str], *, where: Composable = NOTHING,
) -> Composed:  # fmt: skip
    """The staged rows and the tombstones among them (`etl_gone`), which have only the columns `kept`."""
    given = SQL(", ").join(Identifier(name) if name in kept else SQL("NULL") for name in columns)
    rows = [
        ours(target, "SELECT etl_file, {gone} AS etl_gone, {columns}, etl_n AS ctid FROM {name}{where}").format(
            gone=sql.Literal(is_gone), columns=items, name=name, where=where
        )
        for is_gone, items, some in ((False, names(columns), tables), (True, given, tombstones))
        for name in some
    ]
    return SQL("({}) AS staged").format(SQL(" UNION ALL ").join(rows))


def set_file(target: TargetTable, position: int, *, table: Composable | None = None) -> Composed:
    """Let the rows staged from now on belong to the file at `position`; `table` is the session's own staging table."""
    return ours(target, "ALTER TABLE {} ALTER etl_file SET DEFAULT {}").format(
        table or staging_table(), sql.Literal(position)
    )


def empty_staging(name: str = STAGING) -> Composed:
    """Empty the staging table for the next chunk or file; it stays append-only, being new in this transaction."""
    return SQL("TRUNCATE {}").format(staging_table(name))


def drop_staging(name: str = STAGING) -> Composed:
    """Make room for the staging table of a file with other columns."""
    return SQL("DROP TABLE {}").format(staging_table(name))


def copy_into(destination: Composable, layout: Layout) -> Composed:
    """COPY records of `layout` into a table, by column list; unquoted empty is NULL, quoted empty is the empty text.

    Bare records are read as text: that takes the server 5 % less CPU than to look for quotes.
    """
    is_text = layout.is_bare and layout.delimiter not in NO_TEXT_DELIMITERS
    return SQL("COPY {} ({}) FROM STDIN ({}, DELIMITER {}, NULL '')").format(
        destination,
        names(layout.columns),
        SQL("FORMAT text" if is_text else "FORMAT csv, QUOTE '\"'"),
        sql.Literal(layout.delimiter),
    )


def staging_table(name: str = STAGING) -> Identifier:
    """The session's own staging table."""
    return Identifier("pg_temp", name)


@dataclass(frozen=True)
class Upsert:
    """How staged rows meet the table.

    `unique` says that no two staged rows have the same key, `sorted` that they are already in key order;
    `several_files` that rows of different files compete;
    `undoable` that the rows it overwrites are kept (see `undo`), for which the transaction has to be REPEATABLE READ;
    `rivals` whose rows it must not meet, where other lanes load at the same time;
    `write` the columns that rows set, with columns named as in the table;
    `marks` what columns get that no file has, by name: an expression over a staged row.
    """

    target: TargetTable
    layout: Layout
    action: ConflictAction = ConflictAction.UPDATE
    order_by: str | None = None
    unique: bool = False
    sorted: bool = False
    several_files: bool = False
    undoable: bool = False
    rivals: Rivals | None = None
    write: WriteOptions = PLAIN
    marks: Mapping[str, Composable] = field(default_factory=dict)

    @property
    def values(self) -> list[str]:
        """The columns that a row changes: never those of the key, whose spelling stays the first writer's."""
        kept = {*self.target.key, *self.target.kept_identities, *self.write.insert_only}
        if self.write.update is not None:
            kept |= set(self.layout.columns) - set(self.write.update)
        changed = [column for column in self.layout.columns if column not in kept]
        return [*changed, self.write.cleared] if self.write.cleared else changed

    @property
    def soft(self) -> str | None:
        """The column that a tombstone sets instead of deleting the row."""
        return self.write.delete.soft if self.write.delete else None

    @property
    def assigned(self) -> list[str]:
        """The columns that an update sets: those that it changes, and those that go with every change."""
        return [*self.values, *self.write.set]

    @property
    def inserted(self) -> list[str]:
        """The columns that an insert sets."""
        return [*self.layout.columns, *self.marks]

    @property
    def kept_identities(self) -> list[str]:
        """The columns that an update cannot set, and whose values have to be those of the row that is there."""
        if self.action is ConflictAction.IGNORE:
            return []
        return [column for column in self.layout.columns if column in self.target.kept_identities]

    @property
    def is_in_file_order(self) -> bool:
        """Whether rows are written as the file has them, since one may be refused for another; else in key order."""
        return bool(self.target.forced("sequential"))

    @property
    def keeps_present(self) -> bool:
        return self.action is ConflictAction.IGNORE or not self.values

    def value(self, name: str, new: str, old: str) -> Composable:
        """What a column that is set becomes, given the relations of a staged row and of the row that is there."""
        given = Identifier(new, name)
        if name == self.write.cleared and self.target.column(name).base_type != "bool":
            return SQL("CASE WHEN {0} IS NOT NULL THEN coalesce({1}, {0}) END").format(given, Identifier(old, name))
        if self.write.nulls == "keep" and name in self.layout.columns:
            return SQL("coalesce({}, {})").format(given, Identifier(old, name))
        return given

    def assignments(self, new: str, old: str) -> Composed:
        """The SET clause of an update."""
        return SQL(", ").join(
            SQL("{} = {}").format(Identifier(name), self.value(name, new, old)) for name in self.assigned
        )


def differs(upsert: Upsert, left: str, right: str) -> Composed:
    """Row images differ: this also tells `1.0` from `1.00`, and works on json."""
    new = SQL(", ").join(upsert.value(name, right, left) for name in upsert.values)
    return SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(names(upsert.values, left), new)


def compose_judged(upsert: Upsert, source: Composable) -> Composed:
    """Compose the CTEs `latest` (staged rows that did not lose to another) and `judged` (what will happen to them).

    Unchanged rows are found by row image (the function of `*<>`: Citus knows no such operator), which also tells `1.0` from
    `1.00` and works on json, and are left out before ON CONFLICT, whose own WHERE would lock each row first.
    """
    target = upsert.target
    latest, present = latest_rows(upsert, source), present_rows(target, system_columns=upsert.undoable)
    on = match_keys(target, "present", "latest")
    changes: Composable = SQL("false")
    if not upsert.keeps_present:
        changes = differs(upsert, "present", "latest")
    stale: Composable = SQL("false")
    if upsert.action is ConflictAction.NEWER and upsert.order_by:
        stale = _older_row(upsert, "latest", "present")
    return ours(upsert.target,
        "latest AS ({latest}), judged AS MATERIALIZED (SELECT latest.*, etl_present IS NULL AS etl_new, "
        "etl_present IS NOT NULL AND {stale} AS etl_stale, "
        "etl_present IS NOT NULL AND NOT {stale} AND {differs} AS etl_differs{identity}{place} "
        "FROM latest LEFT JOIN ({present}) AS present ON {on})"
    ).format(
        latest=latest, stale=stale, differs=changes, present=present, on=on,
        identity=SQL("").join(_changes(upsert)),
        place=ours(upsert.target, ", etl_present, etl_place") if upsert.undoable else SQL(""),
    )  # fmt: skip


def _changes(upsert: Upsert) -> list[Composable]:
    identities = upsert.kept_identities
    if not identities:
        return []
    pairs = [SQL("present.{0} IS DISTINCT FROM latest.{0}").format(Identifier(name)) for name in identities]
    return [ours(upsert.target, ", ({}) AS etl_changes_identity").format(SQL(" OR ").join(pairs))]


def present_rows(target: TargetTable, *, system_columns: bool = False) -> Composed:
    """The rows of the table that the arbitrating index covers, with their key parts; `etl_present` is never NULL."""
    extra = ours(target, ", ctid AS etl_place, xmin, xmax") if system_columns else SQL("")
    only = SQL("" if target.is_partitioned else "ONLY ")  # rows of inheriting tables are beyond the reach of the index
    present = ours(target, "SELECT *, {}, tableoid AS etl_present{} FROM {}{}").format(
        key_items(target), extra, only, table(target)
    )
    if target.arbiter.predicate:
        present += SQL(" WHERE {}").format(SQL(target.arbiter.predicate))
    return present


def latest_rows(upsert: Upsert, source: Composable) -> Composed:
    """The staged rows with their key parts, of those with equal keys only the one that wins."""
    if upsert.marks:
        unmarked = latest_rows(replace(upsert, marks={}), source)
        return SQL("SELECT *{} FROM ({}) AS latest").format(marks_of(upsert), unmarked)
    if upsert.several_files:
        return ours(upsert.target, "SELECT * FROM ({}) AS placed WHERE etl_wins").format(file_winners(upsert, source))
    staged = staged_rows(upsert, source)
    if upsert.unique:
        return staged
    keys = SQL(", ").join(key_aliases(upsert.target))
    return SQL("SELECT DISTINCT ON ({keys}) * FROM ({staged}) AS staged ORDER BY {keys}, {order}").format(
        keys=keys, staged=staged, order=SQL(", ").join(_best_first(upsert))
    )


def marks_of(upsert: Upsert) -> Composed:
    """What the columns get that no file has, as further items of a SELECT over staged rows."""
    marks = [SQL(", {} AS {}").format(mark, Identifier(name)) for name, mark in upsert.marks.items()]
    return SQL("").join(marks)


def staged_rows(upsert: Upsert, source: Composable) -> Composed:
    """The staged rows with their key parts, and `etl_row`, their order in their file."""
    return ours(upsert.target, "SELECT etl_file, {}{}, {}, ctid AS etl_row FROM {}").format(
        _gone(upsert), names(upsert.layout.columns), key_items(upsert.target), source
    )


def _gone(upsert: Upsert) -> SQL:
    return ours(upsert.target, "etl_gone, " if upsert.write.delete else "")


def _best_first(upsert: Upsert) -> list[Composable]:
    """In which order the rows of one file compete for a key: the last, the first for `ignore`, the greatest `order_by`."""
    if upsert.action is ConflictAction.IGNORE:
        return [ours(upsert.target, "etl_row")]
    greatest = [SQL("{} DESC NULLS LAST").format(Identifier(upsert.order_by))] if upsert.order_by else []
    return [*greatest, ours(upsert.target, "etl_row DESC")]


def file_winners(upsert: Upsert, source: Composable) -> Composed:
    """The staged rows; `etl_in_file` marks the winner of its key in its file, `etl_wins` that of all files.

    The winner takes over the key as the first of the files spells it: loaded one by one, that file would have inserted
    the key, and ON CONFLICT never rewrites it. One sort, by file and then the best first, serves all of it: a file's
    winner is the first row behind another file's, that of all is the one of the last file, unless `order_by` competes
    across files.
    """
    keys = SQL(", ").join(key_aliases(upsert.target))
    in_file = ours(upsert.target, "(lag(etl_file) OVER by_file IS DISTINCT FROM etl_file)")
    wins: Composable = ours(upsert.target, "(last_value(etl_file) OVER by_file = etl_file AND {})").format(in_file)
    if upsert.action is ConflictAction.IGNORE:
        wins = ours(upsert.target, "(lag(etl_file) OVER by_file IS NULL)")
    elif upsert.order_by:
        best = ours(upsert.target, "{} DESC NULLS LAST, etl_file DESC, etl_row DESC").format(
            Identifier(upsert.order_by)
        )
        wins = SQL("(row_number() OVER (PARTITION BY {} ORDER BY {}) = 1)").format(keys, best)
    return ours(upsert.target,
        "SELECT etl_file, {gone}{values}{spelled}{keys}, etl_row, {in_file} AS etl_in_file, {wins} AS etl_wins "
        "FROM ({staged}) AS staged WINDOW by_file AS (PARTITION BY {keys} ORDER BY etl_file, {best_first} "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
    ).format(
        in_file=in_file, gone=_gone(upsert),
        values=SQL("").join(
            SQL("{}, ").format(Identifier(name)) for name in upsert.layout.columns if name not in upsert.target.key
        ),
        spelled=SQL("").join(
            SQL("first_value({0}) OVER by_file AS {0}, ").format(Identifier(name))
            for name in upsert.layout.columns
            if name in upsert.target.key
        ),
        keys=keys, wins=wins, best_first=SQL(", ").join(_best_first(upsert)), staged=staged_rows(upsert, source),
    )  # fmt: skip


_INSERTED = "(SELECT count(*) FILTER (WHERE etl_inserted) FROM written)"
# RETURNING knows no `xmax` in a partitioned table ("cannot retrieve a system column in this context").
_NEW_AND_WRITTEN = "(SELECT least(count(*) FILTER (WHERE etl_new), (SELECT count(*) FROM written)) FROM judged)"


def merge_statement(upsert: Upsert, source: Composable) -> Composed:
    """Compose the upsert of the staged rows.

    It returns a row per file: (etl_file, rows, new, unchanged, stale, and of all files: inserted, written).
    """
    target = upsert.target
    resolution: Composable = SQL("DO NOTHING")
    if not upsert.keeps_present:
        assignments = upsert.assignments("excluded", "etl_target")
        wanted: Composable = SQL("true")
        if upsert.action is ConflictAction.NEWER and upsert.order_by:
            stale = _older_row(upsert, "excluded", "etl_target")
            wanted = SQL("NOT {}").format(stale)
        resolution = SQL("DO UPDATE SET {} WHERE {}").format(assignments, guarded(upsert.rivals, wanted))
    return ours(upsert.target,
        "WITH {judged}{kept}, written AS (INSERT INTO {table} AS etl_target ({columns}){overriding} SELECT {columns} FROM judged "
        "WHERE etl_new OR etl_differs ORDER BY {order} "
        "ON CONFLICT {arbiter} {resolution} RETURNING {is_inserted} AS etl_inserted) "
        "SELECT etl_file, count(*), count(*) FILTER (WHERE etl_new), "
        "count(*) FILTER (WHERE NOT etl_new AND NOT etl_stale AND NOT etl_differs), count(*) FILTER (WHERE etl_stale), "
        "{inserted}, (SELECT count(*) FROM written) FROM judged GROUP BY etl_file"
    ).format(
        is_inserted=SQL("NULL::bool" if target.is_partitioned else "(etl_target.xmax = 0)"),
        inserted=ours(target, _NEW_AND_WRITTEN if target.is_partitioned else _INSERTED),
        judged=compose_judged(upsert, source),
        kept=SQL(", kept AS ({})").format(_kept(upsert)) if upsert.undoable else SQL(""),
        table=table(target), columns=names(upsert.inserted),
        overriding=overriding(upsert), order=writing_order(upsert),
        arbiter=arbiter_of(target), resolution=resolution,
    )  # fmt: skip


def writing_order(upsert: Upsert, qualifier: str | None = None) -> Composable:
    """In which order the staged rows are written."""
    items = [own_column(upsert.target, "etl_row")] if upsert.is_in_file_order else key_aliases(upsert.target)
    return SQL(", ").join(Identifier(qualifier, *item.strings) if qualifier else item for item in items)


def arbiter_of(target: TargetTable) -> Composed:
    """What follows ON CONFLICT: the key parts of the arbitrating index, and its predicate."""
    # As pg_get_indexdef spells them: in parentheses a column with a collation would be an expression, and match no index.
    arbiter = SQL("({})").format(SQL(", ").join(map(SQL, target.arbiter.expressions)))
    return arbiter + SQL(" WHERE {}").format(SQL(target.arbiter.predicate)) if target.arbiter.predicate else arbiter


def overriding(upsert: Upsert) -> SQL:
    """Values for a GENERATED ALWAYS identity column must be overridden explicitly."""
    always = any(column.identity == "a" and column.name in upsert.layout.columns for column in upsert.target.columns)
    return SQL(" OVERRIDING SYSTEM VALUE") if always else SQL("")


def update_only_statement(upsert: Upsert, source: Composable) -> Composed:
    """Compose the update of the rows that are there; the others are not inserted.

    It returns a row per file: (etl_file, rows, absent, unchanged, stale, updated). A row that another session makes newer
    before it can be updated is left as it is.
    """
    target = upsert.target
    update: Composable = SQL("SELECT NULL::int AS etl_file WHERE false")
    if upsert.values:
        wanted: Composable = SQL("true")
        if upsert.action is ConflictAction.NEWER and upsert.order_by:
            wanted = SQL("NOT {}").format(_older_row(upsert, "judged", "etl_target"))
        parts = [SQL("etl_target.{}").format(SQL(part)) for part in target.arbiter.expressions]
        update = ours(target,
            "UPDATE {}{} AS etl_target SET {} FROM judged WHERE etl_differs AND {} AND {} RETURNING judged.etl_file"
        ).format(
            SQL("" if target.is_partitioned else "ONLY "), table(target), upsert.assignments("judged", "etl_target"),
            equal_keys(target, parts, "judged"), wanted,
        )  # fmt: skip
    return ours(target,
        "WITH {judged}, written AS ({update}) SELECT etl_file, count(*), count(*) FILTER (WHERE etl_new), "
        "count(*) FILTER (WHERE NOT etl_new AND NOT etl_stale AND NOT etl_differs), count(*) FILTER (WHERE etl_stale), "
        "(SELECT count(*) FROM written WHERE written.etl_file = judged.etl_file) FROM judged GROUP BY etl_file"
    ).format(judged=compose_judged(upsert, source), update=update)  # fmt: skip


def may_be_dropped(target: TargetTable) -> bool:
    """Whether a trigger or a policy may leave out, without an error, a row that is to be updated or deleted."""
    return any(hazard.kind in (HazardKind.ROW_TRIGGER, HazardKind.ROW_SECURITY) for hazard in target.hazards)


def update_only(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, Merged]:
    """Run `update_only_statement`; return what happened to the staged rows, by file position."""
    if upsert.undoable:
        _keep(cursor, upsert, source)
    cursor.execute(update_only_statement(replace(upsert, undoable=False), source))
    merged = {}
    for file, rows, new, same, stale, written in cursor.fetchall():
        updated = rows - new - same - stale
        # Another session has made it newer, or deleted it; what a trigger or a policy has kept from us stays a gap.
        lost = 0 if may_be_dropped(upsert.target) else updated - written
        is_newer = upsert.action is ConflictAction.NEWER
        merged[file] = Merged(
            rows, updated=written, unchanged=same, stale=stale + lost * is_newer, absent=new + lost * (not is_newer)
        )
    return merged


def _keep(cursor: Any, upsert: Upsert, source: Composable) -> None:
    with printing(cursor):
        cursor.execute(SQL("WITH {} {}").format(compose_judged(upsert, source), _kept(upsert)))


def _kept(upsert: Upsert) -> Composable:
    """Keep the rows about to be overwritten, of the CTE `judged`, as text, with the transaction that wrote them.

    Its snapshot is that of the upsert; where another session changes one of these rows in between, REPEATABLE READ
    makes the upsert fail with 40001 rather than overwrite what was not kept. A row of this very transaction is no
    earlier state.
    """
    return ours(
        upsert.target,
        "INSERT INTO etl_toolkit.before_images (version, image) SELECT etl_before.xmin, (etl_before.*)::text "
        "FROM judged JOIN {} AS etl_before ON etl_before.ctid = etl_place AND etl_before.tableoid = etl_present "
        "WHERE etl_differs AND etl_before.xmin <> pg_catalog.pg_current_xact_id()::xid",
    ).format(table(upsert.target))


def _may_print(upsert: Upsert) -> bool:
    """Whether writing a row may call what prints values: a trigger, a default, a generated column."""
    target = upsert.target
    return bool(target.hazards) or any(
        column.expression is not None and column.name not in upsert.layout.columns for column in target.columns
    )


def forecast(cursor: Any, upsert: Upsert) -> tuple[int, int, int]:
    """Return how many of the staged rows are new, differ from their row in the table, and are unchanged or stale."""
    cursor.execute(
        ours(
            upsert.target,
            "WITH {} SELECT count(*) FILTER (WHERE etl_new), count(*) FILTER (WHERE etl_differs), "
            "count(*) FILTER (WHERE NOT etl_new AND NOT etl_differs) FROM judged",
        ).format(compose_judged(upsert, staging_table()))
    )
    new, differing, same = cursor.fetchone()
    return int(new), int(differing), int(same)


def judge(cursor: Any, upsert: Upsert, source: Composable) -> dict[int, Merged]:
    """Run `merge_statement`; return what happened to the staged rows, by file position."""
    if upsert.undoable and _may_print(upsert):  # that must not see the settings under which rows are kept as text
        _keep(cursor, upsert, source)
        upsert = replace(upsert, undoable=False)
    with printing(cursor) if upsert.undoable else nullcontext():
        cursor.execute(merge_statement(upsert, source))
        found = cursor.fetchall()
    if not found:
        return {}
    inserted, written = found[0][5], found[0][6]
    verdicts = {
        file: Merged(rows, new, rows - new - same - stale, same, stale) for file, rows, new, same, stale, *_ in found
    }
    keeps_present = upsert.keeps_present or upsert.action is ConflictAction.NEWER
    return _settle(verdicts, inserted, written - inserted, keeps_present=keeps_present)


def _settle(verdicts: dict[int, Merged], inserted: int, updated: int, *, keeps_present: bool) -> dict[int, Merged]:
    """Bring the verdicts of the join in line with what was written.

    They differ only where another session wrote one of our keys between the two: such a row was new and is now updated
    or, where the present row is kept, unchanged. A row that a trigger dropped stays a gap, which fails the load.
    """
    lost = sum(item.inserted for item in verdicts.values()) - inserted
    gained = updated - sum(item.updated for item in verdicts.values())
    settled = {}
    for file, item in verdicts.items():
        moved = min(max(lost, 0), item.inserted)
        lost -= moved
        to_updated = min(max(gained, 0), moved)
        gained -= to_updated
        kept = moved - to_updated if keeps_present else 0
        settled[file] = replace(
            item, inserted=item.inserted - moved, updated=item.updated + to_updated, unchanged=item.unchanged + kept
        )
    return settled


def key_items(target: TargetTable) -> Composed:
    """The values of the arbitrating index's key parts as items of a SELECT over the table's columns."""
    parts = zip(target.arbiter.expressions, key_aliases(target), strict=True)
    return SQL(", ").join(SQL("{} AS {}").format(SQL(expression), alias) for expression, alias in parts)


def match_keys(target: TargetTable, left: str, right: str) -> Composed:
    """A condition on two relations with `key_items`: their keys are the same to the index.

    By the operators of the index: another one may be found by name, if the schema of the type is not on the search path.
    Records are compared by those of their types as well, and NULLs in them are equal.
    """
    return equal_keys(target, [Identifier(left, *alias.strings) for alias in key_aliases(target)], right)


def equal_keys(target: TargetTable, parts: Sequence[Composable], right: str) -> Composed:
    """The same of the parts of a key and of a relation with `key_items`."""
    equal = SQL(
        "ROW({0})::record OPERATOR(pg_catalog.=) ROW({2})::record"
        if target.arbiter.nulls_not_distinct
        else "{0} {1} {2}"
    )
    return SQL(" AND ").join(
        equal.format(part, SQL(operator), Identifier(right, *alias.strings))
        for part, alias, operator in zip(parts, key_aliases(target), target.arbiter.equality, strict=True)
    )


def key_aliases(target: TargetTable) -> list[Identifier]:
    """Names for the values of the arbitrating index's key parts."""
    return [own_column(target, f"etl_k{number}") for number in range(len(target.arbiter.expressions))]


def older(upsert: Upsert, left: Composable, right: Composable) -> Composed:
    """Of two values of the order column, the left one is less than the right one, with NULL below every value."""
    assert upsert.order_by is not None
    # An operator of another schema may not be on the search path; within records, values are compared by their type's own.
    kind = upsert.target.column(upsert.order_by).base_type
    is_own = "." in kind or kind == "domain"
    less = "pg_catalog.btrecordcmp(ROW({left}), ROW({right})) < 0" if is_own else "{left} < {right}"
    return SQL("(" + less + " OR ({left} IS NULL AND {right} IS NOT NULL)) IS TRUE").format(left=left, right=right)


def _older_row(upsert: Upsert, left: str, right: str) -> Composed:
    return older(upsert, *(Identifier(relation, upsert.order_by or "") for relation in (left, right)))


def names(columns: Sequence[str], qualifier: str | None = None) -> Composed:
    """Column names, quoted, as a list for SQL."""
    return SQL(", ").join(Identifier(qualifier, name) if qualifier else Identifier(name) for name in columns)


def count_keys(cursor: Any, target: TargetTable, source: Composable) -> dict[int, tuple[int, int]]:
    """Return rows and distinct keys of each file, by position, under the arbitrating index's own equality."""
    keys = SQL(", ").join(SQL(expression) for expression in target.arbiter.expressions)
    cursor.execute(
        ours(
            target,
            "SELECT etl_file, sum(n)::bigint, count(*) FROM (SELECT etl_file, count(*) AS n FROM {} GROUP BY etl_file, {}) "
            "AS by_key GROUP BY etl_file",
        ).format(source, keys)
    )
    return {file: (int(rows), int(distinct)) for file, rows, distinct in cursor.fetchall()}
