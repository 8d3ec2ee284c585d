"""What texts mean in a feed: numbers, dates, truth, NULL. Each value is what Python's decimal and datetime make of it, or is refused."""

# ruff: noqa: DTZ001, DTZ007 - dates of files have no time zone
from __future__ import annotations

import random
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from etl_toolkit.errors import UsageError
from etl_toolkit.model import CsvDialect, ReadOptions, SourceFile
from etl_toolkit.sources.asked import check_options
from etl_toolkit.sources.values import BLANKS, converted

CASES = 4_000


def spelled(texts: list[str], target: str, **options: Any) -> list[str | None]:
    """The texts as they are sent to the server, for a column of the type."""
    read = check_options(ReadOptions(**options))
    file = SourceFile(
        0, "a.csv", "csv", ("c",), "", 0, dialect=CsvDialect(blanks=BLANKS), target_types=(target,), read=read
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
        connection.execute("CREATE TABLE texts AS SELECT 0 AS file_index, unnest(?::VARCHAR[]) AS c0", [texts])
        return [row[0] for row in connection.execute(f"SELECT c0 FROM {converted('texts', file, ['c0'])}").fetchall()]


# --- numbers ---------------------------------------------------------------------------------------------------------------


def number_in_python(text: str, *, decimal: str, thousands: str, currency: tuple[str, ...]) -> Decimal | None:
    """The number that a text is, found character by character; None where it is none."""
    if text.strip(" ").endswith("-") and not currency and text != text.strip(" "):
        return None  # a blank beside a minus behind is none of the number's
    text = text.strip(" \t")
    for sign in currency:
        if text.startswith(sign) or text.startswith(("-" + sign, "+" + sign)):
            minus = text[0] if text[0] in "+-" else ""
            text = minus + text[len(minus) + len(sign) :].lstrip(" ")
            break
        if text.removesuffix("-").rstrip(" ").endswith(sign):
            minus = "-" if text.endswith("-") else ""
            text = text.removesuffix("-").rstrip(" ")[: -len(sign)].rstrip(" ") + minus
            break
    sign, text = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if not sign and text.endswith("-"):
        sign, text = "-", text[:-1]
    mantissa, exponent, power = re.fullmatch(r"([^eE]*)([eE]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    whole, _, fraction = mantissa.partition(decimal)
    if thousands and thousands in whole:
        first, *groups = whole.split(thousands)
        if not 1 <= len(first) <= 3 or any(len(group) != 3 for group in groups):
            return None
        whole = first + "".join(groups)
    digits = "0123456789"
    if not (whole + fraction) or set(whole + fraction) - set(digits) or (not whole and not fraction):
        return None
    if exponent and not re.fullmatch(r"[-+]?[0-9]+", power):
        return None
    return Decimal(f"{sign}{whole or 0}.{fraction or 0}{'e' + power if exponent else ''}")


@pytest.mark.parametrize(("decimal", "thousands", "currency"), [
    (",", ".", ()), (",", "", ()), (".", ",", ()), (",", " ", ()), (".", "'", ("CHF",)), (",", ".", ("€", "EUR")),
])  # fmt: skip
def test_a_number_is_what_decimal_makes_of_it_or_is_refused(
    decimal: str, thousands: str, currency: tuple[str, ...]
) -> None:
    draw = random.Random(f"{decimal}{thousands}")  # noqa: S311
    alphabet = ["1", "23", "456", "0", "789", decimal, thousands or ".", "-", "+", "e2", " ", *currency, ".", ",", "x"]
    texts = ["", "1.234", "1,234", "1.234,5", "1,234.5", "12,34", "0x1F", "1_000", "NaN", "-1.234.567,89"]
    texts += ["".join(draw.choices(alphabet, k=draw.randint(1, 6))) for _ in range(CASES)]
    found = spelled(texts, "numeric", decimal=decimal, thousands=thousands, currency=currency)
    for text, result in zip(texts, found, strict=True):
        expected = number_in_python(text, decimal=decimal, thousands=thousands, currency=currency)
        assert result is not None
        if "is no number" in result:
            assert expected is None, text
        elif text != "NaN":
            assert expected is not None, (text, result)
            assert Decimal(result.strip()) == expected, text
    assert sum("is no number" not in str(result) for result in found) > CASES / 40


# --- dates -----------------------------------------------------------------------------------------------------------------

FORMATS = [
    "%d.%m.%Y", "%m/%d/%y", "%Y%m%d", "%d-%b-%Y", "%d.%m.%Y %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f", "%I:%M %p %d/%m/%Y",
    "%Y%m%d%H%M%S", "%A, %d. %B %Y", "%Y-%j", "%d.%m.%Y %H:%M%z", "100%% %Y-%m-%d",
]  # fmt: skip


@pytest.mark.parametrize("date_format", FORMATS)
def test_a_date_is_what_datetime_makes_of_it_or_is_refused(date_format: str) -> None:
    draw = random.Random(date_format)  # noqa: S311
    texts = []
    for _ in range(CASES):
        day = datetime(
            draw.randint(1, 9999), draw.randint(1, 12), draw.randint(1, 28), draw.randint(0, 23), draw.randint(0, 59)
        )
        text = day.replace(
            year=max(day.year, 1000), second=draw.randint(0, 59), microsecond=draw.randint(0, 999_999)
        ).strftime(date_format.replace("%z", draw.choice(["+0200", "-03:30", "Z", "+01:00"])))
        if draw.random() < 0.5:
            at = draw.randrange(len(text))
            text = (
                text[:at]
                + draw.choice(["", " ", "0", "3", "9", "x", ".", "-", text[at] * 2])
                + text[at + draw.randint(0, 1) :]
            )
        texts.append(text)
    found = spelled(texts, "timestamptz", date_format=date_format)
    parsed = 0
    for text, result in zip(texts, found, strict=True):
        assert result is not None
        try:
            expected = datetime.strptime(text, date_format)
        except ValueError:
            expected = None
        if "is not of the format" in result:
            continue
        assert expected is not None, (text, result)
        assert datetime.fromisoformat(result) == expected, (text, result)
        parsed += 1
    assert parsed > CASES / 3
    whole = [text for text, result in zip(texts, found, strict=True) if "is not of the format" in str(result)]
    assert not [text for text in whole if _is_canonical(text, date_format)]


def _is_canonical(text: str, date_format: str) -> bool:
    """Whether a text is what `strftime` writes: none of these may be refused."""
    try:
        day = datetime.strptime(text, date_format)
    except ValueError:
        return False
    return day.year >= 1000 and day.strftime(date_format) == text


def test_a_text_of_no_format_is_no_date_of_the_server(connection: Any) -> None:
    texts = ["2024-01-02", "01/02/2024", "today", "infinity", "J2451187", "", "20240102", "1.2.24", "epoch"]
    found = spelled(texts, "timestamp", date_format=["%d.%m.%Y", "%d.%m.%Y %H:%M"])
    numbers = spelled(["1.5", "0x1F", "1_000", "", "5 000"], "numeric", decimal=",")
    with connection.cursor() as cursor:
        for text, kind in [(text, "timestamp") for text in found] + [(text, "numeric") for text in numbers]:
            cursor.execute("SELECT pg_input_is_valid(%s, %s)", (text, kind))
            assert cursor.fetchone() == (False,), text


# --- NULL, blanks, truth -----------------------------------------------------------------------------------------------------


def test_markers_and_blanks_are_null_and_an_empty_text_stays_one() -> None:
    texts = ["NA", " NA ", "", "  ", " a b\t", "na", "\u00a0"]
    assert spelled(texts, "text", null=["NA"], trim=True) == ["NA", None, "", None, "a b", "na", None]
    assert spelled(texts, "text", null={"C": ["na"], "*": ["NA"]}) == ["NA", " NA ", "", "  ", " a b\t", None, "\u00a0"]
    assert spelled(texts, "text", null={"d": ["na"]}) == texts


def test_words_are_true_and_false_in_columns_of_truth_alone() -> None:
    texts = ["Ja", "NEIN", "t", "x"]
    assert spelled(texts, "bool", true=["ja"], false=["nein"]) == ["true", "false", "t", "x"]
    assert spelled(texts, "text", true=["ja"], false=["nein"]) == texts


def test_a_text_column_keeps_its_commas() -> None:
    assert spelled(["1,5", "01.02.2024"], "text", decimal=",", date_format="%d.%m.%Y") == ["1,5", "01.02.2024"]


@pytest.mark.parametrize(("options", "message"), [
    ({"decimal": ","} | {"thousands": ","}, "thousands and decimal are both ','"),
    ({"decimal": ";"}, "decimal must be . or ,"),
    ({"date_format": "%d.%Q"}, "'%Q' is not known"),
    ({"date_format": "%z %d"}, "%z must be its end"),
    ({"date_format": "today"}, "has no directive"),
    ({"true": ["ja"], "false": ["JA"]}, "'ja' is given for both"),
    ({"currency": ["-"]}, "a currency is a sign"),
    ({"currency": ["5€"]}, "a currency is a sign"),
    ({"columns": ["a", "a"]}, "'a' is named twice"),
])  # fmt: skip
def test_options_that_no_file_can_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        check_options(ReadOptions(**options))
