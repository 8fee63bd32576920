"""Write small image datasets as WebDataset tars, folders and Hugging Face Parquet."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

Images = Iterable[tuple[str, bytes]]  # key, bytes of a JPEG


def tar(path: Path, images: Images, labels: bool = False) -> Path:
    """A WebDataset tar: KEY.jpg, and with `labels` KEY.cls, the image's index modulo 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number, (key, image) in enumerate(images):
            members = [(f"{key}.jpg", image)] + [(f"{key}.cls", str(number % 3).encode())] * labels
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def folder(path: Path, images: Images) -> Path:
    """A folder of files KEY.jpg."""
    for key, image in images:
        file = path / f"{key}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    return path


def parquet(path: Path, images: Images) -> Path:
    """A Parquet file as Hugging Face datasets writes it: image {bytes, path}, label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image": {"bytes": image, "path": f"{key}.jpg"}, "label": number % 3}
        for number, (key, image) in enumerate(images)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
