"""From what the user names to an ordered list of `SourceFile`s, and the DuckDB relation over each of them.

names, globs, frames ──► expanding ──► csv_file / json_lines / typed ──► resolving ──► relation / store
                                      │
                                      ├─ asked      what options cannot be; `naming`: what columns are called
                                      ├─ fetched    what is no file yet: `archives`, `pipes`
                                      ├─ octets     decompress, decode, hash
                                      ├─ copy_text  COPY's text format as CSV
                                      ├─ dialect    delimiter and header
                                      ├─ structure  what is clean, a block at a time
                                      ├─ records    what is not, a record at a time
                                      ├─ values     what texts mean: NULL, numbers, dates, truth
                                      ├─ exact      Arrow types that DuckDB reads exactly; cells of pandas: `cells`
                                      └─ pages      checksums of Parquet; its text that is not UTF-8: `bad_texts`
"""

from etl_toolkit.sources.bad_texts import check_texts, without_bad_texts
from etl_toolkit.sources.csv_file import LINE_SEPARATOR
from etl_toolkit.sources.cuts import Cut
from etl_toolkit.sources.dialect import BLANKS
from etl_toolkit.sources.expanding import expand, is_there, name_for_hosts, try_source
from etl_toolkit.sources.fetched import Fetched
from etl_toolkit.sources.inputs import escape_name, partition_of, path_values
from etl_toolkit.sources.located import locate, number_in_file, ordinals
from etl_toolkit.sources.naming import in_chosen_order
from etl_toolkit.sources.reading_words import reading_in_words
from etl_toolkit.sources.reject_limit import NAMED, is_enough, too_many_rejects
from etl_toolkit.sources.relation import (
    UnreadableTextError,
    csv_relation,
    extract_expression,
    group_alike,
    has_no_quotes,
    is_in_reach,
    is_record,
    line_texts,
    names_of,
    quoted_where_needed,
    read_failure,
    record_expression,
    resource_failure,
    text_relation,
    typed_relation,
)
from etl_toolkit.sources.resolving import check_unchanged, leave_out_taken, read_once, resolve
from etl_toolkit.sources.rooms import records_bytes, split_streams
from etl_toolkit.sources.store import GUESSED_AGAIN, RecordStore
from etl_toolkit.sources.tombstones import tombstone_expression
from etl_toolkit.sources.zones import with_offsets

__all__ = [
    "BLANKS",
    "GUESSED_AGAIN",
    "LINE_SEPARATOR",
    "NAMED",
    "Cut",
    "Fetched",
    "RecordStore",
    "UnreadableTextError",
    "check_texts",
    "check_unchanged",
    "csv_relation",
    "escape_name",
    "expand",
    "extract_expression",
    "group_alike",
    "has_no_quotes",
    "in_chosen_order",
    "is_enough",
    "is_in_reach",
    "is_record",
    "is_there",
    "leave_out_taken",
    "line_texts",
    "locate",
    "name_for_hosts",
    "names_of",
    "number_in_file",
    "ordinals",
    "partition_of",
    "path_values",
    "quoted_where_needed",
    "read_failure",
    "read_once",
    "reading_in_words",
    "record_expression",
    "records_bytes",
    "resolve",
    "resource_failure",
    "split_streams",
    "text_relation",
    "tombstone_expression",
    "too_many_rejects",
    "try_source",
    "typed_relation",
    "with_offsets",
    "without_bad_texts",
]
