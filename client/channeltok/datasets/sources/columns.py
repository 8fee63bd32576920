"""What comes with an image: kept columns, its class and its key."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from typing import Any

from channeltok.datasets.sources.names import decode_text, valid_text
from channeltok.datasets.sources.options import SourceOptions
from channeltok.datasets.sources.shard import Skipped

_TEXT = {"txt", "text", "caption", "transcript", "json", "cls", "cls2", "class", "index", "id"}
_TEXT |= {"url", "csv", "tsv", "xml", "html", "md", "yaml", "yml"}
_CAPTIONS = {"caption", "text"}  # names under which KEY.txt is known too
_MAX_NUMBER = 2**63 - 1
_MISSING = object()


class SampleColumns:
    """Columns of samples that have files of their own (KEY.txt, KEY.json), and perhaps a row.

    A name means a field of KEY.json, else the file KEY.NAME, else a column of the row; and caption
    and text mean KEY.txt where nothing else has these names.
    """

    def __init__(self, options: SourceOptions, skipped: Skipped) -> None:
        self._options, self._skipped = options, skipped
        self._names = options.names()
        self._found: set[str] = set()
        self._seen: set[str] = set()

    def wants(self, suffix: str) -> bool:
        """Whether a file KEY.SUFFIX of a sample must be read."""
        self._seen.add(f".{suffix}")
        return (
            suffix in self._names
            or (suffix == "json" and bool(self._names))
            or (suffix == "txt" and not _CAPTIONS.isdisjoint(self._names))
        )

    def read(self, files: Mapping[str, bytes], row: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each name: of those kept, of the label column and of the key column.

        files: suffix -> content. row: of a metadata file.
        """
        fields: Mapping[str, Any] = {}
        if "json" in files:
            fields = self._fields(files["json"])
        self._seen.update((*fields, *row))
        return {name: self._value(name, files, fields, row) for name in self._names}

    def missing(self) -> str:
        """Which kept columns no sample had, and what they have; "" if none is missing.

        For a shard at its end: a name that nothing has is a mistake, not a column of nulls.
        """
        missing = [name for name in self._options.keep if name not in self._found]
        if not missing:
            return ""
        has = ", ".join(sorted(self._seen)) or "nothing but images"
        return f"no sample has {', '.join(missing)}; they have {has}"

    def _fields(self, data: bytes) -> Mapping[str, Any]:
        try:
            fields = json.loads(data)
        except ValueError:
            self._skipped["damaged .json file"] += 1
            return {}
        return fields if isinstance(fields, dict) else {}

    def _value(
        self,
        name: str,
        files: Mapping[str, bytes],
        fields: Mapping[str, Any],
        row: Mapping[str, Any],
    ) -> Any:
        value: Any = _MISSING
        if name in fields:
            value = fields[name]
        elif name in files:
            value = decode_text(files[name]) if name in _TEXT else files[name]
        elif name in row:
            value = row[name]
        elif name in _CAPTIONS and "txt" in files:
            value = decode_text(files["txt"])
        if value is _MISSING:
            self._skipped[f"image without {name}"] += 1
            return None
        self._found.add(name)
        return plain(value)


def plain(value: Any) -> Any:
    """A value of a column as str, int, float, bool, bytes, a list of them, or None.

    Times and dates become ISO 8601, decimals their digits, and structures JSON.
    """
    if isinstance(value, str):
        return valid_text(value)
    if value is None or isinstance(value, (int, float, bytes)):
        return value
    if isinstance(value, list):
        items = [plain(item) for item in value]
        nested = any(isinstance(item, (dict, list)) for item in value)
        return _json(value) if nested else items
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return _json(value) if isinstance(value, (dict, tuple)) else str(value)


def label_of(value: Any, names: Sequence[str] = ()) -> tuple[str | None, int | None]:
    """Name and number of a class, as a column has it.

    An integer is the number; with `names`, those of a Hugging Face ClassLabel, it is the place of
    its name in them, and a negative one stands for no label.
    """
    value = plain(value)
    if isinstance(value, float) and value.is_integer():  # pandas makes these of integers with gaps
        value = int(value)
    if value is None or value == "" or value != value:  # NaN
        return None, None
    if isinstance(value, int) and not isinstance(value, bool):
        if names and value < 0:
            return None, None
        name = names[value] if value < len(names) else str(value)
        return name, (value if abs(value) <= _MAX_NUMBER else None)
    if isinstance(value, bytes):
        return decode_text(value), None
    return (_json(value) if isinstance(value, list) else str(value)), None


def text_label(value: Any) -> tuple[str | None, int | None]:
    """`label_of`, for files without types: text of digits is a number too."""
    text, number = label_of(value)
    if number is None and text is not None and text.isascii() and text.isdecimal():
        number = int(text) if len(text) < len(str(_MAX_NUMBER)) else None
    return text, number


def _json(value: Any) -> str:
    return valid_text(json.dumps(value, ensure_ascii=False, default=str))
