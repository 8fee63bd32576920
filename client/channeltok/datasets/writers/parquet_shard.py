"""Token shards in Parquet."""

import io
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.datasets.writers.description import Description
from channeltok.datasets.writers.kept import kept_array, kept_names
from channeltok.datasets.writers.row import Row
from channeltok.tokens import ImageView

ROW_GROUP = 4096  # rows that are read at once
METADATA_KEY = "channeltok"  # of the schema; the value is a Description in JSON
_VIEW = [field.name for field in fields(ImageView)]
# Few different values in a shard; the others are compressed better without a dictionary.
_DICTIONARIES = ["k", "tokenizer", "fingerprint", "source", "label", "label_id", "view", *_VIEW]


def parquet(rows: list[Row], description: Description) -> bytes:
    """A Parquet file with a row for each of `rows`, in row groups of ROW_GROUP.

    Columns: key, tokens (fixed-size list of k uint16), k, tokenizer, fingerprint, source, offset,
    label, label_id, the fields of ImageView, and the kept columns. Where a quality chose k, tokens
    is a list of any length, and the columns ssim and psnr (dB) hold the quality of the decoded
    image. Where there are views, the columns view and flipped say which.

    The schema's metadata hold the description.
    """
    columns = _own_columns(rows, description)
    for name, ours in kept_names(description.keep, columns).items():
        columns[ours] = kept_array([row.columns.get(name) for row in rows])
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: description.to_json()})
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=[name for name in _DICTIONARIES if name in columns],
        # Ids are uint16 in 32 bits: two of the four streams are zeros.
        use_byte_stream_split=["tokens.list.element"],
    )
    return buffer.getvalue()


def _own_columns(rows: list[Row], description: Description) -> dict[str, Any]:
    ids = pa.array(
        np.concatenate([row.tokens.ids for row in rows]) if rows else np.empty(0, np.uint16),
        pa.uint16(),
    )
    if description.k is None:
        ends = np.cumsum([0, *(row.tokens.k for row in rows)], dtype=np.int32)
        tokens = pa.ListArray.from_arrays(ends, ids)
    else:
        tokens = pa.FixedSizeListArray.from_arrays(ids, description.k)
    columns = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "tokens": tokens,
        "k": pa.array([row.tokens.k for row in rows], pa.uint16()),
        "tokenizer": _names([row.tokenizer for row in rows]),
        "fingerprint": _names([row.tokens.fingerprint for row in rows]),
        "source": _names([row.source for row in rows]),
        "offset": pa.array([row.offset for row in rows], pa.int64()),
        "label": _names([row.label for row in rows]),
        "label_id": pa.array([row.label_id for row in rows], pa.int64()),
    }
    if description.views:
        columns["view"] = pa.array([row.view_number for row in rows], pa.uint16())
        columns["flipped"] = pa.array([row.flipped for row in rows], pa.bool_())
    for field in fields(ImageView):
        values = [getattr(row.view, field.name) for row in rows]
        columns[field.name] = pa.array(values, pa.uint32() if field.type is int else pa.float64())
    if description.k is None:
        columns["ssim"] = pa.array([row.quality.ssim for row in rows], pa.float32())
        columns["psnr"] = pa.array([row.quality.psnr for row in rows], pa.float32())
    return columns


def _names(values: list[str | None]) -> Any:
    return pa.array(values, pa.string()).cast(pa.dictionary(pa.int32(), pa.string()))
