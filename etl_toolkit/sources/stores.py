"""The stores and web servers that objects are in: obstore opens them, and reads objects.

Its errors contain whole URLs, with passwords and signatures, so none of their text is shown, and an object is named without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from etl_toolkit.errors import SourceError, UnknownFileError, UsageError
from etl_toolkit.sources.structure import BLOCK_BYTES

if TYPE_CHECKING:
    from obstore.store import ObjectStore

WEB = ("http", "https")
RETRY_SECONDS = 180.0  # for one request, after which the load fails
_STATUS = re.compile(r"status code: (\d{3})")


class PartsRefusedError(Exception):
    """A web server sends whole files only."""


def is_web(url: str) -> bool:
    """Whether a URL is that of a web server, which names one file."""
    return url.partition("://")[0].lower() in WEB


def without_secrets(url: str) -> str:
    """A URL as it is shown, logged and kept: without password, query and fragment. Those of a store have no query."""
    scheme, _, rest = url.partition("://")
    if is_web(url):
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    place, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{re.sub('^.*:.*@', '', place)}{slash}{path}"


def open_store(url: str, retry_seconds: float) -> tuple[ObjectStore, str, str]:
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
    if is_web(url):
        parts = urlsplit(url)
        directory, _, name = parts.path.rpartition("/")
        root = parts._replace(path=directory, fragment="").geturl()  # its query goes with every request
        return HTTPStore.from_url(root, client_options={"allow_http": True}, retry_config=retry), root, unquote(name)
    root = f"{scheme.lower()}://{place}"
    return from_url(root, retry_config=retry), root, path


def read_object(
    store: ObjectStore, name: str, shown: str, *, e_tag: str | None = None, part: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Return what is known of an object, then its blocks, or those of a part: a span of bytes, or its suffix.

    Raises SourceError if its ETag has changed, PartsRefusedError if the server does not send parts.
    """
    import obstore
    from obstore.exceptions import NotSupportedError

    asked: Any = ({"if_match": e_tag} if e_tag else {}) | ({"range": part} if part else {})
    with failures_named(shown):
        try:
            found = obstore.get(store, name, options=asked)
        except NotSupportedError:
            raise PartsRefusedError from None
        yield found.meta
        yield from found.stream(min_chunk_size=BLOCK_BYTES)


def changed(shown: str) -> SourceError:
    """The error for an object that is not the one that was listed."""
    return SourceError(
        f"{shown}: changed after it was listed, so nothing is written; load it again once it is complete"
    )


class failures_named:  # noqa: N801 - reads as a statement
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
            raise changed(self.shown) from None
        if isinstance(error, FileNotFoundError):
            raise UnknownFileError(f"{self.shown}: the store has no such object") from None
        if kind is not None and kind.__name__ in ("PermissionDeniedError", "UnauthenticatedError", "PermissionError"):
            reason = "the store refuses access; check the credentials in the environment, or the signature of the URL"
        else:
            status = _STATUS.search(str(error))
            what = f"status {status[1]}" if status else "no answer that can be used"
            reason = f"cannot be read ({what}); check the URL and whether the store can be reached from here"
        raise SourceError(f"{self.shown}: {reason}") from None
