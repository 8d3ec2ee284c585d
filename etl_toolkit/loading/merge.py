"""What an upsert is made of: the rows that are staged, those that win, those that are there, and how they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace

from psycopg2.sql import SQL, Composable, Composed, Identifier

from etl_toolkit.loading.key_parts import key_aliases, key_items, match_keys, names, table
from etl_toolkit.loading.naming import ours, own_column
from etl_toolkit.loading.tripwire import Rivals
from etl_toolkit.model import ConflictAction, Layout, TargetTable, WriteOptions

PLAIN = WriteOptions()


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
    new = [upsert.value(name, right, left) for name in upsert.values]
    if upsert.write.delete:  # beside tombstones, a column of a domain is one of the domain's base type
        types = [SQL(upsert.target.column(name).type) for name in upsert.values]
        new = [SQL("({})::{}").format(value, kind) for value, kind in zip(new, types, strict=True)]
    return SQL("pg_catalog.record_image_ne(ROW({}), ROW({}))").format(names(upsert.values, left), SQL(", ").join(new))


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
