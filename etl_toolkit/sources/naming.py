"""What the columns of a file are called in the table: a normal form, other names, and which of them are loaded."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from etl_toolkit.errors import SourceError, UnknownColumnError
from etl_toolkit.hints import did_you_mean
from etl_toolkit.model import LEFT_OUT, ReadOptions, SourceFile
from etl_toolkit.sources.inputs import escape_name

NAME_BYTES = 63  # of a name in PostgreSQL
_SIGNS = str.maketrans({"#": " number ", "%": " percent ", "&": " and "})
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def name_columns(file: SourceFile, options: ReadOptions) -> SourceFile:
    """The file with its columns named as `names`, `rename` and `columns` say; a column that is not chosen is left out.

    Raises SourceError where two columns get the same name.
    """
    if options.names == "exact" and not options.rename and not options.columns:
        return file
    own, named = file.columns, _new_names(file.columns, options)
    for number, name in enumerate(named):
        if name in named[:number]:
            raise SourceError(
                f"{escape_name(file.name)}: columns {own[named.index(name)]!r} and {own[number]!r} are both named {name!r}; "
                "rename one of them"
            )
    if options.columns:
        chosen = chosen_columns(own, options)
        named = tuple(
            name if before in chosen else f"{LEFT_OUT}{number}_{name}"
            for number, (before, name) in enumerate(zip(own, named, strict=True))
        )
    return replace(file, columns=named, source_columns=own)


def chosen_columns(own: Sequence[str], options: ReadOptions) -> frozenset[str]:
    """Those of a file's columns that `columns` chooses, by their names in the file."""
    chosen = {name.casefold() for name in options.columns}
    named = zip(own, _new_names(own, options), strict=True)
    return frozenset(before for before, name in named if name.casefold() in chosen)


def in_chosen_order(names: Iterable[str], options: ReadOptions) -> list[str]:
    """The names in the order in which the options choose them, others behind."""
    order = [name.casefold() for name in options.columns]
    return sorted(names, key=lambda name: order.index(name.casefold()) if name.casefold() in order else len(order))


def _new_names(own: Sequence[str], options: ReadOptions) -> tuple[str, ...]:
    named = snake_names(own) if options.names == "snake" else own
    return _renamed(own, named, options.rename or {})


def snake_names(names: Sequence[str]) -> tuple[str, ...]:
    """The normal form of all names of a header: `Order #` is `order_number`, an empty one `column_3`, a second `id` `id_2`.

    No name is longer than PostgreSQL takes.
    """
    found: list[str] = []
    for number, name in enumerate(names, start=1):
        base = snake_name(name) or f"column_{number}"
        candidates = (_cut(base, f"_{count}" if count > 1 else "") for count in range(1, len(names) + 2))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return tuple(found)


def are_names(names: Sequence[str]) -> bool:
    """Whether a table can have columns of these names."""
    return all(0 < len(name.encode()) <= NAME_BYTES for name in names) and len(set(names)) == len(names)


def snake_name(name: str) -> str:
    """Lower case, with `_` for whatever is neither letter nor digit, and between the words of `orderId`."""
    text = _HUMP.sub("_", unicodedata.normalize("NFKC", name).translate(_SIGNS))
    return re.sub(r"[\W_]+", "_", text.lower()).strip("_")


def _cut(name: str, end: str) -> str:
    return name.encode()[: NAME_BYTES - len(end)].decode(errors="ignore") + end


def _renamed(own: Sequence[str], named: Sequence[str], renames: Mapping[str, str]) -> tuple[str, ...]:
    """The names, with those replaced that `renames` has: as in the file, in their normal form, or in another case."""
    folded = {name.casefold(): new for name, new in renames.items()}
    return tuple(
        renames.get(before, renames.get(name, folded.get(before.casefold(), folded.get(name.casefold(), name))))
        for before, name in zip(own, named, strict=True)
    )


def check_names(files: Sequence[SourceFile], options: ReadOptions) -> None:
    """Raise UnknownColumnError for a column that an option names and no file has."""
    normal = snake_names if options.names == "snake" else tuple
    known = dict.fromkeys(
        name for file in files for name in (*file.own_columns, *normal(file.own_columns), *file.carried) if name
    )
    folded = {name.casefold() for name in known}
    for option, name in _named_in(options):
        if name.casefold() not in folded:
            listed = ", ".join(known)
            raise UnknownColumnError(
                f"{option}: no file has a column {name!r}{did_you_mean(name, known)}; there are {listed}"
            )


def _named_in(options: ReadOptions) -> Iterator[tuple[str, str]]:
    yield from (("rename", name) for name in options.rename or {})
    yield from (("columns", name) for name in options.columns)
    for option, value in (("null", options.null), ("date_format", options.date_format)):
        if isinstance(value, Mapping):
            yield from ((option, name) for name in value if name != "*")
