"""Objects of a store, and files on web servers, named by URL: one, those that match a pattern, or all below a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import translate
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etl_toolkit.errors import SourceError, UnknownFileError
from etl_toolkit.model import ReadOptions
from etl_toolkit.sources.fetched import Fetched
from etl_toolkit.sources.inputs import escape_name, kind_by_name, natural_order
from etl_toolkit.sources.object_copies import copy_object
from etl_toolkit.sources.stores import (
    RETRY_SECONDS,
    WEB,
    failures_named,
    is_web,
    open_store,
    read_object,
    without_secrets,
)
from etl_toolkit.stopping import Stop

if TYPE_CHECKING:
    from obstore.store import ObjectStore

STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
TRY_SECONDS = 10.0  # for one request, where it is only tried
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_url(name: str) -> bool:
    """Whether a name is the URL of an object; `file:` and whatever else nobody opens is none."""
    match = _URL.match(name)
    return bool(match) and match["scheme"].lower() in (*WEB, *STORES)  # type: ignore[index]  # it has matched


def objects_of(url: str, file_format: str | None, *, retry_seconds: float = RETRY_SECONDS) -> list[Fetched]:
    """The objects that a URL names, in natural order: one, those that match a pattern, or all below a prefix.

    Each is copied into a file of ours, which is then looked at. Objects of a store are pinned by ETag: one that changes before
    it is read is refused. Raises SourceError where the store cannot be read, UnknownFileError where nothing is found.
    """
    shown = without_secrets(url)
    if is_web(url):
        open_store(url, retry_seconds)
        has_query = bool(urlsplit(url).query)  # a signature perhaps
        return [Fetched(shown, 0, partial(copy_object, url), is_anywhere=not has_query)]
    store, root, path = open_store(url, retry_seconds)
    with failures_named(shown):
        found = [
            (item["path"], item["size"], item["e_tag"])
            for item in _listed(store, path)
            if not _is_hidden(item["path"], path)
        ]
    if not found:
        raise UnknownFileError(f"{shown}: the store has no such object, and none matches it or is below it")
    found.sort(key=lambda item: natural_order(item[0]))
    unknown = next((name for name, *_ in found if kind_by_name(name) is None), None)
    if unknown and file_format is None:
        raise SourceError(
            f"{shown}: has objects of an unknown type ({escape_name(unknown)}); name those to load, for example "
            f"{shown.rstrip('/')}/*.csv, or give their format with --format"
        )
    return [
        Fetched(name, size, _Listed(name, size, e_tag), is_anywhere=True)
        for path, size, e_tag in found
        for name in [f"{root}/{path}"]
    ]


@dataclass(frozen=True, slots=True)
class _Listed:
    """An object as it was listed; a call copies it."""

    url: str
    size: int
    e_tag: str | None

    def __call__(self, below: Path, stop: Stop, options: ReadOptions) -> Path:
        return copy_object(self.url, below, stop, options, e_tag=self.e_tag, size=self.size)


def try_url(url: str) -> int:
    """List the objects that a URL names, read the beginning of the first one, and return how many there are; else as above."""
    found = objects_of(url, "any", retry_seconds=TRY_SECONDS)
    first = url if is_web(url) else found[0].name
    store, _, name = open_store(first, TRY_SECONDS)
    next(read_object(store, name, found[0].name), None)
    return len(found)


def _listed(store: ObjectStore, path: str) -> Iterator[Any]:
    """What a path stands for: an object, else the matches of a pattern, else all objects below a prefix."""
    import obstore

    if not path.endswith("/") and path:
        try:
            yield obstore.head(store, path)
        except FileNotFoundError:
            pass
        else:
            return
    first = re.search(r"[*?\[]", path)
    prefix = path[: path.rfind("/", 0, first.start()) + 1] if first else f"{path.rstrip('/')}/" if path else ""
    wanted = _pattern(path) if first else None
    for page in obstore.list(store, prefix.rstrip("/") or None):
        yield from (item for item in page if wanted is None or wanted.fullmatch(item["path"]))


def _pattern(path: str) -> re.Pattern[str]:
    """A pattern as the shell reads it: `*` and `?` stay within a directory, `**` does not."""
    parts = [
        r"(?:[^/]+/)*" if part == "**" else translate(part).replace(".*", "[^/]*").replace(r"\Z", "") + "/"
        for part in path.split("/")
    ]
    return re.compile("".join(parts).removesuffix("/"), re.DOTALL)


def _is_hidden(path: str, asked: str) -> bool:
    below = PurePosixPath(path).parts[len(PurePosixPath(re.split(r"[*?\[]", asked)[0]).parts) :]
    return any(part.startswith((".", "_")) for part in below)
