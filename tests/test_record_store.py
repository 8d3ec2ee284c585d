"""The record store: every record is found by its place, and a load ends alike whether they are in memory or in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from etl_toolkit import ParallelConfig, ingest
from etl_toolkit.errors import SourceError
from etl_toolkit.keys import KEY_TYPES
from etl_toolkit.model import Layout, ReadOptions
from etl_toolkit.plan import lanes
from etl_toolkit.scan import scan
from etl_toolkit.sources import RecordStore, resolve, rooms, space, store
from etl_toolkit.strategies import compare
from etl_toolkit.workspace import Workspace, open_workspace
from tests.loads import CONFIG, load_as_expected
from tests.oracle import Format, Oracle, Rows, write

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0\x1f', exclude_categories=["Cs"]), max_size=20)
FILES = st.lists(st.lists(st.tuples(TEXTS, TEXTS), max_size=12), min_size=1, max_size=3)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few lines, and Arrow buffers that a line easily reaches beyond."""
    monkeypatch.setattr(store, "LINES_AT_ONCE", 200)
    monkeypatch.setattr(store, "QUOTED_AT_ONCE", 200)
    monkeypatch.setattr(store, "BUFFER_BITS", 6)
    monkeypatch.setattr(store, "PIECE_BYTES", 100)
    monkeypatch.setattr(space, "MAPPED_BYTES", 100)
    monkeypatch.setattr(rooms, "STREAM_BYTES", 200)


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=FILES, has_header=st.booleans(), is_ended=st.booleans(), is_file=st.booleans())
@example(
    contents=[[("", "")], [], [("x" * 11, "")]], has_header=True, is_ended=False, is_file=False
)  # a short line's limit
@example(contents=[[("x" * 10, "y")], [("é" * 20, "ü" * 20)]], has_header=False, is_ended=False, is_file=True)
def test_every_line_is_found_by_its_place(
    tmp_path: Path, contents: list[list[tuple[str, str]]], has_header: bool, is_ended: bool, is_file: bool
) -> None:
    lines = [[f"{left},{right}" for left, right in rows] for rows in contents]
    paths = []
    for number, rows in enumerate(lines):
        paths.append(tmp_path / f"{number}.csv")
        text = "\n".join([f"a{number},b"] * has_header + [*rows, f"{number},last"])
        paths[-1].write_bytes((text + "\n" * is_ended).encode())
        rows.append(f"{number},last")

    with open_workspace(ParallelConfig(), threads=1) as workspace:
        options = ReadOptions(delimiter=",", headers=None if has_header else ("the left one", "the right one"))
        files = resolve(paths, options, workspace).files
        assert workspace.record_bytes >= sum(path.stat().st_size for path in paths)
        holder = RecordStore([[file] for file in files], file=workspace.open_file() if is_file else None)
        read = [holder.lines(file.position).read_all() for file in files]
        places = pa.chunked_array([chunk for table in read for chunk in table["place"].chunks], pa.int64())

    assert [table["line"].to_pylist() for table in read] == lines
    assert places.to_pylist() == sorted(places.to_pylist())
    backwards = pa.array(places.to_pylist()[::-1], pa.int64())
    expected = [line for rows in lines for line in rows][::-1]
    pieces = [piece.to_pylist() for piece in holder.lines_at(backwards)]
    assert [line for piece in pieces for line in piece] == [f"{line}\n" for line in expected]
    assert all(len(piece) == 1 or sum(map(len, piece)) <= 200 for piece in pieces)
    rows = pa.table({"n": range(len(expected)), "place": backwards})
    found = holder.with_records(rows.to_reader()).read_all()
    assert found.to_pylist() == [{"n": number, "record": line} for number, line in enumerate(expected)]


@pytest.mark.parametrize(
    "has_quotes", [(False, True, False), (True, False, False)], ids=["plain first", "quoted first"]
)
def test_plain_and_quoted_files_that_share_a_stream_keep_their_keys(
    tmp_path: Path, has_quotes: tuple[bool, ...]
) -> None:
    """Control: with the expressions of a plain file, a quoted record has the part behind its first comma for a key."""
    paths = [tmp_path / f"{number}.csv" for number in range(len(has_quotes))]
    for number, (path, is_quoted) in enumerate(zip(paths, has_quotes, strict=True)):
        path.write_text(f'v,k\n"a, 1","{number}, 1"\n' if is_quoted else f"v,k\na 1,{number} 1\n")
    with open_workspace(ParallelConfig(), threads=1) as workspace:
        files = resolve(paths, ReadOptions(), workspace).files
        scanned = scan(files, ["k"], workspace, key_types=[KEY_TYPES["text"]], layout=Layout(("v", "k")))
        found = workspace.query("SELECT file, k0 FROM rows ORDER BY file")
    assert scanned.store is not None
    assert len(scanned.store.streams) == 1
    assert found == [(number, f"{number}{',' * is_quoted} 1") for number, is_quoted in enumerate(has_quotes)]


