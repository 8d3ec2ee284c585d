"""Which row of each key wins, and the winners in key order: the tables `keys` and `ordered` of the workspace."""

from __future__ import annotations

from etl_toolkit.model import ConflictAction
from etl_toolkit.scan import PROVEN, KeyScan
from etl_toolkit.workspace import Workspace

MASK_BITS = 62  # bits of a BIGINT that are safe to shift into
SAMPLED = 64  # one key out of this many is checked before all of them are
KEYS_TO_A_TEXT = 10  # on average, for its rank to be worth finding


def collapse(scan_: KeyScan, workspace: Workspace, *, action: ConflictAction, is_composed: bool = False) -> None:
    """Create `keys`: (k0…, files, winner, [gone, reset]), one row per distinct key.

    `files` tells the set of files that have the key from every other set: see `file_set`. The winner, as `scan_.row_sql`
    knows it, is the last row, the first one for `ignore`, or the greatest order column with ties to the last. `gone` says
    that it is a tombstone, `reset` that it is not, but comes after one. With `is_composed` there are the `first` row of the
    key and the `number` of its rows as well, tombstones left out. Where no key appears in two rows, `keys` is a view of `rows`.
    """
    workspace.query("CREATE OR REPLACE TABLE ordered (row BIGINT)")
    if _order_unless_shared(scan_, workspace):
        workspace.query(
            f"CREATE OR REPLACE VIEW keys AS SELECT {scan_.key_sql}, {file_set(scan_)} AS files, {scan_.row_sql} AS winner"
            f"{', gone, false AS reset' if scan_.has_gone else ''} FROM rows WHERE doubt = {PROVEN}"
        )
        return
    best = "min" if action is ConflictAction.IGNORE else "max"
    row, winner, is_gone = scan_.row_sql, "{}", ""
    if scan_.has_order:
        # NULL order values rank below every other by way of a pair.
        gone = ", 'gone': gone" if scan_.has_gone else ""
        row = f"{{'present': o IS NOT NULL, 'o': o, 'row': {row}{gone}}}"
        winner, is_gone = "{}.row", "{}.gone"
    elif scan_.has_gone:  # one number of both takes a third of the time
        row, winner, is_gone = f"(({row} << 1) | gone::BIGINT)", "({} >> 1)", "({} & 1 = 1)"
    live = " FILTER (NOT gone)" if scan_.has_gone else ""
    several, found, rows = f"bit_or({file_set(scan_)})", f"{best}({row})", f"rows WHERE doubt = {PROVEN}"
    any_gone, first, number = "bool_or(gone)", f"min({scan_.row_sql}){live}", f"count(*){live}"
    if not has_masks(scan_):
        gone = f", {any_gone} AS any_gone" if scan_.has_gone else ""
        of_key = f", {first} AS first, {number} AS number" if is_composed else ""
        rows = (
            f"(SELECT {scan_.key_sql}, file, {found} AS best{gone}{of_key} FROM {rows} GROUP BY {scan_.key_sql}, file)"
        )
        several, found = f"bit_xor({file_set(scan_)})", f"{best}(best)"
        any_gone, first, number = "bool_or(any_gone)", "min(first)", "sum(number)::BIGINT"
    marks = ""
    if scan_.has_gone:  # the plan lets the server rank them if the first row is to win
        last = is_gone.format(found)
        marks = f", {last} AS gone, {'false' if scan_.has_order else f'({any_gone} AND NOT {last})'} AS reset"
    if is_composed:
        marks += f", {first} AS first, {number} AS number"
    workspace.query(
        f"CREATE OR REPLACE TABLE grouped AS SELECT {scan_.key_sql}, {several} AS files, {winner.format(found)} AS winner{marks} "
        f"FROM {rows} GROUP BY {scan_.key_sql}"
    )
    workspace.query("CREATE OR REPLACE VIEW keys AS FROM grouped")


