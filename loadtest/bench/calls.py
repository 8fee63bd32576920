"""`make bench-calls`: calls that do much at once or need no codec, beside what they save.

Batch: a thousand JPEGs by one curl of encode:batch, beside the same images by the Python client's
EncodeStream.
Prefixes: one decode at ten k over gRPC, beside the same ten rows in the bare engine, as many
sessions as the service has, and JPEG.
Pixels: core time of the gateway for an image of 128 x 128 pixels that is sent as such, beside the
same image as a JPEG, and beside a JPEG of 256 x 256; 16 callers in a process of their own.

All run in turns; each ratio is the median of the rounds' ratios, each difference of theirs.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from channeltok import Client, Tokens
from channeltok.padding import pad_prefixes
from channeltok.v1 import tokenizer_pb2 as pb

import imaging
from export.triton import python_backend
from loadtest.harness.bare_graph import CORES, REPOSITORY
from loadtest.harness.images import crops
from loadtest.harness.process_stats import Noise, cpu
from loadtest.harness.report import write_report
from loadtest.harness.service_process import Service, running
from loadtest.load.open_loop import ENCODE, Generators, Grpc
from service.engine.repository import engine_of, parse_config
from service.settings import Settings

REPORT = Path("build/bench-calls.json")
IMAGES = 1000
KS = (2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
CALLS = 20  # of each kind in a round of prefixes
SIZE = 128  # side of the demo's square, pixels
CALLERS = 16
SECONDS = 4.0  # of each kind of image in a round of pixels


def main() -> None:
    """Measure, print, and write build/bench-calls.json."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench.calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (%(default)s)")
    options = parser.parse_args()
    noise = Noise()
    with (
        running() as service,
        Client(service.grpc, timeout=120) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        figures = batch(service, client, Path(folder), options.rounds)
        figures |= prefixes(client, options.rounds)
        figures |= pixels(service, options.rounds)
        print(f"other programs used {noise.since():.2f} cores meanwhile")
    write_report(REPORT, figures)


def batch(service: Service, client: Client, folder: Path, rounds: int) -> dict[str, float]:
    """Images/s of encode:batch and of EncodeStream. folder: an empty one, for the images."""
    some = crops()
    images = [some[number % len(some)] for number in range(IMAGES)]
    config = folder / "curl"
    files = [folder / f"{number}.jpg" for number in range(IMAGES)]
    for file, image in zip(files, images, strict=True):
        file.write_bytes(image)
    config.write_text("\n".join(f'form = "image=@{file}"' for file in files))
    command = ["curl", "--silent", "--show-error", "--config", str(config)]

    def by_curl() -> None:
        output = subprocess.run(
            [*command, f"{service.rest}/v1/encode:batch"], capture_output=True, check=True
        ).stdout
        lines = [json.loads(line) for line in output.splitlines()]
        if [line["index"] for line in lines if "tokens" in line] != list(range(IMAGES)):
            raise RuntimeError(f"an image failed: {output[:300]!r}")

    def by_stream() -> None:
        if not all(isinstance(tokens, Tokens) for tokens in client.encode_stream(images)):
            raise RuntimeError("an image failed")

    by_curl()
    by_stream()
    curl, stream = in_turns(rounds, by_curl, by_stream)
    ratio = statistics.median(theirs / ours for ours, theirs in zip(curl, stream, strict=True))
    rates = [IMAGES / statistics.median(seconds) for seconds in (curl, stream)]
    print(
        f"{IMAGES} JPEGs, {CORES} cores, median of {rounds} rounds\n"
        f"  encode:batch by curl  {rates[0]:8.1f} images/s\n"
        f"  EncodeStream          {rates[1]:8.1f} images/s   batch / stream {ratio:.3f}"
    )
    return {
        "encode_batch_over_stream": ratio,
        "encode_batch_per_second": rates[0],
        "encode_stream_per_second": rates[1],
    }


def prefixes(client: Client, rounds: int) -> dict[str, float]:
    """Seconds of one decode at ten k, of ten decodes, and of the bare engine and JPEG."""
    tokens = client.encode(crops()[0])
    info = client.tokenizers()[0]
    (graph,) = REPOSITORY.glob(f"{info.name}_decode_k*/1/model.onnx")
    engine = engine_of(parse_config(graph.parents[1]), Settings())
    loaded = [python_backend.load(graph, *engine, 1, len(KS)) for _ in range(CORES)]
    name = loaded[0][0][0]
    rows = np.array_split(pad_prefixes(tokens.ids, KS, info.max_tokens), CORES)

    with ThreadPoolExecutor(CORES) as pool:

        def run(session: int) -> None:
            for pixels in loaded[session][2]({name: rows[session]})[0]:
                imaging.encode_image(pixels, "JPEG")

        def bare() -> None:
            for _ in range(CALLS):
                list(pool.map(run, range(CORES)))

        def one_call() -> None:
            for _ in range(CALLS):
                list(client.decode_progressive(tokens, KS, "jpeg"))

        def ten_calls() -> None:
            for _ in range(CALLS):
                for k in KS:
                    client.decode(tokens.prefix(k), "jpeg")

        works = (one_call, bare, ten_calls)
        for work in works:
            work()
        one, engines, ten = in_turns(rounds, *works)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(one, engines, strict=True))
    taken = [1000 * statistics.median(seconds) / CALLS for seconds in (one, engines, ten)]
    print(
        f"decode at {len(KS)} k, {' '.join(engine)}, {CORES} cores, median of {rounds} rounds\n"
        f"  one call              {taken[0]:8.1f} ms\n"
        f"  bare engine and JPEG  {taken[1]:8.1f} ms   call / bare {ratio:.3f}\n"
        f"  {len(KS)} calls              {taken[2]:8.1f} ms"
    )
    return {
        "prefixes_over_bare": ratio,
        "prefixes_ms": taken[0],
        "prefixes_bare_ms": taken[1],
        "prefixes_as_calls_ms": taken[2],
    }


