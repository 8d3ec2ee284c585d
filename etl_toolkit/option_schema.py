"""What options there are, as lists for people and as JSON Schema for editors, from the fields of their dataclasses."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from etl_toolkit.typed_options import hints_of, in_words, is_required, option_fields

_VARIABLE = r"^\$\{[^}]+\}$"  # what a number or a truth value may be instead


def describe_options(kind: type[Any]) -> list[tuple[str, str, str, str]]:
    """A row per option: its name, its default as TOML spells it, what it takes, and what it means."""
    hints = hints_of(kind)
    return [
        (name, _spell_default(item.default), in_words(hints[item.name]), item.metadata.get("doc", ""))
        for name, item in option_fields(kind).items()
    ]


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a table with these options."""
    hints, properties = hints_of(kind), {}
    for name, item in option_fields(kind).items():
        properties[name] = _schema_of(hints[item.name]) | {"description": item.metadata.get("doc", "")}
        if item.default is not MISSING and item.default not in (None, ()):
            properties[name]["default"] = item.default
        if item.metadata.get("minimum") is not None:
            properties[name]["minimum"] = item.metadata["minimum"]
    required = [name for name, item in option_fields(kind).items() if is_required(item)]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | {"required": required} if required else schema


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [_schema_of(kind) for kind in arguments if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"anyOf": [_schema_of(arguments[0]), {"type": "array", "items": _schema_of(arguments[0])}]}
    if origin is not None and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema_of(arguments[1])}
    if is_dataclass(hint) and isinstance(hint, type):
        return json_schema(hint)
    if hint is str:
        return {"type": "string"}
    return {"type": [{bool: "boolean", int: "integer", float: "number"}[hint], "string"], "pattern": _VARIABLE}


def _spell_default(value: Any) -> str:
    return "not set" if value is None or value is MISSING or value == () else json.dumps(value, default=str)
