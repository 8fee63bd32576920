"""`make bench-datasets`: a whole dataset through `channeltok tokenize`, against the bare encode graph on ready pixels, in one run.

Bare: as in loadtest/bench/throughput.py, as a plain loop and at its best, a stretch of each before and after each round.
Tokenized: all photos of --data (JPEG in tars) to Parquet with the engine in process, from the first byte read to the last shard in place.
Ray: the photos COPIES times over, by as many workers as cores on a cluster that runs already, against the same without Ray; the workers'
start counts. Memory: of this process, as the images of the first such run without Ray are done; growth from a tenth of them to all.
"""

import argparse
import json
import statistics
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import ray.cluster_utils
from channeltok.datasets import ProgressListener, sources, tokenize
from channeltok.datasets.on_ray import Cluster

import imaging
from loadtest.bench.throughput import CORES, PLAIN_LOOP, REPOSITORY, Bare
from loadtest.harness.service_process import ROOT
from service.engine.in_process import InProcessEngine
from service.settings import EngineSettings

ROUNDS = 3
COPIES, RAY_ROUNDS = 3, 2
SECONDS = 5.0
REPORT = Path("build/bench-datasets.json")
EVERY = 500  # images between readings of memory


class Memory(ProgressListener):
    """Resident bytes of this process, by images done."""

    def __init__(self) -> None:
        self.readings: list[tuple[int, int]] = []
        self._images = 0
        self._lock = threading.Lock()
        self._process = psutil.Process()

    def advance(self, shard: sources.Shard, source_bytes: int, images: int, rejects: int) -> None:
        with self._lock:
            self._images += 1
            if self._images % EVERY == 0:
                self.readings.append((self._images, self._process.memory_info().rss))


def main() -> None:
    """Measure, print, and write build/bench-datasets.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data/train", help="a folder of tars of JPEGs")
    data = parser.parse_args().data
    (graph,) = REPOSITORY.glob("*_encode/1/model.onnx")
    engine = InProcessEngine(EngineSettings(model_repository=REPOSITORY))
    size = engine.tokenizers()[0].image_size
    bare = Bare(
        "encode", graph, np.stack([imaging.prepare(photo, size) for photo in _photos(data, 16)])
    )
    memory = Memory()
    arrangements = {"bare graph": PLAIN_LOOP, "bare at its best": bare.best()}
    bare_rates = {name: [bare.throughput(how, SECONDS)[0]] for name, how in arrangements.items()}
    ratios: dict[str, list[float]] = {name: [] for name in arrangements}
    rates, ray_ratios = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            summary = tokenize(data, f"{folder}/plain-{number}", [engine])
            rates.append(summary.new_images / summary.seconds)
            for name, how in arrangements.items():
                bare_rates[name].append(bare.throughput(how, SECONDS)[0])
                ratios[name].append(rates[-1] / statistics.mean(bare_rates[name][-2:]))
        for tar in Path(data).resolve().glob("*.tar"):
            for copy in range(COPIES):
                (Path(folder) / f"{copy}-{tar.name}").symlink_to(tar)
        for number in range(RAY_ROUNDS):
            plain = tokenize(
                f"{folder}/*.tar",
                f"{folder}/copies-{number}",
                [engine],
                listener=memory if number == 0 else None,
            )
            with ray_cluster() as address:
                cluster = Cluster(
                    address,
                    partial(
                        InProcessEngine,
                        EngineSettings(model_repository=REPOSITORY.resolve()),
                        threads=1,
                    ),
                    CORES,
                    import_path=ROOT,
                )
                spread = tokenize(
                    f"{folder}/*.tar", f"{folder}/ray-{number}", [engine], cluster=cluster
                )
            ray_ratios.append(plain.seconds / spread.seconds)
    engine.close()
    print(
        f"{summary.images:,} photos of {data} to {summary.k} tokens each, {CORES} cores, median of {ROUNDS} rounds"
    )
    print(
        f"  tokenized         {statistics.median(rates):8.1f} images/s   ({', '.join(f'{rate:.1f}' for rate in rates)})"
    )
    for name, how in arrangements.items():
        print(
            f"  {name:16}  {statistics.median(bare_rates[name]):8.1f} images/s   ({' '.join(bare.engine)}, {how})"
        )
        print(
            f"  tokenized over it {statistics.median(ratios[name]):8.3f}   ({', '.join(f'{ratio:.3f}' for ratio in ratios[name])})"
        )
    print(f"{plain.images:,} photos, {CORES} Ray workers")
    print(
        f"  Ray / tokenized   {statistics.median(ray_ratios):8.3f}   ({', '.join(f'{ratio:.3f}' for ratio in ray_ratios)})"
    )
    print("  images   resident MB")
    for done, resident in memory.readings[:: max(1, len(memory.readings) // 10)]:
        print(f"  {done:8,}   {resident / 1e6:8.0f}")
    at = dict(memory.readings)
    tenth = min(at, key=lambda done: abs(done - plain.images / 10))
    growth = at[max(at)] / at[tenth] - 1
    print(f"  from {tenth:,} to {max(at):,} images: {growth:+.1%}")
    figures = {
        "tokenize_over_bare": statistics.median(ratios["bare graph"]),
        "tokenize_over_best_bare": statistics.median(ratios["bare at its best"]),
        "ray_over_plain": statistics.median(ray_ratios),
        "tokenize_per_second": statistics.median(rates),
        "bare_per_second": statistics.median(bare_rates["bare graph"]),
        "best_bare_per_second": statistics.median(bare_rates["bare at its best"]),
        "memory_growth_10x": growth,
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"wrote {REPORT}")


@contextmanager
def ray_cluster() -> Iterator[str]:
    """A Ray cluster of its own processes, with all cores of this machine; its address."""
    started = ray.cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": CORES, "include_dashboard": False}
    )
    try:
        yield started.address
    finally:
        started.shutdown()  # type: ignore[no-untyped-call]


def _photos(data: str, count: int) -> list[bytes]:
    with tarfile.open(min(Path(data).glob("*.tar"))) as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:count]
        return [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
