"""The configuration files that are shipped, to start one's own from."""

from __future__ import annotations

from etl_toolkit.errors import ConfigError

TEMPLATES = ("production", "development")


def template(name: str) -> str:
    """Return the text of a shipped TOML file. Raises ConfigError for an unknown name."""
    if name not in TEMPLATES:
        raise ConfigError(f"unknown template {name!r}; choose {' or '.join(TEMPLATES)}")
    from importlib.resources import files

    return (files("etl_toolkit") / "templates" / f"{name}.toml").read_text(encoding="utf-8")
