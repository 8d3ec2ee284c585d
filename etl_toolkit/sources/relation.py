"""The DuckDB relation over a source: its key columns as text, and the CSV record that COPY reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import duckdb

from etl_toolkit.errors import SourceError
from etl_toolkit.model import Layout, SourceFile
from etl_toolkit.sources.csv_file import LINE_SEPARATOR
from etl_toolkit.sources.inputs import shown
from etl_toolkit.sources.typed import typed_text
from etl_toolkit.workspace import Workspace, literal, quoted

NO_ROOM = ("No space left", "File too large", "quota exceeded", "max_temp_directory_size", "Could not write file")
ONE_PASS_COLUMNS = 32  # RE2 gives its one-pass way up where a pattern is long


def text_relation(file: SourceFile, names: Sequence[str], workspace: Workspace) -> tuple[str, list[str]]:
    """Return a FROM item over `file`, and an expression of its text (VARCHAR, NULL for NULL) for each name.

    A column of its path comes out as that value, a name that it does not have as NULL. Rows come in file order.
    """
    constants = {name: f"{literal(text)}::VARCHAR" for name, text in file.path_values if text is not None}
    if file.format == "csv":
        relation = line_relation([file]) if file.is_plain else csv_relation(file)
        index = {name: position for position, name in enumerate(file.columns)}
        if file.is_plain:
            delimiter = literal(file.dialect.delimiter)
            texts = {name: f"nullif(split_part(line, {delimiter}, {at + 1}), '')" for name, at in index.items()}
            # The same, three times as fast. Every record has a delimiter, for a plain file has several columns.
            texts[file.columns[0]] = f"nullif(substr(line, 1, strpos(line, {delimiter}) - 1), '')"
        else:
            texts = {name: f"c{position}" for name, position in index.items()}
        return relation, [(constants | texts).get(name, "NULL::VARCHAR") for name in names]
    relation = typed_relation(file)
    kinds = typed_kinds(file, workspace)
    targets = file.target_types or ("",) * len(file.columns)
    texts = {
        name: typed_text(quoted(own), kinds[own], target, file.offsets)
        for name, own, target in zip(file.columns, file.own_columns, targets, strict=True)
    }
    return relation, [(constants | texts).get(name, "NULL::VARCHAR") for name in names]


def extract_expression(file: SourceFile, name: str, grammar: str) -> str | None:
    """The text of a plain file's column out of its `line`, empty where it is not of the grammar; None for other files."""
    if not file.is_plain or name not in file.columns[:ONE_PASS_COLUMNS]:
        return None
    delimiter = f"\\x{ord(file.dialect.delimiter):02x}"
    before = f"(?:[^{delimiter}]*{delimiter}){{{file.columns.index(name)}}}"
    return f"regexp_extract(line, {literal(f'^{before}({grammar})(?:{delimiter}|$)')}, 1)"


def typed_relation(file: SourceFile) -> str:
    """A FROM item over a Parquet file or a frame, with its own columns and types."""
    if file.format == "frame":
        return f"frame_{file.position}"
    return f"read_parquet({literal(str(file.readable))}, hive_partitioning = false)"


def typed_kinds(file: SourceFile, workspace: Workspace) -> dict[str, str]:
    """The DuckDB types of a Parquet file's or a frame's own columns."""
    return {row[0]: row[1] for row in workspace.query(f"DESCRIBE SELECT * FROM {typed_relation(file)}")}


def line_relation(files: Sequence[SourceFile]) -> str:
    """A relation (file_index, line) over plain files that are alike: every line one record."""
    names = ", ".join(literal(str(file.readable)) for file in files)
    options = f"delim = '{LINE_SEPARATOR}', quote = '', escape = '', {_options(files)}"
    return (
        f"(SELECT file_index, line FROM read_csv([{names}], columns = {{'line': 'VARCHAR'}}, {options}) "
        "WHERE line IS NOT NULL)"
    )


