"""`generate`, `bench`, `report`, `demo`: data, measurements, pages."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Added with the benchmark room."""
