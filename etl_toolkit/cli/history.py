"""`runs`, `rejects`, `resume`, `explain`: after the load."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Added with the ledger's queries."""
