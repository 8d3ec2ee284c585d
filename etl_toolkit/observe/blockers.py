"""Who keeps whom waiting: sessions of a run that wait for a lock, and the sessions that hold it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# `waitstart` is unknown for a moment after a wait began. Other users' sessions show name and user only, unless the
# role is a member of pg_read_all_stats.
_WAITING = """
SELECT w.pid, pg_catalog.substr(w.application_name, %(skip)s), coalesce(w.wait_event, 'lock'),
       coalesce(extract(epoch FROM clock_timestamp() - (SELECT min(l.waitstart) FROM pg_catalog.pg_locks l
                WHERE l.pid = w.pid AND NOT l.granted)), 0)::float8,
       array(SELECT 'process ' || b.pid || ' (' || concat_ws(', ', nullif(b.application_name, ''), 'user ' || b.usename,
                    b.state, 'since ' || round(extract(epoch FROM clock_timestamp() - b.xact_start)) || ' s') || ')'
             FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY (pg_catalog.pg_blocking_pids(w.pid)) ORDER BY b.pid)
FROM pg_catalog.pg_stat_activity w
WHERE w.datname = pg_catalog.current_database() AND w.wait_event_type = 'Lock'
  AND pg_catalog.starts_with(w.application_name, %(prefix)s)
"""


@dataclass
class _Wait:
    session: str
    seconds: float
    next_word: float


@dataclass
class BlockerWatch:
    """Looks, when asked, which sessions named `prefix …` wait for a lock; tells of a wait when it shows and grows."""

    connection: Any
    prefix: str
    tell: Callable[..., None]
    waited_seconds: float = 0.0
    _waits: dict[int, _Wait] = field(default_factory=dict)

    def look(self) -> None:
        """Look once. A wait is reported at once, then each time it has doubled, and when it is over."""
        with self.connection.cursor() as cursor:
            cursor.execute(_WAITING, {"prefix": self.prefix, "skip": len(self.prefix) + 1})
            found = cursor.fetchall()
        for pid, session, what, seconds, holders in found:
            wait = self._waits.setdefault(pid, _Wait(session, 0.0, 0.0))
            if seconds < wait.seconds:  # one wait is over and another began between two looks
                self.waited_seconds += wait.seconds
                wait.next_word = 0.0
            wait.seconds = seconds
            if not holders and seconds < 1.0:
                continue  # the holder has ended, or the server has not yet recorded a new one
            if seconds >= wait.next_word:
                wait.next_word = max(1.0, 2 * seconds)
                blocked_by = "; ".join(holders) or "a prepared transaction (see pg_prepared_xacts)"
                self.tell("waiting", session=session, seconds=round(seconds, 1), on=what, blocked_by=blocked_by)
        for pid in set(self._waits) - {row[0] for row in found}:
            self._end(self._waits.pop(pid))

    def close(self) -> None:
        """End the waits that were still on at the last look."""
        while self._waits:
            self._end(self._waits.popitem()[1])

    def _end(self, wait: _Wait) -> None:
        self.waited_seconds += wait.seconds
        self.tell("wait_over", session=wait.session, seconds=round(wait.seconds, 1))
