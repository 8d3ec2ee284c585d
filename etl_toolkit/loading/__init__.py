"""Rows into the table: COPY, merge, rejects, ledger, retry. All SQL that writes lives here."""
