"""The DuckDB relation over a source: its key columns as text, and the CSV record that COPY reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import duckdb

from etl_toolkit.errors import SourceError
from etl_toolkit.model import LEFT_OUT, Layout, SourceFile
from etl_toolkit.sources.csv_file import LINE_SEPARATOR
from etl_toolkit.sources.inputs import escape_name
from etl_toolkit.sources.space import UNMAPPABLE
from etl_toolkit.sources.store import TOO_LONG
from etl_toolkit.sources.tombstones import UNKNOWN_MARK
from etl_toolkit.sources.typed import hides_bytes, typed_text
from etl_toolkit.sources.values import converted, is_as_in_file, is_number, nulls_of_reader
from etl_toolkit.workspace import literal

NO_ROOM = ("No space left", "File too large", "quota exceeded", "max_temp_directory_size", "Could not write file")
OUT_OF_MEMORY = "Out of Memory Error"  # also inside of other errors: of Arrow, when rows are fetched
BAD_TEXT = "Invalid string encoding found"
ORDINARY_DELIMITERS = ",;|\t"
# DuckDB types of which no value is spelled with an ordinary delimiter, a quote or a line break, nor as the empty text.
NEVER_QUOTED = (
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
    "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "DATE", "TIME", "UUID",
)  # fmt: skip
MANY_FIELDS = 16  # from which on a list of them is as fast a row as an expression for each
FIELDS_AT_ONCE = 64  # in one list, which DuckDB makes for 2,048 rows at once
ONE_PASS_COLUMNS = 32  # RE2 gives its one-pass way up where a pattern is long


class UnreadableTextError(SourceError):
    """A Parquet file, at its `position`, has text that is not UTF-8."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


def text_relation(files: Sequence[SourceFile], names: Sequence[str]) -> tuple[str, list[str]]:
    """Return a FROM item over files that are `alike`, and an expression of its text (VARCHAR, NULL for NULL) for each name.

    A column of their path comes out as that value, a name that they do not have as NULL. Rows come in file order, with the
    `file_index` of their file among these. The columns are c0, c1, … by their place, or the whole `line`: no name of the
    files' reaches DuckDB.
    """
    file = files[0]
    if file.format == "csv" and file.is_plain:
        return line_relation(files), line_texts(file, names)
    if file.format == "csv":
        relation, spelled = csv_relation(files), names_of(file)
    else:
        targets = file.target_types or ("",) * len(file.columns)
        _refuse_hidden_bytes(file, names, targets)
        relation, typed = typed_relation(files), zip(names_of(file), file.relation_types, targets, strict=True)
        spelled = [typed_text(*each, file.offsets) for each in typed]
        spelled = [
            "NULL::VARCHAR" if name.startswith(LEFT_OUT) else text  # its bytes may not be there (`object_copies`)
            for name, text in zip(file.columns, spelled, strict=True)
        ]
    return relation, _texts_of(file, spelled, names)


def _texts_of(file: SourceFile, spelled: Sequence[str], names: Sequence[str]) -> list[str]:
    constants = {name: f"{literal(text)}::VARCHAR" for name, text in file.path_values if text is not None}
    texts = constants | dict(zip(file.columns, spelled, strict=True))
    return [texts.get(name, "NULL::VARCHAR") for name in names]


def line_texts(file: SourceFile, names: Sequence[str]) -> list[str]:
    """The same expressions out of a `line` that is the record of a file, with no quotes but where they are needed."""
    delimiter = literal(file.dialect.delimiter)
    # The first as all others, three times as fast. Every record has a delimiter, for such a file has several columns.
    first = f"nullif(substr(line, 1, strpos(line, {delimiter}) - 1), '')"
    if file.is_plain:
        behind = [f"nullif(split_part(line, {delimiter}, {at + 1}), '')" for at in range(1, len(file.columns))]
    else:
        first = f"CASE WHEN starts_with(line, '\"') THEN {_unquoted(file, 0)} ELSE {first} END"
        behind = [_unquoted_or_bare(file, at) for at in range(1, min(ONE_PASS_COLUMNS, len(file.columns)))]
        behind += ["NULL::VARCHAR"] * (len(file.columns) - 1 - len(behind))  # see `is_in_reach`
    return _texts_of(file, [first, *behind], names)


def is_in_reach(file: SourceFile, name: str) -> bool:
    """Whether the text of a column can be had out of a `line`."""
    return file.is_plain or name not in file.columns[ONE_PASS_COLUMNS:]


def _unquoted_or_bare(file: SourceFile, at: int) -> str:
    bare = f'[^"{_in_pattern(file.dialect.delimiter)}]+'
    is_quoted = f"""regexp_matches(line, {literal(f'^{_before(file, at)}"')})"""
    return f"coalesce(nullif({_extract(file, at, bare)}, ''), CASE WHEN {is_quoted} THEN {_unquoted(file, at)} END)"


def _unquoted(file: SourceFile, at: int) -> str:
    quoted = f"""regexp_extract(line, {literal(f'^{_before(file, at)}"([^"]*(?:""[^"]*)*)"')}, 1)"""
    return f"""replace({quoted}, '""', '"')"""


