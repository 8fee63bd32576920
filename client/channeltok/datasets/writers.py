"""Serialise token shards to Parquet or WebDataset tars. The same rows give the same bytes."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.quality import QualityPoint
from channeltok.tokens import ImageView, Tokens


@dataclass(frozen=True)
class Row:
    """Tokens of an image, with their view, and its origin.

    source, offset: the source shard and the position in it.
    """

    key: str
    tokens: Tokens
    tokenizer: str
    source: str
    offset: int
    label: str | None

    @property
    def view(self) -> ImageView:
        """What the tokenizer saw of the image."""
        assert self.tokens.view is not None
        return self.tokens.view


def parquet(rows: list[Row], k: int | None) -> bytes:
    """A Parquet file with the columns key, tokens (fixed-size list of k uint16), k, tokenizer,
    fingerprint, source, offset, label, and the fields of ImageView.

    k is None where a quality chose it: then tokens is a list of any length, and the columns ssim
    and psnr (dB) hold the quality of the decoded image.
    """
    ids = pa.array(
        np.concatenate([row.tokens.ids for row in rows]) if rows else np.empty(0, np.uint16),
        pa.uint16(),
    )
    ends = np.cumsum([0, *(row.tokens.k for row in rows)], dtype=np.int32)
    dictionary = pa.dictionary(pa.int32(), pa.string())

    def names(values: list[str | None]) -> Any:
        return pa.array(values, pa.string()).cast(dictionary)

    columns = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "tokens": pa.ListArray.from_arrays(ends, ids)
        if k is None
        else pa.FixedSizeListArray.from_arrays(ids, k),
        "k": pa.array([row.tokens.k for row in rows], pa.uint16()),
        "tokenizer": names([row.tokenizer for row in rows]),
        "fingerprint": names([row.tokens.fingerprint for row in rows]),
        "source": names([row.source for row in rows]),
        "offset": pa.array([row.offset for row in rows], pa.int64()),
        "label": names([row.label for row in rows]),
    }
    for field in fields(ImageView):
        values = [getattr(row.view, field.name) for row in rows]
        columns[field.name] = pa.array(values, pa.uint32() if field.type is int else pa.float64())
    if k is None:
        points = [_chosen_point(row.tokens) for row in rows]
        columns["ssim"] = pa.array([point.ssim for point in points], pa.float32())
        columns["psnr"] = pa.array([point.psnr for point in points], pa.float32())
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        buffer,
        compression="zstd",
        use_dictionary=["tokenizer", "fingerprint", "source", "label"],
    )
    return buffer.getvalue()


def webdataset(rows: list[Row], k: int | None) -> bytes:
    """A tar with KEY.ctok (token bytes) and KEY.json (all else) for each row.

    A dot in the last part of a key becomes _, because WebDataset would cut the key there.
    """
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer,
        mode="w",
        format=tarfile.USTAR_FORMAT if _fits_ustar(rows) else tarfile.PAX_FORMAT,
    ) as tar:
        for row in rows:
            folder, slash, base = row.key.rpartition("/")
            name = folder + slash + base.replace(".", "_")
            metadata = {
                "key": row.key,
                "k": row.tokens.k,
                "tokenizer": row.tokenizer,
                "fingerprint": row.tokens.fingerprint,
                "source": row.source,
                "offset": row.offset,
                "label": row.label,
                **asdict(row.view),
            }
            if k is None:
                point = _chosen_point(row.tokens)
                metadata |= {"ssim": point.ssim, "psnr": point.psnr}
            for suffix, content in (
                ("ctok", row.tokens.to_bytes()),
                ("json", json.dumps(metadata).encode()),
            ):
                member = tarfile.TarInfo(f"{name}.{suffix}")  # mtime 0 keeps the bytes the same
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _chosen_point(tokens: Tokens) -> QualityPoint:
    return next(point for point in tokens.curve if point.k == tokens.k)


def _fits_ustar(rows: list[Row]) -> bool:
    return all(len(row.key.encode()) < 95 and row.key.isascii() for row in rows)


CONTAINERS: dict[str, Callable[[list[Row], int | None], bytes]] = {
    "parquet": parquet,
    "webdataset": webdataset,
}