def pixels(service: Service, rounds: int) -> dict[str, float]:
    """Core milliseconds of the gateway for an image: its pixels, its JPEG, and a larger JPEG."""
    small, large = crops(side=SIZE), crops()
    ready = [imaging.prepare(jpeg, SIZE).tobytes() for jpeg in small]
    requests = {
        "pixels": [
            pb.EncodeRequest(pixels=pb.Pixels(width=SIZE, height=SIZE, rgb=rgb)) for rgb in ready
        ],
        "jpeg": [pb.EncodeRequest(image=jpeg) for jpeg in small],
        "large_jpeg": [pb.EncodeRequest(image=jpeg) for jpeg in large],
    }
    cost: dict[str, list[float]] = {kind: [] for kind in requests}
    rates: dict[str, list[float]] = {kind: [] for kind in requests}
    with Generators(1) as generators:

        def measure(kind: str) -> None:
            bodies = tuple(request.SerializeToString() for request in requests[kind])
            before = cpu(service.process.pid)["gateway"]
            load = Grpc(service.grpc, ENCODE, bodies)
            report = generators.closed_loop(load, CALLERS, SECONDS).result()
            used = cpu(service.process.pid)["gateway"] - before
            counts = report.counts()
            answered = counts.pop("OK", 0)
            if counts:
                raise RuntimeError(f"images failed: {counts}")
            cost[kind].append(1000 * used / answered)
            rates[kind].append(answered / SECONDS)

        works = [partial(measure, kind) for kind in requests]
        for work in works:
            work()
        for values in (*cost.values(), *rates.values()):
            values.clear()
        in_turns(rounds, *works)
    figures: dict[str, float] = {}
    print(f"{CALLERS} callers, {CORES} cores, median of {rounds} rounds, core time of the gateway")
    for kind, name in (
        ("pixels", f"pixels {SIZE} x {SIZE}"),
        ("jpeg", f"JPEG {SIZE} x {SIZE}"),
        ("large_jpeg", "JPEG 256 x 256"),
    ):
        saved = statistics.median(np.subtract(cost[kind], cost["pixels"]))
        each, rate = statistics.median(cost[kind]), statistics.median(rates[kind])
        print(f"  {name:<20}  {each:6.2f} ms   {rate:7.1f} images/s   pixels save {saved:5.2f} ms")
        figures |= {
            f"gateway_ms_{kind}": each,
            f"gateway_ms_saved_to_{kind}": float(saved),
            f"images_per_second_{kind}": rate,
        }
    return figures


def in_turns(rounds: int, *works: Callable[[], None]) -> list[list[float]]:
    """Seconds of each work in each round; each round begins with another one."""
    seconds: list[list[float]] = [[] for _ in works]
    order: Sequence[int] = range(len(works))
    for _ in range(rounds):
        for number in order:
            started = time.perf_counter()
            works[number]()
            seconds[number].append(time.perf_counter() - started)
        order = [*order[1:], order[0]]
    return seconds


if __name__ == "__main__":
    main()
