"""A token shard as bytes: Parquet, or a WebDataset tar. The same rows give the same bytes."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from channeltok.quality import QualityPoint
from channeltok.tokens import Tokens


@dataclass(frozen=True)
class Row:
    """Tokens of one image, and where it came from.

    source, offset: shard, and place in it. width, height: of the image, pixels, before its EXIF turn.
    """

    key: str
    tokens: Tokens
    tokenizer: str
    source: str
    offset: int
    label: str | None
    width: int
    height: int


def parquet(rows: list[Row], k: int | None) -> bytes:
    """Columns: key, tokens (uint16, fixed-size list of k), k, tokenizer, fingerprint, source, offset, label, width, height.

    k: None where a quality decided it; then tokens is a list of any size, and there are ssim and psnr, what the tokens reach.
    """
    ids = pa.array(
        np.concatenate([row.tokens.ids for row in rows]) if rows else np.empty(0, np.uint16),
        pa.uint16(),
    )
    ends = np.cumsum([0, *(row.tokens.k for row in rows)], dtype=np.int32)
    reached = [_reached(row.tokens) for row in rows] if k is None else []
    names = pa.dictionary(pa.int32(), pa.string())
    table = pa.table(
        {
            "key": pa.array([row.key for row in rows], pa.string()),
            "tokens": pa.ListArray.from_arrays(ends, ids)
            if k is None
            else pa.FixedSizeListArray.from_arrays(ids, k),
            "k": pa.array([row.tokens.k for row in rows], pa.uint16()),
            "tokenizer": pa.array([row.tokenizer for row in rows], pa.string()).cast(names),
            "fingerprint": pa.array([row.tokens.fingerprint for row in rows], pa.string()).cast(
                names
            ),
            "source": pa.array([row.source for row in rows], pa.string()).cast(names),
            "offset": pa.array([row.offset for row in rows], pa.int64()),
            "label": pa.array([row.label for row in rows], pa.string()).cast(names),
            "width": pa.array([row.width for row in rows], pa.uint32()),
            "height": pa.array([row.height for row in rows], pa.uint32()),
            **(
                {
                    name: pa.array([getattr(one, name) for one in reached], pa.float32())
                    for name in ("ssim", "psnr")
                }
                if k is None
                else {}
            ),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=["tokenizer", "fingerprint", "source", "label"],
    )
    return buffer.getvalue()


def webdataset(rows: list[Row], k: int | None) -> bytes:
    """For each row KEY.ctok (token bytes) and KEY.json (all else). A dot in a key's last part, where WebDataset would end it, becomes _."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer,
        mode="w",
        format=tarfile.USTAR_FORMAT if _short(rows) else tarfile.PAX_FORMAT,
    ) as tar:
        for row in rows:
            folder, slash, base = row.key.rpartition("/")
            name = folder + slash + base.replace(".", "_")
            facts = {
                "key": row.key,
                "k": row.tokens.k,
                "tokenizer": row.tokenizer,
                "fingerprint": row.tokens.fingerprint,
                "source": row.source,
                "offset": row.offset,
                "label": row.label,
                "width": row.width,
                "height": row.height,
                **(
                    {"ssim": reached.ssim, "psnr": reached.psnr}
                    if k is None and (reached := _reached(row.tokens))
                    else {}
                ),
            }
            for suffix, content in (
                ("ctok", row.tokens.to_bytes()),
                ("json", json.dumps(facts).encode()),
            ):
                member = tarfile.TarInfo(
                    f"{name}.{suffix}"
                )  # its time is 1970: the same rows, the same bytes
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _reached(tokens: Tokens) -> QualityPoint:
    return next(one for one in tokens.curve if one.k == tokens.k)


def _short(rows: list[Row]) -> bool:
    return all(len(row.key.encode()) < 95 and row.key.isascii() for row in rows)


CONTAINERS: dict[str, Callable[[list[Row], int | None], bytes]] = {
    "parquet": parquet,
    "webdataset": webdataset,
}
