"""The statements of the `write` form of the upsert: a plain UPDATE, and an INSERT whose ON CONFLICT handles existing keys."""

from __future__ import annotations

from psycopg2.sql import SQL, Composable, Composed

from etl_toolkit.loading.key_parts import key_aliases, match_keys, names, table
from etl_toolkit.loading.merge import (
    Upsert,
    arbiter_of,
    differs,
    file_winners,
    latest_rows,
    marks_of,
    overriding,
    present_rows,
    writing_order,
)
from etl_toolkit.loading.naming import ours
from etl_toolkit.loading.tripwire import guarded


def update_statement(upsert: Upsert, source: Composable) -> Composed:
    """Compose the UPDATE of the rows that are there and differ. It returns none of them: that would cost it 7 %."""
    target = upsert.target
    parts = zip(target.arbiter.expressions, target.arbiter.equality, key_aliases(target), strict=True)
    found = SQL(" AND ").join(
        SQL("etl_target.{} {} latest.{}").format(SQL(part), SQL(equal), alias) for part, equal, alias in parts
    )
    return SQL(
        "UPDATE ONLY {table} AS etl_target SET {assignments} FROM (SELECT * FROM ({latest}) AS latest"
        "{in_key_order}) AS latest WHERE {found} AND {wanted}"
    ).format(
        table=table(target), latest=latest_rows(upsert, source), in_key_order=_in_key_order(upsert), found=found,
        assignments=upsert.assignments("latest", "etl_target"),
        wanted=guarded(upsert.rivals, differs(upsert, "etl_target", "latest")),
    )  # fmt: skip


def write_statement(upsert: Upsert, source: Composable, *, prefilter: bool, count_rows: bool) -> Composed:
    """Compose the upsert; it returns (inserted, written, [[file, rows staged, keys, rows that won], …] or NULL)."""
    target = upsert.target
    rows: Composable = SQL("latest")
    resolution: Composable = SQL("DO NOTHING")
    if prefilter:
        rows = ours(upsert.target, "latest LEFT JOIN ({}) AS present ON {} WHERE etl_present IS NULL OR {}").format(
            present_rows(target), match_keys(target, "present", "latest"), differs(upsert, "present", "latest")
        )
    if not upsert.keeps_present:
        assignments = upsert.assignments("excluded", "etl_target")
        wanted = guarded(upsert.rivals, differs(upsert, "etl_target", "excluded"))
        resolution = SQL("DO UPDATE SET {} WHERE {}").format(assignments, wanted)
    return ours(upsert.target,
        "WITH {latest}, written AS (INSERT INTO {table} AS etl_target ({columns}){overriding} "
        "SELECT {values} FROM {rows}{in_key_order} ON CONFLICT {arbiter} {resolution} "
        "RETURNING (etl_target.xmax = 0) AS etl_inserted) "
        "SELECT count(*) FILTER (WHERE etl_inserted), count(*), {per_file} FROM written"
    ).format(
        latest=_latest(upsert, source, count_rows=count_rows), table=table(target), columns=names(upsert.inserted),
        overriding=overriding(upsert), values=names(upsert.inserted, "latest"), rows=rows,
        in_key_order=_in_key_order(upsert),
        arbiter=arbiter_of(target), resolution=resolution,
        per_file=_rows_per_file(upsert) if count_rows else SQL("NULL::json"),
    )  # fmt: skip


def _latest(upsert: Upsert, source: Composable, *, count_rows: bool) -> Composed:
    """The CTEs that end in `latest`; what is counted as well is kept, so that it is computed once."""
    if upsert.several_files:
        return ours(
            upsert.target,
            "placed AS MATERIALIZED ({}), latest AS NOT MATERIALIZED (SELECT *{} FROM placed WHERE etl_wins)",
        ).format(file_winners(upsert, source), marks_of(upsert))
    kept = SQL("MATERIALIZED") if count_rows else SQL("NOT MATERIALIZED")
    return SQL("latest AS {} ({})").format(kept, latest_rows(upsert, source))


def _rows_per_file(upsert: Upsert) -> Composable:
    counts = ours(upsert.target, "SELECT etl_file, 0, 0, count(*) FROM latest GROUP BY etl_file")
    if upsert.several_files:
        counts = ours(
            upsert.target,
            "SELECT etl_file, count(*), count(*) FILTER (WHERE etl_in_file), count(*) FILTER (WHERE etl_wins) "
            "FROM placed GROUP BY etl_file",
        )
    return SQL("(SELECT json_agg(json_build_array(f, s, k, w)) FROM ({}) AS per_file (f, s, k, w))").format(counts)


def _in_key_order(upsert: Upsert) -> Composable:
    """Rows go in in the index's own order; those that were picked out by key come in it anyway."""
    if not upsert.is_in_file_order and (upsert.sorted or not upsert.unique):
        return SQL("")
    return SQL(" ORDER BY {}").format(writing_order(upsert, "latest"))