def has_masks(scan_: KeyScan) -> bool:
    """Whether `keys.files` is a mask with a bit for each file."""
    return max(file.position for file in scan_.files) < MASK_BITS


def file_set(scan_: KeyScan) -> str:
    """What a set of the one `file` is known by: a bit, or 128 bits of a hash, which sets of several combine with XOR.

    So it takes 16 bytes a key at most, however many files there are, and nothing that DuckDB could not spill.
    """
    return "(1::BIGINT << file)" if has_masks(scan_) else "((hash(file)::UHUGEINT << 64) | hash(file, 1)::UHUGEINT)"


def put_in_order(scan_: KeyScan, workspace: Workspace) -> int:
    """Fill `ordered`: the places of the winners (row), in key order, and return how many these are.

    `collapse` may have filled it on its way. Tombstones are not among them.
    """
    if known := int(workspace.query("SELECT count(*) FROM ordered")[0][0]):
        return known
    keys, by = _sortable("(FROM keys WHERE NOT gone)" if scan_.has_gone else "keys", scan_, workspace)
    return _make("ordered", f"SELECT winner AS row FROM {keys} ORDER BY {', '.join(by)}", workspace)


def _make(table: str, query: str, workspace: Workspace) -> int:
    """Fill a table with the rows of a query, and return how many these are."""
    return int(workspace.query(f"CREATE OR REPLACE TABLE {table} AS {query}")[0][0])


def _order_unless_shared(scan_: KeyScan, workspace: Workspace) -> bool:
    """Return whether no key appears in two rows; if so, and records are stored, fill `ordered`.

    A sample of the keys reveals most loads with duplicates. Otherwise the rows are sorted and neighbours compared: that costs
    no more than counting the keys, and sorted rows can be loaded.
    """
    usable = f"SELECT {scan_.key_sql}, {scan_.row_sql} AS winner FROM rows WHERE doubt = {PROVEN}"
    sampled = f"hash({scan_.key_sql}) % {SAMPLED} = 0"
    is_sorted = scan_.store is not None and not scan_.has_gone  # tombstones are not sent
    for share in [sampled] if is_sorted else [sampled, "true"]:
        rows, keys = workspace.query(
            "SELECT coalesce(sum(n), 0), count(*) FROM "
            f"(SELECT count(*) AS n FROM ({usable}) WHERE {share} GROUP BY {scan_.key_sql})"
        )[0]
        if rows != keys:
            return False
    if not is_sorted:
        return True
    found, by = _sortable(f"({usable})", scan_, workspace)
    _make("ordered", f"SELECT winner AS row, {', '.join(by)} FROM {found} ORDER BY {', '.join(by)}", workspace)
    same = " AND ".join(f"{name} = lag({name}) OVER ()" for name in by)
    if workspace.query(f"SELECT count(*) FROM (SELECT {same} AS same FROM ordered) WHERE same")[0][0]:
        workspace.query("TRUNCATE ordered")
        return False
    return True


def _sortable(keys: str, scan_: KeyScan, workspace: Workspace) -> tuple[str, list[str]]:
    """A relation of `keys` and what to sort it by to have it in key order.

    A text that begins a key of several columns is sorted by its rank, where there are many keys to each: DuckDB sorts
    numbers several times as fast as rows with a text in them.
    """
    first, *others = scan_.key_columns
    if others:
        kind, texts, count = workspace.query(
            f"SELECT any_value(typeof({first})), approx_count_distinct({first}), count(*) FROM {keys}"
        )[0]
        if kind == "VARCHAR" and texts * KEYS_TO_A_TEXT < count:
            workspace.query(
                f"CREATE OR REPLACE TABLE ranks AS SELECT {first}, row_number() OVER (ORDER BY {first}) AS rank "
                f"FROM (SELECT DISTINCT {first} FROM {keys})"
            )
            return f"{keys} JOIN ranks USING ({first})", ["rank", *others]
    return keys, scan_.key_columns
