"""Kept columns: their names beside ours, and one type for the values of each."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa


def kept_names(keep: Sequence[str], taken: Iterable[str]) -> dict[str, str]:
    """Name in the source -> name in the token shard: `kept_NAME` where NAME is one of ours."""
    used = {*taken}
    names = {}
    for name in keep:
        chosen = name
        while chosen in used:
            chosen = f"kept_{chosen}"
        used.add(chosen)
        names[name] = chosen
    return names


def kept_array(values: list[Any]) -> Any:
    """An Arrow array of the type that the values have.

    Values without a common type, and mappings, become text: strings as they are, others as JSON.
    Without any value the type is string.
    """
    if not any(map(_has_mapping, values)):
        try:
            array = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            pass
        else:
            return array.cast(pa.string()) if pa.types.is_null(array.type) else array
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _has_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(map(_has_mapping, value)))


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode(errors="replace").decode()
