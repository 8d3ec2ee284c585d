"""Which value holds where several places set it: flags before environment before file before preset before default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from etl_toolkit.config.cost_model import CostModel
from etl_toolkit.config.parallel import ParallelConfig, check_names, read_section, setting_names, with_unit
from etl_toolkit.errors import ConfigError

PREFIX = "ETL_"
FILE_VARIABLE = "ETL_CONFIG"
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_FLAGS = {"concurrency": "jobs", "lock_wait_seconds": "wait"}  # what the command line calls them

Layer = tuple[str, dict[str, Any]]


def resolve_config(
    file: str | Path | None, environ: Mapping[str, str], flags: Mapping[str, Any], feed: Layer | None = None
) -> tuple[ParallelConfig, dict[str, str]]:
    """Return the configuration, and for each setting where its value comes from.

    Precedence: `flags` (None: not given), then `environ` (`ETL_` and the name in capitals; empty counts as unset), then
    the TOML file (`file`, else `ETL_CONFIG`), then the `feed` (its path and settings), then the preset that the first of them
    names, then the default. Raises ConfigError that names the place of the fault.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    check_names({name: None for name in given if name != "preset"}, "flags")
    layers: list[Layer] = [("flag", given), ("environment", _from_environment(environ))]
    if named := file or environ.get(FILE_VARIABLE):
        section = read_section(named)
        check_names({name: None for name in section if name != "preset"}, str(named))
        layers.append((str(named), section))
    if feed is not None:
        layers.append(feed)
    config, origins = _preset(layers)
    for label, values in reversed(layers):
        for name, value in values.items():
            if name == "preset":
                continue
            origin = _origin(label, name)
            try:
                config = replace(config, **{name: with_unit(name, value)})
            except ConfigError as error:
                raise ConfigError(f"{origin}: {error}") from None
            origins[name] = origin
    return config, origins


def describe(config: ParallelConfig, origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return a row per setting: its name, its value as a TOML file spells it, and where the value comes from."""
    return [(name, toml_value(getattr(config, name)), origins.get(name, "default")) for name in setting_names()]


def toml_value(value: Any) -> str:
    """Spell a value as TOML does; what is not set has no spelling there and shows as `not set`."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, CostModel):
        return f"{{ {', '.join(f'{name} = {amount}' for name, amount in asdict(value).items())} }}"
    return str(value)


def _preset(layers: Sequence[Layer]) -> tuple[ParallelConfig, dict[str, str]]:
    for label, values in layers:
        if "preset" in values:
            config = ParallelConfig.preset(values["preset"], origin=_origin(label, "preset"))
            default = ParallelConfig()
            differing = [name for name in setting_names() if getattr(config, name) != getattr(default, name)]
            origins = dict.fromkeys(setting_names(), "default")
            return config, origins | dict.fromkeys(differing, f"preset {values['preset']}")
    return ParallelConfig(), dict.fromkeys(setting_names(), "default")


def _origin(label: str, name: str) -> str:
    if label == "flag":
        return f"flag --{_FLAGS.get(name, name).replace('_', '-')}"
    return f"environment {PREFIX}{name.upper()}" if label == "environment" else label


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment gives; a variable that nearly has the name of one is taken to be a mistake."""
    from difflib import get_close_matches

    names = {f"{PREFIX}{name.upper()}": name for name in ("preset", *setting_names())}
    for variable in environ:
        is_strange = variable.startswith(PREFIX) and variable not in names
        if is_strange and (near := get_close_matches(variable, names, n=1, cutoff=0.9)):
            raise ConfigError(f"environment {variable}: no such setting; did you mean {near[0]}?")
    return {name: parse_setting(name, environ[variable]) for variable, name in names.items() if environ.get(variable)}


def parse_setting(name: str, text: str) -> Any:
    """Read a value from text by the type of the setting; what does not fit is left to the setting's own check."""
    kind = next((str(item.type) for item in fields(ParallelConfig) if item.name == name), "str | None")
    if kind == "bool":
        lowered = text.strip().lower()
        return True if lowered in _TRUE else False if lowered in _FALSE else text
    if kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError:
            return text
    return text
