"""Repeating a transaction after a transient error: by SQLSTATE, with jittered backoff, within a budget.

The budget counts from the first failure: what failed may have worked for an hour before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg2
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_fixed,
    wait_random_exponential,
)
from tenacity.stop import stop_base

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import DatabaseError, TransientDatabaseError, is_lost_connection, is_transient

Result = TypeVar("Result")
OnRetry = Callable[[int, BaseException], None]  # the attempt that failed, from 1, and its error


def run_with_retry(
    attempt: Callable[[], Result],
    config: ParallelConfig,
    *,
    on_retry: OnRetry,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Call `attempt` until it succeeds, fails for good, or attempts or budget are spent; then its last error is raised.

    `attempt` opens its own connection and begins by claiming its batch, so an attempt whose COMMIT was executed but not
    answered finds the batch complete and does nothing.
    """
    return Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(config.retry_attempts) | _Budget(config.retry_budget_seconds),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=_report_retry(on_retry),
        sleep=sleep,
        reraise=True,
    )(attempt)


def wait_for_server(
    connect: Callable[[], Result], config: ParallelConfig, *, on_retry: OnRetry, sleep: Callable[[float], None]
) -> Result:
    """Call `connect` until it succeeds, fails for another reason than that the server is away, or the budget is spent.

    Attempts are not counted, unless only one is allowed. Raises DatabaseError that is not transient any more.
    """
    if config.retry_attempts == 1:
        return connect()
    try:
        return Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, DatabaseError) and is_lost_connection(error)),
            stop=_Budget(config.retry_budget_seconds),
            wait=wait_random_exponential(multiplier=0.1, max=1),
            before_sleep=_report_retry(on_retry),
            sleep=sleep,
            reraise=True,
        )(connect)
    except TransientDatabaseError as error:
        if not is_lost_connection(error):
            raise
        waited = f"the server was away for {config.retry_budget_seconds:g} s (retry_budget_seconds)"
        raise DatabaseError(f"{error}; {waited}", error.sqlstate) from None


def wait_for_slot(connect: Callable[[], Result]) -> Result:
    """Call `connect` again for two seconds, if there are too many connections: the server may still count those just closed."""
    return Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, DatabaseError) and error.sqlstate == "53300"),
        stop=stop_after_delay(2),
        wait=wait_fixed(0.05),
        reraise=True,
    )(connect)


class _Budget(stop_base):
    """Stops when this many seconds have passed since the first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first_failure: float | None = None

    def __call__(self, state: RetryCallState) -> bool:
        failed_at = state.outcome_timestamp or 0.0
        if self._first_failure is None:
            self._first_failure = failed_at
        return failed_at - self._first_failure >= self._seconds


def _report_retry(on_retry: OnRetry) -> Callable[[RetryCallState], None]:
    def tell(state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        on_retry(state.attempt_number, error)

    return tell


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, TransientDatabaseError) or (isinstance(error, psycopg2.Error) and is_transient(error))
