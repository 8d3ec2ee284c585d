"""The ledger: which runs there were, which batches are committed, which rows were rejected.

A batch's row is the first statement of the transaction that writes the batch's data, so the two commit or vanish
together: claim, write, complete. A second claim of the same batch waits for the first one's transaction and then finds
the batch done. A run is fenced by its own row: claiming takes a share lock on it and needs it to be `running`, so a run
that lost its table lock to a later one can commit nothing more.
"""

from etl_toolkit.loading.ledger.batches import (
    Claim,
    check_committed,
    claim,
    claim_all,
    committed,
    complete,
    complete_all,
    note_version,
    record_rejects,
)
from etl_toolkit.loading.ledger.definition import DEFINITION, SCHEMA, VERSION, check_version, prepare, staging_refusal
from etl_toolkit.loading.ledger.history import PastRun, find_run, past_durations, past_runs
from etl_toolkit.loading.ledger.loaded_before import loaded_before
from etl_toolkit.loading.ledger.runs import begin, finish, pin_bounds, pinned, resume
from etl_toolkit.loading.ledger.spelling import encoding_of, read
from etl_toolkit.loading.ledger.table_lock import give_locks_back, lock_table, locks_given_back
from etl_toolkit.loading.ledger.taken import forget_files, taken_files

__all__ = [
    "DEFINITION",
    "SCHEMA",
    "VERSION",
    "Claim",
    "PastRun",
    "begin",
    "check_committed",
    "check_version",
    "claim",
    "claim_all",
    "committed",
    "complete",
    "complete_all",
    "encoding_of",
    "find_run",
    "finish",
    "forget_files",
    "give_locks_back",
    "loaded_before",
    "lock_table",
    "locks_given_back",
    "note_version",
    "past_durations",
    "past_runs",
    "pin_bounds",
    "pinned",
    "prepare",
    "read",
    "record_rejects",
    "resume",
    "staging_refusal",
    "taken_files",
]
