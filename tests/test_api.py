"""What the public functions take: every option of a load, by name, with one word for each."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, get_args

import pytest

import etl_toolkit
from etl_toolkit import ConflictAwareProcessor, ingest
from etl_toolkit.cli.load import ingest as ingest_command
from etl_toolkit.errors import UsageError
from etl_toolkit.model import (
    ConflictAction,
    ExtraColumns,
    FileFormat,
    LoadSpec,
    OnConflict,
    ReadOptions,
    Strategy,
    StrategyName,
)
from etl_toolkit.request import load_spec

OPTIONS = ({item.name for item in fields(LoadSpec)} - {"table", "key", "conflict_action", "read"}) | {
    "on_conflict",
    *(item.name for item in fields(ReadOptions)),
}


@pytest.mark.parametrize(
    "function",
    [ingest, load_spec, ConflictAwareProcessor.process_with_strategy, ConflictAwareProcessor.plan, ingest_command],
)
def test_every_option_of_a_load_is_a_parameter(function: Any) -> None:
    taken = inspect.signature(function).parameters
    assert {name.removeprefix("file_") for name in taken} >= OPTIONS
    assert not [name for name, item in taken.items() if item.kind is inspect.Parameter.VAR_KEYWORD]


@pytest.mark.parametrize(
    "function",
    [ConflictAwareProcessor.process_with_strategy, ConflictAwareProcessor.plan, ConflictAwareProcessor.analyze],
)
def test_the_key_is_called_key_and_may_be_called_pk_columns(function: Any) -> None:
    assert {"key", "pk_columns"} <= set(inspect.signature(function).parameters)


def test_a_key_is_named_once() -> None:
    for names in ({}, {"key": "id", "pk_columns": "id"}):
        with pytest.raises(UsageError, match="name the key columns once"):
            ConflictAwareProcessor().analyze("a.csv", **names)


@pytest.mark.parametrize(
    ("literal", "values"),
    [
        (StrategyName, [*Strategy]),
        (OnConflict, [*ConflictAction]),
        (ExtraColumns, ["error", "ignore"]),
        (FileFormat, ["csv", "pgtext", "parquet"]),
    ],
)
def test_the_choices_are_those_there_are(literal: Any, values: list[str]) -> None:
    assert list(get_args(literal)) == [str(value) for value in values]


def test_the_docstring_of_ingest_describes_every_parameter() -> None:
    described = inspect.getdoc(ingest) or ""
    for name in inspect.signature(ingest).parameters:
        assert name in described.split("Returns")[0], name


def test_completion_shows_the_public_names_alone() -> None:
    assert dir(etl_toolkit) == sorted(etl_toolkit.__all__)
