"""Objects of a store, and files on web servers, named by URL: each is copied into a file of ours, which is then looked at.

obstore lists and reads them. Its errors contain whole URLs, with passwords and signatures, so none of their text is shown, and an
object is named without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import translate
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from etl_toolkit.errors import SourceError, UnknownFileError, UsageError
from etl_toolkit.sources.fetched import Fetched, room_wanted
from etl_toolkit.sources.inputs import escape_name, kind_by_name, natural_order
from etl_toolkit.sources.structure import BLOCK_BYTES
from etl_toolkit.stopping import Stop

if TYPE_CHECKING:
    from obstore.store import ObjectStore

WEB = ("http", "https")
STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
RETRY_SECONDS = 180.0  # for one request, after which the load fails
TRY_SECONDS = 10.0  # the same, where it is only tried
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_STATUS = re.compile(r"status code: (\d{3})")


def is_url(name: str) -> bool:
    """Whether a name is the URL of an object; `file:` and whatever else nobody opens is none."""
    match = _URL.match(name)
    return bool(match) and match["scheme"].lower() in (*WEB, *STORES)  # type: ignore[index]  # it has matched


def without_secrets(url: str) -> str:
    """A URL as it is shown, logged and kept: without password, query and fragment. Those of a store have no query."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in WEB:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    place, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{re.sub('^.*:.*@', '', place)}{slash}{path}"


def objects_of(url: str, file_format: str | None, *, retry_seconds: float = RETRY_SECONDS) -> list[Fetched]:
    """The objects that a URL names, in natural order: one, those that match a pattern, or all below a prefix.

    Objects of a store are pinned by ETag: one that changes before it is read is refused. Raises SourceError where the store cannot
    be read, UnknownFileError where nothing is found.
    """
    shown = without_secrets(url)
    if url.partition("://")[0].lower() in WEB:
        _open(url, retry_seconds)
        has_query = bool(urlsplit(url).query)  # a signature perhaps
        return [Fetched(shown, 0, partial(_copy, url, None), is_anywhere=not has_query)]
    store, root, path = _open(url, retry_seconds)
    with _failures_named(shown):
        found = list(_listed(store, path))
    found = [item for item in found if not _is_hidden(item["path"], path)]
    if not found:
        raise UnknownFileError(f"{shown}: the store has no such object, and none matches it or is below it")
    found.sort(key=lambda item: natural_order(item["path"]))
    unknown = [item["path"] for item in found if kind_by_name(item["path"]) is None]
    if unknown and file_format is None:
        raise SourceError(
            f"{shown}: has objects of an unknown type ({escape_name(unknown[0])}); name those to load, for example "
            f"{shown.rstrip('/')}/*.csv, or give their format with --format"
        )
    return [
        Fetched(name, item["size"], partial(_copy, name, item["e_tag"]), is_anywhere=True)
        for item in found
        for name in [f"{root}/{item['path']}"]
    ]


def try_url(url: str) -> int:
    """List the objects that a URL names, read the beginning of the first one, and return how many there are; else as above."""
    found = objects_of(url, "any", retry_seconds=TRY_SECONDS)
    first = url if url.partition("://")[0].lower() in WEB else found[0].name
    store, _, name = _open(first, TRY_SECONDS)
    _next(_begin(store, name, None, found[0].name), found[0].name)
    return len(found)


def _open(url: str, retry_seconds: float) -> tuple[ObjectStore, str, str]:
    """The store that a URL is in, the URL of its root, and the path below it.

    Credentials come from the environment, as the store's own tools read them.
    """
    try:
        from obstore.store import HTTPStore, from_url
    except ImportError:
        raise UsageError(
            f"{without_secrets(url)}: needs the package obstore; install it with pip install 'etl-toolkit[cloud]'"
        ) from None
    retry: Any = {"retry_timeout": timedelta(seconds=retry_seconds)}
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    if "@" in place and (":" in place or not scheme.lower().startswith("abfs")):
        raise UsageError(
            f"{without_secrets(url)}: has a user or password in the URL; give credentials in the environment"
        )
    if scheme.lower() in WEB:
        parts = urlsplit(url)
        directory, _, name = parts.path.rpartition("/")
        root = parts._replace(path=directory, fragment="").geturl()  # its query goes with every request
        return HTTPStore.from_url(root, client_options={"allow_http": True}, retry_config=retry), root, unquote(name)
    root = f"{scheme.lower()}://{place}"
    return from_url(root, retry_config=retry), root, path


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


def _copy(url: str, e_tag: str | None, below: Path, stop: Stop) -> Path:
    """Write an object to a file of ours; connections that break off are taken up again by obstore."""
    shown = without_secrets(url)
    store, _, name = _open(url, RETRY_SECONDS)
    copy = below.with_name(below.name + "".join(PurePosixPath(name.lower()).suffixes[-2:]))
    blocks = _begin(store, name, e_tag, shown)
    with copy.open("xb") as output:
        while (block := _next(blocks, shown)) is not None:
            stop.check()
            with room_wanted(copy):
                output.write(block)
    return copy


def _begin(store: ObjectStore, name: str, e_tag: str | None, shown: str) -> Iterator[Any]:
    """Ask for an object, and return its blocks for `_next`."""
    import obstore

    with _failures_named(shown):
        found = obstore.get(store, name, options={"if_match": e_tag} if e_tag else {})
        return found.stream(min_chunk_size=BLOCK_BYTES)


def _next(blocks: Iterator[Any], shown: str) -> Any:
    with _failures_named(shown):
        return next(blocks, None)


class _failures_named:  # noqa: N801 - reads as a statement
    """Turns the failures of a store into a SourceError that says which, and shows nothing of what they contain."""

    def __init__(self, shown: str) -> None:
        self.shown = shown

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from obstore.exceptions import BaseError

        if error is None or not isinstance(error, BaseError | OSError):
            return
        if kind is not None and kind.__name__ == "PreconditionError":
            reason = "changed after it was listed, so nothing is written; load it again once it is complete"
        elif isinstance(error, FileNotFoundError):
            raise UnknownFileError(f"{self.shown}: the store has no such object") from None
        elif kind is not None and kind.__name__ in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError"):
            reason = "the store refuses access; check the credentials in the environment, or the signature of the URL"
        else:
            status = _STATUS.search(str(error))
            what = f"status {status[1]}" if status else "no answer that can be used"
            reason = f"cannot be read ({what}); check the URL and whether the store can be reached from here"
        raise SourceError(f"{self.shown}: {reason}") from None
