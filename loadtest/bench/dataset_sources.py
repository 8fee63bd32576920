"""Sources and destinations that are slow in other ways than tars on a local disk.

Part of `make bench-datasets`: a folder of camera photos, a folder in an object store, the start of
a run over a finished destination in one, and the bytes of a row.
"""

import itertools
import statistics
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from channeltok.datasets import tokenize

from loadtest.harness.images import camera_jpeg, camera_photos, crops
from loadtest.harness.object_store import object_store

LATENCY = 0.05  # seconds before each response of the object store
ROUNDS = 3
CAMERA_PHOTOS, REMOTE_PHOTOS, REMOTE_SHARDS = 48, 1000, 10_000
BUDGETS = (16, 64, 256)


def measure(engine: Any, data: str) -> dict[str, float]:
    """Measure and print; returns the figures by name. data: a folder of tars of JPEGs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {
            **_camera_photos(engine, folder / "camera"),
            **_remote_photos(engine, folder / "remote"),
            **_remote_start(engine, folder / "start"),
            **_row_bytes(engine, folder / "rows", data),
        }


def _camera_photos(engine: Any, folder: Path) -> dict[str, float]:
    source = folder / "photos"
    source.mkdir(parents=True)
    files = [camera_jpeg(photo) for photo in camera_photos(4000, 3000)]
    for number, content in zip(range(CAMERA_PHOTOS), itertools.cycle(files)):
        (source / f"{number:04d}.jpg").write_bytes(content)
    rates = [_rate(engine, str(source), folder / f"tokens-{i}") for i in range(ROUNDS)]
    rate = statistics.median(rates)
    print(f"  folder of 12-megapixel JPEGs  {rate:8.1f} images/s   {_rounded(rates)}")
    return {"camera_photos_per_second": rate}


def _remote_photos(engine: Any, folder: Path) -> dict[str, float]:
    source = folder / "photos"
    source.mkdir(parents=True)
    for number, content in zip(range(REMOTE_PHOTOS), itertools.cycle(crops())):
        (source / f"{number:04d}.jpg").write_bytes(content)
    with object_store(folder, LATENCY) as bucket:
        remote = [_rate(engine, f"{bucket}/photos", folder / f"r-{i}") for i in range(ROUNDS)]
    local = [_rate(engine, str(source), folder / f"l-{i}") for i in range(ROUNDS)]
    rate, beside = statistics.median(remote), statistics.median(local)
    print(f"  folder in an object store     {rate:8.1f} images/s   {_rounded(remote)}")
    print(f"  the same on a local disk      {beside:8.1f} images/s   {_rounded(local)}")
    return {"remote_photos_per_second": rate, "remote_over_local": rate / beside}


def _remote_start(engine: Any, folder: Path) -> dict[str, float]:
    """Seconds that a run takes to see that each of REMOTE_SHARDS shards was done before.

    The first start finds no index of the ledger, as after a copy of a local destination; it writes
    one, as each run into an object store does, and the second finds it.
    """
    source = folder / "tars"
    source.mkdir(parents=True)
    photo = folder / "photo.jpg"
    photo.write_bytes(crops(1, 64)[0])
    for number in range(REMOTE_SHARDS):
        with tarfile.open(source / f"{number:05d}.tar", "w") as tar:
            tar.add(photo, "photo.jpg")
    tokenize(str(source), str(folder / "store/tokens"), [engine], k=8)
    with object_store(folder / "store", LATENCY) as bucket:
        seconds = []
        for _ in range(2):
            summary = tokenize(str(source), f"{bucket}/tokens", [engine], k=8)
            assert summary.done_before == REMOTE_SHARDS
            seconds.append(summary.seconds)
    print(f"  {REMOTE_SHARDS:,} shards done before, in an object store: ", end="")
    print(
        f"{seconds[0]:.1f} s to say so without an index of the ledger, {seconds[1]:.1f} s with it"
    )
    return {"remote_start_without_index": seconds[0], "remote_start_seconds": seconds[1]}


def _row_bytes(engine: Any, folder: Path, data: str) -> dict[str, float]:
    source = min(str(tar) for tar in Path(data).glob("*.tar"))
    figures = {}
    for k in BUDGETS:
        target = folder / str(k)
        summary = tokenize(source, str(target), [engine], k=k)
        size = sum(file.stat().st_size for file in target.glob("*.parquet"))
        figures[f"bytes_per_row_{k}"] = size / summary.images
    print("  bytes of a row                ", end="")
    print(", ".join(f"{size:.0f} at k = {name.split('_')[-1]}" for name, size in figures.items()))
    return figures


def _rate(engine: Any, source: str, destination: Path) -> float:
    summary = tokenize(source, str(destination), [engine])
    assert not summary.rejects
    return summary.new_images / summary.seconds


def _rounded(values: list[float]) -> str:
    return f"({', '.join(f'{value:.1f}' for value in values)})"
