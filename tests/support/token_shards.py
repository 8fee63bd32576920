"""Write token shards without an engine: random tokens, by the key of their row."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from channeltok import ImageView, Tokens
from channeltok.datasets.writers import Description, Row, parquet

FINGERPRINT = "0123456789abcdef"
VIEW = ImageView(500, 375, 62.5, 0.0, 437.5, 375.0)


def row(key: str, k: int, label: str | None = None, **more: Any) -> Row:
    ids = np.random.default_rng(zlib.crc32(key.encode())).integers(0, 65536, k)
    return Row(
        key, Tokens(ids, FINGERPRINT, view=VIEW), "demo", "/data/me/source", 0, label, **more
    )


def shard(path: Path, rows: list[Row], keep: tuple[str, ...] = ()) -> None:
    """A Parquet shard. All rows have the same number of tokens."""
    k = rows[0].tokens.k if rows else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet(rows, Description("demo", FINGERPRINT, 65536, 256, 128, k, keep=keep)))


def dataset(folder: Path, shards: int, rows: int, k: int = 8) -> Path:
    """Shards of one class each, with a caption for each row: s0000/0000 of class 0, ..."""
    for number in range(shards):
        content = [
            row(
                f"s{number:04d}/{place:04d}",
                k,
                f"class {number}",
                columns={"caption": f"photo {place} of {number}"},
            )
            for place in range(rows)
        ]
        shard(folder / f"s{number:04d}.parquet", content, keep=("caption",))
    return folder
