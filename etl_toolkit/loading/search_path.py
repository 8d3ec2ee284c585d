"""The search path of a role: schemas before `pg_catalog` may hide the server's own functions, operators and types.

Our statements call these by name. They are found first, unless `pg_catalog` is named in the path, and late.
"""

from __future__ import annotations

from typing import Any

from etl_toolkit.errors import TargetError

_HIDING = """
WITH early AS (
    SELECT s.oid, pg_catalog.quote_ident(s.nspname) AS name FROM pg_catalog.pg_namespace s WHERE s.nspname
    OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[])
), named (space, name) AS (
    SELECT pronamespace, proname FROM pg_catalog.pg_proc UNION ALL SELECT oprnamespace, oprname FROM pg_catalog.pg_operator
    UNION ALL SELECT typnamespace, typname FROM pg_catalog.pg_type
)
SELECT DISTINCT early.name OPERATOR(pg_catalog.||) '.' OPERATOR(pg_catalog.||) mine.name::pg_catalog.text
FROM early JOIN named mine ON mine.space OPERATOR(pg_catalog.=) early.oid
JOIN named own ON own.name OPERATOR(pg_catalog.=) mine.name
WHERE own.space OPERATOR(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace ORDER BY 1 LIMIT 4
"""


def refuse_hidden_catalog(connection: Any) -> None:
    """Raise TargetError where something that the server has by itself is hidden by something of the same name."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_catalog.current_schemas(true)::pg_catalog.text[]")
        path = cursor.fetchone()[0]
        early = [schema for schema in path[: path.index("pg_catalog")] if not schema.startswith("pg_temp")]
        if not early:
            return
        cursor.execute(_HIDING, (early,))
        hiding = [name for (name,) in cursor.fetchall()]
    if hiding:
        more = ", …" if len(hiding) > 3 else ""
        raise TargetError(
            f"the search_path of this role or database puts {', '.join(early)} before pg_catalog, and "
            f"{', '.join(hiding[:3])}{more} would be taken for the server's own; leave pg_catalog out of the path for these "
            "loads, for example with options='-c search_path=…' in the DSN, and name the schema where triggers or defaults "
            "need one of these"
        )
