r"""Texts of the files in the ledger: their names, headers, records. The encoding of a database may not have all their characters.

Such a text is kept as PostgreSQL writes it in SQL, `U&'caf\00E9'`, and comes back as it was. A database in UTF-8 keeps all of
them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Python's codec of each, which knows no character that the server does not: the tests ask it. Of every other encoding we trust
# in ASCII alone.
CODECS = {
    "LATIN1": "iso8859_1", "LATIN2": "iso8859_2", "LATIN3": "iso8859_3", "LATIN4": "iso8859_4", "LATIN5": "iso8859_9",
    "LATIN6": "iso8859_10", "LATIN7": "iso8859_13", "LATIN8": "iso8859_14", "LATIN9": "iso8859_15", "LATIN10": "iso8859_16",
    "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252", "WIN1253": "cp1253", "WIN1254": "cp1254",
    "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257", "WIN1258": "cp1258", "WIN866": "cp866", "WIN874": "cp874",
    "KOI8R": "koi8_r", "KOI8U": "koi8_u", "ISO_8859_5": "iso8859_5", "ISO_8859_6": "iso8859_6", "ISO_8859_7": "iso8859_7",
    "ISO_8859_8": "iso8859_8", "EUC_CN": "euc_cn",
}  # fmt: skip
_BEGIN, _END = "U&'", "'"
_ESCAPED = re.compile(r"\\\\|\\([0-9A-F]{4})|\\\+([0-9A-F]{6})|''")


def encoding_of(connection: Any) -> str:
    """The encoding of the database."""
    return connection.info.parameter_status("server_encoding") or "UTF8"


def spell(value: Any, encoding: str) -> Any:
    """The text, or each text in a list or mapping, as a database with this encoding can keep it."""
    if encoding == "UTF8" or not isinstance(value, str | list | tuple | Mapping):
        return value
    if isinstance(value, Mapping):
        return {name: spell(item, encoding) for name, item in value.items()}
    if not isinstance(value, str):
        return [spell(item, encoding) for item in value]
    if not value.startswith(_BEGIN) and _fits(value, encoding):
        return value
    return _BEGIN + "".join(_spelled(character, encoding) for character in value) + _END


def read(value: Any, encoding: str) -> Any:
    """What was given to `spell`."""
    if encoding == "UTF8" or not isinstance(value, str | list | tuple | Mapping):
        return value
    if isinstance(value, Mapping):
        return {name: read(item, encoding) for name, item in value.items()}
    if not isinstance(value, str):
        return [read(item, encoding) for item in value]
    if not value.startswith(_BEGIN) or not value.endswith(_END):
        return value
    return _ESCAPED.sub(_character, value[len(_BEGIN) : -len(_END)])


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(CODECS.get(encoding, "ascii"))
    except UnicodeEncodeError:
        return False
    return True


def _spelled(character: str, encoding: str) -> str:
    if character in ("\\", "'"):
        return character * 2
    if _fits(character, encoding):
        return character
    return f"\\{ord(character):04X}" if ord(character) < 1 << 16 else f"\\+{ord(character):06X}"


def _character(found: re.Match[str]) -> str:
    if digits := found[1] or found[2]:
        return chr(int(digits, 16))
    return found[0][0]
