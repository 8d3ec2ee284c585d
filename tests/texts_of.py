"""Texts of a regular expression, at random: Hypothesis takes a second of CPU to prepare one of a few thousand characters."""

from __future__ import annotations

import re
from functools import cache
from random import Random
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

ODD = " \t,;|\\.'\"-+0aZ_~\x01\x1f\x7f\x80\xa0éßİı٣ \u200b\ufeff\ufffd😀\U0010ffff"
DIGITS = "0123456789"
MANY = 20  # repeats where the grammar has no bound; they are within each other


def text_of(grammar: str, random: Random) -> str:
    """Return a text that the whole of `grammar` matches, with `\\d` as in ASCII."""
    return "".join(_parts(_parsed(grammar), random))


@cache
def _parsed(grammar: str) -> Any:
    return parser.parse(grammar, re.ASCII)


def _parts(items: Any, random: Random) -> list[str]:
    return [text for item in items for text in _texts(*item, random)]


def _texts(code: Any, argument: Any, random: Random) -> list[str]:
    if code is op.LITERAL:
        return [chr(argument)]
    if code is op.IN:
        return [_character(argument, random)]
    if code is op.BRANCH:
        return _parts(random.choice(argument[1]), random)
    if code is op.SUBPATTERN:
        return _parts(argument[3], random)
    if code is op.MAX_REPEAT:
        fewest, most, items = argument
        most = fewest + MANY if most is op.MAXREPEAT else int(most)
        count = random.choice((fewest, most, random.randint(fewest, min(most, fewest + 6))))
        return [text for _ in range(count) for text in _parts(items, random)]
    if code in (op.NOT_LITERAL, op.ANY):
        return [_character([(op.NEGATE, None), *([(op.LITERAL, argument)] if argument else [])], random)]
    raise NotImplementedError(f"{code} is in the grammar; give it a text here")


def _character(items: Any, random: Random) -> str:
    """One of a class: of its ranges, or, if it says what is not in it, an odd one or any."""
    if items[0][0] is not op.NEGATE:
        code, argument = random.choice(items)
        if code is op.CATEGORY:
            assert argument is op.CATEGORY_DIGIT
            return random.choice(DIGITS)
        return chr(argument if code is op.LITERAL else random.choice((*argument, random.randint(*argument))))
    while True:
        at = ord(random.choice(ODD)) if random.random() < 0.7 else random.randrange(1, 0x110000)
        if not 0xD800 <= at <= 0xDFFF and not any(_has(item, at) for item in items[1:]):
            return chr(at)


def _has(item: Any, at: int) -> bool:
    code, argument = item
    return at == argument if code is op.LITERAL else argument[0] <= at <= argument[1]