def csv_relation(file: SourceFile) -> str:
    """A relation (c0, c1, …) over any CSV file: unquoted empty is NULL, quoted empty the empty text."""
    columns = ", ".join(f"'c{position}': 'VARCHAR'" for position in range(len(file.columns)))
    dialect = file.dialect
    return (
        f"read_csv({literal(str(file.readable))}, columns = {{{columns}}}, delim = {literal(dialect.delimiter)}, "
        f"quote = {literal(dialect.quote)}, escape = {literal(dialect.quote)}, allow_quoted_nulls = false, {_options([file])})"
    )


def _options(files: Sequence[SourceFile]) -> str:
    """What all our CSV readers have in common. Files are clean by now, so DuckDB has nothing to find out or to forgive.

    `new_line` must be given: left to find out, DuckDB 2.0 fails on CR LF inside quotes where lines end in LF.
    """
    header = "true" if files[0].dialect.has_header else "false"
    options = (
        f"auto_detect = false, header = {header}, new_line = '\\n', strict_mode = true, null_padding = false, "
        "hive_partitioning = false, compression = 'none'"
    )
    longest = max(file.longest_record_bytes for file in files)
    # DuckDB holds a few buffers a thread: small ones keep `streaming` small, and are read as fast as its own of 32 MB.
    line_bytes = max(1 << 20, longest + 1024)
    return f"{options}, max_line_size = {line_bytes}, buffer_size = {4 * line_bytes}"


def read_failure(files: Iterable[SourceFile], error: BaseException) -> SourceError:
    """Turn DuckDB's complaint into one line that names the file, what is wrong, and what to do.

    What DuckDB reads is known to be clean, so what is left is a Parquet file that is damaged inside, a file that changed
    or went away, and a machine without memory or disk.
    """
    text = str(error).strip()
    named = next((file for file in files if file.readable is not None and file.readable.name in text), None)
    where = shown(named.name) if named else "reading"
    if shortage := resource_failure(error, where):
        return shortage
    detail = next(iter(text.splitlines()), type(error).__name__)
    if named:
        detail = detail.replace(str(named.readable), shown(named.name))
    remedy = "write it again" if named and named.format == "parquet" else "was it changed or removed meanwhile?"
    return SourceError(f"{where}: cannot be read: {detail}; {remedy}")


def resource_failure(error: BaseException, where: str) -> SourceError | None:
    """What DuckDB lacks: memory, or room in its working directory; None for any other complaint."""
    if isinstance(error, duckdb.OutOfMemoryException):
        return SourceError(
            f"{where}: DuckDB needs more memory than it may use; raise memory_limit_bytes, or lower --jobs"
        )
    if any(sign in str(error) for sign in NO_ROOM):
        return SourceError(
            f"{where}: the working directory is full; free space, or name another place with temp_directory"
        )
    return None


def is_record(file: SourceFile, layout: Layout) -> bool:
    """Whether each line of a file is the CSV record that COPY reads."""
    return file.is_plain and layout.columns == file.columns and layout.delimiter == file.dialect.delimiter


def record_expression(file: SourceFile, texts: Sequence[str], layout: Layout) -> str:
    """The CSV record that COPY reads for the columns: the line itself where that is already it."""
    if is_record(file, layout):
        return "line"
    delimiter = layout.delimiter
    special = f'[{re.escape(delimiter)}"\\r\\n]'
    spelled = [
        f"CASE WHEN {text} IS NULL THEN '' WHEN {text} = '' OR {text} = '\\.' OR regexp_matches({text}, {literal(special)}) "
        f"""THEN '"' || replace({text}, '"', '""') || '"' ELSE {text} END"""
        for text in texts
    ]
    return f" || {literal(delimiter)} || ".join(spelled)


def _shape(file: SourceFile) -> tuple[object, ...]:
    return file.columns, file.dialect, file.path_values


def alike(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Split the files into runs of neighbours that one `line_relation` can read, every other file on its own."""
    run: list[SourceFile] = []
    for file in files:
        if run and file.is_plain and run[0].is_plain and _shape(file) == _shape(run[0]):
            run.append(file)
            continue
        if run:
            yield run
        run = [file]
    if run:
        yield run
