"""Token shards as WebDataset tars."""

import base64
import io
import json
import posixpath
import tarfile
from dataclasses import asdict
from typing import Any

from channeltok.datasets.writers.description import Description
from channeltok.datasets.writers.kept import kept_names
from channeltok.datasets.writers.row import Row


def webdataset(rows: list[Row], description: Description) -> bytes:
    """A tar with NAME.ctok (token bytes) and NAME.json (all else) for each row.

    NAME is the key; see `member_names`. A kept value that is bytes is base64 in the JSON.
    """
    buffer = io.BytesIO()
    names = member_names([row.key for row in rows])
    with tarfile.open(
        fileobj=buffer,
        mode="w",
        format=tarfile.USTAR_FORMAT if all(map(_fits_ustar, names)) else tarfile.PAX_FORMAT,
    ) as tar:
        for name, row in zip(names, rows, strict=True):
            metadata = json.dumps(_metadata(row, description), default=_encode).encode()
            for suffix, content in (("ctok", row.tokens.to_bytes()), ("json", metadata)):
                member = tarfile.TarInfo(f"{name}.{suffix}")  # mtime 0 keeps the bytes the same
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member_names(keys: list[str]) -> list[str]:
    """A different name for each key, which WebDataset takes for one sample's.

    A dot in the last part of a key becomes _, because WebDataset would cut the name there. Where
    that makes two names the same, the second gets -1, -2, ...; keys that need no change come first.
    """
    names = [_without_dots(key) for key in keys]
    order = sorted(range(len(keys)), key=lambda number: names[number] != keys[number])
    used = set[str]()
    for number in order:
        name, times = names[number], 0
        while name in used:
            times += 1
            name = f"{names[number]}-{times}"
        used.add(name)
        names[number] = name
    return names


def _without_dots(key: str) -> str:
    folder, base = posixpath.split(key)
    return posixpath.join(folder, base.replace(".", "_") or "_")


def _metadata(row: Row, description: Description) -> dict[str, Any]:
    metadata = {
        "key": row.key,
        "k": row.tokens.k,
        "tokenizer": row.tokenizer,
        "fingerprint": row.tokens.fingerprint,
        "vocab_size": description.vocab_size,
        "image_size": description.image_size,
        "fit": description.fit,
        "source": row.source,
        "offset": row.offset,
        "label": row.label,
        "label_id": row.label_id,
        **asdict(row.view),
    }
    if description.views:
        metadata |= {"view": row.view_number, "flipped": row.flipped}
    if description.k is None:
        metadata |= {"ssim": row.quality.ssim, "psnr": row.quality.psnr}
    for name, ours in kept_names(description.keep, metadata).items():
        metadata[ours] = row.columns.get(name)
    return metadata


def _encode(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _fits_ustar(name: str) -> bool:
    return len(name.encode()) < 95 and name.isascii()
