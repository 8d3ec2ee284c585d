"""Options as frozen dataclasses whose fields describe themselves: one definition for parsing, messages, JSON Schema and help.

A field is known everywhere once it is added to its dataclass: in Python, on the command line, in a feed, and in the ledger.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from etl_toolkit.errors import UsageError
from etl_toolkit.hints import did_you_mean

T = TypeVar("T")
_SCALARS: Mapping[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a value, and where it is: names of tables and keys, and positions in lists."""

    path: tuple[str | int, ...]
    message: str

    def below(self, *place: str | int) -> Mistake:
        return replace(self, path=(*place, *self.path))

    def __str__(self) -> str:
        return f"{spell_path(self.path)} {self.message}" if self.path else self.message

    @classmethod
    def about(cls, message: str, given: Iterable[str]) -> Mistake:
        """What is wrong with options that are right one by one, at the first one given that the message names."""
        name = next((word for word in re.findall(r"\w+", message) if word in set(given)), None)
        if name is None:
            return cls((), message)
        is_subject = message.startswith(f"{name} ")
        return cls((name,), message.removeprefix(f"{name} ") if is_subject else f"cannot be: {message}")


class VariableText(str):
    """A value that is an environment variable as a whole: a number or a truth value where an option wants one."""


def option(
    default: T, doc: str, *, minimum: int | None = None, spellings: Mapping[str, str] | None = None, name: str = ""
) -> T:
    """A field of an options dataclass: its default, and in one line what it means.

    `spellings` are other ways to write a value (`tab` for a tab). `name` is what it is called outside of Python, where Python
    has the word reserved.
    """
    metadata = {"doc": doc, "minimum": minimum, "spellings": spellings or {}, "name": name}
    return field(default=default, metadata=metadata)


def option_fields(kind: type[Any]) -> dict[str, Field[Any]]:
    """The fields of an options dataclass by the names that users write."""
    return {item.metadata.get("name") or item.name: item for item in fields(kind)}


def make_options(kind: type[T], values: Mapping[str, Any], base: T | None = None, *, origin: str = "") -> T:
    """Return `base` (else the defaults) with `values` over it. Raises UsageError that lists everything wrong with them."""
    found, mistakes = parse_options(kind, values, base)
    if found is None:
        raise UsageError("; ".join(f"{origin}: {mistake}" if origin else str(mistake) for mistake in mistakes))
    return found


