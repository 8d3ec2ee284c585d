"""`feed init`: look at files, and at the table if there is one, and write a feed with what was found and what is not sure."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from etl_toolkit.errors import ConfigError, SourceError
from etl_toolkit.feed.document import Feed
from etl_toolkit.feed.findings import Finding, find_keys, find_out
from etl_toolkit.feed.layout import FREQUENT_DELIMITERS, Layout
from etl_toolkit.feed.sample import Sample, in_normal_form, take_sample
from etl_toolkit.sources import expand
from etl_toolkit.sources.inputs import kind_by_name, path_values
from etl_toolkit.sources.objects import is_url
from etl_toolkit.sources.stores import without_secrets
from etl_toolkit.tables import spell_count
from etl_toolkit.target import find_table, unique_keys

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # in comments: those of values are escaped
_TOTAL = re.compile(
    r"(?i)\W*(grand )?(total|sum|summe|gesamt|end|ende|eof|rows?|records?|count|anzahl|trailer|trl|checksum)\b"
)
_TEXTUAL = ("text", "varchar", "bpchar", "citext", "name", "json", "jsonb")


def propose_feed(patterns: Sequence[str], out: Path, *, table: str | None = None, connection: Any = None) -> str:
    """Return the text of a feed at `out` for these files and this table. Reads a sample of each file, writes nothing.

    Raises SourceError for a file that cannot be looked at.
    """
    if urls := [name for name in patterns if is_url(name)]:
        raise SourceError(
            f"{without_secrets(urls[0])}: feed init looks at files of this machine; copy one here, and name the URL in "
            "[files] paths of the feed that you get"
        )
    paths = [item if isinstance(item, Path) else Path(item.name) for item in expand(patterns)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        samples = list(pool.map(partial(take_sample, files=len(paths)), paths))
    if any(sample.is_unnamed for sample in samples):
        samples = [in_normal_form(sample) for sample in samples]
    known = _read_table(connection, table) if connection is not None and table else None
    name = table or re.sub(r"\W+", "_", re.sub(r"[\d_.-]*$", "", paths[0].name.split(".")[0]) or "target").lower()
    found = _findings(samples)
    parts = (
        _head(samples, name, known),
        _files(patterns, paths, out),
        _reading(samples, found, known),
        _writing(samples, found, known),
    )
    return "\n".join(_CONTROL.sub("\ufffd", line) for part in parts for line in (*part, ""))


def write_feed(text: str, out: Path) -> Feed:
    """Write a feed, and read it back. Raises ConfigError where the file exists: nothing is overwritten."""
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{out}: exists, and is not overwritten; name another file with --out") from None
    return Feed.from_toml(out)


@dataclass(frozen=True)
class _Table:
    """Columns of the table with their types, and the columns of its unique indexes, the primary key first."""

    types: Mapping[str, str]
    keys: Sequence[tuple[str, ...]]


def _read_table(connection: Any, table: str) -> _Table | None:
    with connection.cursor() as cursor:
        oid = find_table(cursor, table)
        return None if oid is None else _Table(*unique_keys(cursor, oid))


def _columns(samples: Sequence[Sample]) -> list[str]:
    return list(dict.fromkeys(name for sample in samples for name in sample.columns))


def _findings(samples: Sequence[Sample]) -> list[Finding]:
    return [
        find_out(name, [text for sample in samples for text in sample.values.get(name, ())])
        for name in _columns(samples)
    ]


def _looked_at(samples: Sequence[Sample]) -> str:
    rows, files = sum(sample.rows for sample in samples), len(samples)
    where = spell_count(files, "file")
    return (
        f"all {rows:,} rows of {where}"
        if all(each.is_whole for each in samples)
        else f"the first {rows:,} rows of {where}"
    )


def _head(samples: Sequence[Sample], name: str, known: _Table | None) -> list[str]:
    lines = [f"# What `feed init` found in {_looked_at(samples)}; look at every line that has a question mark.", ""]
    lines.append(f"table = {_text(name)}" + ("" if known else "  # is created, see [write]"))
    columns = {*_columns(samples), *(name for sample in samples for name, _ in path_values(sample.path))}
    if known and (of_index := next((key for key in known.keys if columns >= set(key)), None)):
        return [*lines, f"key = {_list(of_index)}  # a unique index of the table"]
    found = find_keys(samples, _columns(samples))
    if not found:
        return [*lines, "# ? No columns are unique together in each file; the key must be given:", '# key = ["…"]']
    proof = f"unique in each file, and never empty, in {_looked_at(samples)}"
    doubt = "" if all(sample.is_whole for sample in samples) else " ?"
    others = [f"#{' ?' if len(found) > 1 else ''} unique as well: {_list(key)}" for key in found[1:4]]
    return [*lines, f"key = {_list(found[0])}  #{doubt} {proof}", *others]


def _files(patterns: Sequence[str], paths: Sequence[Path], out: Path) -> list[str]:
    given = [each if "://" in each else os.path.relpath(each, out.parent) for each in patterns]
    names = dict.fromkeys((paths[0].name, paths[-1].name))
    lines = [
        "[files]",
        f"paths = {_list(given)}  # {f'{len(paths)} now, in this order: ' if paths[1:] else 'now '}{' … '.join(names)}",
    ]
    if hive := dict(item for path in paths for item in path_values(path)):
        lines.append(f"# Directories give each row a value, if the table has the column: {', '.join(hive)}.")
    return lines


def _reading(samples: Sequence[Sample], found: Sequence[Finding], known: _Table | None) -> list[str]:
    lines, texts = ["[read]"], [sample for sample in samples if sample.layout]
    if unknown := sorted({sample.path.suffix for sample in samples if kind_by_name(sample.path.name) is None}):
        lines.append(f'format = "csv"  # ? {", ".join(unknown)} may be anything')
    layouts = [sample.layout for sample in texts if sample.layout]
    lines += _most_common("delimiter", [layout.delimiter for layout in layouts], layouts)
    lines += _most_common("quote", [layout.quote for layout in layouts], layouts, usual='"')
    lines += _most_common("escape", [layout.escape for layout in layouts], layouts)
    lines += _most_common("encoding", [sample.encoding for sample in texts if sample.encoding])
    lines += _most_common("skip", [layout.skip for layout in layouts], usual=0)
    if headless := next((sample for sample in texts if not sample.has_header), None):
        lines.append(
            f"headers = {_list(headless.columns)}  # ? the first line looks like a row; give the columns their names"
        )
    lines += _edges(texts)
    if unnamed := next((sample.path.name for sample in samples if sample.is_unnamed), None):
        lines.append(
            f'names = "snake"  # ? {unnamed} has columns without a name, with the same, or with one that is too long'
        )
    lines += _values([item for item in found if not known or known.types.get(item.name) not in _TEXTUAL])
    if padded := [item for item in found if item.padded]:
        doubt = "# ? " if all(item.kind == "text" for item in padded) else ""
        lines.append(f"{doubt}trim = true  # blanks around: {', '.join(item.name for item in padded)}")
    lines += ["#", "# column: looks like"] + [
        f"# {item.name}: {item.kind}{f' (table: {known.types[item.name]})' if known and item.name in known.types else ''}"
        f"{f', {item.empty:,} empty' if item.empty else ''}"
        for item in found
    ]
    return lines


def _most_common(option: str, found: Sequence[Any], layouts: Sequence[Layout] = (), *, usual: Any = None) -> list[str]:
    """The line of an option that most files need; in how many others differ, or how sure that is."""
    counted = Counter(found).most_common()
    if not counted or (value := counted[0][0]) == usual:
        return []
    doubt = "not UTF-8" if option == "encoding" else ""
    if len(counted) > 1:
        doubt = f"{len(counted)} kinds: " + ", ".join(f"{each!r} in {times}" for each, times in counted)
    elif layouts and value not in FREQUENT_DELIMITERS:
        doubt = layouts[0].describe()
    spelled = '"tab"' if value == "\t" else _text(value) if isinstance(value, str) else value
    return [f"{option} = {spelled}{f'  # ? {doubt}' if doubt else ''}"]


def _edges(texts: Sequence[Sample]) -> list[str]:
    """The lines of the headers and footers. What may be rows that are cut off is left to the user."""
    lines = []
    if (headers := {sample.header_lines for sample in texts}) - {1}:
        doubt = "" if len(headers) == 1 else "# ? not in all files: "
        lines.append(f"{doubt}header = {max(headers)}  # ? the lines below the first one have no values of rows either")
    if shown := next((sample.footer for sample in texts if sample.footer), None):
        is_sure = all(len(sample.footer) == len(shown) and _TOTAL.match(sample.footer[0]) for sample in texts)
        has_all = all(len(sample.footer) == len(shown) for sample in texts)
        where = "" if has_all else ", but not of all files"
        lines.append(f"{'' if is_sure else '# ? '}footer = {len(shown)}  # ? the end{where}: {' / '.join(shown)[:80]}")
    return lines


def _values(found: Sequence[Finding]) -> list[str]:
    lines = []
    if markers := {item.name: item.markers for item in found if item.markers and item.kind != "text"}:
        lines.append(
            "null = { " + ", ".join(f"{_key(name)} = {_list(texts)}" for name, texts in markers.items()) + " }"
        )
    lines += [
        f"# ? {item.name} has {_list(item.markers)}: NULL, or texts?"
        for item in found
        if item.markers and item.kind == "text"
    ]
    if commas := [item.name for item in found if item.kind == "number with decimal comma"]:
        lines += [f'decimal = ","  # {", ".join(commas)}', 'thousands = "."  # ? where there are any']
    elif thousands := [item.name for item in found if item.kind == "number with thousands"]:
        lines.append(f'thousands = ","  # {", ".join(thousands)}')
    if formats := {item.name: item.date_format for item in found if item.date_format}:
        lines.append(
            "date_format = { " + ", ".join(f"{_key(name)} = {_text(text)}" for name, text in formats.items()) + " }"
        )
    lines += [
        f'# ? {item.name}: day or month first? date_format = {{ {_key(item.name)} = "%d/%m/%Y" }} or "%m/%d/%Y"'
        for item in found if item.is_doubtful
    ]  # fmt: skip
    return lines


def _writing(samples: Sequence[Sample], found: Sequence[Finding], known: _Table | None) -> list[str]:
    lines = ["[write]", *([] if known else ["create_table = true"])]
    marks = [item for item in found if item.deletes]
    for item in marks:
        lines.append(f"# ? {item.name} seems to mark rows that are gone:")
        rule = f"delete = {{ column = {_text(item.name)}, values = {_list(item.deletes)} }}"
        lines.append(rule if item is marks[0] and known and item.name not in known.types else f"# {rule}")
    if known and (
        extra := [
            name for name in _columns(samples) if name not in known.types and name not in [item.name for item in marks]
        ]
    ):
        lines.append(f"# ? The table has no column {', '.join(extra)}: see extra_columns in [read]")
    return [*lines, 'loaded = "again"  # or "skip": leave out files whose content the table has taken']


def _text(text: str) -> str:
    """A text as TOML spells it, in which no variable is meant."""
    return json.dumps(text.replace("${", "$${"), ensure_ascii=False)


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _key(name: str) -> str:
    """A name as TOML spells it; no variables are replaced in names."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
