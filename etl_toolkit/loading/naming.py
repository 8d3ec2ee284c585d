"""Names of our own beside a table's: no column of any table is refused for its name, or taken for one of ours.

In the statements of a load our columns are written `etl_…`. Where a column of the table begins like that as well, they
are spelled with another prefix. Relations need none of this: `etl_target.name` is looked up as a relation first.
"""

from __future__ import annotations

import re

from psycopg2.sql import SQL, Identifier

from etl_toolkit.model import OWN_PREFIX, TargetTable

RELATIONS = (
    "toolkit",
    "staging",
    "target",
    "probe",
    "before",
    "images",
    "ours",
    "nothing",
    "judged",
    "winners",
    "composed",
    "paired",
)
_COLUMN = re.compile(rf"\b{OWN_PREFIX}(?!(?:{'|'.join(RELATIONS)})\b)")


def ours(target: TargetTable, template: str) -> SQL:
    """A template of SQL with our columns as they are spelled beside those of a table."""
    return SQL(_COLUMN.sub(target.own_prefix, template))


def own_column(target: TargetTable, name: str) -> Identifier:
    """A column of ours, `etl_…`, as it is spelled beside those of a table."""
    return Identifier(own_name(target, name))


def own_name(target: TargetTable, name: str) -> str:
    """The name of that column."""
    return target.own_prefix + name.removeprefix(OWN_PREFIX)
