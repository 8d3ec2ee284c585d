"""What the texts of a column look like: type, NULL markers, decimals, dates, deletes; and which columns may be the key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from etl_toolkit.feed.sample import MARKERS, Sample

_KINDS = {
    "integer": r"[+-]?\d{1,18}",
    "number": r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
    "number with decimal comma": r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?",
    "number with thousands": r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?",
    "date": r"\d{4}-\d\d-\d\d",
    "timestamp": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*",
    "date with points": r"\d{1,2}\.\d{1,2}\.\d{4}",
    "date with slashes": r"\d{1,2}/\d{1,2}/\d{4}",
    "boolean": r"(?i:true|false|t|f|yes|no)",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _KINDS.items()}
_OPERATION = re.compile(r"(?i)_*(cdc_?)?(op|operation|action|change_?type|dml_?type|is_?deleted|deleted|delete_?flag)")
_DELETES = frozenset(("D", "DELETE", "DEL", "DELETED"))
LARGEST_KEY = 3


@dataclass(frozen=True)
class Finding:
    """What a column looks like; `markers` are texts that would be NULL, `padded` counts texts with blanks around them."""

    name: str
    kind: str
    markers: tuple[str, ...] = ()
    padded: int = 0
    empty: int = 0
    date_format: str = ""
    is_doubtful: bool = False
    deletes: tuple[str, ...] = ()


def find_out(name: str, texts: Sequence[str | None]) -> Finding:
    """Look at the texts of one column."""
    values = {text for text in texts if text}
    bare = {text.strip() for text in values} - {""}
    padded = sum(text != text.strip() for text in values)
    markers = tuple(marker for marker in MARKERS if marker in bare)
    plain = bare - set(markers)
    kind = next((kind for kind, pattern in _PATTERNS.items() if plain and all(map(pattern.fullmatch, plain))), "text")
    if kind == "number with decimal comma" and not any("," in text for text in plain):
        kind = "number"
    date_format, is_doubtful = _date_format(kind, plain)
    deletes = tuple(sorted(text for text in plain if text.upper() in _DELETES)) if _OPERATION.fullmatch(name) else ()
    return Finding(name, kind, markers, padded, list(texts).count(None), date_format, is_doubtful, deletes)


def _date_format(kind: str, texts: set[str]) -> tuple[str, bool]:
    """The format that all texts have, and whether they would fit another one as well."""
    if kind == "date with points":
        return "%d.%m.%Y", False
    if kind != "date with slashes":
        return "", False
    parts = [tuple(map(int, text.split("/")[:2])) for text in texts]
    is_day_first, is_month_first = any(a > 12 for a, _ in parts), any(b > 12 for _, b in parts)
    if is_day_first == is_month_first:
        return "", True
    return ("%d/%m/%Y" if is_day_first else "%m/%d/%Y"), False


def find_keys(samples: Sequence[Sample], columns: Sequence[str]) -> list[tuple[str, ...]]:
    """Columns, alone or together, that have a value in every row looked at, and no value twice in the same file."""
    full = [name for name in columns if all(name in each.values and None not in each.values[name] for each in samples)]
    for size in range(1, LARGEST_KEY + 1):
        found = [names for names in combinations(full[:8], size) if all(_is_unique(each, names) for each in samples)]
        if found and any(each.rows > 1 for each in samples):
            return sorted(
                found,
                key=lambda names: (not re.search(r"(?i)(^|_)(id|key|no|nr|code)$", names[0]), full.index(names[0])),
            )
    return []


def _is_unique(sample: Sample, names: tuple[str, ...]) -> bool:
    return len(set(zip(*(sample.values[name] for name in names), strict=True))) == sample.rows
