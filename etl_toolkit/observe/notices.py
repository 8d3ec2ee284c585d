"""Events that somebody has to see to, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl_toolkit.loading.run import Event

GIGABYTE = 1 << 30


def in_words(event: Event) -> str | None:
    """Return what somebody has to see to, in words; None for an event that is none of that."""
    facts = event.facts
    if event.name == "plain_text":
        return (
            f"the connection to {facts['host']} is not encrypted: anyone on the network path can read every row; "
            f"{facts['remedy']}"
        )
    if event.name == "ignored":
        return (
            f"{', '.join(facts['variables'])} of the environment is ignored, because it would change how values are read; what is "
            "meant for the load goes into the DSN (options='-c …') or --date-style and --timezone"
        )
    if event.name == "memory_alert":
        used, limit = facts["used_bytes"] / GIGABYTE, facts["limit_bytes"] / GIGABYTE
        return (
            f"{used:.1f} of {limit:.1f} GB of memory are in use ({facts['ratio']:.0%}, limit of {facts['of']}); if it runs "
            "out, the system ends this load: free memory now, or lower memory_limit_bytes or --jobs for the next one"
        )
    if event.name == "loaded_before":
        return str(facts["message"])
    if event.name == "leftovers":
        return (
            f"up to {facts['tables']} staging tables could not be dropped and were left in schema etl_toolkit; the next load "
            "into this database drops them"
        )
    return None
