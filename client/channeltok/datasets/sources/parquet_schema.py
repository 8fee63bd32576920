"""Columns of Parquet files, and what Hugging Face's metadata says of them."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from channeltok.datasets.errors import SourceError

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "jpeg", "png", "webp")


def image_column(schema: Any, name: str | None, path: str) -> str:
    """The column with the images: `name`, or the first with a usual name, or the only such one.

    Raises SourceError if there is none.
    """
    has: list[str] = schema.names
    images: list[str] = [field.name for field in schema if _holds_images(field.type)]
    if name is not None:
        if name not in has:
            raise SourceError(f"{path}: no column {name}: it has {', '.join(has)}")
        if name not in images:
            kind = schema.field(name).type
            raise SourceError(
                f"{path}: column {name} is {kind}: images are binary, or struct<bytes, path>"
            )
        return name
    features = _features(schema)
    declared = [column for column in images if features.get(column, {}).get("_type") == "Image"]
    structs = [column for column in images if pa.types.is_struct(schema.field(column).type)]
    for column in (*IMAGE_COLUMNS, *declared[:1], *(structs if len(structs) == 1 else ())):
        if column in images:
            return str(column)
    raise SourceError(
        f"{path}: no column of images: it has {', '.join(has)}; expected one of "
        f"{', '.join(IMAGE_COLUMNS)}, of bytes or struct<bytes, path>; name another with "
        "--image-column"
    )


def class_names(schema: Any, column: str | None) -> Sequence[str]:
    """Names of the classes of a Hugging Face ClassLabel column; none for others."""
    feature = _features(schema).get(column or "", {})
    names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: Any) -> dict[str, Any]:
    """Column -> its feature, as a Hugging Face dataset stores them."""
    try:
        data = json.loads((schema.metadata or {})[b"huggingface"])
        features = data["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}
