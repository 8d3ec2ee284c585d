"""What files seem to be where a load reads them as something else: for the messages of a plan and of a load that fails."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from etl_toolkit.errors import EtlError
from etl_toolkit.feed.layout import FREQUENT_DELIMITERS
from etl_toolkit.feed.sample import Sample, take_sample
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources import escape_name, expand
from etl_toolkit.sources.inputs import kind_by_name

_MOST_FILES = 20  # that are looked at


def describe_seeming(files: Sequence[str], asked: ReadOptions) -> list[str]:
    """A sentence about files that seem to need options of reading which were not asked for; nothing where none does.

    Reads the beginning of some local files. Files that cannot be looked at are left out: the load complains about them.
    """
    seen: dict[str, list[str]] = {}
    for path in _local(files):
        try:
            sample = take_sample(path, _MOST_FILES)
        except EtlError:
            continue
        if found := list(_differences(sample, asked)):
            seen.setdefault(", and to ".join(found), []).append(escape_name(str(path)))
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} seems to {found}"
        for found, names in seen.items()
    ][:3]


def _local(files: Sequence[str]) -> list[Path]:
    try:
        items = expand([name for name in files if name != "-"])
    except EtlError:
        return []
    texts = [item for item in items if isinstance(item, Path) and kind_by_name(item.name) in (None, "csv")]
    return [path for path in texts if path.is_file()][:_MOST_FILES]  # a pipe is read once


def _differences(sample: Sample, asked: ReadOptions) -> Iterator[str]:
    """The options that a file seems to need, each with how sure that is."""
    layout = sample.layout
    if layout is None or asked.format not in (None, "csv"):
        return
    sure = f"({layout.describe()})"
    if layout.delimiter not in FREQUENT_DELIMITERS and asked.delimiter is None:
        yield f"need {_flag('delimiter', layout.delimiter)} {sure}"
    if layout.quote != asked.quote == '"':
        yield f"need {_flag('quote', layout.quote)} {sure}"
    if layout.escape and asked.escape is None:
        yield f"need {_flag('escape', layout.escape)} {sure}"
    if layout.skip and not asked.skip and asked.comment is None:
        yield f"need {_flag('skip', layout.skip)} {sure}"
    if not sample.has_header and not asked.headers:
        yield "need --headers with the names of its columns, because its first line looks like a row"
    if sample.header_lines > 1 and asked.header is None:
        yield f"need {_flag('header', sample.header_lines)}, because none of these lines has values as rows have them"
    if sample.footer and not (asked.footer or asked.until or asked.comment):
        yield f"need {_flag('footer', len(sample.footer))}, if its end is no row: {' / '.join(sample.footer)[:80]}"
    if sample.is_whole and sample.columns and not sample.rows and sample.has_header:
        yield "have a header and no rows"


def _flag(option: str, value: object) -> str:
    return f"--read {shlex.quote(f'{option}={value}')}"
