"""Which server is meant: the one named by the caller, by the environment, or our own."""

from __future__ import annotations

from collections.abc import Mapping

# The variables that tell libpq *where* to connect. PGUSER, PGPASSWORD or PGSSLMODE alone name no server.
PLACE_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")


def resolve_dsn(explicit: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the DSN that is meant; `""` leaves everything to libpq's own variables, `None` means the embedded server.

    `explicit` wins over `ETL_DSN`, which wins over libpq's `PG*`. An empty variable counts as unset, as in libpq.
    """
    if explicit is not None:
        return explicit
    if environ.get("ETL_DSN"):
        return environ["ETL_DSN"]
    if any(environ.get(name) for name in PLACE_VARIABLES):
        return ""
    return None
