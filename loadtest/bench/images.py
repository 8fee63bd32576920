"""`make bench-images`: images as cameras make them, on the present code beside an older commit's.

Encode: `python -m service` of both commits, 16 callers over gRPC, images of one kind at a time.
Tokenize: a folder of 12-megapixel photos, with the engines in process and through the services.
Decode: `imaging.prepare` alone, one image after another.

Old and new run in turns; each ratio is the median of the rounds' ratios.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from channeltok.v1 import tokenizer_pb2 as pb
from PIL import Image

from loadtest.harness import checkout, old_or_new
from loadtest.harness.bare_graph import CORES
from loadtest.harness.images import camera_jpeg, camera_photos, crops, encoded
from loadtest.harness.process_stats import Noise
from loadtest.harness.report import write_report
from loadtest.harness.service_process import ROOT, Service, running
from loadtest.load.capacity_search import CLIENTS
from loadtest.load.open_loop import ENCODE, Generators, Grpc

PROGRAM = Path(old_or_new.__file__)
REPORT = Path("build/bench-images.json")
# The last commit that decoded every image at its full size.
BASELINE = "f38f2bf"
SIZE = 128  # pixels of a side of the demo tokenizer's images
DECODE_SECONDS = 0.3  # for each file, round and commit
REFUSED = "RESOURCE_EXHAUSTED"
WARM_UP = 0.25  # share of a run before counting begins


@dataclass
class Pairs:
    """Images/s of the older and of the present code, a pair for each round."""

    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)

    @classmethod
    def measured(cls, rounds: int, old: Callable[[], float], new: Callable[[], float]) -> "Pairs":
        """Measure in turns; every other round begins with the present code."""
        pairs = cls()
        for number in range(rounds):
            turns = [(pairs.old, old), (pairs.new, new)]
            for column, rate in turns[:: -1 if number % 2 else 1]:
                column.append(rate())
        return pairs

    @property
    def ratio(self) -> float:
        """Median of new / old over the rounds."""
        return statistics.median(new / old for old, new in zip(self.old, self.new, strict=True))

    def figures(self, name: str) -> dict[str, float]:
        """The figures of the report."""
        return {
            f"{name}_over_before": self.ratio,
            f"{name}_images_per_second": statistics.median(self.new),
            f"{name}_before_images_per_second": statistics.median(self.old),
        }


def kinds() -> dict[str, list[bytes]]:
    """Some images of each kind, by its name."""
    photos = camera_photos(1600, 1200)
    faded = [photo.copy() for photo in photos]
    for photo in faded:
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    return {
        "jpeg_256": crops(),
        "jpeg_1024": [camera_jpeg(photo) for photo in camera_photos(1024, 768)],
        "jpeg_3mp": [camera_jpeg(photo) for photo in camera_photos(2048, 1536)],
        "jpeg_12mp": [camera_jpeg(photo) for photo in camera_photos(4000, 3000)],
        "png_2mp": [encoded(photo, "PNG") for photo in photos],
        "png_2mp_alpha": [encoded(photo, "PNG") for photo in faded],
        "webp_2mp": [encoded(photo, "WEBP", quality=90) for photo in photos],
        "webp_2mp_alpha": [encoded(photo, "WEBP", quality=90) for photo in faded],
    }


def main() -> None:
    """Measure, print, and write build/bench-images.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--baseline", metavar="COMMIT", default=BASELINE, help="the older commit (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="length of each Encode run (%(default)s)"
    )
    parser.add_argument(
        "--photos", type=int, default=48, help="photos in the folder to tokenize (%(default)s)"
    )
    options = parser.parse_args()
    old = checkout.unpacked(options.baseline)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(old, Path(folder), options.rounds, options.seconds, options.photos)
    write_report(REPORT, figures)


def measure(old: Path, folder: Path, rounds: int, seconds: float, photos: int) -> dict[str, float]:
    """Measure and print; returns the figures by name. folder: an empty one, for images."""
    images = kinds()
    figures: dict[str, float] = {f"{kind}_bytes": len(files[0]) for kind, files in images.items()}
    noise = Noise()
    print(
        f"{old.name} and the present code, {CORES} cores, medians of {rounds} rounds, images/s\n"
        "| kind | MB each | before | now | now / before |\n|---|---|---|---|---|"
    )

    def show(name: str, kind: str, pairs: Pairs) -> None:
        figures.update(pairs.figures(name))
        before, now = (statistics.median(rates) for rates in (pairs.old, pairs.new))
        size = figures[f"{kind}_bytes"] / 1e6
        print(f"| {name} | {size:.2f} | {before:.1f} | {now:.1f} | {pairs.ratio:.2f} |", flush=True)

    (single := folder / "single").mkdir()
    (many := folder / "many").mkdir()
    for kind, files in images.items():
        (single / kind).write_bytes(files[0])
    for number in range(photos):
        large = images["jpeg_12mp"]
        (many / f"{number}.jpg").write_bytes(large[number % len(large)])
    with running(checkout=str(old)) as before, running() as now, Generators(1) as generators:
        for kind, files in images.items():
            rates = [
                partial(encode_rate, generators, service, files, seconds)
                for service in (before, now)
            ]
            show(kind, kind, Pairs.measured(rounds, *rates))
        served = [
            partial(tokenize_rate, commit, many, service.grpc)
            for commit, service in ((old, before), (ROOT, now))
        ]
        show("tokenize_12mp_served", "jpeg_12mp", Pairs.measured(rounds, *served))
    in_process = [partial(tokenize_rate, commit, many) for commit in (old, ROOT)]
    show("tokenize_12mp", "jpeg_12mp", Pairs.measured(rounds, *in_process))
    decoding = [
        [decode_rates(commit, single, folder / "pixels.npy") for commit in (old, ROOT)]
        for _ in range(rounds)
    ]
    for kind in images:
        pairs = Pairs([row[0][kind] for row in decoding], [row[1][kind] for row in decoding])
        show(f"decode_{kind}", kind, pairs)
    print(f"other programs used {noise.since():.2f} cores meanwhile")
    return figures


def encode_rate(
    generators: Generators, service: Service, files: list[bytes], seconds: float
) -> float:
    """Images/s of a closed loop, without its beginning and its end.

    RuntimeError if a call fails otherwise than by being refused because of overload.
    """
    requests = [pb.EncodeRequest(image=file).SerializeToString() for file in files]
    target = Grpc(service.grpc, ENCODE, tuple(requests), timeout=120)
    report = generators.closed_loop(target, CLIENTS, seconds).result()
    if set(report.counts()) - {report.good, REFUSED}:
        raise RuntimeError(f"calls failed: {report.counts()}")
    start = WARM_UP * seconds
    counted = (
        (report.codes == report.good) & (report.finished > start) & (report.finished <= seconds)
    )
    return float(np.sum(counted) / (seconds - start))


def tokenize_rate(commit: Path, folder: Path, *address: str) -> float:
    """Images/s of a commit's `tokenize`: through a service with `address`, else in process."""
    return float(checkout.run_with(commit, PROGRAM, "tokenize", str(folder), *address))


def decode_rates(commit: Path, folder: Path, output: Path) -> dict[str, float]:
    """Images/s of a commit's `imaging.prepare`, by the name of the file."""
    arguments = map(str, (folder, output, SIZE, DECODE_SECONDS))
    milliseconds = checkout.run_with(commit, PROGRAM, "prepare", *arguments)
    return {name: 1000 / taken for name, taken in milliseconds.items()}


if __name__ == "__main__":
    main()
