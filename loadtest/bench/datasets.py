"""`make bench-datasets`: tokenize a whole dataset, against the bare encode graph, in one run.

Bare: as in loadtest/bench/throughput.py, in its fastest arrangement, one run before and after each
round. Its input is ready: uint8 pixels in the tokenizer's size.
Read: the photos decoded and scaled to that size on all cores, without a graph. Reading and then the
bare graph are what no run can beat on these cores.
Tokenized: all photos of --data (JPEG in tars) to Parquet with the engine in this process, from the
first byte read to the last shard in place.
Other sources: see loadtest/bench/dataset_sources.py.
Ray: the photos COPIES times over, with one worker per core on a running cluster, against the same
without Ray; the start of the workers counts. Memory: of this process, during the first such run
without Ray; growth from a tenth of the images to all of them.
"""

import argparse
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import ray.cluster_utils
from channeltok.datasets import ProgressListener, sources, tokenize
from channeltok.datasets.on_ray import Cluster

import imaging
from loadtest.bench import dataset_sources
from loadtest.harness.bare_graph import CORES, REPOSITORY, BareGraph
from loadtest.harness.report import write_report
from loadtest.harness.service_process import ROOT
from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings

ROUNDS = 3
COPIES, RAY_ROUNDS = 3, 2
SECONDS = 5.0
PHOTOS = 512  # that are read again and again, without a graph
REPORT = Path("build/bench-datasets.json")
EVERY = 500  # images between two readings of memory


class Memory(ProgressListener):
    """Records the resident memory of this process against the number of images tokenized."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []
        self._images = 0
        self._lock = threading.Lock()
        self._process = psutil.Process()

    def advance(self, shard: sources.Shard, source_bytes: int, images: int, rejects: int) -> None:
        """Count an image; every EVERY-th, read the memory."""
        with self._lock:
            self._images += 1
            if self._images % EVERY == 0:
                self.readings.append((self._images, self._process.memory_info().rss))


def main() -> None:
    """Measure, print, and write build/bench-datasets.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder of tars of JPEGs")
    data = parser.parse_args().data
    (graph,) = REPOSITORY.glob("*_encode/1/model.onnx")
    engine = InProcessEngine(EngineSettings(model_repository=REPOSITORY))
    size = engine.tokenizers()[0].image_size
    photos = _photos(data, PHOTOS)
    pixels = np.stack([imaging.prepare(photo, size) for photo in photos[:16]])
    bare = BareGraph(graph, pixels)
    memory = Memory()
    arrangement = bare.best()
    bare_rates, read_rates = [bare.throughput(arrangement, SECONDS)[0]], [_read_rate(photos, size)]
    rates, ratios, ray_ratios, limits = (list[float]() for _ in range(4))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            summary = tokenize(data, f"{folder}/plain-{number}", [engine])
            rates.append(summary.new_images / summary.seconds)
            bare_rates.append(bare.throughput(arrangement, SECONDS)[0])
            bare_rate = statistics.mean(bare_rates[-2:])
            ratios.append(rates[-1] / bare_rate)
            read_rates.append(_read_rate(photos, size))
            limits.append(1 / (1 + bare_rate / statistics.mean(read_rates[-2:])))
        for tar in Path(data).resolve().glob("*.tar"):
            for copy in range(COPIES):
                (Path(folder) / f"{copy}-{tar.name}").symlink_to(tar)
        tars = f"{folder}/*.tar"
        for number in range(RAY_ROUNDS):
            listener = memory if number == 0 else None
            plain = tokenize(tars, f"{folder}/copies-{number}", [engine], listener=listener)
            settings = EngineSettings(model_repository=REPOSITORY.resolve())
            make_engine = partial(InProcessEngine, settings, threads=1)
            with ray_cluster() as address:
                cluster = Cluster(address, make_engine, CORES, import_path=ROOT)
                distributed = tokenize(tars, f"{folder}/ray-{number}", [engine], cluster=cluster)
            ray_ratios.append(plain.seconds / distributed.seconds)
    print(f"other sources, {CORES} cores")
    others = dataset_sources.measure(engine, data)
    engine.close()
    print(
        f"{summary.images:,} photos of {data} to {summary.k} tokens each, {CORES} cores, "
        f"median of {ROUNDS} rounds"
    )
    print(f"  tokenized         {_median(rates, '8.1f', ' images/s', '.1f')}")
    rate = statistics.median(bare_rates)
    print(f"  bare graph        {rate:8.1f} images/s   ({' '.join(bare.engine)}, {arrangement})")
    print(f"  tokenized over it {_median(ratios, '8.3f', '', '.3f')}")
    print(f"  read              {statistics.median(read_rates):8.1f} images/s")
    print(f"  limit over it     {_median(limits, '8.3f', '', '.3f')}")
    print(f"{plain.images:,} photos, {CORES} Ray workers")
    print(f"  Ray / tokenized   {_median(ray_ratios, '8.3f', '', '.3f')}")
    print("  images   resident MB")
    for count, resident in memory.readings[:: max(1, len(memory.readings) // 10)]:
        print(f"  {count:8,}   {resident / 1e6:8.0f}")
    at = dict(memory.readings)
    tenth = min(at, key=lambda count: abs(count - plain.images / 10))
    growth = at[max(at)] / at[tenth] - 1
    print(f"  from {tenth:,} to {max(at):,} images: {growth:+.1%}")
    figures = {
        "tokenize_over_best_bare": statistics.median(ratios),
        "limit_over_best_bare": statistics.median(limits),
        "ray_over_plain": statistics.median(ray_ratios),
        "tokenize_per_second": statistics.median(rates),
        "best_bare_per_second": rate,
        "read_per_second": statistics.median(read_rates),
        "memory_growth_10x": growth,
        **others,
    }
    write_report(REPORT, figures)


def _median(values: list[float], form: str, unit: str, each: str) -> str:
    rounds = ", ".join(f"{value:{each}}" for value in values)
    return f"{statistics.median(values):{form}}{unit}   ({rounds})"


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Start a Ray cluster with all cores of this machine; yields its address."""
    cluster = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": CORES, "include_dashboard": False}
    )
    try:
        yield cluster.address
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _read_rate(photos: list[bytes], size: int) -> float:
    """Photos per second that all cores decode and scale."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(lambda photo: len(imaging.prepare(photo, size)) > 0, photos * 4))
    return count / (time.perf_counter() - started)


def _photos(data: str, count: int) -> list[bytes]:
    """The first `count` JPEGs of the first tar."""
    with tarfile.open(min(Path(data).glob("*.tar"))) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:count]
        files = [archive.extractfile(member) for member in members]
        return [file.read() for file in files if file is not None]


if __name__ == "__main__":
    main()
