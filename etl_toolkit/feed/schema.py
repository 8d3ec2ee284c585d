"""The JSON Schema of a feed file, with which editors complete and check it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from etl_toolkit.config import COMMITS, ParallelConfig
from etl_toolkit.feed.sections import SECTIONS, Top, describe_settings
from etl_toolkit.model import Strategy
from etl_toolkit.option_schema import json_schema

SCHEMA_FILE = "feed.schema.json"


def feed_schema() -> dict[str, Any]:
    """Return the schema; the package has it as the file `feed/feed.schema.json`."""
    sections = {name: json_schema(kind) for name, kind in SECTIONS.items()}
    sections["load"]["properties"] |= _settings()
    sections["files"]["required"] = ["paths"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A feed of etl-toolkit",
        **json_schema(Top),
        "properties": json_schema(Top)["properties"] | sections,
        "required": ["files"],
    }


def schema_text() -> str:
    """The schema as the package publishes it."""
    return (files("etl_toolkit") / "feed" / SCHEMA_FILE).read_text(encoding="utf-8")


def _settings() -> dict[str, Any]:
    described = describe_settings()
    settings: dict[str, Any] = json_schema(ParallelConfig)["properties"]
    for name, schema in settings.items():
        schema["description"] = described[name]
        if name.endswith("_bytes"):
            in_words = {"type": "string", "pattern": "^[0-9]+ ?[kKmMgGtT][bB]$"}
            schema["anyOf"] = [{name: schema.pop(name) for name in ("type", "pattern")}, in_words]
    settings["strategy"] = {"enum": [str(name) for name in Strategy], "description": described["strategy"]}
    settings["commit"] = {"enum": list(COMMITS), "description": described["commit"]}
    return {"preset": {"enum": ["production", "development"], "description": "settings to start from"}} | settings
