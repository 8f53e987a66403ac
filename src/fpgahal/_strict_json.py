# SPDX-License-Identifier: Apache-2.0
"""JSON from files that nobody has checked: standard JSON only, no duplicate keys, bounded depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from fpgahal._reader import Reader, shown

MAX_DEPTH = 32  # the deepest legitimate text (a GBS with module-ports) has 6 levels


class _Refused(ValueError):
    """Something that json.loads would accept and we don't."""


def _no_constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not a JSON number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:  # parsers disagree on which one counts
            raise _Refused(f"key {shown(key)} appears twice in one object")
        found[key] = value
    return found


def _frozen(value: Any, depth: int = 1) -> Any:
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(item, depth + 1) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(_frozen(item, depth + 1) for item in value)
    return value


def load_object(part: Reader) -> Mapping[str, Any]:
    """Parse a JSON object to read-only mappings and tuples.

    Raises
    ------
    BitstreamError
        Not UTF-8, not JSON, not an object, a duplicate key, NaN or Infinity, nested deeper than 32 levels.
    """
    raw = bytes(part.view)
    if b"\0" in raw:
        raise part.error(
            f"the JSON text contains a NUL byte at {raw.index(0)}: its length must not count a terminator or padding"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise part.error(f"the JSON text is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        value = _frozen(json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates))
    except _Refused as error:
        raise part.error(str(error)) from None
    except RecursionError:
        raise part.error(f"the JSON text is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise part.error(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError:  # Python's limit on the digits of an integer
        raise part.error("a number in the JSON text has too many digits") from None
    if not isinstance(value, Mapping):
        raise part.error(f"the JSON text is not an object but {shown(value)}")
    return value