# --- quotes --------------------------------------------------------------------------------------------------------------

CELLS = st.text(st.sampled_from('a1é ,;"\n\r\x1f\\.'), max_size=6)
FORMS = st.sampled_from(["", "quoted", "null"])
QUOTED_FILES = st.lists(
    st.lists(st.tuples(CELLS, FORMS, CELLS, FORMS, CELLS, FORMS), min_size=1, max_size=12), min_size=1, max_size=3
)


def spelled(text: str, form: str, delimiter: str, *, is_tight: bool) -> str:
    """A field of a file: NULL, quoted though it need not be, or as it must be (`is_tight`: always)."""
    if form == "null":
        return ""
    has_to_be = text == "" or bool(set(text) & {delimiter, '"', "\n", "\r"})
    if has_to_be or (form == "quoted" and not is_tight):
        return '"' + text.replace('"', '""') + '"'
    return text


@pytest.mark.usefixtures("small_pieces")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=QUOTED_FILES, delimiter=st.sampled_from(",;|"), is_ended=st.booleans(), end=st.sampled_from(["\n", "\r\n"])
)
@example(contents=[[("a", "quoted", "", "quoted", 'b"c', "")] * 9], delimiter=",", is_ended=False, end="\n")
@example(
    contents=[[("1\n2", "", ",", "", '""', "")], [("", "null", "x", "", "\r\n", "")]],
    delimiter=",",
    is_ended=True,
    end="\r\n",
)
@example(contents=[[("\\.", "quoted", "\x1f", "", "\n\\.\n", "quoted")]], delimiter=";", is_ended=True, end="\n")
def test_quoted_records_are_stored_as_the_server_would_quote_them(
    tmp_path: Path, contents: list[list[tuple[str, ...]]], delimiter: str, is_ended: bool, end: str
) -> None:
    def record(row: tuple[str, ...], *, is_tight: bool) -> str:
        pairs = zip(row[::2], row[1::2], strict=True)
        return delimiter.join(spelled(*pair, delimiter, is_tight=is_tight) for pair in pairs)

    contents[0].append(("q", "", 'is "quoted"', "", "", ""))
    paths = []
    for number, rows in enumerate(contents):
        paths.append(tmp_path / f"{number}.csv")
        text = end.join([delimiter.join("abc"), *(record(row, is_tight=False) for row in rows)]) + end * is_ended
        paths[-1].write_bytes(text.encode())
    expected = [[record(row, is_tight=True) for row in rows] for rows in contents]
    options, key, kinds = ReadOptions(delimiter=delimiter), ["a", "b", "c"], [KEY_TYPES["text"]] * 3
    with open_workspace(ParallelConfig(), threads=1) as workspace:
        files = resolve(paths, options, workspace).files
        holder = RecordStore([[file] for file in files])
        assert [holder.lines(file.position).read_all()["line"].to_pylist() for file in files] == expected
        read = []
        for size in (workspace.record_bytes, 0):
            workspace.record_bytes = size
            scanned = scan(files, key, workspace, key_types=kinds, layout=Layout(("a", "b", "c"), delimiter))
            assert scanned.store is not None
            read.append(workspace.query("SELECT file, k0, k1, k2, doubt FROM rows ORDER BY rowid"))
            workspace.query("DROP TABLE rows")
    texts = [
        (number, *(None if form == "null" else text for text, form in zip(row[::2], row[1::2], strict=True)))
        for number, rows in enumerate(contents)
        for row in rows
    ]
    assert [row[:4] for row in read[0]] == texts
    assert read[0] == read[1]


# --- loads ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where the records of each scan were kept."""
    kept: list[str] = []
    init = RecordStore.__init__

    def note(self: RecordStore, *streams: Any, file: Any = None, **options: Any) -> None:
        kept.append("a file" if file else "memory")
        init(self, *streams, file=file, **options)

    monkeypatch.setattr(RecordStore, "__init__", note)
    return kept


