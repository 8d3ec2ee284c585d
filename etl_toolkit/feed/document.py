"""Reading a feed file: all of it is checked, and every mistake is reported with its line."""

from __future__ import annotations

import glob
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from etl_toolkit.config import ParallelConfig, parse_setting
from etl_toolkit.errors import ConfigError, UsageError
from etl_toolkit.feed.places import line_of
from etl_toolkit.feed.sections import SECTIONS, After, Load, Top, spec_of_sections
from etl_toolkit.feed.variables import substitute
from etl_toolkit.hints import did_you_mean
from etl_toolkit.model import LoadSpec, Strategy
from etl_toolkit.sources.asked import check_options
from etl_toolkit.typed_options import Mistake, VariableText, option_fields, parse_options, spell_path
from etl_toolkit.write_rules import check_together


@dataclass(frozen=True)
class Feed:
    """What a feed file asks for. `settings` are those of `ParallelConfig` in its `[load]`; paths are as seen from here."""

    path: Path
    files: tuple[str, ...]
    spec: LoadSpec
    settings: Mapping[str, Any]
    after: After = After()
    dsn: str | None = field(default=None, repr=False)  # what a variable stands for may be a password

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def config(self) -> ParallelConfig:
        return ParallelConfig.from_mapping(self.settings, origin=str(self.path))

    @classmethod
    def from_toml(cls, path: str | Path, *, environ: Mapping[str, str] | None = None) -> Feed:
        """Read a feed file. `${NAME}` is replaced from `environ`, else from the environment of the process.

        Raises ConfigError that lists every mistake with its line.
        """
        path = Path(path)
        text, document = _read(path)
        values, mistakes = substitute(document, os.environ if environ is None else environ)
        sections, found = _check(values)
        found = found or _check_together(sections, values)
        if mistakes := _without_repetitions(mistakes + found):
            lines = [(line_of(text, mistake.path) or 1, mistake) for mistake in mistakes]
            raise ConfigError("\n".join(f"{path}, line {at}: {mistake}" for at, mistake in sorted(lines, key=_by_line)))
        settings = _settings_of(values.get("load", {}))
        spec = spec_of_sections(sections)
        strategy = ParallelConfig.from_mapping(settings).strategy
        after = sections["after"]
        if after.lineage:
            after = replace(after, lineage=_from_here(path, after.lineage))
        return cls(
            path=path, files=tuple(_from_here(path, name) for name in sections["files"].paths), settings=settings,
            spec=replace(spec, strategy=Strategy(strategy)), after=after, dsn=sections["top"].dsn,
        )  # fmt: skip


def open_feed(feed: Feed | str | os.PathLike[str] | None) -> Feed | None:
    """Return the feed that is given as such, or as the path of its file."""
    return feed if feed is None or isinstance(feed, Feed) else Feed.from_toml(Path(feed))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _check(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mistake]]:
    """The sections of a document, and everything that is wrong with them."""
    sections: dict[str, Any] = {}
    top = {
        name: value for name, value in values.items() if name in option_fields(Top) or not isinstance(value, Mapping)
    }
    sections["top"], found = parse_options(Top, top)
    mistakes = list(found)
    mistakes += [
        Mistake(
            (name,), f"is no table of a feed{did_you_mean(name, SECTIONS) or '; its tables are ' + ', '.join(SECTIONS)}"
        )
        for name in values
        if name not in top and name not in SECTIONS
    ]
    for name, kind in SECTIONS.items():
        given = values.get(name, {})
        if not isinstance(given, Mapping):
            continue  # reported as no option of the top
        if kind is Load:
            settings = _settings_of(given)
            mistakes += [mistake.below(name) for mistake in _check_settings(settings)]
            given = {item: value for item, value in given.items() if item not in settings}
        sections[name], found = parse_options(kind, given)
        mistakes += [mistake.below(name) for mistake in found]
    if not isinstance(values.get("files", {}), Mapping) or (sections.get("files") and not sections["files"].paths):
        mistakes.append(Mistake(("files",), 'needs paths, for example paths = ["drops/*.csv"]'))
    return sections, mistakes


def _check_together(sections: Mapping[str, Any], values: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with options that are right one by one."""
    spec, mistakes = spec_of_sections(sections), []
    for name, check in (("read", lambda: check_options(spec.read)), ("write", lambda: check_together(spec))):
        try:
            check()
        except UsageError as error:
            mistakes.append(Mistake.about(str(error), values.get(name, {})).below(name))
    return mistakes


def _settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `ParallelConfig` in `[load]`; what is an environment variable as a whole is read like ETL_…."""
    return {
        name: parse_setting(name, value) if isinstance(value, VariableText) else value
        for name, value in given.items()
        if name not in option_fields(Load)
    }


def _check_settings(settings: Mapping[str, Any]) -> list[Mistake]:
    known = ["preset", *(item.name for item in fields(ParallelConfig)), *option_fields(Load)]
    mistakes = []
    for name, value in settings.items():
        if name not in known:
            mistakes.append(
                Mistake((name,), f"is not known{did_you_mean(name, known) or '; known are ' + ', '.join(known)}")
            )
            continue
        try:
            ParallelConfig.from_mapping({name: value})
        except ConfigError as error:
            mistakes.append(Mistake((name,), str(error).removeprefix("configuration: ").removeprefix(f"{name} ")))
    return mistakes


def _without_repetitions(mistakes: list[Mistake]) -> list[Mistake]:
    """A value that could not be substituted has been complained about."""
    first: dict[Any, Mistake] = {}
    for mistake in mistakes:
        first.setdefault(mistake.path, mistake)
    return list(first.values())


def _by_line(item: tuple[int, Mistake]) -> tuple[int, str]:
    return item[0], spell_path(item[1].path)


def _from_here(path: Path, name: str) -> str:
    """A path of a feed as seen from the current directory; a URL, and the standard input, as they are."""
    if "://" in name or name == "-":
        return name
    directory = str(path.parent)
    literal = os.path.normpath(Path(directory, name))
    if os.path.lexists(literal):
        return literal
    return os.path.normpath(Path(glob.escape(directory), name))