def _extract(file: SourceFile, at: int, pattern: str) -> str:
    """What is of a pattern in a field, empty where the whole field is not."""
    end = f"(?:{_in_pattern(file.dialect.delimiter)}|$)"
    return f"regexp_extract(line, {literal(f'^{_before(file, at)}({pattern}){end}')}, 1)"


def _before(file: SourceFile, at: int) -> str:
    """A pattern of all that stands before a field. Each has one way to match, so RE2 needs one pass."""
    delimiter = _in_pattern(file.dialect.delimiter)
    field = f"[^{delimiter}]*" if file.is_plain else f'[^"{delimiter}]*(?:"[^"]*")*'
    return f"(?:{field}{delimiter}){{{at}}}" if at else ""


def _in_pattern(delimiter: str) -> str:
    return f"\\x{ord(delimiter):02x}"


def _refuse_hidden_bytes(file: SourceFile, names: Sequence[str], targets: Sequence[str]) -> None:
    for name, kind, target in zip(file.columns, file.relation_types, targets, strict=True):
        if name in names and not name.startswith(LEFT_OUT) and hides_bytes(kind, target):
            raise SourceError(
                f"{escape_name(file.name)}: column {name!r} has bytes inside of another type, and JSON has no form for them; "
                "cast them to text, or leave the column out"
            )


def extract_expression(file: SourceFile, name: str, grammar: str) -> str | None:
    """The text of a column out of a `line`, empty where it is not of the grammar; None where that is far behind in it."""
    if name not in file.columns[:ONE_PASS_COLUMNS]:
        return None
    return _extract(file, file.columns.index(name), grammar)


def names_of(file: SourceFile) -> list[str]:
    """What DuckDB calls the columns of a file."""
    return [f"c{at}" for at in range(len(file.columns))]


def typed_relation(files: Sequence[SourceFile]) -> str:
    """A relation (file_index, c0, c1, …), with their own types, over Parquet files that are alike, or over one frame."""
    if files[0].format == "frame":
        return f"(SELECT 0 AS file_index, * FROM frame_{files[0].position})"
    names = ", ".join(files[0].relation_columns)
    return f"(SELECT file_index, {', '.join(names_of(files[0]))} FROM {parquet_relation(files)} AS parquet ({names}))"


def parquet_relation(files: Sequence[SourceFile]) -> str:
    """A FROM item over Parquet files, with the columns as DuckDB names them."""
    return f"read_parquet([{_paths(files)}], hive_partitioning = false)"


def _paths(files: Sequence[SourceFile]) -> str:
    return ", ".join(literal(str(file.readable)) for file in files)


def line_relation(files: Sequence[SourceFile]) -> str:
    """A relation (file_index, line) over plain files that are alike: every line one record."""
    options = f"delim = '{LINE_SEPARATOR}', quote = '', escape = '', {_options(files)}"
    return (
        f"(SELECT file_index, line FROM read_csv([{_paths(files)}], columns = {{'line': 'VARCHAR'}}, {options}) "
        "WHERE line IS NOT NULL)"
    )


def csv_relation(files: Sequence[SourceFile]) -> str:
    """A relation (file_index, c0, c1, …) over CSV files that are alike: unquoted empty is NULL, quoted empty the empty text.

    Where the files are read with other rules for values, the texts are those that PostgreSQL reads.
    """
    names, dialect = names_of(files[0]), files[0].dialect
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    relation = (
        f"(SELECT file_index, {', '.join(names)} FROM read_csv([{_paths(files)}], columns = {{{columns}}}, "
        f"delim = {literal(dialect.delimiter)}, quote = {literal(dialect.quote)}, escape = {literal(dialect.quote)}, "
        f"{nulls_of_reader(files[0])}, {_options(files)}))"
    )
    return converted(relation, files[0], names)


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
    """Turn DuckDB's error into one line that names the file, what is wrong, and what to do.

    What DuckDB reads is known to be clean, so the remaining causes are a Parquet file that is damaged inside, a file that changed
    or went away, and a machine without memory or disk.
    """
    text, files = str(error).strip(), tuple(files)
    named = next((file for file in files if file.readable is not None and file.readable.name in text), None)
    named = named or (files[0] if len(files) == 1 else None)
    where = escape_name(named.name) if named else "reading"
    if shortage := resource_failure(error, where):
        return shortage
    if UNKNOWN_MARK in text:
        return SourceError(text.partition(": ")[2])
    for fault in (TOO_LONG, UNMAPPABLE):
        if fault in text:
            return SourceError(f"{where}: {text[text.index(fault) :].splitlines()[0]}")
    if named and BAD_TEXT in text:
        return UnreadableTextError(f"{where}: has text that is not UTF-8; write the file again", named.position)
    detail = next(iter(text.splitlines()), type(error).__name__)
    if named:
        detail = detail.replace(str(named.readable), escape_name(named.name))
    remedy = "write it again" if named and named.format == "parquet" else "was it changed or removed in the meantime?"
    return SourceError(f"{where}: cannot be read: {detail}; {remedy}")


