"""Datasets for tests, in each form that people have them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Pictures = Iterable[tuple[str, bytes]]  # key, bytes of a JPEG


def tar(path: Path, pictures: Pictures, labels: bool = False) -> Path:
    """WebDataset: KEY.jpg, and with `labels` KEY.cls, the number of the picture modulo 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, (key, picture) in enumerate(pictures):
            members = [(f"{key}.jpg", picture)] + [
                (f"{key}.cls", str(number % 3).encode())
            ] * labels
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def folder(path: Path, pictures: Pictures) -> Path:
    """KEY.jpg, a file each."""
    for key, picture in pictures:
        file = path / f"{key}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture)
    return path


def parquet(path: Path, pictures: Pictures) -> Path:
    """As Hugging Face datasets writes pictures: image {bytes, path}, label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image": {"bytes": picture, "path": f"{key}.jpg"}, "label": number % 3}
        for number, (key, picture) in enumerate(pictures)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
