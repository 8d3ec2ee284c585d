"""Repeating a transaction after a transient error: by SQLSTATE, with jittered backoff, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg2
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from etl_toolkit.config import ParallelConfig
from etl_toolkit.errors import TransientDatabaseError, is_transient

Result = TypeVar("Result")


def run_with_retry(
    attempt: Callable[[], Result], config: ParallelConfig, *, on_retry: Callable[[RetryCallState], None]
) -> Result:
    """Call `attempt` until it succeeds, fails for good, or the budget is spent; then its last error is raised.

    `attempt` opens its own connection and begins by claiming its batch, so an attempt whose COMMIT was executed but not
    answered finds the batch complete and does nothing.
    """
    return Retrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(config.retry_attempts) | stop_after_delay(config.retry_budget_seconds),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=on_retry,
        reraise=True,
    )(attempt)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, TransientDatabaseError) or (isinstance(error, psycopg2.Error) and is_transient(error))
