"""An image of a shard, and what came with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_IMAGE_BYTES = 16 * 2**20  # a service's default limit; larger files are not read


@dataclass(frozen=True)
class Sample:
    """An image of a shard.

    Attributes:
        key: unique in the source.
        offset: position in the shard: byte of the header in a tar, row of a Parquet file, or index
            among the files of a folder shard.
        label: name of its class, if the source has one.
        image: bytes of the image file.
        refusal: why `image` is empty; "" if it is not.
        label_id: number of its class, if the source has one.
        columns: the columns that are kept, by name: str, int, float, bool, bytes, lists of them, or
            None.
    """

    key: str
    offset: int
    label: str | None
    image: bytes
    refusal: str = ""
    label_id: int | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


def too_large(size: int) -> str:
    """Why an image of `size` bytes is not read; "" if it is."""
    return (
        f"the image has {size:,} bytes; at most {MAX_IMAGE_BYTES:,} are allowed"
        if size > MAX_IMAGE_BYTES
        else ""
    )
