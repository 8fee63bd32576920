"""`make bench-in-process`: channeltok.Tokenizer against the bare encode graph and the service.

Ready pixels, one batch of PHOTOS after the other: images/s of `Tokenizer.encode`, and of the bare
graph in its fastest arrangement (loadtest/harness/bare_graph.py), in turns in one process. Then the
tokens and decoded images of all photos, through `Tokenizer` and a service that computes in f32: how
many differ.
"""

import argparse
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from channeltok import Client, Tokenizer, Tokens
from numpy.typing import NDArray
from PIL import Image

import imaging
from loadtest.bench.images import Pairs
from loadtest.harness.bare_graph import CORES, BareGraph
from loadtest.harness.process_stats import Noise
from loadtest.harness.report import write_report
from loadtest.harness.service_process import running

PHOTOS = 200
REPORT = Path("build/bench-in-process.json")


def main() -> None:
    """Measure, print, and write build/bench-in-process.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.in_process",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of tars of JPEGs")
    parser.add_argument("--rounds", type=int, default=7, help="of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round (%(default)s)")
    options = parser.parse_args()
    photos = list(_photos(options.data, PHOTOS))
    with Tokenizer.from_pretrained("demo") as tokenizer:
        figures = throughput(tokenizer, photos, options.rounds, options.seconds)
        figures |= equality(tokenizer, photos)
    write_report(REPORT, figures)


def throughput(
    tokenizer: Tokenizer, photos: list[bytes], rounds: int, seconds: float
) -> dict[str, float]:
    """Images/s of `Tokenizer.encode` over the bare graph's."""
    size = tokenizer.info.image_size
    pixels = np.stack([imaging.prepare(photo, size) for photo in photos])
    (graph,) = Path("model_repository").glob("demo_encode/1/model.onnx")
    bare = BareGraph(graph, pixels[:16])
    best = bare.best()
    tokenizer.encode(pixels)
    noise = Noise()
    pairs = Pairs.measured(
        rounds,
        lambda: bare.throughput(best, seconds)[0],
        lambda: _rate(tokenizer, pixels, seconds),
    )
    figures = pairs.figures("tokenizer")
    print(
        f"{len(pixels)} ready images, {CORES} cores, median of {rounds} rounds\n"
        f"  bare graph   {figures['tokenizer_before_images_per_second']:8.1f} images/s ({best})\n"
        f"  Tokenizer    {figures['tokenizer_images_per_second']:8.1f} images/s\n"
        f"  Tokenizer / bare graph   {pairs.ratio:.3f}\n"
        f"other programs used {noise.since():.2f} cores meanwhile"
    )
    return {
        "tokenizer_over_best_bare": pairs.ratio,
        "tokenizer_per_second": figures["tokenizer_images_per_second"],
        "best_bare_per_second": figures["tokenizer_before_images_per_second"],
    }


def equality(tokenizer: Tokenizer, photos: list[bytes]) -> dict[str, float]:
    """How many photos have other tokens, or another decoded image, than through a service."""
    tokens: list[Tokens] = tokenizer.encode(photos)
    images = tokenizer.decode(tokens)
    with running(decode_precision="f32") as service, Client(service.grpc, timeout=120) as client:
        served = list(client.encode_stream(photos))
        decoded = [
            np.asarray(Image.open(io.BytesIO(image))) if isinstance(image, bytes) else None
            for image in client.decode_stream(tokens, "png")
        ]
    other_tokens = sum(one != two for one, two in zip(tokens, served, strict=True))
    other_images = sum(
        two is None or not np.array_equal(one.as_numpy(), two)
        for one, two in zip(images, decoded, strict=True)
    )
    print(
        f"{len(photos)} photos, Tokenizer against a service in f32: {other_tokens} with other "
        f"tokens, {other_images} with other pixels"
    )
    return {
        "photos": len(photos),
        "photos_with_other_tokens": other_tokens,
        "photos_with_other_pixels": other_images,
    }


def _rate(tokenizer: Tokenizer, pixels: NDArray[np.uint8], seconds: float) -> float:
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        images += len(tokenizer.encode(pixels))
    return images / (time.perf_counter() - started)


def _photos(data: Path, count: int) -> Iterator[bytes]:
    """The first `count` JPEGs of the tars."""
    for path in sorted(data.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if count and member.name.endswith(".jpg"):
                    file = archive.extractfile(member)
                    assert file is not None
                    yield file.read()
                    count -= 1
    if count:
        raise SystemExit(f"{data}: the tars hold {count} photos too few")


if __name__ == "__main__":
    main()
