"""Checks of the hosts that a load would run on, and of what it would read."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass

from etl_toolkit import __version__
from etl_toolkit.doctor.capacity import LEAST_FREE_BYTES
from etl_toolkit.doctor.patient import size
from etl_toolkit.doctor.report import Finding, passed, verdict
from etl_toolkit.errors import EtlError
from etl_toolkit.hosts import CheckHost, Hosts, HostState, check_host, exchange_parent
from etl_toolkit.hosts.checking import MARK
from etl_toolkit.loading.session import Sessions
from etl_toolkit.sources import name_for_hosts, try_source

ANSWER_SECONDS = 60.0
CLOCK_SECONDS = 5.0
_SOURCE_ADVICE = (
    "give it the credentials, region and endpoint of the store in its environment (AWS_ACCESS_KEY_ID, …); "
    "paths must be the same everywhere"
)


@dataclass(frozen=True)
class Asked:
    """The answers of the hosts, and the errors of those that gave none."""

    states: tuple[HostState, ...]
    errors: tuple[str, ...]


def check_sources(sources: Sequence[str]) -> Iterator[Finding]:
    """What is named can be listed and read from here."""
    for name in sources:
        try:
            yield passed("sources", f"{try_source(name)}: listed, and the beginning is read")
        except EtlError as error:
            yield verdict("sources", str(error), fails=True, advice=_SOURCE_ADVICE)


def check_hosts(hosts: Hosts, sessions: Sessions, sources: Sequence[str]) -> Iterator[Finding]:
    """Every host: reached, of this release, with the same server, sources and exchange directory, the right time, and room."""
    sent = [name_for_hosts(name) for name in sources]
    asked = _ask(hosts, sessions, tuple(filter(None, sent)))
    found = {state.host: state for state in asked.states}
    names = f"{len(found)} of {hosts.words} answer: {', '.join(sorted(found))}"
    missing = len(asked.errors) or not found
    words = f"{names}; {asked.errors[0]}" if asked.errors else names
    yield verdict("hosts", words, fails=bool(missing), advice="start the workers, and see what their logs say")
    states = list(found.values())
    other = [f"{state.host} has {state.version}" for state in states if state.version != __version__]
    yield _of_all(
        "hosts: release", other, f"all have etl_toolkit {__version__}", "install the same release on every host"
    )
    away = [f"{state.host}: {state.server_error}" for state in states if state.server_error]
    if len({state.server for state in states if state.server}) > 1:
        away.append("they connect as different roles, or to different databases")
    advice = (
        "give the workers ETL_DSN, or PGHOST and so on, in their environment: the same role and database everywhere"
    )
    yield _of_all("hosts: server", away, "all reach the same database as the same role", advice)
    apart = [f"{state.host}: {state.exchange_error}" for state in states if state.exchange_error]
    advice = "name a directory that all hosts see under the same path and can write, with --exchange"
    yield _of_all("hosts: exchange", apart, "all read and write the exchange directory", advice)
    if sources:
        unread = [f"{state.host}: {error}" for state in states for error in state.source_errors]
        kept = "" if all(sent) else ", but for URLs with a query: a load that has one is done by this process alone"
        words = f"all list them and read their beginning{kept}"
        yield _of_all("hosts: sources", unread, words, f"on each host: {_SOURCE_ADVICE}")
    late = [
        f"{state.host}: {state.clock_offset_seconds:+.1f} s"
        for state in states
        if abs(state.clock_offset_seconds) > CLOCK_SECONDS
    ]
    words = f"all within {CLOCK_SECONDS:g} s of the server's"
    yield _of_all(
        "hosts: clock", late, words, "synchronize the clocks (chrony): logs would be out of order", is_warning=True
    )
    full = [
        f"{state.host}: {size(min(state.free_temp_bytes, state.free_exchange_bytes))} free"
        for state in states
        if min(state.free_temp_bytes, state.free_exchange_bytes) < LEAST_FREE_BYTES
    ]
    words = f"all have {size(LEAST_FREE_BYTES)} or more for temporary files and in the exchange directory"
    yield _of_all("hosts: disk", full, words, "free space, or name other places (temp_directory, --exchange)")


def _of_all(check: str, faults: Sequence[str], words: str, advice: str, *, is_warning: bool = False) -> Finding:
    evidence = "; ".join(faults[:3]) if faults else words
    if is_warning:
        return verdict(check, evidence, warns=bool(faults), advice=advice)
    return verdict(check, evidence, fails=bool(faults), advice=advice)


def _ask(hosts: Hosts, sessions: Sessions, sources: tuple[str, ...]) -> Asked:
    directory = exchange_parent(hosts, sessions.config) / f"etl_doctor_{secrets.token_hex(4)}"
    try:
        directory.mkdir(parents=True)
        (directory / MARK).touch()
    except OSError as error:
        return Asked((), (f"{directory.parent}: {error.strerror}",))
    try:
        task = CheckHost(sessions.run_id, sessions.config, str(directory), sources)
        futures = [hosts.submit(check_host, task) for _ in range(hosts.slots)]
        done, late = wait(futures, timeout=ANSWER_SECONDS)
        for future in late:
            future.cancel()
        failures = [failure for future in done if (failure := future.exception())]
        errors = [str(failure) or type(failure).__name__ for failure in failures]
        errors += [f"{len(late)} gave no answer within {ANSWER_SECONDS:g} s"] if late else []
        return Asked(tuple(future.result() for future in done if not future.exception()), tuple(errors))
    except EtlError as error:
        return Asked((), (str(error),))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