@pytest.fixture
def load(database: str, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load files of (id, v, n) into `loaded`, and hold the table against the sequential oracle."""
    monkeypatch.setattr(lanes, "SMALLEST_RANGE", 10)

    def run(*contents: Rows, present: str = "", **options: Any) -> Any:
        for name in ("loaded", "expected"):
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v text, n int CHECK (n < 1000000))")
                if present:
                    cursor.execute(f"INSERT INTO {name} {present}; ANALYZE {name}")
        good = [Rows(each.columns, tuple(row for row in each.rows if row[2] != "x")) for each in contents]
        Oracle("expected", ("id",)).load(connection, good)
        return load_as_expected(database, connection, tmp_path, contents, **options)

    return run


def rows(file: int, ids: range) -> Rows:
    order = sorted(ids, key=lambda id_: id_ * (7919 + 2 * file) % 1009)
    return Rows(("id", "v", "n"), tuple((str(id_), f"{file}/{id_}", str(id_)) for id_ in order))


@pytest.mark.parametrize("place", ["memory", "a file"])
@pytest.mark.parametrize(
    "present", ["", "SELECT g, '1/' || g, g FROM generate_series(0, 299) g"], ids=["empty", "filled"]
)
@pytest.mark.usefixtures("small_pieces")
def test_a_load_ends_alike_wherever_its_records_are_kept(
    load: Any, kept_in: list[str], monkeypatch: pytest.MonkeyPatch, present: str, place: str
) -> None:
    monkeypatch.setattr(compare, "SMALLEST_LOAD", 1)
    if place == "a file":
        monkeypatch.setattr(Workspace, "reserve", lambda self, size: None)
    result = load(rows(0, range(200)), rows(1, range(100, 300)), rows(2, range(290, 330)), present=present)
    counts = result.counts
    assert (counts.inserted, counts.updated, counts.unchanged, counts.superseded_later_file) == (
        (30, 110, 190, 110) if present else (330, 0, 0, 110)
    )
    assert kept_in == [place]


def test_a_row_that_is_refused_is_reported_by_its_number(load: Any, connection: Connection, small_pieces: None) -> None:
    bad = Rows(("id", "v", "n"), (*rows(1, range(150, 400)).rows, ("1000", "bad", "x")))
    result = load(rows(0, range(200)), bad, max_rejects=1)
    assert (result.counts.rejected, result.counts.inserted) == (1, 400)
    with connection.cursor() as cursor:
        cursor.execute("SELECT file, record, line, raw FROM etl_toolkit.rejects")
        assert cursor.fetchall() == [(1, 250, 252, "1000,bad,x")]


@pytest.mark.parametrize("place", ["memory", "a file"])
@pytest.mark.parametrize("form", ["csv", "quoted"])
@pytest.mark.parametrize(
    "present", ["", "SELECT g, '1, \"' || g || E'\"\r\n', g FROM generate_series(0, 299) g"], ids=["empty", "filled"]
)
def test_quoted_files_load_alike_wherever_their_records_are_kept(
    load: Any, connection: Connection, small_pieces: None, kept_in: list[str], monkeypatch: pytest.MonkeyPatch,
    present: str, form: str, place: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(compare, "SMALLEST_LOAD", 1)
    if place == "a file":
        monkeypatch.setattr(Workspace, "reserve", lambda self, size: None)

    def quoted(file: int, ids: range, *more: tuple[str, str, str]) -> Rows:
        plain = rows(file, ids).rows
        return Rows(("id", "v", "n"), (*((id_, f'{file}, "{id_}"\r\n', n) for id_, _, n in plain), *more))

    bad = ("1000", 'bad\n"', "x")
    result = load(quoted(0, range(200)), quoted(1, range(100, 300), bad), present=present, form=form, max_rejects=1)
    counts = result.counts
    assert (counts.inserted, counts.updated, counts.unchanged, counts.rejected) == (
        (0, 100, 200, 1) if present else (300, 0, 0, 1)
    )
    assert kept_in == [place]
    with connection.cursor() as cursor:
        cursor.execute("SELECT file, record, line, raw FROM etl_toolkit.rejects")
        raw = '"1000","bad\n""","x"' if form == "quoted" else '1000,"bad\n""",x'
        assert cursor.fetchall() == [(1, 200, 402, raw)]


@pytest.fixture
def mixed_files(tmp_path: Path) -> list[Any]:
    """The rows of four files of (id, v, n) that share keys: CSV, Parquet, CSV with other columns first, and a frame."""
    contents = [rows(number, range(50 * number, 200 + 50 * number)) for number in range(4)]
    turned = Rows(("n", "v", "id"), tuple(row[::-1] for row in contents[2].rows))
    forms: list[tuple[Rows, Format]] = [
        (contents[0], "csv"), (contents[1], "parquet"), (turned, "quoted"), (contents[3], "arrow")
    ]  # fmt: skip
    return [write(content, tmp_path, str(number), form) for number, (content, form) in enumerate(forms)]


@pytest.mark.parametrize("case", ["memory", "a file", "longer than thought"])
@pytest.mark.usefixtures("small_pieces")
def test_records_that_are_spelled_anew_load_alike_wherever_they_are_kept(
    database: str, connection: Connection, mixed_files: list[Any], kept_in: list[str],
    monkeypatch: pytest.MonkeyPatch, case: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(lanes, "SMALLEST_RANGE", 10)
    if case == "a file":
        monkeypatch.setattr(Workspace, "reserve", lambda self, size: None)
    if case == "longer than thought":
        monkeypatch.setattr(rooms, "SPELLED_RATIO", 0)
        monkeypatch.setattr(rooms, "FIELD_BYTES", 0)
        monkeypatch.setattr(rooms, "SLACK_BYTES", 500)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE loaded (id int PRIMARY KEY, v text, n int)")

    result = ingest(mixed_files, "loaded", "id", database, strategy="partitioned", config=CONFIG)

    assert (result.counts.read, result.counts.inserted, result.counts.superseded_later_file) == (800, 350, 450)
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM loaded ORDER BY id")
        assert cursor.fetchall() == [(id_, f"{min(3, id_ // 50)}/{id_}", id_) for id_ in range(350)]
    assert kept_in == (["memory", "a file"] if case == "longer than thought" else [case])


@pytest.mark.parametrize(("megabytes", "is_in_memory"), [(9, True), (11, False)])
def test_records_are_kept_in_memory_where_they_leave_duckdb_half_of_the_memory(
    tmp_path: Path, megabytes: int, is_in_memory: bool
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + f"1,{'x' * 997}\n" * 1000 * megabytes)
    with open_workspace(ParallelConfig(memory_limit_bytes=20_000_000), threads=1) as workspace:
        resolve([path], ReadOptions(), workspace)
        record_bytes = path.stat().st_size + 1 if is_in_memory else 0
        assert workspace.record_bytes == record_bytes
        limit = workspace.query(
            "SELECT format_bytes(?::BIGINT) = current_setting('memory_limit')",
            [20_000_000 - (record_bytes or 2_500_000)],
        )
        assert limit == [(True,)]


@pytest.mark.parametrize("form", ["csv", "quoted", "parquet", "arrow"])
@pytest.mark.parametrize("place", ["memory", "a file"])
def test_a_record_of_megabytes_is_loaded_like_any_other(
    load: Any, kept_in: list[str], monkeypatch: pytest.MonkeyPatch, form: str, place: str
) -> None:
    if place == "a file":
        monkeypatch.setattr(Workspace, "reserve", lambda self, size: None)
    contents = [
        Rows(("id", "v", "n"), (("1", "short", "1"), ("2", str(number) * 3_000_000, "1"), ("3", "short", "1")))
        for number in range(2)
    ]
    assert load(*contents, form=form).counts.superseded_later_file == 3
    assert kept_in[0] == place


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_record_that_is_too_long_for_its_place_is_refused(
    load: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Where so many bytes are loaded at once that their places leave few bits for the sizes."""
    monkeypatch.setattr(store, "PLACE_BITS", 30)
    long = Rows(("id", "v", "n"), (("1", "v" * 40_000, "1"), ("2", "short", "2")))
    with pytest.raises(SourceError, match=r"0\.\w+: a record is too long .*; load fewer files at a time"):
        load(long, form=form)


def shrink(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


def join_lines(path: Path) -> None:
    path.write_text(path.read_text().replace("\n", " "))


@pytest.mark.parametrize("change", [shrink, join_lines, Path.unlink])
def test_a_file_that_changes_before_it_is_held_ends_the_load(
    load: Any, connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    lines = RecordStore.lines

    def changed(self: RecordStore, position: int, **options: Any) -> Any:
        change(tmp_path / "0.csv")
        return lines(self, position, **options)

    monkeypatch.setattr(RecordStore, "lines", changed)
    with pytest.raises(SourceError, match=r"0\.csv: .*was (it )?changed or removed") as error:
        load(rows(0, range(5_000)))
    assert str(tmp_path / "0.csv") in str(error.value)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM loaded")
        assert cursor.fetchone() == (0,)