def parse_options(
    kind: type[T], values: Mapping[str, Any], base: T | None = None
) -> tuple[T | None, tuple[Mistake, ...]]:
    """Return the options that `values` describe as TOML, JSON or Python spells them, or None and what is wrong with them."""
    known = option_fields(kind)
    by_name = known | {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    converted: dict[str, Any] = {}
    mistakes: list[Mistake] = []
    for name, value in values.items():
        if name not in by_name:
            hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
            mistakes.append(Mistake((name,), f"is not known{hint}"))
            continue
        item = by_name[name]
        try:
            converted[item.name] = _convert_field(item, value, hints_of(kind)[item.name])
        except _UnfitError as unfit:
            mistakes += [mistake.below(name) for mistake in unfit.mistakes]
    if base is None and not mistakes:
        missing = [name for name, item in known.items() if is_required(item) and item.name not in converted]
        mistakes += [Mistake((), f"lacks {name}") for name in missing]
    if mistakes:
        return None, tuple(mistakes)
    try:
        return (replace(base, **converted) if base is not None else kind(**converted)), ()  # type: ignore[type-var]
    except UsageError as error:  # how options go together
        return None, (Mistake.about(str(error), values),)


def parse_assignments(kind: type[Any], assignments: Iterable[str], *, origin: str) -> dict[str, Any]:
    """Return the values of `NAME=VALUE`, the last of a name: VALUE as in TOML, and as a text where that is not what fits.

    Raises UsageError for an assignment without a name.
    """
    values: dict[str, Any] = {}
    known = option_fields(kind)
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign or not name.strip():
            raise UsageError(f"{origin} {assignment}: write {origin} NAME=VALUE; names are {', '.join(known)}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        name = name.strip()
        fits = parse_options(kind, {name: value})[0] is not None
        values[name] = value if fits or parse_options(kind, {name: text})[0] is None else text
    return values


def spell_path(path: Iterable[str | int]) -> str:
    """`delete.values[0]`: a place in a document as people write it."""
    spelled = ""
    for step in path:
        spelled += f"[{step}]" if isinstance(step, int) else f".{step}" if spelled else step
    return spelled


# The types of a dataclass's fields, by name.
hints_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


class _UnfitError(Exception):
    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes


def _unfit(hint: Any, value: Any) -> _UnfitError:
    return _UnfitError([Mistake((), f"must be {in_words(hint)}, not {value!r}")])


def _convert_field(item: Field[Any], value: Any, hint: Any) -> Any:
    if isinstance(value, str):
        value = item.metadata.get("spellings", {}).get(value, value)
    converted = _convert(value, hint)
    minimum = item.metadata.get("minimum")
    if minimum is not None and isinstance(converted, int | float) and converted < minimum:
        raise _UnfitError([Mistake((), f"must be {minimum} or more, not {converted}")])
    return converted


def _convert(value: Any, hint: Any) -> Any:  # noqa: C901 - a case per kind of type
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_to_one_of(value, hint, arguments)
    if isinstance(value, VariableText) and origin is not tuple:
        value = _read_number(value) if hint in (bool, int, float) else str(value)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise _UnfitError(
                [Mistake((), f"must be {in_words(hint)}, not {value!r}{did_you_mean(str(value), arguments)}")]
            )
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            if isinstance(value, Mapping):
                raise _unfit(hint, value)
            value = [value]  # one is a list of one
        return tuple(_each(enumerate(value), arguments[0]).values())
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _unfit(hint, value)
        return _each(value.items(), arguments[1])
    if is_dataclass(hint) and isinstance(hint, type):
        return _convert_to_dataclass(value, hint)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise _unfit(hint, value)
    return value


def _read_number(text: str) -> Any:
    """A number or truth value as TOML spells it; any other text as it is."""
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _convert_to_one_of(value: Any, hint: Any, kinds: Sequence[Any]) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    inside: Sequence[Mistake] = ()
    for kind in kinds:
        try:
            return _convert(value, kind)
        except _UnfitError as unfit:
            if len(kinds) == 1:
                raise
            if any(mistake.path for mistake in unfit.mistakes):  # it is of this kind, with something wrong inside
                inside = inside or unfit.mistakes
    raise _UnfitError(inside) if inside else _unfit(hint, value)


def _convert_to_dataclass(value: Any, kind: type[Any]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise _unfit(kind, value)
    found, mistakes = parse_options(kind, value)
    if found is None:
        raise _UnfitError(mistakes)
    return found


def _each(items: Iterable[tuple[Any, Any]], hint: Any) -> dict[Any, Any]:
    converted, mistakes = {}, []
    for place, value in items:
        try:
            converted[place] = _convert(value, hint)
        except _UnfitError as unfit:
            mistakes += [mistake.below(place) for mistake in unfit.mistakes]
    if mistakes:
        raise _UnfitError(mistakes)
    return converted


def in_words(hint: Any) -> str:
    """What a type takes: `a text`, `"again" or "skip"`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(kind) for kind in arguments if kind is not type(None))
    if origin is Literal:
        *others, last = [f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in arguments]
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple:
        return "a list of texts" if arguments[0] is str else f"a list ({in_words(arguments[0])})"
    if origin is not None and issubclass(origin, Mapping):
        return f"a table (of each: {in_words(arguments[1])})"
    if is_dataclass(hint) and isinstance(hint, type):
        return f"a table with {', '.join(option_fields(hint))}"
    return _SCALARS.get(hint, "a value")


def is_required(item: Field[Any]) -> bool:
    """Whether a field has no default."""
    return item.default is MISSING and item.default_factory is MISSING
