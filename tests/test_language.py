"""Messages of a server in another language: what they say about a row is read from their form, not from their words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from etl_toolkit.loading.copy import is_row_error
from etl_toolkit.loading.rejects import _LINE

# How the server's catalogs of messages translate 'COPY %s, line %llu, column %s: "%s"', and the same without a column.
CONTEXTS = {
    "en": ('COPY etl_probe, line 3, column v: "$$ 1"', 'COPY etl_probe, line 3: "1,$$ 2"'),
    "de": ("COPY etl_probe, Zeile 3, Spalte v: »$$ 1«", "COPY etl_probe, Zeile 3: »1,$$ 2«"),
    "es": ("COPY etl_probe, línea 3, columna v: «$$ 1»", "COPY etl_probe, línea 3: «1,$$ 2»"),
    "fr": ("COPY etl_probe, ligne 3, colonne v : « $$ 1 »", "COPY etl_probe, ligne 3 : « 1,$$ 2 »"),
    "ja": ('etl_probeのCOPY、行 3、列 v: "$$ 1"', 'etl_probeのCOPY、行 3: "1,$$ 2"'),
    "ko": ('etl_probe 복사, 3번째 줄, v 열: "$$ 1"', 'etl_probe 복사, 3번째 줄: "1,$$ 2"'),
    "ru": ('COPY etl_probe, строка 3, столбец v: "$$ 1"', 'COPY etl_probe, строка 3: "1,$$ 2"'),
    "ka": ('COPY etl_probe, ხაზი 3, სვეტი v: "$$ 1"', 'COPY etl_probe, ხაზი 3: "1,$$ 2"'),
}


def error(context: str, code: str = "42601") -> Any:
    return SimpleNamespace(pgcode=code, diag=SimpleNamespace(context=context, source_function=None))


@pytest.mark.parametrize("language", CONTEXTS)
def test_the_line_of_a_refused_row(language: str) -> None:
    assert [match[1] for context in CONTEXTS[language] if (match := _LINE.search(context))] == ["3", "3"]


@pytest.mark.parametrize("language", CONTEXTS)
def test_an_error_about_a_value_is_one_of_its_row(language: str) -> None:
    of_a_value, of_a_line = CONTEXTS[language]
    assert is_row_error(error(of_a_value))
    assert not is_row_error(error(of_a_line))


def test_statements_in_a_context_are_no_values() -> None:
    assert not is_row_error(
        error('SQL statement "COPY t, 1, 2"\nPL/pgSQL function f(integer, integer) line 3, at SQL statement')
    )
    assert not is_row_error(error("SQL-Anweisung »COPY t, 1, 2«"))