def resource_failure(error: BaseException, where: str) -> SourceError | None:
    """What DuckDB lacks: memory, or room in its working directory; None for any other complaint."""
    if isinstance(error, duckdb.OutOfMemoryException) or OUT_OF_MEMORY in str(error):
        return SourceError(
            f"{where}: DuckDB needs more memory than it may use; raise memory_limit_bytes, or lower --jobs"
        )
    if any(sign in str(error) for sign in NO_ROOM):
        return SourceError(
            f"{where}: the working directory is full; free space, or name another place with temp_directory"
        )
    return None


def is_record(file: SourceFile, layout: Layout) -> bool:
    """Whether each record of a file, as it is, is the one that COPY reads."""
    return file.is_copyable and layout.columns == file.columns and layout.delimiter == file.dialect.delimiter


def record_expression(file: SourceFile, texts: Sequence[str], layout: Layout) -> str:
    """The CSV record that COPY reads for the columns: a plain file's line where that is already it."""
    if file.is_plain and is_record(file, layout):
        return "line"
    delimiter = layout.delimiter
    types = dict(zip(file.columns, file.relation_types, strict=False))  # a CSV file has none

    def form(field: tuple[str, str]) -> Callable[[Sequence[str], str], list[str]]:
        name, _ = field
        if _is_never_quoted(types.get(name, ""), delimiter) or _has_no_special(file, name, layout):
            return _bare
        return _numbers if is_number(file, name) and delimiter in ORDINARY_DELIMITERS else _quoted

    spelled: list[str] = []
    for spell, fields in groupby(zip(layout.columns, texts, strict=True), form):
        spelled += spell([text for _, text in fields], delimiter)
    # No text of them is NULL. As a chain of || it would be as deep as there are columns, and DuckDB takes a depth of 1,000.
    return f"concat_ws({literal(delimiter)}, {', '.join(spelled)})"


def _bare(texts: Sequence[str], _: str) -> list[str]:
    return [f"coalesce({text}, '')" for text in texts]


def _numbers(texts: Sequence[str], delimiter: str) -> list[str]:
    return [
        f"CASE WHEN ends_with({text}, ')') THEN {quoted_where_needed(text, delimiter)} ELSE coalesce({text}, '') END"
        for text in texts
    ]


def _quoted(texts: Sequence[str], delimiter: str) -> list[str]:
    """Expressions of these fields; of many texts one for each piece of a record, for DuckDB takes 2 ms to plan one for a field."""
    if len(texts) < MANY_FIELDS:
        return [quoted_where_needed(text, delimiter) for text in texts]
    field = quoted_where_needed("field", delimiter)
    pieces = [", ".join(texts[first : first + FIELDS_AT_ONCE]) for first in range(0, len(texts), FIELDS_AT_ONCE)]
    return [
        f"array_to_string(list_transform([{piece}], lambda field: {field}), {literal(delimiter)})" for piece in pieces
    ]


def has_no_quotes(file: SourceFile, layout: Layout) -> bool:
    """Whether a delimiter in a record of the file always ends a field, and none has quotes."""
    is_spelled_bare = all(_has_no_special(file, name, layout) for name in layout.columns)
    return file.is_plain and (is_record(file, layout) or is_spelled_bare)


def _has_no_special(file: SourceFile, name: str, layout: Layout) -> bool:
    """Whether no text of a column needs quotes: the file has none and delimits in the same way, and no text is a whole line."""
    is_alike = layout.delimiter == file.dialect.delimiter and len(layout.columns) > 1
    return file.is_unquoted and is_alike and is_as_in_file(file, name)


def _is_never_quoted(kind: str, delimiter: str) -> bool:
    is_list = kind.endswith("]")
    return delimiter in ORDINARY_DELIMITERS and kind.startswith(NEVER_QUOTED) and not is_list


def quoted_where_needed(text: str, delimiter: str) -> str:
    """A field of a CSV record out of an expression of its text: nothing where that is NULL."""
    special = (
        literal(delimiter),
        "'\"'",
        "chr(10)",
        "chr(13)",
    )  # to look for each takes half the time of one RE2 for all
    is_special = " OR ".join(f"contains({text}, {character})" for character in special)
    return (
        f"CASE WHEN {text} IS NULL THEN '' WHEN {text} = '' OR {text} = '\\.' OR {is_special} "
        f"""THEN '"' || replace({text}, '"', '""') || '"' ELSE {text} END"""
    )


def group_alike(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Split the files into runs of neighbours that one relation can read; every frame is on its own."""
    run: list[SourceFile] = []
    for file in files:
        if run and file.format != "frame" and _form(file) == _form(run[0]):
            run.append(file)
            continue
        if run:
            yield run
        run = [file]
    if run:
        yield run


def _form(file: SourceFile) -> tuple[object, ...]:
    # A file without quotes is written without looking for what needs them: one that has some must not be among its group.
    shape = (
        file.format,
        file.is_plain,
        file.is_unquoted,
        file.dialect,
        file.columns,
        file.path_values,
        file.target_types,
        file.offsets,
    )
    return *shape, file.relation_columns, file.relation_types, file.read
